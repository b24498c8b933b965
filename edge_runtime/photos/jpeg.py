"""Reads the header of a JPEG file, decodes it, and refuses it where data of its picture is missing.

Decoders paint missing data grey and continue. libjpeg-turbo warns; simplejpeg passes the warning on, OpenCV does not.
"""

import io
import re
import typing

import numpy as np
import simplejpeg

from edge_runtime.errors import ImageError

_EOI, _SOS, _DQT, _DHT, _DRI, _APP1, _APP14 = 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xE1, 0xEE
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_SUPPORTED = (0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA)  # baseline, extended, progressive, lossless; with arithmetic coding
_NEEDED = _FRAMES + (_DQT, _DHT, _DRI, _APP14, 0xCC)  # segments that the picture's pixels depend on
_HEADER_BYTES = 64 << 20  # of segments before the picture; more is no photo
_GARBAGE_BYTES = 1 << 20  # between them
_READ_BYTES = 1 << 12
# Warnings of libjpeg about sound pictures (jerror.h). Every other warning or error means that data is lost.
_HARMLESS = ("Unknown Adobe color transform", "bad ICC marker", "unknown JFIF revision", "Invalid SOS parameters")
_UNSUPPORTED = ("Unsupported color conversion",)
_UNSUPPORTED_CODE = ("Unsupported JPEG process", "not supported", "not implemented")  # of frames without Huffman codes
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0x(\w\w)")
_LEFT_OVER_BYTES = 64  # before the end mark. Phones write a few; a decoder that lost its place leaves hundreds
_RUN_BYTES = 64  # of zeros that no encoder writes in a row, unless zeros are its code for a flat area
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # inside a scan there are no others


class Facts(typing.NamedTuple):
    """The header of a JPEG file."""

    width: int
    height: int
    components: int  # 1 grey, 3 colour, 4 CMYK
    sampling: list  # per component (horizontal, vertical) factors
    progressive: bool
    huffman: bool  # its code; else arithmetic coding, or lossless
    buffered: bool  # the decoder keeps all coefficients: progressive, or a scan per component
    exif: bytes  # the first EXIF block, b"" for none
    xmp: bytes
    scan_start: int  # where the first start-of-scan marker is


class _Scan(typing.NamedTuple):
    """One scan of a picture."""

    components: list  # of each (its id, the numbers of its DC and its AC table)
    first: int  # coefficient, 0..63
    last: int
    high: int  # bits below which were missing before, 0 in a first scan
    low: int  # bits below which are still missing
    tables: dict  # (0 DC or 1 AC, number) -> the symbol whose code is zeros
    start: int  # of its data
    end: int


def read_facts(stream):
    """Reads a JPEG's header, as far as its picture begins.

    Garbage between segments is skipped, as in libjpeg; a thumbnail is ignored.

    Args:
        stream: seekable binary file.

    Returns:
        Facts.

    Raises:
        ImageError: the file ends or makes no sense before the picture begins.
    """
    stream.seek(0)
    frame: typing.Any = None
    progressive, huffman, exif, xmp = False, False, b"", b""
    for marker, place, body in _segments(stream):
        if marker in _FRAMES and frame is None:
            count = body[5] if len(body) > 5 else 0
            if count not in (1, 3, 4) or len(body) < 6 + 3 * count:
                raise _damaged("a broken frame header")
            if marker not in _SUPPORTED:
                raise ImageError(f"is damaged, or a JPEG of a kind that is not read (its frame is 0x{marker:x})")
            if body[0] != 8:
                raise ImageError(f"is a JPEG of {body[0]} bits, of which only those of 8 are read; convert it")
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            sampling = [(max(1, body[7 + 3 * n] >> 4), max(1, body[7 + 3 * n] & 15)) for n in range(count)]
            frame, progressive = (width, height, count, sampling), marker in (0xC2, 0xC6, 0xCA, 0xCE)
            huffman = marker in (0xC0, 0xC1, 0xC2)
        elif marker == _APP1 and body[:4] == b"Exif":
            exif = exif or body
        elif marker == _APP1 and body[:29] == b"http://ns.adobe.com/xap/1.0/\0":
            xmp = xmp or body[29:]
        elif marker == _SOS:
            if frame is None or not frame[0] or not frame[1]:
                break
            buffered = progressive or (body[:1] != bytes([frame[2]]))
            width, height, count, sampling = frame
            return Facts(width, height, count, sampling, progressive, huffman, buffered, exif, xmp, place)
    raise _damaged("its header is cut off or broken")


