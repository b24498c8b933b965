"""Says that the bench still waits for an engine: one that hangs is given minutes, in which nothing else is printed."""

import contextlib
import threading

from edge_runtime.console import say

FIRST_S = 30.0  # then after twice as long each time


@contextlib.contextmanager
def waiting_for(name, limit_s):
    """Says in the with-block, after FIRST_S and ever more seldom, that there is no answer yet.

    Args:
        name: of the engine.
        limit_s: after how many seconds the caller gives up.
    """
    ended = threading.Event()

    def report():
        waited_s, pause_s = 0.0, FIRST_S
        while not ended.wait(pause_s):
            waited_s += pause_s
            say(f"{name}: no answer for {waited_s:.0f} s; waits up to {limit_s:.0f} s")
            pause_s = waited_s

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        ended.set()
        reporter.join()
