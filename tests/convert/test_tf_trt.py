"""TF-TRT: probed without ending the process, converted in the right order, its engines checked after saving.

No TensorFlow here has TensorRT: the converter is a fake that is strict about names, types and the order of calls, and
the real wheels are asked for their signatures.
"""

import inspect
import os
import platform
import sys
import types

import numpy as np
import pytest

import picnic_edge
from convert import child, cli, tf_trt
from convert.conversion import Settings
from edge_runtime.bundle.reading import Bundle
from edge_runtime.engines import tf_trt as engine_module
from edge_runtime.engines.kinds import create_engine
from edge_runtime.engines.record import EngineInfo
from edge_runtime.engines.tf_trt import Probe
from edge_runtime.errors import BundleError, MissingRequirement
from edge_runtime.photos.spec import INCEPTION_V3
from tests import helpers

tensorflow = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

BOARD = Probe("2.7.0", (8, 2, 1), (8, 2, 1))
GPU = {"name": "NVIDIA Tegra X2", "compute_capability": "6.2"}
FIELDS = [
    "max_workspace_size_bytes",
    "precision_mode",
    "minimum_segment_size",
    "maximum_cached_engines",
    "use_calibration",
    "allow_build_at_runtime",
]


def node(name, op, **functions):
    made = tensorflow.compat.v1.NodeDef(name=name, op=op)
    for attribute, function in functions.items():
        made.attr[attribute].func.name = function
    return made


def graph_of(nodes, **functions):
    """Returns a GraphDef with nodes, and with a function of nodes for each keyword."""
    graph = tensorflow.compat.v1.GraphDef(node=nodes)
    for name, inner in functions.items():
        function = graph.library.function.add()
        function.signature.name = name
        function.node_def.extend(inner)
    return graph


# What the converter makes of an InceptionV3: the cast of uint8 stays outside.
CONVERTED = graph_of(
    [
        node("images", "Placeholder"),
        node("Cast", "Cast"),
        node("TRTEngineOp_0_0", "TRTEngineOp", segment_func="TRTEngineOp_0_0_native_segment"),
        node("Identity", "Identity"),
    ],
    TRTEngineOp_0_0_native_segment=[
        node("weights", "Const"),
        node("Conv2D", "Conv2D"),
        node("Relu", "Relu"),
        node("Softmax", "Softmax"),
    ],
)


class Converter:
    """TrtGraphConverterV2 as TensorFlow 2.7 has it, as far as it is used; build() runs nothing."""

    converted = CONVERTED
    builds = None  # batches whose engines can be built, None for all

    def __init__(
        self,
        input_saved_model_dir=None,
        input_saved_model_tags=None,
        input_saved_model_signature_key=None,
        use_dynamic_shape=None,
        dynamic_shape_profile_strategy=None,
        conversion_params=None,
    ):
        assert os.path.isdir(input_saved_model_dir)
        assert isinstance(conversion_params, self.module.TrtConversionParams)
        assert conversion_params.precision_mode in ("FP32", "FP16")
        self.parameters = conversion_params
        self.module.made.append(self)
        self.engines, self.calls = [], []

    def convert(self, calibration_input_fn=None):
        assert self.calls == [] and calibration_input_fn is None
        self.calls.append("convert")
        return types.SimpleNamespace(graph=types.SimpleNamespace(as_graph_def=lambda: self.converted))

    def build(self, input_fn):
        assert self.calls == ["convert"]
        self.calls.append("build")
        for inputs in input_fn():
            assert isinstance(inputs, (list, tuple)) and len(inputs) == 1
            (batch,) = inputs
            assert batch.dtype == np.uint8 and batch.shape[1:] == (299, 299, 3)
            if any(len(batch) <= engine for engine in self.engines):
                continue  # one that is there can hold it
            if self.builds is not None and len(batch) not in self.builds:
                continue  # TensorFlow only logs that it could not build
            if self.module.hands_runtime_flag_to_build and not self.parameters.allow_build_at_runtime:
                continue
            if len(self.engines) < self.parameters.maximum_cached_engines:
                self.engines.append(len(batch))

    def save(self, output_saved_model_dir):
        assert self.calls == ["convert", "build"]
        self.calls.append("save")
        os.makedirs(os.path.join(output_saved_model_dir, "assets"))
        for made in self.converted.node:
            if made.op == "TRTEngineOp" and (self.engines or self.module.writes_empty_assets):
                name = "trt-serialized-engine." + made.name.split("/")[-1]
                with tensorflow.io.TFRecordWriter(os.path.join(output_saved_model_dir, "assets", name)) as file:
                    for engine in self.engines:
                        file.write(b"engine for %d" % engine)


