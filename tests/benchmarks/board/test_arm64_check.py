"""make arm64-check: what it compares, and that it says what a machine lacks. The emulation itself runs by hand only."""

import os

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


def test_pixels_must_be_the_same_bytes_and_probabilities_nearly_the_same():
    pixels, red = np.zeros((2, 2, 3), np.uint8), np.array([0.1, 0.2, 0.7], np.float32)
    here = {"pixels/a.png": pixels, "litert-int8/a.png": red}
    assert arm64_check.compare_arrays(here, {"pixels/a.png": pixels, "litert-int8/a.png": red + 9e-4}) == []
    brighter = np.full_like(pixels, 1)
    (problem,) = arm64_check.compare_arrays(here, {"pixels/a.png": brighter, "litert-int8/a.png": red})
    assert problem == "pixels/a.png: 12 of 12 values differ, by at most 1.0e+00"
    assert len(arm64_check.compare_arrays(here, {"pixels/a.png": pixels, "litert-int8/a.png": red + 2e-3})) == 1
    assert len(arm64_check.compare_arrays(here, {"pixels/a.png": pixels, "litert-int8/a.png": red[::-1]})) == 1
    assert arm64_check.compare_arrays(here, {"pixels/a.png": pixels}) == ["litert-int8/a.png: only here"]


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
    assert sorted(arrays) == ["onnxruntime/red.png", "pixels/red.png"]
    assert arrays["pixels/red.png"].shape == (299, 299, 3) and arrays["onnxruntime/red.png"].argmax() == 2
    assert "notes.jpg: " in capsys.readouterr().err
