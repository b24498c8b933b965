"""Plays a video file as if it were a camera."""

import time

import cv2

from edge_runtime.errors import UsageError
from edge_runtime.sources.video import next_picture, open_capture, open_regular, position_of_frame_s


class Playback:
    """A video file that delivers its frames when they are due, with cv2.VideoCapture's methods.

    Frames that cannot be decoded are passed over, and counted in counts.damaged.
    """

    def __init__(self, path, counts):
        """Opens the file. Raises UsageError: it cannot be read."""
        with open_regular(path) as file:
            self._capture = open_capture(path, file)
        self._frames_per_second = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        self._counts = counts
        self._number = 0
        self._started_s = None
        _, self._bgr = next_picture(self._capture)
        if self._bgr is None:
            self._capture.release()
            raise UsageError(f"{path}: no frame of this video can be read; expected a video that ffmpeg plays")

    def isOpened(self):  # noqa: N802
        """Returns True: a video that cannot be opened raises at once."""
        return True

    def grab(self):
        """Waits until the next frame is due. Returns whether there is one."""
        if self._number:
            failures, self._bgr = next_picture(self._capture)
            if self._bgr is None:
                return False
            self._number += failures
            self._counts.damaged += failures
        position_s = position_of_frame_s(self._capture, self._number, self._frames_per_second)
        self._number += 1
        if self._started_s is None:
            self._started_s = time.perf_counter() - position_s
        time.sleep(max(0.0, self._started_s + position_s - time.perf_counter()))
        return True

    def retrieve(self):
        """Returns (True, the frame as BGR)."""
        return True, self._bgr

    def get(self, _):
        """Returns NaN, for it has no clock: a slow machine plays it slower, and that is no delay of a camera."""
        return float("nan")

    def release(self):
        """Closes the file."""
        self._capture.release()
