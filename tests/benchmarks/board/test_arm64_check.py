"""make arm64-check: what it compares, and that it says what a machine lacks. The emulation itself runs by hand only."""

import os
import re

import numpy as np
import pytest

from benchmarks.board import answers, arm64_check
from tests.helpers import COLOURS, photo, write_bytes, write_photo

ROW = {"file": "a.jpg", "label": "red", "confidence": "0.9000", "error": ""}


@pytest.mark.parametrize(
    "change, same",
    [
        ({}, True),
        ({"confidence": "0.9009"}, True),
        ({"confidence": "0.9011"}, False),
        ({"label": "green"}, False),
        ({"label": "", "confidence": "", "error": "is no photo"}, False),
    ],
)
def test_rows_are_the_same_up_to_a_thousandth(change, same, capsys):
    assert (arm64_check.compare_rows({"a.jpg": ROW}, {"a.jpg": dict(ROW, **change)}) == []) == same
    assert "a.jpg: red here" in capsys.readouterr().err


def test_a_row_that_is_missing_differs():
    assert arm64_check.compare_rows({"a.jpg": ROW}, {}) != []


RED = np.array([0.1, 0.2, 0.7], np.float32)
GREY = np.full((20, 20, 3), 100, np.uint8)
LIGHTER = GREY.copy()
LIGHTER[0, 0, 0] += 1
HERE = {"decoded/a.png": GREY, "pixels/a.png": GREY, "litert-int8/a.png": RED}


@pytest.mark.parametrize(
    "change, problem",
    [
        ({}, None),
        ({"pixels/a.png": LIGHTER}, None),  # one value, by 1: OpenCV's resize on another processor
        ({"decoded/a.png": LIGHTER}, "decoded/a.png: 1 of 1200 values differ, by at most 1"),
        ({"pixels/a.png": GREY + np.uint8(1)}, "pixels/a.png: 1200 of 1200"),
        ({"pixels/a.png": np.where(LIGHTER > 100, 102, GREY)}, "pixels/a.png: 1 of 1200 values differ, by at most 2"),
        ({"decoded/a.png": GREY[1:]}, r"decoded/a.png: \(20, 20, 3\) here, \(19, 20, 3\) there"),
        ({"litert-int8/a.png": RED + 9e-4}, None),
        ({"litert-int8/a.png": RED + 2e-3}, "litert-int8/a.png: 3 of 3 values differ, by at most 2.0e-03"),
        ({"litert-int8/a.png": RED[::-1]}, "litert-int8/a.png"),
        ({"b.png": GREY}, "b.png: only there"),
    ],
)
def test_what_is_decoded_must_be_the_same_and_the_rest_nearly(change, problem):
    problems = arm64_check.compare_arrays(HERE, dict(HERE, **change))
    assert len(problems) == (problem is not None)
    assert problem is None or re.match(problem, problems[0])


def test_a_machine_that_cannot_emulate_says_what_it_lacks(tiny_bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert arm64_check.main([tiny_bundle, "--images", str(tmp_path), "--root", str(tmp_path / "root")]) == 4
    said = capsys.readouterr().err
    assert "arm64-check is skipped" in said and "sudo" in said
    assert not os.path.exists(str(tmp_path / "root"))


def test_the_photos_are_some_as_they_are_and_one_in_other_formats(tmp_path):
    for name in ("a.jpg", "b.png", "c.jpg"):
        write_photo(tmp_path / "in" / "red" / name, photo(COLOURS["red"]))
    write_bytes(tmp_path / "in" / "notes.txt", b"none")
    arm64_check.write_photos(str(tmp_path / "in"), str(tmp_path / "out"), 2)
    others = {"other.png", "other.webp", "lossless.webp", "progressive.jpg"}
    assert set(os.listdir(str(tmp_path / "out"))) == {"a.jpg", "b.png"} | others


def test_what_photos_become_is_written_as_arrays(tiny_bundle, tmp_path, capsys):
    write_photo(tmp_path / "photos" / "red.png", photo(COLOURS["red"]))
    write_bytes(tmp_path / "photos" / "notes.jpg", b"no photo")
    out = str(tmp_path / "here.npz")
    assert answers.main([tiny_bundle, str(tmp_path / "photos"), out, "--engine", "onnxruntime"]) == 0
    arrays = np.load(out)
    assert sorted(arrays) == ["decoded/red.png", "onnxruntime/red.png", "pixels/red.png"]
    assert (arrays["decoded/red.png"] == photo(COLOURS["red"])).all()
    assert arrays["pixels/red.png"].shape == (299, 299, 3) and arrays["onnxruntime/red.png"].argmax() == 2
    assert "notes.jpg: " in capsys.readouterr().err
