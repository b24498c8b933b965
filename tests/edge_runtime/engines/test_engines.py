"""Engines are listed fastest first, checked before they are loaded, and their answers are checked too."""

import collections
import importlib
import json
import logging
import os
import shutil
import threading
import time

import numpy as np
import pytest

from convert import litert
from edge_runtime import files
from edge_runtime.bundle import manifest, writing
from edge_runtime.bundle.reading import Bundle
from edge_runtime.classifier import Classifier
from edge_runtime.engines import kinds, selection
from edge_runtime.engines.base import Engine, EngineError
from edge_runtime.engines.record import ENGINE_JSON, EngineInfo, best_batch, rebuild_command
from edge_runtime.engines.selection import list_engines, open_engine
from edge_runtime.errors import BundleError, CorruptFile, MissingRequirement, UsageError
from edge_runtime.machine import cpu, libraries
from edge_runtime.photos.spec import INCEPTION_V3, to_manifest
from tests.helpers import (
    COLOURS,
    add_tiny_saved_model,
    at_once,
    convert,
    flip_byte,
    photo,
    picnic_edge,
    write_bytes,
    write_photo,
)

CONVERTED = "onnxruntime-fp32"


@pytest.fixture
def converted(converted_bundle, tmp_path):
    """A bundle of its own for each test, with one converted engine."""
    return Bundle.open(shutil.copytree(converted_bundle, str(tmp_path / "bundle")))


def folder_of(bundle, name=CONVERTED):
    return os.path.join(bundle.path, "engines", name)


def change_record(bundle, change, name=CONVERTED):
    """Applies a function to an engine's engine.json."""
    path = os.path.join(folder_of(bundle, name), ENGINE_JSON)
    with open(path, encoding="utf-8") as file:
        record = json.load(file)
    change(record)
    files.write_json(path, record)


def add_engine(bundle, kind, precision, images_per_s):
    """Copies the converted engine under another name, with another speed."""
    name = "%s-%s" % (kind, precision)
    if name != CONVERTED:
        shutil.copytree(folder_of(bundle), folder_of(bundle, name))
    change_record(bundle, lambda record: record.update(kind=kind, precision=precision, images_per_s=images_per_s), name)


def list_again(folder):
    """Writes a bundle's manifest again, with all files that are in it now."""
    os.unlink(os.path.join(folder, manifest.MANIFEST))
    writing.write_manifest(folder, sorted(COLOURS), to_manifest(INCEPTION_V3), {}, {})


def facts_of(path):
    return {"sha256": files.sha256_of(path), "size_bytes": os.path.getsize(path)}


def list_only_a_note(bundle, name=CONVERTED):
    """Makes an engine's list that of a note; what lies beside it is anybody's."""
    note = write_bytes(os.path.join(folder_of(bundle, name), "notes.txt"), b"a sound file")
    change_record(bundle, lambda record: record.update(files={"notes.txt": facts_of(note)}), name)


def with_weights_elsewhere(bundle):
    """Lists an engine's model whose weights are in a file beside it, and that too."""
    import onnx

    path = os.path.join(folder_of(bundle), "model.onnx")
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="weights", size_threshold=0)
    listed = {name: facts_of(os.path.join(folder_of(bundle), name)) for name in ("model.onnx", "weights")}
    change_record(bundle, lambda record: record.update(files=listed))


def names_of(bundle):
    return [info.name for info in list_engines(bundle)]


# --- listing


def test_a_bundle_runs_as_it_is_by_two_libraries(tiny_bundle):
    write_bytes(os.path.join(tiny_bundle, "saved_model", "saved_model.pb"), b"another's")
    assert names_of(Bundle.open(tiny_bundle)) == ["onnxruntime"]  # what is not listed is not opened
    list_again(tiny_bundle)
    assert names_of(Bundle.open(tiny_bundle)) == ["onnxruntime", "tensorflow"]


def test_converted_engines_come_first_the_fastest_before_all(converted):
    for precision, images_per_s in (("fp16", 30), ("fp32", 20.5), ("int8", 100)):
        add_engine(converted, "onnxruntime", precision, images_per_s)
    assert names_of(converted) == [
        "onnxruntime-int8",
        "onnxruntime-fp16",
        "onnxruntime-fp32",
        "onnxruntime",
    ]


def test_an_engine_that_is_just_being_built_is_not_listed(converted):
    os.mkdir(folder_of(converted, ".onnxruntime-fp16.abc.unfinished"))
    assert names_of(converted) == [CONVERTED, "onnxruntime"]


@pytest.mark.parametrize("name", ["notes", "README", "warp-drive", "-fp32", "tensorflow-fp32"])
def test_a_folder_that_is_no_engine_is_not_listed(converted, name):
    os.mkdir(folder_of(converted, name))
    assert names_of(converted) == [CONVERTED, "onnxruntime"]


