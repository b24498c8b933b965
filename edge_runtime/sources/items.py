"""What sources yield: an Item for each photo, a Frame for each picture of a video or a camera."""

import collections
import typing

import numpy as np


class Root(typing.NamedTuple):
    """A folder as it was when the source was opened, or when a file in it was first named.

    Attributes:
        path: its name.
        identity: (device, inode number): the same for every name of the folder, another for a new folder of that name.
        mounts: (mount point, device) of each file system that was mounted at or below the source's folder.
        top: the Root of the source's folder, None where that is this one.
    """

    path: str
    identity: tuple
    mounts: tuple = ()
    top: typing.Any = None


class Item(typing.NamedTuple):
    """A file of a source: one row of the output.

    Attributes:
        name: as the result row shows it.
        path: the file to open.
        problem: why the file is not even opened, "" for a photo.
        root: the folder that it is read from, see storage.reason_of.
    """

    name: str
    path: str
    problem: str
    root: typing.Optional[Root] = None


class Frame(typing.NamedTuple):
    """A frame of a video or a camera.

    Attributes:
        name: with the frame's number from 0: "clip.mp4#123", "camera:0#123".
        picture: uint8 [height, width, 3], RGB; None where there is a problem.
        captured_s: time.perf_counter() when it was captured.
        time_s: seconds from the start of the video, or from the first frame of a camera.
        problem: why there is no picture, "" where there is one.
    """

    name: str
    picture: typing.Optional[np.ndarray]
    captured_s: float
    time_s: float
    problem: str = ""


class Items:
    """An iterator of Item.

    Attributes:
        passed_over: Counter of the files so far that were no photos, by suffix ("" without one).
    """

    def __init__(self, items, passed_over=None):
        self.passed_over: typing.Counter[str] = collections.Counter() if passed_over is None else passed_over
        self._items = iter(items)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._items)
