"""The bench beside benchmark_app: taken in turns, and named where one of them is missing."""

import pytest

from benchmarks import rivals
from benchmarks.experiments import overhead
from edge_runtime.errors import MissingRequirement
from tests.helpers import convert


def test_a_bundle_without_an_openvino_engine_is_told_how_to_make_one(tiny_bundle):
    with pytest.raises(MissingRequirement, match="convert .* --to openvino"):
        overhead.main([tiny_bundle])


@pytest.fixture
def converted(tiny_bundle):
    pytest.importorskip("openvino", reason="OpenVINO is not for this Python")
    convert(tiny_bundle, "--to", "openvino")
    return tiny_bundle


def test_each_round_has_a_turn_of_both_and_the_line_their_ratio(converted, monkeypatch, capsys):
    asked = []

    def run_job(job):
        asked.append((job["name"], job["batch"], job["hint"]))
        return {"images_per_s": 1e-3}

    monkeypatch.setattr(rivals, "run_job", run_job)
    monkeypatch.setattr(overhead, "SECONDS", 0.1)
    overhead.main([converted, "--rounds", "3"])
    assert asked == [("benchmark_app openvino-fp32 latency", 1, "latency")] * 3
    name, ratio, least, most, own, app = capsys.readouterr().out.splitlines()[2].strip("| ").split(" | ")
    assert name == "openvino-fp32" and float(app) == 0.0
    assert float(least) <= float(ratio) <= float(most)
    assert float(ratio) == pytest.approx(float(own) / 1e-3, rel=0.01)


def test_an_app_that_does_not_run_is_named(converted, monkeypatch):
    monkeypatch.setattr(rivals, "run_job", lambda job: {"skipped": "no such tool"})
    monkeypatch.setattr(overhead, "SECONDS", 0.1)
    with pytest.raises(MissingRequirement, match="benchmark_app openvino-fp32 latency"):
        overhead.main([converted, "--rounds", "1"])
