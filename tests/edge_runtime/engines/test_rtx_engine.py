"""An engine of TensorRT for RTX on a machine with a GPU (simulated): checked there first, then run as TensorRT's."""

import json
import logging
import os

import numpy as np
import pytest

from edge_runtime import files
from edge_runtime.bundle import checksums, signing
from edge_runtime.bundle.reading import Bundle
from edge_runtime.cli import classify, sign_bundle
from edge_runtime.engines import check, gpu_check
from edge_runtime.engines.record import ENGINE_JSON
from edge_runtime.engines.selection import check_engine, list_engines, open_engine
from edge_runtime.engines.tensorrt.context import gpu_context
from edge_runtime.engines.tensorrt.engine import PLAN
from edge_runtime.errors import BundleError, MissingRequirement, ParityError
from tests import helpers
from tests.simulator import rtx

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

NAME = "tensorrt-rtx-fp16"
GPU = {"name": "NVIDIA GeForce RTX 4070", "compute_capability": "8.9"}
PC = {"rtx": True, "compute_capability": (8, 9), "device_name": GPU["name"]}


@pytest.fixture(autouse=True)
def short_timing(monkeypatch):
    monkeypatch.setattr(check, "SPEED_S", 0.01)


def add_engine(folder, change=lambda model: None, capabilities=((8, 6), (8, 9)), name=NAME):
    """Adds an engine to a bundle as `picnic-edge convert` publishes it on a machine without a GPU.

    change: what to do to its onnx.ModelProto.
    """
    bundle = Bundle.open(folder)
    path = os.path.join(folder, "engines", name)
    model = onnx.load(bundle.file("model.onnx"))
    change(model)
    plan = rtx.write_plan(model.SerializeToString(), [list(capability) for capability in capabilities])
    helpers.write_bytes(os.path.join(path, PLAN), plan)
    record = {
        "format_version": 1,
        "kind": "tensorrt-rtx",
        "precision": name.rpartition("-")[2],
        "batch_profile": {"min": 1, "opt": 8, "max": 8},
        "source": {"bundle_id": bundle.id, "model_sha256": bundle.sha256("model.onnx")},
        "machine": {"architecture": "x86_64", "cpu_features": []},
        "libraries": {"tensorrt-rtx": "11.1.0.8"},
        "gpu": None,
        "gpus": None,
        "gpu_checks": [],
        "images_per_s": None,
        "images_per_s_b1": None,
        "min_agreement": 0.995,
        "max_log_odds_change": 0.06,
        "files": checksums.list_files(path),
    }
    files.write_json(os.path.join(path, ENGINE_JSON), signing.signed(record))
    return folder


def wrong_answers(model):
    """The classes of the colours are another's: what a plan answers that was compiled wrongly on this GPU."""
    for value in model.graph.initializer:
        if value.name in ("weights", "bias"):
            array = np.roll(onnx.numpy_helper.to_array(value), 1, axis=-1)
            value.CopyFrom(onnx.numpy_helper.from_array(array, value.name))


def record_of(folder, name=NAME):
    with open(os.path.join(folder, "engines", name, ENGINE_JSON), encoding="utf-8") as file:
        return json.load(file)


