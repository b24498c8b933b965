"""The roofline: the work of a photo counted by hand and by the graph, the machine's limits, an engine below them."""

import json

import pytest

from benchmarks.bench import roofline
from edge_runtime.errors import BundleError
from edge_runtime.machine import cpu, libraries

WORK = {
    "macs_per_image": 500,
    "flops_per_image": 1000,
    "weight_values": 100,
    "activation_values_per_image": 50,
    "input_bytes_per_image": 20,
}
PEAKS = {
    "threads": 2,
    "copy_bytes_per_s": 62000,
    "numpy_fp32_flops_per_s": 40000,
    "openvino_fp32_flops_per_s": 100000,
    "openvino_bf16_flops_per_s": 300000,
}


def write_model(path, batch="batch", side=8):
    """Cast, then 1x1 Conv in 2 groups with bias, MaxPool, 3x3 Conv, GlobalAveragePool, MatMul, Gemm."""
    onnx = pytest.importorskip("onnx")
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    shapes = {"grouped": [6, 2, 1, 1], "bias": [6], "three": [5, 6, 3, 3], "dense": [5, 4], "last": [4, 3]}
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "grouped", "bias"], ["a"], group=2),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["c", "three"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "dense"], ["g"]),
        helper.make_node("Gemm", ["g", "last"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "counted",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, 4, side, side])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in shapes.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 7
    onnx.save(model, str(path))
    return str(path)


def test_the_work_of_a_small_graph_is_what_a_hand_counts(tmp_path):
    found = roofline.count_work(write_model(tmp_path / "model.onnx"))
    macs = 6 * 8 * 8 * 2 + 5 * 2 * 2 * 6 * 9 + 4 * 5 + 3 * 4
    assert found == {
        "macs_per_image": macs,
        "flops_per_image": 2 * macs,
        "weight_values": 6 * 2 + 6 + 5 * 6 * 9 + 5 * 4 + 4 * 3,
        "activation_values_per_image": 6 * 8 * 8 + 6 * 4 * 4 + 5 * 2 * 2 + 5 + 4 + 3,
        "input_bytes_per_image": 4 * 8 * 8,
    }


def test_a_graph_of_another_framework_is_counted_too(tmp_path):
    """Depthwise and transposed convolutions, weights as float16 and as Constant nodes, attention, a shape computed."""
    onnx = pytest.importorskip("onnx")
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weights = {
        "half": np.zeros((4, 4, 1, 1), np.float16),
        "depthwise": np.zeros((4, 1, 3, 3), np.float32),
        "up": np.zeros((4, 5, 2, 2), np.float32),
        "rows": np.zeros((3, 5), np.float32),
        "last": np.int64([-1]),
        "channels": np.int64([5]),
        "first": np.int64([0]),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["half"], ["full"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "full"], ["a"]),
        helper.make_node("Conv", ["a", "depthwise"], ["b"], group=4, pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["b", "up"], ["c"], strides=[2, 2]),
        helper.make_node("Shape", ["c"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["count"]),
        helper.make_node("Concat", ["count", "channels", "last"], ["tokens_shape"], axis=0),
        helper.make_node("Reshape", ["c", "tokens_shape"], ["tokens"]),
        helper.make_node("Transpose", ["tokens"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["tokens", "turned"], ["attention"]),
        helper.make_node("ReduceMean", ["attention"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Constant", [], ["bias"], value=numpy_helper.from_array(np.zeros(3, np.float32))),
        helper.make_node("Gemm", ["mean", "rows", "bias"], ["probabilities"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "counted",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 4, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
        value_info=[helper.make_tensor_value_info("a", TensorProto.FLOAT, ["batch", 4, "height", "width"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    onnx.save(model, str(tmp_path / "model.onnx"))
    found = roofline.count_work(str(tmp_path / "model.onnx"))
    places = 8 * 8
    assert found["macs_per_image"] == (places * 4 * 4 + places * 4 * 9 + places * 4 * 5 * 4 + 5 * 5 * 16 * 16 + 3 * 5)
    assert found["weight_values"] == 16 + 36 + 80 + 15 + 3
    assert found["activation_values_per_image"] == 4 * places + 4 * places + 5 * 16 * 16 + 5 * 5 + 3


def test_what_is_no_model_says_so(tmp_path):
    pytest.importorskip("onnx")
    (tmp_path / "text.onnx").write_text("hello")
    for name in ("text.onnx", "gone.onnx"):
        with pytest.raises(BundleError, match="%s: " % name):
            roofline.count_work(str(tmp_path / name))
    with pytest.raises(BundleError, match="model.onnx: .*shape"):
        roofline.count_work(write_model(tmp_path / "model.onnx", side="unknown"))


def test_an_engine_stands_below_the_lower_roof():
    found = roofline.place(WORK, PEAKS, "openvino", "fp32", 4, 50.0)
    assert found == {
        "flops_per_image": 1000,
        "bytes_per_image": 4 * (25 + 100) + 20,
        "flops_per_byte": pytest.approx(1000 / 520),
        "flops_per_s": 50000.0,
        "peak_flops_per_s": 100000,
        "peak_measured_by": "openvino",
        "fraction_of_peak": 0.5,
        "compute_roof_images_per_s": 100.0,
        "memory_roof_images_per_s": pytest.approx(62000 / 520),
        "bound": "compute",
        "fraction_of_roof": 0.5,
    }


def test_precision_changes_both_roofs_and_which_of_them_binds():
    found = roofline.place(WORK, PEAKS, "onnxruntime", "bf16", 1, 62.0)
    assert found["bytes_per_image"] == 2 * (100 + 100) + 20
    assert found["compute_roof_images_per_s"] == 300.0
    assert found["memory_roof_images_per_s"] == pytest.approx(62000 / 420)
    assert found["bound"] == "memory" and found["fraction_of_roof"] == pytest.approx(0.42)


def test_no_claim_is_made_where_nothing_was_measured():
    assert (
        "peak of this CPU in int8 was not measured" in roofline.place(WORK, PEAKS, "openvino", "int8", 1, 9)["skipped"]
    )
    assert "tensorrt does not run on the CPU" in roofline.place(WORK, PEAKS, "tensorrt", "fp32", 1, 9)["skipped"]


def test_peaks_are_measured():
    found = roofline.measure_peaks(seconds=0.01, copy_bytes=1 << 20, side=64)
    json.dumps(found)
    assert found["threads"] == cpu.core_count() and found["numpy_blas"]
    rates = {name: value for name, value in found.items() if name.endswith("_per_s")}
    assert all(value > 1e6 for value in rates.values())
    expected = {"copy_bytes_per_s", "numpy_fp32_flops_per_s"}
    if libraries.library_version("openvino"):
        expected |= {"openvino_fp32_flops_per_s", "openvino_int8_flops_per_s"}
    assert set(rates) - {"openvino_bf16_flops_per_s"} == expected


def test_the_best_try_counts_and_the_first_does_not(monkeypatch):
    clock = {"now": 0.0, "calls": 0}
    lengths = [0.001, 5.0, 3.0, 4.0, 6.0, 7.0]

    def call():
        clock["now"] += lengths[min(clock["calls"], 5)]
        clock["calls"] += 1

    monkeypatch.setattr(roofline.time, "perf_counter", lambda: clock["now"])
    assert roofline._best_s(call, 0.5) == pytest.approx(3.0)
    assert clock["calls"] == 4
