"""The bundle's ONNX model, changed where the TensorRT installed here cannot read it."""

import os

from convert import onnx_precision
from edge_runtime.bundle.manifest import INPUT_NAME
from edge_runtime.engines.tensorrt import versions
from edge_runtime.errors import BundleError
from edge_runtime.machine.libraries import require

MAX_OPSET = 13  # TensorRT 8.2 misreads newer ones without an error


def check_model(model):
    """Checks that an onnx.ModelProto is what all TensorRT versions can read, once its input type suits them.

    Raises:
        BundleError: its opset is newer than 13, or it has another input than one of type uint8.
    """
    opsets = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not opsets or max(opsets) > MAX_OPSET:
        raise BundleError(f"its model.onnx has opset {opsets}, TensorRT reads up to {MAX_OPSET}; use another engine")
    uint8 = require("onnx").TensorProto.UINT8
    inputs = [(value.name, value.type.tensor_type.elem_type) for value in model.graph.input]
    if inputs != [(INPUT_NAME, uint8)]:
        raise BundleError(f"its model.onnx has the inputs {inputs}, not one of uint8; make the bundle again")


def cast_comes_first(model):
    """Whether all that an onnx.ModelProto does with its input is to cast it to a floating-point type.

    That much TensorRT 8.5 and newer can do with uint8, and no more.
    """
    types = require("onnx").TensorProto
    users = [node for node in model.graph.node if INPUT_NAME in node.input]
    return bool(users) and all(
        node.op_type == "Cast" and node.attribute[0].i in (types.FLOAT, types.FLOAT16) for node in users
    )


def with_float_input(model):
    """Returns a copy of an onnx.ModelProto that takes the same values, 0..255, as float32.

    The Casts of the input to float32 are removed: nothing in the graph has the type uint8 any more.

    Raises:
        BundleError: the graph does something else with its input.
    """
    if not cast_comes_first(model):
        raise BundleError("its model.onnx does not begin with a Cast of its uint8 input; make the bundle again")
    onnx = require("onnx")
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    needless = [node for node in graph.node if INPUT_NAME in node.input and _casts_to(node, onnx.TensorProto.FLOAT)]
    removed = {node.output[0] for node in needless}
    for node in needless:
        graph.node.remove(node)
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in removed:
                node.input[place] = INPUT_NAME
    return changed


def _casts_to(node, element_type):
    return node.op_type == "Cast" and node.attribute[0].i == element_type


def write_model(onnx, tensorrt, bundle, settings, path):
    """Writes the bundle's model to path, in a form that this TensorRT reads.

    Where the builder does not choose the precision, the model gets it: float16, or int8 by settings.calibration.

    Args:
        onnx, tensorrt: the modules; of TensorRT for RTX the one with the same names.
        bundle: an open Bundle.
        settings: convert.conversion.Settings.
        path: .onnx file to write; the quantizer's other files are left beside it.

    Returns:
        numpy's name of its input's type, "uint8" or "float32".

    Raises:
        BundleError: the model cannot be changed so that TensorRT reads it.
    """
    model = onnx.load_model_from_string(bundle.read("model.onnx"))
    try:
        check_model(model)
        by_builder = versions.has_precision_flags(tensorrt)
        # How the calibration of a uint8 input works is not documented.
        calibrated = by_builder and settings.precision == "int8"
        keep = versions.takes_uint8(tensorrt) and not calibrated and cast_comes_first(model)
        model = model if keep else with_float_input(model)
    except BundleError as error:
        raise BundleError(f"{bundle.path}: {error}")
    if settings.precision == "fp16" and not by_builder:
        model = onnx_precision.half_precision(model)
    if settings.precision == "int8" and not by_builder:
        photos = settings.calibration.images
        model = onnx_precision.quantized(model.SerializeToString(), photos, os.path.dirname(path), _how_to_quantize())
        os.replace(model, path)
    else:
        onnx.save(model, path)
    return "uint8" if keep else "float32"


def _how_to_quantize():
    """Returns the arguments of quantize_static that give what TensorRT reads: symmetric ranges, zero points of 0."""
    int8 = require("onnxruntime.quantization").QuantType.QInt8
    return {
        "activation_type": int8,
        "weight_type": int8,
        "op_types_to_quantize": ["Conv"],  # the last layer, which is small, stays float32
        # A pair of nodes at each weight and each input, and biases that stay float32: what TensorRT takes for an int8
        # layer. Ranges are the mean of the photos' own: by the divergence of the answers of a trained bundle, the whole
        # range that all photos reach gave 1.3 times as much, and pairs behind the convolutions, too, 1.6 times.
        "extra_options": {
            "CalibMovingAverage": True,
            "OpTypesToExcludeOutputQuantization": ["Conv"],
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "AddQDQPairToWeight": True,
            "QuantizeBias": False,
        },
    }