def test_the_first_opening_checks_the_engine_and_later_ones_do_not(tiny_bundle, tmp_path, simulated, capsys):
    add_engine(tiny_bundle)
    simulated("11.1", **PC)
    assert gpu_check.status(list_engines(Bundle.open(tiny_bundle))[0]) == "not yet checked on a GPU"
    helpers.write_photos(tmp_path / "photos", per_class=2)
    arguments = [tiny_bundle, str(tmp_path / "photos"), "--engine", NAME, "--batch", "3", "--out"]
    classify.main(arguments + [str(tmp_path / "first.tsv")])
    assert "not yet checked on this GPU (NVIDIA GeForce RTX 4070)" in capsys.readouterr().err
    record = record_of(tiny_bundle)
    (entry,) = record["gpu_checks"]
    assert (entry["gpu"], entry["refused"]) == (GPU, "")
    assert entry["parity"]["top1_agreement"] == 1 and list(entry["parity"]["batches"]) == ["1", "2", "4", "8"]
    assert record["images_per_s"] > 0 and record["images_per_s_b1"] > 0
    assert gpu_check.status(list_engines(Bundle.open(tiny_bundle))[0]) == "checked on NVIDIA GeForce RTX 4070"
    classify.main(arguments + [str(tmp_path / "second.tsv")])
    assert "checked" not in capsys.readouterr().err
    rows = (tmp_path / "first.tsv").read_text(encoding="utf-8")
    assert rows == (tmp_path / "second.tsv").read_text(encoding="utf-8")
    assert all(line.split("\t")[0].split("/")[0] == line.split("\t")[1] for line in rows.splitlines()[1:])


def test_an_engine_that_answers_otherwise_is_refused_now_and_later(tiny_bundle, tmp_path, simulated, monkeypatch):
    add_engine(tiny_bundle, wrong_answers)
    simulated("11.1", **PC)
    for _ in range(2):
        with pytest.raises(ParityError, match="is refused on the GPU NVIDIA GeForce RTX 4070"):
            open_engine(Bundle.open(tiny_bundle), NAME)
        monkeypatch.setattr(check, "run_sample", lambda *_: pytest.fail("it is checked again"))
    assert "(refused)" in gpu_check.status(list_engines(Bundle.open(tiny_bundle))[0])
    assert ParityError.exit_code == 6


def test_another_gpu_checks_it_again(tiny_bundle, simulated):
    add_engine(tiny_bundle)
    simulated("11.1", **PC)
    open_engine(Bundle.open(tiny_bundle), NAME).close()
    simulated("11.1", rtx=True, compute_capability=(8, 6), device_name="NVIDIA GeForce RTX 3060")
    open_engine(Bundle.open(tiny_bundle), NAME).close()
    names = [entry["gpu"]["name"] for entry in record_of(tiny_bundle)["gpu_checks"]]
    assert names == [GPU["name"], "NVIDIA GeForce RTX 3060"]


def test_auto_takes_the_fastest_after_it_checked_all_and_none_that_is_refused(tiny_bundle, simulated, caplog):
    add_engine(tiny_bundle)
    add_engine(tiny_bundle, wrong_answers, name="tensorrt-rtx-int8")
    simulated("11.1", **PC)
    with caplog.at_level(logging.WARNING), open_engine(Bundle.open(tiny_bundle)) as engine:
        assert engine.name == NAME
    assert record_of(tiny_bundle, "tensorrt-rtx-int8")["gpu_checks"][0]["refused"]
    assert "tensorrt-rtx-int8" in caplog.text


def test_without_a_gpu_auto_passes_over_it_and_its_name_says_why(tiny_bundle, caplog):
    add_engine(tiny_bundle)
    with caplog.at_level(logging.WARNING), open_engine(Bundle.open(tiny_bundle)) as engine:
        assert engine.name == "onnxruntime"
    with pytest.raises(MissingRequirement, match="not yet checked on a GPU"):
        open_engine(Bundle.open(tiny_bundle), NAME)


def test_a_plan_for_other_gpus_is_refused_before_it_is_loaded(tiny_bundle, simulated):
    add_engine(tiny_bundle, capabilities=[(12, 0)])
    simulated("11.1", **PC)
    with pytest.raises(BundleError, match="UNSUPPORTED_CC(?s:.*)--gpus"):
        open_engine(Bundle.open(tiny_bundle), NAME)


