"""Opens the annotator for --annotate (a folder or a video) and for --show (a window)."""

import os

from edge_runtime.annotate.folder import FolderAnnotator
from edge_runtime.annotate.video import CODECS, VideoAnnotator
from edge_runtime.errors import UsageError
from edge_runtime.sources import kinds


def open_annotator(target, frames_per_second=None):
    """Opens a folder or a video for annotated pictures. Returns an Annotator, a context manager with write().

    Predictions with an error are skipped and counted. A video gets its name when the block ends without an exception.

    Args:
        target: a folder (created if it is missing) for one JPEG per input, or a video file (.mp4, .avi).
        frames_per_second: of the video. Default: 25 for frames, each shown until the next one came; 1 for photos.

    Raises:
        UsageError: the target cannot be written; on writing: a full disk.
        MissingRequirement: on the first write: this OpenCV cannot write such a video.
    """
    if target.lower().endswith(tuple(CODECS)):
        return VideoAnnotator(target, frames_per_second)
    if kinds.is_video(target) and not os.path.isdir(target):
        raise UsageError(f"--annotate {target}: expected a folder, or a video in {' or '.join(sorted(CODECS))}")
    return FolderAnnotator(target)