@pytest.fixture
def fake(monkeypatch):
    """The fake trt_convert module in place of TensorFlow's, on a machine like the board."""
    from collections import namedtuple

    parameters = namedtuple("TrtConversionParams", FIELDS)
    module = types.SimpleNamespace(
        TrtConversionParams=parameters,
        DEFAULT_TRT_CONVERSION_PARAMS=parameters(1 << 30, "FP32", 3, 1, True, True),
        TrtGraphConverterV2=type("FakeConverter", (Converter,), {}),
        made=[],
        hands_runtime_flag_to_build=False,
        writes_empty_assets=True,
    )
    module.TrtGraphConverterV2.module = module
    real = tf_trt.require
    names = {"tensorflow.python.compiler.tensorrt.trt_convert": module}
    monkeypatch.setattr(tf_trt, "require", lambda name: names.get(name) or real(name))
    monkeypatch.setattr(engine_module, "probe", lambda: BOARD)
    monkeypatch.setattr(engine_module, "require_gpu", lambda: GPU)
    return module


@pytest.fixture
def source(tmp_path):
    os.makedirs(str(tmp_path / "source"))
    return str(tmp_path / "source")


def converted(source, tmp_path, precision="fp16", max_batch=8, workspace_mib=512):
    return tf_trt.convert(source, str(tmp_path / "target"), precision, max_batch, workspace_mib, (299, 299, 3))


# ---- the conversion


def test_a_conversion_asks_for_what_the_board_needs(fake, source, tmp_path):
    facts = converted(source, tmp_path)
    (made,) = fake.made
    assert made.calls == ["convert", "build", "save"]
    assert made.parameters == (512 << 20, "FP16", 3, 2, False, False)
    assert made.engines == [1, 8]
    assert facts == {
        "segments": ["TRTEngineOp_0_0"],
        "ops_in_engines": 3,
        "ops": 4,
        "batches": [1, 8],
        "gpu": GPU,
        "libraries": {"tensorflow": "2.7.0", "tensorrt": "8.2.1"},
    }


def test_one_photo_at_a_time_needs_one_engine(fake, source, tmp_path):
    assert converted(source, tmp_path, precision="fp32", max_batch=1)["batches"] == [1]
    assert fake.made[0].parameters[:4] == (512 << 20, "FP32", 3, 1)


@pytest.mark.parametrize("version, allowed", [("2.6.2", True), ("2.7.0", False), ("2.10.0", False), ("2.17.1", False)])
def test_tensorflow_2_6_would_build_nothing_if_it_were_told_not_to_build_later(
    fake, source, tmp_path, monkeypatch, version, allowed
):
    monkeypatch.setattr(engine_module, "probe", lambda: BOARD._replace(tensorflow=version))
    fake.hands_runtime_flag_to_build = version.startswith("2.6")
    converted(source, tmp_path)
    assert fake.made[0].parameters.allow_build_at_runtime == allowed
    assert fake.made[0].engines == [1, 8]


@pytest.mark.parametrize("builds, empty, count", [([1], True, 1), ([], True, 0), ([], False, 0)])
def test_engines_that_could_not_be_built_are_an_error(fake, source, tmp_path, builds, empty, count):
    fake.TrtGraphConverterV2.builds = builds
    fake.writes_empty_assets = empty
    with pytest.raises(MissingRequirement, match="%d of 2 .*TRTEngineOp_0_0.*--max-batch 1" % count):
        converted(source, tmp_path)


def test_a_graph_without_engines_is_an_error(fake, source, tmp_path):
    fake.TrtGraphConverterV2.converted = graph_of([node("images", "Placeholder"), node("Conv2D", "Conv2D")])
    with pytest.raises(MissingRequirement, match="TensorRT.*--to tensorrt"):
        converted(source, tmp_path)
    assert fake.made[0].calls == ["convert"]


def test_a_slow_protobuf_is_told_with_its_mend(fake, source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engine_module, "slow_protobuf", lambda: "protobuf is slow")
    converted(source, tmp_path)
    assert "warning: protobuf is slow" in capsys.readouterr().err


