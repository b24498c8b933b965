"""Annotated pictures as files in a folder."""

import os
import re
import zlib

import cv2

from edge_runtime import files
from edge_runtime.annotate.base import Annotator
from edge_runtime.sources import kinds

_QUALITY = 90
_NAME_BYTES = 200  # of a file name; file systems allow 255, and the temporary name is longer


class FolderAnnotator(Annotator):
    """Writes a JPEG per input into a folder, under the input's own name. The JPEG's comment holds that name, too."""

    def __init__(self, path):
        super().__init__()
        self._path = path
        self._unnamed = 0
        with files.named(f"--annotate {self._path}"):
            os.makedirs(path, exist_ok=True)

    def _add(self, picture, prediction):
        name = prediction.name
        if not name:
            self._unnamed += 1
            name = f"frame-{self._unnamed:06d}"
        inside = _inside(name)
        with files.named(f"--annotate {self._path}"):
            try:
                os.makedirs(os.path.dirname(os.path.join(self._path, inside)), exist_ok=True)
            except (FileExistsError, NotADirectoryError):  # a.jpg/b.jpg, after a.jpg
                inside = inside.replace("/", "_")[-_NAME_BYTES // 4 :]
            path = self._free(os.path.join(self._path, inside), os.fsencode(name))
            with files.atomic_file(path, binary=True, durable=False) as file:
                file.write(_jpeg(picture, os.fsencode(name)))

    def _free(self, path, name):
        """Returns path, or one beside it if another input's picture, or a file of the user's, has that path."""
        stem, suffix = os.path.splitext(path)
        number = 1
        while os.path.lexists(path) and _comment(path) != name:
            number += 1
            path = f"{stem}~{number}{suffix}"
        return path

    def close(self, is_complete):
        """Does nothing: each picture is a file of its own, closed and in its place."""


def _inside(name):
    """Returns a relative path for a name: one that stays inside the folder, and that file systems accept."""
    if kinds.is_live(name):
        name = re.sub(r"[^\w.#/-]+", "_", name.replace("://", "_"))
    if not name.lower().endswith((".jpg", ".jpeg")):
        name += ".jpg"
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "/".join("__" if part == ".." else _cut(part) for part in parts)


def _cut(part):
    data = os.fsencode(part)
    if len(data) <= _NAME_BYTES:
        return part
    return os.fsdecode(data[: _NAME_BYTES - 20]) + f"~{zlib.crc32(data):08x}" + os.path.splitext(part)[1][-5:]


def _jpeg(rgb, comment):
    """Returns a picture as a JPEG with a comment of at most 65,533 bytes."""
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    comment, data = comment[:65533], encoded.tobytes()
    return data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]


def _comment(path):
    """Returns the comment of a file of _jpeg, None for any other."""
    try:
        with open(path, "rb") as file:
            if file.read(4) == b"\xff\xd8\xff\xfe":
                return file.read(int.from_bytes(file.read(2), "big") - 2)
    except OSError:  # a folder
        pass
    return None
