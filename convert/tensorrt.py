"""TensorRT: the bundle's ONNX model, made readable for the TensorRT here, built into a plan for the GPU here.

Not yet run on hardware: written from TensorRT's and pycuda's sources, tested with a simulator of both.
"""

import contextlib
import os
import re
import shutil
import threading
import time
import typing

import numpy as np

from convert.child import memory_text, run_in_child
from edge_runtime import files
from edge_runtime.bundle.manifest import INPUT_NAME, OUTPUT_NAME
from edge_runtime.console import say
from edge_runtime.engines.tensorrt import context, engine, versions
from edge_runtime.errors import BundleError, MissingRequirement
from edge_runtime.machine import jetson
from edge_runtime.machine.libraries import require
from edge_runtime.machine.memory import memory_info
from edge_runtime.photos import spec

PRECISIONS = ("fp16", "fp32", "int8")
MAX_OPSET = 13  # TensorRT 8.2 reads no newer one, and does not say so
_LEAST_WORKSPACE_MIB = 256
_MOST_WORKSPACE_MIB = 1024  # what NVIDIA's own benchmarks give an Inception on a TX2
_LOW_MEMORY_BYTES = 2 << 30
_SHOWN_EVERY_S = 10
_SHOWN_LENGTH = 150
_HALF_CHECK_PHOTOS = 8


def check(precision):
    """Raises MissingRequirement: tensorrt, pycuda, onnx or a GPU is missing, or what the precision needs of them."""
    context.local_facts()
    require("onnx")
    if precision == "fp16" and not versions.has_precision_flags(require("tensorrt")):
        require("modelopt.onnx.autocast")
    if precision == "int8":
        run_in_child("tensorrt-int8", check_int8)


def build(bundle, settings, folder):
    """Writes the plan into folder; in a process of its own, which may need more memory than there is.

    fp16 lets TensorRT choose half precision layer by layer; from TensorRT 11 on, modelopt's autocast chooses it in the
    model. int8 is entropy calibration by settings.calibration.

    Returns:
        facts for engine.json: libraries, gpu, input_dtype, workspace_mib.

    Raises:
        MissingRequirement: tensorrt, pycuda, onnx, a GPU or memory is missing, or TensorRT refused the model; with the
            reasons that it gave.
        BundleError: the model is not one that can be made readable.
    """
    here = context.local_facts()
    onnx, tensorrt = require("onnx"), require("tensorrt")
    workspace_mib = settings.workspace_mib or default_workspace_mib(context.gpu().total_memory())
    say(f"TensorRT {tensorrt.__version__} on {here['gpu']['name']}; this takes minutes on a board")
    _warn_of_low_memory()
    scratch = os.path.join(folder, "scratch")
    os.mkdir(scratch)
    model = os.path.join(scratch, "model.onnx")
    pictures = os.path.join(scratch, "pictures.npy")
    input_dtype = _write_readable(onnx, tensorrt, bundle, settings, model)
    if settings.precision == "int8":
        np.save(pictures, settings.calibration.images)
    run_in_child(
        f"tensorrt-{settings.precision}",
        build_plan,
        *(model, os.path.join(folder, engine.PLAN), settings.precision, settings.max_batch, workspace_mib),
        *(pictures, timing_cache_path(here)),
    )
    shutil.rmtree(scratch)  # after a failure it goes with the folder; till then it shows that the disk is full
    return dict(here, input_dtype=input_dtype, workspace_mib=workspace_mib)


def default_workspace_mib(gpu_memory_bytes):
    """Returns a quarter of the memory that the build may count on, between 256 and 1024 MiB.

    A board's GPU shares the board's memory, of which TensorRT and the weights need their part too; a card has its own.

    Args:
        gpu_memory_bytes: the GPU's total memory.
    """
    free_bytes = min(gpu_memory_bytes, memory_info().get("MemAvailable", gpu_memory_bytes))
    return max(_LEAST_WORKSPACE_MIB, min(_MOST_WORKSPACE_MIB, (free_bytes >> 20) // 4))


def timing_cache_path(here):
    """Returns where the measured times of a GPU's kernels are kept: $XDG_CACHE_HOME or ~/.cache, picnic-edge/tensorrt.

    Args:
        here: as edge_runtime.engines.tensorrt.context.local_facts() gives it.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    parts = (here["gpu"]["name"], here["gpu"]["compute_capability"], here["libraries"]["tensorrt"])
    name = "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", part) for part in parts)
    return os.path.join(cache, "picnic-edge", "tensorrt", name + ".timing")


# --- the model


def check_model(model):
    """Checks that an onnx.ModelProto is one that all TensorRT versions can be given.

    Raises:
        BundleError: its opset is newer than 13, or it has another input than one of type uint8.
    """
    opsets = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not opsets or max(opsets) > MAX_OPSET:
        raise BundleError(f"its model.onnx has opset {opsets}, TensorRT is given up to {MAX_OPSET}; train again")
    uint8 = require("onnx").TensorProto.UINT8
    inputs = [(value.name, value.type.tensor_type.elem_type) for value in model.graph.input]
    if inputs != [(INPUT_NAME, uint8)]:
        raise BundleError(f"its model.onnx has the inputs {inputs}, not one of uint8; train again")


def cast_comes_first(model):
    """Whether all that an onnx.ModelProto does with its input is to cast it to a floating-point type.

    That much TensorRT 8.5 and newer can do with uint8, and no more.
    """
    types = require("onnx").TensorProto
    users = [node for node in model.graph.node if INPUT_NAME in node.input]
    return bool(users) and all(
        node.op_type == "Cast" and node.attribute[0].i in (types.FLOAT, types.FLOAT16) for node in users
    )


def with_float_input(model):
    """Returns a copy of an onnx.ModelProto that takes the same values, 0..255, as float32.

    The Casts of the input to float32 are left out: nothing is left in the graph that knows uint8.

    Raises:
        BundleError: the graph does something else with its input.
    """
    if not cast_comes_first(model):
        raise BundleError("its model.onnx does not begin with a Cast of its uint8 input; train again")
    onnx = require("onnx")
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    needless = [node for node in graph.node if INPUT_NAME in node.input and _casts_to(node, onnx.TensorProto.FLOAT)]
    gone = {node.output[0] for node in needless}
    for node in needless:
        graph.node.remove(node)
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in gone:
                node.input[place] = INPUT_NAME
    return changed


def _casts_to(node, element_type):
    return node.op_type == "Cast" and node.attribute[0].i == element_type


def _write_readable(onnx, tensorrt, bundle, settings, path):
    """Writes the bundle's model as the TensorRT here reads it. Returns the type of its input, as numpy names it."""
    model = onnx.load_model_from_string(bundle.read("model.onnx"))
    try:
        check_model(model)
        # How the calibration of a uint8 input works is not documented.
        keep = versions.takes_uint8(tensorrt) and settings.precision != "int8" and cast_comes_first(model)
        onnx.save(model if keep else with_float_input(model), path)
    except BundleError as error:
        raise BundleError(f"{bundle.path}: {error}")
    if settings.precision == "fp16" and not versions.has_precision_flags(tensorrt):
        onnx.save(_half(path, settings.calibration.images[:_HALF_CHECK_PHOTOS], keep), path)
    return "uint8" if keep else "float32"


def _half(path, pictures, uint8):
    """Returns the model in a file with what may be in half precision in it; its input and output stay as they are."""
    autocast = require("modelopt.onnx.autocast")
    photos = os.path.join(os.path.dirname(path), "photos.npz")  # by which autocast sees how large the values get
    np.savez(photos, **{INPUT_NAME: pictures if uint8 else pictures.astype(np.float32)})
    return autocast.convert_to_mixed_precision(
        onnx_path=path, low_precision_type="fp16", keep_io_types=True, calibration_data=photos
    )


# --- the build, in the child process


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
        pictures: for int8: .npy file of uint8 [n, 299, 299, 3].
        timing_cache: file of an earlier build's measurements, there or not; replaced by this build's.

    Raises:
        MissingRequirement: TensorRT refused; with its reasons.
    """
    tensorrt = require("tensorrt")
    with context.gpu_context(), _last_line_shown() as note:
        log = engine.make_log(tensorrt, note)
        builder = _start_builder(tensorrt, log, precision)
        network = versions.create_network(builder)
        parser = tensorrt.OnnxParser(network, log)  # held to the end: the network may use the weights where it put them
        _parse(tensorrt, parser, network, log, model)
        config = builder.create_builder_config()
        versions.set_workspace(tensorrt, config, workspace_mib << 20)
        _add_profile(builder, config, max_batch)
        cache = _use_timing_cache(config, timing_cache)
        with _precision_set(tensorrt, config, precision, max_batch, pictures):
            blob = builder.build_serialized_network(network, config)
        if blob is None:
            raise MissingRequirement(
                "TensorRT built nothing; most often the workspace (--workspace-mib, now %d) or the memory is too small "
                "(%s):\n%s" % (workspace_mib, memory_text(), log.reason())
            )
        with open(plan, "wb") as file:
            file.write(blob)
        if cache is not None:
            _keep_timing_cache(cache, timing_cache)


def _parse(tensorrt, parser, network, log, path):
    with open(path, "rb") as file:
        read = parser.parse(file.read())
    if not read:
        reasons = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise MissingRequirement(
            "TensorRT %s cannot read the model:\n%s" % (tensorrt.__version__, "\n".join(reasons) or log.reason())
        )
    names = [network.get_input(index).name for index in range(network.num_inputs)]
    names += [network.get_output(index).name for index in range(network.num_outputs)]
    if names != [INPUT_NAME, OUTPUT_NAME]:
        raise MissingRequirement(f"TensorRT read a model with the inputs and outputs {names}")


def _add_profile(builder, config, max_batch):
    shape = tuple(spec.INPUT_SPEC["shape"])
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT_NAME, (1,) + shape, (max_batch,) + shape, (max_batch,) + shape)
    if config.add_optimization_profile(profile) < 0:
        raise MissingRequirement(f"TensorRT refused batches of 1 to {max_batch}")


@contextlib.contextmanager
def _precision_set(tensorrt, config, precision, max_batch, pictures):
    """Sets a precision's flags; for int8, what the calibration needs is held for the length of the block."""
    if precision != "fp32" and versions.has_precision_flags(tensorrt):
        config.set_flag(tensorrt.BuilderFlag.FP16)
    if precision != "int8":
        yield
        return
    config.set_flag(tensorrt.BuilderFlag.INT8)
    photos = np.load(pictures, allow_pickle=False)
    cuda = require("pycuda.driver")
    try:
        memory = cuda.mem_alloc(max_batch * photos[0].size * np.dtype(np.float32).itemsize)
    except cuda.Error as error:
        raise MissingRequirement(f"the GPU has no memory for {max_batch} photos ({error}); try a smaller --max-batch")
    try:
        calibrator = _calibrator(tensorrt, photos, max_batch, memory)  # TensorRT does not keep it alive
        config.int8_calibrator = calibrator
        yield
    finally:
        memory.free()


def _calibrator(tensorrt, pictures, batch, memory):
    """Returns an IInt8EntropyCalibrator2 that shows pictures in batches of the profile's size, the last filled up."""
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
            cuda.memcpy_htod(memory, pictures[chosen].astype(np.float32))
            return [int(memory)]

        def read_calibration_cache(self):
            return None

        def write_calibration_cache(self, cache):
            """The photos may differ the next time: nothing is kept."""

    return Calibrator()


def _use_timing_cache(config, path):
    """Gives the builder what earlier builds measured. Returns the cache that it will add to, None without one."""
    kept = b""
    with contextlib.suppress(OSError):
        with open(path, "rb") as file:
            kept = file.read()
    for content in (kept, b""):  # one that TensorRT does not like is started anew
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _keep_timing_cache(cache, path):
    content = cache.serialize()
    try:
        if content is None:
            raise OSError("TensorRT gave none")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with files.atomic_file(path, binary=True) as file:
            file.write(content)
    except OSError as error:
        say(f"{path}: the measured times are not kept ({error}); the next build takes as long")


@contextlib.contextmanager
def _last_line_shown():
    """Yields a function that takes log lines; every 10 s the time since the start and the newest line are shown."""
    newest, done, started = ["no message yet"], threading.Event(), time.monotonic()

    def note(line):
        newest[0] = line

    def show():
        while not done.wait(_SHOWN_EVERY_S):
            say(f"TensorRT, {time.monotonic() - started:.0f} s: {newest[0][:_SHOWN_LENGTH]}")

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield note
    finally:
        done.set()
        thread.join()


def _warn_of_low_memory():
    info = memory_info()
    if info and info.get("MemAvailable", 0) + info.get("SwapFree", 0) < _LOW_MEMORY_BYTES:
        say(
            "warning: %s; the build may be killed for want of memory. Stop other programs, or add swap:\n%s"
            % (memory_text(), jetson.SWAP_COMMANDS)
        )
