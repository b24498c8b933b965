"""Engines of TensorRT for RTX, built by NVIDIA's own library, on a machine without a GPU."""

import glob
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from convert import cli, onnx_precision, tensorrt_rtx
from convert.conversion import Settings
from edge_runtime.bundle import writing
from edge_runtime.bundle.manifest import INPUT_NAME, MANIFEST, OUTPUT_NAME
from edge_runtime.bundle.reading import Bundle
from edge_runtime.engines import check
from edge_runtime.engines.tensorrt.engine import PLAN
from edge_runtime.errors import MissingRequirement, ParityError
from edge_runtime.photos.spec import INCEPTION_V3, to_manifest
from tests import helpers
from tests.conftest import BUILD
from tests.simulator import rtx

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

real = pytest.mark.skipif(
    importlib.util.find_spec(tensorrt_rtx.LIBRARY) is None,
    reason="needs TensorRT for RTX: pip install 'picnic-edge[tensorrt-rtx]' (Python 3.8 or newer, Linux on x86-64)",
)


def run(*arguments):
    return helpers.picnic_edge(*arguments, env={"CUDA_VISIBLE_DEVICES": ""})  # as where there is no GPU


def convert(bundle, *options):
    return run("convert", bundle, "--to", "tensorrt-rtx", *options)


def record_of(bundle, precision):
    path = os.path.join(bundle, "engines", "tensorrt-rtx-" + precision, "engine.json")
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def change_model(bundle, change):
    """Rewrites a bundle's model; change: what to do to its graph."""
    path = os.path.join(bundle, "model.onnx")
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)
    os.unlink(os.path.join(bundle, MANIFEST))
    writing.write_manifest(bundle, sorted(helpers.COLOURS), to_manifest(INCEPTION_V3), {}, {})


@real
@pytest.mark.parametrize("precision", tensorrt_rtx.PRECISIONS)
def test_a_bundle_is_built_and_published_as_not_yet_checked(tiny_bundle, precision):
    done = convert(tiny_bundle, "--precision", precision, "--gpus", "Blackwell, ADA")
    assert done.returncode == 0, done.stderr
    assert "not yet checked on a GPU" in done.stdout.decode() and "through onnxruntime" in done.stderr
    record = record_of(tiny_bundle, precision)
    assert (record["gpu_checks"], record["gpus"], record["gpu"]) == ([], "ada,blackwell", None)
    assert record["images_per_s"] is None and record["machine"]["cpu_features"] == []
    assert (record["input_dtype"], list(record["files"])) == ("uint8", [PLAN])
    assert record["parity"]["top1_agreement"] == 1 and record["checked_through"] == "onnxruntime"
    photos = os.path.join(tiny_bundle, "sample")
    done = run("classify", tiny_bundle, photos, "--engine", "tensorrt-rtx-" + precision)
    assert done.returncode == 4 and "not yet checked on a GPU" in done.stderr


@pytest.fixture
def pc(simulated, monkeypatch):
    """pc(**knobs): a PC with an RTX 4070, or another GPU. It is simulated; so is NVIDIA's builder."""

    def build_plan(what, function, model, plan, max_batch, workspace_mib, capabilities):
        names = capabilities or ["SM80", "SM86", "SM89", "SM120"]
        with open(model, "rb") as file:
            content = rtx.write_plan(file.read(), [[int(name[2:-1]), int(name[-1])] for name in names])
        helpers.write_bytes(plan, content)

    def install(**knobs):
        here = {"rtx": True, "compute_capability": (8, 9), "device_name": "RTX 4070"}
        return simulated("11.1", **dict(here, **knobs))

    monkeypatch.setattr(tensorrt_rtx, "run_in_child", build_plan)
    monkeypatch.setattr(check, "SPEED_S", 0.01)
    return install


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_where_the_gpu_runs_the_plan_it_is_checked_there(tiny_bundle, pc, precision):
    pc()
    cli.main([tiny_bundle, "--to", "tensorrt-rtx", "--precision", precision])
    record = record_of(tiny_bundle, precision)
    (entry,) = record["gpu_checks"]
    assert entry["gpu"]["name"] == "RTX 4070" and entry["refused"] == "" and list(record["files"]) == [PLAN]
    assert entry["images_per_s"] == record["images_per_s"] > 0


