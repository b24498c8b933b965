"""The script for a PC with an NVIDIA GPU, on a machine without one: it goes on after a failure, and reports it."""

import json
import os

import pytest

from benchmarks.board import rtx_check
from tests import helpers

pytest.importorskip("onnxruntime")


def test_every_step_is_reported_and_the_bundle_stays_as_it_is(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(rtx_check, "PRECISIONS", ("fp16",))
    monkeypatch.setenv("PYTHONPATH", helpers.WITHOUT_TENSORFLOW)
    out = tmp_path / "report.json"
    assert rtx_check.main([tiny_bundle, "--out", str(out)]) == 3  # there is no GPU
    report = json.loads(out.read_text(encoding="utf-8"))
    outcomes = {step["name"]: step["exit_code"] for step in report["steps"]}
    names = ["nvidia-smi", "doctor"] + [verb + " tensorrt-rtx-fp16" for verb in ("convert", "classify", "bench")]
    assert list(outcomes) == names + ["plugin"]
    assert outcomes["doctor"] == 0 and outcomes["classify tensorrt-rtx-fp16"] in (2, 4)
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))
