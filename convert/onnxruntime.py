"""ONNX Runtime: the graph rewritten for this CPU (fused, blocked layout), saved so that opening it is quick."""

import os

from edge_runtime import machine
from edge_runtime.engines.onnxruntime import OPTIMIZED_MODEL, session

PRECISIONS = ("fp32",)


def build(bundle, precision, max_batch, folder):
    """Writes the engine's files into folder. fp32 is the only precision; the graph takes any batch."""
    model = bundle.file("model.onnx")
    session(model, machine.core_count(), optimize=True, save_as=os.path.join(folder, OPTIMIZED_MODEL))