# ---- coverage


def test_coverage_counts_calls_inside_out():
    graph = graph_of(
        [node("call", "PartitionedCall", f="inner"), node("out", "Identity"), node("Cast", "Cast")],
        inner=[
            node("a/TRTEngineOp_0", "TRTEngineOp", segment_func="first"),
            node("b", "Softmax"),
            node("TRTEngineOp_1", "TRTEngineOp", segment_func="second"),
        ],
        first=[node("c", "Conv2D"), node("d", "Relu"), node("w", "Const")],
        second=[node("e", "MatMul")],
        unused=[node("f", "MatMul")],
    )
    assert tf_trt.cover(graph) == (["a/TRTEngineOp_0", "TRTEngineOp_1"], 3, 5)


def test_coverage_of_a_real_unconverted_saved_model(tiny_bundle):
    helpers.add_tiny_saved_model(tiny_bundle)
    model = tensorflow.saved_model.load(os.path.join(tiny_bundle, "saved_model"))
    found = tf_trt.cover(model.signatures["serving_default"].graph.as_graph_def())
    assert found.segments == [] and found.ops_in_engines == 0
    assert found.ops >= 5  # cast, divide, mean, product, sum, softmax


# ---- the verb


def settings(precision="fp16", max_batch=4, workspace_mib=None):
    return Settings(precision, max_batch, workspace_mib, None)


@pytest.mark.parametrize("given, used", [(None, 512), (256, 256)])
def test_the_verb_builds_in_a_process_of_its_own(fake, tiny_bundle, tmp_path, monkeypatch, capsys, given, used):
    helpers.add_tiny_saved_model(tiny_bundle)
    names = []

    def here(what, function, *arguments):
        names.append(what)
        return function(*arguments)

    monkeypatch.setattr(tf_trt, "run_in_child", here)
    facts = tf_trt.build(Bundle.open(tiny_bundle), settings(workspace_mib=given), str(tmp_path))
    assert names == ["tf-trt-fp16-b4"]
    assert fake.made[0].parameters.max_workspace_size_bytes == used << 20
    assert facts["batches"] == [1, 4]
    assert os.listdir(str(tmp_path / "saved_model" / "assets")) == ["trt-serialized-engine.TRTEngineOp_0_0"]
    said = capsys.readouterr().err
    assert "tf-trt-fp16-b4: 3 of 4 operations run in TensorRT, in 1 segment, for batches of 1 and 4" in said


def test_the_probe_is_asked_before_the_photos_are_read(tiny_bundle, monkeypatch):
    monkeypatch.setattr(tf_trt, "run_in_child", lambda what, function: function())
    monkeypatch.setattr(engine_module, "probe", lambda: Probe("2.21.0", (0, 0, 0), None))
    monkeypatch.setattr("convert.reference.reference_sample", lambda *_: pytest.fail("the photos are read"))
    helpers.add_tiny_saved_model(tiny_bundle)
    with pytest.raises(MissingRequirement, match="TensorFlow 2.21.0 .*TensorRT"):
        cli.main([tiny_bundle, "--to", "tf-trt"])


def test_a_bundle_without_a_saved_model_is_refused(fake, tmp_path):
    with pytest.raises(BundleError, match="source: .*TF-TRT"):
        converted(str(tmp_path / "source"), tmp_path)
    assert fake.made == []


@pytest.mark.skipif(engine_module.probe().loaded is not None, reason="this TensorFlow has TensorRT")
def test_without_tensorrt_the_verb_ends_with_4_and_says_what_to_install(tiny_bundle, monkeypatch, capsys):
    # TensorFlow is asked in this process, which has it already.
    monkeypatch.setattr(tf_trt, "run_in_child", lambda what, function, *arguments: function(*arguments))
    helpers.add_tiny_saved_model(tiny_bundle)
    assert picnic_edge.main(["convert", tiny_bundle, "--to", "tf-trt"]) == 4
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    assert "TensorRT" in err and "To get it: on a Jetson install NVIDIA's own TensorFlow" in err
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


def test_the_verb_knows_the_builder():
    assert cli.TARGETS["tf-trt"] == tf_trt.__name__
    assert tf_trt.PRECISIONS == ("fp16", "fp32")
    assert tf_trt.run_in_child is child.run_in_child


