"""Runs an ONNX model that nobody has looked into, in a process of its own with limits of memory and time."""

import multiprocessing
import os
import resource
import signal
import tempfile
import typing

from edge_runtime.engines.onnxruntime import session
from edge_runtime.errors import UsageError
from edge_runtime.machine import memory
from edge_runtime.machine.libraries import require
from edge_runtime.machine.processes import die_with_parent

MEMORY_BYTES = 4 << 30  # beside four times the model's own size
LIMIT_S = 300


def run_limited(path, model, batches, limit_s=LIMIT_S, memory_bytes=MEMORY_BYTES):
    """Runs a model with one input and one output on some batches.

    A graph can claim tensors of any size, which are made when it is opened or run. In a process with limits that is an
    error, not the end of this one.

    Args:
        path: its file, for messages.
        model: bytes of the model.
        batches: list of arrays for its input.
        limit_s, memory_bytes: of the process; the model's size counts four times on top of the memory.

    Returns:
        list of what it answers to each batch: arrays.

    Raises:
        UsageError: ONNX Runtime refuses it, or it needs more memory or time.
        MissingRequirement: ONNX Runtime is not installed.
    """
    require("onnxruntime")
    available_bytes = memory.memory_available_bytes() or 1 << 62
    limit_bytes = min(memory_bytes + 4 * len(model), max(available_bytes, 1 << 30))
    with tempfile.NamedTemporaryFile(prefix="picnic-edge-import-", suffix=".onnx") as file:
        file.write(model)
        file.flush()
        error, answers = _in_child(limit_s, os.getpid(), file.name, batches, limit_bytes)
    if error:
        too_large = "alloc" in error.lower() or "memory" in error.lower()
        advice = f"; at most {limit_bytes >> 20} MiB of memory are given to it" if too_large else ""
        raise UsageError(f"{path}: ONNX Runtime cannot run it ({error}){advice}")
    return answers


def _in_child(limit_s, *arguments):
    """Returns (error or "", answers or None) of _child."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender,) + arguments, daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit_s):
            return f"no answer within {limit_s} s", None
        return receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"its process ended with {how}, most likely for lack of memory", None
    finally:
        process.terminate()
        process.join()
        receiver.close()


def _child(sender, parent, path, batches, limit_bytes):
    die_with_parent(parent)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)  # ONNX Runtime's own messages: the error has them
    require("onnxruntime")
    used_bytes = _address_space_bytes()
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + limit_bytes,) * 2)
    answer: typing.Tuple[str, typing.Any]
    try:
        model = session(path, 1, optimize=True)
        name = model.get_inputs()[0].name
        answer = ("", [model.run(None, {name: batch})[0] for batch in batches])
    except MemoryError:
        answer = ("not enough memory", None)
    except Exception as error:  # ONNX Runtime raises classes of its own
        answer = ((str(error).strip() or type(error).__name__).splitlines()[0][:300], None)
    sender.send(answer)


def _address_space_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
