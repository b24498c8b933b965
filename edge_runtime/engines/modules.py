"""The kinds of engine: the library that each needs, and the module that runs it."""

import importlib

from edge_runtime.machine import cpu

LIBRARIES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorflow": "tensorflow",
    "tensorrt": "tensorrt",
    "tf-trt": "tensorflow",
}  # kind -> distribution


def create_engine(info, class_count, max_batch, threads):
    """Returns the Engine object for an EngineInfo, not open yet and not checked."""
    return module_of(info.kind).create(info, class_count, max_batch, threads or cpu.core_count())


def module_of(kind):
    """Returns the module that runs engines of a kind; nothing else of that kind is loaded."""
    name = "tensorrt.engine" if kind == "tensorrt" else kind.replace("-", "_")
    return importlib.import_module("edge_runtime.engines." + name)
