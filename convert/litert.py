"""LiteRT: the bundle's saved_model through TensorFlow's converter; fp32, and int8 by its post-training quantization.

The converted model runs on any machine, its engine belongs to the one that it was checked on. So a device without
TensorFlow takes the model of an engine that came with the bundle, and checks it there.
"""

import os
import warnings

from convert.child import run_in_child
from edge_runtime.bundle import checksums, signing
from edge_runtime.console import say
from edge_runtime.engines.litert import MODEL
from edge_runtime.engines.record import engine_name, read_engine_info
from edge_runtime.errors import MissingRequirement
from edge_runtime.machine import libraries
from edge_runtime.machine.libraries import require

SOURCE = "saved_model"
PRECISIONS = ("fp32", "int8")
# Not quantized: probabilities of 8 bits would all be multiples of 1/256, 0 for most classes.
_IN_FLOAT = ["FULLY_CONNECTED", "SOFTMAX"]


def check(precision):
    """Raises MissingRequirement: LiteRT is not installed."""
    require("ai_edge_litert.interpreter")


def build(bundle, settings, folder):
    """Writes the engine's model into folder; it takes one photo at a time, and so any batch.

    int8: weights per channel and activations, by settings.calibration; the input's scaling, the last layer and the
    softmax stay in float32.

    Returns:
        facts for engine.json: libraries, gpu, converter.

    Raises:
        MissingRequirement: LiteRT is not installed; TensorFlow is not, and no engine that came with the bundle has its
            model; memory ran out.
        BundleError: the saved_model, or the model of the engine that came with the bundle, is corrupt.
        ChildError: the converter failed.
    """
    name, path = engine_name("litert", settings.precision), os.path.join(folder, MODEL)
    facts = {"libraries": {"ai-edge-litert": libraries.library_version("ai-edge-litert")}, "gpu": None}
    tensorflow = libraries.library_version("tensorflow")
    if tensorflow is None:
        data, facts["converter"] = _model_of_another_machine(bundle, name)
        with open(path, "wb") as file:
            file.write(data)
        return facts
    pictures = settings.calibration.images if settings.precision == "int8" else None
    run_in_child(name, convert, bundle.checked("saved_model"), path, pictures)
    facts["converter"] = {"tensorflow": tensorflow}
    return facts


def convert(saved_model, path, pictures):
    """Converts a frozen SavedModel.

    Args:
        saved_model: folder.
        path: .tflite file to write.
        pictures: uint8 [n, height, width, 3] to quantize by; None for fp32.

    Raises:
        MissingRequirement: TensorFlow cannot be imported.
    """
    tensorflow = require("tensorflow")
    converter = tensorflow.lite.TFLiteConverter.from_saved_model(saved_model)
    data = converter.convert() if pictures is None else _quantized(tensorflow.lite, converter, pictures)
    with open(path, "wb") as file:
        file.write(data)


def _quantized(lite, converter, pictures):
    """Returns the model quantized by pictures, all but _IN_FLOAT, which only tensorflow.lite's debugger can choose."""

    def photos():
        return ([picture[None]] for picture in pictures)

    converter.optimizations = [lite.Optimize.DEFAULT]
    converter.representative_dataset = photos
    converter.target_spec.supported_ops = [lite.OpsSet.TFLITE_BUILTINS_INT8]
    options = lite.experimental.QuantizationDebugOptions(denylisted_ops=_IN_FLOAT)
    with warnings.catch_warnings():  # of an older name of LiteRT
        warnings.simplefilter("ignore")
        debugger = lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=photos, debug_options=options
        )
    return debugger.get_nondebug_quantized_model()


def _model_of_another_machine(bundle, name):
    """Returns (the model of the bundle's engine of this name, which may not fit this machine; what converted it)."""
    info = read_engine_info(bundle, name)
    if info.record["source"]["bundle_id"] != bundle.id:
        raise MissingRequirement(
            f"{name}: TensorFlow, which converts the saved_model, is not installed here.\nTo get it: "
            f"{libraries.INSTALL['tensorflow']}; or convert on a machine that has it, copy the bundle here with its "
            "engines, and convert again: its model is then taken"
        )
    signing.require_signature(info.path, info.record)
    say(f"{name}: takes the model that another machine converted, and checks it here")
    return checksums.checked_bytes(info.path, MODEL, info.files), info.record.get("converter")
