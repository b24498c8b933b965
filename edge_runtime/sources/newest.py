"""The newest frame of a camera or stream, and the counts of all its frames."""

import typing

import numpy as np

from edge_runtime.sources.delay import STALE_S


class Counts:
    """What became of the frames: captured = taken + dropped + blank + repeated (+ one that waits to be taken)."""

    def __init__(self):
        self.captured = 0
        self.taken = 0  # handed out
        self.dropped = 0  # replaced by a newer one before they were taken, or too old
        self.blank = 0  # one colour all over: no picture
        self.repeated = 0  # the same to the byte as the picture before, also across an outage
        self.reconnects = 0  # outages that ended
        self.damaged = 0  # of a video: could not be decoded (not among captured)
        self.hanging = 0  # reading threads that had to be left behind and have not come back


class NewestFrame:
    """Keeps the newest frame until it is taken, and counts what becomes of each. Callers hold the lock of the Live.

    Attributes:
        first_s: time.perf_counter() when the first frame of all was read, None before.
        last_picture: the last picture that was new (uint8 [height, width, 3], BGR), also across an outage; None before.
    """

    def __init__(self, counts):
        self.first_s: typing.Optional[float] = None
        self.last_picture: typing.Optional[np.ndarray] = None
        self._counts = counts
        self._waiting: typing.Optional[tuple] = None  # (number, picture as BGR, captured_s)

    def put(self, bgr, read_s, outcome):
        """Keeps a new frame in the place of the one before; only counts any other.

        Args:
            bgr: uint8 [height, width, 3]; may be None for a frame that is only counted.
            read_s: time.perf_counter() when it was read.
            outcome: "" for a new frame; else "dropped", "blank" or "repeated", the attribute of Counts that grows.
        """
        number = self._counts.captured
        self._counts.captured += 1
        if self.first_s is None:
            self.first_s = read_s
        if outcome:
            setattr(self._counts, outcome, getattr(self._counts, outcome) + 1)
            return
        self.drop()
        self._waiting = (number, bgr, read_s)
        self.last_picture = bgr

    def take(self, now_s):
        """Returns (number, picture as BGR, captured_s) of the frame that waits; None where there is none, or it is too
        old."""
        frame = self._waiting
        if frame is None:
            return None
        if now_s - frame[2] > STALE_S:
            self.drop()
            return None
        self._waiting = None
        self._counts.taken += 1
        return frame

    def drop(self):
        """Drops the frame that waits, if there is one."""
        if self._waiting is not None:
            self._waiting = None
            self._counts.dropped += 1

    def is_empty(self):
        """Whether no frame waits."""
        return self._waiting is None
