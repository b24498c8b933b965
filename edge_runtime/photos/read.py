"""Reads a photo by its path, and says what is at fault when that fails: the photo, the storage or the memory."""

import contextlib
import errno
import functools
import hashlib
import os
import stat
import typing

import numpy as np

from edge_runtime.errors import ImageError, PhotoMissing, is_storage_error, storage_lost
from edge_runtime.files import suffix_of
from edge_runtime.photos import formats, memory_budget
from edge_runtime.photos.decode import decode_for_network, decode_for_people
from edge_runtime.photos.header import Header


class Photo(typing.NamedTuple):
    """A photo for the network, and what is known of its file."""

    picture: np.ndarray  # uint8 [height, width, 3], RGB, upright
    header: Header
    size_bytes: int  # of the file
    sha256: str  # of the file's bytes


def read_image(path, input_spec):
    """Reads a photo for the network.

    Args:
        path: file name (str or bytes).
        input_spec: edge_runtime.photos.spec.InputSpec of the network.

    Returns:
        uint8 array of input_spec.shape, RGB, upright.

    Raises:
        ImageError: the file cannot be read or is no usable photo; the message says why. PhotoMissing: it is not there.
        StorageLost: the disk or network drive fails, or no more files can be opened.
        MemoryError: there is not enough memory, even for this photo alone.
    """
    return _retry_alone(functools.partial(_read_image, input_spec=input_spec), path)


def _read_image(path, input_spec):
    with _open_regular(path) as (stream, size_bytes):
        return decode_for_network(stream, size_bytes, input_spec, True)[0]


def read_photo(path, input_spec):
    """Reads a photo for the network, with what is known of its file.

    Args:
        path: file name (str or bytes).
        input_spec: edge_runtime.photos.spec.InputSpec of the network.

    Returns:
        Photo.

    Raises:
        ImageError: the file cannot be read or is no usable photo; the message says why. PhotoMissing: it is not there.
        StorageLost: the disk or network drive fails, or no more files can be opened.
        MemoryError: there is not enough memory, even for this photo alone.
    """
    return _retry_alone(functools.partial(_read_photo, input_spec=input_spec), path)


def _read_photo(path, input_spec):
    digest = hashlib.sha256()
    with _open_regular(path) as (stream, size_bytes):
        picture, header = decode_for_network(stream, size_bytes, input_spec, True, digest)
    return Photo(picture, header, size_bytes, digest.hexdigest())


def read_bytes(path):
    """Returns the bytes of a regular file; it never blocks on a pipe or a device.

    Raises:
        ImageError: the file cannot be read, or is larger than the memory budget. PhotoMissing: it is not there.
        StorageLost: the disk or network drive fails, or no more files can be opened.
    """
    with _open_regular(path) as (stream, size_bytes):
        with memory_budget.decode_budget().reserve(size_bytes, "a file"):
            return stream.read()


def read_large(path, side):
    """Reads a photo for people to look at, in its own proportions; it may be of one colour.

    Args:
        path: file name (str or bytes).
        side: the longer side of the result in pixels, at most.

    Returns:
        uint8 array [height, width, 3], RGB, upright.

    Raises:
        ImageError: the file cannot be read or is no usable photo; the message says why. PhotoMissing: it is not there.
        StorageLost: the disk or network drive fails, or no more files can be opened.
        MemoryError: there is not enough memory, even for this photo alone.
    """
    return _retry_alone(functools.partial(_read_large, side=side), path)


def _read_large(path, side):
    with _open_regular(path) as (stream, size_bytes):
        return decode_for_people(stream, size_bytes, side)


def _retry_alone(read, path):
    """Returns read(path). Where memory runs out it tries once more while no other photo is decoded."""
    try:
        return read(path)
    except MemoryError:
        pass  # only after the except block is the memory of the first attempt free
    with memory_budget.decode_budget().alone():
        return read(path)


@contextlib.contextmanager
def _open_regular(path):
    """Yields (a regular file, open for reading, its size in bytes); turns OSErrors into what read_image raises."""
    try:
        status = os.stat(path)
    except ValueError as error:  # a name with a NUL byte
        raise ImageError(str(error))
    except OSError as error:
        raise _error_for(path, error)
    try:
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("is a directory" if os.path.isdir(path) else "is not a regular file")
        if suffix_of(path) in formats.RAW_SUFFIXES:
            raise ImageError(f"is {formats.CAMERA_RAW}")
        with open(path, "rb", 0) as stream:  # unbuffered: a few bytes of the header, then all at once, in one piece
            yield stream, os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise _error_for(path, error)


def _error_for(path, error):
    """Returns the exception to raise for an OSError of a photo or of its storage."""
    if error.errno == errno.ENOMEM:
        return MemoryError(error.strerror)
    if is_storage_error(error):
        return storage_lost(os.fsdecode(path), error)
    kind = PhotoMissing if error.errno in (errno.ENOENT, errno.ENOTDIR) else ImageError
    return kind(error.strerror or str(error))  # without the path: the row already names the file