def test_what_the_library_compiled_is_kept_for_the_next_start(tiny_bundle, simulated, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    add_engine(tiny_bundle)
    simulator = simulated("11.1", **PC)
    open_engine(Bundle.open(tiny_bundle), NAME).close()  # twice: the check, then the engine
    open_engine(Bundle.open(tiny_bundle), NAME).close()
    assert simulator.compiled == 1
    (kept,) = os.listdir(str(tmp_path / "cache" / "picnic-edge" / "tensorrt"))
    helpers.write_bytes(tmp_path / "cache" / "picnic-edge" / "tensorrt" / kept, b"of another driver\n")
    open_engine(Bundle.open(tiny_bundle), NAME).close()
    assert simulator.compiled == 2


def test_a_cache_that_cannot_be_written_only_warns(tiny_bundle, simulated, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", helpers.write_bytes(tmp_path / "file", b""))
    add_engine(tiny_bundle)
    simulated("11.1", **PC)
    with caplog.at_level(logging.WARNING):
        open_engine(Bundle.open(tiny_bundle), NAME).close()
    assert "compiles the kernels again" in caplog.text


def test_a_record_that_cannot_be_written_counts_for_this_process(tiny_bundle, simulated, monkeypatch, capsys):
    add_engine(tiny_bundle)
    simulated("11.1", **PC)

    def read_only(path, value):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(files, "write_json", read_only)
    for _ in range(2):
        open_engine(Bundle.open(tiny_bundle), NAME).close()
    said = capsys.readouterr().err
    assert said.count("not yet checked on this GPU") == 1 and "cannot be written into it" in said
    assert record_of(tiny_bundle)["gpu_checks"] == []


@pytest.mark.parametrize("has_key", [True, False])
def test_a_signed_record_stays_signed(tiny_bundle, tmp_path, simulated, monkeypatch, has_key):
    monkeypatch.setenv(signing.KEY_FILE, helpers.write_bytes(tmp_path / "key", b"k" * 32))
    sign_bundle.main([tiny_bundle])
    add_engine(tiny_bundle)
    simulated("11.1", **PC)
    if not has_key:  # what this process wrote would be signed no more, and nobody could trust it
        monkeypatch.delenv(signing.KEY_FILE)
    open_engine(Bundle.open(tiny_bundle), NAME).close()
    assert len(record_of(tiny_bundle)["gpu_checks"]) == has_key and "signature" in record_of(tiny_bundle)
    monkeypatch.setenv(signing.KEY_FILE, str(tmp_path / "key"))
    open_engine(Bundle.open(tiny_bundle), NAME).close()


def test_an_engine_that_was_replaced_during_the_check_keeps_its_own_record(tiny_bundle, simulated, monkeypatch):
    add_engine(tiny_bundle)
    simulated("11.1", **PC)
    measure = check.speeds

    def replace(*arguments):
        files.write_json(os.path.join(tiny_bundle, "engines", NAME, ENGINE_JSON), {"newer": True})
        return measure(*arguments)

    monkeypatch.setattr(gpu_check, "speeds", replace)
    open_engine(Bundle.open(tiny_bundle), NAME).close()
    assert record_of(tiny_bundle) == {"newer": True}


def test_checks_at_the_same_time_end_with_one_entry(tiny_bundle, simulated):
    add_engine(tiny_bundle)
    simulated("11.1", **PC)
    bundle = Bundle.open(tiny_bundle)
    with gpu_context():
        pass  # pycuda releases the context only on the thread that asked for it first
    for engine in helpers.at_once(*[(open_engine, bundle, NAME)] * 2):
        engine.close()
    assert len(record_of(tiny_bundle)["gpu_checks"]) == 1


@pytest.mark.parametrize("change", [{"gpu_checks": [1]}, {"gpu_checks": 3}, {"min_agreement": "all"}])
def test_a_garbled_record_names_the_command_that_makes_it_again(tiny_bundle, change):
    add_engine(tiny_bundle)
    files.write_json(os.path.join(tiny_bundle, "engines", NAME, ENGINE_JSON), dict(record_of(tiny_bundle), **change))
    (info,) = [info for info in list_engines(Bundle.open(tiny_bundle)) if info.name == NAME]
    with pytest.raises(BundleError, match="--to tensorrt-rtx --precision fp16"):
        check_engine(Bundle.open(tiny_bundle), info)
