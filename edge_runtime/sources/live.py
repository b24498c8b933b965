"""Live sources: cameras, streams, and video files played as if they were cameras.

A live source gives its newest frame: a thread of its own reads as fast as the camera delivers and keeps one frame. A
consumer that is slower than the camera gets fewer frames, never older ones. After an outage the source is opened again
for as long as that takes; stale, black or repeated frames are never reported as new.
"""

import threading
import time
import typing

import cv2

from edge_runtime.console import say
from edge_runtime.errors import MissingRequirement, PicnicError, UsageError
from edge_runtime.secrets import remember
from edge_runtime.sources import connection, kinds
from edge_runtime.sources.camera import explain_camera, explain_csi, open_camera, open_csi
from edge_runtime.sources.connection import Connection, Device
from edge_runtime.sources.items import Frame
from edge_runtime.sources.newest import Counts, NewestFrame
from edge_runtime.sources.playback import Playback
from edge_runtime.sources.stream import explain_stream, open_stream

_CLOSE_S = 1  # closing waits this long for the reading thread


class Limits(typing.NamedTuple):
    """What the user limits."""

    interval_s: float = 0.0  # at least so long between frames that are handed out
    seconds: float = float("inf")  # iterating ends after so long
    frames: float = float("inf")  # iterating ends after so many


def open_live(source, stop, max_fps=None, seconds=None, frames=None):
    """Opens a camera or a stream, or a video file as if it were a camera (at its own frame rate, newest frame first).

    Args:
        source: "rtsp://..." or another address of a stream, "camera:N" (also N and /dev/videoN), "csi:N" (a Jetson's
            camera connector), or a video file.
        stop: threading.Event; once set, iterating ends within 0.1 s.
        max_fps: frames handed out per second at most.
        seconds: iterating ends after so many seconds, and so does waiting for a camera that is away.
        frames: iterating ends after so many frames.

    Returns:
        a Live: enter it (which waits for the first frame), then iterate once.

    Raises:
        UsageError: a source of another kind or without a number.
        On entering: MissingRequirement: no such camera, no answer, no frame; says what was tried and how to look.
        On iterating: MissingRequirement: the driver hangs, and only another process could open the camera again.
        UsageError: a video that cannot be read.
    """
    remember([source])
    kinds.check_name(source)
    counts = Counts()
    limits = Limits(
        1.0 / max_fps if max_fps else 0.0,
        float("inf") if seconds is None else seconds,
        float("inf") if frames is None else frames,
    )
    return Live(_device_of(source, counts), stop, limits, counts)


def _device_of(source, counts):
    """Returns the Device of a live source. Raises UsageError for another source."""
    name, kind = kinds.shown_name(source), kinds.kind_of(source)
    number = name.partition(":")[2]
    if kind == kinds.STREAM:
        return Device(name, lambda: open_stream(source), lambda: explain_stream(source))
    if kind == kinds.CAMERA and number.isdigit():
        return Device(name, lambda: open_camera(int(number)), lambda: explain_camera(int(number)), is_sensor=True)
    if kind == kinds.CSI and number.isdigit():
        return Device(name, lambda: open_csi(int(number)), lambda: explain_csi(int(number)), is_sensor=True)
    if kinds.is_video(source):
        return Device(name, lambda: Playback(source, counts), lambda: "", ends=True)
    raise UsageError(f"{source}: expected camera:N, csi:N (N a number, such as 0), rtsp://... or a video file")


class Live:
    """The newest frames of a source that does not wait: a context manager, to be iterated once.

    Not handed out: frames of one colour (cameras give them while they start, or without a cable), frames that are the
    same to the byte as the one before (a sensor has noise, so that is a driver that repeats itself; a stream of a still
    picture is labelled once and again when it changes), frames from before an outage, and stale ones.

    Attributes:
        name: as results and messages show it.
        counts: Counts.
    """

    def __init__(self, device, stop, limits, counts):
        """Prepares a Live; entering it opens the device.

        Args:
            device: Device.
            stop: threading.Event; once set, iterating ends within 0.1 s.
            limits: Limits.
            counts: Counts to add to.
        """
        self.name = device.name
        self.counts = counts
        self._device = device
        self._stop = stop
        self._limits = limits
        self._changed = threading.Condition()  # guards counts and all below
        self._closed = False
        self._newest = NewestFrame(counts)
        self._connection = Connection(device, self._newest, counts, self._changed)

    def __enter__(self):
        with self._changed:
            problem, error = self._connection.open(self._stop)
        if not problem:
            return self
        self.close()
        if isinstance(error, PicnicError):
            raise error
        raise MissingRequirement(f"{self.name}: {problem}\n{self._device.explain()}")

    def __iter__(self):
        interval_s = self._limits.interval_s
        started_s = due_s = time.perf_counter()
        while self.counts.taken < self._limits.frames:
            frame = self._next(due_s, started_s + self._limits.seconds)
            if frame is None:
                return
            # From when it was due, so that the rate is kept on average; not from long ago, so that none are caught up.
            due_s = max(due_s, time.perf_counter() - interval_s) + interval_s
            yield frame

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Ends the reading thread and frees the source, waiting 1 s at most. May be called any number of times."""
        with self._changed:
            self._closed = True
            thread = self._connection.close()
            self._newest.drop()
        if thread:
            thread.join(_CLOSE_S)

    def _next(self, due_s, until_s):
        """Waits for a frame. Returns None when it is over."""
        messages = self._connection.messages
        while True:
            with self._changed:
                now_s = time.perf_counter()
                ended = self._closed or self._stop.is_set() or now_s >= until_s
                frame = self._newest.take(now_s) if now_s >= due_s and not ended else None
                if not frame and not ended:
                    ended = self._connection.check(now_s)
                    if not ended and not messages:
                        look_s = now_s + connection.LOOK_S
                        wake_s = look_s if now_s >= due_s else min(due_s, look_s)
                        self._changed.wait(max(0.0, min(wake_s, until_s) - now_s))
                lines, messages[:] = list(messages), []
            for line in lines:
                say(line)
            if frame:
                number, bgr, captured_s = frame
                picture = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
                return Frame(f"{self.name}#{number}", picture, captured_s, captured_s - self._newest.first_s)
            if ended:
                return None
