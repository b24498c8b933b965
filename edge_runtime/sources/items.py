"""What a source gives: an Item for each photo, a Frame for each picture of a video or a camera."""

import collections
import typing

import numpy as np


class Root(typing.NamedTuple):
    """A folder as it was when the source was opened, or when a file in it was first named."""

    path: str
    identity: tuple  # what it is whatever its name: device and number
    mounts: tuple = ()  # (mount point, device) of what was mounted at or below the source's folder, see _mounts_below
    top: typing.Any = None  # the Root of the source's folder, where that is another one


class Item(typing.NamedTuple):
    """A file of a source: one row of the output."""

    name: str  # what the result row calls it
    path: str  # the file to open
    problem: str  # why it is not even tried, "" for a photo
    root: typing.Optional[Root] = None  # what it is read from, see reason_of


class Frame(typing.NamedTuple):
    """A frame of a video or a camera."""

    name: str  # "clip.mp4#123", "camera:0#123": the frame's number from 0
    picture: typing.Optional[np.ndarray]  # uint8 [height, width, 3], RGB; None where problem says why
    captured_s: float  # time.perf_counter() when it was captured
    time_s: float  # its place in the video, or since the first frame
    problem: str = ""  # why there is no picture


class Items:
    """An iterator of Item. passed_over: Counter of the files that were no photos, by suffix ("" without one)."""

    def __init__(self, items, passed_over=None):
        self.passed_over: typing.Counter[str] = collections.Counter() if passed_over is None else passed_over
        self._items = iter(items)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._items)