# --- choosing


def test_auto_opens_the_converted_engine(converted):
    with open_engine(converted) as engine:
        assert engine.name == CONVERTED


def test_auto_opens_the_bundle_s_own_model_where_there_is_nothing_faster(tiny_bundle):
    with open_engine(Bundle.open(tiny_bundle)) as engine:
        assert engine.name == "onnxruntime"


@pytest.mark.parametrize("name", [CONVERTED, "onnxruntime"])
def test_an_engine_is_opened_by_its_name(converted, name):
    with open_engine(converted, name) as engine:
        assert engine.name == name


def test_a_kind_opens_the_fastest_of_that_kind(converted):
    os.rename(folder_of(converted), folder_of(converted, "openvino-fp32"))
    change_record(converted, lambda record: record.update(kind="openvino"), "openvino-fp32")
    shutil.copytree(folder_of(converted, "openvino-fp32"), folder_of(converted, "openvino-bf16"))
    change_record(converted, lambda record: record.update(precision="bf16", images_per_s=1e9), "openvino-bf16")
    assert selection.find_engine(converted, "openvino").name == "openvino-bf16"
    change_record(converted, lambda record: record.update(images_per_s=0), "openvino-bf16")
    assert selection.find_engine(converted, "openvino").name == "openvino-fp32"


def add_gpu_engine(bundle, name, max_batch, **speeds):
    """Copies the converted engine as one of TensorRT for batches up to max_batch."""
    shutil.copytree(folder_of(bundle), folder_of(bundle, name))
    profile = {"min": 1, "opt": max_batch, "max": max_batch}

    def change(record):
        for fact in ("images_per_s_b1", "max_log_odds_change"):
            record.pop(fact)
        record.update(kind="tensorrt", precision="fp16", batch_profile=profile, **speeds)

    change_record(bundle, change, name)


@pytest.mark.parametrize("camera, best_for_a_camera", [(40, "tensorrt-fp16-b1"), (30, "tensorrt-fp16")])
def test_a_camera_gets_the_engine_that_is_fastest_at_1_and_folders_that_in_batches(
    converted, camera, best_for_a_camera
):
    add_gpu_engine(converted, "tensorrt-fp16", 8, images_per_s=50, images_per_s_b1=35)
    add_gpu_engine(converted, "tensorrt-fp16-b1", 1, images_per_s=camera, images_per_s_b1=camera)
    assert selection.find_engine(converted, "tensorrt", 1).name == best_for_a_camera
    for batch in (None, 2, 8):
        assert selection.find_engine(converted, "tensorrt", batch).name == "tensorrt-fp16"
    for name in ("tensorrt-fp16", "tensorrt-fp16-b1"):
        assert selection.find_engine(converted, name, 1).name == name


def test_an_engine_of_version_0_2_has_neither_its_batch_in_its_name_nor_a_speed_at_1(converted):
    add_gpu_engine(converted, "tensorrt-fp16", 4, images_per_s=50)
    add_gpu_engine(converted, "tensorrt-fp16-b1", 1, images_per_s=49, images_per_s_b1=49)
    assert [selection.find_engine(converted, "tensorrt", batch).name for batch in (1, 8)] == ["tensorrt-fp16"] * 2
    info = selection.find_engine(converted, "tensorrt-fp16")
    assert " --to tensorrt --precision fp16 --max-batch 4" in rebuild_command(converted, info)


def test_an_engine_for_another_batch_than_its_name_says_is_not_used(converted):
    add_gpu_engine(converted, "tensorrt-fp16-b2", 1, images_per_s=50)
    info = selection.find_engine(converted, "tensorrt-fp16-b2")
    with pytest.raises(BundleError, match="garbled.*--max-batch 2$"):
        selection.check_engine(converted, info)


def test_an_unknown_name_is_wrong_usage_and_lists_the_known(converted):
    with pytest.raises(UsageError) as refused:
        open_engine(converted, "warp-drive")
    assert "has no engine warp-drive, only onnxruntime-fp32, onnxruntime;" in str(refused.value)


def test_the_converted_engine_answers_as_the_model_does(converted):
    sample = converted.sample()
    with open_engine(converted, CONVERTED, max_batch=len(sample.images)) as engine:
        assert np.allclose(engine.infer(sample.images), sample.probabilities, atol=1e-4)


# --- an engine that is not valid here

REBUILD = "picnic-edge convert %s --to onnxruntime --precision fp32"


def changed(change):
    return lambda bundle: change_record(bundle, change)


def toggle_avx512(record):
    features = record["machine"]["cpu_features"]
    features.remove("avx512f") if "avx512f" in features else features.append("avx512f")


def with_content(data):
    return lambda bundle: write_bytes(os.path.join(folder_of(bundle), ENGINE_JSON), data)


