"""Zip archives that a model comes in: looked into and unpacked without trusting what they claim."""

import contextlib
import json
import os
import shutil
import stat
import tempfile
import zipfile

from edge_runtime.errors import PicnicError, UsageError
from edge_runtime.text import printable

MAX_FILES = 10000
MAX_BYTES = 4 << 30  # of all files together; what becomes a bundle has less than 2 GiB
# Weights hardly shrink: an archive that grows this much is no model.
_MAX_GROWTH, _SMALL_BYTES = 50, 256 << 20
_IGNORED = ("__MACOSX", ".DS_Store")  # what macOS adds


def file_names(path):
    """Returns the sorted names of the files in a folder or a zip, relative to it, with /; [] for anything else.

    A folder that is the only thing in a zip is left out of the names, as unpacked does.

    Raises:
        UsageError: a zip that unpacked would refuse, or more than MAX_FILES files.
    """
    if os.path.isdir(path):
        return _names_below(path)
    if not zipfile.is_zipfile(path):
        return []
    with _opened(path) as archive:
        names = [_name(entry) for entry in _checked_entries(path, archive)]
    top = _only_top(names)
    return sorted(name[len(top) :] for name in names)


@contextlib.contextmanager
def unpacked(path):
    """Yields a folder with the files of a model: path itself if it is one, else a temporary one with a zip's content.

    If all that the zip holds is one folder, that one is yielded. The temporary folder is removed at the end.

    Raises:
        UsageError: no folder and no zip; damaged or encrypted; a name leads out of the archive; a link; too many files;
            too much data.
    """
    if os.path.isdir(path):
        yield path
        return
    if not zipfile.is_zipfile(path):
        raise UsageError(f"{path}: expected a folder or a zip archive")
    folder = tempfile.mkdtemp(prefix="picnic-edge-import-")
    try:
        with _opened(path) as archive:
            entries = _checked_entries(path, archive)
            need_bytes = sum(entry.file_size for entry in entries)
            free_bytes = shutil.disk_usage(folder).free
            if need_bytes > free_bytes:
                raise UsageError(
                    f"{path}: takes {need_bytes >> 20} MiB unpacked, and {folder} has {free_bytes >> 20} MiB free; "
                    "set TMPDIR to a larger disk"
                )
            for entry in entries:
                _unpack(archive, entry, folder)
        top = os.path.join(folder, _only_top([_name(entry) for entry in entries])).rstrip("/")
        try:
            yield top
        except PicnicError as error:  # with the name that the user knows
            raise type(error)(str(error).replace(top, path))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def json_object(folder, name, max_bytes):
    """Returns the dict in a JSON file of a model's folder.

    Raises:
        UsageError: it cannot be read, is larger than max_bytes, or holds no object.
    """
    path = os.path.join(folder, name)
    try:
        with open(path, encoding="utf-8-sig") as file:
            value = json.loads(file.read(max_bytes))
        if not isinstance(value, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); download or export it again")
    return value


@contextlib.contextmanager
def _opened(path):
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError, ValueError) as error:
        # RuntimeError: encrypted; NotImplementedError: another compression; zlib.error is no OSError, see _unpack.
        raise UsageError(f"{path}: the archive cannot be unpacked ({error}); download or export it again")


def _checked_entries(path, archive):
    """Returns the ZipInfos of an archive's files. Raises UsageError for one that is not safe to unpack."""
    entries = [
        entry
        for entry in archive.infolist()
        if not entry.filename.endswith("/") and not set(_name(entry).split("/")) & set(_IGNORED)
    ]
    if len(entries) > MAX_FILES:
        raise UsageError(f"{path}: holds {len(entries)} files, at most {MAX_FILES} are unpacked")
    total_bytes = sum(entry.file_size for entry in entries)
    packed_bytes = os.path.getsize(path)
    if total_bytes > MAX_BYTES or total_bytes > max(_SMALL_BYTES, _MAX_GROWTH * packed_bytes):
        raise UsageError(
            f"{path}: would grow from {packed_bytes} bytes to {total_bytes >> 20} MiB; a model's weights hardly shrink "
            f"in an archive, and at most {MAX_BYTES >> 30} GiB are unpacked"
        )
    names = set()
    for entry in entries:
        parts = _name(entry).split("/")
        if parts[0] == "" or ".." in parts or ":" in parts[0]:
            raise UsageError(f"{path}: the name {printable(entry.filename)!r} leads out of the archive")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise UsageError(f"{path}: {printable(entry.filename)} is a link; pack the file itself")
        if entry.flag_bits & 1:
            raise UsageError(f"{path}: is encrypted; unpack it and give the folder")
        if _name(entry) in names:
            raise UsageError(f"{path}: holds {printable(entry.filename)} twice")
        names.add(_name(entry))
    return entries


def _name(entry):
    return entry.filename.replace("\\", "/")  # some tools for Windows write the other one


def _unpack(archive, entry, folder):
    """Writes one file of an archive below a folder; zipfile stops at the size that it claims, and checks its sum."""
    import zlib

    target = os.path.join(folder, *_name(entry).split("/"))
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        with archive.open(entry) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    except zlib.error as error:
        raise zipfile.BadZipFile(f"{printable(entry.filename)}: {error}")


def _only_top(names):
    """Returns "NAME/" where all names begin with it, else ""."""
    tops = {name.split("/")[0] for name in names}
    return tops.pop() + "/" if len(tops) == 1 and all("/" in name for name in names) else ""


def _names_below(folder):
    names = []
    for parent, folders, files in os.walk(folder):
        folders.sort()
        names += [os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/") for name in files]
        if len(names) > MAX_FILES:
            raise UsageError(f"{folder}: holds more than {MAX_FILES} files; give the model's own folder")
    return sorted(names)
