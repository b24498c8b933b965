"""The command picnic-edge: its verbs, their help, and what each kind of failure ends with."""

import importlib
import os
import shlex
import subprocess
import sys

import pytest

import picnic_edge
from edge_runtime import errors
from edge_runtime.command import run_verb
from tests import helpers

PACKAGES = {"train": "train", "convert": "convert", "edge_runtime": "classify", "benchmarks": "bench"}


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


@pytest.mark.parametrize("arguments", [["frobnicate"], []])
def test_unknown_or_missing_verb(arguments):
    done = helpers.picnic_edge(*arguments)
    assert done.returncode == 2
    assert done.stdout == b""
    assert "Traceback" not in done.stderr
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
    said = capsys.readouterr()
    assert "Traceback (most recent call last)" in said.err
    assert "IndexError: planted for the test: ['bundle', '--to', 'onnxruntime']" in said.err
    assert "bug" in said.err.splitlines()[-1]
    assert said.out == ""


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
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1].startswith("picnic-edge: ")
    assert ("Traceback" in said.err) == (code == 1)
    if code != 130:
        assert "what happened to photo.jpg" in said.err


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
            env=dict(os.environ, PYTHONPATH=helpers.ROOT),
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_demo_refuses_unknown_options_before_it_draws_anything(tmp_path):
    done = helpers.picnic_edge("demo", "--nonsense", cwd=str(tmp_path))
    assert done.returncode == 2
    assert os.listdir(str(tmp_path)) == []