def _segments(stream):
    """Yields (marker, its place in the file, body) up to the first start of scan.

    Between segments there may be garbage, a little.
    """
    place, garbage = 2, 0
    while place < _HEADER_BYTES:
        stream.seek(place)
        head = stream.read(4)
        if len(head) < 4:
            return
        marker = head[1]
        if head[0] != 0xFF or marker < 0xC0 or marker == 0xFF or 0xD0 <= marker <= _EOI:
            if head[:2] == b"\xff\xd9":
                return
            stream.seek(place + 1)
            piece = stream.read(_READ_BYTES)
            skipped = piece.find(b"\xff")
            skipped = 1 + (len(piece) if skipped < 0 else skipped)
            place += skipped
            garbage += skipped
            if garbage > _GARBAGE_BYTES:
                return
            continue
        length = head[2] << 8 | head[3]
        body = stream.read(length - 2) if length >= 2 else b""
        if length < 2 or len(body) != length - 2:
            return
        yield marker, place, body
        if marker == _SOS:
            return
        place += 2 + length


def find_end(data, facts):
    """Returns where the picture's end mark is (not that of a thumbnail before it, nor of a film behind it), or -1."""
    return data.find(b"\xff\xd9", facts.scan_start)  # inside a picture 0xff is always escaped


def decode(data, facts, scale):
    """Decodes a JPEG at 1/scale of its size.

    Args:
        data: bytes of the file.
        facts: of read_facts.
        scale: 1, 2, 4 or 8.

    Returns:
        uint8 array [height, width, 3], RGB, as stored (not turned); None where simplejpeg does not decode this kind
        (CMYK, arithmetic coding).

    Raises:
        ImageError: data is lost. MemoryError.
    """
    end = find_end(data, facts)
    if end < 0:
        raise ImageError("is damaged (JPEG without its end: truncated)")
    _check_scans(data, facts, end)
    colours = "CMYK" if facts.components == 4 else "RGB"
    picture, problem = _decode(data, facts, scale, colours)
    unsupported = _UNSUPPORTED + (() if facts.huffman else _UNSUPPORTED_CODE)
    if problem and not _is_kind(problem, unsupported):
        # The message is the first one only. Without the segments that the pixels do not depend on, and without bytes
        # too many before the end mark, nothing harmless stands before what may be lost.
        data = _without_metadata(data, facts)
        picture, problem = _decode(data, facts, scale, colours)
    left_over = 0
    extraneous = _EXTRANEOUS.search(problem)
    while extraneous and extraneous.group(2) == "d9":
        end, count = len(data) - 2, int(extraneous.group(1))
        is_filler = len(set(data[end - count : end])) == 1
        left_over += 0 if is_filler else count
        if not 0 < count < end or left_over > _LEFT_OVER_BYTES:
            break
        data = data[: end - count] + data[end:]
        picture, problem = _decode(data, facts, scale, colours)
        extraneous = _EXTRANEOUS.search(problem)
    if not problem:
        return picture if colours == "RGB" else None
    if "emory" in problem and ("alloc" in problem or "nsufficient" in problem):
        raise MemoryError(problem)
    if _is_kind(problem, unsupported + _HARMLESS):
        return None
    raise _damaged(problem.replace("Corrupt JPEG data: ", ""))


def _is_kind(problem, kinds):
    return any(kind in problem for kind in kinds)


def _damaged(what):
    return ImageError(f"is damaged (JPEG: {what})")


