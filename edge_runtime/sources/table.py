"""Tables as sources: an Item for each row."""

import os

from edge_runtime.errors import UsageError
from edge_runtime.secrets import is_address, shown_address
from edge_runtime.sources import table_reader
from edge_runtime.sources.items import Item
from edge_runtime.sources.listing import names_in
from edge_runtime.sources.storage import Folders, top_of


def images_folder_of(table, images_folder):
    """Returns the folder that a table's file names are relative to: images_folder, or the table's own if that is None.

    Raises:
        UsageError: there is no such folder, or it is empty, as the mount point of a missing disk is.
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
    """Returns an iterator of an Item per row of a table (see table_reader.read_rows), its files below images_folder."""
    rows = table_rows(path, images_folder)
    return (item_of(row.file, file_path, row.problem, root) for row, file_path, root in rows)


def table_rows(path, images_folder, need_label=False):
    """Returns an iterator of (table_reader.Row, the path of its file, the Root that it is read from)."""
    folders = Folders(top_of(images_folder or os.curdir))

    def iterate():
        for row in table_reader.read_rows(path, need_label):
            file_path = path_of(row.file, images_folder)
            yield row, file_path, folders.root_of(file_path)

    return iterate()


def item_of(name, path, problem, root):
    """Returns the Item of a name in a list. An address there is no file, and may hold a password."""
    if is_address(name):
        return Item(shown_address(name), path, "is an address, not the name of a file: download it first", root)
    return Item(name, path, problem, root)


def path_of(name, images_folder):
    """Returns the path of a file named in a table, which is UTF-8 whatever the locale is (LANG is often unset)."""
    return resolve_name(os.fsdecode(name.encode("utf-8", "surrogateescape")), images_folder)


def resolve_name(name, folder=""):
    """Returns the path of a name in a folder. Backslashes separate folders, as on Windows, if no file has that name."""
    path = os.path.join(folder, name)
    if "\\" in name and not os.path.lexists(path):
        other = name.replace("\\", "/")
        if not table_reader.path_problem(other) and os.path.lexists(os.path.join(folder, other)):
            return os.path.join(folder, other)
    return path
