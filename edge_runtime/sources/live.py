"""Frames of videos, cameras and streams.

A video gives every frame, in order. A live source gives the newest one: a thread of its own reads as fast as the camera
delivers and keeps one frame; whoever is slower than the camera gets fewer frames, never older ones. A source that goes
away is opened again for as long as it takes, and nothing that is no picture of now is handed out meanwhile.
"""

import contextlib
import difflib
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

from edge_runtime.cli.command import say
from edge_runtime.errors import MissingRequirement, PicnicError, StorageLost, UsageError
from edge_runtime.machine import board
from edge_runtime.photos import formats, images
from edge_runtime.secrets import hide_secrets, is_address, remember, shown_address
from edge_runtime.sources import video_file
from edge_runtime.sources.sources import VIDEO_SUFFIXES, Frame

# Addresses that are streams, with their ports where they say none.
_PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443, "http": 80, "https": 443, "srt": 0, "udp": 0}
_STREAMED = (".ts", ".flv", ".webm", ".ogv")  # also live, over http

_OPEN_S = 15  # until a source that is being opened must have given its first frame
_SILENCE_S = 5  # without a frame for this long it is opened again
_READ_TIMEOUT_MS = 4000  # below _SILENCE_S: where OpenCV has a time limit of its own, no thread is left hanging
_STALE_S = 2  # a frame that is older, or that arrives later than the ones before it did, is not handed out
_FROZEN_S = 60  # a sensor has noise: one that gives no new picture for this long is opened again
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30  # before opening again; doubled each time
_STEADY_S = 10  # a connection that held for so long makes the pause short again
_QUIET = ("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what fails is said here, once; read by OpenCV 4.5 and newer
_MAX_HANGING = 3  # threads that OpenCV does not return to; with so many nothing more is opened
_MAX_HANGING_S = 300  # that is waited for one of them to return; then only another process can open the source again
_CLOSE_S = 1  # that closing waits for the reading thread
_LOOK_S = 0.1  # how often a waiting consumer looks at the stop event and the camera's health
_STEADY_FRAMES = 3  # one may be slow to decode although more have piled up behind it
_JUDGED_FRAMES = 50  # after which a stream's clock counts as none if it only ever counted frames
# Attempts in a row to decode a frame of a video; at its end all of them fail. OpenCV before 4.5 passes over 512 packets
# in each attempt, which takes its time.
_MOST_FAILURES = 1000 if hasattr(cv2, "CAP_PROP_ORIENTATION_AUTO") else 3
_SAME_TIME_S = 0.0005  # positions in a video that are closer are the same
_PIECE_BYTES = 1 << 20  # that are read at once to see whether a disk still works
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
        self.damaged = 0  # of a video: could not be decoded (not among captured)
        self.hanging = 0  # reading threads that had to be left behind and have not come back


def is_live(source):
    """Whether a source is a camera or a stream."""
    source = _as_camera(source)
    return source.startswith(("camera:", "csi:")) or (is_address(source) and _scheme(source) in _PORTS)


def is_video(source):
    """Whether a source is named like a video file."""
    return source.lower().endswith(VIDEO_SUFFIXES) and not is_live(source)


def shown_name(source):
    """Returns a source's name as results and messages may show it: without the secrets of an address."""
    return shown_address(source) if is_address(source) else _as_camera(source)


def check_name(source):
    """Looks at the name of a source that may be meant for a camera or a stream.

    Raises:
        UsageError: it is nearly one; says which, or what to do instead.
    """
    if os.path.lexists(source):
        return
    meant = re.match(r"(?i)(webcam|cam|camera|usb|usbcam|video|v4l2?|csi|csicam|mipi)[:_/ -]?(\d*)$", source)
    if meant and not re.match(r"(camera|csi):\d+$", source):
        kind = "csi" if meant.group(1).lower() in ("csi", "csicam", "mipi") else "camera"
        raise UsageError("%s: no such file or folder; did you mean %s:%s?" % (source, kind, meant.group(2) or 0))
    if not is_address(source):
        return
    shown, scheme = shown_address(source), _scheme(source)
    if scheme not in _PORTS:
        near = difflib.get_close_matches(scheme, _PORTS, 1)
        raise UsageError(
            "%s: expected a file, or an address that begins with %s%s"
            % (shown, ", ".join("%s://" % one for one in _PORTS), "; did you mean %s://?" % near[0] if near else "")
        )
    if scheme in ("http", "https"):
        suffix = os.path.splitext(urllib.parse.unquote(re.split("[?#]", shown)[0]))[1].lower()
        if suffix in formats.SUFFIXES or (suffix in VIDEO_SUFFIXES and suffix not in _STREAMED):
            raise UsageError(
                "%s: is the address of a file, not of a camera; download it first: curl -o FILE%s ADDRESS"
                % (shown, suffix)
            )


def _scheme(address):
    return address.partition("://")[0].lower()


def _as_camera(source):
    """Returns camera:N for the other names that a camera has: N, where no file has that name, and /dev/videoN."""
    if re.match(r"[0-9]{1,3}$", source) and not os.path.lexists(source):
        return "camera:%s" % source
    device = re.match(r"/dev/video(\d+)$", os.path.realpath(source)) if source.startswith("/dev/") else None
    return "camera:%s" % device.group(1) if device and not os.path.isfile(source) else source


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
    source = _as_camera(source)
    kind, _, number = source.partition(":")
    remember([source])
    check_name(source)
    if is_address(source):
        opened = Live(shown_name(source), stop, lambda: _open_stream(source), lambda: _explain_stream(source))
    elif kind == "camera" and number.isdigit():
        opened = Live(
            source, stop, lambda: _open_camera(int(number)), lambda: _explain_camera(int(number)), sensor=True
        )
    elif kind == "csi" and number.isdigit():
        opened = Live(source, stop, lambda: _open_csi(int(number)), lambda: _explain_csi(int(number)), sensor=True)
    elif is_video(source):
        opened = Live(source, stop, lambda: _Playback(source, opened.counts), lambda: "", ends=True)
    else:
        raise UsageError("%s: expected camera:N, csi:N (N a number, such as 0), rtsp://... or a video file" % source)
    opened.interval_s = 1.0 / max_fps if max_fps else 0.0
    opened.seconds = float("inf") if seconds is None else seconds
    opened.frames = float("inf") if frames is None else frames
    return opened


class Video:
    """The frames of a video file, upright, as an iterator and context manager; closes itself at the end.

    A frame that cannot be decoded is given in its place without a picture, with the reason as its problem, and those
    behind it follow. Such a frame shows where decoding fails, in an MP4 or MOV by the file's own table of frames, and
    in an AVI of JPEGs by their data.
    In other formats, whose frames need not come at a fixed rate, what ffmpeg passes over without a sign is not known;
    where the file itself shows that something is, there is one such frame at the end.

    OpenCV before 4.5 (JetPack's) turns no frame upright: there a phone's video lies on its side. Nor does it tell which
    frames of an MP4 it passed over: they are given at the end.

    Attributes:
        frames_per_second: of the file, 0 where it does not say.
        frame_count: of the file, a guess for some formats.
        damaged: how many frames so far have no picture.
    """

    def __init__(self, path):
        self.damaged = 0
        self._name = path
        self._capture: typing.Any = None
        self._file = _open_regular(path)
        try:
            self._capture = _open_file(path, self._file)
            self.frames_per_second = max(0.0, self._capture.get(cv2.CAP_PROP_FPS) or 0.0)
            self.frame_count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
            with self._reading():
                self._state = _state(self._file)
                self._times = video_file.frame_times(self._file)
            self._jpegs = video_file.jpegs(self._file)
            failures, bgr = _next_picture(self._capture)
            if bgr is None:
                self._check_storage(whole=True)
                raise UsageError("%s: no frame of this video can be read; expected a video that ffmpeg plays" % path)
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
        """Yields the frames, from the first picture on and how many attempts had failed before it."""
        number, time_s = 0, 0.0
        lost: typing.List[int] = []
        position_s = self._position_s()
        first_s = position_s - (0.0 if self._times is None else self._times[min(failures, len(self._times) - 1)])
        counted = _is_counted(position_s, 1, self.frames_per_second)  # this OpenCV looks at no clock
        while bgr is not None:
            place = number + failures
            if self._times is not None and not counted:
                position_s = self._position_s()  # OpenCV 4.5 gives 0 for the last frames
                place = self._place(number, position_s - first_s, lost) if position_s or not number else number
            # Behind damage ffmpeg gives pictures out of order: what comes late was already given as missing.
            if self._times is not None and (place < number or place >= len(self._times)):
                failures, bgr = _next_picture(self._capture)
                continue
            for missing in range(number, place):
                if not lost:
                    self._check_storage(whole=True)
                lost.append(missing)
                time_s = self._time_s(missing, time_s)
                yield self._without_picture(missing, time_s, "cannot be decoded (damaged packet)")
            if self._times is None and (self._position_s() > 0 or not number):
                time_s = _position_s(self._capture, place, self.frames_per_second)
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
                yield Frame("%s#%d" % (self._name, place), picture, time.perf_counter(), time_s, "")
            number = place + 1
            failures, bgr = _next_picture(self._capture)
        for missing, reason in self._missing_at_the_end(number, counted):
            lost.append(missing)
            time_s = self._time_s(missing, time_s)
            yield self._without_picture(missing, time_s, reason)
        if lost:
            shown = ", ".join("#%d" % missing for missing in lost[:5]) + ", ..." * (len(lost) > 5)
            say("%s: no picture for %d of its frames (damaged or missing): %s" % (self._name, len(lost), shown))
        self.close()

    def _missing_at_the_end(self, number, counted):
        """Returns [(number, reason)] for the frames that had to come after those that came."""
        short = number < self.frame_count * 0.98 - 2  # which proves nothing, but is worth a look at the disk
        expected = 0 if self._times is None else len(self._times)
        self._check_storage(whole=short or number < expected)
        with self._reading():
            cut = video_file.cut_short(self._file)
            broken = "" if cut else video_file.broken(self._file)
        if cut:
            reason = "is missing, the file is cut short: %s" % cut
        elif broken:
            reason = "%s; which frames are missing is not known" % broken
        elif counted:
            reason = "a frame before this one cannot be decoded (damaged packet); OpenCV %s does not tell which" % (
                cv2.__version__
            )
        else:
            reason = "cannot be decoded (damaged packet)"
        if self._times is None:
            return [(number, reason)] if cut or broken else []
        return [(missing, reason) for missing in range(number, expected)]

    def _damage(self, number):
        """Returns "" or how a frame that ffmpeg gave a picture for is damaged, where that can be told (JPEGs)."""
        with self._reading():
            data = next((data for at, data in self._jpegs if at == number), None)
        return "" if data is None else video_file.jpeg_damage(data)

    def _without_picture(self, number, time_s, problem):
        self.damaged += 1
        return Frame("%s#%d" % (self._name, number), None, time.perf_counter(), time_s, problem)

    def _position_s(self):
        return self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0

    def _place(self, number, position_s, lost):
        """Returns which frame of the file's table is at a position: number, the next one, a later or a lost one."""
        place = int(np.searchsorted(self._times, position_s - _SAME_TIME_S))
        known = place < len(self._times) and abs(self._times[place] - position_s) < _SAME_TIME_S
        return place if known and (place > number or (place < number and place in lost)) else number

    def _time_s(self, number, before_s):
        """Returns a frame's time by the table, else one frame after the one before."""
        if self._times is not None and number < len(self._times):
            return float(self._times[number])
        return before_s + (1 / self.frames_per_second if self.frames_per_second and number else 0.0)

    def _check_storage(self, whole):
        """A disk that fails looks like the end of the video, or like damage. Raises StorageLost.

        whole: the file is read through; else only its end is looked at.
        """
        with self._reading():
            changed = _state(self._file) != self._state
            size = self._state[0]
            place = 0 if whole else max(0, size - _PIECE_BYTES)
            while place < size and os.pread(self._file.fileno(), _PIECE_BYTES, place):
                place += _PIECE_BYTES
        if changed:
            raise StorageLost("%s: was written to while it was read; run it again when it is whole" % self._name)

    @contextlib.contextmanager
    def _reading(self):
        try:
            yield
        except OSError as error:
            raise StorageLost("%s: cannot be read any more (%s)" % (self._name, error.strerror or error))

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
            self.problem = hide_secrets(str(error))
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

    def __init__(self, path, counts):
        with _open_regular(path) as file:
            self._capture = _open_file(path, file)
        self._frames_per_second = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        self._counts = counts
        self._number = 0
        self._started_s = None
        _, self._bgr = _next_picture(self._capture)
        if self._bgr is None:
            self._capture.release()
            raise UsageError("%s: no frame of this video can be read; expected a video that ffmpeg plays" % path)

    def isOpened(self):  # noqa: N802
        return True

    def grab(self):
        if self._number:
            failures, self._bgr = _next_picture(self._capture)
            if self._bgr is None:
                return False
            self._number += failures
            self._counts.damaged += failures
        position_s = _position_s(self._capture, self._number, self._frames_per_second)
        self._number += 1
        if self._started_s is None:
            self._started_s = time.perf_counter() - position_s
        time.sleep(max(0.0, self._started_s + position_s - time.perf_counter()))
        return True

    def retrieve(self):
        return True, self._bgr

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


def _next_picture(capture):
    """Reads on until a frame can be decoded.

    Returns:
        (how many attempts failed before it, the picture as BGR); None for the picture where nothing more comes.
    """
    for failures in range(_MOST_FAILURES):
        if capture.grab():
            done, bgr = capture.retrieve()
            if done:
                return failures, bgr
    return _MOST_FAILURES, None


def _open_regular(path):
    """Returns a video's open file. Raises UsageError."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError("%s: is no regular file; expected a video" % path)
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise UsageError("%s: cannot be read (%s)" % (path, error.strerror))


def _open_file(path, file):
    """Returns an open cv2.VideoCapture. Raises UsageError."""
    os.environ.setdefault(*_QUIET)
    # By its descriptor: ffmpeg takes some names for addresses or patterns, and OpenCV none that is not UTF-8.
    capture = cv2.VideoCapture("/dev/fd/%d" % file.fileno(), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        capture.release()
        raise UsageError("%s: cannot be read as a video: not one, incomplete, or a codec that ffmpeg lacks" % path)
    if hasattr(cv2, "CAP_PROP_ORIENTATION_AUTO"):
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return capture


def _state(file):
    """Returns what changes when somebody writes to an open file. Raises OSError."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _open_stream(address):
    """RTSP by TCP: a lost UDP packet smears the picture until the next key frame, and would be classified like that."""
    settings = []
    options = "rtsp_transport;tcp" if _scheme(address) in ("rtsp", "rtsps") else ""
    if hasattr(cv2, "CAP_PROP_READ_TIMEOUT_MSEC"):
        settings += [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_S * 1000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_TIMEOUT_MS]
    elif options:  # OpenCV before 4.5.2, with the ffmpeg of its time: the socket's own limit, in microseconds
        options += "|stimeout;%d" % (_READ_TIMEOUT_MS * 1000)
    if options:
        os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", options)
    os.environ.setdefault(*_QUIET)
    address = _scheme(address) + address[address.index("://") :]  # ffmpeg knows no RTSP://
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


def _explain_stream(address):
    scheme, shown = _scheme(address), shown_address(address)
    rest = address.partition("://")[2]
    user, _, after = rest.rpartition("@")
    if ":" in user or not re.search("[/?#]", user):  # else the @ is in the path
        rest = after
    place = re.match(r"(?:\[([^]/?#]*)\]|([^:/?#]*))(?::(\d*))?(?=[/?#]|$)", rest)
    looks = "-rtsp_transport tcp " if scheme in ("rtsp", "rtsps") else ""
    tried = ".\nTried with OpenCV's ffmpeg. To look: ffprobe %s'%s'" % (looks, shown)
    if re.search("[/?#@%]", re.sub("%[0-9A-Fa-f]{2}", "", user)):
        return "A password's / ? # @ %% must be written as %%2F %%3F %%23 %%40 %%25 in an address%s" % tried
    if not place or int(place.group(3) or 0) > 65535:
        return "The address is wrong: expected %s://USER:PASSWORD@HOST:PORT/PATH%s" % (scheme, tried)
    host, port = place.group(1) or place.group(2), int(place.group(3) or _PORTS[scheme])
    if scheme in ("udp", "srt"):
        return "Nothing came from %s on port %d%s" % (host or "any host", port, tried)
    try:
        socket.create_connection((host, port), timeout=3).close()
        found = "%s answers on port %d: look at the path, user and password" % (host, port)
    except (OSError, UnicodeError) as error:  # the latter for a host's name that cannot be one
        found = "%s cannot be reached on port %d (%s)" % (host, port, getattr(error, "strerror", None) or error)
    return found + tried


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
