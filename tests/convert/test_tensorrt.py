"""A bundle's model made readable for TensorRT, and the plan built from it; TensorRT and the GPU are simulated."""

import json
import os
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from convert import cli, tensorrt_model
from convert import tensorrt as builder
from convert.conversion import Settings
from edge_runtime.bundle import checksums
from edge_runtime.bundle.manifest import INPUT_NAME, OUTPUT_NAME
from edge_runtime.bundle.reading import Bundle
from edge_runtime.cli import classify
from edge_runtime.engines import check
from edge_runtime.engines.selection import list_engines, open_engine
from edge_runtime.engines.tensorrt import context
from edge_runtime.engines.tensorrt.engine import make_log
from edge_runtime.errors import BundleError, MissingRequirement
from tests import helpers
from tests.simulator import graph

onnx = pytest.importorskip("onnx")
# It extends sys.path when it is imported, for its own modules; the simulator takes back what changes there meanwhile.
pytest.importorskip("onnxruntime.quantization")

# --- the model


def model_of(bundle):
    return onnx.load(os.path.join(bundle, "model.onnx"))


def answers(model, pictures):
    session = pytest.importorskip("onnxruntime").InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run([OUTPUT_NAME], {INPUT_NAME: pictures})[0]


def pictures_of(count):
    shades = np.random.RandomState(0).randint(0, 256, (count, 299, 299, 3))
    shades[0], shades[1] = 0, 255
    return shades.astype(np.uint8)


@pytest.fixture(scope="module", params=["tiny", "blocks"])
def some_model(request, tmp_path_factory):
    write = {"tiny": helpers.write_tiny_bundle, "blocks": helpers.write_blocks_bundle}[request.param]
    return model_of(write(tmp_path_factory.mktemp(request.param) / "bundle"))


def test_the_model_with_a_float_input_answers_as_the_original(some_model):
    pictures = pictures_of(3)
    changed = tensorrt_model.with_float_input(some_model)
    onnx.checker.check_model(changed)
    assert np.array_equal(answers(changed, pictures.astype(np.float32)), answers(some_model, pictures))


def test_nothing_in_the_model_with_a_float_input_knows_uint8(some_model):
    graph = tensorrt_model.with_float_input(some_model).graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [node.op_type for node in graph.node if node.op_type == "Cast"] == []
    assert len(graph.node) == len(some_model.graph.node) - 1


def test_the_original_model_stays_as_it_was(some_model):
    before = some_model.SerializeToString()
    tensorrt_model.with_float_input(some_model)
    assert some_model.SerializeToString() == before


def test_a_cast_to_half_precision_stays(pristine_bundle):
    model = model_of(pristine_bundle)
    model.graph.node[0].attribute[0].i = onnx.TensorProto.FLOAT16
    changed = tensorrt_model.with_float_input(model)
    assert tensorrt_model.cast_comes_first(model)
    assert changed.graph.node[0].op_type == "Cast" and list(changed.graph.node[0].input) == [INPUT_NAME]


def test_a_model_that_does_not_begin_with_a_cast_is_refused(pristine_bundle):
    model = model_of(pristine_bundle)
    model.graph.node.insert(0, onnx.helper.make_node("Identity", [INPUT_NAME], ["same"]))
    model.graph.node[1].input[0] = "same"
    assert not tensorrt_model.cast_comes_first(model)
    with pytest.raises(BundleError, match="Cast"):
        tensorrt_model.with_float_input(model)


def test_the_bundle_s_model_passes_the_check(some_model):
    tensorrt_model.check_model(some_model)


@pytest.mark.parametrize("opsets, said", [([14], r"opset \[14\]"), ([], r"opset \[\]")])
def test_an_opset_that_tensorrt_misreads_is_refused(pristine_bundle, opsets, said):
    model = model_of(pristine_bundle)
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid("", number) for number in opsets)
    with pytest.raises(BundleError, match=said):
        tensorrt_model.check_model(model)


def test_opsets_of_other_domains_do_not_matter(pristine_bundle):
    model = model_of(pristine_bundle)
    model.opset_import.extend([onnx.helper.make_opsetid("ai.onnx.ml", 99)])
    tensorrt_model.check_model(model)


def test_another_input_is_refused(pristine_bundle):
    model = tensorrt_model.with_float_input(model_of(pristine_bundle))
    with pytest.raises(BundleError, match="uint8"):
        tensorrt_model.check_model(model)


# --- what is chosen by the machine