# ---- the probe, and the engine


@pytest.mark.parametrize(
    "found, problem",
    [
        (Probe("2.21.0", (0, 0, 0), None), "TensorFlow 2.21.0 .*TensorRT"),
        (Probe("2.6.2", (7, 2, 2), None), "TensorFlow 2.6.2 .*TensorRT 7.2.2"),
        (Probe("2.7.0", (8, 2, 1), (7, 1, 3)), "TensorRT 8.2.1.*7.1.3"),
        (Probe("2.7.0", (7, 1, 3), (8, 2, 1)), "TensorRT 7.1.3.*8.2.1"),
        (Probe("2.17.0", (8, 6, 1), (8, 5, 3)), "TensorRT 8.6.1.*8.5.3"),
    ],
)
def test_a_tensorrt_that_does_not_fit_is_named_with_what_to_install(found, problem):
    with pytest.raises(MissingRequirement, match=problem):
        engine_module.require_tensorrt(found)


@pytest.mark.parametrize("loaded", [(8, 2, 1), (8, 6, 1)])
def test_the_same_or_a_newer_tensorrt_fits(loaded):
    assert engine_module.require_tensorrt(BOARD._replace(loaded=loaded)) is None


def test_the_loaded_version_is_asked_only_where_there_is_one(monkeypatch):
    def abort():
        raise AssertionError("TensorFlow 2.6 would end the process here")

    flags = types.SimpleNamespace(
        is_tensorrt_enabled=lambda: False,
        get_linked_tensorrt_version=lambda: (7, 2, 2),
        get_loaded_tensorrt_version=abort,
    )
    modules = {"tensorflow.compiler.tf2tensorrt._pywrap_py_utils": flags, "tensorflow": tensorflow}
    monkeypatch.setattr(engine_module, "require", modules.__getitem__)
    assert engine_module.probe() == (tensorflow.__version__, (7, 2, 2), None)
    flags.is_tensorrt_enabled, flags.get_loaded_tensorrt_version = lambda: True, lambda: [8, 2, 1]
    assert engine_module.probe().loaded == (8, 2, 1)


def test_here_says_what_engine_json_keeps(fake):
    assert engine_module.local_facts() == {"libraries": {"tensorflow": "2.7.0", "tensorrt": "8.2.1"}, "gpu": GPU}


def test_the_first_gpu_is_named_and_its_memory_grows_as_needed(monkeypatch):
    grown = []

    def grow(gpu, enable):
        grown.append((gpu, enable))
        raise RuntimeError("Physical devices cannot be modified after being initialized")

    experimental = types.SimpleNamespace(
        set_memory_growth=grow,
        get_device_details=lambda gpu: {"device_name": gpu + "'s name", "compute_capability": (6, 2)},
    )
    config = types.SimpleNamespace(
        list_physical_devices=lambda kind: [kind + "0", kind + "1"], experimental=experimental
    )
    monkeypatch.setattr(engine_module, "require", lambda name: types.SimpleNamespace(config=config))
    assert engine_module.require_gpu() == {"name": "GPU0's name", "compute_capability": "6.2"}
    assert grown == [("GPU0", True), ("GPU1", True)]


@pytest.mark.skipif(bool(tensorflow.config.list_physical_devices("GPU")), reason="there is a GPU")
def test_no_gpu_is_said():
    with pytest.raises(MissingRequirement, match="GPU.*`picnic-edge doctor`"):
        engine_module.require_gpu()


@pytest.mark.parametrize("kind, slow", [("cpp", False), ("upb", False), ("python", True)])
def test_only_python_s_protobuf_is_slow(monkeypatch, kind, slow):
    monkeypatch.setattr(engine_module, "require", lambda name: types.SimpleNamespace(Type=lambda: kind))
    said = engine_module.slow_protobuf()
    assert bool(said) == slow
    assert not slow or "may take minutes" in said and engine_module.fix_for_protobuf() in said


@pytest.mark.parametrize(
    "python, architecture, mend",
    [
        ((3, 6), "aarch64", "docs/jetson/tx2.md"),
        ((3, 6), "x86_64", "'protobuf<3.20'"),
        ((3, 11), "aarch64", "--force-reinstall protobuf"),
    ],
)
def test_protobuf_s_mend_is_one_that_there_is(monkeypatch, python, architecture, mend):
    monkeypatch.setattr(sys, "version_info", python)
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    assert mend in engine_module.fix_for_protobuf()


