"""The kinds of engine: the library that each needs, and the module that runs it.

A module has `create`, its subclass of Engine. FILES are the names in a converted engine's folder that it opens.
local_facts() says what its engines depend on, where that is more than the version of one library.
"""

import importlib

from edge_runtime.machine import cpu

# kind -> distribution
LIBRARIES = {
    "litert": "ai-edge-litert",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorflow": "tensorflow",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt-rtx-cu12-bindings",
    "tf-trt": "tensorflow",
}
# Run on an NVIDIA GPU. Such an engine is built for batches up to a largest one and is best at that; others take any.
GPU_KINDS = ("tensorrt", "tensorrt-rtx", "tf-trt")
# Built where no GPU is, and checked on each kind of GPU that opens it: "gpu_checks" in engine.json says on which.
GPU_CHECKED_KINDS = ("tensorrt-rtx",)


def create_engine(info, input_shape, class_count, max_batch, threads):
    """Returns the Engine for an EngineInfo, not opened yet; nothing is checked.

    Args:
        info: edge_runtime.engines.record.EngineInfo.
        input_shape: (height, width, 3) of the pictures.
        class_count: how many probabilities it answers.
        max_batch: the largest batch that it will be given.
        threads: for CPU engines; None for all cores.
    """
    return module_of(info.kind).create(info, input_shape, class_count, max_batch, threads or cpu.core_count())


def module_of(kind):
    """Imports and returns the module that runs engines of a kind; its library is loaded when an engine is opened."""
    name = {"tensorrt": "tensorrt.engine", "tensorrt-rtx": "tensorrt.rtx"}.get(kind) or kind.replace("-", "_")
    return importlib.import_module("edge_runtime.engines." + name)
