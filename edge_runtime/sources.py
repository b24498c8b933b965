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
            return table_items(source, images_folder if images_folder is not None else os.path.dirname(source))
        return iter([Item(source, source, "")])
    if glob.has_magic(source):
        matches = sorted(glob.glob(source, recursive=True))
        found = [path for path in matches if _is_photo_name(path) or not os.path.isdir(path)]
        if found:
            return (Item(path, path, "") for path in found)
        raise UsageError("%s: the pattern matches no file" % source)
    raise UsageError("%s: no such file or folder" % source)


def table_items(path, images_folder):
    """Yields an Item per row of a table (see edge_runtime.tables.read_rows), its files below images_folder."""
    for row in tables.read_rows(path):
        yield Item(row.file, os.path.join(images_folder, row.file), row.problem)


def _is_photo_name(path):
    return path.lower().endswith(images.SUFFIXES)


def _folder(top):
    """Walks depth first, names sorted, holding one directory's names at a time; links are followed, loops are not."""
    for name, problem in _walk(top, "", ()):
        yield Item(name, os.path.join(top, name), problem)


def _walk(top, inner, ancestors):
    """Yields (name relative to top, problem or "")."""
    folder = os.path.join(top, inner)
    try:
        status = os.stat(folder)
        names = sorted(os.listdir(folder))
    except OSError as error:
        yield inner or ".", "cannot list this folder (%s)" % error.strerror
        return
    identity = (status.st_dev, status.st_ino)
    if identity in ancestors:
        yield inner, "is a link back to a folder that contains it: not followed"
        return
    for name in names:
        path = os.path.join(inner, name)
        if _is_folder(os.path.join(top, path)):
            if _is_photo_name(name):
                yield path, "is a directory"
            yield from _walk(top, path, ancestors + (identity,))
        elif _is_photo_name(name):
            yield path, ""


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
