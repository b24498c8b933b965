"""File names on standard input as a source."""

import codecs
import os
import select
import sys
import typing

from edge_runtime.errors import UsageError, is_storage_error, storage_lost
from edge_runtime.photos import formats
from edge_runtime.sources.storage import Folders
from edge_runtime.sources.table import item_of, resolve_name

_LOOK_S = 0.1  # how often waiting for standard input looks at the stop event
READ_BYTES = 1 << 16  # at a time
_MAX_NAME_BYTES = 1 << 20  # of one name on standard input; a path that can be opened has 4096 at most


def standard_input_items(separator, stop):
    """Yields an Item for each file name on standard input. Reads no further than Items are consumed.

    Args:
        separator: b"\\n" or b"\\0", which ends each name.
        stop: threading.Event that ends waiting for names, or None.

    Raises:
        UsageError: standard input holds something other than names, or cannot be read. StorageLost: its disk fails.
    """
    folders, rest = Folders(), None
    for data in _pieces_of_input(separator, stop):
        if rest is None:
            rest = b""
            photo = formats.format_of(data) if separator == b"\n" and b"\0" in data else ""
            if photo:
                raise UsageError(
                    f"standard input: holds a {photo} photo; expected names of files, one per line: "
                    "ls *.jpg | picnic-edge classify BUNDLE -"
                )
        if separator == b"\n" and b"\0" in data:
            raise UsageError("standard input: has NUL bytes; if they separate the names, give --null (-0)")
        lines = data.split(separator)
        lines[0] = rest + lines[0]
        rest = lines.pop() if data else b""
        if len(rest) > _MAX_NAME_BYTES:
            raise UsageError(
                f"standard input: a name of more than {_MAX_NAME_BYTES} bytes; names end with a newline (with --null: "
                "with NUL)"
            )
        for line in lines:
            name = os.fsdecode(line.rstrip(b"\r") if separator == b"\n" else line)
            if name:
                path = resolve_name(name)
                yield item_of(name, path, "", folders.root_of(path))


def _pieces_of_input(separator, stop):
    """Yields the bytes of standard input, b"" at its end. Lists that Windows writes (UTF-16) are converted to UTF-8."""
    file = sys.stdin.fileno()  # without the buffer of sys.stdin, so that waiting can be ended
    # All before the end of the first name; only then is it certain whether this is UTF-16.
    start: typing.Optional[bytes] = b"" if separator == b"\n" else None
    decoder = None
    while stop is None or not stop.is_set():
        if not select.select([file], [], [], _LOOK_S)[0]:
            continue
        try:
            data = os.read(file, READ_BYTES)
        except OSError as error:
            if is_storage_error(error):
                raise storage_lost("standard input", error)
            raise UsageError(f"standard input: cannot be read ({error.strerror})")
        is_end = not data
        if start is not None:
            start += data
            if b"\n" not in start and not is_end and len(start) <= _MAX_NAME_BYTES:
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
