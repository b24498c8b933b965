"""picnic-edge bench: what it measures, prints and writes, and what it does about engines that cannot run here."""

import json
import os
import shutil
import types

import pytest

from benchmarks import cli, measure
from convert import cli as convert_cli
from edge_runtime import machine
from edge_runtime.bundle import Bundle
from edge_runtime.errors import BundleError, MissingRequirement, UsageError
from tests import helpers

QUICK = ["--seconds", "0.05", "--batch", "1,3"]


@pytest.fixture(scope="module")
def bundle(pristine_bundle, tmp_path_factory):
    """A bundle with a SavedModel, an engine of its own, and one that was made for another machine."""
    pytest.importorskip("tensorflow")
    folder = shutil.copytree(pristine_bundle, str(tmp_path_factory.mktemp("bench") / "bundle"))
    helpers.add_tiny_saved_model(folder)
    patch = pytest.MonkeyPatch()
    patch.setattr(convert_cli, "_TIMED_S", 0.02)
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


def bench_json(capsys, *arguments):
    cli.main(list(arguments) + ["--json"])
    return json.loads(capsys.readouterr().out)


def check_figures(engine, photo_count):
    latency = engine["latency"]
    assert 0 < latency["p50_ms"] <= latency["p90_ms"] <= latency["p99_ms"] <= latency["max_ms"]
    assert latency["calls"] >= 10
    assert [found["batch"] for found in engine["throughput"]] == [1, 3]
    assert all(found["images_per_s"] > 0 and found["calls"] >= 10 for found in engine["throughput"])
    assert engine["load_s"] > 0
    through = engine["end_to_end"]
    assert through["photos"] == photo_count
    assert through["images_per_s"] > 0
    assert all(through[name] > 0 for name in ("decode_ms", "infer_ms", "wait_ms", "write_ms"))
    # wait + infer is the whole time, per photo: the stages cannot add up to more than they took
    assert through["wait_ms"] + through["infer_ms"] == pytest.approx(1000 / through["images_per_s"])


def test_json_is_one_document_with_every_engine(bundle):
    done = helpers.picnic_edge("bench", bundle, *(QUICK + ["--json"]))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.decode("utf-8"))
    engines = {engine["name"]: engine for engine in result["engines"]}
    assert set(engines) == {"onnxruntime-fp32", "onnxruntime-bf16", "onnxruntime", "tensorflow"}
    assert engines["onnxruntime-bf16"] == {
        "name": "onnxruntime-bf16",
        "skipped": engines["onnxruntime-bf16"]["skipped"],
    }
    assert "was made for sparc64" in engines["onnxruntime-bf16"]["skipped"]
    assert "picnic-edge convert %s --to onnxruntime --precision bf16" % bundle in engines["onnxruntime-bf16"]["skipped"]
    for name in ("onnxruntime-fp32", "onnxruntime", "tensorflow"):
        check_figures(engines[name], 12)
    assert result["machine"] == machine.describe()
    assert result["libraries"]["onnxruntime"] == machine.library_version("onnxruntime")
    assert result["bundle_id"] == Bundle.open(bundle).id
    assert result["command"][:3] == ["picnic-edge", "bench", bundle]
    assert "sample" in result["photos"]
    assert "measuring tensorflow" in done.stderr


def test_table_has_a_row_per_engine_and_names_the_skipped(bundle, photos, capsys):
    cli.main([bundle, "--engine", "onnxruntime", "onnxruntime-fp32", "onnxruntime-bf16", "--images", photos] + QUICK)
    lines = capsys.readouterr().out.splitlines()
    head = [cell.strip() for cell in lines[0].strip("| ").split("|")]
    assert head[:6] == ["engine", "load s", "p50 ms", "p90 ms", "p99 ms", "max ms"]
    assert "images/s b1" in head and "images/s b3" in head
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines[2:4]]
    assert [row[0] for row in rows] == ["onnxruntime", "onnxruntime-fp32"]
    assert all(len(row) == len(head) for row in rows)
    assert all(float(cell) >= 0 for row in rows for cell in row[1:])
    assert len({len(line) for line in lines[:4]}) == 1
    text = "\n".join(lines)
    assert machine.describe()["cpu"] in text
    assert "6 photos (%s)" % photos in text
    assert "onnxruntime-bf16 skipped: " in lines[-1] and "sparc64" in lines[-1]