@pytest.mark.parametrize(
    "knobs, options",
    [
        ({}, ["--gpus", "blackwell"]),
        ({"compute_capability": (7, 5), "device_name": "RTX 2070"}, []),
        ({"fail_context": True}, []),  # another program has the GPU's memory
    ],
)
def test_where_the_gpu_does_not_open_the_plan_it_is_published_unchecked(tiny_bundle, pc, capsys, knobs, options):
    pc(**knobs)
    cli.main([tiny_bundle, "--to", "tensorrt-rtx"] + options)
    said = capsys.readouterr()
    assert "cannot run here" in said.err and "not yet checked on a GPU" in said.out
    record = record_of(tiny_bundle, "fp16")
    assert (record["gpu_checks"], record["checked_through"], list(record["files"])) == ([], "onnxruntime", [PLAN])


def test_a_fault_of_the_model_that_the_plan_is_made_of_is_refused(tiny_bundle, pc, monkeypatch):
    pc(compute_capability=(7, 5))
    half_precision = onnx_precision.half_precision

    def spoiled(model):
        model = half_precision(model)
        for value in model.graph.initializer:
            if value.name in ("weights", "bias"):
                rolled = np.roll(onnx.numpy_helper.to_array(value), 1, axis=-1)
                value.CopyFrom(onnx.numpy_helper.from_array(rolled, value.name))
        return model

    monkeypatch.setattr(onnx_precision, "half_precision", spoiled)
    with pytest.raises(ParityError):
        cli.main([tiny_bundle, "--to", "tensorrt-rtx"])
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


def test_without_onnxruntime_it_ends_before_the_build(tiny_bundle, pc, monkeypatch):
    pc()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingRequirement, match="pip install onnxruntime"):
        tensorrt_rtx.check("fp32")


def test_an_engine_of_version_0_2_goes_when_its_successor_is_there(tiny_bundle, pc, capsys):
    pc()
    arguments = [tiny_bundle, "--to", "tensorrt-rtx", "--precision", "fp32", "--max-batch"]
    engines = os.path.join(tiny_bundle, "engines")
    cli.main(arguments + ["4"])
    os.rename(os.path.join(engines, "tensorrt-rtx-fp32-b4"), os.path.join(engines, "tensorrt-rtx-fp32"))
    cli.main(arguments + ["2"])
    assert sorted(os.listdir(engines)) == ["tensorrt-rtx-fp32", "tensorrt-rtx-fp32-b2"]
    cli.main(arguments + ["4"])
    assert sorted(os.listdir(engines)) == ["tensorrt-rtx-fp32-b2", "tensorrt-rtx-fp32-b4"]
    assert "tensorrt-rtx-fp32-b4 takes its place" in capsys.readouterr().err


