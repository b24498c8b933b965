"""The connection to a camera or stream: a thread reads it; when it fails, hangs or freezes it is opened again."""

import threading
import time
import typing

import cv2
import numpy as np

from edge_runtime.errors import MissingRequirement
from edge_runtime.photos.picture import is_one_colour
from edge_runtime.secrets import hide_secrets
from edge_runtime.sources.delay import Delay
from edge_runtime.sources.stream import OPEN_S

LOOK_S = 0.1  # whoever waits looks at the stop event and at the camera's health this often
SILENCE_S = 5  # a source that gives no frame for this long is opened again
FROZEN_S = 60  # a sensor has noise: one that gives no new picture for this long is opened again
FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 30  # the pause before it is opened again doubles each time
STEADY_S = 10  # after a connection that lasted this long the pause is short again
MAX_HANGING = 3  # while this many threads wait for OpenCV in vain, nothing more is opened
MAX_HANGING_S = 300  # if that lasts longer than this, the run ends: only another process can open the source again


class Device(typing.NamedTuple):
    """How a live source is opened, and what to expect of it.

    Attributes:
        name: as results and messages show it.
        open_capture: () -> something with cv2.VideoCapture's isOpened, grab, retrieve, get and release.
        explain: () -> text that says where to look when nothing comes.
        is_sensor: frames come straight from a sensor. Its noise never repeats itself for long; and there is no stream
            that could deliver late what had piled up.
        ends: the source is over when no more frames come; else it is opened again.
    """

    name: str
    open_capture: typing.Callable
    explain: typing.Callable
    is_sensor: bool = False
    ends: bool = False


class Connection:
    """Reads a Device into a NewestFrame, and opens it again after an outage for as long as that takes.

    Callers hold the lock `changed`; only receive takes it itself.

    Attributes:
        messages: list of lines for the user, to be said without holding the lock.
    """

    def __init__(self, device, newest, counts, changed):
        self.messages: typing.List[str] = []
        self._device = device
        self._newest = newest
        self._counts = counts
        self._changed = changed
        self._reader: typing.Optional[_Reader] = None
        self._hanging: typing.List[_Reader] = []
        self._lost_s: typing.Optional[float] = None  # since when it is away
        self._retry_s = 0.0  # when it may be opened again
        self._pause_s = float(FIRST_PAUSE_S)
        self._stuck_s: typing.Optional[float] = None  # since when too many threads hang

    def open(self, stop):
        """Opens the device and waits for the first frame, a failure, 15 s, or stop.

        Returns:
            (problem, error): why no frame came ("" if one did, or stop is set); the exception behind it or None.
        """
        self._reader = reader = _Reader(self, self._device, self._newest, self._changed)
        while self._newest.first_s is None and not reader.ended and not stop.is_set():
            if time.perf_counter() - reader.alive_s > OPEN_S:
                break
            self._changed.wait(LOOK_S)
        if self._newest.first_s is not None or stop.is_set():
            return "", None
        return reader.problem or f"gave no frame within {OPEN_S} s", reader.error

    def close(self):
        """Tells the reading thread to end. Returns it, None where there is none."""
        reader, self._reader = self._reader, None
        if reader is None:
            return None
        reader.over = True
        return reader.thread

    def check(self, now_s):
        """Gives up a reader that failed, and opens the device again. Returns whether it is over for good.

        Raises:
            MissingRequirement: the driver hangs; only another process can open the device again.
        """
        self._hanging = [reader for reader in self._hanging if reader.thread.is_alive()]
        self._counts.hanging = len(self._hanging)
        reader = self._reader
        if reader is None:
            self._open_again(now_s)
            return False
        if self._device.ends and reader.ended and not reader.problem:
            return self._newest.is_empty()
        problem = self._problem(reader, now_s)
        if problem:
            self._give_up(reader, now_s, problem)
        return False

    def _open_again(self, now_s):
        if len(self._hanging) < MAX_HANGING:
            self._stuck_s = None
            if now_s >= self._retry_s:
                self._reader = _Reader(self, self._device, self._newest, self._changed)
            return
        self._stuck_s = now_s if self._stuck_s is None else self._stuck_s
        if now_s - self._stuck_s > MAX_HANGING_S:
            raise MissingRequirement(
                f"{self._device.name}: its driver did not come back from {len(self._hanging)} attempts to read or open "
                "it; only another process can open it again.\n"
                "Start the command again; a supervisor does (systemd: Restart=on-failure)"
            )

    def _problem(self, reader, now_s):
        """Returns why a reader must be given up, "" while it is fine."""
        if reader.ended:
            return reader.problem or "it ended"
        silent_s, frozen_s = now_s - reader.alive_s, now_s - reader.changed_s
        if not self._device.ends and silent_s > (SILENCE_S if reader.has_read else OPEN_S):
            return f"no frame for {silent_s:.0f} s"
        if self._device.is_sensor and reader.has_read and frozen_s > FROZEN_S:
            return f"only blank frames or the same picture, to the byte, for {frozen_s:.0f} s"
        return ""

    def _give_up(self, reader, now_s, problem):
        self._reader = None
        reader.over = True
        self._hanging.append(reader)
        self._newest.drop()
        if reader.has_read and now_s - reader.opened_s > STEADY_S:
            self._pause_s = FIRST_PAUSE_S
        self._retry_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
        if self._lost_s is None:
            self._lost_s = reader.alive_s
            self.messages.append(f"{self._device.name}: {problem}; opening it again until it is back")

    def receive(self, reader: "_Reader", bgr, read_s, outcome):
        """Takes a frame from a reader; outcome: "" for a new picture, else "dropped", "blank" or "repeated"."""
        with self._changed:
            if self._reader is not reader:  # it was given up: this frame may be from any time
                return
            self._newest.put(bgr, read_s, outcome)
            reader.has_read = True
            if outcome != "dropped":
                reader.alive_s = read_s
            if not outcome:
                reader.changed_s = read_s
            is_back = not outcome or (outcome != "dropped" and not self._device.is_sensor)
            if is_back and self._lost_s is not None:
                self._counts.reconnects += 1
                self.messages.append(f"{self._device.name}: back after {read_s - self._lost_s:.1f} s")
                self._lost_s = None
            self._changed.notify_all()


