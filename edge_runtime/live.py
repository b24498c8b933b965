"""Frames of videos, cameras and streams.

A video gives every frame, in order. A live source gives the newest one: a thread of its own reads as fast as the camera
delivers and keeps one frame; whoever is slower than the camera gets fewer frames, never older ones. A source that goes
away is opened again for as long as it takes, and nothing that is no picture of now is handed out meanwhile.
"""

import os
import re
import socket
import stat
import threading
import time
import typing
import urllib.parse

import cv2
import numpy as np

from edge_runtime import board, images
from edge_runtime.command import say
from edge_runtime.errors import MissingRequirement, PicnicError, UsageError
from edge_runtime.sources import VIDEO_SUFFIXES, Frame

_OPEN_S = 15  # until a source that is being opened must have given its first frame
_SILENCE_S = 5  # without a frame for this long it is opened again
_READ_TIMEOUT_MS = 4000  # below _SILENCE_S: where OpenCV has a time limit of its own, no thread is left hanging
_STALE_S = 2  # a frame that is older, or that arrives later than the ones before it did, is not handed out
_FROZEN_S = 60  # a sensor has noise: one that gives no new picture for this long is opened again
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30  # before opening again; doubled each time
_STEADY_S = 10  # a connection that held for so long makes the pause short again
_QUIET = ("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what fails is said here, once; read by OpenCV 4.5 and newer
_MOST_HANGING = 3  # threads that OpenCV does not return to; with so many nothing more is opened
_CLOSE_S = 1  # that closing waits for the reading thread
_LOOK_S = 0.1  # how often a waiting consumer looks at the stop event and the camera's health
_STEADY_FRAMES = 3  # one may be slow to decode although more have piled up behind it
_JUDGED_FRAMES = 50  # after which a stream's clock counts as none if it only ever counted frames
_CLOCK_WINDOW_S = 300  # a stream's clock drifts against ours: its delay is measured against the last 5 to 10 minutes

# The sensor's smallest common mode; the board's VIC halves it, which still covers the network's 299 x 299.
_CSI_PIPELINE = (
    "nvarguscamerasrc sensor-id=%d ! "
    "video/x-raw(memory:NVMM), width=(int)1280, height=(int)720, format=(string)NV12, framerate=(fraction)30/1 ! "
    "nvvidconv flip-method=0 ! video/x-raw, width=(int)640, height=(int)360, format=(string)BGRx ! "
    "videoconvert ! video/x-raw, format=(string)BGR ! appsink drop=1 max-buffers=1 sync=false"
)


class Counts:
    """What became of the frames: captured = taken + dropped + blank + repeated (+ one that waits to be taken)."""

    def __init__(self):
        self.captured = 0
        self.taken = 0
        self.dropped = 0  # overwritten by a newer one before they were taken, or too old
        self.blank = 0  # one colour all over: no picture
        self.repeated = 0  # the same to the byte as the picture before, also across an outage
        self.reconnects = 0  # outages that ended
        self.hanging = 0  # reading threads that had to be left behind and have not come back


def is_live(source):
    """Whether a source is a camera or a stream."""
    return source.startswith(("rtsp://", "camera:", "csi:"))


def is_video(source):
    """Whether a source is named like a video file."""
    return source.lower().endswith(VIDEO_SUFFIXES) and not is_live(source)


def shown_name(source):
    """Returns a source's name as results and messages may show it: without the password of an address."""
    if not source.startswith("rtsp://"):
        return source
    # user:password@, where the part behind the colon is no port
    source = re.sub(r"^(rtsp://[^/:@]*):(?!\d*(?:/|$)).*@", r"\1:***@", source)
    return re.sub(r"(?i)((?:password|passwd|pwd)=)[^&/]*", r"\1***", source)


def open_video(path):
    """Opens a video file: a Video.

    Raises:
        UsageError: not even one frame can be read.
    """
    return Video(path)


def open_live(source, stop, max_fps=None, seconds=None, frames=None):
    """Opens a camera or a stream, or a video file as if it were a camera (at its own frame rate, newest frame first).

    Args:
        source: "rtsp://...", "camera:N" (/dev/videoN), "csi:N" (a Jetson's camera connector), or a video file.
        stop: threading.Event; once set, iterating ends within 0.1 s.
        max_fps: frames handed out per second at most.
        seconds: iterating ends after so many seconds, and so does waiting for a camera that is away.
        frames: iterating ends after so many frames.

    Returns:
        a Live, to be entered (which waits for the first frame) and iterated once.

    Raises:
        UsageError: a source of another kind or without a number.
        On entering: MissingRequirement: no such camera, no answer, no frame; says what was tried and how to look.
        UsageError: a video that cannot be read.
    """
    kind, _, number = source.partition(":")
    if source.startswith("rtsp://"):
        opened = Live(shown_name(source), stop, lambda: _open_rtsp(source), lambda: _explain_rtsp(source))
    elif kind == "camera" and number.isdigit():
        opened = Live(
            source, stop, lambda: _open_camera(int(number)), lambda: _explain_camera(int(number)), sensor=True
        )
    elif kind == "csi" and number.isdigit():
        opened = Live(source, stop, lambda: _open_csi(int(number)), lambda: _explain_csi(int(number)), sensor=True)
    elif is_video(source):
        opened = Live(source, stop, lambda: _Playback(source), lambda: "", ends=True)
    else:
        raise UsageError("%s: expected rtsp://..., camera:N, csi:N (N a number, such as 0) or a video file" % source)
    opened.interval_s = 1.0 / max_fps if max_fps else 0.0
    opened.seconds = float("inf") if seconds is None else seconds
    opened.frames = float("inf") if frames is None else frames
    return opened


class Video:
    """The frames of a video file, upright, as an iterator and context manager; closes itself at the end.

    OpenCV before 4.5 (JetPack's) turns no frame upright: there a phone's video lies on its side.

    Attributes:
        frames_per_second: of the file, 0 where it does not say.
        frame_count: of the file, a guess for some formats.
        problem: "" or why the video ended before its length.
    """

    def __init__(self, path):
        self.problem = ""
        self._name = path
        self._number = 0
        self._grabbed = False  # a frame that is not retrieved yet
        self._capture = _open_file(path)
        self.frames_per_second = max(0.0, self._capture.get(cv2.CAP_PROP_FPS) or 0.0)
        self.frame_count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        if not self._grab():
            self.close()
            raise UsageError("%s: no frame of this video can be read; expected a video that ffmpeg plays" % path)

    def __iter__(self):
        return self

    def __next__(self):
        if self._capture is None or not (self._grabbed or self._grab()):
            self._end()
            raise StopIteration
        done, bgr = self._capture.retrieve()
        self._grabbed = False
        if not done:
            self._end()
            raise StopIteration
        time_s = _position_s(self._capture, self._number, self.frames_per_second)
        self._number += 1
        name = "%s#%d" % (self._name, self._number - 1)
        return Frame(name, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), time.perf_counter(), time_s)

    def _grab(self):
        self._grabbed = self._capture.grab()
        return self._grabbed

    def _end(self):
        """Says so where frames are missing: lengths in the file are off by a little, or absent."""
        if self._capture is not None and self._number < self.frame_count * 0.98 - 2:
            self.problem = "ends after frame #%d; its header says %d frames: the file is damaged or incomplete" % (
                self._number - 1,
                self.frame_count,
            )
            say("%s: %s" % (self._name, self.problem))
        self.close()

    def close(self):
        """Frees the file. May be called any number of times."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


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
        self._news: typing.List[str] = []  # to be said without holding the lock

    def __enter__(self):
        with self.changed:
            self._reader = reader = _Reader(self)
            while self._first_s is None and not reader.ended and not self._stop.is_set():
                if time.perf_counter() - reader.alive_s > _OPEN_S:
                    break
                self.changed.wait(_LOOK_S)
            if self._first_s is not None or self._stop.is_set():
                return self
        self.close()
        if isinstance(reader.error, PicnicError):
            raise reader.error
        reason = reader.problem or "gave no frame within %d s" % _OPEN_S
        raise MissingRequirement("%s: %s\n%s" % (self.name, reason, self._explain()))

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
                return Frame("%s#%d" % (self.name, number), picture, captured_s, captured_s - self._first_s)
            if ended:
                return None

    def _take(self, now_s):
        """Empties the mailbox (the lock is held). Returns what was in it if that is of now."""
        if self._waiting is None:
            return None
        taken = self._waiting
        if now_s - taken[2] > _STALE_S:
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
        """Opens a source that went away again (the lock is held). Returns whether it is over for good."""
        reader = self._reader
        self._hanging = [left for left in self._hanging if left.thread.is_alive()]
        self.counts.hanging = len(self._hanging)
        if reader is None:
            if now_s >= self._retry_s and len(self._hanging) < _MOST_HANGING:
                self._reader = _Reader(self)
            return False
        if reader.ended:
            if self.ends and not reader.problem:
                return self._waiting is None
            reason = reader.problem or "it ended"
        elif not self.ends and now_s - reader.alive_s > (_SILENCE_S if reader.read else _OPEN_S):
            reason = "no frame for %.0f s" % (now_s - reader.alive_s)
        elif self.sensor and reader.read and now_s - reader.changed_s > _FROZEN_S:
            reason = "only blank frames or the same picture, to the byte, for %.0f s" % (now_s - reader.changed_s)
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
            self._news.append("%s: %s; opening it again until it is back" % (self.name, reason))
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
                self._news.append("%s: back after %.1f s" % (self.name, read_s - self._lost_s))
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
            self.problem = str(error)
        finally:
            with self._live.changed:
                self.ended = True
                self._live.changed.notify_all()
            if capture is not None:
                capture.release()  # takes its leave of the server, which may not answer

    def _read(self, capture):
        delay = _Delay(capture.get(cv2.CAP_PROP_FPS))
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
            fate = "blank" if images.is_one_colour(bgr) else "repeated" if _is_same(bgr, self._live.before) else ""
            self._live.receive(self, bgr, read_s, fate)


class _Delay:
    """How much later than need be the frames of a stream arrive, by the clock in the stream.

    While it opens a stream ffmpeg holds back what comes (1 s and more), after a stall what had piled up comes at once,
    and a decoder that is too slow falls ever further behind: none of that shows in when a frame was read.
    """

    def __init__(self, frames_per_second):
        self._frames_per_second = frames_per_second
        self._number = self._counted = 0  # frames, and how many of them had a place that was only counted
        self._steady = (
            0  # frames in a row that did not come faster than the clock; enough: what had piled up is through
        )
        self._first_s: typing.Optional[float] = None
        self._before = (float("nan"), float("nan"))  # place, and our clock less the stream's, of the frame before
        self._least = [float("inf"), float("inf")]  # our clock less the stream's, in the last and in this window
        self._window_s = 0.0

    def is_stale(self, read_s, position_s):
        """Whether a frame is late: by more than 2 s against the least delay of the last 5 to 10 minutes; or one of the
        first, which come faster than the stream's clock goes until those that had piled up are through.

        Args:
            read_s: our clock when the frame was read.
            position_s: its place in the stream.
        """
        self._number += 1
        self._counted += _is_counted(position_s, self._number, self._frames_per_second)
        if not np.isfinite(position_s) or self._counted == self._number > _JUDGED_FRAMES:
            return False  # this OpenCV knows no clock of this stream
        if position_s == self._before[0] and self._number > 2:
            return False  # nor does this one: its clock stands
        difference_s = read_s - position_s
        if self._steady < _STEADY_FRAMES:
            self._first_s = read_s if self._first_s is None else self._first_s
            step_s, gain_s = position_s - self._before[0], self._before[1] - difference_s
            # The first places in a stream may jump about.
            self._steady = self._steady + 1 if step_s > 0 and gain_s <= step_s / 4 else 0
            if read_s - self._first_s > _STALE_S:
                self._steady = _STEADY_FRAMES
            self._before = (position_s, difference_s)
            return self._steady < _STEADY_FRAMES
        self._before = (position_s, difference_s)
        if read_s > self._window_s + _CLOCK_WINDOW_S:
            self._window_s = read_s
            self._least = [self._least[1], difference_s]
        self._least[1] = min(self._least[1], difference_s)
        return difference_s > min(self._least) + _STALE_S


class _Playback:
    """A video file that delivers its frames when they are due, with cv2.VideoCapture's methods."""

    def __init__(self, path):
        self._capture = _open_file(path)
        self._frames_per_second = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        self._number = 0
        self._started_s = None
        if not self._capture.grab():
            self._capture.release()
            raise UsageError("%s: no frame of this video can be read; expected a video that ffmpeg plays" % path)

    def isOpened(self):  # noqa: N802
        return True

    def grab(self):
        if self._number and not self._capture.grab():
            return False
        position_s = _position_s(self._capture, self._number, self._frames_per_second)
        self._number += 1
        if self._started_s is None:
            self._started_s = time.perf_counter() - position_s
        time.sleep(max(0.0, self._started_s + position_s - time.perf_counter()))
        return True

    def retrieve(self):
        return self._capture.retrieve()

    def get(self, _):
        return float("nan")  # no clock: a slow machine plays it slower, which is no delay of a camera

    def release(self):
        self._capture.release()


