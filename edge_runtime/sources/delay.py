"""How late the frames of a stream arrive, by the clock in the stream."""

import typing

import numpy as np

from edge_runtime.sources.video import is_counted

# A frame is not handed out that waited longer than this, or whose delay exceeds the least delay by more than this.
STALE_S = 2

_STEADY_FRAMES = 3  # in a row; a single one may be slow to decode although more have piled up behind it
_JUDGED_FRAMES = 50  # if so many frames in a row are only counted, the stream has no clock
_CLOCK_WINDOW_S = 300  # a stream's clock drifts: a delay is compared with the least one of the last 5 to 10 minutes


class Delay:
    """Finds the frames of a stream that arrive late, by the clock in the stream.

    The time at which a frame is read does not show that it is late. But while ffmpeg opens a stream it holds frames
    back (1 s and more); after a stall all frames that had piled up come at once; and a decoder that is too slow falls
    ever further behind.
    """

    def __init__(self, frames_per_second):
        self._frames_per_second = frames_per_second
        self._number = self._counted = 0  # frames, and how many of them have a counted position, see is_counted
        # Frames in a row that did not come faster than the stream's clock; enough of them: no more frames are piled up.
        self._steady = 0
        self._first_s: typing.Optional[float] = None
        self._before = (float("nan"), float("nan"))  # position, and our clock minus the stream's, of the frame before
        self._least = [float("inf"), float("inf")]  # our clock minus the stream's, in the last and in this window
        self._window_s = 0.0

    def is_stale(self, read_s, position_s):
        """Whether a frame is late: by more than 2 s against the least delay of the last 5 to 10 minutes; or one of the
        first frames, which had piled up and so come faster than the stream's clock.

        Args:
            read_s: our clock (time.perf_counter()) when the frame was read.
            position_s: its position by the stream's clock.
        """
        self._number += 1
        self._counted += is_counted(position_s, self._number, self._frames_per_second)
        if not np.isfinite(position_s) or self._counted == self._number > _JUDGED_FRAMES:
            return False  # this OpenCV gives no clock of this stream
        if position_s == self._before[0] and self._number > 2:
            return False  # the stream's clock stands still
        difference_s = read_s - position_s
        if self._steady < _STEADY_FRAMES:
            self._first_s = read_s if self._first_s is None else self._first_s
            step_s, gain_s = position_s - self._before[0], self._before[1] - difference_s
            # The first positions in a stream may jump about.
            self._steady = self._steady + 1 if step_s > 0 and gain_s <= step_s / 4 else 0
            if read_s - self._first_s > STALE_S:
                self._steady = _STEADY_FRAMES
            self._before = (position_s, difference_s)
            return self._steady < _STEADY_FRAMES
        self._before = (position_s, difference_s)
        if read_s > self._window_s + _CLOCK_WINDOW_S:
            self._window_s = read_s
            self._least = [self._least[1], difference_s]
        self._least[1] = min(self._least[1], difference_s)
        return difference_s > min(self._least) + STALE_S
