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
from edge_runtime.engines.base import EngineError
from edge_runtime.engines.record import ENGINE_JSON, measured_speed
from edge_runtime.engines.selection import check_engine, list_engines, open_engine
from edge_runtime.engines.tensorrt import rtx as rtx_engine
from edge_runtime.engines.tensorrt.context import gpu_context
from edge_runtime.engines.tensorrt.engine import PLAN
from edge_runtime.errors import BundleError, MissingRequirement, OutOfMemory, ParityError
from tests import helpers
from tests.simulator import rtx

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

NAME = "tensorrt-rtx-fp16"
GPU = {"name": "NVIDIA GeForce RTX 4070", "compute_capability": "8.9"}
CHECK = {"gpu": GPU, "at": "", "refused": "", "parity": {}, "verdict": {}, "images_per_s": 1, "images_per_s_b1": 1}
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
        "max_log_odds_change": 0.01,
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
    assert entry["images_per_s"] > 0 and entry["images_per_s_b1"] > 0
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
        refused = "is refused on the GPU NVIDIA GeForce RTX 4070(?s:.*)convert .* --to tensorrt-rtx --precision fp16"
        with pytest.raises(ParityError, match=refused) as raised:
            open_engine(Bundle.open(tiny_bundle), NAME)
        assert "not kept" not in str(raised.value)  # it stays in the bundle: another GPU may run it
        monkeypatch.setattr(check, "run_sample", lambda *_: pytest.fail("it is checked again"))
    assert "(refused)" in gpu_check.status(list_engines(Bundle.open(tiny_bundle))[0])
    (entry,) = record_of(tiny_bundle)["gpu_checks"]
    assert entry["refused"] == entry["verdict"]["refused"] and entry["parity"]["top1_agreement"] < 1
    assert ParityError.exit_code == 6


def test_answers_that_are_no_numbers_refuse_it(tiny_bundle, simulated):
    def spoil(model):
        for value in model.graph.initializer:
            if value.name == "bias":
                array = np.full_like(onnx.numpy_helper.to_array(value), np.nan)
                value.CopyFrom(onnx.numpy_helper.from_array(array, value.name))

    add_engine(tiny_bundle, spoil)
    simulated("11.1", **PC)
    with pytest.raises(ParityError, match="NaN or infinite"):
        open_engine(Bundle.open(tiny_bundle), NAME)
    assert "NaN" in record_of(tiny_bundle)["gpu_checks"][0]["refused"]


def test_an_engine_that_fails_is_not_refused_for_good(tiny_bundle, simulated, caplog):
    add_engine(tiny_bundle)
    simulator = simulated("11.1", **PC)
    simulator.set(fail_enqueue=True)
    with pytest.raises(MissingRequirement, match="failed in its check"):
        open_engine(Bundle.open(tiny_bundle), NAME)
    with caplog.at_level(logging.WARNING), open_engine(Bundle.open(tiny_bundle)) as engine:
        assert engine.name == "onnxruntime" and caplog.text.count("skipped") == 1
    assert record_of(tiny_bundle)["gpu_checks"] == []
    simulator.set(fail_enqueue=False)
    open_engine(Bundle.open(tiny_bundle), NAME).close()
    assert record_of(tiny_bundle)["gpu_checks"][0]["refused"] == ""


@pytest.mark.parametrize(
    "said", ["cuMemAlloc failed: out of memory", "Requested amount of GPU memory (9 bytes) could not be allocated."]
)
def test_memory_of_the_gpu_that_another_program_has_is_no_verdict(tiny_bundle, simulated, monkeypatch, said):
    add_engine(tiny_bundle)
    simulated("11.1", **PC)

    def fail(engine, batch):
        raise EngineError(said)

    monkeypatch.setattr(rtx_engine.TensorRtRtxEngine, "infer", fail)
    with pytest.raises(OutOfMemory):
        open_engine(Bundle.open(tiny_bundle), NAME)
    assert record_of(tiny_bundle)["gpu_checks"] == []


