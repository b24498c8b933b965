"""A child never outlives its parent."""

import os
import signal
import subprocess
import sys

from tests.helpers import ROOT

CHILD = """
import sys, time
from edge_runtime.machine.processes import die_with_parent
die_with_parent(int(sys.argv[1]))
print("alive", flush=True)
time.sleep(600)
"""
PARENT = """
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())]).wait()
"""


def start(*arguments):
    return subprocess.Popen([sys.executable, "-c"] + list(arguments), cwd=ROOT, stdout=subprocess.PIPE)


def test_a_child_ends_with_its_parent():
    parent = start(PARENT, CHILD)
    assert parent.stdout.readline() == b"alive\n"
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    with parent.stdout as stream:
        assert stream.read() == b""  # ends as soon as the child has ended too


def test_a_child_of_a_parent_that_ended_before_does_nothing():
    orphan = start(CHILD, str(os.getpid() + 1))
    assert orphan.communicate(timeout=60)[0] == b"" and orphan.returncode == 0
