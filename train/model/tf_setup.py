"""How TensorFlow is imported and set up: start-up messages, seeds, GPU memory, precision."""

import contextlib
import logging
import os
import random
import subprocess
import sys

import numpy as np

from edge_runtime.machine import cpu, libraries, memory
from edge_runtime.machine.libraries import require

_ONEDNN_SINCE = [2, 21]  # the TensorFlow version it was tried with; 2.6 dies of SIGFPE on a CPU without AVX512


def load_tensorflow():
    """Imports TensorFlow without its start-up messages (errors are still printed) and without TensorFloat-32."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    if "avx2" in cpu.cpu_features():
        version = [int(part) for part in (libraries.library_version("tensorflow") or "0.0").split(".")[:2]]
        if version >= _ONEDNN_SINCE:
            # By default TensorFlow uses oneDNN's convolutions only on CPUs with AVX512-VNNI. Others train faster
            # with them too (docs/experiments/training.md).
            os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
        with nothing_on_stderr():  # with oneDNN it prints two messages, before any log level has an effect
            require("tensorflow")
    tensorflow = require("tensorflow")
    tensorflow.get_logger().setLevel("ERROR")
    # By default newer GPUs round to 10 bits: the exported files could not agree with that within 1e-5.
    tensorflow.config.experimental.enable_tensor_float_32_execution(False)


@contextlib.contextmanager
def nothing_on_stderr():
    """Within the block everything written to stderr is discarded, also by C++ libraries."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as devnull:
            os.dup2(devnull.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)


def set_seed(seed):
    """Seeds Python, numpy and TensorFlow."""
    random.seed(seed)
    np.random.seed(seed)
    require("tensorflow").random.set_seed(seed)


def limit_gpu_memory(fraction):
    """Lets TensorFlow allocate GPU memory as it needs it, or at most a fraction of it. Does nothing without a GPU.

    Must run before anything is placed on a GPU. On a Jetson the GPU's memory is the board's.

    Args:
        fraction: 0..1, or None for no limit.
    """
    tensorflow = require("tensorflow")
    for index, gpu in enumerate(tensorflow.config.list_physical_devices("GPU")):
        if fraction is None:
            tensorflow.config.experimental.set_memory_growth(gpu, True)
        else:
            limit_mib = int(fraction * _gpu_memory_bytes(index)) >> 20
            limit = tensorflow.config.experimental.VirtualDeviceConfiguration(memory_limit=limit_mib)
            tensorflow.config.experimental.set_virtual_device_configuration(gpu, [limit])


def _gpu_memory_bytes(index):
    """Returns the memory of TensorFlow's GPU number index: the card's, or on a Jetson (no nvidia-smi) the board's."""
    # nvidia-smi numbers all cards, TensorFlow only those of CUDA_VISIBLE_DEVICES (numbers or ids).
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    card = visible[index] if index < len(visible) else str(index)
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits", "--id=" + card]
    try:
        return int(subprocess.check_output(query, stderr=subprocess.DEVNULL).decode().strip()) << 20
    except (OSError, ValueError, subprocess.CalledProcessError):
        return memory.memory_info()["MemTotal"]


@contextlib.contextmanager
def low_precision():
    """Within the block TensorFlow multiplies in 16 bits where that is faster: float16 on a GPU, bfloat16 on some CPUs.

    Weights, sums and all other operations stay float32 (TensorFlow's auto_mixed_precision).
    """
    tensorflow = require("tensorflow")
    if tensorflow.config.list_physical_devices("GPU"):
        options = ["auto_mixed_precision"]
    elif {"avx512_bf16", "amx_bf16"} & set(cpu.cpu_features()):
        options = ["auto_mixed_precision_onednn_bfloat16"]
    else:
        options = []
    tensorflow.config.optimizer.set_experimental_options(dict.fromkeys(options, True))
    try:
        yield
    finally:
        tensorflow.config.optimizer.set_experimental_options(dict.fromkeys(options, False))
