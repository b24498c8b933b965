"""Annotated pictures in a window."""

import contextlib
import os
import subprocess
import sys
import time

import cv2

from edge_runtime.annotate.target import Target
from edge_runtime.errors import MissingRequirement

_WINDOW_S = 1 / 30.0  # between two pictures in a window


class Window(Target):
    """Shows the newest annotated picture in a window."""

    _TITLE = "picnic-edge (q ends it)"

    def __init__(self, stop):
        super().__init__()
        self._stop = stop
        self._shown_s = None
        # In a process of its own: some builds end the process where there is no display.
        probe = "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1); cv2.destroyAllWindows()"
        done = subprocess.run([sys.executable, "-c", probe], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"it ended with {done.returncode}"]
            raise MissingRequirement(
                "--show: OpenCV %s cannot open a window here (%s).\n"
                "It needs a display (DISPLAY is %s) and an OpenCV with windows: JetPack's, that of "
                "`apt-get install python3-opencv`, or `pip uninstall opencv-python-headless; pip install opencv-python`"
                % (cv2.__version__, lines[-1].strip(), os.environ.get("DISPLAY") or "not set")
            )

    def write(self, prediction):
        """Shows what a Prediction is about, 30 times a second at most: the newest counts."""
        if self._shown_s is None or time.perf_counter() - self._shown_s >= _WINDOW_S:
            super().write(prediction)

    def _keep(self, picture, _):
        if self._stop.is_set():
            return
        if self._shown_s is None:
            cv2.namedWindow(self._TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
            cv2.resizeWindow(self._TITLE, picture.shape[1], picture.shape[0])
        elif cv2.getWindowProperty(self._TITLE, cv2.WND_PROP_VISIBLE) < 1:
            self._stop.set()
            return
        cv2.imshow(self._TITLE, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self._shown_s = time.perf_counter()
        if cv2.waitKey(1) & 0xFF == ord("q"):
            self._stop.set()

    def close(self, well):
        """Closes the window."""
        if self._shown_s is not None:
            with contextlib.suppress(cv2.error):  # it was closed by hand
                cv2.destroyWindow(self._TITLE)
            cv2.waitKey(1)
            self._shown_s = None