def _is_same(picture, before):
    if before is None or picture.shape != before.shape:
        return False
    return np.array_equal(picture[::16], before[::16]) and np.array_equal(picture, before)


def _position_s(capture, number, frames_per_second):
    """Returns the place in a video, in seconds, of the frame that was just grabbed; its number counts from 0."""
    position_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
    if position_s > 0 and not _is_counted(position_s, number + 1, frames_per_second):
        return position_s
    return number / frames_per_second if frames_per_second else 0.0


def _is_counted(position_s, number, frames_per_second):
    """Whether a place is a frame's number divided by the frame rate: OpenCV before 4.5 looks at no clock."""
    return not np.isfinite(position_s) or abs(position_s * frames_per_second - number) < 1e-3


def _open_file(path):
    """Returns an open cv2.VideoCapture. Raises UsageError."""
    os.environ.setdefault(*_QUIET)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError("%s: is no regular file; expected a video" % path)
        # By its descriptor: ffmpeg takes some names for addresses or patterns, and OpenCV none that is not UTF-8.
        with open(path, "rb") as file:
            capture = cv2.VideoCapture("/dev/fd/%d" % file.fileno(), cv2.CAP_FFMPEG)
    except OSError as error:
        raise UsageError("%s: cannot be read (%s)" % (path, error.strerror))
    if not capture.isOpened():
        capture.release()
        raise UsageError("%s: cannot be read as a video: not one, incomplete, or a codec that ffmpeg lacks" % path)
    if hasattr(cv2, "CAP_PROP_ORIENTATION_AUTO"):
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return capture


