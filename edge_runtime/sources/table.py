"""Tables as sources: an Item for each row."""

import os

from edge_runtime.errors import UsageError
from edge_runtime.secrets import is_address, shown_address
from edge_runtime.sources import table_reader
from edge_runtime.sources.items import Item
from edge_runtime.sources.listing import names_in
from edge_runtime.sources.storage import Folders, top_of


def images_folder_of(table, images_folder):
    """Returns where a table's file names start: images_folder, or if that is None the table's own folder.

    Raises:
        UsageError: there is no such folder, or it is empty, as is the mount point of a disk that is away.
    """
    if images_folder is None:
        return os.path.dirname(table)
    try:
        is_empty = next(names_in(images_folder), None) is None
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"--images {images_folder}: no such folder")
    except OSError as error:
        raise UsageError(f"--images {images_folder}: cannot be listed ({error.strerror})")
    if is_empty:
        raise UsageError(f"--images {images_folder}: is an empty folder; is its disk mounted?")
    return images_folder


def table_items(path, images_folder):
    """Returns an iterator of an Item per row of a table (see table_reader), its files below images_folder."""
    return (listed_item(row.file, where, row.problem, root) for row, where, root in table_rows(path, images_folder))


def listed_item(name, path, problem, root):
    """Returns the Item of a name in a list. An address there is no file, and may hold a password."""
    if is_address(name):
        return Item(shown_address(name), path, "is an address, not the name of a file: download it first", root)
    return Item(name, path, problem, root)


def table_rows(path, images_folder, need_label=False):
    """Returns an iterator of (table_reader.Row, the path of its file, the Root that it is read from)."""
    folders = Folders(top_of(images_folder or os.curdir))

    def iterate():
        for row in table_reader.read_rows(path, need_label):
            where = path_of(row.file, images_folder)
            yield row, where, folders.root_of(where)

    return iterate()


def path_of(name, images_folder):
    """Returns the path of a file named in a table, which is UTF-8 whatever the locale is (LANG is often unset)."""
    return slashed(os.fsdecode(name.encode("utf-8", "surrogateescape")), images_folder)


def slashed(name, folder=""):
    """Returns the path of a name; one with Windows' backslashes means folders where no file has that very name."""
    path = os.path.join(folder, name)
    if "\\" in name and not os.path.lexists(path):
        other = name.replace("\\", "/")
        if not table_reader.path_problem(other) and os.path.lexists(os.path.join(folder, other)):
            return os.path.join(folder, other)
    return path
