"""OpenVINO: the ONNX model read once and saved as IR; fp32, bf16 where the CPU computes it, and int8 made by NNCF."""

import contextlib
import logging
import os
import sys

from edge_runtime.bundle.manifest import INPUT_NAME
from edge_runtime.engines.openvino import IR_MODEL
from edge_runtime.errors import MissingRequirement
from edge_runtime.machine import libraries
from edge_runtime.machine.libraries import require

PRECISIONS = ("fp32", "bf16", "int8")


def check(precision):
    """Raises MissingRequirement: OpenVINO (for int8: NNCF) is not installed, or the CPU has no bf16 instructions."""
    capabilities = require("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and "BF16" not in capabilities:
        raise MissingRequirement(
            f"this CPU has no bf16 instructions (it has {', '.join(sorted(capabilities))}); use --precision fp32"
        )
    if precision == "int8":
        require("nncf")


def also_runs_in(precision):
    """Returns the precision in which the same files can be computed with the least rounding."""
    return "fp32" if precision == "bf16" else precision


def build(bundle, settings, folder):
    """Writes the engine's files into folder. bf16 is the fp32 IR, computed in bf16 by the plugin.

    int8 is NNCF's post-training quantization by settings.calibration: weights per channel, activations by the whole
    range that the photos reach.

    Returns:
        facts for engine.json.

    Raises:
        MissingRequirement: OpenVINO (for int8: NNCF) is not installed, or the CPU has no bf16 instructions.
    """
    check(settings.precision)
    openvino = require("openvino")
    facts = {"libraries": {"openvino": libraries.library_version("openvino")}, "gpu": None}
    model = openvino.convert_model(bundle.checked("model.onnx"))
    if settings.precision == "int8":
        model = _quantized(model, settings.calibration.images)
        facts["quantizer"] = {"nncf": libraries.library_version("nncf")}
    model.inputs[0].set_names({INPUT_NAME})
    openvino.save_model(model, os.path.join(folder, IR_MODEL), compress_to_fp16=False)
    return facts


def _quantized(model, pictures):
    """Returns the model quantized by photos, uint8 [n, height, width, 3]. Its input stays uint8."""
    nncf = require("nncf")
    nncf.set_log_level(logging.WARNING)
    # Chosen by the divergence of the answers on two trained bundles: NNCF's defaults (a mean range, and biases
    # corrected by the calibration photos) gave 1.4 times as much.
    whole_range = require("nncf.quantization.range_estimator").RangeEstimatorParametersSet.MINMAX
    with contextlib.redirect_stdout(sys.stderr):  # its progress bars; stdout is for results
        return nncf.quantize(
            model,
            nncf.Dataset([picture[None] for picture in pictures]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(pictures),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=whole_range, disable_bias_correction=True
            ),
        )