def write_large_model(path):
    """Writes a network with 9 million weights, drawn at random: an InceptionV3 has 22 million and takes longer."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.RandomState(0)
    constants = {"scale": np.float32(1 / 127.5), "first": random.randn(512, 3, 3, 3) / 5}
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["small"], kernel_shape=[37, 37], strides=[37, 37]),
        helper.make_node("Conv", ["small", "first"], ["features"], pads=[1] * 4),
    ]
    source = "features"
    for number in range(4):
        kernel, result = "kernel%d" % number, "result%d" % number
        constants[kernel] = random.randn(512, 512, 3, 3) * np.sqrt(2 / (512 * 9))
        nodes.append(helper.make_node("Relu", [source], [result + " in"]))
        nodes.append(helper.make_node("Conv", [result + " in", kernel], [result], pads=[1] * 4, name=result))
        source = result
    nodes += [
        helper.make_node("ReduceMean", [source], ["pooled"], axes=[2, 3], keepdims=0),
        helper.make_node("Softmax", ["pooled"], [OUTPUT_NAME], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["batch", *INCEPTION_V3.shape])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", 512])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 7
    onnx.save(model, str(path))


def plan_bytes(bundle, precision, folder):
    """Builds an engine from a bundle. Returns the size of its plan in bytes."""
    os.makedirs(str(folder))
    sample = Bundle.open(bundle).sample()
    few = sample._replace(images=sample.images[:4], probabilities=sample.probabilities[:4])
    tensorrt_rtx.build(Bundle.open(bundle), Settings(precision, 8, None, few), str(folder))
    return os.path.getsize(os.path.join(str(folder), PLAN))


@real
def test_lower_precisions_make_smaller_plans(tiny_bundle, tmp_path):
    write_large_model(os.path.join(tiny_bundle, "model.onnx"))
    os.unlink(os.path.join(tiny_bundle, MANIFEST))
    writing.write_manifest(tiny_bundle, sorted(helpers.COLOURS), to_manifest(INCEPTION_V3), {}, {})
    fp32, fp16, int8 = (
        plan_bytes(tiny_bundle, precision, tmp_path / precision) for precision in ("fp32", "fp16", "int8")
    )
    assert 0.45 < fp16 / fp32 < 0.55
    assert int8 < 0.6 * fp16


@real
@pytest.mark.slow
def test_a_trained_bundle_s_plans_too(tmp_path):
    manifests = sorted(glob.glob(os.path.join(BUILD, "python*", MANIFEST)))  # none in the folder of a training
    if not manifests:
        pytest.skip("no trained bundle in %s: the tests in tests/train leave some there" % BUILD)
    bundle = os.path.dirname(manifests[0])
    fp32, fp16, int8 = (plan_bytes(bundle, precision, tmp_path / precision) for precision in ("fp32", "fp16", "int8"))
    assert 0.45 < fp16 / fp32 < 0.55
    assert int8 < fp16


@real
def test_an_operator_that_the_library_lacks_is_named(tiny_bundle):
    def change(graph):
        softmax = graph.node[-1]
        graph.initializer.append(onnx.numpy_helper.from_array(np.ones(3, bool), "all"))
        compress = onnx.helper.make_node("Compress", ["logits", "all"], ["chosen"], axis=1, name="planted")
        graph.node.insert(len(graph.node) - 1, compress)
        softmax.input[0] = "chosen"

    change_model(tiny_bundle, change)
    done = convert(tiny_bundle, "--precision", "fp32")
    assert done.returncode == 4
    assert "cannot read the model" in done.stderr and "planted" in done.stderr
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


@real
def test_values_too_large_for_half_precision_are_refused_without_a_gpu(tiny_bundle):
    def change(graph):  # times 1000 and back: 255 becomes 255000, float16 ends at 65504
        for name, factor in (("up", 1000), ("down", 0.001)):
            graph.initializer.append(onnx.numpy_helper.from_array(np.float32(factor), name))
        graph.node.insert(1, onnx.helper.make_node("Mul", ["pixels", "up"], ["many"]))
        graph.node.insert(2, onnx.helper.make_node("Mul", ["many", "down"], ["few"]))
        graph.node[3].input[0] = "few"

    change_model(tiny_bundle, change)
    done = convert(tiny_bundle, "--precision", "fp16")
    assert done.returncode == 6 and "NaN or infinite" in done.stderr
    assert convert(tiny_bundle, "--precision", "fp32").returncode == 0


@real
def test_the_runtime_s_names_are_the_real_ones(simulated):
    """Also those that only the simulator runs: nothing that the real module lacks is modelled."""
    code = (
        "import json, tensorrt_rtx_bindings as trt\n"
        "print(json.dumps({name: dir(getattr(trt, name)) for name in dir(trt)}))"
    )
    # In a process of its own: the library takes 220 MB.
    real_names = json.loads(subprocess.check_output([sys.executable, "-c", code]).decode())
    one = simulated("11.1", rtx=True)
    for name in ("Runtime", "ICudaEngine", "IExecutionContext", "EngineValidity", "EngineInvalidityDiagnostics"):
        modelled = getattr(one.tensorrt, name)
        assert {member for member in vars(modelled) if not member.startswith("_")} <= set(real_names[name])
    for name, members in (
        (
            "IRuntimeConfig",
            ["create_runtime_cache", "set_runtime_cache", "dynamic_shapes_kernel_specialization_strategy"],
        ),
        ("IRuntimeCache", ["serialize", "deserialize"]),
        ("DynamicShapesKernelSpecializationStrategy", ["EAGER"]),
        ("ComputeCapability", [name for names in tensorrt_rtx.GPUS.values() for name in names]),
    ):
        assert set(members) <= set(real_names[name])


def test_without_the_library_it_exits_with_4_and_says_how_to_get_it(tiny_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, tensorrt_rtx.LIBRARY, None)
    with pytest.raises(MissingRequirement, match=r"picnic-edge\[tensorrt-rtx\]"):
        tensorrt_rtx.check("fp16")


@pytest.mark.parametrize(
    "options, said", [(["tensorrt-rtx", "--gpus", "pascal"], "turing"), (["openvino", "--gpus", "ada"], "--gpus")]
)
def test_gpus_that_cannot_be_meant_exit_with_2(tiny_bundle, options, said):
    done = helpers.picnic_edge("convert", tiny_bundle, "--to", *options)
    assert done.returncode == 2 and said in done.stderr
