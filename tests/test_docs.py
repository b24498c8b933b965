"""README.md and docs/: links lead somewhere, commands run, and the options on the site are the parsers'."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import typing
from unittest import mock

import cv2
import numpy as np
import pytest

from docs.scripts import mkdocs_hooks
from edge_runtime import errors
from edge_runtime.photos.spec import INCEPTION_V3, to_manifest
from tests import helpers
from tests.helpers import ROOT

# The drawn photos' classes, each with a colour of its own, which is what the tiny bundle's network knows them by.
COLOURS = [(220, 30, 20), (30, 200, 40), (20, 30, 220), (210, 200, 30), (200, 30, 200), (30, 200, 210)]
COLOURS += [(240, 240, 240), (20, 20, 20)]  # RGB
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# The comment in the line before a block: not run: REASON · not run (VERB): REASON · slow · exits with CODE
MARK = re.compile(r"<!-- (?:(not run)(?: \((\w+)\))?: [^\n]+|(slow)|exits with (\d+)) -->\s*$")


class Command(typing.NamedTuple):
    """A command of a page, and what a comment before its block says about it."""

    line: str
    runs: bool
    slow: bool
    exit_code: int


def pages():
    """Returns the names, relative to the root, of README.md, of docs/ and of what the site takes from the root."""
    names = [name for name in ("README.md", *mkdocs_hooks.ROOT_PAGES) if os.path.exists(os.path.join(ROOT, name))]
    for folder, _, files in os.walk(os.path.join(ROOT, "docs")):
        names += [os.path.relpath(os.path.join(folder, name), ROOT) for name in files if name.endswith(".md")]
    return sorted(names)


def read(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        return file.read()


def blocks(name, language):
    """Yields (match of MARK or None, text) of the fenced blocks of a page in one language."""
    text = read(name)
    for block in FENCE.finditer(text):
        if block.group(2) == language:
            indent = len(block.group(1))
            yield (
                MARK.search(text[: block.start()]),
                "\n".join(line[indent:] for line in block.group(3).splitlines()),
            )


def commands(name):
    """Returns the Commands of a page's console blocks, in order: the lines that begin with $."""
    found = []
    for mark, text in blocks(name, "console"):
        for line in re.findall(r"^\$ ((?:.*\\\n)*.*)$", text, re.MULTILINE):
            never, verb, slow, code = mark.groups() if mark else (None, None, None, None)
            runs = not never or (verb is not None and not re.search(r"\b%s\b" % verb, line))
            found.append(Command(line, runs, bool(slow), int(code or 0)))
    return found


# --- links


