"""A function in a process of its own: if the system kills it for lack of memory, the tool itself goes on."""

import multiprocessing
import os
import signal
import time
import traceback
import typing

from edge_runtime.console import say
from edge_runtime.errors import MissingRequirement, OutOfMemory, PicnicError, is_out_of_memory
from edge_runtime.machine import jetson, memory
from edge_runtime.machine.processes import die_with_parent

HEARTBEAT_S = 30
_LESS_MEMORY = "--workspace-mib 256 and --max-batch 1"


class ChildError(RuntimeError):
    """The function raised another exception than a PicnicError, or ended its process. The message says which, or how.

    errno: of an OSError that it raised.
    """

    errno: typing.Optional[int] = None


def run_in_child(what, function, *arguments):
    """Runs function(*arguments) in a fresh Python process, with a line on stderr every HEARTBEAT_S.

    Args:
        what: for messages, such as "tf-trt-fp16".
        function: of a module; it, the arguments and the result can be pickled. It shares standard output and error.

    Returns:
        the function's result.

    Raises:
        PicnicError: the function raised it.
        MissingRequirement: the system killed the process (SIGKILL), as it does when memory runs out.
        ChildError: anything else.
    """
    context = multiprocessing.get_context("spawn")  # a fork would share the parent's TensorFlow, which then hangs
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(os.getpid(), sender, function, arguments), daemon=True)
    before = memory_text()
    started = time.monotonic()
    process.start()
    sender.close()
    try:
        while not receiver.poll(HEARTBEAT_S):
            say(f"still building {what} ({time.monotonic() - started:.0f} s; {memory_text()})")
        error, value = receiver.recv()
    except EOFError:  # it ended without an answer
        process.join()
        raise _died(what, process.exitcode, before)
    except BaseException:
        process.terminate()
        raise
    finally:
        receiver.close()
        process.join()
    if isinstance(error, PicnicError):
        raise error
    if error is not None:
        failed = ChildError(f"building {what} failed:\n{error}")
        failed.errno = value
        raise failed
    return value


def memory_text():
    """Returns how much memory is free, as text."""
    available_mib = (memory.memory_available_bytes() or 0) >> 20
    swap_mib = memory.memory_info().get("SwapFree", 0) >> 20
    return f"{available_mib} MiB of memory and {swap_mib} MiB of swap free"


def _child(parent, sender, function, arguments):
    die_with_parent(parent)
    answer: typing.Tuple[typing.Any, typing.Any]
    try:
        answer = (None, function(*arguments))
    except PicnicError as error:
        answer = (error, None)
    except KeyboardInterrupt:  # the parent is interrupted, too
        return
    except Exception as error:
        if is_out_of_memory(error):
            answer = (OutOfMemory(f"not enough memory ({error}); stop other programs, or use {_LESS_MEMORY}"), None)
        else:
            answer = (traceback.format_exc(), error.errno if isinstance(error, OSError) else None)
    sender.send(answer)


def _died(what, code, before):
    if code == -signal.SIGKILL:
        return MissingRequirement(
            f"building {what} was killed by the system, most likely because memory ran out (before it: {before}).\n"
            f"Stop other programs, or use {_LESS_MEMORY}, or add swap:\n{jetson.SWAP_COMMANDS}"
        )
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return ChildError(f"building {what} ended its process with {how}; its messages are above")