SPOILED = {
    "another bundle": (
        changed(lambda r: r["source"].update(bundle_id="0123456789ab")),
        "made from bundle 0123456789ab",
    ),
    "a CPU feature": (changed(lambda r: r["machine"]["cpu_features"].append("avx9000")), "a CPU with avx9000"),
    "another size of ONNX Runtime's blocks": (changed(toggle_avx512), "avx512f, which this one "),
    "an architecture": (changed(lambda r: r["machine"].update(architecture="vax")), "made for vax"),
    "a library version": (
        changed(lambda r: r["libraries"].update(onnxruntime="0.0.1")),
        "checked with onnxruntime 0.0.1",
    ),
    "a GPU": (
        changed(lambda r: r.update(gpu={"name": "Deep Thought", "compute_capability": "4.2"})),
        "made for the GPU Deep Thought (compute capability 4.2), here is no GPU",
    ),
    "a text for a GPU": (changed(lambda r: r.update(gpu="Deep Thought")), "engine.json is missing or garbled"),
    "a library left out": (changed(lambda r: r.update(libraries={})), "checked with onnxruntime None"),
    "a changed byte": (lambda bundle: flip_byte(os.path.join(folder_of(bundle), "model.onnx")), "its file model.onnx"),
    "a missing file": (lambda bundle: os.unlink(os.path.join(folder_of(bundle), "model.onnx")), "its file model.onnx"),
    "a file outside": (changed(lambda r: r["files"].update({"../x": {}})), "lists the file ../x, which is outside"),
    "a name that no file can have": (changed(lambda r: r["files"].update({"\ud800": {}})), "which is outside it"),
    "no engine.json": (lambda b: os.unlink(os.path.join(folder_of(b), ENGINE_JSON)), "engine.json is missing"),
    "half an engine.json": (with_content(b'{"format_version": 1,'), "engine.json is missing or garbled"),
    "a binary engine.json": (with_content(b"\xff\xfe\0"), "engine.json is missing or garbled"),
    "a nested engine.json": (with_content(b"[" * 100000), "engine.json is missing or garbled"),
    "a list": (with_content(b"[]"), "engine.json is missing or garbled"),
    "no machine": (changed(lambda r: r.pop("machine")), "engine.json is missing or garbled"),
    "no speed": (changed(lambda r: r.pop("images_per_s")), "engine.json is missing or garbled"),
    "a newer format": (changed(lambda r: r.update(format_version=99)), "engine.json is missing or garbled"),
    "no list of features": (changed(lambda r: r["machine"].update(cpu_features=None)), "is missing or garbled"),
    "a feature that is none": (
        changed(lambda r: r["machine"].update(cpu_features=["avx", None])),
        "is missing or garbled",
    ),
    "a text for a source": (changed(lambda r: r.update(source="bundle_id")), "is missing or garbled"),
    "no files": (changed(lambda r: r.update(files={})), "is missing or garbled"),
    "a list without its model": (list_only_a_note, "does not list model.onnx"),
    "weights in another file": (with_weights_elsewhere, "its file model.onnx has weights in other files"),
    "a speed without end": (changed(lambda r: r.update(images_per_s=float("inf"))), "is missing or garbled"),
    "a speed that is none": (changed(lambda r: r.update(images_per_s=float("nan"))), "is missing or garbled"),
    "another kind": (changed(lambda r: r.update(kind="openvino")), "engine.json is missing or garbled"),
}


@pytest.mark.parametrize("spoil, problem", list(SPOILED.values()), ids=list(SPOILED))
def test_an_engine_that_is_not_valid_here_is_refused_with_the_command_that_makes_it_again(converted, spoil, problem):
    spoil(converted)
    with pytest.raises(BundleError) as refused:
        open_engine(converted, CONVERTED)
    assert str(refused.value).startswith(folder_of(converted)) and problem in str(refused.value)
    assert REBUILD % converted.path in str(refused.value)


@pytest.mark.parametrize("spoil, problem", list(SPOILED.values()), ids=list(SPOILED))
def test_auto_skips_an_engine_that_is_not_valid_here_with_one_line(converted, caplog, spoil, problem):
    spoil(converted)
    with caplog.at_level(logging.WARNING, "picnic_edge"):
        with open_engine(converted) as engine:
            assert engine.name == "onnxruntime"
    (record,) = [record for record in caplog.records if record.name == "picnic_edge"]
    assert CONVERTED in record.getMessage() and problem in record.getMessage()
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize(
    "made_for, here, problem",
    [
        (["avx2"], ["avx2", "avx512f"], "without avx512f"),
        (["avx2", "avx512f"], ["avx2"], "with avx512f"),
        (["avx2"], ["avx2", "fma"], None),
        (["avx2", "avx512f"], ["avx2", "avx512_vnni", "avx512f"], None),
    ],
)
def test_onnxruntime_s_blocked_weights_are_refused_where_the_blocks_have_another_size(
    converted, monkeypatch, made_for, here, problem
):
    change_record(converted, lambda record: record["machine"].update(cpu_features=made_for))
    monkeypatch.setattr(cpu, "cpu_features", lambda: here)
    if problem is None:
        open_engine(converted, CONVERTED).close()
        return
    with pytest.raises(BundleError, match=problem):
        open_engine(converted, CONVERTED)


def test_the_version_is_checked_also_where_another_distribution_brings_the_library(converted, monkeypatch):
    monkeypatch.setattr(libraries, "distribution_version", {"onnxruntime-gpu": "0.0.2"}.get)
    with pytest.raises(BundleError, match="onnxruntime .*0.0.2"):
        open_engine(converted, CONVERTED)


@pytest.mark.parametrize(
    "change, more",
    [
        ({}, ""),
        ({"batch_profile": {"max": 16}, "calibration": "my photos"}, " --max-batch 16 --calibration 'my photos'"),
        ({"labels": "a.tsv", "images": "b", "min_agreement": 0.9}, " --labels a.tsv --images b --min-agreement 0.9"),
        ({"max_log_odds_change": 0.01, "max_f1_drop": 0.1}, " --max-log-odds-change 0.01 --max-f1-drop 0.1"),
        ({"batch_profile": "garbled", "calibration": ["x"], "min_agreement": {}, "max_f1_drop": []}, ""),
    ],
)
def test_the_command_that_makes_an_engine_again_has_the_options_that_it_was_made_with(converted, change, more):
    change_record(converted, lambda record: record.update(change))
    moved = os.rename(converted.path, converted.path + " 2") or Bundle.open(converted.path + " 2")
    expected = "picnic-edge convert '%s' --to onnxruntime --precision fp32%s" % (moved.path, more)
    assert rebuild_command(moved, selection.find_engine(moved, CONVERTED)) == expected


def test_an_engine_of_version_0_2_opens(converted):
    """Its record has no verdict and none of the newer limits."""

    def older(record):
        for name in ("verdict", "max_log_odds_change", "max_f1_drop", "images_per_s_b1"):
            record.pop(name, None)

    change_record(converted, older)
    with open_engine(converted, CONVERTED) as engine:
        assert engine.name == CONVERTED


def test_an_engine_that_is_replaced_while_it_is_opened_is_checked_as_what_it_is_now(converted):
    before = selection.find_engine(converted, CONVERTED)
    model = os.path.join(folder_of(converted), "model.onnx")
    shutil.copy(converted.file("model.onnx"), model)  # as another conversion does
    listed = {"model.onnx": facts_of(model)}
    change_record(converted, lambda record: record.update(files=listed))
    assert selection.check_engine(converted, before).record["files"] == listed != before.record["files"]
    with selection._open(converted, before, 8, None) as engine:
        assert engine.info.files == listed


@pytest.mark.parametrize("name", ["model.onnx", "sample/000.png", "saved_model/saved_model.pb"])
def test_a_converted_engine_s_start_reads_no_file_that_it_does_not_use(tiny_bundle, name):
    write_bytes(os.path.join(tiny_bundle, "saved_model", "saved_model.pb"), b"large")
    list_again(tiny_bundle)
    convert(tiny_bundle, "--to", "onnxruntime")
    flip_byte(os.path.join(tiny_bundle, name))
    with open_engine(Bundle.open(tiny_bundle)) as engine:
        assert engine.name == CONVERTED


def test_auto_does_not_hide_that_the_bundle_s_own_model_is_corrupt(tiny_bundle):
    pytest.importorskip("tensorflow")
    add_tiny_saved_model(tiny_bundle)
    flip_byte(os.path.join(tiny_bundle, "model.onnx"))
    with pytest.raises(CorruptFile, match="model.onnx "):
        open_engine(Bundle.open(tiny_bundle))


def test_what_lies_unlisted_beside_an_engine_does_not_matter(converted):
    write_bytes(os.path.join(folder_of(converted), "README"), b"my notes")
    with open_engine(converted, CONVERTED) as engine:
        assert engine.name == CONVERTED


@pytest.mark.parametrize("kind", sorted(set(kinds.LIBRARIES) - {"tensorflow"}))
def test_every_kind_opens_only_files_that_are_listed(tmp_path, monkeypatch, request, kind):
    """A foreign model lies where the engine looks; of the list, only a note beside it is true."""
    library = {"openvino": "openvino", "litert": "ai_edge_litert", "tf-trt": "tensorflow"}.get(kind)
    if library:
        pytest.importorskip(library)
    if kind in ("tensorrt", "tensorrt-rtx"):
        request.getfixturevalue("simulated")("11.1", rtx=kind == "tensorrt-rtx")
    module = kinds.module_of(kind)
    if kind == "tf-trt":
        monkeypatch.setattr(module, "require_tensorrt", lambda found: None)
        monkeypatch.setattr(module, "require_gpu", lambda: None)
    for name in module.FILES:
        path = os.path.join(str(tmp_path), name, "saved_model.pb") if kind == "tf-trt" else str(tmp_path / name)
        write_bytes(path, b"another's")
    note = write_bytes(tmp_path / "notes.txt", b"a sound file")
    info = EngineInfo(kind + "-fp16", kind, "fp16", str(tmp_path), {}, {"notes.txt": facts_of(note)})
    with pytest.raises(CorruptFile, match=module.FILES[0]):
        kinds.create_engine(info, INCEPTION_V3.shape, 3, 8, 1).open()


