"""LoadGen's scenarios: real short runs on a stub engine where LoadGen is installed, its verdict read everywhere."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from benchmarks import loadgen
from edge_runtime.engines.base import Engine, EngineError
from edge_runtime.engines.record import EngineInfo
from edge_runtime.errors import EngineLost, MissingRequirement, UsageError
from tests.helpers import ROOT

CLASSES = 3
PICTURES = np.zeros((4, 299, 299, 3), np.uint8)
# From logs of LoadGen 6.0.17; the second query of the stream took 2.2 ms
LATENCIES_NS = {
    "result_min_latency_ns": 2038571,
    "result_max_latency_ns": 2204859,
    "result_mean_latency_ns": 2100954,
    "result_50.00_percentile_latency_ns": 2092931,
    "result_90.00_percentile_latency_ns": 2131379,
    "result_95.00_percentile_latency_ns": 2144489,
    "result_97.00_percentile_latency_ns": 2182936,
    "result_99.00_percentile_latency_ns": 2204859,
    "result_99.90_percentile_latency_ns": 2204859,
}


class FixedEngine(Engine):
    """Always answers class 1; keeps the size of every batch, and fails at a given call."""

    def __init__(self, fail_at=None, error=None, call_s=0.0):
        super().__init__(EngineInfo("fixed", "fixed", "fp32", "", None), (299, 299, 3), CLASSES, 4, 1)
        self.sizes, self.threads_seen = [], set()
        self.fail_at, self.error, self.call_s = fail_at, error, call_s

    def _open(self):
        pass

    def _infer(self, batch):
        self.sizes.append(len(batch))
        self.threads_seen.add(threading.get_ident())
        time.sleep(self.call_s)
        if self.fail_at is not None and len(self.sizes) >= self.fail_at:
            raise self.error or RuntimeError("the engine broke")
        return np.tile(np.float32([0, 1, 0]), (len(batch), 1))

    def _close(self):
        pass


@pytest.fixture
def real():
    return pytest.importorskip("mlperf_loadgen", reason="needs mlcommons-loadgen, which is not installed")


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(loadgen, "PROBE_S", 0.02)
    monkeypatch.setattr(loadgen, "MIN_DURATION_MS", {"quick": 200, "full": 600000})


def fails_in_the_run(error=None):
    """Returns an engine that fails at its fifth call after the probe, which makes five calls of three kinds."""
    return FixedEngine(fail_at=3 * 5 + 5, error=error, call_s=0.02)


def write_log(folder, values, errors=()):
    path = str(folder / loadgen.DETAIL_LOG)
    entries = [(key, value, False) for key, value in values.items()]
    entries += [("error_runtime", text, True) for text in errors]
    with open(path, "w", encoding="utf-8") as file:
        for key, value, is_error in entries:
            entry = {"key": key, "value": value, "metadata": {"is_error": is_error, "is_warning": False}}
            file.write(":::MLLOG %s\n" % json.dumps(entry))
    return path


def stream_log(**changes):
    log = {
        "loadgen_version": "6.0.17 @ d6147c7eb7",
        "effective_samples_per_query": 1,
        "result_validity": "VALID",
        "result_min_duration_met": True,
        "result_min_queries_met": True,
        "early_stopping_met": True,
        "early_stopping_result": "",
        "result_query_count": 81,
        "early_stopping_latency_ss": 2194834,
        "early_stopping_latency_ms": 0,
    }
    return dict(log, **dict(LATENCIES_NS, **changes))


def test_single_stream_is_valid_and_its_headline_is_the_early_stopping_estimate(real, short, tmp_path):
    engine = FixedEngine(call_s=0.001)
    result = loadgen.run(engine, PICTURES, "SingleStream", "quick", str(tmp_path / "logs"))
    assert (result["valid"], result["why"]) == (True, [])
    assert result["name"] == "LoadGen scenario, unofficial: not an MLPerf result"
    assert (result["scenario"], result["mode"], result["engine"]) == ("SingleStream", "quick", "fixed")
    assert result["queries"] == result["samples"] >= 100
    assert 1.0 <= result["min_ms"] <= result["p50_ms"] <= result["p90_ms"] <= result["value"] <= result["max_ms"]
    assert result["unit"] == "ms" and "90th percentile" in result["metric"]
    assert result["settings"]["min_query_count"] == 100
    assert engine.threads_seen == {threading.get_ident()}
    assert "mlperf_log_summary.txt" in os.listdir(str(tmp_path / "logs"))
    json.dumps(result)
    assert "SingleStream, quick, fixed: VALID" in loadgen.format_result(result)


def test_offline_is_valid_and_runs_the_largest_batches(real, short, tmp_path):
    engine = FixedEngine(call_s=0.002)
    folder = str(tmp_path / "a\tb \udcff")  # a name that is no UTF-8
    result = loadgen.run(engine, PICTURES, "Offline", "quick", folder)
    assert "mlperf_log_summary.txt" in os.listdir(folder)
    assert (result["valid"], result["why"], result["queries"]) == (True, [], 1)
    assert result["value"] == result["samples_per_s"] and result["unit"] == "samples/s"
    assert 0 < result["value"] < 2001  # 4 photos in 2 ms at the most
    assert result["samples"] >= 0.2 * result["value"]
    sizes = engine.sizes[-(result["samples"] // 4) :]
    assert set(sizes[:-1]) == {4}
    json.dumps(result)


def test_multi_stream_splits_a_query_into_batches(real, short, tmp_path, monkeypatch):
    engine = FixedEngine()
    result = loadgen.run(engine, PICTURES, "MultiStream", "quick", str(tmp_path))
    assert result["samples"] == 8 * result["queries"]
    assert result["queries"] >= 662 or not result["valid"]
    assert "99th percentile" in result["metric"] and result["unit"] == "ms"
    assert engine.sizes[-2:] == [4, 4]


def test_server_keeps_its_bound_or_says_why_not(real, short, tmp_path, monkeypatch):
    monkeypatch.setitem(loadgen.MIN_QUERIES["quick"], "Server", 30)  # too few for early stopping
    result = loadgen.run(FixedEngine(call_s=0.005), PICTURES, "Server", "quick", str(tmp_path))
    assert not result["valid"]
    assert any("early stopping: Run unsuccessful. Processed" in reason for reason in result["why"]), result["why"]
    assert "99th percentile" in result["metric"] and result["value"] == result["p99_ms"]
    assert 0 < result["samples_per_s"] < 200
    assert result["settings"]["server_target_latency_ns"] >= 15e6


@pytest.mark.parametrize("scenario", loadgen.SCENARIOS)
def test_a_failing_engine_surfaces_and_the_next_run_is_whole(real, short, tmp_path, scenario):
    """Full mode: it would last 600 s."""
    with pytest.raises(EngineError, match="fixed: "):
        loadgen.run(fails_in_the_run(), PICTURES, scenario, "full", str(tmp_path))
    assert (tmp_path / loadgen.DETAIL_LOG).exists()
    result = loadgen.run(FixedEngine(call_s=0.001), PICTURES, "Offline", "quick", str(tmp_path))
    assert result["valid"]
    assert len([thread for thread in threading.enumerate() if thread.name.startswith("loadgen")]) == 1


def test_what_is_no_exception_surfaces_too(real, short, tmp_path):
    with pytest.raises(SystemExit):
        loadgen.run(fails_in_the_run(SystemExit(7)), PICTURES, "SingleStream", "full", str(tmp_path))


def test_an_engine_that_fails_while_probed_starts_no_test(real, short, tmp_path):
    with pytest.raises(EngineError):
        loadgen.run(FixedEngine(fail_at=1), PICTURES, "SingleStream", "full", str(tmp_path))
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize("scenario", ["SingleStream", pytest.param("Server", marks=pytest.mark.slow)])
def test_ctrl_c_ends_a_full_run_with_130(real, tiny_bundle, tmp_path, scenario):
    code = (
        "import sys\n"
        "from benchmarks import loadgen\n"
        "from edge_runtime.cli.run import run_verb\n"
        "from tests.benchmarks.test_loadgen import FixedEngine\n"
        "loadgen.open_engine = lambda bundle, name, batch: FixedEngine(call_s=0.02)\n"
        "sys.exit(run_verb(loadgen.main, sys.argv[1:]))\n"
    )
    logs = tmp_path / "logs"
    process = subprocess.Popen(
        [sys.executable, "-c", code, tiny_bundle, "--mode", "full", "--scenario", scenario, "--logs", str(logs)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    try:
        deadline = time.time() + 60
        while not (logs / loadgen.DETAIL_LOG).exists():
            assert process.poll() is None and time.time() < deadline
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, out) == (130, "")
    assert "picnic-edge: interrupted" in err and "Traceback" not in err


def test_the_command_prints_one_json_document(real, short, tiny_bundle, monkeypatch, capsys):
    monkeypatch.setattr(loadgen, "open_engine", lambda bundle, name, batch: FixedEngine(call_s=0.001))
    loadgen.main([tiny_bundle, "--scenario", "SingleStream", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert (result["valid"], result["log_folder"]) == (True, None)


def test_the_command_names_the_engine_that_failed(real, short, tiny_bundle, monkeypatch):
    monkeypatch.setattr(loadgen, "open_engine", lambda bundle, name, batch: fails_in_the_run())
    with pytest.raises(EngineLost, match="Offline: fixed: "):
        loadgen.main([tiny_bundle, "--scenario", "Offline"])


def test_without_loadgen_the_command_exits_with_4_and_says_how_to_get_it(tiny_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(MissingRequirement, match="pip install mlcommons-loadgen"):
        loadgen.main([tiny_bundle])
    with pytest.raises(MissingRequirement):
        loadgen.run(FixedEngine(), PICTURES, "Offline", "quick", "nowhere")


def test_a_log_folder_that_cannot_be_written_exits_with_2_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(loadgen, "require", lambda name: None)
    (tmp_path / "file").write_text("")
    engine = FixedEngine()
    with pytest.raises(UsageError, match="LoadGen.*file: "):
        loadgen.run(engine, PICTURES, "Offline", "quick", str(tmp_path / "file"))
    assert engine.sizes == []


def test_reading_a_valid_stream(tmp_path):
    result = loadgen.read_result(write_log(tmp_path, stream_log()), "SingleStream")
    assert (result["valid"], result["why"]) == (True, [])
    assert result["value"] == pytest.approx(2.194834)
    assert result["p90_ms"] == pytest.approx(2.131379) and result["p99_ms"] is result["p99_9_ms"] is None  # 81 queries
    assert (result["queries"], result["samples"], result["loadgen_version"]) == (81, 81, "6.0.17 @ d6147c7eb7")


def test_reading_why_a_stream_is_invalid(tmp_path):
    ran_out = "Ending early: Ran out of generated queries to issue before the minimum query count was reached."
    log = stream_log(
        result_validity="INVALID",
        result_min_duration_met=False,
        early_stopping_met=False,
        early_stopping_result=" * Only processed 40 queries.  * Need to process at least 64 queries.",
        early_stopping_latency_ss=0,
        result_invalid_reason="Decrease the expected latency. ",
    )
    result = loadgen.read_result(write_log(tmp_path, log, [ran_out]), "SingleStream")
    assert result["why"] == [
        "it ended before the minimum duration",
        "early stopping: Only processed 40 queries. Need to process at least 64 queries.",
        "Decrease the expected latency.",
        ran_out,
    ]
    # no estimate: the plain percentile, named so
    assert (result["metric"], result["value"]) == ("90th percentile latency", pytest.approx(2.131379))


def test_lines_that_are_no_log_are_passed_over(tmp_path):
    path = write_log(tmp_path, stream_log())
    with open(path, "ab") as file:
        file.write(b'no json\n\n:::MLLOG {"key": 5\n:::MLLOG {"value": 1}\n:::MLLOG {"key": "a", "value": "\xff"}\n')
    assert loadgen.read_result(path, "SingleStream")["valid"]


def test_a_log_without_a_verdict_is_refused(tmp_path):
    path = write_log(tmp_path, {"loadgen_version": "6"})
    with pytest.raises(UsageError, match="verdict"):
        loadgen.read_result(path, "Offline")
    with pytest.raises(UsageError, match="cannot be read"):
        loadgen.read_result(str(tmp_path / "missing"), "Offline")


def test_full_mode_asks_for_what_mlperf_asks():
    measured = loadgen.Probe(photo_s=0.02, query_s=0.1, photos_per_s=60.0)
    offline = loadgen.settings_of("Offline", "full", measured)
    assert (offline["min_duration_ms"], offline["min_query_count"]) == (600000, 24576)
    assert offline["offline_expected_qps"] > 60
    stream = loadgen.settings_of("SingleStream", "full", measured)
    assert (stream["min_query_count"], stream["single_stream_expected_latency_ns"]) == (1024, pytest.approx(2e7))
    assert loadgen.settings_of("MultiStream", "full", measured)["multi_stream_expected_latency_ns"] == pytest.approx(
        1e8
    )
    server = loadgen.settings_of("Server", "full", measured)
    assert server["server_target_qps"] == pytest.approx(25)
    assert server["server_target_latency_ns"] == pytest.approx(1e8)  # five calls are longer than 15 ms


@pytest.mark.parametrize("scenario, batch", [("SingleStream", 1), ("Offline", 8)])
def test_an_engine_is_opened_for_what_the_scenario_asks_of_it(tiny_bundle, monkeypatch, scenario, batch):
    asked = []

    def opened(bundle, name, max_batch):
        asked.append(max_batch)
        raise UsageError("enough")

    monkeypatch.setattr(loadgen, "require", lambda name: None)
    monkeypatch.setattr(loadgen, "open_engine", opened)
    with pytest.raises(UsageError, match="enough"):
        loadgen.main([tiny_bundle, "--scenario", scenario])
    assert asked == [batch]
