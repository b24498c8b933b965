"""TensorRT: its place. This version says what the machine lacks; building engines comes next."""

from edge_runtime.errors import MissingRequirement
from edge_runtime.requirements import require

PRECISIONS = ("fp16", "fp32")


def build(bundle, precision, max_batch, folder):
    """Raises MissingRequirement: always, in this version."""
    require("tensorrt")
    require("pycuda")
    raise MissingRequirement("this version of picnic-edge does not build TensorRT engines yet; use --to onnxruntime")
