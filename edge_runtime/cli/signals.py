"""Ctrl-C and SIGTERM: the first lets the run finish what it has begun, the second ends it at once."""

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


Signals = typing.NamedTuple(
    "Signals",
    [
        ("received", typing.List[int]),  # the numbers of the signals so far
        ("drained", typing.Callable[[], None]),  # to be called when what was begun is finished: the time limit is off
    ],
)


@contextlib.contextmanager
def draining(stop, give_up, last_words):
    """Handles Ctrl-C and SIGTERM within the block. In another thread than the main one it does nothing.

    The first signal sets the event stop, whereupon the block is expected to end by itself. If it has not ended DRAIN_S
    later (an engine or a disk that does not come back), give_up is called and the process ends with 130. A second
    signal ends it at once. All this is done by a thread of its own: the main one may be waiting for what hangs.

    Args:
        stop: threading.Event.
        give_up: saves what can be saved; if it takes longer than a second it is not waited for.
        last_words: function that returns the text with which the process ends in these two cases.

    Yields:
        a Signals.
    """
    drained = threading.Event()
    signals = Signals([], drained.set)
    # A shell lets a job in its background ignore Ctrl-C; so it stays.
    handled = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def wait(timeout_s=None):
        """Returns the next signal's number, None after timeout_s or when the block has ended."""
        while select.select([reading], [], [], timeout_s)[0]:
            data = os.read(reading, 1)
            if not data or data[0] in handled:
                return data[0] if data else None
        return None

    # Started now: where memory is short a thread may not start, and who starts it waits for ever.
    save = threading.Event()
    saved = threading.Event()

    def save_when_asked():
        save.wait()
        if not drained.is_set():
            give_up()
        saved.set()

    def watch():
        number = wait()
        if number is None:
            return
        signals.received.append(number)
        _tell(f"\nstopping: what was begun is finished, in {DRAIN_S} s at most; once more stops at once\n")
        stop.set()
        again = wait(DRAIN_S)
        if not again and not drained.is_set():
            save.set()  # in a thread of its own: what hangs may hold what it needs
            saved.wait(_SAVE_S)
        elif not again:
            again = wait()
            if not again:
                return
        _tell(f"\n{last_words()}picnic-edge: interrupted\n")
        os._exit(INTERRUPTED)

    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    threading.Thread(target=save_when_asked, name="saving", daemon=True).start()
    wakeup = signal.set_wakeup_fd(writing)
    before = {number: signal.signal(number, lambda *_: None) for number in handled}
    try:
        yield signals
    finally:
        drained.set()
        save.set()
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(writing)  # ends the watching
        watcher.join()
        os.close(reading)


def _tell(text):
    """Writes past Python's buffers, which a thread that hangs may hold."""
    with contextlib.suppress(OSError):
        os.write(2, message(text).encode("utf-8", "backslashreplace"))
