"""Reads PNG files, and reduces them to their critical chunks.

Decoders differ on everything else in a PNG, and crash on some of it: OpenCV's versions show three different pictures
for one animated PNG, refuse one with a wrong checksum in its text, or take gigabytes for a length that a chunk claims.
So a PNG is read here chunk by chunk, and what is decoded is a new one of its header, palette, transparency and pixels:
the default image, the one that viewers without animation show.
"""

import re
import typing
import zlib

from edge_runtime.errors import ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CRITICAL = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # colour -> depths
_MAX_METADATA_BYTES = 1 << 20  # a larger chunk of text or EXIF is ignored
_MAX_CHUNKS = 1 << 20


class Facts(typing.NamedTuple):
    """The header of a PNG file, and where its chunks are."""

    width: int
    height: int
    depth: int  # bits per sample
    colour: int  # 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha
    transparent: bool  # has a tRNS chunk
    exif: bytes  # with the start that it has in a JPEG, b"" for none
    xmp: bytes
    chunks: list  # (place of the body, length) of the chunks to decode
    # Of an animation whose first frame is not the default image: (width, height, [(place, length) of its pixels])
    frame: typing.Any


def read_facts(stream):
    """Reads a PNG's chunks, without its pixels.

    Args:
        stream: seekable binary file.

    Returns:
        Facts.

    Raises:
        ImageError: it is no PNG, is cut off, or a chunk that its pixels depend on is broken.
    """
    stream.seek(0, 2)
    size = stream.tell()
    stream.seek(0)
    if stream.read(8) != SIGNATURE:
        raise _damaged("its signature is broken; was it copied as text?")
    place, header, chunks, exif, xmp = 8, b"", [], b"", b""
    transparent = pixels = False
    frame: typing.Any = None
    frames = 0
    for _ in range(_MAX_CHUNKS):
        stream.seek(place)
        head = stream.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8 or place + 12 + length > size:
            raise _damaged("cut off, or a chunk claims more than the file has: truncated or corrupt")
        if kind == b"IEND":
            break
        if kind == b"IHDR":
            header = stream.read(length)
        elif kind == b"tRNS":
            transparent = True
        elif kind == b"IDAT":
            pixels = True
        elif kind == b"fcTL":
            frames += 1
            control = stream.read(26)
            if frames == 1 and pixels and length == 26:
                frame = (int.from_bytes(control[4:8], "big"), int.from_bytes(control[8:12], "big"), [])
        elif kind == b"fdAT" and frame and frames == 1 and length >= 4:
            frame[2].append((place + 12, length - 4))
        elif kind == b"eXIf" and length < _MAX_METADATA_BYTES:
            exif = exif or b"Exif\0\0" + stream.read(length)
        elif kind in (b"tEXt", b"zTXt", b"iTXt") and length < _MAX_METADATA_BYTES:
            more_exif, more_xmp = _text_metadata(kind, stream.read(length))
            exif, xmp = exif or more_exif, xmp or more_xmp
        elif kind[0] & 0x20 == 0 and kind not in _CRITICAL:
            raise _damaged(f"has an unknown critical chunk {kind.decode('ascii', 'backslashreplace')}")
        if kind in _CRITICAL:
            chunks.append((place + 8, length))
        place += 12 + length
    else:
        raise _damaged(f"more than {_MAX_CHUNKS} chunks")
    if len(header) != 13 or not pixels:
        raise _damaged("without its header or its pixels")
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    depth, colour = header[8], header[9]
    if not width or not height or depth not in _DEPTHS.get(colour, ()) or header[10] or header[11] or header[12] > 1:
        raise _damaged("its header makes no sense")
    if frame and not (0 < frame[0] <= width and 0 < frame[1] <= height and frame[2]):
        raise _damaged("the first frame of its animation makes no sense")
    return Facts(width, height, depth, colour, transparent, exif, xmp, chunks, frame)


def plain(data, facts):
    """Returns the bytes of a PNG of the default image's header, palette, transparency and pixels.

    Args:
        data: bytes of the file.
        facts: of read_facts.

    Raises:
        ImageError: a checksum is wrong.
    """
    parts: typing.List[typing.Any] = [SIGNATURE]
    for place, length in facts.chunks:
        end = place + length
        if zlib.crc32(memoryview(data)[place - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise _damaged("a wrong checksum: corrupt")
        parts.append(memoryview(data)[place - 8 : end + 4])
    return b"".join(parts + [_chunk(b"IEND", b"")])


def first_frame(data, facts):
    """Returns the bytes of a PNG of the animation's first frame; facts.frame says whether there is one.

    It is never shown, but a file in which it is broken counts as damaged, whatever its default image looks like.
    """
    width, height, pixels = facts.frame
    parts = [SIGNATURE]
    for place, length in facts.chunks:
        kind, body = data[place - 4 : place], data[place : place + length]
        if kind == b"IHDR":
            body = width.to_bytes(4, "big") + height.to_bytes(4, "big") + body[8:]
        if kind != b"IDAT":
            parts.append(_chunk(kind, body))
    body = b"".join(data[place : place + length] for place, length in pixels)
    return b"".join(parts + [_chunk(b"IDAT", body), _chunk(b"IEND", b"")])


def _chunk(kind, body):
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def _text_metadata(kind, body):
    """Returns (EXIF, XMP) of a text chunk, b"" for each that is missing; ImageMagick writes EXIF as hex digits."""
    keyword, _, rest = body.partition(b"\0")
    if keyword == b"XML:com.adobe.xmp" and kind == b"iTXt" and rest[:1] == b"\0":
        return b"", rest
    if keyword not in (b"Raw profile type exif", b"Raw profile type APP1") or kind == b"iTXt":
        return b"", b""
    try:
        text = zlib.decompressobj().decompress(rest[1:], _MAX_METADATA_BYTES) if kind == b"zTXt" else rest
        digits = re.sub(rb"\s", b"", b"".join(text.split(b"\n")[3:]))
        return bytes.fromhex(digits.decode("ascii")), b""
    except (zlib.error, ValueError):
        return b"", b""


def _damaged(what):
    return ImageError(f"is damaged (PNG: {what})")
