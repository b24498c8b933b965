"""ONNX models of other precisions, by ONNX Runtime's own tools: fp16, and int8 with QuantizeLinear/DequantizeLinear."""

import contextlib
import inspect
import logging
import os
import warnings

import numpy as np

from edge_runtime.bundle.manifest import INPUT_NAME
from edge_runtime.machine.libraries import require

_LARGEST_HALF = float(np.finfo(np.float16).max)


def check(precision):
    """Raises MissingRequirement: the tool for fp16 or int8 is not installed."""
    require("onnx")
    require("onnxruntime")
    require("onnxruntime.quantization" if precision == "int8" else "onnxruntime.transformers.float16")


def half_precision(model):
    """Returns an onnx.ModelProto whose weights and arithmetic are float16; its input and output types do not change.

    Weights that float16 cannot hold become its largest or smallest ones: the gate sees whether that changes answers.

    Args:
        model: onnx.ModelProto, which is changed, too.
    """
    float16 = require("onnxruntime.transformers.float16")
    with warnings.catch_warnings():  # one for each tensor with a value of less than 1e-7
        warnings.simplefilter("ignore")
        return float16.convert_float_to_float16(model, keep_io_types=True)


def with_half_rounding(model):
    """Returns a float32 onnx.ModelProto that gives what float16 tensors between the nodes give, overflow included.

    ONNX Runtime's CPU computes a float16 model in float32 from its input to its output: a value above 65504, which is
    infinite on a GPU, would pass. Here every weight and every result of a node is rounded to float16 and back.

    Args:
        model: onnx.ModelProto in float32, which does not change.
    """
    onnx = require("onnx")
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    graph, types = rounded.graph, onnx.TensorProto
    for value in graph.initializer:
        if value.data_type == types.FLOAT:
            half = np.clip(onnx.numpy_helper.to_array(value), -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16)
            value.CopyFrom(onnx.numpy_helper.from_array(half.astype(np.float32), value.name))
    inferred = onnx.shape_inference.infer_shapes(rounded).graph.value_info
    floats = {value.name for value in inferred if value.type.tensor_type.elem_type == types.FLOAT}
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name in floats:  # the output of the graph is not among them: it is float32 in both
                node.output[place], half = f"{name} in float32", f"{name} in float16"
                nodes.append(onnx.helper.make_node("Cast", [node.output[place]], [half], to=types.FLOAT16))
                nodes.append(onnx.helper.make_node("Cast", [half], [name], to=types.FLOAT))
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    return rounded


def quantized(model, pictures, scratch, how):
    """Quantizes a model by photos.

    Args:
        model: bytes of an ONNX model.
        pictures: uint8 [n, height, width, 3], for the ranges of the activations.
        scratch: folder for files on the way.
        how: arguments of onnxruntime.quantization.quantize_static: types, op_types_to_quantize.

    Returns:
        name of the ONNX file, in scratch.
    """
    onnx, onnxruntime, quantization = require("onnx"), require("onnxruntime"), require("onnxruntime.quantization")
    fused, result = (os.path.join(os.path.abspath(scratch), name) for name in ("fused.onnx", "quantized.onnx"))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = fused
    options.log_severity_level = 3  # errors; it warns of weights that it fused
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    model = onnx.load(fused)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node {number}"  # to leave out a node without a name leaves out all of them
    onnx.save(model, fused)
    softmaxes = [node.name for node in model.graph.node if node.op_type == "Softmax"]
    how = dict(how, quant_format=quantization.QuantFormat.QDQ, per_channel=True, nodes_to_exclude=softmaxes)
    if "optimize_model" in inspect.signature(quantization.quantize_static).parameters:
        how["optimize_model"] = False  # already done; older versions write the result beside the model
    with _working_in(scratch), _without_warnings():
        quantization.quantize_static(fused, result, _Photos(pictures), **how)
    return result


class _Photos:
    """Feeds the network for calibration, with the method of onnxruntime.quantization.CalibrationDataReader."""

    def __init__(self, pictures):
        self._feeds = iter([{INPUT_NAME: picture[None]} for picture in pictures])

    def get_next(self):
        return next(self._feeds, None)


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