def test_openvino_s_weights_beside_the_model_must_be_listed_too(streams):
    engine, _ = streams
    listed = dict(engine.info.files)
    del listed["model.bin"]
    info = engine.info._replace(files=listed)
    with pytest.raises(CorruptFile, match="model.bin"):
        kinds.create_engine(info, INCEPTION_V3.shape, 3, 4, 2).open()


def test_the_command_ends_with_5_for_a_spoiled_engine_that_was_named(converted, tmp_path):
    flip_byte(os.path.join(folder_of(converted), "model.onnx"))
    write_photo(str(tmp_path / "a.jpg"), photo(COLOURS["red"]))
    done = picnic_edge("classify", converted.path, tmp_path / "a.jpg", "--engine", CONVERTED)
    assert done.returncode == 5 and done.stdout == b""
    assert REBUILD % converted.path in done.stderr and "Traceback" not in done.stderr


def test_the_command_goes_on_with_the_next_engine_where_none_was_named(converted, tmp_path):
    flip_byte(os.path.join(folder_of(converted), "model.onnx"))
    write_photo(str(tmp_path / "a.jpg"), photo(COLOURS["red"]))
    done = picnic_edge("classify", converted.path, tmp_path / "a.jpg")
    assert done.returncode == 0
    assert b"\tred\t" in done.stdout
    assert len([line for line in done.stderr.splitlines() if "skipped" in line]) == 1


def test_where_no_engine_can_run_each_is_named_with_its_reason(tiny_bundle, monkeypatch):
    def missing(info, *_):
        raise MissingRequirement("%s is not here\nsecond line" % info.kind)

    monkeypatch.setattr(selection, "create_engine", missing)
    with pytest.raises(MissingRequirement) as refused:
        open_engine(Bundle.open(tiny_bundle))
    assert str(refused.value).splitlines()[1:] == [
        "onnxruntime: onnxruntime is not here",
    ]


# --- what every engine checks


class FakeEngine(Engine):
    """Answers with what it is given; counts its calls."""

    def __init__(self, answer=None, failing=False):
        super().__init__(EngineInfo("fake", "fake", "fp32", "", None), INCEPTION_V3.shape, 3, 4, 1)
        self.answer, self.failing, self.closed = answer, failing, 0

    def _open(self):
        if self.failing:
            raise MissingRequirement("no such thing")

    def _infer(self, batch):
        if self.answer is not None:
            return self.answer
        return np.full((len(batch), 3), 1 / 3.0, np.float32)

    def _close(self):
        self.closed += 1


def batch_of(count, dtype=np.uint8):
    return np.zeros((count, 299, 299, 3), dtype)


@pytest.mark.parametrize("count", [1, 4])
def test_a_batch_up_to_the_largest_is_answered_row_by_row(count):
    assert FakeEngine().infer(batch_of(count)).shape == (count, 3)


@pytest.mark.parametrize(
    "batch",
    [batch_of(5), batch_of(0), batch_of(1, np.float32), batch_of(1)[0], np.zeros((1, 3, 299, 299), np.uint8)],
    ids=["too large", "empty", "float", "one picture", "channels first"],
)
def test_a_batch_of_another_kind_is_the_caller_s_bug(batch):
    with pytest.raises(ValueError, match=r"fake: expected uint8 \[1\.\.4, 299, 299, 3\], got "):
        FakeEngine().infer(batch)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_no_number_is_an_error(value):
    answer = np.full((2, 3), 0.3, np.float32)
    answer[1, 2] = value
    with pytest.raises(EngineError, match="fake: .*NaN or infinite"):
        FakeEngine(answer).infer(batch_of(2))


@pytest.mark.parametrize(
    "answer",
    [np.zeros((1, 3), np.float32), np.zeros((2, 4), np.float32), np.zeros(6, np.float32), np.zeros((2, 3))],
    ids=["a row missing", "a class too many", "flat", "float64"],
)
def test_an_answer_of_another_shape_or_type_is_an_error(answer):
    with pytest.raises(EngineError, match=r"fake: expected float32 \[2, 3\], the engine returned "):
        FakeEngine(answer).infer(batch_of(2))


