"""ONNX Runtime: the graph optimized for this CPU and saved, to open it fast; fp32, and int8 by its own tool."""

import contextlib
import inspect
import logging
import os
import platform
import shutil

from edge_runtime.bundle.manifest import INPUT_NAME
from edge_runtime.engines.onnxruntime import OPTIMIZED_MODEL, session
from edge_runtime.machine import cpu, libraries
from edge_runtime.machine.libraries import require

PRECISIONS = ("fp32", "int8")


def check(precision):
    """Raises MissingRequirement: ONNX Runtime (for int8: onnx) is not installed."""
    require("onnxruntime")
    if precision == "int8":
        require("onnx")
        require("onnxruntime.quantization")


def build(bundle, settings, folder):
    """Writes the engine's files into folder; the graph takes any batch.

    int8 is ONNX Runtime's own static quantization by settings.calibration.

    Returns:
        facts for engine.json.

    Raises:
        MissingRequirement: ONNX Runtime (for int8: onnx) is not installed.
    """
    model = bundle.read("model.onnx")
    scratch = os.path.join(folder, "scratch")
    if settings.precision == "int8":
        os.mkdir(scratch)
        model = _quantized(model, settings.calibration.images, scratch)
    session(model, cpu.core_count(), optimize=True, save_as=os.path.join(folder, OPTIMIZED_MODEL))
    if settings.precision == "int8":
        shutil.rmtree(scratch)  # after a failure it stays until the disk was checked: see convert.conversion
    return {"libraries": {"onnxruntime": libraries.library_version("onnxruntime")}, "gpu": None}


def _quantized(model, pictures, scratch):
    """Writes a model (bytes) quantized by photos, uint8 [n, 299, 299, 3], into the folder scratch. Returns its name."""
    onnx = require("onnx")
    onnxruntime, quantization = require("onnxruntime"), require("onnxruntime.quantization")

    fused, quantized = (os.path.join(os.path.abspath(scratch), name) for name in ("fused.onnx", "quantized.onnx"))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = fused
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(fused).graph.node
    how = _how_to_quantize(quantization, [node.name for node in nodes if node.op_type == "Softmax"])
    if "optimize_model" in inspect.signature(quantization.quantize_static).parameters:
        how["optimize_model"] = False  # already done; older versions write the result beside the model
    with _working_in(scratch), _without_warnings():
        quantization.quantize_static(fused, quantized, _Photos(pictures), **how)
    return quantized


class _Photos:
    """Feeds the network for calibration, with the method of onnxruntime.quantization.CalibrationDataReader."""

    def __init__(self, pictures):
        self._feeds = iter([{INPUT_NAME: picture[None]} for picture in pictures])

    def get_next(self):
        return next(self._feeds, None)


def _how_to_quantize(quantization, excluded):
    """Returns the arguments of quantize_static that suit this CPU. excluded: names of nodes that are not quantized."""
    arm = platform.machine() == "aarch64"
    vnni = {"avx_vnni", "avx512_vnni"} & set(cpu.cpu_features())
    return {
        "quant_format": quantization.QuantFormat.QDQ,
        "activation_type": quantization.QuantType.QInt8 if arm else quantization.QuantType.QUInt8,
        "weight_type": quantization.QuantType.QInt8,
        "per_channel": True,
        "reduce_range": not (arm or vnni),  # on older x86 CPUs the sum of two 8-bit products overflows
        # Relu: without it half of the 8 bits of a convolution's output go to values that Relu removes. Softmax: some
        # versions need its range even where it is excluded.
        "op_types_to_quantize": ["Conv", "Relu", "Concat", "MaxPool", "AveragePool", "Softmax"],
        "nodes_to_exclude": excluded,
    }


@contextlib.contextmanager
def _working_in(folder):
    """Makes folder the current one in the block: older versions of the quantizer leave files there."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _without_warnings():
    """Silences the quantizer, which recommends what was already done."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
