"""The GPU that TensorRT runs on, through pycuda: its facts and its primary context."""

import atexit
import contextlib
import functools
import threading

from edge_runtime.errors import MissingRequirement
from edge_runtime.machine.libraries import require

OLD_PYCUDA = "too old (it has no Device.retain_primary_context)"
INSTALL_PYCUDA = "pip3 install 'pycuda>=2020.1,<2021.1' on Python 3.6, pip install --upgrade pycuda elsewhere"

# A second context, made by another thread at the same time, would be released with that thread's memory still in it.
_one_primary_context = threading.Lock()


def local_facts():
    """Returns the version and the GPU that a plan depends on.

    Returns:
        {"libraries": {"tensorrt": version}, "gpu": {"name", "compute_capability"}}.

    Raises:
        MissingRequirement: tensorrt, pycuda or the GPU is missing.
    """
    device = gpu()
    return {
        # On a Jetson TensorRT is no distribution that pip knows.
        "libraries": {"tensorrt": require("tensorrt").__version__},
        "gpu": {"name": device.name(), "compute_capability": ".".join(map(str, device.compute_capability()))},
    }


def cuda_version():
    """Returns the version of CUDA that pycuda was built with, such as "10.2.0"; on a Jetson it is JetPack's."""
    return ".".join(map(str, require("pycuda.driver").get_version()))


def gpu():
    """Returns the first GPU (pycuda.driver.Device); no context is made. Raises MissingRequirement: there is none."""
    require("tensorrt")  # is named first where both are missing
    cuda = require("pycuda.driver")
    try:
        cuda.init()
        return cuda.Device(0)
    except cuda.Error as error:
        raise MissingRequirement(
            f"no NVIDIA GPU can be used here ({error}); on a PC look at nvidia-smi, in a container start it with "
            "--gpus all or --runtime nvidia"
        ) from error


@contextlib.contextmanager
def gpu_context():
    """Makes the GPU's primary context current on the calling thread for the length of the block.

    CUDA's current context belongs to a thread, and an engine is opened on one thread and run on another: every use
    of the GPU is inside such a block. The primary context is the one that TensorRT and TensorFlow use themselves.

    Raises:
        MissingRequirement: tensorrt, pycuda or the GPU is missing, or pycuda is too old.
    """
    with _one_primary_context:
        context = _primary_context(require("pycuda.driver"))
    context.push()
    try:
        yield
    finally:
        context.pop()


@functools.lru_cache(maxsize=1)
def _primary_context(cuda):
    """Kept until the process ends: pycuda releases a primary context only on the thread that asked for it."""
    device = gpu()
    if not hasattr(device, "retain_primary_context"):
        raise MissingRequirement(f"pycuda here is {OLD_PYCUDA}; to get a newer one: {INSTALL_PYCUDA}")
    atexit.register(_primary_context.cache_clear)  # while pycuda is still whole
    try:
        return device.retain_primary_context()
    except cuda.Error as error:
        raise MissingRequirement(f"the GPU gives no context; most often too little memory is free: {error}") from error
