"""Child processes that never outlive their parent."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1  # of prctl


def die_with_parent(parent):
    """Makes the system kill this process (SIGKILL) as soon as its parent ends, however the parent ends.

    Args:
        parent: the parent's process id, from os.getpid() in the parent.

    Raises:
        SystemExit: the parent has ended already.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(0)