def _decode(data, facts, scale, colours):
    """Returns (the picture, ""), or (None, libjpeg's first warning or error)."""
    height, width = (-(-length // scale) for length in (facts.height, facts.width))
    try:
        picture = simplejpeg.decode_jpeg(data, colorspace=colours, min_height=height, min_width=width)
    except ValueError as error:
        return None, str(error) or "cannot be decoded"
    if picture.shape[:2] != (height, width):
        return None, "its size in the header is another one"
    return picture, ""


def _without_metadata(data, facts):
    """Returns the file without what its pixels do not depend on: other segments, and what is behind the picture."""
    parts = [b"\xff\xd8"]
    for marker, place, body in _segments(io.BytesIO(data)):
        if marker in _NEEDED:
            parts.append(data[place : place + 4 + len(body)])
    end = find_end(data, facts)
    return b"".join(parts + [data[facts.scan_start : end + 2]])


def _check_scans(data, facts, end):
    """Refuses a picture with a hole of zeros, such as a sector that was never written, or without its last scans.

    A decoder does not notice: zeros are a valid code, and a progressive picture may end after any scan. An encoder
    writes many zeros in a row only where its code for a flat area is zeros, or for single bits that it writes as they
    are; and it writes all bits of all coefficients.

    Raises:
        ImageError: there is such a hole, or bits are missing.
    """
    if not facts.huffman:
        return
    while data[end - 1] == 0:  # bytes to fill up, before the end mark, are no part of the picture
        end -= 1
    if not facts.progressive and not _has_run(data, facts.scan_start, end):
        return
    missing = {}  # (component, coefficient) -> bits that are missing
    for scan in _scans(data, facts, end):
        for component, _, _ in scan.components:
            missing.update({(component, place): scan.low for place in range(scan.first, scan.last + 1)})
        if _has_run(data, scan.start, scan.end) and not _zeros_are_flat(scan, facts.progressive):
            raise _damaged("a hole of zeros in its data")
    if facts.progressive and (len(missing) != 64 * facts.components or any(missing.values())):
        raise _damaged("scans are missing: truncated")


def _has_run(data, start, end):
    """Tells whether a part of a file has _RUN_BYTES zeros in a row."""
    if end - start < _RUN_BYTES:  # also where a broken scan claims to begin behind the end
        return False
    # Such a run holds eight bytes of zeros that begin at a multiple of eight, for which numpy looks fast.
    words = np.frombuffer(data, "<u8", (end - start) // 8, start)
    return not words.all() and data.find(bytes(_RUN_BYTES), start, end) >= 0


def _zeros_are_flat(scan, progressive):
    """Tells whether zeros code a flat area in a scan: DC 0 is "no change", AC 0 "end of block" (or of several)."""
    if progressive and scan.first == 0:
        return scan.high > 0 or all(scan.tables.get((0, dc)) == 0 for _, dc, _ in scan.components)
    if progressive:
        symbols = [scan.tables.get((1, ac), 1) for _, _, ac in scan.components]
        return all(symbol & 15 == 0 and symbol != 0xF0 for symbol in symbols)
    return all(scan.tables.get((0, dc)) == 0 and scan.tables.get((1, ac)) == 0 for _, dc, ac in scan.components)


def _scans(data, facts, end):
    """Yields a _Scan for each scan of a picture whose data ends at end."""
    tables: typing.Dict[tuple, int] = {}
    for marker, _, body in _segments(io.BytesIO(data)):
        if marker == _DHT:
            tables.update(_zero_symbols(body))
    place = facts.scan_start
    while place < end:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        body = data[place + 4 : place + 2 + length]
        following = _MARKER.search(data, place + 2 + length, end)
        after = following.start() if following else end
        if marker == _DHT:
            tables.update(_zero_symbols(body))
        if marker == _SOS and body and len(body) >= 4 + 2 * body[0]:
            numbers = [(body[1 + 2 * n], body[2 + 2 * n] >> 4, body[2 + 2 * n] & 15) for n in range(body[0])]
            first, last, bits = body[1 + 2 * body[0] : 4 + 2 * body[0]]
            start = place + 2 + length
            yield _Scan(numbers, first, min(last, 63), bits >> 4, bits & 15, dict(tables), start, after)
        place = after


def _zero_symbols(body):
    """Returns {(0 DC or 1 AC, number): the symbol whose code is zeros} of a segment of Huffman tables."""
    symbols, place = {}, 0
    while place + 17 < len(body):
        count = sum(body[place + 1 : place + 17])
        if count:
            symbols[(body[place] >> 4, body[place] & 15)] = body[place + 17]
        place += 17 + count
    return symbols
