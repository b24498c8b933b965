"""File names on standard input as a source."""

import codecs
import os
import select
import sys
import typing

from edge_runtime.errors import UsageError, is_storage_error, storage_lost
from edge_runtime.photos import formats
from edge_runtime.sources.storage import Folders
from edge_runtime.sources.table import listed_item, slashed

_STOP_EVERY_S = 0.1  # how often waiting for standard input looks whether to stop

_READ_BYTES = 1 << 16

_NAME_BYTES = 1 << 20  # of one name on standard input; a path that can be opened has 4096 at most


def standard_input_items(separator, stop):
    """Reads without the buffer of sys.stdin, so that waiting can be ended, and only as far as Items are wanted."""
    folders, rest = Folders(), None
    for data in _pieces_of_input(separator, stop):
        if rest is None:
            rest = b""
            found = formats.format_of(data) if separator == b"\n" and b"\0" in data else ""
            if found:
                raise UsageError(
                    f"standard input: holds a {found} photo; expected names of files, one per line: "
                    "ls *.jpg | picnic-edge classify BUNDLE -"
                )
        if separator == b"\n" and b"\0" in data:
            raise UsageError("standard input: has NUL bytes; names that are separated by them need --null (-0)")
        lines = data.split(separator)
        lines[0] = rest + lines[0]
        rest = lines.pop() if data else b""
        if len(rest) > _NAME_BYTES:
            raise UsageError(
                "standard input: a name of more than %d bytes; names end with a newline (with --null: with NUL)"
                % _NAME_BYTES
            )
        for line in lines:
            name = os.fsdecode(line.rstrip(b"\r") if separator == b"\n" else line)
            if name:
                path = slashed(name)
                yield listed_item(name, path, "", folders.root_of(path))


def _pieces_of_input(separator, stop):
    """Yields what comes from standard input, b"" at its end; lists that Windows writes are made UTF-8."""
    file = sys.stdin.fileno()
    # What there is before the first whole name: there is no telling before whether this is UTF-16.
    start: typing.Optional[bytes] = b"" if separator == b"\n" else None
    decoder = None
    while stop is None or not stop.is_set():
        if not select.select([file], [], [], _STOP_EVERY_S)[0]:
            continue
        try:
            data = os.read(file, _READ_BYTES)
        except OSError as error:
            if is_storage_error(error):
                raise storage_lost("standard input", error)
            raise UsageError(f"standard input: cannot be read ({error.strerror})")
        is_end = not data
        if start is not None:
            start += data
            if b"\n" not in start and not is_end and len(start) <= _NAME_BYTES:
                continue
            data, start = start, None
            if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and b"\0" in data:
                decoder = codecs.getincrementaldecoder("utf-16")("replace")
            elif data[:3] == codecs.BOM_UTF8:
                data = data[3:]
        if decoder is not None:
            data = decoder.decode(data, is_end).encode("utf-8")
        if data:
            yield data
        if is_end:
            yield b""
            return
