"""Reads the header of a WebP file without its pixels; Pillow would allocate memory for them when it opens the file."""

import typing

from edge_runtime.errors import ImageError

_MAX_METADATA_BYTES = 1 << 20  # a larger block of EXIF or XMP is ignored
_MAX_CHUNKS = 100000


class Facts(typing.NamedTuple):
    """The header of a WebP file."""

    width: int
    height: int
    alpha: bool
    animated: bool
    exif: bytes  # with the start that it has in a JPEG, b"" for none
    xmp: bytes


def read_facts(stream):
    """Reads a WebP's chunks (developers.google.com/speed/webp/docs/riff_container).

    Args:
        stream: seekable binary file that begins as a WebP does.

    Returns:
        Facts.

    Raises:
        ImageError: the file is cut off or broken.
    """
    stream.seek(0, 2)
    size = stream.tell()
    stream.seek(4)
    end = 8 + int.from_bytes(stream.read(4), "little")
    if end > size:
        raise ImageError("is damaged (WEBP: cut off: truncated or corrupt)")
    place, exif, xmp = 12, b"", b""
    shape: typing.Any = None
    for _ in range(_MAX_CHUNKS):
        stream.seek(place)
        head = stream.read(8)
        length = int.from_bytes(head[4:], "little")
        if len(head) < 8 or place + 8 + length > size or place >= end:
            break
        if head[:4] in (b"VP8X", b"VP8 ", b"VP8L"):
            shape = shape or _shape(head[:4], stream.read(min(length, 10)))
        elif head[:4] == b"EXIF" and length < _MAX_METADATA_BYTES:
            body = stream.read(length)
            exif = exif or (body if body[:4] == b"Exif" else b"Exif\0\0" + body)
        elif head[:4] == b"XMP " and length < _MAX_METADATA_BYTES:
            xmp = xmp or stream.read(length)
        place += 8 + length + length % 2
    if shape is None or not shape[0] or not shape[1]:
        raise ImageError("is damaged (WEBP: truncated or corrupt header)")
    width, height, alpha, animated = shape
    return Facts(width, height, alpha, animated, exif, xmp)


def _shape(kind, body):
    """Returns (width, height, alpha, animated) of a chunk, None where it makes no sense."""
    if kind == b"VP8X" and len(body) == 10:
        width, height = 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
        return width, height, bool(body[0] & 0x10), bool(body[0] & 0x02)
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) == 10:
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF, False, False
    if kind == b"VP8L" and body[:1] == b"\x2f" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), bool(bits >> 28 & 1), False
    return None