def test_the_engine_runs_a_saved_model_from_its_own_folder(fake, tiny_bundle, tmp_path, monkeypatch):
    helpers.add_tiny_saved_model(tiny_bundle)
    opened = Bundle.open(tiny_bundle)
    os.rename(opened.file("saved_model"), str(tmp_path / engine_module.SAVED_MODEL))
    info = EngineInfo("tf-trt-fp16", "tf-trt", "fp16", str(tmp_path), {})
    sample = opened.sample()
    with engine_module.create(info, INCEPTION_V3.shape, 3, 8, 1).open() as engine:
        answers = np.concatenate([engine.infer(sample.images[:8]), engine.infer(sample.images[8:])])
    assert np.abs(answers - sample.probabilities).max() < 1e-3
    engine.close()


@pytest.mark.skipif(engine_module.probe().loaded is not None, reason="this TensorFlow has TensorRT")
def test_the_engine_does_not_open_without_tensorrt(tmp_path):
    info = EngineInfo("tf-trt-fp16", "tf-trt", "fp16", str(tmp_path), {})
    with pytest.raises(MissingRequirement, match="TensorRT"):
        engine_module.create(info, INCEPTION_V3.shape, 3, 8, 1).open()


# ---- what the wheels say of themselves


@pytest.fixture
def wheel():
    """TensorFlow's real converter module: importing it is safe everywhere, making a converter is not."""
    return pytest.importorskip("tensorflow.python.compiler.tensorrt.trt_convert")


def test_the_real_converter_takes_what_it_is_given(wheel):
    real = wheel.TrtGraphConverterV2
    made = inspect.signature(real.__init__).bind(None, input_saved_model_dir="x", conversion_params=None)
    assert set(made.arguments) == {"self", "input_saved_model_dir", "conversion_params"}  # not swallowed by **kwargs
    assert list(inspect.signature(real.convert).bind(None).arguments) == ["self"]
    assert set(inspect.signature(real.build).bind(None, input_fn=None).arguments) == {"self", "input_fn"}
    assert len(inspect.signature(real.save).bind(None, "x").arguments) == 2


def test_the_fake_converter_takes_no_more_than_the_real(wheel):
    for name in ("__init__", "convert", "build", "save"):
        fake_names = list(inspect.signature(getattr(Converter, name)).parameters)
        assert set(fake_names) <= set(inspect.signature(getattr(wheel.TrtGraphConverterV2, name)).parameters), name


@pytest.mark.parametrize("version, late", [("2.6.2", True), ("2.7.0", False)])
def test_the_real_conversion_parameters_take_what_is_set(wheel, version, late):
    assert list(wheel.TrtConversionParams._fields) == FIELDS
    made = tf_trt._parameters(wheel, version, "fp16", 2, 256)
    assert isinstance(made, wheel.TrtConversionParams)
    assert made == (256 << 20, "FP16", 3, 2, False, late)
    assert made.precision_mode in wheel.TrtPrecisionMode.supported_precision_modes()


def test_the_real_wheel_names_assets_and_segments_as_expected(wheel):
    assert wheel._get_canonical_engine_name("a/TRTEngineOp_0_1") == "TRTEngineOp_0_1"
    source = inspect.getsource(wheel)
    assert '"trt-serialized-engine."' in source and '"TRTEngineOp"' in source


def test_the_real_build_gives_a_tuple_as_arguments(wheel):
    if not hasattr(wheel, "_convert_to_tensor"):
        pytest.skip("this TensorFlow's build() gives every input as arguments")
    arguments, named = wheel._convert_to_tensor((np.zeros([2, 3], np.uint8),))
    assert [tuple(argument.shape) for argument in arguments] == [(2, 3)] and named == {}


def test_a_false_flag_reaches_the_real_converted_graph_only_where_it_is_known_to(wheel):
    handed_on = "_replace(\n            allow_build_at_runtime=True)" not in inspect.getsource(wheel)
    assert handed_on == tensorflow.__version__.startswith("2.6.")


def test_kinds_find_their_module():
    info = EngineInfo("tf-trt-fp16", "tf-trt", "fp16", "/nowhere", {})
    assert isinstance(create_engine(info, INCEPTION_V3.shape, 3, 8, 1), engine_module.TfTrtEngine)
