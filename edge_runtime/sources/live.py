"""Frames of videos, cameras and streams.

A video gives every frame, in order. A live source gives the newest one: a thread of its own reads as fast as the camera
delivers and keeps one frame; whoever is slower than the camera gets fewer frames, never older ones. A source that goes
away is opened again for as long as it takes, and nothing that is no picture of now is handed out meanwhile.
"""

import threading
import time
import typing

import cv2
import numpy as np

from edge_runtime.console import say
from edge_runtime.errors import MissingRequirement, PicnicError, UsageError
from edge_runtime.photos.picture import is_one_colour
from edge_runtime.secrets import hide_secrets, is_address, remember
from edge_runtime.sources.camera import explain_camera, explain_csi, open_camera, open_csi
from edge_runtime.sources.delay import STALE_S, Delay
from edge_runtime.sources.items import Frame
from edge_runtime.sources.kinds import camera_name, check_name, is_video, shown_name
from edge_runtime.sources.playback import Playback
from edge_runtime.sources.stream import OPEN_S, explain_stream, open_stream
from edge_runtime.sources.video import Video

_SILENCE_S = 5  # without a frame for this long it is opened again

_FROZEN_S = 60  # a sensor has noise: one that gives no new picture for this long is opened again

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30  # before opening again; doubled each time

_STEADY_S = 10  # a connection that held for so long makes the pause short again

_MAX_HANGING = 3  # threads that OpenCV does not return to; with so many nothing more is opened

_MAX_HANGING_S = 300  # that is waited for one of them to return; then only another process can open the source again

_CLOSE_S = 1  # that closing waits for the reading thread

_LOOK_S = 0.1  # how often a waiting consumer looks at the stop event and the camera's health


class Counts:
    """What became of the frames: captured = taken + dropped + blank + repeated (+ one that waits to be taken)."""

    def __init__(self):
        self.captured = 0
        self.taken = 0
        self.dropped = 0  # overwritten by a newer one before they were taken, or too old
        self.blank = 0  # one colour all over: no picture
        self.repeated = 0  # the same to the byte as the picture before, also across an outage
        self.reconnects = 0  # outages that ended
        self.damaged = 0  # of a video: could not be decoded (not among captured)
        self.hanging = 0  # reading threads that had to be left behind and have not come back


