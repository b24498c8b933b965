"""The GPU that TensorRT runs on, through pycuda: its facts, its primary context, and the files kept for it."""

import atexit
import contextlib
import functools
import os
import re
import threading

from edge_runtime.errors import MissingRequirement
from edge_runtime.machine.libraries import INSTALL, require

OLD_PYCUDA = "too old (it has no Device.retain_primary_context)"

# A second context, made by another thread at the same time, would be released with that thread's memory still in it.
_one_primary_context = threading.Lock()


def local_facts():
    """Returns the version and the GPU that a plan depends on.

    Returns:
        {"libraries": {"tensorrt": version}, "gpu": {"name", "compute_capability"}}.

    Raises:
        MissingRequirement: tensorrt, pycuda or the GPU is missing.
    """
    # On a Jetson TensorRT is no distribution that pip knows.
    libraries = {"tensorrt": require("tensorrt").__version__}
    return {"libraries": libraries, "gpu": gpu_facts()}


def gpu_facts():
    """Returns the first GPU's {"name", "compute_capability"}. Raises MissingRequirement: pycuda or a GPU is missing."""
    device = gpu()
    return {"name": device.name(), "compute_capability": ".".join(map(str, device.compute_capability()))}


def cache_path(parts, suffix):
    """Returns the name of a file that is kept between runs, in $XDG_CACHE_HOME or ~/.cache, picnic-edge/tensorrt.

    Args:
        parts: texts that tell it from others, such as the GPU's name.
        suffix: with its dot.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", part) for part in parts)
    return os.path.join(cache, "picnic-edge", "tensorrt", name + suffix)


def cuda_version():
    """Returns the version of CUDA that pycuda was built with, such as "10.2.0"; on a Jetson it is JetPack's."""
    return ".".join(map(str, require("pycuda.driver").get_version()))


def gpu():
    """Returns the first GPU (pycuda.driver.Device); no context is made. Raises MissingRequirement: there is none."""
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
        MissingRequirement: pycuda or the GPU is missing, or pycuda is too old.
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
        raise MissingRequirement(f"pycuda here is {OLD_PYCUDA}; to get a newer one: {INSTALL['pycuda']}")
    atexit.register(_primary_context.cache_clear)  # while pycuda is still whole
    try:
        return device.retain_primary_context()
    except cuda.Error as error:
        raise MissingRequirement(f"the GPU gives no context; most often too little memory is free: {error}") from error
