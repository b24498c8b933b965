"""SOURCE: an image, a folder, a glob, a table of file names, or - (file names on standard input)."""

import errno
import fnmatch
import glob
import itertools
import os
import select
import stat
import sys
import typing

import numpy as np

from edge_runtime import images, tables
from edge_runtime.errors import UsageError

Item = typing.NamedTuple(
    "Item",
    [
        ("name", str),  # what the result row calls it
        ("path", str),  # the file to open
        ("problem", str),  # why it is not even tried, "" for a photo
    ],
)


class Frame(typing.NamedTuple):
    """A frame of a video or a camera."""

    name: str  # "clip.mp4#123", "camera:0#123": the frame's number from 0
    picture: typing.Optional[np.ndarray]  # uint8 [height, width, 3], RGB; None where problem says why
    captured_s: float  # time.perf_counter() when it was captured
    time_s: float  # its place in the video, or since the first frame
    problem: str = ""  # why there is no picture


_AT_ONCE = 50000  # names of one folder that are kept; a larger one is listed again for each further 50,000
_LEADS_NOWHERE = (errno.ENOENT, errno.ELOOP)  # a link, or what was there a moment ago
_STOP_EVERY_S = 0.1  # how often waiting for standard input looks whether to stop
_READ_BYTES = 1 << 16


def open_source(source, images_folder=None, null=False, stop=None):
    """Returns an iterator of Item, in the order in which results are written; each is one row of the output.

    A folder, a pattern with wildcards in its last part only, a table and standard input are streamed: memory does not
    grow with what is there. A folder of a million files is listed again for every 50,000, which takes 0.6 s; so long
    its first Item takes, too. The matches of other patterns are kept, about 150 bytes each.

    What changes in a folder meanwhile: a file that is gone when its turn comes still has its Item (and so its row with
    the reason) if it had been listed; one that appears is given if its place in the order is yet to come. Nothing is
    given twice or out of order. A folder that goes away on the way is an Item with the reason.

    Args:
        source: file, folder (recursive, sorted), glob pattern, .tsv table, or "-".
        images_folder: where a table's file names start (default: the table's own folder).
        null: the names on standard input end with NUL, not with a newline.
        stop: threading.Event that ends the waiting for standard input.

    Raises:
        UsageError: nothing of that name, or a source that is not made of files.
    """
    if source == "-":
        if sys.stdin is None:
            raise UsageError("-: standard input is closed; give file names there, or another source")
        return _standard_input(b"\0" if null else b"\n", stop)
    if source.startswith(("rtsp://", "camera:", "csi:")):
        raise UsageError("%s: a live source cannot be used here; give an image, a folder, a glob, a TSV or -" % source)
    if os.path.isdir(source):
        return _folder(source)
    if os.path.lexists(source):
        if source.lower().endswith(".tsv"):
            folder = images_folder if images_folder is not None else os.path.dirname(source)
            if not os.path.isdir(folder or "."):
                raise UsageError("--images %s: no such folder" % folder)
            return table_items(source, folder)
        return iter([Item(source, source, "")])
    if glob.has_magic(source):
        matches = _matches(source)
        for first in matches:
            return (Item(path, path, "") for path in itertools.chain([first], matches))
        raise UsageError("%s: the pattern matches no file" % source)
    raise UsageError("%s: no such file or folder" % source)


def count_source(source, stop=None):
    """Counts what open_source gives, for the ETA: without sorting, and without keeping names but a glob's matches.

    Args:
        source: as for open_source.
        stop: threading.Event that ends the counting.

    Returns:
        the number of items as of now; None for standard input, for a source that cannot be read (open_source says why),
        for tens of thousands of folders beside each other (their names would have to be kept), and once stop is set.
    """
    if source == "-":
        return None
    count = 0
    try:
        if os.path.isdir(source):
            counted = _unsorted(source)
        elif glob.has_magic(source) and not os.path.lexists(source):
            counted = _matches(source, _names)
        else:
            counted = open_source(source, os.curdir)  # where a table's photos are makes no difference to their number
        for item in counted:
            if item is _TOO_MANY or (stop is not None and stop.is_set()):
                return None
            count += 1
    except UsageError:
        return None
    return count


def table_items(path, images_folder):
    """Yields an Item per row of a table (see edge_runtime.tables.read_rows), its files below images_folder."""
    for row in tables.read_rows(path):
        yield Item(row.file, path_of(row.file, images_folder), row.problem)


def path_of(name, images_folder):
    """Returns the path of a file named in a table, which is UTF-8 whatever the locale is (LANG is often unset)."""
    return os.path.join(images_folder, os.fsdecode(name.encode("utf-8", "surrogateescape")))


def _is_photo_name(path):
    return path.lower().endswith(images.SUFFIXES)


def _matches(pattern, list_names=None):
    """Yields the paths of a pattern that may be photos, sorted unless list_names gives names in any order."""
    folder, last = os.path.split(pattern)
    if last != "**" and not glob.has_magic(folder):
        # A hidden file is matched by what starts with a dot only.
        found: typing.Iterable[str] = (
            os.path.join(folder, name)
            for name in _until_error(list_names or _sorted_names, folder)
            if fnmatch.fnmatch(name, last) and (name[0] != "." or last[0] == ".")
        )
    else:
        found = sorted(set(_glob(pattern)))
    yield from (path for path in found if _is_photo_name(path) or not os.path.isdir(path))


