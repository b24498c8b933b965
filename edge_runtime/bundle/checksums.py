"""The list of files in a bundle's manifest or an engine's record: made, and checked before a file is used."""

import contextlib
import hashlib
import os
import stat

from edge_runtime import files
from edge_runtime.bundle import onnx_file
from edge_runtime.errors import CorruptFile


def list_files(folder):
    """Returns {name relative to folder, with /: {"sha256", "size_bytes"}} of all files below it."""
    entries = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            inner = os.path.relpath(path, folder).replace(os.sep, "/")
            entries[inner] = {"sha256": files.sha256_of(path), "size_bytes": os.path.getsize(path)}
    return entries


def check_files(folder, entries, sums=False):
    """Checks that every listed file lies in the folder and has its size, and with sums that its content is the same.

    Args:
        entries: as list_files returns it, read from a file that may be garbled or another's.

    Raises:
        CorruptFile: naming the first file that is missing, changed, or outside the folder.
    """
    for name in sorted(entries):
        path = _locate(folder, name, entries)
        if sums:
            with _reading(folder, name):
                actual = files.sha256_of(path)
            _check_sum(folder, name, entries, actual)


def checked_path(folder, name, entries):
    """Returns the path of a file, or of a folder, after checking the sums of its files.

    For libraries that open files themselves. A file can still change in between; checked_bytes has no such gap.

    Args:
        folder: where the listed files are.
        name: of the file or folder, relative to it, with /.
        entries: as list_files returns it; None where the files were just made: then nothing is checked.

    Raises:
        CorruptFile: a file is missing, changed, outside the folder or not listed.
    """
    path = os.path.join(folder, *name.split("/"))
    if entries is None:
        return path
    if name.endswith(".onnx"):
        checked_bytes(folder, name, entries)
        return path
    chosen = {inner: facts for inner, facts in entries.items() if inner == name or inner.startswith(name + "/")}
    if not chosen:
        raise CorruptFile(f"{folder}: does not list {name}")
    check_files(folder, chosen, sums=True)
    if name not in chosen:  # a folder, of which a library may open whatever lies in it
        for inner in _names_below(path):
            if f"{name}/{inner}" not in chosen:
                raise CorruptFile(f"{path}: holds {inner}, which is not listed; remove it")
    return path


def checked_bytes(folder, name, entries):
    """Returns the content of a file after checking its sum: the same bytes are checked and used.

    Args:
        folder: where the listed files are.
        name: of the file, relative to folder, with /. An .onnx file must not name other files.
        entries: of list_files; None where the file was just made: then nothing is checked.

    Raises:
        CorruptFile: the file is missing, changed, outside the folder or not listed.
    """
    path = os.path.join(folder, *name.split("/")) if entries is None else _locate(folder, name, entries)
    with _reading(folder, name), open(path, "rb") as file:
        data = file.read()
    if entries is None:
        return data
    _check_sum(folder, name, entries, hashlib.sha256(data).hexdigest())
    if name.endswith(".onnx"):
        try:
            names_other_files = onnx_file.names_other_files(data)
        except ValueError as error:
            raise CorruptFile(f"{folder}: its file {name} is no ONNX file ({error})")
        if names_other_files:
            raise CorruptFile(f"{folder}: its file {name} has weights in other files, which are not checked")
    return data


@contextlib.contextmanager
def advising(advice):
    """Adds to the message of a CorruptFile what the user should do about it."""
    try:
        yield
    except CorruptFile as error:
        raise CorruptFile(f"{error}; {advice}")


def _locate(folder, name, entries):
    """Returns the path of a listed file that lies in the folder with its size. Raises CorruptFile."""
    if name not in entries:
        raise CorruptFile(f"{folder}: does not list {name}")
    path, root = os.path.join(folder, name), os.path.realpath(folder)
    try:
        inside = not os.path.isabs(name) and "\0" not in name and os.path.realpath(path).startswith(root + os.sep)
    except UnicodeEncodeError:  # no file can have such a name
        inside = False
    if not inside:
        raise CorruptFile(f"{folder}: lists the file {name}, which is outside it")
    facts = entries[name]
    if not isinstance(facts, dict) or not {"sha256", "size_bytes"} <= set(facts):
        raise CorruptFile(f"{folder}: its entry for {name} is garbled")
    with _reading(folder, name):
        status = os.stat(path)
    if not stat.S_ISREG(status.st_mode) or status.st_size != facts["size_bytes"]:
        raise CorruptFile(f"{folder}: its file {name} is not the one that was written")
    return path


@contextlib.contextmanager
def _reading(folder, name):
    try:
        yield
    except OSError as error:
        raise CorruptFile(f"{folder}: its file {name} cannot be read ({error.strerror})")


def _check_sum(folder, name, entries, actual):
    if actual != entries[name]["sha256"]:
        raise CorruptFile(f"{folder}: its file {name} is not the one that was written")


def _names_below(folder):
    """Returns the names of all files below a folder, relative to it, with /; links to folders are among them."""
    below = []
    for parent, folders, names in os.walk(folder):
        names += [name for name in folders if os.path.islink(os.path.join(parent, name))]
        below += [os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/") for name in names]
    return sorted(below)
