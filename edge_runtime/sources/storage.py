"""Tells a photo that is missing from a folder or a disk that went away."""

import os
import re
import typing

from edge_runtime.errors import STORAGE_ADVICE, PhotoMissing, StorageLost, is_storage_error, storage_lost
from edge_runtime.sources.items import Root
from edge_runtime.sources.listing import identity_of, names_in
from edge_runtime.sources.names import is_left_out
from edge_runtime.sources.near_miss import near_miss

_MOUNTS = "/proc/self/mountinfo"  # Linux only


_FOLDERS_KNOWN = 1000  # whose identity is kept while names are read


def reason_of(item, error):
    """Returns the reason why a file of a source cannot be read, as its row says it.

    Args:
        item: Item, or whatever else has its path and root.
        error: the ImageError that reading it raised.

    Raises:
        StorageLost: what it is read from is gone (a folder that was renamed, a disk that was unmounted), so that the
            failure says nothing about the photo.
    """
    if not isinstance(error, PhotoMissing):
        return str(error)
    if item.root is not None:
        check_root(item.root)
        check_mounts(item.root, item.path)
    return str(error) + near_miss(item.path)


def check_root(root, error=None):
    """Raises StorageLost where root (or its top) is another folder now or gone, or error (an OSError) is its disk's."""
    if is_storage_error(error):
        raise storage_lost(root.path, error)
    for one in [root] if root.top is None else [root.top, root]:
        now = root_of(one.path)
        if now is None or now.identity != one.identity:
            raise StorageLost(
                "%s: this folder went away, or is another one now (a disk that was taken out, a network drive?).\n%s"
                % (one.path, STORAGE_ADVICE)
            )


def check_mounts(root, path):
    """Raises StorageLost where what was mounted at, above or below a path in the source is gone, or another disk."""
    if not root.mounts:
        return
    place = os.path.join(os.path.realpath(path), "")
    concerned = []
    for mount in root.mounts:
        point = os.path.join(mount[0], "")
        if place.startswith(point) or point.startswith(place):
            concerned.append(mount)
    gone = sorted(set(concerned).difference(_mounts())) if concerned else []
    if gone:
        raise StorageLost(
            f"{gone[0][0]}: the disk that was mounted here went away, or is another one now.\n{STORAGE_ADVICE}"
        )


def _mounts():
    """Returns [(mount point, device)] of what is mounted now and stays so; [] where the system does not tell."""
    try:
        with open(_MOUNTS, "rb") as file:
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


def _mounts_below(folder):
    """Returns those of _mounts at or below a folder, without those that a walk leaves out."""
    top = os.path.join(os.path.realpath(folder), "")
    inside = [mount for mount in _mounts() if os.path.join(mount[0], "").startswith(top)]
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
    return None if root is None else root._replace(mounts=_mounts_below(folder))


class Folders:
    """Tells what named files are read from: the folder of each, or the last one that was there when it was named.

    top: the Root of the source's folder, None where the names have none in common.
    """

    def __init__(self, top=None):
        self._top = self._last = top
        self._known: typing.Dict[str, Root] = {}  # as they were when first named

    def root_of(self, path):
        """Returns the Root of a file; None where no folder that was named so far is there."""
        folder = os.path.dirname(path) or os.curdir
        if folder not in self._known or self._is_made_anew(folder):
            found = root_of(folder)
            if found is None:
                return self._last
            if self._top is not None:
                is_top = found.identity == self._top.identity
                found = self._top if is_top else found._replace(mounts=self._top.mounts, top=self._top)
            if len(self._known) >= _FOLDERS_KNOWN:
                self._known.clear()
            self._known[folder] = found
        self._last = self._known[folder]
        return self._last

    def _is_made_anew(self, folder):
        """Whether a known folder is another one now, on the same disk and not empty: a spool, no disk that is away."""
        before = self._known[folder]
        if before is self._top:
            return False
        now = root_of(folder)
        if now is None or now.identity == before.identity or now.identity[0] != before.identity[0]:
            return False
        try:
            return next(names_in(folder), None) is not None
        except OSError:
            return False
