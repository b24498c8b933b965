"""The command picnic-edge: its verbs, their help, and what each kind of failure ends with."""

import importlib
import json
import os
import pty
import shlex
import stat
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

import picnic_edge
from edge_runtime import console, errors
from edge_runtime.cli.run import run_verb
from tests import helpers

PACKAGES = {"train": "train", "convert": "convert", "edge_runtime": "classify", "benchmarks": "bench"}
BUNDLE_0_1 = os.path.join(helpers.ROOT, "tests", "data", "bundle-0.1.0")


def help_of(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        picnic_edge.main([verb, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", list(picnic_edge.VERBS))
def test_help_shows_an_example_that_can_be_pasted(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(verb, capsys)
    assert "usage: picnic-edge %s " % verb in text
    (example,) = [line for line in text.splitlines() if line.startswith("example: ")]
    assert text.rstrip().endswith(example), "the example was wrapped: it cannot be pasted"
    words = shlex.split(example[len("example: ") :])
    assert words[:2] == ["picnic-edge", verb]
    name = picnic_edge.VERBS[verb][0]
    module = importlib.import_module(name) if name else None
    if hasattr(module, "parser"):
        module.parser().parse_args(words[2:])  # exits where the example is not a right one


def test_help_lists_every_verb_with_its_purpose(capsys):
    with pytest.raises(SystemExit) as stopped:
        picnic_edge.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for verb, (_, purpose) in picnic_edge.VERBS.items():
        assert any(line.split()[:1] == [verb] and purpose in line for line in text.splitlines()), verb
    assert "example: picnic-edge " in text


def test_version_is_the_package_s(capsys):
    with pytest.raises(SystemExit) as stopped:
        picnic_edge.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.strip() == "picnic-edge " + picnic_edge.__version__


def test_a_bundle_of_version_0_1_opens(tmp_path):
    """tests/data/bundle-0.1.0 was written by that version; no bundle that users have may become unreadable."""
    helpers.write_photo(tmp_path / "photos" / "a.png", helpers.photo(helpers.COLOURS["red"]))
    done = helpers.picnic_edge("classify", BUNDLE_0_1, tmp_path / "photos")
    assert done.returncode == 0, done.stderr
    assert [row["label"] for row in helpers.read_rows_of(done.stdout)] == ["red"]


@pytest.mark.parametrize("arguments", [["frobnicate"], []])
def test_unknown_or_missing_verb(arguments):
    done = helpers.picnic_edge(*arguments)
    assert done.returncode == 2
    assert done.stdout == b""
    assert "Traceback" not in done.stderr and "..." not in done.stderr.splitlines()[-1]
    if arguments:
        assert all("'%s'" % verb in done.stderr or verb in done.stderr.split() for verb in picnic_edge.VERBS)


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_packages_run_as_modules(package):
    done = subprocess.run(
        [sys.executable, "-m", package, "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=helpers.ROOT),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"usage: picnic-edge %s " % PACKAGES[package].encode() in done.stdout
    assert b"example: " in done.stdout


@pytest.mark.parametrize("package", list(PACKAGES))
def test_a_package_without_opencv_says_how_to_install_it(tmp_path, package):
    (tmp_path / "cv2.py").write_text("raise ModuleNotFoundError(\"No module named 'cv2'\", name='cv2')")
    done = subprocess.run(
        [sys.executable, "-m", package, "bundle"],
        stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH="%s:%s" % (tmp_path, helpers.ROOT)),
        check=False,
    )
    assert done.returncode == errors.MissingRequirement.exit_code and b"Traceback" not in done.stderr
    assert b"cv2 is needed here" in done.stderr


def test_sigterm_ends_a_verb_as_ctrl_c_does(tmp_path):
    verb = (
        "def verb(_):\n    try:\n        print('ready', flush=True)\n        time.sleep(60)\n"
        "    finally:\n        print('cleaned up')\n"
    )
    program = "import time\nfrom edge_runtime.cli.run import run_verb\n" + verb + "raise SystemExit(run_verb(verb, []))"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=helpers.ROOT),
    )
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    output, messages = process.communicate()
    assert (process.returncode, output, messages) == (130, b"cleaned up\n", b"picnic-edge: interrupted\n")


@pytest.mark.parametrize("verb, arguments", [("classify", ["bundle", "photos"]), ("bench", ["bundle"])])
def test_a_verb_without_opencv_says_how_to_install_it(tmp_path, verb, arguments):
    (tmp_path / "cv2.py").write_text("raise ModuleNotFoundError(\"No module named 'cv2'\", name='cv2')")
    done = helpers.picnic_edge(verb, *arguments, env={"PYTHONPATH": "%s:%s" % (tmp_path, helpers.ROOT)})
    assert done.returncode == errors.MissingRequirement.exit_code and "Traceback" not in done.stderr
    assert "cv2 is needed here" in done.stderr and "python3-opencv" in done.stderr


def test_an_address_in_the_place_of_the_verb_is_shown_without_its_password(capsys, monkeypatch):
    address = "rtsp://eva:Sec ret'1@cam/live"
    monkeypatch.setattr(sys, "argv", ["picnic-edge", address])
    with pytest.raises(SystemExit) as stopped:
        picnic_edge.main([address])
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert "rtsp://eva:***@cam/live" in err and "Sec" not in err and "ret" not in err


def test_wrong_options_exit_with_2_and_without_traceback():
    done = helpers.picnic_edge("classify", "--no-such-option")
    assert done.returncode == 2
    assert "usage: picnic-edge classify" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bug_exits_with_1_and_shows_its_traceback(monkeypatch, capsys):
    def broken(arguments):
        raise IndexError("planted for the test: %s" % arguments)

    monkeypatch.setattr("convert.cli.main", broken)
    assert picnic_edge.main(["convert", "bundle", "--to", "onnxruntime"]) == 1
    captured = capsys.readouterr()
    assert "Traceback (most recent call last)" in captured.err
    assert "IndexError: planted for the test: ['bundle', '--to', 'onnxruntime']" in captured.err
    assert "bug" in captured.err.splitlines()[-1]
    assert captured.out == ""


@pytest.mark.parametrize(
    "error, code",
    [
        (errors.UsageError, 2),
        (errors.SomeInputsFailed, 3),
        (errors.MissingRequirement, 4),
        (errors.BundleError, 5),
        (errors.ParityError, 6),
        (KeyboardInterrupt, 130),
        (RuntimeError, 1),
        (errors.ImageError, 1),  # must have become a row's error before it gets here
    ],
)
def test_run_verb_gives_each_error_its_exit_code(error, code, capsys):
    def verb(arguments):
        raise error("what happened to %s" % arguments[0])

    assert run_verb(verb, ["photo.jpg"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith("picnic-edge: ")
    assert ("Traceback" in captured.err) == (code == 1)
    if code != 130:
        assert "what happened to photo.jpg" in captured.err


def test_run_verb_returns_0_and_hands_the_arguments_on(capsys):
    seen = []
    assert run_verb(seen.append, ["a", "b"]) == 0
    assert seen == [["a", "b"]]
    assert capsys.readouterr().err == ""


def test_a_reader_that_goes_away_ends_the_command_quietly():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "picnic_edge", "doctor"],
            stdout=writing,
            stderr=subprocess.PIPE,
            env=dict(os.environ, PYTHONPATH=helpers.WITHOUT_TENSORFLOW),
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_demo_refuses_unknown_options_before_it_draws_anything(tmp_path):
    done = helpers.picnic_edge("demo", "--nonsense", cwd=str(tmp_path))
    assert done.returncode == 2
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize("keeps_weights, has_openvino", [(False, True), (True, False)])
def test_demo_runs_each_step_and_measures_what_it_converted(tmp_path, monkeypatch, capsys, keeps_weights, has_openvino):
    ran = []

    def call(command):
        ran.append(command[3:])
        return 0 if has_openvino or "openvino" not in command else errors.MissingRequirement.exit_code

    def urlopen(*_, **__):
        raise urllib.error.URLError("no internet")

    monkeypatch.setattr("train.data.samples.draw_samples", lambda *_: None)
    monkeypatch.setattr(subprocess, "call", call)
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    if keeps_weights:
        helpers.write_bytes(
            tmp_path / "models" / "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5", b"weights"
        )
    assert picnic_edge.main(["demo", "--out", str(tmp_path / "demo")]) == 0
    assert ran.pop(2) == ["convert", ran[1][1], "--to", "openvino"]
    if not has_openvino:
        assert ran.pop(2) == ["convert", ran[1][1], "--to", "onnxruntime"]
    assert [words[0] for words in ran] == ["train", "evaluate", "classify", "bench"]
    assert ran[0][ran[0].index("--weights") + 1] == ("imagenet" if keeps_weights else "none")
    converted = "openvino-fp32" if has_openvino else "onnxruntime-fp32"
    assert ran[-1][2:5] == ["--engine", "onnxruntime", converted]
    assert "the speed of %s and of the original" % converted in capsys.readouterr().err


# --- standard streams that are closed or full


def shell(line, *arguments, **settings):
    """Runs a line of shell in which $PICNIC is the command. Returns (exit code, stdout, stderr as text)."""
    program = "%s -m picnic_edge" % shlex.quote(sys.executable)
    done = subprocess.run(
        ["sh", "-c", line.replace("$PICNIC", program), "sh"] + [os.fspath(argument) for argument in arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=helpers.WITHOUT_TENSORFLOW, **settings.pop("env", {})),
        timeout=120,
        check=False,
        **settings,
    )
    return done.returncode, done.stdout, done.stderr.decode("utf-8", "backslashreplace")


FULL = "picnic-edge: standard output: cannot be written (No space left on device)\n"
CLOSED = "picnic-edge: standard output: cannot be written (Bad file descriptor)\n"


@pytest.mark.parametrize(
    "arguments", ["--help", "--version", "doctor --json", "doctor", "classify --help", "demo --help"]
)
def test_a_full_disk_behind_standard_output_ends_with_2_and_is_said(arguments):
    assert shell("$PICNIC %s > /dev/full" % arguments) == (2, b"", FULL)


@pytest.mark.parametrize("arguments", ["--help", "classify --help", "doctor --json"])
def test_a_closed_standard_output_ends_with_2_and_is_said(arguments):
    assert shell("$PICNIC %s >&-" % arguments) == (2, b"", CLOSED)


@pytest.mark.parametrize("arguments", ["--help", "classify --help"])
def test_without_python_s_buffers_it_is_noticed_too(arguments):
    assert shell("$PICNIC %s > /dev/full" % arguments, env={"PYTHONUNBUFFERED": "1"}) == (2, b"", FULL)


@pytest.mark.parametrize("place", ["2> /dev/full", "2>&-", "<&- 2>&-"])
def test_messages_that_nobody_can_read_cost_nothing_and_do_not_land_elsewhere(place):
    code, out, stderr = shell("$PICNIC doctor --json " + place)
    assert (code, stderr) == (0, "") and "checks" in json.loads(out.decode())
    for wrong in ("frobnicate", "classify --no-such-option", "classify nowhere nowhere"):
        assert shell("$PICNIC %s %s" % (wrong, place)) == (2, b"", "")


def test_with_all_three_closed_the_exit_code_is_left():
    assert shell("$PICNIC doctor <&- >&- 2>&-") == (2, b"", "")
    assert shell("$PICNIC --help | true; $PICNIC doctor > /dev/full 2>&1")[0] == 2


@pytest.mark.parametrize("arguments", ["--help", "classify --help"])
def test_a_reader_of_help_that_goes_away_ends_it_quietly_with_141(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "picnic_edge"] + arguments.split(),
        stdout=writing,
        stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=helpers.ROOT),
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("place, code", [("2>&-", 0), ("2> /dev/full", 0), (">&-", 0), ("<&- >&- 2>&-", 0)])
def test_a_table_holds_its_rows_alone_whatever_is_closed(tiny_bundle, tmp_path, place, code):
    helpers.write_photos(tmp_path / "photos", per_class=1)
    (tmp_path / "photos" / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    done = shell('$PICNIC classify "$1" photos --out out.tsv ' + place, tiny_bundle, cwd=str(tmp_path))
    assert done[0] == code and done[1] == b""
    rows = helpers.read_rows_of((tmp_path / "out.tsv").read_bytes())
    assert [row["label"] for row in rows] == ["blue things", "", "green, fresh & ripe", "red"]
    assert sorted(os.listdir(str(tmp_path))) == ["bundle", "out.tsv", "photos"]


@pytest.mark.parametrize("place, message", [("> /dev/full", FULL), (">&-", CLOSED)])
def test_a_table_or_document_that_cannot_be_written_ends_with_2(tiny_bundle, tmp_path, place, message):
    helpers.write_photos(tmp_path / "photos", per_class=1)
    for more in ("", "--json", "--json --out out.tsv"):
        code, out, stderr = shell('$PICNIC classify "$1" photos %s %s' % (more, place), tiny_bundle, cwd=str(tmp_path))
        assert (code, out) == (2, b"") and stderr.endswith(message) and "Traceback" not in stderr
    assert sorted(os.listdir(str(tmp_path))) == ["bundle", "out.tsv", "photos"]


# --- what a terminal must not be told


def on_a_terminal(*arguments, **settings):
    """Runs the command with standard output and error on a terminal. Returns what that is sent."""
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "picnic_edge"] + [os.fspath(argument) for argument in arguments],
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
        env=dict(os.environ, PYTHONPATH=helpers.ROOT),
        **settings,
    )
    os.close(terminal)
    sent = b""
    try:
        while True:
            data = os.read(main, 1 << 16)
            if not data:
                break
            sent += data
    except OSError:  # how Linux ends a terminal
        pass
    os.close(main)
    process.wait(60)
    return sent


EVIL = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m\nx"


def test_a_terminal_is_sent_nothing_of_a_name_that_it_would_obey(tiny_bundle, tmp_path):
    helpers.write_photo(str(tmp_path / "photos" / ("red%s.jpg" % EVIL)), helpers.photo(helpers.COLOURS["red"]))
    (tmp_path / "photos" / ("cut%s.jpg" % EVIL)).write_bytes(b"\xff\xd8\xff")
    helpers.write_table(str(tmp_path / "t.tsv"), [("a.jpg", "b")], header=("no\x1b[2J", "label"))
    ran = [
        on_a_terminal("classify", tiny_bundle, tmp_path / "photos"),
        on_a_terminal("classify", tiny_bundle, tmp_path / "photos", "--json"),
        on_a_terminal("predict", tiny_bundle, tmp_path / "photos", "--out", tmp_path / "out.tsv"),
        on_a_terminal("classify", tiny_bundle, tmp_path / "t.tsv"),
        on_a_terminal("classify", tiny_bundle, tmp_path / ("none%s" % EVIL)),
        on_a_terminal("classify", tiny_bundle, "x", "--no-such%s" % EVIL),
    ]
    for sent in ran:
        assert sent and set(sent) & set(b"\x1b\x07") == set(), sent
        assert "\x9b".encode() not in sent and "\u202e".encode() not in sent
    assert b"red\\x1b]0;owned\\x07\\x1b[2J\\u202e\\x9b31m\\nx.jpg\tred\t" in ran[0]
    assert b"cut\\x1b]0;owned" in ran[2] and b"none\\x1b]0;owned" in ran[4]


def test_a_pipe_gets_the_name_s_own_bytes_and_messages_are_escaped(tiny_bundle, tmp_path):
    name = "red\x1b[2J.jpg"
    helpers.write_photo(str(tmp_path / "photos" / name), helpers.photo(helpers.COLOURS["red"]))
    done = helpers.picnic_edge("classify", tiny_bundle, tmp_path / "photos")
    assert [row["file"] for row in helpers.read_rows_of(done.stdout)] == [name]
    done = helpers.picnic_edge("classify", tiny_bundle, tmp_path / name)
    assert done.returncode == 2 and "\x1b" not in done.stderr and "red\\x1b[2J.jpg" in done.stderr


def test_a_bug_s_traceback_is_escaped_too():
    program = "from edge_runtime.cli.run import run_verb\nrun_verb(lambda _: open(chr(27) + '[2J'), [])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=helpers.ROOT),
        check=False,
    )
    assert b"FileNotFoundError" in done.stderr and b"\x1b" not in done.stderr


def test_a_command_that_is_shown_can_be_pasted_whatever_its_words_hold():
    words = ["picnic-edge", "two words", "quote's", "\x1b[2J'\\\n", os.fsdecode(b"latin\xfc")]
    line = console.shell_line(words)
    assert line.isprintable()
    out = subprocess.check_output(["bash", "-c", "printf '%s\\0' " + line])
    assert out.split(b"\0")[:-1] == [os.fsencode(word) for word in words]


# --- a home


@pytest.mark.parametrize("home", [None, "", "~"])
def test_no_folder_named_tilde_is_made(tmp_path, home):
    environment = dict(os.environ, PYTHONPATH=helpers.ROOT, TMPDIR=str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    environment.pop("HOME", None)
    environment["XDG_CACHE_HOME"] = "~/.cache"
    if home is not None:
        environment["HOME"] = home
    program = (
        "import os\nfrom edge_runtime.cli.run import run_verb\nrun_verb(lambda _: print(os.path.expanduser('~')), [])"
        "\nassert 'XDG_CACHE_HOME' not in os.environ"
    )
    nobody = "import pwd\ndef unknown(_): raise KeyError\npwd.getpwuid = unknown\n"
    for code, folder in ((program, ""), (nobody + program, str(tmp_path / "tmp" / ("picnic-edge-%d" % os.getuid())))):
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=str(tmp_path),
            check=False,
        )
        found = done.stdout.decode().strip()
        assert done.returncode == 0, done.stderr
        assert os.path.isabs(found) and os.listdir(str(tmp_path)) == ["tmp"]
        assert done.stderr.count(b"HOME is not set") == bool(folder)
        if folder:
            assert found == folder and stat.S_IMODE(os.stat(folder).st_mode) == 0o700


def test_a_home_that_is_set_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_verb(lambda _: None, []) == 0
    assert os.environ["HOME"] == str(tmp_path)