def test_too_few_photos_in_the_sample_are_no_verdict(tiny_bundle, simulated, monkeypatch):
    add_engine(tiny_bundle)
    simulated("11.1", **PC)
    bundle = Bundle.open(tiny_bundle)
    sample = bundle.sample()
    few = sample._replace(
        names=sample.names[:4],
        images=sample.images[:4],
        labels=sample.labels[:4],
        probabilities=sample.probabilities[:4],
    )
    monkeypatch.setattr(bundle, "sample", lambda: few)
    with pytest.raises(BundleError, match="--calibration"):
        open_engine(bundle, NAME)
    assert record_of(tiny_bundle)["gpu_checks"] == []


@pytest.mark.parametrize("calibration, halves", [(None, 2), ("photos", 1)])
def test_int8_is_checked_on_the_photos_that_it_was_not_calibrated_with(tiny_bundle, simulated, calibration, halves):
    name = "tensorrt-rtx-int8"
    add_engine(tiny_bundle, name=name)
    path = os.path.join(tiny_bundle, "engines", name, ENGINE_JSON)
    files.write_json(path, dict(record_of(tiny_bundle, name), calibration=calibration))
    simulated("11.1", **PC)
    open_engine(Bundle.open(tiny_bundle), name).close()
    photos = len(Bundle.open(tiny_bundle).sample().names)
    assert record_of(tiny_bundle, name)["gpu_checks"][0]["parity"]["photos"] == photos // halves


def test_each_gpu_has_its_own_speed(tiny_bundle):
    add_engine(tiny_bundle)
    other = {"name": "NVIDIA GeForce RTX 3060", "compute_capability": "8.6"}
    checks = [
        dict(CHECK, gpu=gpu, images_per_s=speed, images_per_s_b1=100 - speed) for gpu, speed in ((GPU, 10), (other, 80))
    ]
    path = os.path.join(tiny_bundle, "engines", NAME, ENGINE_JSON)
    files.write_json(path, dict(record_of(tiny_bundle), gpu_checks=checks))
    info = list_engines(Bundle.open(tiny_bundle))[0]
    assert [measured_speed(info, batch, GPU) for batch in (8, 1)] == [10, 90]
    assert [measured_speed(info, batch, other) for batch in (8, 1)] == [80, 20]
    third = {"name": "NVIDIA GeForce RTX 5090", "compute_capability": "12.0"}
    assert measured_speed(info, 8, third) == float("inf")  # it is measured before the choice


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


@pytest.mark.parametrize("bad", [{"change": wrong_answers}, {"capabilities": [(12, 0)]}])
def test_a_kind_s_good_engine_is_taken(tiny_bundle, simulated, bad):
    add_engine(tiny_bundle)
    add_engine(tiny_bundle, name="tensorrt-rtx-bf16", **bad)  # it comes first by its name
    simulated("11.1", **PC)
    for _ in range(2):
        with open_engine(Bundle.open(tiny_bundle), "tensorrt-rtx") as engine:
            assert engine.name == NAME


def test_a_kind_whose_only_engine_is_refused_says_so(tiny_bundle, simulated):
    add_engine(tiny_bundle, wrong_answers)
    simulated("11.1", **PC)
    with pytest.raises(ParityError, match="is refused on the GPU"):
        open_engine(Bundle.open(tiny_bundle), "tensorrt-rtx")


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


