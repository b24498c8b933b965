"""Annotated pictures in a window."""

import contextlib
import os
import subprocess
import sys
import time

import cv2

from edge_runtime.annotate.base import Annotator
from edge_runtime.errors import MissingRequirement

INTERVAL_S = 1 / 30  # between two pictures
_TITLE = "picnic-edge (press q to stop)"


class WindowAnnotator(Annotator):
    """Shows the newest annotated picture in a window."""

    def __init__(self, stop):
        """Opens no window before the first picture.

        Args:
            stop: threading.Event that is set when the user presses q in the window or closes it.

        Raises:
            MissingRequirement: there is no display, or this OpenCV has no windows.
        """
        super().__init__()
        self._stop = stop
        self._last_s = None  # when a picture was last shown
        # In a child process: some builds of OpenCV end the process where there is no display.
        probe = "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1); cv2.destroyAllWindows()"
        done = subprocess.run([sys.executable, "-c", probe], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"it ended with {done.returncode}"]
            raise MissingRequirement(
                f"--show: OpenCV {cv2.__version__} cannot open a window here ({lines[-1].strip()}).\n"
                f"It needs a display (DISPLAY is {os.environ.get('DISPLAY') or 'not set'}) and an OpenCV with windows: "
                "JetPack's, that of `apt-get install python3-opencv`, or "
                "`pip uninstall opencv-python-headless; pip install opencv-python`"
            )

    def write(self, prediction, threshold=None):
        """Shows the picture of a Prediction, 30 times a second at most; others are not shown."""
        if self._last_s is None or time.perf_counter() - self._last_s >= INTERVAL_S:
            super().write(prediction, threshold)

    def _add(self, picture, _):
        if self._stop.is_set():
            return
        if self._last_s is None:
            cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
            cv2.resizeWindow(_TITLE, picture.shape[1], picture.shape[0])
        elif cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) < 1:
            self._stop.set()
            return
        cv2.imshow(_TITLE, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self._last_s = time.perf_counter()
        if cv2.waitKey(1) & 0xFF == ord("q"):
            self._stop.set()

    def close(self, is_complete):
        """Closes the window."""
        if self._last_s is not None:
            with contextlib.suppress(cv2.error):  # the user closed it
                cv2.destroyWindow(_TITLE)
            cv2.waitKey(1)
            self._last_s = None