def test_what_the_library_raises_is_told_as_the_engine_s_failure():
    class Raising(FakeEngine):
        def _infer(self, batch):
            raise KeyError()

    for call in (Raising().infer, lambda batch: Raising().collect(Raising().submit(batch))):
        with pytest.raises(EngineError, match="^fake: KeyError$") as found:
            call(batch_of(1))
        assert isinstance(found.value.__cause__, KeyError)


def test_what_this_machine_lacks_is_told_as_such_also_while_it_runs():
    class Lacking(FakeEngine):
        def _submit(self, batch):
            raise MissingRequirement("the GPU gives no context")

    with pytest.raises(MissingRequirement, match="^the GPU gives no context$"):
        Lacking().submit(batch_of(1))


def test_what_is_submitted_is_collected_with_the_same_answers_and_checks():
    engine = FakeEngine()
    assert engine.slots == 1
    assert np.array_equal(engine.collect(engine.submit(batch_of(3))), engine.infer(batch_of(3)))
    with pytest.raises(ValueError, match="fake: expected uint8"):
        engine.submit(batch_of(5))
    wrong = FakeEngine(np.zeros((2, 4), np.float32))
    with pytest.raises(EngineError, match=r"fake: expected float32 \[2, 3\]"):
        wrong.collect(wrong.submit(batch_of(2)))
    answer = np.array([[0.5, 0.25, 0.25], [0.5, np.nan, 0.25]], np.float32)
    pending = engine.submit(batch_of(1))
    engine.collect(pending)
    with pytest.raises(EngineError, match="fake: "):
        engine.collect(pending)
    no_number = FakeEngine(answer)
    with pytest.raises(EngineError, match="NaN") as found:
        no_number.collect(no_number.submit(batch_of(2)))
    assert np.array_equal(np.isfinite(found.value.answers).all(axis=1), [True, False])


@pytest.mark.parametrize(
    "record, best",
    [
        (None, 8),
        ({"batch_profile": {"min": 1, "opt": 16, "max": 32}}, 16),
        ({"batch_profile": {"opt": "many"}}, 8),
        ({}, 8),
    ],
)
def test_the_best_batch_is_the_one_that_the_engine_was_made_for(record, best):
    assert best_batch(EngineInfo("x", "x", "fp32", "", record)) == best


def test_an_opening_that_fails_gives_back_what_it_took():
    engine = FakeEngine(failing=True)
    with pytest.raises(MissingRequirement):
        engine.open()
    assert engine.closed == 1


def test_leaving_the_block_closes_the_engine_also_after_an_error():
    engine = FakeEngine()
    with pytest.raises(ZeroDivisionError):
        with engine.open():
            raise ZeroDivisionError()
    assert engine.closed == 1


def test_a_real_engine_may_be_closed_twice(tiny_bundle):
    engine = open_engine(Bundle.open(tiny_bundle))
    engine.close()
    engine.close()
    assert engine._session is None


def test_an_answer_belongs_to_the_caller(tiny_bundle):
    with open_engine(Bundle.open(tiny_bundle)) as engine:
        first = engine.infer(np.full((1, 299, 299, 3), 200, np.uint8))
        before = first.copy()
        engine.infer(batch_of(1))
        assert np.array_equal(first, before)


def test_a_real_engine_takes_every_batch_size_up_to_the_largest(tiny_bundle):
    sample = Bundle.open(tiny_bundle).sample()
    with open_engine(Bundle.open(tiny_bundle), max_batch=5) as engine:
        for count in range(1, 6):
            answers = engine.infer(sample.images[:count])
            assert np.allclose(answers, sample.probabilities[:count], atol=1e-4)


def test_a_model_that_its_library_cannot_load_is_the_bundle_s_error(tiny_bundle):
    pytest.importorskip("tensorflow")
    write_bytes(os.path.join(tiny_bundle, "saved_model", "saved_model.pb"), b"another's")
    list_again(tiny_bundle)
    with pytest.raises(BundleError, match="saved_model: "):
        open_engine(Bundle.open(tiny_bundle), "tensorflow")


# --- OpenVINO's streams


@pytest.fixture
def streams(every_engine):
    """An opened OpenVINO engine of four photos and two threads, beside the ONNX Runtime engine it was made of."""
    pytest.importorskip("openvino", reason="OpenVINO is not for this Python")
    bundle = every_engine
    info = selection.find_engine(bundle, "openvino-fp32")
    module = importlib.import_module("edge_runtime.engines.openvino")
    with module.create(info, INCEPTION_V3.shape, len(bundle.class_names), 4, 2).open() as engine:
        with open_engine(bundle, "onnxruntime", 4) as original:
            yield engine, original


def grey_photos(*levels):
    return np.stack([np.full((299, 299, 3), level, np.uint8) for level in levels])


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_photos_of_a_batch_are_spread_over_streams_and_answered_in_order(streams, count):
    engine, original = streams
    batch = grey_photos(*range(10, 10 + 60 * count, 60))
    np.testing.assert_allclose(engine.infer(batch), original.infer(batch), atol=1e-4)