@pytest.mark.parametrize(
    "available_mib, gpu_mib, chosen",
    [(6000, 7852, 1024), (3000, 7852, 750), (800, 7852, 256), (16000, 2000, 500), (None, 4000, 1000)],
)
def test_the_workspace_is_a_quarter_of_the_memory_within_limits(monkeypatch, available_mib, gpu_mib, chosen):
    free_bytes = None if available_mib is None else available_mib << 20  # by the system and the container's limit
    monkeypatch.setattr(builder.memory, "memory_available_bytes", lambda: free_bytes)
    assert builder.default_workspace_mib(gpu_mib << 20) == chosen


def test_times_are_kept_per_gpu_and_version(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = {"gpu": {"name": "A/../b c", "compute_capability": "6.2"}, "libraries": {"tensorrt": "8.2.1.8"}}
    path = builder.timing_cache_path(found, "10.2.0")
    assert path == str(tmp_path / "picnic-edge" / "tensorrt" / "A-..-b-c-6.2-8.2.1.8-cuda-10.2.0.timing")


def test_low_memory_is_told_with_the_commands_for_swap(monkeypatch, capsys):
    monkeypatch.setattr(builder.memory, "memory_available_bytes", lambda: 1500 << 20)
    monkeypatch.setattr(builder.memory, "memory_info", lambda *_: {"SwapFree": 100 << 20})
    builder._warn_of_low_memory()
    said = capsys.readouterr().err
    assert "1500 MiB of memory and 100 MiB of swap free" in said and "swapon" in said
    monkeypatch.setattr(builder.memory, "memory_info", lambda *_: {"SwapFree": 600 << 20})
    builder._warn_of_low_memory()
    assert capsys.readouterr().err == ""


# --- the build


VERSIONS = ["8.2.1", "8.6.1", "10.3", "11.1"]
XAVIER = {"compute_capability": (7, 2), "device_name": "Xavier"}  # has int8 arithmetic


def settings_of(bundle, precision="fp32", max_batch=4, workspace_mib=None):
    return Settings(precision, max_batch, workspace_mib, Bundle.open(bundle).sample())


def build(bundle, folder, *settings):
    """Builds into folder, in a child process as the product does. Returns the facts."""
    return builder.build(Bundle.open(bundle), settings_of(bundle, *settings), str(folder))


def build_here(bundle, folder, precision="fp32", workspace_mib=64, max_batch=4):
    """The part of the child process, in this one. Returns the name of the plan."""
    model, plan, pictures = (os.path.join(str(folder), name) for name in ("model.onnx", "model.plan", "pictures.npy"))
    onnx.save(tensorrt_model.with_float_input(model_of(bundle)), model)
    np.save(pictures, Bundle.open(bundle).sample().images)
    times = os.path.join(str(folder), "cache", "times")
    builder.build_plan(model, plan, precision, max_batch, workspace_mib, pictures, times)
    return plan


def convert(bundle, *options):
    cli.main([bundle, "--to", "tensorrt"] + list(options))


@pytest.fixture(autouse=True)
def short_timing(monkeypatch):
    monkeypatch.setattr(check, "SPEED_S", 0.01)


@pytest.mark.parametrize("version", VERSIONS)
def test_from_a_bundle_to_labels_on_every_version(tiny_bundle, tmp_path, simulated, version):
    simulator = simulated(version)
    convert(tiny_bundle, "--max-batch", "4")  # fp16 is the first precision
    with open(os.path.join(tiny_bundle, "engines", "tensorrt-fp16-b4", "engine.json"), encoding="utf-8") as file:
        record = json.load(file)
    assert record["libraries"] == {"tensorrt": simulator.full_version}
    assert record["gpu"] == {"name": "NVIDIA Tegra X2", "compute_capability": "6.2"}
    assert record["input_dtype"] == ("float32" if version == "8.2.1" else "uint8")
    assert set(record["files"]) == {"model.plan"}
    assert list_engines(Bundle.open(tiny_bundle))[0].name == "tensorrt-fp16-b4"

    helpers.write_photos(tmp_path / "photos", per_class=2)
    out = tmp_path / "labels.tsv"
    arguments = [tiny_bundle, str(tmp_path / "photos"), "--engine", "tensorrt-fp16-b4", "--batch", "3"]
    classify.main(arguments + ["--out", str(out)])
    rows = [line.split("\t") for line in out.read_text(encoding="utf-8").splitlines()[1:]]
    assert len(rows) == 6 and all(os.path.dirname(name) == label for name, label, _, _ in rows)


def test_an_engine_for_a_camera_and_one_for_folders_are_both_there(tiny_bundle, simulated):
    simulated("8.2.1")
    convert(tiny_bundle)
    convert(tiny_bundle, "--max-batch", "1")
    sample = Bundle.open(tiny_bundle).sample()
    assert sorted(os.listdir(os.path.join(tiny_bundle, "engines"))) == ["tensorrt-fp16", "tensorrt-fp16-b1"]
    for name in ("tensorrt-fp16", "tensorrt-fp16-b1"):
        with open_engine(Bundle.open(tiny_bundle), name, 1) as engine:
            assert engine.infer(sample.images[:1]).argmax() == sample.probabilities[0].argmax()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision, expected", [("fp32", False), ("fp16", True)])
def test_fp32_is_not_rounded_to_tf32(tiny_bundle, tmp_path, simulated, version, precision, expected):
    simulated(version, compute_capability=(8, 6))
    with open(build_here(tiny_bundle, tmp_path, precision), "rb") as file:
        header, _ = graph.read_plan(file.read())
    assert header["tf32"] is expected


def test_timings_of_another_cuda_are_kept_apart(tiny_bundle, tmp_path, simulated, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for version in ((10, 2, 0), (11, 4, 0)):
        simulated("8.2.1", cuda_version=version)
        (tmp_path / str(version[0])).mkdir()
        build(tiny_bundle, tmp_path / str(version[0]))
    names = os.listdir(str(tmp_path / "cache" / "picnic-edge" / "tensorrt"))
    assert sorted(name.split("cuda-")[1] for name in names) == ["10.2.0.timing", "11.4.0.timing"]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_from_11_on_the_model_has_the_precision(tiny_bundle, tmp_path, simulated, precision):
    simulator = simulated("11.1")
    settings = Settings(precision, 4, None, Bundle.open(tiny_bundle).sample())
    path = tmp_path / "model.onnx"
    bundle = Bundle.open(helpers.write_blocks_bundle(tmp_path / "blocks"))  # it has convolutions
    kind = tensorrt_model.write_model(onnx, simulator.tensorrt, bundle, settings, str(path))
    model = onnx.load(str(path))
    assert kind == "uint8"
    names = onnx.TensorProto.DataType.Name
    assert [names(value.type.tensor_type.elem_type) for value in model.graph.input] == ["UINT8"]
    assert [names(value.type.tensor_type.elem_type) for value in model.graph.output] == ["FLOAT"]
    zeros = [onnx.numpy_helper.to_array(value) for value in model.graph.initializer if "zero_point" in value.name]
    quantized = "QuantizeLinear" in [node.op_type for node in model.graph.node]
    halves = "FLOAT16" in [names(value.data_type) for value in model.graph.initializer]
    assert (halves, quantized) == (precision == "fp16", precision == "int8")
    assert {zero.dtype for zero in zeros} <= {np.dtype(np.int8)} and not any(zero.any() for zero in zeros)


def test_int8_of_11_goes_through_the_whole_conversion(tiny_bundle, simulated):
    simulated("11.1", **XAVIER)
    convert(tiny_bundle, "--precision", "int8")
    sample = Bundle.open(tiny_bundle).sample()
    with open_engine(Bundle.open(tiny_bundle), "tensorrt-int8") as engine:
        assert np.array_equal(engine.infer(sample.images[:5]).argmax(axis=1), sample.probabilities[:5].argmax(axis=1))


@pytest.mark.parametrize("version", ["8.2.1", "8.6.1", "10.3"])
def test_int8_is_calibrated_with_photos_where_the_gpu_has_it(tiny_bundle, simulated, version):
    simulated(version, **XAVIER)
    convert(tiny_bundle, "--precision", "int8", "--max-batch", "5")  # 12 photos: the last batch is filled up
    sample = Bundle.open(tiny_bundle).sample()
    with open_engine(Bundle.open(tiny_bundle), "tensorrt-int8-b5") as engine:
        assert engine._slots[0].pieces[0].host[INPUT_NAME].dtype == np.float32
        assert np.array_equal(engine.infer(sample.images[:5]).argmax(axis=1), sample.probabilities[:5].argmax(axis=1))


def test_the_calibrator_shows_every_photo_in_full_batches(simulated):
    simulator = simulated("8.2.1")
    pictures = np.arange(5 * 12, dtype=np.uint8).reshape(5, 2, 2, 3)
    shown = []
    with context.gpu_context():
        cuda = simulator.pycuda.driver
        memory = cuda.mem_alloc(3 * 12 * 4)
        calibrator = builder._calibrator(simulator.tensorrt, pictures, 3, memory)
        while calibrator.get_batch([INPUT_NAME]) == [int(memory)]:
            batch = np.empty((3, 2, 2, 3), np.float32)
            cuda.memcpy_dtoh(batch, memory)
            shown.append(batch)
        memory.free()
    assert np.array_equal(np.concatenate(shown), pictures[[0, 1, 2, 3, 4, 0]])
    assert (calibrator.get_batch_size(), calibrator.get_batch([INPUT_NAME])) == (3, None)


def test_a_gpu_without_memory_for_the_calibration_is_told(tiny_bundle, tmp_path, simulated):
    simulated(memory_limit_bytes=100, **XAVIER)
    with pytest.raises(MissingRequirement, match="4 photos .*out of memory.*--max-batch"):
        build_here(tiny_bundle, tmp_path, "int8")


def test_int8_is_refused_with_the_reason(tiny_bundle, tmp_path, simulated):
    simulated("8.2.1")
    with pytest.raises(MissingRequirement, match="int8.*--precision fp16"):
        build(tiny_bundle, tmp_path, "int8")


@pytest.mark.parametrize("version, precision, said", [("8.2.1", "int8", "int8"), ("11.1", "fp16", "onnxruntime")])
def test_what_cannot_be_made_here_is_refused_before_the_photos_are_read(
    tiny_bundle, simulated, monkeypatch, version, precision, said
):
    simulated(version)
    monkeypatch.setitem(sys.modules, "onnxruntime.transformers.float16", None)  # importing it raises ImportError
    monkeypatch.setattr("convert.reference.reference_sample", lambda *_: pytest.fail("the photos are read"))
    with pytest.raises(MissingRequirement, match=said):
        convert(tiny_bundle, "--precision", precision)


def test_what_a_failed_build_wrote_stays_till_the_full_disk_was_seen(tiny_bundle, tmp_path, simulated, monkeypatch):
    simulated()

    def fail(*_):
        raise ValueError("planted")

    monkeypatch.setattr(builder, "run_in_child", fail)
    with pytest.raises(ValueError, match="planted"):
        build(tiny_bundle, tmp_path)
    assert os.path.getsize(str(tmp_path / "scratch" / "model.onnx")) > 0


@pytest.mark.parametrize("version", ["8.2.1", "10.3"])
def test_what_the_parser_does_not_read_is_told_in_its_words(tiny_bundle, tmp_path, simulated, version):
    simulated(version, fail_parse="no such node as I know")
    with pytest.raises(MissingRequirement, match="UNSUPPORTED_NODE: no such node as I know"):
        build(tiny_bundle, tmp_path)


@pytest.mark.parametrize("version", ["8.2.1", "10.3"])
def test_a_build_that_gives_nothing_is_told_with_the_last_errors(tiny_bundle, tmp_path, simulated, version):
    simulated(version, fail_build="Could not find any implementation for node X.")
    with pytest.raises(MissingRequirement) as refused:
        build(tiny_bundle, tmp_path, "fp32", 4, 300)
    said = str(refused.value)
    assert "--workspace-mib, now 300" in said and "MiB of memory" in said
    assert "Could not find any implementation for node X." in said and "enginePtr != nullptr" in said
    assert sorted(os.listdir(str(tmp_path))) == ["bundle", "scratch"]  # no plan


@pytest.mark.parametrize("version", ["8.2.1", "10.3"])
def test_the_workspace_reaches_the_builder(tiny_bundle, tmp_path, simulated, version):
    simulated(version)
    with pytest.raises(MissingRequirement, match="implementation"):
        build_here(tiny_bundle, tmp_path, workspace_mib=0)
    assert os.path.getsize(build_here(tiny_bundle, tmp_path, workspace_mib=1)) > 0


def test_a_profile_that_is_not_accepted_is_told(simulated):
    simulator = simulated()
    config = types.SimpleNamespace(add_optimization_profile=lambda profile: -1)
    network = types.SimpleNamespace(get_input=lambda _: types.SimpleNamespace(shape=(-1, 299, 299, 3)))
    with pytest.raises(MissingRequirement, match="1 to 7"):
        builder.add_profile(simulator.tensorrt.Builder(make_log(simulator.tensorrt)), config, network, 7)


# --- the times that are kept


def test_the_next_build_starts_from_the_kept_times(tiny_bundle, tmp_path, simulated):
    simulator = simulated()
    build_here(tiny_bundle, tmp_path)
    kept = tmp_path / "cache" / "times"
    assert os.listdir(str(kept.parent)) == ["times"]
    config = simulator.tensorrt.Builder(make_log(simulator.tensorrt)).create_builder_config()
    cache = builder._use_timing_cache(config, str(kept))
    assert cache is config.get_timing_cache()
    assert bytes(cache.serialize()) == kept.read_bytes()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\0" * 1000])
def test_garbled_times_are_measured_anew(tiny_bundle, tmp_path, simulated, content):
    simulated()
    kept = tmp_path / "cache" / "times"
    kept.parent.mkdir()
    kept.write_bytes(content)
    build_here(tiny_bundle, tmp_path)
    assert len(kept.read_bytes()) > 0 and kept.read_bytes() != content


def test_times_of_another_version_are_measured_anew(tiny_bundle, tmp_path, simulated):
    kept = tmp_path / "cache" / "times"
    simulated("8.2.1")
    build_here(tiny_bundle, tmp_path)
    before = kept.read_bytes()
    simulated("8.6.1")
    build_here(tiny_bundle, tmp_path)
    assert kept.read_bytes() != before


def test_a_cache_that_cannot_be_written_costs_no_plan(tiny_bundle, tmp_path, simulated, capsys):
    simulated()
    (tmp_path / "cache").write_text("is no folder")
    assert os.path.getsize(build_here(tiny_bundle, tmp_path)) > 0
    assert "the timing cache cannot be saved" in capsys.readouterr().err


# --- a long build


def test_the_newest_log_line_is_shown_now_and_then(tiny_bundle, tmp_path, simulated, monkeypatch, capsys):
    simulated(progress=["tactic %d" % number for number in range(20)], build_s=0.4)
    monkeypatch.setattr(builder, "PROGRESS_EVERY_S", 0.05)
    build_here(tiny_bundle, tmp_path)
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("TensorRT, 0 s: tactic ")]
    assert 1 <= len(shown) < 20 and len(set(shown)) > 1


def test_a_long_line_is_cut_and_a_silent_build_is_shown_too(monkeypatch, capsys):
    monkeypatch.setattr(builder, "PROGRESS_EVERY_S", 0.01)
    with builder.progress_of_log() as note:
        time.sleep(0.2)
        note("x" * 1000)
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "TensorRT, 0 s: no message yet"
    assert lines[-1] == "TensorRT, 0 s: " + "x" * 150


def test_a_build_that_the_system_kills_is_told_with_the_memory_and_the_commands_for_swap(
    tiny_bundle, simulated, capsys
):
    import picnic_edge

    simulated(kill_in_build=True)
    before = checksums.list_files(tiny_bundle)
    assert picnic_edge.main(["convert", tiny_bundle, "--to", "tensorrt"]) == 4
    said = capsys.readouterr().err
    assert "killed by the system" in said and "MiB of memory" in said and "swapon" in said
    assert checksums.list_files(tiny_bundle) == before and not os.path.exists(os.path.join(tiny_bundle, "engines"))


def processes_with(text):
    """Returns the numbers of the processes that have a text in their command line or environment."""
    found = []
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/environ" % number, "rb") as file:
                if text.encode() in file.read():
                    found.append(int(number))
        except OSError:
            pass
    return found


def test_kill_9_during_the_build_leaves_the_bundle_as_it_was_and_no_process(tiny_bundle, tmp_path, simulated):
    simulated()
    convert(tiny_bundle, "--precision", "fp32")
    before = checksums.list_files(tiny_bundle)
    simulated(progress=["tactic"] * 600, build_s=60)
    mark = "PICNIC_EDGE_TEST_MARK=%s" % tmp_path
    environment = dict(os.environ, PICNIC_EDGE_TEST_MARK=str(tmp_path))
    environment["PYTHONPATH"] = os.pathsep.join([helpers.ROOT, environment["PYTHONPATH"]])
    command = [sys.executable, "-m", "picnic_edge", "convert", tiny_bundle, "--to", "tensorrt", "--precision", "fp32"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as tool:
        wait_for(lambda: len(processes_with(mark)) >= 2 and busy(tiny_bundle))
        tool.send_signal(signal.SIGKILL)
    wait_for(lambda: processes_with(mark) == [])
    after = checksums.list_files(tiny_bundle)
    assert {name: facts for name, facts in after.items() if ".unfinished/" not in name} == before
    simulated()
    with open_engine(Bundle.open(tiny_bundle)) as engine:
        assert engine.name == "tensorrt-fp32"
    convert(tiny_bundle, "--precision", "fp32")
    assert os.listdir(os.path.join(tiny_bundle, "engines")) == ["tensorrt-fp32"]


def busy(bundle):
    """Whether a conversion has written the model that the child reads."""
    return any(name.endswith("model.onnx") and "unfinished" in name for name in checksums.list_files(bundle))


def wait_for(condition, at_most_s=30):
    end = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < end, "waited %d s for nothing" % at_most_s
        time.sleep(0.02)
