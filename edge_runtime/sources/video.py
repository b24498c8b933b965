"""Reads every frame of a video file, in order."""

import contextlib
import os
import stat
import time
import typing

import cv2
import numpy as np

from edge_runtime.console import say
from edge_runtime.errors import StorageLost, UsageError, storage_lost
from edge_runtime.sources import video_container
from edge_runtime.sources.items import Frame

QUIET = ("OPENCV_FFMPEG_LOGLEVEL", "-8")  # failures are reported here, once; OpenCV 4.5 and newer read this

# Attempts in a row to decode a frame of a video; at its end all of them fail. OpenCV before 4.5 passes over 512 packets
# in each attempt, which takes a while.
_MAX_FAILURES = 1000 if hasattr(cv2, "CAP_PROP_ORIENTATION_AUTO") else 3

_SAME_TIME_S = 0.0005  # positions in a video that are closer are the same
_PIECE_BYTES = 1 << 20  # that are read at once to check a disk


class Video:
    """The frames of a video file, upright, as an iterator and context manager; closes itself at the end.

    A frame that cannot be decoded comes in its place, without a picture and with the reason as its problem; the frames
    behind it follow. Where such frames are is known where decoding fails, in an MP4 or MOV from the file's own table of
    frames, and in an AVI of JPEGs from their data. In other formats, whose frames need not come at a fixed rate, ffmpeg
    may pass over frames without a sign; if the file itself shows damage, one such frame comes at the end.

    OpenCV before 4.5 (JetPack's) does not turn frames upright: there a phone's video lies on its side. Nor does it
    report which frames of an MP4 it passed over: they come at the end.

    Attributes:
        frames_per_second: of the file, 0 if unknown.
        frame_count: of the file, for some formats an estimate.
        damaged: how many frames so far have no picture.
    """

    def __init__(self, path):
        """Opens a video file. Raises UsageError: not even one frame of it can be read."""
        self.damaged = 0
        self._name = path
        self._capture: typing.Any = None
        self._file = open_regular(path)
        try:
            self._capture = open_capture(path, self._file)
            self.frames_per_second = max(0.0, self._capture.get(cv2.CAP_PROP_FPS) or 0.0)
            self.frame_count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
            with self._reading():
                self._state = _state(self._file)
                self._times = video_container.frame_times(self._file)
            self._jpegs = video_container.jpegs(self._file)
            failures, bgr = next_picture(self._capture)
            if bgr is None:
                self._check_storage(whole=True)
                raise UsageError(f"{path}: no frame of this video can be read; expected a video that ffmpeg plays")
        except BaseException:
            self.close()
            raise
        self._frames = self._read(failures, bgr)

    def __iter__(self):
        return self

    def __next__(self):
        """Returns the next Frame. Raises StorageLost: the file went away, or changed, while it was read."""
        if self._capture is None:
            raise StopIteration
        return next(self._frames)

    def _read(self, failures, bgr):
        """Yields the frames. failures: how many attempts failed before the first picture, bgr."""
        number, time_s = 0, 0.0
        lost: typing.List[int] = []
        position_s = self._position_s()
        first_s = position_s - (0.0 if self._times is None else self._times[min(failures, len(self._times) - 1)])
        counted = is_counted(position_s, 1, self.frames_per_second)  # this OpenCV reads no clock
        while bgr is not None:
            place = number + failures
            if self._times is not None and not counted:
                position_s = self._position_s()  # OpenCV 4.5 gives 0 for the last frames
                place = self._place(number, position_s - first_s, lost) if position_s or not number else number
            # Behind damage ffmpeg gives pictures out of order: a late one has already been reported as missing.
            if self._times is not None and (place < number or place >= len(self._times)):
                failures, bgr = next_picture(self._capture)
                continue
            for missing in range(number, place):
                if not lost:
                    self._check_storage(whole=True)
                lost.append(missing)
                time_s = self._time_s(missing, time_s)
                yield self._without_picture(missing, time_s, "cannot be decoded (damaged packet)")
            if self._times is None and (self._position_s() > 0 or not number):
                time_s = position_of_frame_s(self._capture, place, self.frames_per_second)
            else:
                time_s = self._time_s(place, time_s)
            problem = self._damage(place)
            if problem:
                if not lost:
                    self._check_storage(whole=True)
                lost.append(place)
                yield self._without_picture(place, time_s, problem)
            else:
                picture = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
                yield Frame(f"{self._name}#{place}", picture, time.perf_counter(), time_s, "")
            number = place + 1
            failures, bgr = next_picture(self._capture)
        for missing, reason in self._missing_at_the_end(number, counted):
            lost.append(missing)
            time_s = self._time_s(missing, time_s)
            yield self._without_picture(missing, time_s, reason)
        if lost:
            numbers = ", ".join(f"#{missing}" for missing in lost[:5]) + ", ..." * (len(lost) > 5)
            say(f"{self._name}: no picture for {len(lost)} of its frames (damaged or missing): {numbers}")
        self.close()

    def _missing_at_the_end(self, number, counted):
        """Returns [(number, reason)] for the frames that had to come after those that came."""
        short = number < self.frame_count * 0.98 - 2  # no proof, but reason enough to check the disk
        expected = 0 if self._times is None else len(self._times)
        self._check_storage(whole=short or number < expected)
        with self._reading():
            cut = video_container.missing_end(self._file)
            damage = "" if cut else video_container.damage(self._file)
        if cut:
            reason = f"is missing, the file is cut short: {cut}"
        elif damage:
            reason = f"{damage}; which frames are missing is not known"
        elif counted:
            reason = "a frame before this one cannot be decoded (damaged packet); "
            reason += f"OpenCV {cv2.__version__} does not tell which"
        else:
            reason = "cannot be decoded (damaged packet)"
        if self._times is None:
            return [(number, reason)] if cut or damage else []
        return [(missing, reason) for missing in range(number, expected)]

    def _damage(self, number):
        """Returns how a frame is damaged although ffmpeg gave a picture for it; "" if it is not, or is no JPEG."""
        with self._reading():
            data = next((data for at, data in self._jpegs if at == number), None)
        return "" if data is None else video_container.jpeg_damage(data)

    def _without_picture(self, number, time_s, problem):
        self.damaged += 1
        return Frame(f"{self._name}#{number}", None, time.perf_counter(), time_s, problem)

    def _position_s(self):
        return self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0

    def _place(self, number, position_s, lost):
        """Returns which frame of the file's table has a position: number (the next one), a later or a lost one."""
        place = int(np.searchsorted(self._times, position_s - _SAME_TIME_S))
        known = place < len(self._times) and abs(self._times[place] - position_s) < _SAME_TIME_S
        return place if known and (place > number or (place < number and place in lost)) else number

    def _time_s(self, number, before_s):
        """Returns a frame's time from the file's table; without one, one frame after the frame before."""
        if self._times is not None and number < len(self._times):
            return float(self._times[number])
        return before_s + (1 / self.frames_per_second if self.frames_per_second and number else 0.0)

    def _check_storage(self, whole):
        """Checks that the file can be read and did not change: a failing disk looks like the end of the video.

        Args:
            whole: read all of the file; else only its end.

        Raises:
            StorageLost: it cannot be read, or changed.
        """
        with self._reading():
            changed = _state(self._file) != self._state
            size = self._state[0]
            place = 0 if whole else max(0, size - _PIECE_BYTES)
            while place < size and os.pread(self._file.fileno(), _PIECE_BYTES, place):
                place += _PIECE_BYTES
        if changed:
            raise StorageLost(f"{self._name}: was written to while it was read; run it again when it is complete")

    @contextlib.contextmanager
    def _reading(self):
        try:
            yield
        except OSError as error:
            raise storage_lost(self._name, error)

    def close(self):
        """Frees the file. May be called any number of times."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def position_of_frame_s(capture, number, frames_per_second):
    """Returns the position in a video of the frame that was grabbed last, in seconds; its number counts from 0."""
    position_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
    if position_s > 0 and not is_counted(position_s, number + 1, frames_per_second):
        return position_s
    return number / frames_per_second if frames_per_second else 0.0


def is_counted(position_s, number, frames_per_second):
    """Whether a position is only a frame's number divided by the frame rate: OpenCV before 4.5 reads no clock."""
    return not np.isfinite(position_s) or abs(position_s * frames_per_second - number) < 1e-3