def test_report_holds_the_document_and_the_table(bundle, photos, tmp_path, capsys):
    report = tmp_path / "new" / "report"
    cli.main([bundle, "--engine", "onnxruntime", "--images", photos, "--report", str(report)] + QUICK)
    shown = capsys.readouterr()
    assert sorted(os.listdir(str(report))) == ["bench.json", "bench.md"]
    result = json.loads((report / "bench.json").read_text())
    check_figures(result["engines"][0], 6)
    assert result["photos"] == photos
    assert (report / "bench.md").read_text() == shown.out
    assert str(report) in shown.err


def test_one_photo_is_enough(tiny_bundle, tmp_path, capsys):
    helpers.write_photo(tmp_path / "photos" / "one.jpg", helpers.photo((200, 10, 10)))
    result = bench_json(
        capsys, tiny_bundle, "--engine", "onnxruntime", "--images", str(tmp_path / "photos" / "one.jpg"), *QUICK
    )
    check_figures(result["engines"][0], 1)


def test_unreadable_photos_are_measured_along(tiny_bundle, tmp_path, capsys):
    helpers.write_photos(tmp_path / "photos", per_class=1)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"nothing")
    result = bench_json(capsys, tiny_bundle, "--engine", "onnxruntime", "--images", str(tmp_path / "photos"), *QUICK)
    check_figures(result["engines"][0], 4)


def test_batches_larger_than_the_sample_are_filled_up(tiny_bundle, capsys):
    result = bench_json(capsys, tiny_bundle, "--engine", "onnxruntime", "--seconds", "0", "--batch", "16,1")
    assert [found["batch"] for found in result["engines"][0]["throughput"]] == [1, 16]


def test_an_engine_whose_library_is_missing_is_skipped(bundle, monkeypatch, capsys):
    def require(module):
        raise MissingRequirement("%s is needed here\nTo get it: pip install it" % module)

    monkeypatch.setattr("edge_runtime.engines.tensorflow.require", require)
    result = bench_json(capsys, bundle, "--engine", "tensorflow", "onnxruntime", *QUICK)
    assert result["engines"][0] == {"name": "tensorflow", "skipped": "tensorflow is needed here"}
    check_figures(result["engines"][1], 12)


def test_a_damaged_engine_is_skipped(tiny_bundle, monkeypatch, capsys):
    monkeypatch.setattr(convert_cli, "_TIMED_S", 0.02)
    convert_cli.main([tiny_bundle, "--to", "onnxruntime"])
    with open(os.path.join(tiny_bundle, "engines", "onnxruntime-fp32", "model.onnx"), "ab") as file:
        file.write(b"more")
    capsys.readouterr()
    # all but TensorFlow, for which the tiny bundle has no model
    monkeypatch.setattr("edge_runtime.engines._BUILT_IN", (("onnxruntime", "model.onnx"),))
    result = bench_json(capsys, tiny_bundle, *QUICK)
    assert [engine["name"] for engine in result["engines"]] == ["onnxruntime-fp32", "onnxruntime"]
    assert "model.onnx is not the one that was written" in result["engines"][0]["skipped"]


def test_no_engine_at_all_exits_with_4_and_names_each_reason(bundle, monkeypatch):
    def require(module):
        raise MissingRequirement("%s is needed here" % module)

    for kind in ("tensorflow", "onnxruntime"):
        monkeypatch.setattr("edge_runtime.engines.%s.require" % kind, require)
    with pytest.raises(MissingRequirement) as refused:
        cli.main([bundle] + QUICK)
    lines = str(refused.value).splitlines()
    assert lines[0] == "no engine could be measured:"
    assert sorted(line.split()[0] for line in lines[1:]) == [
        "onnxruntime",
        "onnxruntime-bf16",
        "onnxruntime-fp32",
        "tensorflow",
    ]
    assert "tensorflow skipped: tensorflow is needed here" in lines


def test_an_unknown_engine_exits_with_2_before_others_are_measured(tiny_bundle, monkeypatch):
    monkeypatch.setattr(cli, "_bench", None)
    with pytest.raises(UsageError, match="has no engine tensorrt-fp16, only .*onnxruntime"):
        cli.main([tiny_bundle, "--engine", "onnxruntime", "tensorrt-fp16"] + QUICK)
    monkeypatch.undo()
    done = helpers.picnic_edge("bench", tiny_bundle, "--engine", "nosuch", "--json")
    assert (done.returncode, done.stdout) == (2, b"")
    assert "Traceback" not in done.stderr


def test_no_photos_exits_with_2(tiny_bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="--images .*empty: no photo in it"):
        cli.main([tiny_bundle, "--images", str(tmp_path / "empty")] + QUICK)
    with pytest.raises(UsageError, match="nosuch: no such file or folder"):
        cli.main([tiny_bundle, "--images", str(tmp_path / "nosuch")] + QUICK)


def test_a_report_folder_that_cannot_be_made_exits_with_2_before_measuring(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "_bench", None)
    (tmp_path / "file").write_text("")
    for name in ("file", os.path.join("file", "report")):
        with pytest.raises(UsageError, match="--report .*: cannot be made"):
            cli.main([tiny_bundle, "--report", str(tmp_path / name)] + QUICK)


def test_a_report_that_cannot_be_written_exits_with_2(tiny_bundle, tmp_path):
    (tmp_path / "report" / "bench.json").mkdir(parents=True)
    with pytest.raises(UsageError, match="--report .*: cannot be written"):
        cli.main([tiny_bundle, "--engine", "onnxruntime", "--report", str(tmp_path / "report")] + QUICK)


@pytest.mark.parametrize("batch", ["0", "a", "1,,2", "", "-1"])
def test_senseless_batch_sizes_exit_with_2(tiny_bundle, batch, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([tiny_bundle, "--batch=" + batch])
    assert stopped.value.code == 2
    assert "expected batch sizes such as 1,4,8" in capsys.readouterr().err


def test_a_tampered_bundle_exits_with_5(tiny_bundle):
    with open(os.path.join(tiny_bundle, "model.onnx"), "ab") as file:
        file.write(b"more")
    with pytest.raises(BundleError, match="model.onnx is not the one that was written"):
        cli.main([tiny_bundle] + QUICK)


def test_nothing_is_clipped_from_the_latencies(pristine_bundle, monkeypatch):
    """100 calls of known length: 99 of 1 ms and one of 50 ms must show in p99 and in the maximum."""
    clock = {"now": 0.0, "calls": 0}

    def infer(batch):
        clock["calls"] += 1
        clock["now"] += 0.05 if clock["calls"] == 60 else 0.001

    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock["now"])
    pictures = Bundle.open(pristine_bundle).sample().images
    found = measure.latency(types.SimpleNamespace(infer=infer), pictures, 0.1485)
    assert found["calls"] == 100
    assert found["p50_ms"] == found["p90_ms"] == pytest.approx(1.0)
    assert found["p99_ms"] == pytest.approx(1 + 0.01 * 49)  # numpy's percentile lies between the two last
    assert found["max_ms"] == pytest.approx(50.0)


def test_throughput_counts_photos_and_not_calls(pristine_bundle, monkeypatch):
    clock = {"now": 0.0}
    sizes = []

    def infer(batch):
        sizes.append(len(batch))
        clock["now"] += 0.01

    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock["now"])
    pictures = Bundle.open(pristine_bundle).sample().images
    found = measure.throughput(types.SimpleNamespace(infer=infer), pictures, 5, 0.5)
    assert set(sizes) == {5}
    assert found["images_per_s"] == pytest.approx(500.0)
