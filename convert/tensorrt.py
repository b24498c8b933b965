"""TensorRT: the bundle's ONNX model, built into a plan for this machine's TensorRT and GPU.

Not yet run on hardware: written from TensorRT's and pycuda's sources, tested with a simulator of both.
"""

import contextlib
import os
import shutil
import threading
import time
import typing

import numpy as np

from convert import onnx_precision
from convert.child import memory_text, run_in_child
from convert.tensorrt_model import write_model
from edge_runtime import files
from edge_runtime.bundle.manifest import INPUT_NAME, OUTPUT_NAME
from edge_runtime.console import say
from edge_runtime.engines.record import SCRATCH, engine_name
from edge_runtime.engines.tensorrt import context, engine, versions
from edge_runtime.errors import MissingRequirement
from edge_runtime.machine import jetson, memory
from edge_runtime.machine.libraries import require

PRECISIONS = ("fp16", "fp32", "int8")
_MIN_WORKSPACE_MIB = 256
_MAX_WORKSPACE_MIB = 1024  # what NVIDIA's own benchmarks give an Inception on a TX2
_LOW_MEMORY_BYTES = 2 << 30
PROGRESS_EVERY_S = 10  # a build that takes minutes shows TensorRT's newest message this often
_PROGRESS_LENGTH = 150


def check(precision):
    """Raises MissingRequirement: tensorrt, pycuda, onnx or a GPU is missing, or what the precision needs."""
    context.local_facts()
    require("onnx")
    if precision != "fp32" and not versions.has_precision_flags(require("tensorrt")):
        onnx_precision.check(precision)
    if precision == "int8":
        run_in_child("tensorrt-int8", check_int8)


def build(bundle, settings, folder):
    """Writes the plan into folder, in a process of its own: the system may kill it when memory runs out.

    fp16 lets TensorRT choose half precision layer by layer, int8 is entropy calibration by settings.calibration. From
    TensorRT 11 on the precision is written in the model: convert.tensorrt_model.write_model.

    Returns:
        facts for engine.json: libraries, gpu, input_dtype, workspace_mib.

    Raises:
        MissingRequirement: tensorrt, pycuda, onnx, a GPU or memory is missing, or TensorRT refused the model and gave
            reasons, which the message has.
        BundleError: TensorRT cannot read the model, and it cannot be changed so that it can.
    """
    facts = context.local_facts()
    onnx, tensorrt = require("onnx"), require("tensorrt")
    workspace_mib = settings.workspace_mib or default_workspace_mib(context.gpu().total_memory())
    say(f"TensorRT {tensorrt.__version__} on {facts['gpu']['name']}; this takes minutes on a board")
    _warn_of_low_memory()
    scratch = os.path.join(folder, SCRATCH)
    os.mkdir(scratch)
    model = os.path.join(scratch, "model.onnx")
    pictures = os.path.join(scratch, "pictures.npy")
    input_dtype = write_model(onnx, tensorrt, bundle, settings, model)
    if settings.precision == "int8" and versions.has_precision_flags(tensorrt):
        np.save(pictures, settings.calibration.images)
    run_in_child(
        engine_name("tensorrt", settings.precision, settings.max_batch),
        build_plan,
        *(model, os.path.join(folder, engine.PLAN), settings.precision, settings.max_batch, workspace_mib),
        *(pictures, timing_cache_path(facts, context.cuda_version())),
    )
    shutil.rmtree(scratch)  # after a failure it stays until the disk was checked: see convert.conversion
    return dict(facts, input_dtype=input_dtype, workspace_mib=workspace_mib)


