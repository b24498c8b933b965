"""Opens where annotated pictures go: a folder, a video, a window."""

import os

from edge_runtime.annotate.film import CODECS, Film
from edge_runtime.annotate.folder import Folder
from edge_runtime.annotate.window import Window
from edge_runtime.errors import UsageError
from edge_runtime.sources import kinds


def open_annotator(target, frames_per_second=None):
    """Opens a place for annotated pictures: a context manager with write(prediction) and the count `skipped`.

    Args:
        target: a folder (made if it is missing) for one JPEG per input, or a video file (.mp4, .avi).
        frames_per_second: of the video; default 25 for frames, which are shown for as long as they were the newest,
            and 1 for photos.

    What has an error is skipped and counted. A video appears under its name when the block ends well, whole.

    Raises:
        UsageError: the target cannot be written, here or on the way (a full disk).
        MissingRequirement: this OpenCV writes no such video; found at the first picture.
    """
    if target.lower().endswith(tuple(CODECS)):
        return Film(target, frames_per_second)
    if kinds.is_video(target) and not os.path.isdir(target):
        raise UsageError(f"--annotate {target}: expected a folder, or a video in {' or '.join(sorted(CODECS))}")
    return Folder(target)


def open_window(stop):
    """Opens a window that shows the newest annotated picture: a context manager with write(prediction).

    Args:
        stop: threading.Event that is set when q is pressed in the window, or it is closed.

    Raises:
        MissingRequirement: there is no display, or this OpenCV has no windows.
    """
    return Window(stop)
