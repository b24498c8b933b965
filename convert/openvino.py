"""OpenVINO: the ONNX model read once and saved as IR; fp32, and bf16 where the CPU computes it."""

import os

from edge_runtime.bundle import INPUT_NAME
from edge_runtime.engines.openvino import IR_MODEL
from edge_runtime.errors import MissingRequirement
from edge_runtime.requirements import require

PRECISIONS = ("fp32", "bf16")


def build(bundle, precision, max_batch, folder):
    """Writes the engine's files into folder; bf16 is the fp32 IR, computed in bf16 by the plugin.

    Raises:
        MissingRequirement: OpenVINO is not installed, or the CPU has no bf16 instructions.
    """
    openvino = require("openvino")
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and "BF16" not in capabilities:
        raise MissingRequirement(
            "this CPU has no bf16 instructions (it has %s); use --precision fp32" % ", ".join(sorted(capabilities))
        )
    model = openvino.convert_model(bundle.file("model.onnx"))
    model.inputs[0].set_names({INPUT_NAME})
    openvino.save_model(model, os.path.join(folder, IR_MODEL), compress_to_fp16=False)
