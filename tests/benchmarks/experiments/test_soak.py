"""The soak of the camera path: its lines and its verdict."""

import json

import cv2
import numpy as np
import pytest

from benchmarks.experiments import soak
from edge_runtime.errors import SomeInputsFailed

FLAT = {"rss_bytes": 100 << 20, "threads": 12, "open_files": 9, "taken": 10, "rows": 10}


def lines_of(**changes):
    """Returns 8 lines; changes: name -> the value in the last line."""
    return [dict(FLAT) for _ in range(7)] + [dict(FLAT, **changes)]


def test_what_stays_flat_passes():
    assert soak.judge(lines_of()) == {
        "flat": True,
        "growth": {"rss_bytes": 0, "threads": 0, "open_files": 0},
        "lost": 0,
        "lines": 8,
    }


@pytest.mark.parametrize(
    "changes", [{"rss_bytes": 120 << 20}, {"threads": 15}, {"open_files": 12}, {"rows": 9}], ids=str
)
def test_what_grows_or_is_lost_fails(changes):
    assert not soak.judge(lines_of(**changes))["flat"]


def test_what_only_the_first_quarter_took_is_no_growth():
    assert soak.judge([dict(FLAT, rss_bytes=50 << 20)] * 2 + lines_of())["flat"]


@pytest.fixture
def clip(tmp_path):
    path = str(tmp_path / "clip.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    for number in range(20):
        writer.write(np.random.RandomState(number).randint(0, 256, (48, 64, 3)).astype(np.uint8))
    writer.release()
    return path


def test_a_short_soak(tiny_bundle, clip, capsys, monkeypatch):
    monkeypatch.setattr(soak, "MAX_GROWTH_BYTES", 1 << 30)
    monkeypatch.setattr(soak, "MAX_GROWTH", 100)
    soak.main([tiny_bundle, clip, "--minutes", "0.03", "--every", "0.4", "--engine", "onnxruntime"])
    *lines, verdict = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert verdict["lost"] == 0 and verdict["lines"] == len(lines) >= 3
    last = lines[-1]
    assert last["rows"] == last["taken"] > 20  # more than the clip has: it was played again
    assert last["captured"] == last["taken"] + last["dropped"] + last["blank"] + last["repeated"]
    assert all(line["rss_bytes"] > 1 << 20 and line["threads"] > 1 and line["open_files"] > 2 for line in lines)


def test_a_soak_that_grows_ends_with_an_error(tiny_bundle, clip, monkeypatch):
    monkeypatch.setattr(soak, "MAX_GROWTH", -100)
    with pytest.raises(SomeInputsFailed, match="grew: "):
        soak.main([tiny_bundle, clip, "--minutes", "0.01", "--engine", "onnxruntime"])