def _open_rtsp(address):
    """TCP: a lost UDP packet smears the picture until the next key frame, and a smeared picture would be classified."""
    settings = []
    options = "rtsp_transport;tcp"
    if hasattr(cv2, "CAP_PROP_READ_TIMEOUT_MSEC"):
        settings += [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_S * 1000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_TIMEOUT_MS]
    else:  # OpenCV before 4.5.2, with the ffmpeg of its time: the socket's own limit, in microseconds
        options += "|stimeout;%d" % (_READ_TIMEOUT_MS * 1000)
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", options)
    os.environ.setdefault(*_QUIET)
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG, *([settings] if settings else []))


def _open_camera(number):
    # No buffer size is set: the reading thread keeps OpenCV's four empty, and with one buffer cameras halve their rate.
    return cv2.VideoCapture(number, cv2.CAP_V4L2)


def _open_csi(number):
    if not re.search(r"GStreamer: +YES", cv2.getBuildInformation()):
        raise MissingRequirement(
            "csi: a camera on the CSI connector is read through GStreamer, which OpenCV %s here lacks.\n"
            "On a Jetson use JetPack's own OpenCV: pip uninstall opencv-python opencv-python-headless; "
            "python3 -m venv --system-site-packages VENV" % cv2.__version__
        )
    return cv2.VideoCapture(_CSI_PIPELINE % number, cv2.CAP_GSTREAMER)


