"""Tells apart a photo that is missing, and a folder or a disk that went away."""

import os
import re
import typing

from edge_runtime.errors import STORAGE_ADVICE, PhotoMissing, StorageLost, is_storage_error, storage_lost
from edge_runtime.sources.items import Root
from edge_runtime.sources.listing import identity_of, names_in
from edge_runtime.sources.names import is_left_out
from edge_runtime.sources.near_miss import near_miss

MOUNTINFO = "/proc/self/mountinfo"  # Linux only
_MAX_FOLDERS = 1000  # whose identity is kept while names are read


def reason_of(item, error):
    """Returns why a file of a source cannot be read: the text for its row.

    Args:
        item: Item, or anything else with its path and root.
        error: the ImageError that reading the file raised.

    Raises:
        StorageLost: the folder or disk that it is read from went away (renamed, unmounted), so that the failure says
            nothing about the photo.
    """
    if not isinstance(error, PhotoMissing):
        return str(error)
    if item.root is not None:
        check_root(item.root)
        check_mounts(item.root, item.path)
    return str(error) + near_miss(item.path)


def check_root(root, error=None):
    """Checks that a Root, and its top, is still the same folder; and that an OSError was not a failure of its disk.

    Raises:
        StorageLost: it is another folder now or went away, or its disk fails.
    """
    if is_storage_error(error):
        raise storage_lost(root.path, error)
    for one in [root] if root.top is None else [root.top, root]:
        now = root_of(one.path)
        if now is None or now.identity != one.identity:
            raise StorageLost(
                f"{one.path}: this folder went away, or is another one now (a disk that was removed, a network drive?)."
                f"\n{STORAGE_ADVICE}"
            )


def check_mounts(root, path):
    """Checks that what was mounted at, above or below a path in the source still is. Raises StorageLost."""
    if not root.mounts:
        return
    path = os.path.join(os.path.realpath(path), "")
    mounts = []
    for mount in root.mounts:
        point = os.path.join(mount[0], "")
        if path.startswith(point) or point.startswith(path):
            mounts.append(mount)
    missing = sorted(set(mounts).difference(_mounts(MOUNTINFO))) if mounts else []
    if missing:
        raise StorageLost(
            f"{missing[0][0]}: the disk that was mounted here went away, or is another one now.\n{STORAGE_ADVICE}"
        )


def _mounts(mountinfo):
    """Returns [(mount point, device)] of what is mounted now, without automounts; [] where the system has no list."""
    try:
        with open(mountinfo, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    mounts, automatic = [], []
    for line in lines:
        fields = line.split(b" ")
        # Spaces, tabs, newlines and backslashes are written as "\\040".
        point = os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal.group(1), 8)]), fields[4]))
        mounts.append((point, os.fsdecode(fields[2])))
        if b" - autofs " in line:  # below it disks come and go as they are used
            automatic.append(os.path.join(point, ""))
    return [mount for mount in mounts if not os.path.join(mount[0], "").startswith(tuple(automatic))]


def mounts_below(folder, mountinfo=MOUNTINFO):
    """Returns a tuple of (folder, device number) for each mount at or below a folder that a walk does not leave out.

    Args:
        folder: a path; it need not exist.
        mountinfo: the file to read; where it cannot be read there are no mounts.
    """
    top = os.path.join(os.path.realpath(folder), "")
    inside = [mount for mount in _mounts(mountinfo) if os.path.join(mount[0], "").startswith(top)]
    return tuple(mount for mount in inside if not any(map(is_left_out, mount[0][len(top) :].split(os.sep))))


def root_of(folder):
    """Returns the Root of a folder, None where there is none."""
    try:
        return Root(folder, identity_of(folder))
    except OSError:
        return None


def top_of(folder):
    """Returns the Root of a source's folder, None where there is none."""
    root = root_of(folder)
    return None if root is None else root._replace(mounts=mounts_below(folder))


class Folders:
    """Finds the folder that each file of a list is read from: its own or, if that is missing, the last one before.

    Args:
        top: the Root of the source's folder, None where the names have none in common.
    """

    def __init__(self, top=None):
        self._top = self._last = top
        self._roots: typing.Dict[str, Root] = {}  # each folder as it was when it was first named

    def root_of(self, path):
        """Returns the Root of a file; None where no folder named so far exists."""
        folder = os.path.dirname(path) or os.curdir
        if folder not in self._roots or self._is_new(folder):
            root = root_of(folder)
            if root is None:
                return self._last
            if self._top is not None:
                is_top = root.identity == self._top.identity
                root = self._top if is_top else root._replace(mounts=self._top.mounts, top=self._top)
            if len(self._roots) >= _MAX_FOLDERS:
                self._roots.clear()
            self._roots[folder] = root
        self._last = self._roots[folder]
        return self._last

    def _is_new(self, folder):
        """Whether a folder was replaced by another one on the same disk, not an empty one: a spool, no lost disk."""
        before = self._roots[folder]
        if before is self._top:
            return False
        now = root_of(folder)
        if now is None or now.identity == before.identity or now.identity[0] != before.identity[0]:
            return False
        try:
            return next(names_in(folder), None) is not None
        except OSError:
            return False
