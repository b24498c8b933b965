"""picnic-edge bench: what it measures, prints and writes, and what it does about engines that cannot run here."""

import contextlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import types

import jsonschema
import numpy as np
import pytest
from PIL import Image

from benchmarks.bench import (
    cli,
    cold_start,
    document,
    machine_state,
    measure,
    patience,
    plan,
    report,
    roofline,
    summary,
    turns,
    worker,
)
from benchmarks.bench.subject import Subject
from benchmarks.bench.worker import EngineFailed, Task, Worker
from convert import cli as convert_cli
from convert import reference
from edge_runtime import files
from edge_runtime.bundle.reading import Bundle
from edge_runtime.engines import check
from edge_runtime.engines.record import EngineInfo
from edge_runtime.errors import BundleError, EngineLost, MissingRequirement, UsageError
from edge_runtime.machine import libraries
from edge_runtime.machine.cpu import describe
from tests import helpers
from tests.benchmarks.bench import stub_engines

QUICK = ["--seconds", "0.05", "--batch", "1,3"]
PEAKS = {"threads": 2, "copy_bytes_per_s": 1e10, "numpy_fp32_flops_per_s": 1e11, "numpy_blas": "none"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One cold start, few windows, and no second-long measurements of the machine."""
    monkeypatch.setattr(turns, "COLD_STARTS", 1)
    monkeypatch.setattr(turns, "MIN_WINDOWS", 3)
    monkeypatch.setattr(turns, "MAX_WINDOWS", 4)
    monkeypatch.setattr(machine_state, "REFERENCE_S", 0.001)
    monkeypatch.setattr(machine_state, "BUSY_S", 0.01)
    monkeypatch.setattr(roofline, "measure_peaks", lambda seconds: dict(PEAKS))


@pytest.fixture
def no_cold_start(monkeypatch):
    monkeypatch.setattr(turns, "COLD_STARTS", 0)


@pytest.fixture
def stub(monkeypatch, no_cold_start, forked):
    """Puts engines of tests.benchmarks.bench.stub_engines in place of the real ones: stub(opener)."""
    monkeypatch.setattr(plan, "open_engine", stub_engines.open_sleeping)
    return lambda opener: monkeypatch.setattr(plan, "open_engine", opener)


@pytest.fixture(scope="module")
def bundle(pristine_bundle, tmp_path_factory):
    """A bundle with an engine of its own, and one that was made for another machine."""
    folder = shutil.copytree(pristine_bundle, str(tmp_path_factory.mktemp("bench") / "bundle"))
    patch = pytest.MonkeyPatch()
    patch.setattr(check, "SPEED_S", 0.02)
    convert_cli.main([folder, "--to", "onnxruntime"])
    patch.undo()
    foreign = os.path.join(folder, "engines", "onnxruntime-bf16")
    shutil.copytree(os.path.join(folder, "engines", "onnxruntime-fp32"), foreign)
    change_record(foreign, precision="bf16", machine={"architecture": "sparc64", "cpu_features": []})
    return folder


def change_record(engine, **changes):
    path = os.path.join(engine, "engine.json")
    with open(path, encoding="utf-8") as file:
        record = json.load(file)
    record.update(changes)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(record, file)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    helpers.write_photos(folder, per_class=2)
    return str(folder)


def bench_json(capsys, *arguments, lost=False):
    with pytest.raises(EngineLost) if lost else contextlib.ExitStack():
        cli.main(list(arguments) + ["--json"])
    return json.loads(capsys.readouterr().out)


def check_figures(engine, batches=(1, 3)):
    latencies = [engine["latency_%s_ms" % name] for name in ("p50", "p90", "p95", "p99", "p99_9", "max")]
    latencies = [value for value in latencies if value is not None]
    assert latencies[0] > 0 and latencies == sorted(latencies)
    assert engine["batches"] == list(batches)
    assert engine["points"] == ["b%d" % size for size in batches] + ["end_to_end"]
    every = [value for window in engine["windows"] for value in window.get("latencies_ms", [])]
    assert engine["latency_calls"] == len(every) >= 9 and engine["latency_max_ms"] == max(every)
    for point in engine["points"]:
        own = [window for window in engine["windows"] if window["point"] == point]
        assert engine["windows_" + point] == len(own) >= turns.MIN_WINDOWS
        assert engine["images_per_s_" + point] == pytest.approx(
            sum(window["photos"] for window in own) / sum(window["seconds"] for window in own)
        )
        assert engine["cpu_s_per_image_" + point] >= 0
        assert all(window["reference_ms"] > 0 for window in own)
    assert engine["load_s"] > 0 and engine["first_call_ms"] > 0 and engine["warm_up_s"] > 0
    assert engine["peak_rss_bytes"] > 10 << 20 and engine["gpu_memory_bytes"] is None
    assert all(engine[name] > 0 for name in ("decode_ms", "infer_ms", "wait_ms", "write_ms"))
    # wait + infer is the whole time, per photo: the stages cannot add up to more than they took
    assert engine["wait_ms"] + engine["infer_ms"] == pytest.approx(1000 / engine["images_per_s_end_to_end"])
    assert engine["stable"] == (not engine["unstable"]) and engine["stopped"] == ""


def faults(result):
    """Returns how a document breaks schema.json, [] for a valid one."""
    with open(document.SCHEMA, encoding="utf-8") as file:
        validator = jsonschema.Draft7Validator(json.load(file))
    return [error.message for error in validator.iter_errors(result)]


def test_json_is_one_document_with_every_engine(bundle, photos):
    """As a user runs it, with real engines; slow windows are cut by --seconds alone."""
    done = helpers.picnic_edge("bench", bundle, *(QUICK + ["--images", photos, "--json"]))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.decode("utf-8"))
    assert faults(result) == []
    engines = {engine["name"]: engine for engine in result["engines"]}
    assert set(engines) == {"onnxruntime-fp32", "onnxruntime-bf16", "onnxruntime"}
    refused = engines["onnxruntime-bf16"]
    assert set(refused) == {"name", "skipped"} and "was made for sparc64" in refused["skipped"]
    assert "picnic-edge convert %s --to onnxruntime --precision bf16" % bundle in refused["skipped"]
    for name in ("onnxruntime-fp32", "onnxruntime"):
        check_figures(engines[name])
        assert len(engines[name]["cold_starts_s"]) == 3
        assert engines[name]["cold_start_s"] == sorted(engines[name]["cold_starts_s"])[1] > 0.05
    assert result["partial"] is False and result["machine"] == describe()
    assert result["libraries"]["onnxruntime"] == libraries.library_version("onnxruntime")
    assert result["bundle_id"] == Bundle.open(bundle).id
    assert result["command"][:3] == ["picnic-edge", "bench", bundle]
    assert result["photos"] == photos and result["photo_count"] == 6
    assert "round 1 of up to 14: onnxruntime-fp32, onnxruntime" in done.stderr and "Traceback" not in done.stderr


def test_the_document_is_as_the_schema_says(tiny_bundle, stub, tmp_path, capsys):
    rows = helpers.write_photos(tmp_path / "photos", per_class=2)
    helpers.write_table(tmp_path / "labels.tsv", rows)
    result = bench_json(
        capsys, tiny_bundle, "--images", str(tmp_path / "photos"), "--labels", str(tmp_path / "labels.tsv"), *QUICK
    )
    assert faults(result) == []
    broken = dict(result, engines=[dict(result["engines"][0], latency_p50_ms="fast", novelty=1)], partial=None)
    assert len(faults({name: value for name, value in broken.items() if name != "seconds"})) == 4


def test_made_up_speeds_are_found(tiny_bundle, stub, photos, capsys):
    """3 ms a call at batch 1, 10 ms at batch 8: sleeping takes that long at least, and on a busy machine far longer."""
    result = bench_json(capsys, tiny_bundle, "--images", photos, "--seconds", "0.3", "--batch", "8")
    (engine,) = result["engines"]
    check_figures(engine, batches=(1, 8))  # 1 is always measured: it is where the latency comes from
    assert 3 <= engine["latency_p50_ms"] < 100
    assert 20 < engine["images_per_s_b8"] <= 800 and engine["images_per_s_b1"] <= 334
    assert engine["images_per_s_end_to_end"] <= 800
    assert engine["cpu_s_per_image_b8"] < 5e-3  # sleeping is no work


def test_labels_give_accuracy_of_all_labelled_photos(tiny_bundle, stub, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plan, "MAX_PHOTOS", 2)
    rows = helpers.write_photos(tmp_path / "photos", per_class=2)
    names = sorted(helpers.COLOURS)
    rows[0] = (rows[0][0], names[1])  # one label is wrong
    helpers.write_bytes(tmp_path / "photos" / "broken.jpg", b"nothing")
    helpers.write_table(tmp_path / "labels.tsv", rows + [("broken.jpg", names[0]), ("x.jpg", "unheard of")])
    result = bench_json(
        capsys, tiny_bundle, "--images", str(tmp_path / "photos"), "--labels", str(tmp_path / "labels.tsv"), *QUICK
    )
    (engine,) = result["engines"]
    assert engine["labelled_photos"] == 6 and engine["top1"] == pytest.approx(5 / 6)
    assert engine["macro_f1"] == pytest.approx((2 / 3 + 0.8 + 1) / 3)
    assert result["photo_count"] == 2
    with pytest.raises(UsageError, match="--labels .*: "):
        helpers.write_table(tmp_path / "none.tsv", [("x.jpg", "unheard of")])
        cli.main([tiny_bundle, "--labels", str(tmp_path / "none.tsv")])


def test_table_has_a_row_per_engine_and_names_the_skipped(bundle, photos, stub, capsys):
    cli.main([bundle, "--engine", "onnxruntime-fp32", "onnxruntime-bf16", "auto", "--images", photos] + QUICK)
    lines = capsys.readouterr().out.splitlines()
    head = [cell.strip() for cell in lines[0].strip("| ").split("|")]
    assert head[:8] == ["engine", "cold start s", "load s", "calls", "p50 ms", "p90 ms", "p99 ms", "max ms"]
    assert "images/s b1" in head and "images/s b3" in head and "J/image" not in head
    found = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines[2:4]]
    assert [row[0] for row in found] == ["onnxruntime-fp32", "auto"]
    assert all(len(row) == len(head) for row in found)
    assert all(float(cell) >= 0 for row in found for cell in row[1:] if cell != "-")
    assert len({len(line) for line in lines[:4]}) == 1
    text = "\n".join(lines)
    assert describe()["cpu"] in text
    assert "6 photos (%s)" % photos in text
    assert "onnxruntime-bf16 skipped: " in text and "sparc64" in text


def test_report_holds_the_document_the_table_and_the_rows(tiny_bundle, stub, photos, tmp_path, capsys):
    folder = tmp_path / "new" / "report"
    arguments = [tiny_bundle, "--images", photos, "--report", str(folder)] + QUICK
    cli.main(arguments)
    shown = capsys.readouterr()
    assert set(os.listdir(str(folder))) >= {"bench.json", "bench.md", "bench.csv"}
    result = json.loads((folder / "bench.json").read_text())
    check_figures(result["engines"][0])
    assert (folder / "bench.md").read_text() == shown.out
    (row,) = helpers.read_rows_of((folder / "bench.csv").read_bytes(), "excel")
    assert row["name"] == "onnxruntime" and row["bundle_id"] == result["bundle_id"]
    assert float(row["images_per_s_b3"]) == result["engines"][0]["images_per_s_b3"]
    assert row["top1"] == "" and "windows" not in row
    (folder / "bench.md").write_text("older")
    cli.main(arguments)  # a report that is there is replaced
    assert (folder / "bench.md").read_text() == capsys.readouterr().out


def test_one_photo_is_enough(tiny_bundle, stub, tmp_path, capsys):
    helpers.write_photo(tmp_path / "photos" / "one.jpg", helpers.photo((200, 10, 10)))
    result = bench_json(capsys, tiny_bundle, "--images", str(tmp_path / "photos" / "one.jpg"), *QUICK)
    check_figures(result["engines"][0])
    assert result["photo_count"] == 1


def test_unreadable_photos_are_left_out_and_said(tiny_bundle, stub, tmp_path, capsys):
    helpers.write_photos(tmp_path / "photos", per_class=1)
    (tmp_path / "photos" / "a broken one.jpg").write_bytes(b"nothing")
    cli.main([tiny_bundle, "--images", str(tmp_path / "photos"), "--json"] + list(QUICK))
    said = capsys.readouterr()
    result = json.loads(said.out)
    check_figures(result["engines"][0])
    assert result["photo_count"] == 3
    assert "1 of 4 photos cannot be read and are left out" in said.err


def test_many_photos_are_thinned_out_evenly(tiny_bundle, tmp_path):
    chosen = reference.spread(list(range(1000)), plan.MAX_PHOTOS)
    assert len(chosen) == plan.MAX_PHOTOS and chosen[0] == 0 and chosen[-1] > 960
    assert {31, 32} == set(np.diff(chosen))


def test_batches_larger_than_the_sample_are_filled_up(tiny_bundle, stub, capsys):
    result = bench_json(capsys, tiny_bundle, "--seconds", "0.01", "--batch", "16,1")
    assert result["engines"][0]["batches"] == [1, 16] and result["engines"][0]["images_per_s_b16"] > 0
    batches = measure.make_batches(np.arange(3, dtype=np.uint8).reshape(3, 1), 5)
    assert [batch.ravel().tolist() for batch in batches] == [[0, 1, 2, 0, 1]]
    assert len(measure.make_batches(np.zeros((7, 1), np.uint8), 3)) == 2


def test_a_batch_beyond_what_an_engine_was_built_for_is_skipped_with_the_reason(tiny_bundle, stub, monkeypatch, capsys):
    monkeypatch.setattr(turns, "largest_batch", lambda info: 3)
    result = bench_json(capsys, tiny_bundle, "--seconds", "0.01", "--batch", "2,4")
    (engine,) = result["engines"]
    assert engine["batches"] == [1, 2] and "images_per_s_b4" not in engine
    assert "built for batches up to 3" in engine["skipped_batches"]["b4"]
    assert faults(result) == []
    assert "| onnxruntime |" in report.format_table(result) and "onnxruntime b4 skipped: " in report.format_table(
        result
    )


def test_the_largest_batch_of_an_engine():
    def info(kind, **record):
        return EngineInfo(kind + "-fp16", kind, "fp16", "", record or None)

    assert worker.largest_batch(info("tensorrt", batch_profile={"min": 1, "opt": 4, "max": 16})) == 16
    assert worker.largest_batch(info("openvino", batch_profile={"max": 8})) is None  # takes any
    assert worker.largest_batch(info("tensorrt")) is None
    assert worker.largest_batch(info("tensorrt", batch_profile={"max": "many"})) is None


def test_an_engine_whose_library_is_missing_is_skipped(bundle, stub, capsys):
    stub(stub_engines.open_lacking)
    result = bench_json(capsys, bundle, "--engine", "onnxruntime-fp32", "onnxruntime-bf16", "auto", *QUICK)
    assert result["engines"][0] == {"name": "onnxruntime-fp32", "skipped": "a library is needed here"}
    assert "sparc64" in result["engines"][1]["skipped"]
    check_figures(result["engines"][2])  # auto is opened by its name, which the stub takes as it is


def test_a_damaged_engine_is_skipped(tiny_bundle, no_cold_start, monkeypatch, capsys):
    monkeypatch.setattr(check, "SPEED_S", 0.02)
    convert_cli.main([tiny_bundle, "--to", "onnxruntime"])
    with open(os.path.join(tiny_bundle, "engines", "onnxruntime-fp32", "model.onnx"), "ab") as file:
        file.write(b"more")
    capsys.readouterr()
    result = bench_json(capsys, tiny_bundle, *QUICK)
    assert [engine["name"] for engine in result["engines"]] == ["onnxruntime-fp32", "onnxruntime"]
    assert "model.onnx is not the one that was written" in result["engines"][0]["skipped"]
    check_figures(result["engines"][1])


def two_engines(bundle, capsys, lost=False):
    """Returns the summaries of onnxruntime-fp32, which has what was planted, and of onnxruntime, which has nothing."""
    result = bench_json(capsys, bundle, "--engine", "onnxruntime-fp32", "onnxruntime-bf16", *QUICK, lost=lost)
    assert result["partial"] is lost
    return {engine["name"]: engine for engine in result["engines"]}


@pytest.mark.parametrize(
    "opener, reason",
    [
        (stub_engines.open_crashing, r"its process crashed \(SIGABRT\)"),
        (stub_engines.open_failing, ".*planted"),
    ],
)
def test_a_crash_costs_only_that_engine_and_what_was_measured_is_kept(
    bundle, no_cold_start, monkeypatch, capsys, opener, reason
):
    monkeypatch.setattr(turns, "check_engine", lambda *_: None)
    monkeypatch.setattr(plan, "open_engine", opener)
    engines = two_engines(bundle, capsys, lost=True)
    first = engines["onnxruntime-fp32"]
    assert re.match(reason, first["stopped"]) and first["windows"] and "second line" not in first["stopped"]
    assert first["unstable"]
    if opener is stub_engines.open_crashing:
        check_figures(engines["onnxruntime-bf16"])


def test_an_engine_that_hangs_is_ended_and_the_others_go_on(bundle, stub, photos, monkeypatch, capsys):
    monkeypatch.setattr(worker, "STEP_LIMIT_S", 5.0)
    monkeypatch.setattr(turns, "_SLOWEST_PHOTO_S", 0.0)
    stub(stub_engines.open_hanging)
    result = bench_json(
        capsys, bundle, "--engine", "onnxruntime-fp32", "onnxruntime", "--images", photos, *QUICK, lost=True
    )
    hung, other = result["engines"]
    assert "hangs" in hung["stopped"] and len(hung["windows"]) > 0, "what was measured before is kept"
    check_figures(other)
    assert not other["stopped"] and result["partial"]


def test_an_engine_that_hangs_while_it_is_opened_is_ended_and_waiting_is_said(
    tiny_bundle, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(worker, "OPEN_LIMIT_S", 0.1)
    monkeypatch.setattr(patience, "FIRST_S", 0.001)
    with pytest.raises(EngineFailed, match="hangs"):
        Worker(Task(tiny_bundle, "onnxruntime", [1], [], str(tmp_path), stub_engines.open_sleeping))
    assert "onnxruntime: no answer for 0 s; waits up to " in capsys.readouterr().err


def test_an_engine_that_hangs_is_asked_nothing_more(tiny_bundle, tmp_path, monkeypatch):
    one = Worker(Task(tiny_bundle, "onnxruntime", [1], [], str(tmp_path), stub_engines.open_sleeping))
    monkeypatch.setattr(worker, "STEP_LIMIT_S", 0.3)
    for request in (("model", 1, 3600.0), ("memory",)):
        with pytest.raises(EngineFailed, match="hangs"):
            one.ask(*request)
    assert not multiprocessing.active_children()


def test_a_cold_start_that_hangs_is_ended_and_waiting_is_said(tiny_bundle, monkeypatch, capsys):
    monkeypatch.setattr(cold_start, "LIMIT_S", 0.1)
    monkeypatch.setattr(patience, "FIRST_S", 0.001)
    subject = Subject("onnxruntime")
    cold_start.time_cold_start(Bundle.open(tiny_bundle), subject, "no.jpg")
    assert "hangs" in subject.problem
    assert "onnxruntime: no answer for 0 s" in capsys.readouterr().err


def test_a_bug_while_opening_is_shown_and_named(tiny_bundle, no_cold_start, monkeypatch, capfd):
    monkeypatch.setattr(plan, "open_engine", stub_engines.open_refused)
    with pytest.raises(MissingRequirement, match="onnxruntime .*KeyError: 'planted bug'"):
        cli.main([tiny_bundle] + QUICK)
    assert "Traceback" in capfd.readouterr().err


def test_the_engines_are_measured_in_turns(bundle, stub, monkeypatch, capsys):
    monkeypatch.setattr(turns, "check_engine", lambda *_: None)
    asked = []
    real = Worker.ask

    def ask(self, request, *arguments, **limit):
        if request in ("model", "end_to_end"):
            asked.append((self.facts["name"], request if request == "end_to_end" else arguments[0]))
        return real(self, request, *arguments, **limit)

    monkeypatch.setattr(Worker, "ask", ask)
    two_engines(bundle, capsys)
    names = ("onnxruntime-fp32", "onnxruntime-bf16")
    one_round = [(name, point) for point in (1, 3, "end_to_end") for name in names]
    assert asked[:18] == one_round + one_round[::-1] + one_round


def test_an_engine_of_several_slots_is_opened_for_one_photo_too(tiny_bundle, stub, photos, capsys, monkeypatch):
    stub(stub_engines.open_streams)
    asked = []
    real = Worker.ask

    def ask(self, request, *arguments, **limit):
        if request in ("model", "end_to_end"):
            asked.append((id(self), request if request == "end_to_end" else arguments[0]))
        return real(self, request, *arguments, **limit)

    monkeypatch.setattr(Worker, "ask", ask)
    result = bench_json(capsys, tiny_bundle, "--images", photos, *QUICK)
    check_figures(result["engines"][0])
    assert faults(result) == []
    workers = {point: {worker for worker, asked_point in asked if asked_point == point} for _, point in asked}
    assert workers[3] == workers["end_to_end"] != workers[1] and len(workers[1]) == len(workers[3]) == 1
    asked[:] = []
    bench_json(capsys, tiny_bundle, "--images", photos, "--seconds", "0.05", "--batch", "1")
    assert len({worker for worker, _ in asked}) == 1


def test_windows_go_on_until_stable_or_the_most(monkeypatch):
    def windows(*rates):
        return [{"point": "b1", "images_per_s": rate, "p50_ms": 1000.0 / rate} for rate in rates]

    assert summary.is_stable(windows(50, 100, 105, 109.9), "b1")
    assert not summary.is_stable(windows(100, 105, 111), "b1")
    assert not summary.is_stable(windows(100, 100), "b1")
    assert not summary.is_stable(windows(100, 100, 100), "b2")
    steady, odd = windows(100, 100, 100), windows(100, 100, 100)
    odd[1]["p50_ms"] = 12.0  # the same rate, with another latency
    assert summary.is_stable(steady, "b1") and not summary.is_stable(odd, "b1")


def test_an_unstable_engine_is_said_and_marked(tiny_bundle, stub, monkeypatch, capsys):
    monkeypatch.setattr(summary, "STABLE_WITHIN", -1)
    result = bench_json(capsys, tiny_bundle, *QUICK)
    (engine,) = result["engines"]
    assert engine["stable"] is False and engine["unstable"] == ["b1", "b3", "end_to_end"]
    assert all(engine["windows_" + point] == turns.MAX_WINDOWS for point in engine["points"])
    text = report.format_table(result)
    assert "onnxruntime is not stable: in b1, b3, end to end the last 3 windows differ by more than 10 %." in text


def test_engines_that_do_not_fit_into_memory_together_come_one_after_the_other(bundle, stub, monkeypatch, capsys):
    monkeypatch.setattr(turns, "check_engine", lambda *_: None)
    monkeypatch.setattr(turns.memory, "memory_available_bytes", lambda: 64 << 20)
    for engine in two_engines(bundle, capsys).values():
        check_figures(engine)


def test_engines_on_a_gpu_are_open_alone(monkeypatch):
    kinds = {"a": "onnxruntime", "b": "openvino", "c": "tensorrt", "d": "tensorrt"}
    monkeypatch.setattr(turns, "find_engine", lambda bundle, name: EngineInfo(name, kinds[name], "fp16", "", None))
    monkeypatch.setattr(turns.memory, "memory_available_bytes", lambda: 64 << 30)
    subjects = {name: Subject(name) for name in kinds}
    assert turns._fits(None, [subjects["a"]], subjects["b"])
    assert not turns._fits(None, [subjects["a"]], subjects["c"])
    assert not turns._fits(None, [subjects["c"]], subjects["d"])
    assert turns._fits(None, [], subjects["c"])


def test_no_engine_at_all_exits_with_4_and_names_each_reason(bundle, stub):
    stub(stub_engines.open_refused)
    with pytest.raises(MissingRequirement) as refused:
        cli.main([bundle] + QUICK)
    lines = str(refused.value).splitlines()
    assert lines[0] == "no engine could be measured:"
    assert sorted(line.split()[0] for line in lines[1:]) == ["onnxruntime", "onnxruntime-bf16", "onnxruntime-fp32"]


def test_an_engine_of_another_machine_alone_exits_with_5_and_the_command(bundle):
    with pytest.raises(BundleError, match="sparc64.* --to onnxruntime --precision bf16"):
        cli.main([bundle, "--engine", "onnxruntime-bf16"] + QUICK)


@pytest.mark.parametrize("opener, kind", [(stub_engines.open_lacking, MissingRequirement), (None, BundleError)])
def test_an_engine_that_cannot_be_opened_keeps_its_exit_code_and_remedy(bundle, stub, opener, kind):
    stub(opener or stub_engines.open_corrupt)
    with pytest.raises(kind) as refused:
        cli.main([bundle, "--engine", "onnxruntime-fp32"] + QUICK)
    assert type(refused.value) is kind and str(refused.value).splitlines()[-1].startswith("To get it: ")


@pytest.mark.parametrize("code, invalid", [(5, True), (4, False)])
def test_a_cold_start_keeps_the_exit_code_and_remedy(tiny_bundle, monkeypatch, code, invalid):
    script = "import sys; sys.stderr.write('a warning\\npicnic-edge: lacks x\\nTo get it: y\\n'); sys.exit(%d)" % code
    popen, child = subprocess.Popen, [sys.executable, "-c", script]
    monkeypatch.setattr(cold_start.subprocess, "Popen", lambda command, **options: popen(child, **options))
    subject = Subject("x")
    cold_start.time_cold_start(Bundle.open(tiny_bundle), subject, "a.jpg")
    assert (subject.problem, subject.reason) == ("lacks x", "lacks x\nTo get it: y")
    assert subject.invalid is invalid


def test_a_roofline_that_fails_names_the_cause(monkeypatch):
    def fail(path):
        raise cli.ChildError("building it failed:\nTraceback (most recent call last):\n  x\nValueError: planted\n")

    monkeypatch.setattr(roofline, "count_work", fail)
    found = cli._place_below_roof(types.SimpleNamespace(checked=str), [], 0.1)
    assert found == {"skipped": "ValueError: planted"}
    missing = MissingRequirement("onnx is needed here.\nTo get it: pip install onnx")
    monkeypatch.setattr(roofline, "count_work", lambda path: (_ for _ in ()).throw(missing))
    found = cli._place_below_roof(types.SimpleNamespace(checked=str), [], 0.1)
    assert found == {"skipped": "onnx is needed here. To get it: pip install onnx"}


def test_an_unknown_engine_exits_with_2_before_others_are_measured(tiny_bundle, monkeypatch):
    monkeypatch.setattr(cli, "measure_all", None)
    with pytest.raises(UsageError, match="tensorrt-fp16.*onnxruntime"):
        cli.main([tiny_bundle, "--engine", "onnxruntime", "tensorrt-fp16"] + QUICK)
    monkeypatch.undo()
    done = helpers.picnic_edge("bench", tiny_bundle, "--engine", "nosuch", "--json")
    assert (done.returncode, done.stdout) == (2, b"")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--against", "--images", "--labels", "--report"])
def test_an_empty_name_exits_with_2_before_measuring(tiny_bundle, monkeypatch, option):
    monkeypatch.setattr(cli, "measure_all", None)
    with pytest.raises(UsageError, match=option + " '': expected a name"):
        cli.main([tiny_bundle, option, ""] + QUICK)


def test_no_photos_exits_with_2(tiny_bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="--images .*empty: "):
        cli.main([tiny_bundle, "--images", str(tmp_path / "empty")] + QUICK)
    with pytest.raises(UsageError, match="nosuch: "):
        cli.main([tiny_bundle, "--images", str(tmp_path / "nosuch")] + QUICK)
    helpers.write_bytes(tmp_path / "bad" / "x.jpg", b"nothing")
    with pytest.raises(UsageError, match="--images .*bad: "):
        cli.main([tiny_bundle, "--images", str(tmp_path / "bad")] + QUICK)


def test_a_report_folder_that_cannot_be_made_exits_with_2_before_measuring(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "measure_all", None)
    (tmp_path / "file").write_text("")
    for name in ("file", os.path.join("file", "report")):
        with pytest.raises(UsageError, match="--report .*: "):
            cli.main([tiny_bundle, "--report", str(tmp_path / name)] + QUICK)


def test_a_report_that_cannot_be_written_exits_with_2_after_the_table(tiny_bundle, stub, tmp_path, capsys):
    (tmp_path / "report" / "bench.json").mkdir(parents=True)
    with pytest.raises(UsageError, match="--report .*: "):
        cli.main([tiny_bundle, "--report", str(tmp_path / "report")] + QUICK)
    assert "| onnxruntime |" in capsys.readouterr().out


def test_a_closed_pipe_costs_no_report(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(cli.report, "format_table", lambda result: "table")
    monkeypatch.setattr(cli.report, "write_report", lambda *arguments: written.append(arguments))
    monkeypatch.setattr(cli, "print_json", lambda result: (_ for _ in ()).throw(BrokenPipeError()))
    with pytest.raises(BrokenPipeError):
        cli._finish({}, cli.parser().parse_args(["b", "--json", "--report", "r"]))
    assert written == [("r", {}, "table")]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("planted bug"), UsageError("planted")])
def test_what_stops_a_run_costs_nothing_that_was_measured(tiny_bundle, stub, tmp_path, monkeypatch, capsys, error):
    """Here while the roofs are measured, after the engines; and the report cannot be written either."""

    def stop(*_):
        raise error

    monkeypatch.setattr(roofline, "place", stop)
    folder = tmp_path / "report"
    with pytest.raises(type(error)):
        cli.main([tiny_bundle, "--report", str(folder)] + QUICK)
    result = json.loads((folder / "bench.json").read_text())
    assert result["partial"] is True and result["engines"][0]["windows"]
    assert "| onnxruntime |" in capsys.readouterr().out
    shutil.rmtree(str(folder))
    (folder / "bench.json").mkdir(parents=True)
    with pytest.raises(type(error)):
        cli.main([tiny_bundle, "--report", str(folder)] + QUICK)
    said = capsys.readouterr()
    assert "| onnxruntime |" in said.out and "the report failed, too: --report" in said.err


@pytest.mark.parametrize("batch", ["0", "a", "1,,2", "", "-1", "1,2000"])
def test_senseless_batch_sizes_exit_with_2(tiny_bundle, batch, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([tiny_bundle, "--batch=" + batch])
    assert stopped.value.code == 2
    assert "expected batch sizes such as 1,4,8, 1024 at most, got " + batch in capsys.readouterr().err


def test_a_corrupt_bundle_exits_with_5(tiny_bundle):
    with open(os.path.join(tiny_bundle, "model.onnx"), "ab") as file:
        file.write(b"more")
    with pytest.raises(BundleError, match="model.onnx"):
        cli.main([tiny_bundle] + QUICK)


def test_an_interruption_leaves_a_partial_report(tiny_bundle, stub, tmp_path, monkeypatch, capsys):
    real = Worker.ask
    count = []

    def ask(self, request, *arguments, **limit):
        count.append(request)
        if len(count) == 6:
            raise KeyboardInterrupt
        return real(self, request, *arguments, **limit)

    monkeypatch.setattr(Worker, "ask", ask)
    with pytest.raises(KeyboardInterrupt):
        cli.main([tiny_bundle, "--report", str(tmp_path)] + QUICK)
    result = json.loads((tmp_path / "bench.json").read_text())
    assert result["partial"] is True and faults(result) == []
    assert 0 < len(result["engines"][0]["windows"]) < 9
    assert capsys.readouterr().out.startswith("**Partial: ")
    count[:] = [0] * 5
    monkeypatch.setattr(Worker, "__init__", ask)  # before anything was measured
    with pytest.raises(KeyboardInterrupt):
        cli.main([tiny_bundle, "--report", str(tmp_path)] + QUICK)
    (engine,) = json.loads((tmp_path / "bench.json").read_text())["engines"]
    assert engine == {"name": "onnxruntime", "skipped": "the run was stopped before it was measured"}


def test_ctrl_c_exits_with_130_and_leaves_no_process(tiny_bundle, tmp_path):
    """The signal goes to all processes of the terminal, as from its keyboard; the engine is in a call without end."""
    code = (
        "import sys; from benchmarks.bench import cli, plan, turns; from tests.benchmarks.bench import stub_engines\n"
        "from edge_runtime.cli.run import run_verb\n"
        "turns.COLD_STARTS = 0; plan.open_engine = stub_engines.open_endless\n"
        "if __name__ == '__main__': sys.exit(run_verb(cli.main, sys.argv[1:]))\n"
    )
    script = helpers.write_bytes(tmp_path / "run.py", code.encode())
    started = subprocess.Popen(
        [sys.executable, script, tiny_bundle, "--report", str(tmp_path / "report")] + QUICK,
        env=dict(os.environ, PYTHONPATH=helpers.ROOT),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    watchdog = threading.Timer(120, os.killpg, [started.pid, signal.SIGKILL])
    watchdog.start()
    try:
        said = b""
        while b"in the endless call" not in said:
            line = started.stderr.readline()
            assert line, said
            said += line
        children = children_of(started.pid)
        os.killpg(started.pid, signal.SIGINT)
        _, rest = started.communicate()
    finally:
        watchdog.cancel()
    assert started.returncode == 130
    assert b"Traceback" not in said + rest and b"as partial" in rest and b"interrupted" in rest
    assert json.loads((tmp_path / "report" / "bench.json").read_text())["partial"] is True
    assert children
    for child in children:  # one is multiprocessing's own, which notices a moment later
        wait_for_end(child)


def wait_for_end(process, limit_s=20):
    due = time.monotonic() + limit_s
    while helpers.is_running(process):
        assert time.monotonic() < due, "process %s still runs" % process
        time.sleep(0.05)


def children_of(parent):
    with open("/proc/%d/task/%d/children" % (parent, parent)) as file:
        return file.read().split()


def test_a_worker_ends_with_its_parent(tiny_bundle, tmp_path):
    code = (
        "import os, sys, time\nfrom benchmarks.bench.worker import Task, Worker\n"
        "from tests.benchmarks.bench import stub_engines\n"
        "if __name__ == '__main__':\n"
        "    task = Task(sys.argv[1], 'onnxruntime', [1], [], sys.argv[2], stub_engines.open_sleeping)\n"
        "    worker = Worker(task); print(worker._process.pid, flush=True); os.kill(os.getpid(), 9)\n"
    )
    script = helpers.write_bytes(tmp_path / "run.py", code.encode())
    done = subprocess.run(
        [sys.executable, script, tiny_bundle, str(tmp_path)],
        env=dict(os.environ, PYTHONPATH=helpers.ROOT),
        stdout=subprocess.PIPE,
        timeout=120,
    )
    child = done.stdout.decode().split()[0]
    for _ in range(200):
        if not helpers.is_running(child):
            break
        time.sleep(0.02)
    assert not helpers.is_running(child)


def test_a_worker_measures_its_own_memory_alone(tiny_bundle, tmp_path):
    ballast = np.ones(300 << 20, np.uint8)
    one = Worker(Task(tiny_bundle, "onnxruntime", [1], [], str(tmp_path), stub_engines.open_sleeping))
    try:
        assert 10 << 20 < one.ask("memory")["peak_rss_bytes"] < ballast.nbytes
        with pytest.raises(EngineFailed, match="AttributeError|KeyError"):
            one.ask("model", 7, 0.01)  # no batches of 7 were made
        assert one.ask("model", 1, 0.01)["photos"] >= 3  # a refused request ends nothing
    finally:
        one.close()
    one.close()
    with pytest.raises(EngineFailed):
        one.ask("memory")


def test_nothing_is_clipped_from_the_latencies(monkeypatch):
    """100 calls of known length: 99 of 1 ms and one of 50 ms must show in the maximum."""
    clock = {"now": 0.0, "calls": 0}

    def infer(batch):
        clock["calls"] += 1
        clock["now"] += 0.05 if clock["calls"] == 60 else 0.001

    fake = types.SimpleNamespace(perf_counter=lambda: clock["now"], process_time=lambda: clock["now"] / 2)
    monkeypatch.setattr(measure, "time", fake)
    batches = [np.zeros((1, 1), np.uint8)]
    found = measure.window(types.SimpleNamespace(infer=infer), batches, 0.1485)
    assert found["photos"] == len(found["latencies_ms"]) == 100 == clock["calls"] - 1
    assert found["cpu_s"] == pytest.approx(found["seconds"] / 2)
    figures = measure.percentiles(found["latencies_ms"])
    assert figures["calls"] == 100
    assert figures["p50_ms"] == figures["p90_ms"] == pytest.approx(1.0)
    assert figures["p95_ms"] is figures["p99_ms"] is None, "LoadGen estimates them from 130 and from 662 calls on"
    assert figures["max_ms"] == pytest.approx(50.0)
    assert figures["mean_ms"] == pytest.approx(1.49)
    many = measure.percentiles(found["latencies_ms"] * 67)
    assert many["p99_ms"] == pytest.approx(1.0) and many["p99_9_ms"] == pytest.approx(50.0)


def test_a_window_counts_photos_and_not_calls(monkeypatch):
    clock = {"now": 0.0}
    sizes = []

    def infer(batch):
        sizes.append(len(batch))
        clock["now"] += 0.01

    fake = types.SimpleNamespace(perf_counter=lambda: clock["now"], process_time=lambda: 0.0)
    monkeypatch.setattr(measure, "time", fake)
    batches = measure.make_batches(np.zeros((12, 1), np.uint8), 5)
    found = measure.window(types.SimpleNamespace(infer=infer), batches, 0.5)
    assert set(sizes) == {5}
    assert found["photos"] / found["seconds"] == pytest.approx(500.0)


def test_warming_up_goes_on_while_calls_get_faster(monkeypatch):
    clock = {"now": 0.0}
    lengths = iter([1.0, 0.5, 0.3, 0.29, 0.29, 0.1, 0.1, 0.1, 0.1, 0.1])

    def infer(batch):
        clock["now"] += next(lengths)

    monkeypatch.setattr(measure, "time", types.SimpleNamespace(perf_counter=lambda: clock["now"]))
    taken = measure.warm_up(types.SimpleNamespace(infer=infer), [None])
    assert taken == pytest.approx([1000, 500, 300, 290, 290, 100, 100, 100, 100])


def test_energy_is_that_of_the_point_s_own_window():
    metered = {"source": "sysfs", "added": ["VDD_IN"], "joules": 80.0, "seconds": 10.0, "photos": 400}
    metered.update(mean_w=8.0, peak_w=12.0, samples=90, warning="", throttled=True)
    metered.update(
        rails={"VDD_IN": {"mean_w": 8.0}, "VDD_GPU": {"mean_w": 5.0}}, temperature_c={"GPU": 52.0, "CPU": 30}
    )
    metered["clocks"] = {"gpu_min_mhz": 80.0, "gpu_mean_mhz": 1000.0, "gpu_max_mhz": 1300.0}
    idle = {"source": "sysfs", "added": ["VDD_IN"], "mean_w": 2.0}
    found = summary._energy(metered, "b1", idle)
    assert found["joules_per_image_b1"] == pytest.approx(80 / 400)
    assert found["joules_above_idle_per_image_b1"] == pytest.approx((80 - 2 * 10) / 400)
    assert (found["mean_w_b1"], found["peak_w_b1"]) == (8.0, 12.0)
    assert (found["power_samples_b1"], found["power_seconds_b1"], found["throttled_b1"]) == (90, 10.0, True)
    assert found["rails_mean_w_b1"] == {"VDD_IN": 8.0, "VDD_GPU": 5.0} and found["hottest_c_b1"] == 52.0
    assert (found["gpu_min_mhz_b1"], found["gpu_mean_mhz_b1"]) == (80.0, 1000.0)
    assert not {"cpu_min_mhz_b1", "energy_warning_b1"} & set(found)
    assert summary._energy(dict(metered, warning="few"), "b1", idle)["energy_warning_b1"] == "few"
    assert summary._energy({"unavailable": "gone"}, "b1", idle) == {"energy_problem_b1": "gone"}
    assert summary._energy(None, "b1", idle) == {}  # nothing is metered on this machine, which is said once


def meter_of(source, monkeypatch):
    """Puts a meter that always says 5 W in place of the real ones."""

    class Meter:
        @classmethod
        def open(cls, settle_s=None):
            return cls()

        def __enter__(self):
            self.started = time.perf_counter()
            return self

        def __exit__(self, *_):
            self.seconds = time.perf_counter() - self.started

        def result(self):
            found = {"source": source, "added": ["VDD_IN"], "joules": 5 * self.seconds, "seconds": self.seconds}
            found.update(rails={"VDD_IN": {"mean_w": 5.0}}, clocks={"gpu_min_mhz": 114.0, "gpu_mean_mhz": 900.0})
            found.update(samples=3, warning="few", temperature_c={"GPU": 41.5})
            return dict(found, mean_w=5.0, peak_w=6.0, throttled=None)

    monkeypatch.setattr(machine_state, "Meter", Meter)
    monkeypatch.setattr(turns, "Meter", Meter)
    monkeypatch.setattr(machine_state, "IDLE_S", 0.01)
    monkeypatch.setattr(turns, "POWER_S", 0.1)


def test_a_metered_run_carries_its_energy_into_every_output(tiny_bundle, stub, photos, monkeypatch, capsys, tmp_path):
    meter_of("sysfs", monkeypatch)
    cli.main([tiny_bundle, "--images", photos, "--report", str(tmp_path)] + QUICK)
    table = capsys.readouterr().out
    assert "J/image" in table.splitlines()[0]
    assert "onnxruntime: do not trust the energy in b1, b3, end to end: few" in table
    assert "Do not trust the power at rest: few" in table
    result = json.loads((tmp_path / "bench.json").read_text())
    assert faults(result) == [] and result["power"]["mean_w"] == 5.0
    (engine,) = result["engines"]
    for point in engine["points"]:
        assert engine["mean_w_" + point] == pytest.approx(5.0) and engine["throttled_" + point] is None
        assert engine["joules_per_image_" + point] > 0
        assert engine["joules_above_idle_per_image_" + point] == pytest.approx(0, abs=1e-9)
        assert engine["rails_mean_w_" + point] == {"VDD_IN": pytest.approx(5.0)}
        assert engine["gpu_min_mhz_" + point] == 114.0 and engine["hottest_c_" + point] == 41.5
        assert engine["power_seconds_" + point] >= 0.1, "one window, longer than those for the speed"


def test_what_rapl_cannot_see_of_a_gpu_is_given_no_energy(tiny_bundle, stub, photos, monkeypatch, capsys):
    meter_of("rapl", monkeypatch)
    result = bench_json(capsys, tiny_bundle, "--images", photos, *QUICK)
    text = report.format_table(result)
    assert "J/image" in text and "Energy is of the CPU and memory only (VDD_IN): no GPU" in text
    monkeypatch.setattr(turns, "GPU_KINDS", ("onnxruntime",))
    result = bench_json(capsys, tiny_bundle, "--images", photos, *QUICK)
    text = report.format_table(result)
    (engine,) = result["engines"]
    assert "joules_per_image_b1" not in engine and faults(result) == []
    assert "J/image" not in text
    assert "onnxruntime: no energy in b1, b3, end to end: RAPL counts the CPU and its memory, not the GPU" in text


def test_engines_that_work_on_a_gpu():
    subject = Subject("x")
    for facts, expected in (
        ({"kind": "tensorrt"}, True),
        ({"kind": "openvino", "gpu_memory_bytes": None}, False),
        ({"kind": "tensorflow", "gpu_memory_bytes": 1 << 30}, True),
    ):
        subject.facts = facts
        assert turns._uses_gpu(subject) is expected


def test_how_busy_others_keep_the_cores_is_measured_and_not_the_load_of_the_minute_before(tmp_path, monkeypatch):
    core = sorted(os.sched_getaffinity(0))[0]
    path = str(tmp_path / "stat")

    def tick(text):
        helpers.write_bytes(path, ("cpu  9 9 9 9 9 9 9 9\ncpu%d %s\nintr 5 6 7\n" % (core, text)).encode())

    tick("100 0 50 800 50 0 0 0 0 0")
    assert machine_state._core_times(path) == (150, 1000)
    assert machine_state._core_times(str(tmp_path / "gone")) == (0, 0)
    times = iter([(150, 1000), (180, 1040), (0, 0), (0, 0)])
    monkeypatch.setattr(machine_state, "_core_times", lambda: next(times))
    monkeypatch.setattr(
        machine_state.Meter, "open", classmethod(lambda cls, settle_s=None: cls(None, "none", "/", 0.1))
    )
    assert machine_state.measure_idle() == (0.75, {"unavailable": "none"})
    assert machine_state.measure_idle()[0] is None
    for share, busy in ((0.3, True), (0.2, False), (None, False)):
        assert document.is_busy({"busy_share": share, "load_average": 9.0, "machine": {"cores": 2}}) is busy
    assert not document.is_busy({"load_average": 9.0, "machine": {"cores": 2}})  # an older bench.json


def test_clocks_are_read_from_a_board_s_files(tmp_path):
    cpu = "sys/devices/system/cpu/cpu0/cpufreq/"
    for name, text in (
        (cpu + "scaling_governor", "schedutil\n"),
        (cpu + "scaling_min_freq", "345600\n"),
        (cpu + "scaling_cur_freq", "2035200\n"),
        (cpu + "scaling_max_freq", "2035200\n"),
        ("proc/device-tree/model", "quill\0"),
    ):
        helpers.write_bytes(tmp_path / name, text.encode())
    found = machine_state.clocks(str(tmp_path))
    assert found["governor"] == "schedutil" and found["board"] == "quill" and found["gpu_min_mhz"] is None
    assert (found["cpu_min_mhz"], found["cpu_now_mhz"], found["cpu_max_mhz"]) == (345, 2035, 2035)
    nothing = machine_state.clocks(str(tmp_path / "nowhere"))
    assert nothing["governor"] == "" and nothing["cpu_now_mhz"] is None


def test_loadgen_runs_each_scenario_in_the_engine_s_process(tiny_bundle, stub, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cli, "require", lambda module: None)
    asked = []
    real = Worker.ask

    def ask(self, request, *arguments, **limit):
        if request != "loadgen":
            return real(self, request, *arguments, **limit)
        asked.append(arguments)
        if arguments[0] == "Server":
            raise EngineFailed("planted")
        found = {"engine": "onnxruntime", "scenario": arguments[0], "mode": arguments[1], "valid": True, "why": []}
        return dict(found, metric="m", value=1.0, unit="ms")

    monkeypatch.setattr(Worker, "ask", ask)
    cli.main([tiny_bundle, "--loadgen", "quick", "--report", str(tmp_path)] + QUICK)
    text = capsys.readouterr().out
    result = json.loads((tmp_path / "bench.json").read_text())
    assert [one["scenario"] for one in result["loadgen"]] == ["SingleStream", "MultiStream", "Offline", "Server"]
    assert asked[2][2] == os.path.join(str(tmp_path), "loadgen", "onnxruntime", "Offline")
    assert faults(result) == []
    assert "LoadGen Offline (quick, unofficial) onnxruntime: VALID, m 1.00 ms" in text
    assert "LoadGen Server (quick) onnxruntime skipped: planted" in text


def test_loadgen_that_is_not_installed_exits_with_4_before_measuring(tiny_bundle, monkeypatch):
    monkeypatch.setattr(cli, "measure_all", None)
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(MissingRequirement, match="mlperf_loadgen"):
        cli.main([tiny_bundle, "--loadgen", "quick"])


def test_rivals_get_the_same_photos(tiny_bundle, stub, photos, monkeypatch, capsys):
    given = {}

    def measure_rivals(bundle, paths, seconds, batch):
        given.update(paths=paths, batch=batch)
        yield (
            "hackathon",
            {
                "images_per_s": 9.0,
                "batch": 32,
                "cpu_s_per_image": 0.1,
                "peak_rss_bytes": 1 << 30,
                "note": "n",
                "labels": ["red"],
            },
        )
        yield "tensorflow", {"skipped": "not here"}

    monkeypatch.setattr(cli.rivals, "measure", measure_rivals)
    result = bench_json(capsys, tiny_bundle, "--images", photos, "--rivals", *QUICK)
    assert len(given["paths"]) == 6 and given["batch"] == 3
    assert [one["name"] for one in result["rivals"]] == ["hackathon", "tensorflow"]
    assert "labels" not in result["rivals"][0] and faults(result) == []
    assert result["rivals_left_out"] == {}
    text = report.format_table(result)
    assert "rival hackathon: 9.0 images/s at batch 32" in text and "rival tensorflow skipped: not here" in text


def test_photos_that_rivals_do_not_get_are_in_the_document(tiny_bundle, stub, tmp_path, monkeypatch, capsys):
    helpers.write_photo(tmp_path / "photos" / "a.jpg", helpers.photo((200, 10, 10)))
    for name in ("b.webp", "c.webp"):
        helpers.write_bytes(tmp_path / "photos" / name, helpers.encoded(Image.fromarray(helpers.gradient()), "webp"))
    monkeypatch.setattr(cli.rivals, "measure", lambda bundle, paths, seconds, batch: [])
    result = bench_json(capsys, tiny_bundle, "--images", str(tmp_path / "photos"), "--rivals", *QUICK)
    assert result["photo_count"] == 3 and faults(result) == []
    assert result["rivals_left_out"] == {"is WEBP (RGB), which not every rival reads": 2}
    assert "The rivals were measured without 2 photos that not all of them can read (2: is WEBP" in report.format_table(
        result
    )


def test_a_cold_start_that_fails_gives_the_command_s_own_reason(tiny_bundle, tmp_path):
    helpers.write_photo(tmp_path / "one.jpg", helpers.photo((200, 10, 10)))
    subject = Subject("nosuch")
    cold_start.time_cold_start(Bundle.open(tiny_bundle), subject, str(tmp_path / "one.jpg"))
    assert "has no engine nosuch" in subject.problem and subject.facts["cold_starts_s"] == []


def test_what_a_document_says_is_what_is_written(tiny_bundle, stub, capsys, tmp_path):
    result = bench_json(capsys, tiny_bundle, *QUICK)
    files.write_json(str(tmp_path / "again.json"), result)
    with open(str(tmp_path / "again.json"), encoding="utf-8") as file:
        assert report.format_table(json.load(file)) == report.format_table(result)