def _glob(pattern):
    """Yields what glob.glob(recursive=True) does, but goes through no link back to a folder that contains it.

    With one such link glob repeats every file 40 times, with several it does not come to an end.
    """
    parts = pattern.split(os.sep)
    if "**" not in parts:
        yield from glob.iglob(pattern)
        return
    place = parts.index("**")
    tops = glob.iglob(os.sep.join(parts[:place] + [""])) if place else [""]
    for top in tops:
        for folder in _folders(top):
            yield from _glob(os.path.join(glob.escape(folder), *(parts[place + 1 :] or ["*"])))


def _folders(top):
    """Yields a folder and those below it, without hidden ones and those that cannot be listed."""
    pending: typing.List[typing.Tuple[str, tuple]] = [(top, ())]  # (folder, identities of the folders above it)
    while pending:
        folder, above = pending.pop()
        try:
            identity, names = _identity(folder or os.curdir), os.listdir(folder or os.curdir)
        except OSError:
            continue
        if identity not in above:
            yield folder
            paths = [os.path.join(folder, name) for name in names if not name.startswith(".")]
            pending += [(path, above + (identity,)) for path in paths if _is_folder(path)]


def _folder(top):
    """Walks depth first, names sorted, holding the names on the way down only; links are followed, loops are not."""
    for name, problem in _walk(top):
        yield Item(name, os.path.join(top, name), problem)


def _walk(top):
    """Yields (name relative to top, problem or "")."""
    # (folder, names in it that are to come, identities of it and of the folders above it); no recursion: trees are deep
    levels: typing.List[typing.Tuple[str, typing.Iterator[str], tuple]] = [("", iter([""]), ())]
    while levels:
        folder, names, above = levels[-1]
        try:
            name = next(names, None)
        except OSError as error:
            levels.pop()
            yield folder or ".", "cannot list the rest of this folder (%s)" % error.strerror
            continue
        if name is None:
            levels.pop()
            continue
        inner = os.path.join(folder, name)
        path = os.path.join(top, inner)
        try:
            is_folder = stat.S_ISDIR(os.stat(path).st_mode)
        except OSError as error:
            is_folder = False
            if not _is_photo_name(inner) and error.errno not in _LEADS_NOWHERE:
                yield inner or ".", "cannot be looked at (%s)" % error.strerror  # it may be a folder full of photos
        if not is_folder:
            if _is_photo_name(inner):
                yield inner, ""
            continue
        try:
            identity, names = _identity(path), _sorted_names(path)
        except OSError as error:
            yield inner or ".", "cannot list this folder (%s)" % error.strerror
            continue
        if identity in above:
            yield inner, "is a link back to a folder that contains it: not followed"
            continue
        if _is_photo_name(inner):
            yield inner, "is a directory"
        levels.append((inner, names, above + (identity,)))


def _sorted_names(folder):
    """Returns an iterator of the names in a folder, sorted; at most 2 * _AT_ONCE are held.

    Raises:
        OSError: the folder cannot be listed; from the iterator: it can no longer.
    """
    names, more = _names_after("", folder)

    def iterate(names, more):
        yield from names
        while more:
            names, more = _names_after(names[-1], folder)
            yield from names

    return iterate(names, more)


def _names_after(last, folder):
    """Returns (the next names of a folder after the name last, sorted; whether there are more). Raises OSError."""
    names: typing.List[str] = []
    end = None  # once there are too many: the last name that is still wanted
    for name in _names(folder):
        if name > last and (end is None or name < end):
            names.append(name)
            if len(names) >= 2 * _AT_ONCE:
                names.sort()
                del names[_AT_ONCE:]
                end = names[-1]
    names.sort()
    if end is not None:
        del names[_AT_ONCE:]
    return names, end is not None


def _names(folder):
    """Yields the names in a folder in any order. Raises OSError."""
    with os.scandir(folder or os.curdir) as entries:
        for entry in entries:
            yield entry.name


def _until_error(list_names, folder):
    """Yields the names in a folder that can be listed: as with glob, what cannot matches nothing."""
    try:
        yield from list_names(folder)
    except OSError:
        return


_TOO_MANY = object()


def _unsorted(top):
    """Yields once for each Item of a folder, in any order; _TOO_MANY when too many folders are still to be counted."""
    pending: typing.List[typing.Tuple[str, tuple]] = [(top, ())]  # (folder, identities of the folders above it)
    while pending:
        folder, above = pending.pop()
        try:
            identity = _identity(folder)
            if identity in above:
                yield folder
                continue
            inside = above + (identity,)
            with os.scandir(folder) as entries:
                if _is_photo_name(folder) and above:
                    yield folder
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and _is_folder(entry.path)):
                        pending.append((entry.path, inside))
                    elif _is_photo_name(entry.name):
                        yield entry
        except OSError:
            yield folder
        if len(pending) > _AT_ONCE:
            yield _TOO_MANY


def _identity(folder):
    """Returns what a folder is whatever its name. Raises OSError."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_folder(path):
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False


def _standard_input(separator, stop):
    """Reads without the buffer of sys.stdin, so that waiting can be ended, and only as far as Items are wanted."""
    file = sys.stdin.fileno()
    rest = b""
    while stop is None or not stop.is_set():
        if not select.select([file], [], [], _STOP_EVERY_S)[0]:
            continue
        data = os.read(file, _READ_BYTES)
        if separator == b"\n" and b"\0" in data:
            raise UsageError("standard input: has NUL bytes; names that are separated by them need --null (-0)")
        *lines, rest = (rest + data).split(separator)
        if not data:
            lines.append(rest)
        for line in lines:
            name = os.fsdecode(line.rstrip(b"\r") if separator == b"\n" else line)
            if name:
                yield Item(name, name, "")
        if not data:
            return