def _explain_rtsp(address):
    parts = urllib.parse.urlsplit(address)
    try:
        host, port = parts.hostname or "", parts.port or 554
    except ValueError as error:
        return "The address is wrong: %s" % error
    try:
        socket.create_connection((host, port), timeout=3).close()
        found = "%s answers on port %d: look at the path, user and password" % (host, port)
    except OSError as error:
        found = "%s cannot be reached on port %d (%s)" % (host, port, error.strerror or error)
    return "%s.\nTried with OpenCV's ffmpeg over TCP. To look: ffprobe -rtsp_transport tcp '%s'" % (
        found,
        shown_name(address),
    )


def _explain_camera(number):
    device = "/dev/video%d" % number
    if not os.path.exists(device):
        there = ", ".join("%s (%s)" % camera for camera in board.cameras()) or "none"
        found = "There is no %s; cameras here: %s" % (device, there)
    elif not os.access(device, os.R_OK | os.W_OK):
        found = "This user may not use %s: sudo usermod -aG video $USER, then log in again" % device
    else:
        found = "%s is there: another program may hold it (fuser -v %s), or it gives no pictures" % (device, device)
    return "%s.\nTried with OpenCV's V4L2. To look: v4l2-ctl --list-devices" % found


def _explain_csi(number):
    pipeline = _CSI_PIPELINE.replace("(memory:NVMM)", "'(memory:NVMM)'").rpartition(" ! ")[0] % number
    return (
        "Look at the camera's cable, at `sudo systemctl restart nvargus-daemon`, and at what GStreamer says:\n"
        "gst-launch-1.0 %s ! fakesink" % pipeline
    )
