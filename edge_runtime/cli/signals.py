"""Ctrl-C and SIGTERM: the first lets a run finish the photos it has started, the second ends it at once."""

import contextlib
import os
import select
import signal
import threading
import typing

from edge_runtime.cli.run import INTERRUPTED
from edge_runtime.console import message

DRAIN_S = 2
_SAVE_S = 1


class Signals(typing.NamedTuple):
    """What a run needs to know about signals."""

    received: typing.List[int]  # the numbers of the signals so far
    end_time_limit: typing.Callable[[], None]  # call it when the started photos are finished


@contextlib.contextmanager
def stop_on_signals(stop, save, last_message):
    """Handles Ctrl-C and SIGTERM within the block. Outside the main thread it does nothing.

    The first signal sets the event stop; the block should then end by itself. If it has not ended after DRAIN_S (an
    engine or a disk hangs), save is called and the process ends with exit code 130. A second signal ends it at once.
    A thread of its own does all this, because the main thread may be waiting for what hangs.

    Args:
        stop: threading.Event.
        save: function that saves what can be saved; it gets one second.
        last_message: function that returns what to print before the process ends here.

    Yields:
        a Signals.
    """
    finished = threading.Event()
    signals = Signals([], finished.set)
    # A shell starts background jobs with Ctrl-C ignored; it stays ignored.
    handled = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)

    def wait(timeout_s=None):
        """Returns the next signal's number, None after timeout_s or when the block has ended."""
        while select.select([read_end], [], [], timeout_s)[0]:
            data = os.read(read_end, 1)
            if not data or data[0] in handled:
                return data[0] if data else None
        return None

    # Both threads start now: when memory is short, starting one later may block for ever.
    save_now = threading.Event()
    saved = threading.Event()

    def save_on_request():
        save_now.wait()
        if not finished.is_set():
            save()
        saved.set()

    def watch():
        number = wait()
        if number is None:
            return
        signals.received.append(number)
        _print(f"\nstopping: finishing photos already started (up to {DRAIN_S} s); press Ctrl-C again to stop now\n")
        stop.set()
        second = wait(DRAIN_S)
        if not second and not finished.is_set():
            save_now.set()  # in its own thread: what hangs may hold a lock that save needs
            saved.wait(_SAVE_S)
        elif not second:
            second = wait()
            if not second:
                return
        _print(f"\n{last_message()}picnic-edge: interrupted\n")
        os._exit(INTERRUPTED)

    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    threading.Thread(target=save_on_request, name="saving", daemon=True).start()
    wakeup = signal.set_wakeup_fd(write_end)
    before = {number: signal.signal(number, lambda *_: None) for number in handled}
    try:
        yield signals
    finally:
        finished.set()
        save_now.set()
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(write_end)  # ends the watcher's wait
        watcher.join()
        os.close(read_end)


def _print(text):
    """Writes to standard error without Python's buffers: a thread that hangs may hold their locks."""
    with contextlib.suppress(OSError):
        os.write(2, message(text).encode("utf-8", "backslashreplace"))
