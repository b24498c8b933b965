"""Builds in a process of their own: what comes back, and what is said of a process that does not come back."""

import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from convert import child
from convert.child import ChildError, run_in_child
from edge_runtime.errors import BundleError, MissingRequirement, OutOfMemory
from tests.helpers import ROOT, is_running


def double(values):
    return {"doubled": values * 2, "process": os.getpid()}


def refuse(message):
    raise BundleError(message)


def stumble():
    return {}["no such key"]


def fill_the_disk():
    raise OSError(errno.ENOSPC, "No space left on device")


def ask_for_too_much(said):
    raise RuntimeError(said) if said else MemoryError()


def die(number):
    os.kill(os.getpid(), number)


def leave(code):
    os._exit(code)


def sleep(seconds, path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(seconds)


def test_the_answer_comes_from_another_process():
    answer = run_in_child("x", double, np.arange(3))
    assert answer["doubled"].tolist() == [0, 2, 4]
    assert answer["process"] != os.getpid()


@pytest.mark.parametrize("said", ["", "while parsing: std::bad_alloc"])
def test_memory_that_runs_out_is_what_the_machine_lacks(said):
    with pytest.raises(OutOfMemory, match="memory.*--max-batch 1"):
        run_in_child("x", ask_for_too_much, said)


def test_an_error_for_the_user_arrives_as_it_is():
    with pytest.raises(BundleError, match="^gone: make it again$"):
        run_in_child("x", refuse, "gone: make it again")


def test_a_bug_arrives_with_its_traceback():
    with pytest.raises(ChildError, match="building x (.|\n)*in stumble(.|\n)*KeyError: 'no such key'"):
        run_in_child("x", stumble)


def test_a_full_disk_arrives_with_its_number():
    with pytest.raises(ChildError, match="No space left on device") as caught:
        run_in_child("x", fill_the_disk)
    assert caught.value.errno == errno.ENOSPC


def test_a_killed_build_names_memory_and_the_swap_commands():
    with pytest.raises(MissingRequirement) as caught:
        run_in_child("tf-trt-fp16", die, signal.SIGKILL)
    said = str(caught.value)
    assert said.startswith("building tf-trt-fp16 was killed by the system")
    assert "MiB of memory and" in said and "--max-batch 1" in said and "mkswap" in said
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "function, argument, how",
    [(die, signal.SIGABRT, "signal SIGABRT"), (leave, 3, "exit code 3")],
    ids=["signal", "exit code"],
)
def test_a_build_that_ends_its_process_otherwise(function, argument, how):
    with pytest.raises(ChildError, match="building x .*" + how):
        run_in_child("x", function, argument)


def test_a_long_build_gives_signs_of_life(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(child, "HEARTBEAT_S", 0.1)
    run_in_child("x", sleep, 0.5, str(tmp_path / "pid"))
    assert "still building x (" in capsys.readouterr().err


def start_a_long_build(path):
    """Starts a process whose child sleeps; returns it and the child's number, which the child writes to path."""
    program = "from convert.child import run_in_child\nfrom tests.convert import test_child\n" + (
        "run_in_child('x', test_child.sleep, 600, %r)" % path
    )
    environment = dict(os.environ, PYTHONPATH=ROOT)
    parent = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (os.path.exists(path) and os.path.getsize(path)) and time.monotonic() < deadline:
        time.sleep(0.02)
    with open(path) as file:
        return parent, file.read()


def test_ctrl_c_ends_the_build(tmp_path):
    parent, process = start_a_long_build(str(tmp_path / "pid"))
    parent.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in parent.communicate(timeout=60)[1].decode()
    assert not is_running(process)


def test_a_build_ends_with_its_parent(tmp_path):
    parent, process = start_a_long_build(str(tmp_path / "pid"))
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 60
    while is_running(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(process)
