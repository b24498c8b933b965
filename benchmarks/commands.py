"""Runs another program with a time limit.

Only Python's own library is imported: benchmarks.board.jetson_check must run where nothing else can be loaded.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time

_MAX_CHARACTERS = 20000  # of each stream: its beginning and its end
HEARTBEAT_S = 60  # a command that runs longer is reported as still running this often
GRACE_S = 60  # for writing what there is, after SIGINT


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, while a command ran."""

    def __init__(self, outcome):
        """Keeps outcome: what run_command would have returned, with the problem "interrupted"."""
        super().__init__()
        self.outcome = outcome


def run_command(command, limit_s):
    """Runs a command, and ends it with all its children at the limit: by SIGINT, as Ctrl-C does, then by SIGKILL.

    Args:
        command: list of words.
        limit_s: seconds.

    Returns:
        {"command", "exit_code" (None: it could not start, or was stopped at the limit), "problem", "seconds", "stdout",
        "stderr"}; long streams lose their middle.

    Raises:
        Interrupted: after Ctrl-C. The command was interrupted, too, and has ended.
    """
    started = time.perf_counter()
    problem, stdout, stderr, code, interrupted = "", b"", b"", None, False
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_obey_interrupts,
        )
    except OSError as error:
        problem = f"cannot be started: {error}"
    else:
        try:
            stdout, stderr, problem = _wait(process, started, limit_s)
        except KeyboardInterrupt:
            interrupted, problem = True, "interrupted"
            say("   interrupted: it may write what it has; Ctrl-C again ends it at once")
            try:
                stdout, stderr = _stop(process)
            except KeyboardInterrupt:
                kill_group(process)
                stdout, stderr = process.communicate()
        finally:
            kill_group(process)
        code = None if problem else process.returncode
    outcome = {
        "command": command,
        "exit_code": code,
        "problem": problem,
        "seconds": round(time.perf_counter() - started, 2),
        "stdout": _shortened(stdout),
        "stderr": _shortened(stderr),
    }
    if interrupted:
        raise Interrupted(outcome)
    return outcome


def _obey_interrupts():
    """In the child: a shell's background job would ignore SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait(process, started, limit_s):
    """Returns (stdout, stderr, problem) of a process, ended at the limit. Prints every minute that it still runs."""
    while True:
        left_s = started + limit_s - time.perf_counter()
        try:
            return process.communicate(timeout=max(0.0, min(left_s, HEARTBEAT_S))) + ("",)
        except subprocess.TimeoutExpired:
            if left_s > HEARTBEAT_S:
                say(f"   still running ({time.perf_counter() - started:.0f} s)")
                continue
            return _stop(process) + (f"stopped after {limit_s:.0f} s",)


def _stop(process):
    """Ends a process and its children. Returns (stdout, stderr)."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.communicate(timeout=GRACE_S)
    kill_group(process)
    return process.communicate()


def kill_group(process):
    """Ends a process that leads a group of its own (start_new_session=True), and all its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _shortened(stream):
    text = stream.decode("utf-8", "backslashreplace")
    half = _MAX_CHARACTERS // 2
    if len(text) <= _MAX_CHARACTERS:
        return text
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def say(text):
    """Prints a line to standard error."""
    print(text, file=sys.stderr, flush=True)
