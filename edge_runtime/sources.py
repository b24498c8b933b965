"""SOURCE: an image, a folder, a glob, a table of file names, or - (file names on standard input)."""

import glob
import os
import stat
import sys
import typing

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


def open_source(source, images_folder=None):
    """Returns an iterator of Item, in the order in which results are written; each is one row of the output.

    Args:
        source: file, folder (recursive, sorted), glob pattern, .tsv table, or "-".
        images_folder: where a table's file names start (default: the table's own folder).

    Raises:
        UsageError: nothing of that name, or a kind of source that this version does not read.
    """
    if source == "-":
        return _standard_input()
    if source.startswith(("rtsp://", "camera:", "csi:")):
        raise UsageError("%s: this version reads no live source; give an image, a folder, a glob, a TSV or -" % source)
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
        matches = sorted(set(_glob(source)))
        found = [path for path in matches if _is_photo_name(path) or not os.path.isdir(path)]
        if found:
            return (Item(path, path, "") for path in found)
        raise UsageError("%s: the pattern matches no file" % source)
    raise UsageError("%s: no such file or folder" % source)


def table_items(path, images_folder):
    """Yields an Item per row of a table (see edge_runtime.tables.read_rows), its files below images_folder."""
    for row in tables.read_rows(path):
        yield Item(row.file, path_of(row.file, images_folder), row.problem)


def path_of(name, images_folder):
    """Returns the path of a file named in a table, which is UTF-8 whatever the locale is (LANG is often unset)."""
    return os.path.join(images_folder, os.fsdecode(name.encode("utf-8", "surrogateescape")))


def _is_photo_name(path):
    return path.lower().endswith(images.SUFFIXES)


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
            identity, names = _list(folder or ".")
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
    # (name, identities of the folders above it), the next one last; no recursion: trees are deep
    pending: typing.List[typing.Tuple[str, tuple]] = [("", ())]
    while pending:
        inner, above = pending.pop()
        folder = os.path.join(top, inner)
        if not _is_folder(folder):
            if _is_photo_name(inner):
                yield inner, ""
            continue
        try:
            identity, names = _list(folder)
        except OSError as error:
            yield inner or ".", "cannot list this folder (%s)" % error.strerror
            continue
        if identity in above:
            yield inner, "is a link back to a folder that contains it: not followed"
            continue
        if _is_photo_name(inner):
            yield inner, "is a directory"
        pending += [(os.path.join(inner, name), above + (identity,)) for name in sorted(names, reverse=True)]


def _list(folder):
    """Returns (identity of a folder whatever its name, names in it). Raises OSError."""
    status = os.stat(folder)
    return (status.st_dev, status.st_ino), os.listdir(folder)


def _is_folder(path):
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False


def _standard_input():
    for line in sys.stdin.buffer:
        name = os.fsdecode(line.rstrip(b"\r\n"))
        if name:
            yield Item(name, name, "")