def anchors(name):
    """Returns the anchors of a page's headings, as MkDocs and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", read(name)), re.MULTILINE)
    return {
        re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower())
        for heading in headings
    }


@pytest.mark.parametrize("name", pages())
def test_links_lead_somewhere(name):
    text = FENCE.sub("", read(name))
    targets = re.findall(r"\]\(\s*<?([^)>\s]+)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        path = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
        assert os.path.exists(os.path.join(ROOT, path)), target
        assert not anchor or anchor in anchors(path), target
        # What lies outside docs/ is on the site only if it is one of these.
        assert not name.startswith("docs/") or path.startswith("docs/") or path in mkdocs_hooks.ROOT_PAGES, target


@pytest.mark.parametrize("name", pages())
def test_files_of_the_repository_that_are_named_are_there(name):
    named = re.findall(r"`((?:edge_runtime|train|convert|benchmarks|tests|requirements|docs)/[\w./-]*)`", read(name))
    named = [path for path in named if "NAME" not in path]  # stands for a name of the reader's
    assert [path for path in named if not os.path.exists(os.path.join(ROOT, path))] == []


def test_every_page_is_in_the_navigation():
    navigation = read("mkdocs.yml").partition("\nnav:")[2]
    names = {name[len("docs/") :] for name in pages() if name.startswith("docs/")}
    assert set(re.findall(r"[\w/-]+\.md", navigation)) - set(mkdocs_hooks.ROOT_PAGES) == names


def test_the_readme_is_one_page():
    assert len(read("README.md").splitlines()) <= 120


# --- options


@pytest.mark.parametrize("command", mkdocs_hooks.commands())
def test_a_command_s_page_gets_all_its_options(command):
    name = "docs/verbs/%s.md" % re.sub(r"^\S+ (-m [\w.]+\.)?", "", command).replace("_", "-").replace(" ", "-")
    text = read(name)
    assert [match.group(1) for match in mkdocs_hooks.MARKER.finditer(text)] == [command]
    options = mkdocs_hooks.options_of(command)
    for action in mkdocs_hooks.parser_of(command)._actions:
        for option in action.option_strings or [action.metavar or action.dest]:
            assert option in options
    assert mkdocs_hooks.parser_of(command).prog == command


def test_help_texts_are_text_on_the_site():
    assert mkdocs_hooks._escaped("a *.mp4 of <b> [c] `d*_`") == r"a \*.mp4 of \<b> \[c] `d*_`"


def test_every_error_is_explained_with_its_exit_code():
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", read("docs/python-api.md"), re.MULTILINE)
    kinds = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    expected = {(name, str(kind.exit_code)) for name, kind in kinds.items() if issubclass(kind, errors.PicnicError)}
    assert set(rows) == expected
    codes = set(re.findall(r"^\| (\d+) \|", read("docs/troubleshooting.md"), re.MULTILINE))
    assert codes == {code for _, code in expected} | {"0", "130", "141"}


# --- commands


def words_of(line):
    """Yields the words of each command of a line of shell that runs picnic-edge or a module of ours."""
    lexer = shlex.shlex(line.replace("\\\n", " "), posix=True, punctuation_chars="|&;")
    lexer.commenters, words = "#", []
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;"):
            while words and re.match(r"\w+=", words[0]):
                del words[0]
            if words[:1] == ["picnic-edge"] or words[:2] == ["python", "-m"]:
                yield words
            words = []
        else:
            words.append(word)


@pytest.mark.parametrize("name", pages())
def test_documented_commands_are_right_ones(name):
    for command in commands(name):
        for words in words_of(command.line):
            known = [one for one in mkdocs_hooks.commands() if words[: len(one.split())] == one.split()]
            if known:
                best = max(known, key=len)
                mkdocs_hooks.parser_of(best).parse_args(words[len(best.split()) :])  # exits where it is no right one
            else:
                assert words[:2] == ["python", "-m"] and importlib.util.find_spec(words[2]), command.line


@pytest.mark.parametrize("name", pages())
def test_commands_stand_in_console_blocks(name):
    for block in FENCE.finditer(read(name)):
        if block.group(2) not in ("console", "text"):
            assert "picnic-edge " not in block.group(3)
    assert not re.search(r"^ {4,}\$? ?(picnic-edge|python -m) ", FENCE.sub("", read(name)), re.MULTILINE)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with what the pages' commands name: drawn photos, tables, a bundle, a video."""
    from train.data.samples import draw_samples

    folder = tmp_path_factory.mktemp("docs")
    draw_samples(str(folder), images_per_class=4)
    (folder / "test.tsv").rename(folder / "val.tsv")
    for split in ("train", "val"):
        for name in [line.split("\t")[0] for line in (folder / (split + ".tsv")).read_text().splitlines()[1:]]:
            (folder / split / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(folder / "photos" / name), str(folder / split / name))
    photos = sorted((folder / "photos").rglob("*.jpg"))
    (folder / "new-photos").mkdir()
    for number, photo in enumerate(photos[::8]):
        shutil.copy(str(photo), str(folder / "new-photos" / ("%d.jpg" % number)))
    shutil.copy(str(photos[0]), str(folder / "a.jpg"))
    (folder / "new-photos" / "cut.jpg").write_bytes(photos[0].read_bytes()[:2000])
    (folder / "new-photos" / "empty.png").write_bytes(b"")
    (folder / "new-photos" / "notes.txt").write_text("milk, pears\n")
    writer = cv2.VideoWriter(str(folder / "belt.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (320, 240))
    for photo in photos[:5]:
        writer.write(cv2.resize(cv2.imread(str(photo)), (320, 240)))
    writer.release()
    labels = sorted(path.name for path in (folder / "photos").iterdir())
    with mock.patch.object(helpers, "COLOURS", dict(zip(labels, COLOURS))):
        write_bundle(str(folder / "bundle"))
    shutil.copytree(str(folder / "bundle"), str(folder / "head-only"))
    (folder / "bin").mkdir()
    for name, arguments in (("picnic-edge", "-m picnic_edge"), ("python", "")):
        (folder / "bin" / name).write_text('#!/bin/sh\nexec %s %s "$@"\n' % (shlex.quote(sys.executable), arguments))
        (folder / "bin" / name).chmod(0o755)
    return str(folder)


def write_bundle(folder):
    """Writes a bundle that `explain` can look into and `convert` has a sample of: blocks, and photos of each colour."""
    import onnxruntime

    from edge_runtime.bundle import writing as bundle

    helpers.write_blocks_bundle(folder)
    names = sorted(helpers.COLOURS)
    pictures = [helpers.photo(helpers.COLOURS[name], seed, 299, 299) for seed in range(2) for name in names]
    session = onnxruntime.InferenceSession(os.path.join(folder, "model.onnx"), providers=["CPUExecutionProvider"])
    (answers,) = session.run(None, {"images": np.stack(pictures)})
    for number, picture in enumerate(pictures):
        helpers.write_photo(os.path.join(folder, "sample", "%03d.png" % number), picture)
    labels = [{"file": "%s %d" % (name, seed), "label": name} for seed in range(2) for name in names]
    with open(os.path.join(folder, "sample", "sample.json"), "w", encoding="utf-8") as file:
        json.dump(labels, file)
    np.save(os.path.join(folder, "sample", "probabilities.npy"), answers)
    os.unlink(os.path.join(folder, "manifest.json"))
    bundle.write_manifest(folder, names, to_manifest(INCEPTION_V3), {}, {})


_DONE = set()  # lines that ran in the workplace of all pages


def run_commands(those, folder):
    """Runs Commands in the workplace, in order, each line once. Each must exit with the documented code."""
    environment = dict(os.environ, PYTHONPATH=ROOT)
    environment["PATH"] = os.path.join(folder, "bin") + os.pathsep + environment["PATH"]
    for command in those:
        if command.line in _DONE:
            continue
        _DONE.add(command.line)
        done = subprocess.run(
            ["bash", "-c", command.line],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=3600,
            check=False,
        )
        output = done.stdout.decode("utf-8", "replace")
        if done.returncode == 4 and command.exit_code != 4 and sys.version_info < (3, 9):
            continue  # a library for which there is no wheel of this Python
        assert done.returncode == command.exit_code, "%s\n%s" % (command.line, output)
        assert "Traceback" not in output


PAGES_THAT_RUN = [name for name in pages() if any(one.runs and not one.slow for one in commands(name))]
PAGES_THAT_RUN_LONG = [name for name in pages() if any(one.runs and one.slow for one in commands(name))]


@pytest.mark.parametrize("name", PAGES_THAT_RUN)
def test_commands_run(name, workplace):
    run_commands([one for one in commands(name) if one.runs and not one.slow], workplace)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES_THAT_RUN_LONG)
def test_slow_commands_run(name, workplace):
    run_commands([one for one in commands(name) if one.runs], workplace)


@pytest.mark.parametrize("name", [name for name in pages() if any(not mark for mark, _ in blocks(name, "python"))])
def test_python_runs(name, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    for mark, text in blocks(name, "python"):
        if not mark:
            exec(compile(text, name, "exec"), {"frame_rgb_uint8": helpers.gradient()})  # noqa: S102
    assert capsys.readouterr().out.strip()


def test_what_the_docs_promise_is_run():
    """The blocks are found: should their form change, the tests above would pass without running anything."""
    assert len(PAGES_THAT_RUN) >= 10
    verbs = {words[1] for name in PAGES_THAT_RUN for one in commands(name) if one.runs for words in words_of(one.line)}
    assert verbs >= {"explore", "evaluate", "explain", "predict", "convert", "classify"}