class _Reader:
    """One opening of a device, and the thread that reads it until the device fails or `over` is set."""

    def __init__(self, connection, device, newest, changed):
        self.over = False
        self.ended = False
        self.has_read = False  # a frame
        self.problem = ""  # why it ended
        self.error: typing.Optional[Exception] = None
        self.opened_s = self.alive_s = self.changed_s = time.perf_counter()
        self._connection = connection
        self._device = device
        self._newest = newest
        self._changed = changed
        # A daemon: a read that never returns must not keep the process.
        self.thread = threading.Thread(target=self._run, name="live", daemon=True)
        self.thread.start()

    def _run(self):
        capture = None
        try:
            capture = self._device.open_capture()
            if not capture.isOpened():
                self.problem = "cannot be opened"
            else:
                self._read(capture)
        except Exception as error:  # whatever OpenCV and its backends raise: the device is opened again
            self.error = error
            self.problem = hide_secrets(str(error))
        finally:
            with self._changed:
                self.ended = True
                self._changed.notify_all()
            if capture is not None:
                capture.release()  # says goodbye to the server, which may not answer

    def _read(self, capture):
        delay = Delay(capture.get(cv2.CAP_PROP_FPS))
        while not self.over:
            if not capture.grab():
                self.problem = "" if self._device.ends else "reading failed"
                return
            read_s = time.perf_counter()
            if not self._device.is_sensor and delay.is_stale(read_s, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0):
                self._connection.receive(self, None, read_s, "dropped")
                continue
            done, bgr = capture.retrieve()
            if not done:
                self.problem = "reading failed"
                return
            is_repeated = _is_same(bgr, self._newest.last_picture)
            outcome = "blank" if is_one_colour(bgr) else "repeated" if is_repeated else ""
            self._connection.receive(self, bgr, read_s, outcome)


def _is_same(picture, before):
    if before is None or picture.shape != before.shape:
        return False
    return np.array_equal(picture[::16], before[::16]) and np.array_equal(picture, before)
