"""TF-TRT: its place. This version says what the machine lacks; building engines comes next."""

from edge_runtime.errors import MissingRequirement
from edge_runtime.requirements import require

PRECISIONS = ("fp16", "fp32")


def build(bundle, precision, max_batch, folder):
    """Raises MissingRequirement: always, in this version."""
    # Asking the build flags is safe; TensorFlow 2.6's converter ends the process where TensorRT is missing.
    if not require("tensorflow.compiler.tf2tensorrt._pywrap_py_utils").is_tensorrt_enabled():
        raise MissingRequirement(
            "TensorFlow %s here was built without TensorRT; on a Jetson install NVIDIA's own TensorFlow wheel"
            % require("tensorflow").__version__
        )
    raise MissingRequirement("this version of picnic-edge does not build TF-TRT engines yet; use --to onnxruntime")
