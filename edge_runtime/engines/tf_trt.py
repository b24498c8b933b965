"""TF-TRT: a SavedModel whose convolutions TensorFlow hands to TensorRT; the converter built its engines.

Not yet run on hardware.
"""

import logging
import os
import platform
import sys
import typing

from edge_runtime.engines.tensorflow import TensorFlowEngine
from edge_runtime.errors import MissingRequirement
from edge_runtime.machine.libraries import require

SAVED_MODEL = "saved_model"
FILES = (SAVED_MODEL,)  # that a converted engine opens: a folder, with its assets
FAST_PROTOBUFS = ("cpp", "upb")

_INSTALL = (
    "To get it: on a Jetson install NVIDIA's own TensorFlow (docs/jetson/tx2.md); on a PC TensorFlow 2.17 or older "
    "with TensorRT in it, and TensorRT. Without it: --to tensorrt, or --to onnxruntime"
)


log = logging.getLogger("picnic_edge")


class Probe(typing.NamedTuple):
    """The TensorFlow here and its TensorRT; versions are (major, minor, patch)."""

    tensorflow: str  # "2.7.0"
    linked: tuple  # of the TensorRT that TensorFlow was built with, (0, 0, 0) for none
    loaded: typing.Optional[tuple]  # of the TensorRT on this machine, None where there is none


class TfTrtEngine(TensorFlowEngine):
    """The converted SavedModel; its engines are loaded from its assets, or TensorFlow's own operations run."""

    def _open(self):
        require_tensorrt(probe())
        require_gpu()
        slow = slow_protobuf()
        if slow:
            log.warning("%s: %s", self.name, slow)
        super()._open()

    def _path(self):
        return os.path.join(self.info.path, SAVED_MODEL)


create = TfTrtEngine


def probe():
    """Returns a Probe: what TensorFlow knows of TensorRT. Raises MissingRequirement: there is no TensorFlow.

    The only safe order: TensorFlow 2.6 ends the process, past any try, when it is asked for the version of a TensorRT
    that is not there, and when its converter is made. is_tensorrt_enabled loads the library and says whether it could.
    """
    flags = require("tensorflow.compiler.tf2tensorrt._pywrap_py_utils")
    loaded = tuple(flags.get_loaded_tensorrt_version()) if flags.is_tensorrt_enabled() else None
    return Probe(require("tensorflow").__version__, tuple(flags.get_linked_tensorrt_version()), loaded)


def require_tensorrt(versions):
    """Raises MissingRequirement where a Probe has no TensorRT that its TensorFlow can work with."""
    linked, loaded = versions.linked, versions.loaded
    built = f"TensorFlow {versions.tensorflow} was built"
    if loaded is None and not linked[0]:
        raise MissingRequirement(f"{built} without TensorRT.\n{_INSTALL}")
    if loaded is None:
        raise MissingRequirement(
            f"{built} for TensorRT {_version_text(linked)} and does not find its libraries (libnvinfer, the plugins).\n"
            f"{_INSTALL}"
        )
    if loaded[0] != linked[0] or loaded < linked:
        raise MissingRequirement(
            f"{built} for TensorRT {_version_text(linked)}, here is {_version_text(loaded)}: the first number must be "
            f"the same and the rest not older.\n{_INSTALL}"
        )


def require_gpu():
    """Returns the first GPU that TensorFlow sees, and lets its memory grow as needed (a Jetson's is the board's).

    Returns:
        {"name": str, "compute_capability": "6.2"}.

    Raises:
        MissingRequirement: it sees none.
    """
    tensorflow = require("tensorflow")
    gpus = tensorflow.config.list_physical_devices("GPU")
    if not gpus:
        raise MissingRequirement(
            f"TensorFlow {tensorflow.__version__} sees no GPU here; `picnic-edge doctor` says what is missing"
        )
    for gpu in gpus:
        try:
            tensorflow.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:  # this process has used the GPU already
            pass
    details = tensorflow.config.experimental.get_device_details(gpus[0])
    capability = details.get("compute_capability")
    return {
        "name": details.get("device_name", "unknown"),
        "compute_capability": ".".join(map(str, capability)) if capability else "unknown",
    }


def slow_protobuf():
    """Returns a warning where protobuf is the slow one written in Python, with how to fix it; "" otherwise."""
    kind = require("google.protobuf.internal.api_implementation").Type()
    if kind in FAST_PROTOBUFS:
        return ""
    return "protobuf here is written in Python: loading an engine may take minutes. To fix it: " + fix_for_protobuf()


def fix_for_protobuf():
    """Returns how to get a protobuf written in C++ for this Python."""
    if sys.version_info >= (3, 7):
        return "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION; pip install --force-reinstall protobuf"
    if platform.machine() == "aarch64":
        return "there is no wheel of it for Python 3.6 on Arm: docs/jetson/tx2.md says how to build it"
    return "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION; pip install --force-reinstall 'protobuf<3.20'"


def local_facts():
    """Returns the versions and the GPU that a TF-TRT engine depends on.

    Returns:
        {"libraries": {"tensorflow": version, "tensorrt": version}, "gpu": {"name", "compute_capability"}}.

    Raises:
        MissingRequirement: TensorFlow, its TensorRT or a GPU is missing.
    """
    versions = probe()
    require_tensorrt(versions)
    return {"libraries": libraries(versions), "gpu": require_gpu()}


def libraries(versions):
    """Returns the versions of a Probe as engine.json keeps them: {library: "8.2.1"}."""
    return {"tensorflow": versions.tensorflow, "tensorrt": _version_text(versions.loaded)}


def _version_text(version):
    return ".".join(str(part) for part in version)