def default_workspace_mib(gpu_memory_bytes):
    """Returns a quarter of the memory that the build can use, between 256 and 1024 MiB.

    A board's GPU shares the board's memory, which TensorRT and the weights need too; a card has its own memory.

    Args:
        gpu_memory_bytes: the GPU's total memory.
    """
    free_bytes = min(gpu_memory_bytes, memory.memory_available_bytes() or gpu_memory_bytes)
    return max(_MIN_WORKSPACE_MIB, min(_MAX_WORKSPACE_MIB, (free_bytes >> 20) // 4))


def timing_cache_path(facts, cuda_version):
    """Returns the file of a GPU's kernel timings, in $XDG_CACHE_HOME or ~/.cache, picnic-edge/tensorrt.

    Args:
        facts: result of edge_runtime.engines.tensorrt.context.local_facts().
        cuda_version: of CUDA, such as "10.2.0".
    """
    gpu, tensorrt = facts["gpu"], facts["libraries"]["tensorrt"]
    return context.cache_path((gpu["name"], gpu["compute_capability"], tensorrt, "cuda", cuda_version), ".timing")


def check_int8():
    """Raises MissingRequirement: this TensorRT or this GPU cannot build int8."""
    tensorrt = require("tensorrt")
    with context.gpu_context():
        _start_builder(tensorrt, engine.make_log(tensorrt), "int8")


def _start_builder(tensorrt, log, precision):
    builder = engine.start(tensorrt.Builder, log)
    problem = versions.int8_problem(tensorrt, builder) if precision == "int8" else ""
    if problem:
        raise MissingRequirement(f"{problem}; use --precision fp16")
    return builder


def build_plan(model, plan, precision, max_batch, workspace_mib, pictures, timing_cache):
    """Builds a plan from a model that this TensorRT reads.

    Args:
        model: .onnx file.
        plan: file to write.
        precision: one of PRECISIONS.
        max_batch: the profile is 1 to this, and best at this.
        workspace_mib: memory for the layers beside the tensors.
        pictures: for int8 by calibration: .npy file of uint8 [n, height, width, 3].
        timing_cache: file of earlier builds' measurements; it need not exist, and is replaced.

    Raises:
        MissingRequirement: TensorRT refused; with its reasons.
    """
    tensorrt = require("tensorrt")
    with context.gpu_context(), progress_of_log() as note:
        log = engine.make_log(tensorrt, note)
        builder = _start_builder(tensorrt, log, precision)
        network = versions.create_network(builder)
        parser = tensorrt.OnnxParser(network, log)  # kept to the end: the network may use the parser's weights
        parse(tensorrt, parser, network, log, model)
        config = builder.create_builder_config()
        versions.set_workspace(tensorrt, config, workspace_mib << 20)
        add_profile(builder, config, network, max_batch)
        cache = _use_timing_cache(config, timing_cache)
        with _precision_flags(tensorrt, config, precision, max_batch, pictures):
            blob = builder.build_serialized_network(network, config)
        if blob is None:
            raise MissingRequirement(
                f"TensorRT built nothing; most often the workspace (--workspace-mib, now {workspace_mib}) or the "
                f"memory is too small ({memory_text()}):\n{log.reason()}"
            )
        with open(plan, "wb") as file:
            file.write(blob)
        if cache is not None:
            _save_timing_cache(cache, timing_cache)


def parse(tensorrt, parser, network, log, path):
    """Reads an .onnx file into a network. Raises MissingRequirement: TensorRT cannot read it; with its reasons."""
    with open(path, "rb") as file:
        read = parser.parse(file.read())
    if not read:
        reasons = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        reason = "\n".join(reasons) or log.reason()
        raise MissingRequirement(f"TensorRT {tensorrt.__version__} cannot read the model:\n{reason}")
    names = [network.get_input(index).name for index in range(network.num_inputs)]
    names += [network.get_output(index).name for index in range(network.num_outputs)]
    if names != [INPUT_NAME, OUTPUT_NAME]:
        raise MissingRequirement(f"TensorRT read a model with the inputs and outputs {names}")


def add_profile(builder, config, network, max_batch):
    """Tells the builder the batches: 1 to max_batch, and best at that. Raises MissingRequirement: it refuses them."""
    shape = tuple(network.get_input(0).shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT_NAME, (1,) + shape, (max_batch,) + shape, (max_batch,) + shape)
    if config.add_optimization_profile(profile) < 0:
        raise MissingRequirement(f"TensorRT refused batches of 1 to {max_batch}")


@contextlib.contextmanager
def _precision_flags(tensorrt, config, precision, max_batch, pictures):
    """Sets a precision's flags. For int8 the calibrator and its GPU memory exist as long as the block."""
    by_model = not versions.has_precision_flags(tensorrt)
    if precision == "fp32":
        # It is on by default and rounds to 10 bits of mantissa on GPUs from compute capability 8.0 on.
        config.clear_flag(tensorrt.BuilderFlag.TF32)
    if precision != "fp32" and not by_model:
        config.set_flag(tensorrt.BuilderFlag.FP16)
    if precision != "int8" or by_model:
        yield
        return
    config.set_flag(tensorrt.BuilderFlag.INT8)
    photos = np.load(pictures, allow_pickle=False)
    cuda = require("pycuda.driver")
    try:
        device_memory = cuda.mem_alloc(max_batch * photos[0].size * np.dtype(np.float32).itemsize)
    except cuda.Error as error:
        raise MissingRequirement(f"the GPU has no memory for {max_batch} photos ({error}); try a smaller --max-batch")
    try:
        calibrator = _calibrator(tensorrt, photos, max_batch, device_memory)  # TensorRT does not keep it alive
        config.int8_calibrator = calibrator
        yield
    finally:
        device_memory.free()


def _calibrator(tensorrt, pictures, batch, device_memory):
    """Returns an IInt8EntropyCalibrator2 that feeds pictures in batches of the profile's size, the last filled up."""
    cuda = require("pycuda.driver")
    order = np.arange(-(-len(pictures) // batch) * batch) % len(pictures)
    batches = iter(order.reshape(-1, batch))
    base: typing.Any = tensorrt.IInt8EntropyCalibrator2

    class Calibrator(base):
        def __init__(self):
            base.__init__(self)

        def get_batch_size(self):
            return batch

        def get_batch(self, names):
            chosen = next(batches, None)
            if chosen is None:
                return None
            cuda.memcpy_htod(device_memory, pictures[chosen].astype(np.float32))
            return [int(device_memory)]

        def read_calibration_cache(self):
            return None

        def write_calibration_cache(self, cache):
            """Stores nothing: the photos may differ next time."""

    return Calibrator()


def _use_timing_cache(config, path):
    """Gives the builder the measurements of earlier builds. Returns the cache that it adds to, None without one."""
    earlier = b""
    with contextlib.suppress(OSError):
        with open(path, "rb") as file:
            earlier = file.read()
    for content in (earlier, b""):  # if TensorRT refuses the earlier one, an empty one
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _save_timing_cache(cache, path):
    content = cache.serialize()
    try:
        if content is None:
            raise OSError("TensorRT returned none")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with files.atomic_file(path, binary=True) as file:
            file.write(content)
    except OSError as error:
        say(f"{path}: the timing cache cannot be saved ({error}); the next build takes as long as this one")


@contextlib.contextmanager
def progress_of_log():
    """Yields a function that takes log lines. Prints the time since the start and the newest line every 10 s."""
    newest, done, started = ["no message yet"], threading.Event(), time.monotonic()

    def note(line):
        newest[0] = line

    def show():
        while not done.wait(PROGRESS_EVERY_S):
            say(f"TensorRT, {time.monotonic() - started:.0f} s: {newest[0][:_PROGRESS_LENGTH]}")

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield note
    finally:
        done.set()
        thread.join()


def _warn_of_low_memory():
    available = memory.memory_available_bytes()
    if available is not None and available + memory.memory_info().get("SwapFree", 0) < _LOW_MEMORY_BYTES:
        say(
            f"warning: {memory_text()}; the build may be killed when memory runs out. Stop other programs, or add swap:"
            f"\n{jetson.SWAP_COMMANDS}"
        )
