"""Checks the beginning of a GIF file, up to its first picture."""

from edge_runtime.errors import ImageError

_GARBAGE_BYTES = 1 << 16  # between blocks; some writers leave a few zeros
_MAX_BLOCKS = 10000  # before the first picture


def check_start(stream):
    """Checks that a picture begins near the start: Pillow would search the whole file for one, byte by byte.

    Args:
        stream: seekable binary file that begins as a GIF does.

    Raises:
        ImageError: no picture begins near the start.
    """
    stream.seek(10)
    flags = stream.read(1)
    place = 13 + (3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0)  # behind the table of colours
    garbage = 0
    for _ in range(_MAX_BLOCKS):
        stream.seek(place)
        mark = stream.read(1)
        if mark == b",":
            return
        if mark == b"!":  # an extension: a label, then pieces with their lengths
            stream.read(1)
            length = stream.read(1)
            while length and length[0]:
                stream.seek(length[0], 1)
                length = stream.read(1)
                garbage += 1
                if garbage > _GARBAGE_BYTES:
                    break
            place = stream.tell()
            continue
        garbage += 1
        place += 1
        if mark in (b"", b";") or garbage > _GARBAGE_BYTES:
            break
    raise ImageError("is damaged (GIF: truncated or corrupt: no picture in it)")
