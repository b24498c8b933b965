"""ONNX Runtime: the graph optimized for this CPU and saved, to open it fast; fp32, and int8 by its own tool."""

import os
import platform
import shutil

from convert import onnx_precision
from edge_runtime.engines.onnxruntime import OPTIMIZED_MODEL, session
from edge_runtime.engines.record import SCRATCH
from edge_runtime.machine import cpu, libraries
from edge_runtime.machine.libraries import require

PRECISIONS = ("fp32", "int8")


def check(precision):
    """Raises MissingRequirement: ONNX Runtime (for int8: onnx) is not installed."""
    require("onnxruntime")
    if precision == "int8":
        onnx_precision.check(precision)


def build(bundle, settings, folder):
    """Writes the engine's files into folder; the graph takes any batch.

    int8 is ONNX Runtime's own static quantization by settings.calibration.

    Returns:
        facts for engine.json.

    Raises:
        MissingRequirement: ONNX Runtime (for int8: onnx) is not installed.
    """
    model = bundle.read("model.onnx")
    scratch = os.path.join(folder, SCRATCH)
    if settings.precision == "int8":
        os.mkdir(scratch)
        model = onnx_precision.quantized(model, settings.calibration.images, scratch, _how_to_quantize())
    session(model, cpu.core_count(), optimize=True, save_as=os.path.join(folder, OPTIMIZED_MODEL))
    if settings.precision == "int8":
        shutil.rmtree(scratch)  # after a failure it stays until the disk was checked: see convert.conversion
    return {"libraries": {"onnxruntime": libraries.library_version("onnxruntime")}, "gpu": None}


def _how_to_quantize():
    """Returns the arguments of quantize_static that suit this CPU."""
    types = require("onnxruntime.quantization").QuantType
    arm = platform.machine() == "aarch64"
    vnni = {"avx_vnni", "avx512_vnni"} & set(cpu.cpu_features())
    return {
        "activation_type": types.QInt8 if arm else types.QUInt8,
        "weight_type": types.QInt8,
        "reduce_range": not (arm or vnni),  # on older x86 CPUs the sum of two 8-bit products overflows
        # Relu: without it half of the 8 bits of a convolution's output go to values that Relu removes. Softmax: some
        # versions need its range even where it is excluded.
        "op_types_to_quantize": ["Conv", "Relu", "Concat", "MaxPool", "AveragePool", "Softmax"],
    }