def test_batches_on_their_way_at_once_keep_their_answers(streams):
    engine, original = streams
    assert engine.slots == 2
    batches = [grey_photos(level, 255 - level) for level in range(0, 200, 20)]
    on_their_way = [engine.submit(batches[0])]
    answers = []
    for batch in batches[1:]:
        on_their_way.append(engine.submit(batch))
        answers.append(engine.collect(on_their_way.pop(0)))
    answers.append(engine.collect(on_their_way.pop(0)))
    for batch, found in zip(batches, answers):
        np.testing.assert_allclose(found, original.infer(batch), atol=1e-4)


class FailingRequest:
    """Stands in for a request of OpenVINO: fails when it is started, or when it is waited for."""

    def __init__(self, request, method):
        self.request, self.method = request, method

    def start_async(self, *arguments, **settings):
        if self.method == "start_async":
            raise RuntimeError("planted")
        self.request.start_async(*arguments, **settings)

    def wait(self):
        self.request.wait()
        raise RuntimeError("planted")


@pytest.mark.parametrize("method, started", [("start_async", [0]), ("wait", [0, 2, 3])])
def test_after_a_photo_s_request_failed_nothing_is_on_its_way_and_the_engine_goes_on(streams, method, started):
    engine, original = streams
    batch = grey_photos(0, 90, 180, 250)
    requests = list(engine._requests)
    engine._requests[1] = FailingRequest(requests[1], method)
    with pytest.raises(EngineError, match="planted"):
        engine.infer(batch)
    assert all(requests[number].wait_for(0) for number in started)
    assert len(engine._requests) == len(requests)  # all are free again
    engine._requests = collections.deque(requests)
    for _ in range(3):
        np.testing.assert_allclose(engine.infer(batch), original.infer(batch), atol=1e-4)


def test_a_closed_openvino_engine_says_so(streams):
    engine, _ = streams
    engine.close()
    with pytest.raises(EngineError, match="openvino-fp32: is closed"):
        engine.infer(grey_photos(0))


class EarlyNetwork:
    """Stands in for OpenVINO's compiled network: a request forgets its answer once it is started again."""

    def __init__(self):
        self.made = 0

    def create_infer_request(self):
        self.made += 1
        return EarlyRequest()


class EarlyRequest:
    def start_async(self, inputs, share_inputs):
        self.data = np.eye(256, dtype=np.float32)[inputs[0][:, 0, 0, 0]]
        if inputs[0][0, 0, 0, 0] == 13:
            raise RuntimeError("planted")

    def wait(self):
        if self.data[0, 14]:
            raise RuntimeError("planted")

    def get_output_tensor(self, _):
        return self


def test_openvino_makes_more_requests_for_more_users_and_uses_them_again():
    module = importlib.import_module("edge_runtime.engines.openvino")
    engine = module.create(EngineInfo("openvino-fp32", "openvino", "fp32", "", {}), INCEPTION_V3.shape, 256, 2, 2)
    engine._compiled = network = EarlyNetwork()
    for _ in range(3):
        batches = [grey_photos(level, level + 1) for level in range(100, 118, 2)]
        pending = [engine.submit(batch) for batch in batches]
        for batch, one in zip(batches[::-1], pending[::-1]):
            assert (engine.collect(one).argmax(axis=1) == batch[:, 0, 0, 0]).all()
        for bad in (13, 14):  # one that fails when it is started, one that fails while it runs
            with pytest.raises(EngineError, match="planted"):
                engine.infer(grey_photos(1, bad))
    assert network.made == len(engine._requests) == 2 * len(batches)
    pending = engine.submit(batches[0])
    engine.close()
    assert (engine.collect(pending).argmax(axis=1) == batches[0][:, 0, 0, 0]).all()
    assert not engine._requests  # nothing keeps the network


# --- several users of one engine

KINDS = ["fake", "litert", "onnxruntime", "openvino", "tensorflow", "tf-trt"]


@pytest.fixture(scope="module")
def every_engine(pristine_bundle, tmp_path_factory):
    """A bundle with a SavedModel and an OpenVINO engine, and a LiteRT model beside it, as far as libraries are here."""
    folder = shutil.copytree(pristine_bundle, str(tmp_path_factory.mktemp("every") / "bundle"))
    if libraries.library_version("tensorflow"):
        add_tiny_saved_model(folder)
    if libraries.library_version("tensorflow") and libraries.library_version("ai-edge-litert"):
        model = os.path.join(os.path.dirname(folder), kinds.module_of("litert").MODEL)
        litert.convert(os.path.join(folder, "saved_model"), model, None)
    if libraries.library_version("openvino"):
        convert(folder, "--to", "openvino", "--max-batch", "4")
    return Bundle.open(folder)