def test_kernels_of_older_plans_do_not_fill_the_disk(tiny_bundle, simulated, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "picnic-edge" / "tensorrt"
    older = [helpers.write_bytes(folder / ("rtx-%02d.kernels" % number), b"") for number in range(12)]
    for number, path in enumerate(older):
        os.utime(path, (number, number))
    helpers.write_bytes(folder / "another.timing", b"")
    add_engine(tiny_bundle)
    simulated("11.1", **PC)
    open_engine(Bundle.open(tiny_bundle), NAME).close()
    kept = set(os.listdir(str(folder)))
    assert len(kept) == rtx_engine.MAX_CACHES + 1 and "another.timing" in kept
    assert {os.path.basename(path) for path in older[:5]}.isdisjoint(kept)  # those that were used longest ago


def test_a_cache_that_cannot_be_written_only_warns(tiny_bundle, simulated, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", helpers.write_bytes(tmp_path / "file", b""))
    add_engine(tiny_bundle)
    simulated("11.1", **PC)
    with caplog.at_level(logging.WARNING):
        open_engine(Bundle.open(tiny_bundle), NAME).close()
    assert "compiles the kernels again" in caplog.text


def make_read_only(monkeypatch):
    """No record can be written any more, as on a read-only disk; root could write there."""

    def read_only(path, value):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(files, "write_json", read_only)


def test_a_record_that_cannot_be_written_counts_for_this_process(tiny_bundle, simulated, monkeypatch, capsys):
    add_engine(tiny_bundle)
    simulated("11.1", **PC)
    make_read_only(monkeypatch)
    for _ in range(2):
        open_engine(Bundle.open(tiny_bundle), NAME).close()
    said = capsys.readouterr().err
    assert said.count("not yet checked on this GPU") == 1 and "cannot be written into it" in said
    assert record_of(tiny_bundle)["gpu_checks"] == []


def test_a_record_that_cannot_be_written_is_signed_in_this_process(
    tiny_bundle, tmp_path, simulated, monkeypatch, capsys
):
    monkeypatch.setenv(signing.KEY_FILE, helpers.write_bytes(tmp_path / "key", b"k" * 32))
    sign_bundle.main([tiny_bundle])
    add_engine(tiny_bundle)
    simulated("11.1", **PC)
    make_read_only(monkeypatch)
    for _ in range(2):
        open_engine(Bundle.open(tiny_bundle), "tensorrt-rtx").close()
    assert capsys.readouterr().err.count("not yet checked on this GPU") == 1  # the second opens what the first checked


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


@pytest.mark.parametrize(
    "change",
    [{"gpu_checks": value} for value in ([1], 3, None, {}, [dict(CHECK, gpu={"name": "x"})])]
    + [{"gpu_checks": [{name: CHECK[name] for name in CHECK if name != lacking}]} for lacking in CHECK]
    + [{"min_agreement": "all"}, {"max_log_odds_change": float("inf")}],
)
def test_a_garbled_record_names_the_command_that_makes_it_again(tiny_bundle, change):
    add_engine(tiny_bundle)
    files.write_json(os.path.join(tiny_bundle, "engines", NAME, ENGINE_JSON), dict(record_of(tiny_bundle), **change))
    (info,) = [info for info in list_engines(Bundle.open(tiny_bundle)) if info.name == NAME]
    with pytest.raises(BundleError, match="--to tensorrt-rtx --precision fp16"):
        check_engine(Bundle.open(tiny_bundle), info)


def test_a_record_without_its_checks_on_gpus_is_unreadable(tiny_bundle, simulated):
    """Else its engine would run unchecked: it was built where no GPU is."""
    add_engine(tiny_bundle, wrong_answers)
    record = dict(record_of(tiny_bundle), images_per_s=9999, images_per_s_b1=9999)
    del record["gpu_checks"]
    files.write_json(os.path.join(tiny_bundle, "engines", NAME, ENGINE_JSON), record)
    simulated("11.1", **PC)
    with pytest.raises(BundleError, match="garbled(.|\\n)*--to tensorrt-rtx --precision fp16"):
        open_engine(Bundle.open(tiny_bundle), NAME)
    with open_engine(Bundle.open(tiny_bundle)) as engine:
        assert engine.name == "onnxruntime"


def test_a_record_of_another_kind_has_no_checks_on_gpus(tiny_bundle):
    helpers.convert(tiny_bundle, "--to", "onnxruntime")
    files.write_json(
        os.path.join(tiny_bundle, "engines", "onnxruntime-fp32", ENGINE_JSON),
        dict(record_of(tiny_bundle, "onnxruntime-fp32"), gpu_checks=[]),
    )
    with pytest.raises(BundleError, match="garbled"):
        open_engine(Bundle.open(tiny_bundle), "onnxruntime-fp32")
