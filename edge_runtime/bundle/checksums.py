"""The files that a bundle or an engine lists, with their sums: nothing else is opened."""

import contextlib
import hashlib
import os
import stat

from edge_runtime import files
from edge_runtime.bundle import onnx_file
from edge_runtime.errors import CorruptFile


def list_files(folder):
    """Returns {name relative to folder, with /: {"sha256", "size_bytes"}} of all files below it."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            inner = os.path.relpath(path, folder).replace(os.sep, "/")
            found[inner] = {"sha256": files.sha256_of(path), "size_bytes": os.path.getsize(path)}
    return found


def check_files(folder, listed, sums=False):
    """Checks that every listed file lies in the folder and has its size, and with sums that its content is the same.

    Args:
        listed: as list_files returns it, read from a file that may be garbled or another's.

    Raises:
        CorruptFile: naming the first file that is missing, changed, or outside the folder.
    """
    for name in sorted(listed):
        path = _placed(folder, name, listed)
        if sums:
            with _reading(folder, name):
                found = files.sha256_of(path)
            _check_sum(folder, name, listed, found)


def checked_path(folder, name, listed):
    """Returns the path of a file, or of a folder, after checking the sums of what it holds.

    For libraries that open files themselves; in between a file can still change, see checked_bytes.

    Args:
        folder: where the listed files are.
        name: of the file or folder, relative to it, with /.
        listed: as list_files returns it; None where the files were just made: then nothing is checked.

    Raises:
        CorruptFile: a file is missing, changed, outside the folder or not listed.
    """
    path = os.path.join(folder, *name.split("/"))
    if listed is None:
        return path
    if name.endswith(".onnx"):
        checked_bytes(folder, name, listed)
        return path
    chosen = {inner: facts for inner, facts in listed.items() if inner == name or inner.startswith(name + "/")}
    if not chosen:
        raise CorruptFile(f"{folder}: does not list {name}")
    check_files(folder, chosen, sums=True)
    if name not in chosen:  # a folder, of which a library may open whatever lies in it
        for inner in _everything_below(path):
            if f"{name}/{inner}" not in chosen:
                raise CorruptFile(f"{path}: holds {inner}, which is not listed; remove it")
    return path


def checked_bytes(folder, name, listed):
    """Returns the content of a file: what is used is what was checked. An .onnx file must not name other files.

    Args and Raises: as checked_path.
    """
    path = os.path.join(folder, *name.split("/")) if listed is None else _placed(folder, name, listed)
    with _reading(folder, name), open(path, "rb") as file:
        data = file.read()
    if listed is None:
        return data
    _check_sum(folder, name, listed, hashlib.sha256(data).hexdigest())
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


def _placed(folder, name, listed):
    """Returns the path of a listed file that lies in the folder with its size. Raises CorruptFile."""
    if name not in listed:
        raise CorruptFile(f"{folder}: does not list {name}")
    path, root = os.path.join(folder, name), os.path.realpath(folder)
    try:
        inside = not os.path.isabs(name) and "\0" not in name and os.path.realpath(path).startswith(root + os.sep)
    except UnicodeEncodeError:  # no file can have such a name
        inside = False
    if not inside:
        raise CorruptFile(f"{folder}: lists the file {name}, which is outside it")
    facts = listed[name]
    if not isinstance(facts, dict) or not {"sha256", "size_bytes"} <= set(facts):
        raise CorruptFile(f"{folder}: its entry for {name} is garbled")
    with _reading(folder, name):
        found = os.stat(path)
    if not stat.S_ISREG(found.st_mode) or found.st_size != facts["size_bytes"]:
        raise CorruptFile(f"{folder}: its file {name} is not the one that was written")
    return path


@contextlib.contextmanager
def _reading(folder, name):
    try:
        yield
    except OSError as error:
        raise CorruptFile(f"{folder}: its file {name} cannot be read ({error.strerror})")


def _check_sum(folder, name, listed, found):
    if found != listed[name]["sha256"]:
        raise CorruptFile(f"{folder}: its file {name} is not the one that was written")


def _everything_below(folder):
    """Returns the names of all files below a folder, relative to it, with /; links to folders are among them."""
    found = []
    for parent, folders, names in os.walk(folder):
        names += [name for name in folders if os.path.islink(os.path.join(parent, name))]
        found += [os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/") for name in names]
    return sorted(found)