@pytest.fixture(params=KINDS)
def shared(request, every_engine, monkeypatch, tmp_path):
    """(the bundle, its engine of a kind, for batches of 4)."""
    kind = request.param
    if kind == "fake":
        engine = ColourEngine().open()
    elif kind == "tf-trt":
        pytest.importorskip("tensorflow")
        module = importlib.import_module("edge_runtime.engines.tf_trt")
        for name in ("probe", "require_tensorrt", "require_gpu", "slow_protobuf"):
            monkeypatch.setattr(module, name, lambda *_: None)
        shutil.copytree(every_engine.file("saved_model"), str(tmp_path / module.SAVED_MODEL))
        info = EngineInfo("tf-trt-fp16", kind, "fp16", str(tmp_path), {})
        engine = module.create(info, INCEPTION_V3.shape, len(COLOURS), 4, 2).open()
    elif kind == "litert":
        pytest.importorskip("tensorflow")
        pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
        info = EngineInfo("litert-fp32", kind, "fp32", os.path.dirname(every_engine.path), {})
        engine = kinds.create_engine(info, INCEPTION_V3.shape, len(COLOURS), 4, 2).open()
    else:
        pytest.importorskip(kind)
        engine = open_engine(every_engine, kind, 4, 2)
    with engine:
        yield every_engine, engine


class ColourEngine(FakeEngine):
    """Takes a photo for the colour that is the brightest."""

    def _infer(self, batch):
        if self.closed:
            raise KeyError("what a closed library raises")
        return np.eye(3, dtype=np.float32)[2 - batch.mean(axis=(1, 2)).argmax(axis=1)]


def frames_of(label, count, height=60, width=80):
    return (photo(COLOURS[label], seed, height, width) for seed in range(count))


def slowly(frames):
    """Frames that come so late that a batch lies in the engine while the next one fills."""
    for frame in frames:
        time.sleep(0.01)
        yield frame


def batch_of_colour(label, count=4):
    return np.stack(list(frames_of(label, count, 299, 299)))


def test_users_who_submit_before_others_collect_get_their_own_answers(shared):
    bundle, engine = shared
    users = [sorted(COLOURS)[number % 3] for number in range(3 * engine.slots + 1)]
    pending = [(label, engine.submit(batch_of_colour(label))) for _ in range(2) for label in users]
    found = [(label, {bundle.class_names[place] for place in engine.collect(one).argmax(1)}) for label, one in pending]
    assert found == [(label, {label}) for label in users * 2]


def test_threads_that_share_a_classifier_get_their_own_answers(shared):
    bundle, engine = shared
    classifier = Classifier(bundle, engine, 4)

    def labels_of(label):
        return [found.label or found.error for found in classifier.classify(frames_of(label, 150))]

    found = at_once(*((labels_of, label) for label in sorted(COLOURS)))
    assert found == [[label] * 150 for label in sorted(COLOURS)]


def test_runs_that_one_thread_reads_in_turns_get_their_own_answers(shared):
    bundle, engine = shared
    classifier = Classifier(bundle, engine, 4)
    runs = [classifier.classify(slowly(frames_of(label, 30))) for label in sorted(COLOURS)]
    found = [tuple(one.label or one.error for one in together) for together in zip(*runs)]
    assert found == [tuple(sorted(COLOURS))] * 30


def test_a_run_that_is_not_read_on_holds_nothing_that_others_need(shared):
    bundle, engine = shared
    classifier = Classifier(bundle, engine, 4)
    label, other = sorted(COLOURS)[:2]
    paused = [classifier.classify(frames_of(label, 40)) for _ in range(engine.slots + 1)]
    first = [next(one).label for one in paused]
    assert [found.label for found in classifier.classify(frames_of(other, 40))] == [other] * 40
    assert [first, [found.label for one in paused for found in one]] == [
        [label] * len(paused),
        [label] * 39 * len(paused),
    ]


def test_closing_an_engine_that_others_use_is_an_error_of_theirs(shared):
    _, engine = shared
    batch, working = batch_of_colour("red"), [threading.Event() for _ in range(2)]

    def use(answered):
        with pytest.raises(EngineError) as refused:
            while True:
                assert engine.collect(engine.submit(batch)).argmax(axis=1).tolist() == [2] * 4
                answered.set()
        return str(refused.value)

    def close():
        for answered in working:
            answered.wait(20)
        engine.close()

    *told, _ = at_once((use, working[0]), (use, working[1]), (close,))
    assert told == ["%s: is closed" % engine.name] * 2
    with pytest.raises(EngineError, match="is closed"):
        engine.submit(batch)


def test_a_batch_out_of_all_proportion_is_refused(tiny_bundle):
    with pytest.raises(UsageError, match="1025.* 1024"):
        open_engine(Bundle.open(tiny_bundle), "auto", 1025)