def next_picture(capture):
    """Reads up to the next frame that can be decoded.

    Returns:
        (how many attempts failed before it, the picture: uint8 [height, width, 3], BGR); None for the picture at the
        end of the video.
    """
    for failures in range(_MAX_FAILURES):
        if capture.grab():
            done, bgr = capture.retrieve()
            if done:
                return failures, bgr
    return _MAX_FAILURES, None


def open_regular(path):
    """Opens a video's file, unbuffered. Raises UsageError: it is missing, or no regular file."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f"{path}: is no regular file; expected a video")
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})")


def open_capture(path, file):
    """Opens a video. Returns a cv2.VideoCapture of its open file. Raises UsageError: ffmpeg cannot read it."""
    os.environ.setdefault(*QUIET)
    # By its descriptor: ffmpeg takes some names for addresses or patterns, and OpenCV takes only UTF-8.
    capture = cv2.VideoCapture(f"/dev/fd/{file.fileno()}", cv2.CAP_FFMPEG)
    if not capture.isOpened():
        capture.release()
        raise UsageError(f"{path}: cannot be read as a video: not one, incomplete, or a codec that ffmpeg lacks")
    if hasattr(cv2, "CAP_PROP_ORIENTATION_AUTO"):
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return capture


def _state(file):
    """Returns (size, time of change) of an open file: they change when somebody writes to it. Raises OSError."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns
