"""Annotated pictures as a video file."""

import contextlib
import os
import tempfile
import typing

import cv2

from edge_runtime import files
from edge_runtime.annotate.base import Annotator
from edge_runtime.annotate.drawing import pad_picture
from edge_runtime.errors import MissingRequirement, UsageError
from edge_runtime.photos.resize import shrink_picture
from edge_runtime.sources.items import Frame
from edge_runtime.sources.video import Video

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}  # every OpenCV's ffmpeg can write them

_FRAMES_PER_S, _PHOTOS_PER_S = 25.0, 1.0

_MAX_GAP_S = 10  # how long a video stands still for a camera that was away


class VideoAnnotator(Annotator):
    """Writes annotated pictures as a video. It is written under a temporary name, and gets its own when complete."""

    def __init__(self, path, frames_per_second):
        super().__init__()
        self._path = path
        self._frames_per_second = frames_per_second
        self._writer: typing.Any = None
        self._written = 0
        self._first_s = 0.0  # of the first frame
        self._last_picture = None  # shown until the next one
        suffix = files.suffix_of(path)
        self._codec = CODECS[suffix]
        if files.is_stream(path):
            raise UsageError(f"--annotate {path}: expected a regular file for a video, or a folder")
        with files.named(f"--annotate {path}"):
            folder, name = os.path.split(os.path.abspath(files.target_of(path)))
            descriptor, self._temporary = tempfile.mkstemp(prefix=f".{name[:50]}.", suffix=suffix, dir=folder)
        os.close(descriptor)

    def _add(self, picture, prediction):
        time_s = prediction.item.time_s if isinstance(prediction.item, Frame) else None
        if self._writer is None:
            self._open(picture, time_s)
        height, width = self._size
        picture = pad_picture(shrink_picture(picture, height, width), height, width)
        if time_s is not None:
            due = int(round((time_s - self._first_s) * self._frames_per_second))
            for _ in range(min(due - self._written, int(_MAX_GAP_S * self._frames_per_second))):
                self._write(self._last_picture)
            if due > self._written:  # the gap was longer: the rest of it is left out for good
                self._first_s += (due - self._written) / self._frames_per_second
                due = self._written
            self._last_picture = picture
            if due < self._written:  # frames come faster than the video shows them
                return
        self._write(picture)

    def _open(self, picture, time_s):
        self._first_s = time_s or 0.0
        self._frames_per_second = self._frames_per_second or (_PHOTOS_PER_S if time_s is None else _FRAMES_PER_S)
        self._size = tuple((length + 1) // 2 * 2 for length in picture.shape[:2])  # codecs need even lengths
        self._writer = cv2.VideoWriter(
            self._temporary,
            cv2.CAP_FFMPEG,
            int.from_bytes(self._codec.encode(), "little"),
            self._frames_per_second,
            self._size[::-1],
        )
        if not self._writer.isOpened():
            raise MissingRequirement(
                f"--annotate {self._path}: OpenCV {cv2.__version__} here cannot write this video (codec {self._codec}, "
                f"{self._frames_per_second} frames/s); give a folder, or a name that ends in "
                f"{' or '.join(sorted(CODECS))}"
            )

    def _write(self, picture):
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self._written += 1

    def close(self, is_complete):
        """Gives the video its name if it is complete, else deletes it."""
        try:
            if self._writer is not None:
                self._writer.release()
                if is_complete:
                    self._place()
        finally:
            self._writer = None
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)

    def _place(self):
        # OpenCV reports no error while it writes.
        with Video(self._temporary) as video:
            is_whole = video.frame_count >= self._written
        if not is_whole:
            raise UsageError(f"--annotate {self._path}: could not be written to its end; is the disk full?")
        with open(self._temporary, "rb") as file:
            os.fsync(file.fileno())
        files.put_in_place(self._temporary, self._path)
