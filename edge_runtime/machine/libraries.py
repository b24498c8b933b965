"""Imports libraries late, with an error that says how to install them; and finds their versions."""

import importlib
import os
import sys

from edge_runtime.errors import MissingRequirement

# What every verb but doctor needs; setup.py asks for it, but JetPack's OpenCV comes from elsewhere.
EVERYWHERE = ("numpy", "cv2", "PIL", "simplejpeg")

# module -> how to install it
INSTALL = {
    "cv2": "pip install opencv-python-headless; on a Jetson: sudo apt-get install nvidia-jetpack, or "
    "sudo apt-get install python3-opencv",
    "PIL": "pip install pillow",
    "onnxruntime": "pip install onnxruntime",
    "openvino": "pip install 'openvino>=2024' (Python 3.9 or newer)",
    "ai_edge_litert": "pip install ai-edge-litert (Python 3.9 or newer)",
    "nncf": "pip install nncf (Python 3.9 or newer)",
    "tensorflow": "pip install tensorflow-cpu (x86 PC) or tensorflow; on a Jetson NVIDIA's own wheel",
    "tensorrt": "it comes with JetPack on a Jetson: sudo apt-get install python3-libnvinfer; "
    "on a PC with an NVIDIA GPU: pip install tensorrt",
    "pycuda": "pip3 install 'pycuda>=2020.1,<2021.1' on Python 3.6, pip install --upgrade pycuda elsewhere",
    "tensorrt_rtx_bindings": "pip install 'picnic-edge[tensorrt-rtx]' (Python 3.8 or newer, Linux on x86-64)",
    "tf2onnx": "pip install tf2onnx onnx",
    "onnx": "pip install onnx",
    "sklearn": "pip install scikit-learn",
    "jinja2": "pip install jinja2 matplotlib",
    "markupsafe": "pip install jinja2 matplotlib",
    "matplotlib": "pip install jinja2 matplotlib",
    "tensorboard": "pip install tensorboard",
    "mlperf_loadgen": "pip install mlcommons-loadgen (there is no wheel for Python 3.6: pip would compile it)",
    "cleanlab": "pip install cleanlab",
    "pandas": "pip install pandas; on a Jetson: sudo apt-get install python3-pandas",
}

# distribution -> others with the same library
OTHER_DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-openvino"),
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python"),
    "tensorflow": ("tensorflow-cpu", "tensorflow-gpu", "tf-nightly"),
    "tensorrt-rtx-cu12-bindings": ("tensorrt-rtx-cu13-bindings",),
}


def library_version(name):
    """Returns the version of a library, by its distribution or by another one with it; None where none is installed."""
    versions = map(distribution_version, (name,) + OTHER_DISTRIBUTIONS.get(name, ()))
    return next((version for version in versions if version is not None), None)


def distribution_version(name):
    """Returns the version of an installed distribution (as pip names it), None where it is not installed."""
    try:
        from importlib import metadata
    except ImportError:  # Python < 3.8
        import pkg_resources

        try:
            return pkg_resources.get_distribution(name).version
        except pkg_resources.DistributionNotFound:
            return None
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def require_everywhere():
    """Raises MissingRequirement where a library is missing that every verb but doctor needs."""
    for module in EVERYWHERE:
        require(module)


def require(module):
    """Imports a module by name. Raises MissingRequirement (exit code 4) that names the cause and the command."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # hides TensorFlow's notes at start-up, not its errors
    if module.split(".")[0] in ("openvino", "nncf"):
        # They report their use to Intel over the network when they are imported, unless this package is missing.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library that cannot be loaded
        top = module.split(".")[0]
        raise MissingRequirement(
            f"{top} is needed here and cannot be imported ({error}).\n"
            f"To get it: {INSTALL.get(top, f'pip install {top}')}"
        ) from error