def open_video(path):
    """Opens a video file: a Video.

    Raises:
        UsageError: not even one frame can be read.
    """
    return Video(path)


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
        a Live, to be entered (which waits for the first frame) and iterated once.

    Raises:
        UsageError: a source of another kind or without a number.
        On entering: MissingRequirement: no such camera, no answer, no frame; says what was tried and how to look.
        On iterating: MissingRequirement: the driver hangs, and only another process could open the camera again.
        UsageError: a video that cannot be read.
    """
    source = camera_name(source)
    kind, _, number = source.partition(":")
    remember([source])
    check_name(source)
    if is_address(source):
        opened = Live(shown_name(source), stop, lambda: open_stream(source), lambda: explain_stream(source))
    elif kind == "camera" and number.isdigit():
        opened = Live(source, stop, lambda: open_camera(int(number)), lambda: explain_camera(int(number)), sensor=True)
    elif kind == "csi" and number.isdigit():
        opened = Live(source, stop, lambda: open_csi(int(number)), lambda: explain_csi(int(number)), sensor=True)
    elif is_video(source):
        opened = Live(source, stop, lambda: Playback(source, opened.counts), lambda: "", ends=True)
    else:
        raise UsageError(f"{source}: expected camera:N, csi:N (N a number, such as 0), rtsp://... or a video file")
    opened.interval_s = 1.0 / max_fps if max_fps else 0.0
    opened.seconds = float("inf") if seconds is None else seconds
    opened.frames = float("inf") if frames is None else frames
    return opened


class Live:
    """The newest frames of a source that does not wait: a context manager, to be iterated once.

    Not handed out: frames of one colour (cameras give them while they start, or without a cable), frames that are the
    same to the byte as the one before (a sensor has noise, so that is a driver that repeats itself; a stream of a still
    picture is labelled once and again when it changes), frames from before an outage, and stale ones.

    Attributes:
        name: as results and messages show it.
        counts: Counts.
    """

    def __init__(self, name, stop, open_capture, explain, ends=False, sensor=False):
        """Prepares; entering opens.

        Args:
            name, stop: as open_live.
            open_capture: () -> something with cv2.VideoCapture's isOpened, grab, retrieve, get and release.
            explain: () -> where to look when nothing comes.
            ends: when no more frames come it is over; else it is opened again.
            sensor: frames come straight from a sensor. Its noise never repeats itself for long; and there is no stream
                that could deliver late what had piled up.
        """
        self.name = name
        self.counts = Counts()
        self.interval_s = 0.0  # between frames that are handed out
        self.seconds = self.frames = float("inf")  # when iterating ends
        self.open_capture = open_capture
        self.ends = ends
        self.sensor = sensor
        self._stop = stop
        self._explain = explain
        self.changed = threading.Condition()  # guards counts and all below
        self._closed = False
        self._reader: typing.Optional[_Reader] = None
        self._hanging: typing.List[_Reader] = []
        self._waiting: typing.Optional[tuple] = None  # the mailbox: (number, picture as BGR, captured_s)
        self._first_s: typing.Optional[float] = None  # of the first frame ever
        self.before: typing.Optional[np.ndarray] = None  # the last picture, of whichever reader
        self._lost_s: typing.Optional[float] = None  # since when it is away
        self._retry_s = 0.0
        self._pause_s = float(_FIRST_PAUSE_S)
        self._stuck_s: typing.Optional[float] = None  # since when too many threads hang
        self._news: typing.List[str] = []  # to be said without holding the lock

    def __enter__(self):
        with self.changed:
            self._reader = reader = _Reader(self)
            while self._first_s is None and not reader.ended and not self._stop.is_set():
                if time.perf_counter() - reader.alive_s > OPEN_S:
                    break
                self.changed.wait(_LOOK_S)
            if self._first_s is not None or self._stop.is_set():
                return self
        self.close()
        if isinstance(reader.error, PicnicError):
            raise reader.error
        reason = reader.problem or f"gave no frame within {OPEN_S} s"
        raise MissingRequirement(f"{self.name}: {reason}\n{self._explain()}")

    def __iter__(self):
        started_s = due_s = time.perf_counter()
        while self.counts.taken < self.frames:
            frame = self._next(due_s, started_s + self.seconds)
            if frame is None:
                return
            # From when it was due, so that the rate is kept on average; not from long ago, so that none are caught up.
            due_s = max(due_s, time.perf_counter() - self.interval_s) + self.interval_s
            yield frame

    def close(self):
        """Ends the reading thread and frees the source, waiting 1 s at most. May be called any number of times."""
        with self.changed:
            reader, self._reader = self._reader, None
            self._closed = True
            if reader:
                reader.over = True
            self._discard()
        if reader:
            reader.thread.join(_CLOSE_S)

    def __exit__(self, *_):
        self.close()

    def _next(self, due_s, until_s):
        """Waits for a frame. Returns None when it is over."""
        while True:
            with self.changed:
                now_s = time.perf_counter()
                ended = self._closed or self._stop.is_set() or now_s >= until_s
                taken = self._take(now_s) if now_s >= due_s and not ended else None
                if not taken and not ended:
                    ended = self._look_after(now_s)
                    if not ended and not self._news:
                        soonest_s = max(due_s, now_s + _LOOK_S) if now_s >= due_s else due_s
                        self.changed.wait(max(0.0, min(soonest_s, until_s, now_s + _LOOK_S) - now_s))
                news, self._news = self._news, []
            for line in news:
                say(line)
            if taken:
                number, bgr, captured_s = taken
                picture = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
                return Frame(f"{self.name}#{number}", picture, captured_s, captured_s - self._first_s)
            if ended:
                return None

    def _take(self, now_s):
        """Empties the mailbox (the lock is held). Returns what was in it if that is of now."""
        if self._waiting is None:
            return None
        taken = self._waiting
        if now_s - taken[2] > STALE_S:
            self._discard()
            return None
        self._waiting = None
        self.counts.taken += 1
        return taken

    def _discard(self):
        if self._waiting is not None:
            self._waiting = None
            self.counts.dropped += 1

    def _look_after(self, now_s):
        """Opens a source that went away again (the lock is held). Returns whether it is over for good.

        Raises:
            MissingRequirement: as open_live says of iterating.
        """
        reader = self._reader
        self._hanging = [left for left in self._hanging if left.thread.is_alive()]
        self.counts.hanging = len(self._hanging)
        if reader is None:
            if len(self._hanging) < _MAX_HANGING:
                self._stuck_s = None
                if now_s >= self._retry_s:
                    self._reader = _Reader(self)
                return False
            self._stuck_s = now_s if self._stuck_s is None else self._stuck_s
            if now_s - self._stuck_s > _MAX_HANGING_S:
                raise MissingRequirement(
                    "%s: its driver did not come back from %d attempts to read or open it; only another process can "
                    "open it again.\nStart the command again; a supervisor does (systemd: Restart=on-failure)"
                    % (self.name, len(self._hanging))
                )
            return False
        if reader.ended:
            if self.ends and not reader.problem:
                return self._waiting is None
            reason = reader.problem or "it ended"
        elif not self.ends and now_s - reader.alive_s > (_SILENCE_S if reader.read else OPEN_S):
            reason = f"no frame for {now_s - reader.alive_s:.0f} s"
        elif self.sensor and reader.read and now_s - reader.changed_s > _FROZEN_S:
            reason = f"only blank frames or the same picture, to the byte, for {now_s - reader.changed_s:.0f} s"
        else:
            return False
        reader.over = True
        self._hanging.append(reader)
        self._reader = None
        self._discard()
        if reader.read and now_s - reader.opened_s > _STEADY_S:
            self._pause_s = _FIRST_PAUSE_S
        self._retry_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        if self._lost_s is None:
            self._lost_s = reader.alive_s
            self._news.append(f"{self.name}: {reason}; opening it again until it is back")
        return False

    def receive(self, reader: "_Reader", bgr, read_s, fate):
        """Puts a frame into the mailbox, or counts what it is instead ("dropped", "blank", "repeated"); for _Reader."""
        with self.changed:
            if self._reader is not reader:  # it had been given up: this frame may be from any time
                return
            number = self.counts.captured
            self.counts.captured += 1
            reader.read = True
            if self._first_s is None:
                self._first_s = read_s
            if fate != "dropped":
                reader.alive_s = read_s
            if fate:
                setattr(self.counts, fate, getattr(self.counts, fate) + 1)
            else:
                self._discard()
                self._waiting = (number, bgr, read_s)
                self.before, reader.changed_s = bgr, read_s
            if self._lost_s is not None and (not fate or fate != "dropped" and not self.sensor):
                self.counts.reconnects += 1
                self._news.append(f"{self.name}: back after {read_s - self._lost_s:.1f} s")
                self._lost_s = None
            self.changed.notify_all()


class _Reader:
    """One opening of a live source, and the thread that reads it until the source fails or `over` is set."""

    def __init__(self, live):
        self.over = False
        self.ended = False
        self.read = False  # whether it has given a frame
        self.problem = ""  # why it ended
        self.error: typing.Optional[Exception] = None
        self.opened_s = self.alive_s = self.changed_s = time.perf_counter()
        self._live = live
        # A daemon: a read that never returns must not keep the process.
        self.thread = threading.Thread(target=self._run, name="live", daemon=True)
        self.thread.start()

    def _run(self):
        capture = None
        try:
            capture = self._live.open_capture()
            if not capture.isOpened():
                self.problem = "cannot be opened"
            else:
                self._read(capture)
        except Exception as error:  # whatever OpenCV and its backends raise: the source is opened again
            self.error = error
            self.problem = hide_secrets(str(error))
        finally:
            with self._live.changed:
                self.ended = True
                self._live.changed.notify_all()
            if capture is not None:
                capture.release()  # takes its leave of the server, which may not answer

    def _read(self, capture):
        delay = Delay(capture.get(cv2.CAP_PROP_FPS))
        while not self.over:
            if not capture.grab():
                self.problem = "" if self._live.ends else "reading failed"
                return
            read_s = time.perf_counter()
            stale = not self._live.sensor and delay.is_stale(read_s, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0)
            if stale:
                self._live.receive(self, None, read_s, "dropped")
                continue
            done, bgr = capture.retrieve()
            if not done:
                self.problem = "reading failed"
                return
            fate = "blank" if is_one_colour(bgr) else "repeated" if _is_same(bgr, self._live.before) else ""
            self._live.receive(self, bgr, read_s, fate)


def _is_same(picture, before):
    if before is None or picture.shape != before.shape:
        return False
    return np.array_equal(picture[::16], before[::16]) and np.array_equal(picture, before)
