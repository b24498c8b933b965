"""Builds that may use up the machine's memory run in a process of their own: it may be killed, the tool goes on."""

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


class ChildError(RuntimeError):
    """The function raised what is no PicnicError, or ended its process; the message is its traceback, or says how.

    errno: of the OSError that it raised.
    """

    errno: typing.Optional[int] = None


def run_in_child(what, function, *arguments):
    """Runs function(*arguments) in a fresh Python process, with a line on stderr every HEARTBEAT_S.

    Args:
        what: for messages, such as "tf-trt-fp16".
        function: of a module; it, the arguments and what it returns can be pickled. Standard output and error are the
            tool's own.

    Returns:
        what the function returned.

    Raises:
        PicnicError: the one that the function raised.
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
    """Returns what memory is left, for people."""
    info = memory.memory_info()
    figures = tuple(info.get(name, 0) >> 20 for name in ("MemAvailable", "SwapFree"))
    return "%d MiB of memory and %d MiB of swap free" % figures


def _child(parent, sender, function, arguments):
    die_with_parent(parent)
    answer: typing.Tuple[typing.Any, typing.Any]
    try:
        answer = (None, function(*arguments))
    except PicnicError as error:
        answer = (error, None)
    except KeyboardInterrupt:  # the parent got it too
        return
    except Exception as error:
        if is_out_of_memory(error):
            less = "stop other programs, or give it less (--workspace-mib 256, --max-batch 1)"
            answer = (OutOfMemory(f"there is not enough memory for it ({error}); {less}"), None)
        else:
            answer = (traceback.format_exc(), error.errno if isinstance(error, OSError) else None)
    sender.send(answer)


def _died(what, code, before):
    if code == -signal.SIGKILL:
        return MissingRequirement(
            "building %s was killed by the system, which does that when memory runs out (before it: %s).\n"
            "Stop other programs, or give it less (--workspace-mib 256, --max-batch 1), or add swap:\n%s"
            % (what, before, jetson.SWAP_COMMANDS)
        )
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return ChildError(f"building {what} ended its process with {how}; what it said is above")
