"""Limits the memory that decoding photos takes: one budget in bytes for all threads of the process together.

What a photo needs is estimated from its header, before it is decoded. A photo that does not fit beside those that are
being decoded waits; one that needs more than the whole budget is refused.
"""

import collections
import contextlib
import ctypes
import os
import threading
import typing

from edge_runtime.errors import ImageError, UsageError
from edge_runtime.machine import memory

SETTING = "PICNIC_EDGE_DECODE_MIB"  # environment: the budget in MiB
_MIN_BYTES = 64 << 20  # a photo of 12 megapixels must be readable on the smallest board
_LARGE_BYTES = 32 << 20  # from this size on memory goes back to the system at once, which takes a millisecond
_SHARE = 4  # the budget is one such part of the memory that is free at the start


class Budget:
    """A number of bytes that threads reserve parts of, first come, first served.

    Attributes:
        size_bytes: of the whole budget.
        peak_bytes: the most that was reserved at one time.
    """

    def __init__(self, size_bytes):
        self.size_bytes = size_bytes
        self.peak_bytes = 0
        self._used_bytes = 0
        self._alone: typing.Optional[int] = None  # the thread that has the whole budget
        self._changed = threading.Condition()
        self._queue: typing.Deque[object] = collections.deque()  # who waits, in order: a large one is not overtaken

    @contextlib.contextmanager
    def reserve(self, need_bytes, what="a photo"):
        """Reserves bytes while the block runs; waits until they are free.

        Args:
            need_bytes: how many; 0 and more.
            what: the photo, for the message, such as "PNG of 20000 x 8000 pixels".

        Raises:
            ImageError: more than the whole budget.
        """
        if need_bytes > self.size_bytes:
            raise ImageError(
                f"needs {-(-need_bytes >> 20)} MiB of memory to decode ({what}), "
                f"and the limit is {self.size_bytes >> 20} MiB; {SETTING}=N raises it"
            )
        if self._alone == threading.get_ident():
            yield
            return
        with self._reserved(need_bytes):
            yield

    @contextlib.contextmanager
    def alone(self):
        """Waits until no other thread has a part of the budget, and keeps all of it while the block runs."""
        with self._reserved(self.size_bytes):
            self._alone = threading.get_ident()
            try:
                yield
            finally:
                self._alone = None

    @contextlib.contextmanager
    def _reserved(self, need_bytes):
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                while self._queue[0] is not ticket or self._used_bytes + need_bytes > self.size_bytes:
                    self._changed.wait()
                self._used_bytes += need_bytes
                self.peak_bytes = max(self.peak_bytes, self._used_bytes)
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            if need_bytes >= _LARGE_BYTES:
                _trim()
            with self._changed:
                self._used_bytes -= need_bytes
                self._changed.notify_all()


def _trim():
    """Gives freed memory back to the system; the C library would keep it, for each thread separately."""
    with contextlib.suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)


def default_bytes():
    """Returns the size of the budget: what PICNIC_EDGE_DECODE_MIB says, else a quarter of the memory that is free.

    Raises:
        UsageError: PICNIC_EDGE_DECODE_MIB is no whole number from 1.
    """
    text = os.environ.get(SETTING)
    if text:
        if not text.isdigit() or int(text) < 1:
            raise UsageError(f"{SETTING}={text}: expected a whole number of MiB, 1 or more")
        return int(text) << 20
    return max((memory.memory_available_bytes() or 0) // _SHARE, _MIN_BYTES)


_lock = threading.Lock()
_budget: typing.Optional[Budget] = None


def decode_budget():
    """Returns the Budget of this process; its size is set at the first call.

    Raises:
        UsageError: PICNIC_EDGE_DECODE_MIB is no whole number from 1.
    """
    global _budget
    with _lock:
        if _budget is None:
            _budget = Budget(default_bytes())
        return _budget
