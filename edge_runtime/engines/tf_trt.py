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
from edge_runtime.requirements import require

SAVED_MODEL = "saved_model"
FILES = (SAVED_MODEL,)  # what a converted engine opens: a folder, with its assets
FAST_PROTOBUFS = ("cpp", "upb")
_INSTALL = (
    "To get it: on a Jetson install NVIDIA's own TensorFlow (docs/jetson/tx2.md); on a PC TensorFlow 2.17 or older "
    "with TensorRT in it, and TensorRT. Without it: --to tensorrt, or --to onnxruntime"
)

Probe = typing.NamedTuple(
    "Probe",
    [
        ("tensorflow", str),
        ("linked", tuple),  # (major, minor, patch) of the TensorRT that TensorFlow was built with, (0, 0, 0) for none
        ("loaded", typing.Optional[tuple]),  # of the TensorRT on this machine, None where it is not found
    ],
)

log = logging.getLogger("picnic_edge")


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
    """Returns what TensorFlow knows of TensorRT (Probe). Raises MissingRequirement: there is no TensorFlow.

    The only safe order: TensorFlow 2.6 ends the process, past any try, when it is asked for the version of a TensorRT
    that is not there, and when its converter is made. is_tensorrt_enabled loads the library and says whether it could.
    """
    flags = require("tensorflow.compiler.tf2tensorrt._pywrap_py_utils")
    loaded = tuple(flags.get_loaded_tensorrt_version()) if flags.is_tensorrt_enabled() else None
    return Probe(require("tensorflow").__version__, tuple(flags.get_linked_tensorrt_version()), loaded)


def require_tensorrt(found):
    """Raises MissingRequirement where a Probe found no TensorRT that its TensorFlow can work with."""
    if found.loaded is None:
        if found.linked[0]:
            problem = (
                "TensorFlow %s was built for TensorRT %s and does not find its libraries (libnvinfer, the plugins)"
            )
            raise MissingRequirement("%s.\n%s" % (problem % (found.tensorflow, version_text(found.linked)), _INSTALL))
        raise MissingRequirement("TensorFlow %s was built without TensorRT.\n%s" % (found.tensorflow, _INSTALL))
    if found.loaded[0] != found.linked[0] or found.loaded < found.linked:
        raise MissingRequirement(
            "TensorFlow %s was built for TensorRT %s, here is %s: the first number must be the same and the rest not "
            "older.\n%s" % (found.tensorflow, version_text(found.linked), version_text(found.loaded), _INSTALL)
        )


def require_gpu():
    """Returns the first GPU that TensorFlow sees, and lets its memory grow as needed: a Jetson's is the board's.

    Returns:
        {"name": str, "compute_capability": "6.2"}.

    Raises:
        MissingRequirement: it sees none.
    """
    tensorflow = require("tensorflow")
    gpus = tensorflow.config.list_physical_devices("GPU")
    if not gpus:
        raise MissingRequirement(
            "TensorFlow %s sees no GPU here; `picnic-edge doctor` says what is missing" % tensorflow.__version__
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
        "compute_capability": "%d.%d" % tuple(capability) if capability else "unknown",
    }


def slow_protobuf():
    """Returns why loading will take minutes, and the mend, where protobuf is the one written in Python; else ""."""
    kind = require("google.protobuf.internal.api_implementation").Type()
    if kind in FAST_PROTOBUFS:
        return ""
    return "protobuf here is written in Python: loading an engine may take minutes. To mend it: " + protobuf_mend()


def protobuf_mend():
    """Returns what gives this Python a protobuf written in C++."""
    if sys.version_info >= (3, 7):
        return "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION; pip install --force-reinstall protobuf"
    if platform.machine() == "aarch64":
        return "there is no wheel of it for Python 3.6 on Arm: docs/jetson/tx2.md says how to build it"
    return "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION; pip install --force-reinstall 'protobuf<3.20'"


def here():
    """Returns what this machine has: {"libraries": {name: version}, "gpu": {"name", "compute_capability"}}.

    Raises:
        MissingRequirement: TensorFlow, its TensorRT or a GPU is missing.
    """
    found = probe()
    require_tensorrt(found)
    return {"libraries": libraries(found), "gpu": require_gpu()}


def libraries(found):
    """Returns a Probe as {library: version}, as engine.json keeps it."""
    return {"tensorflow": found.tensorflow, "tensorrt": version_text(found.loaded)}


def version_text(version):
    """Returns (8, 2, 1) as "8.2.1"."""
    return ".".join(str(part) for part in version)
