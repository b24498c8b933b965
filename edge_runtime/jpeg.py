"""What a JPEG file holds besides its pixels, and whether the data of its picture is whole.

Decoders paint what is missing grey and go on. libjpeg-turbo warns, which OpenCV does not pass on and simplejpeg does.
"""

import io
import typing

import simplejpeg

from edge_runtime.errors import ImageError

Facts = typing.NamedTuple(
    "Facts",
    [
        ("width", int),
        ("height", int),
        ("components", int),  # 1 grey, 3 colour, 4 CMYK
        ("sampling", list),  # per component (horizontal, vertical) factors
        ("progressive", bool),
        ("buffered", bool),  # the decoder keeps all coefficients: progressive, or a scan per component
        ("exif", bytes),  # the first EXIF block, b"" for none
        ("xmp", bytes),
        ("scan_start", int),  # where the first start-of-scan marker is
    ],
)

_SOI, _EOI, _SOS, _DQT, _DHT, _DRI, _APP1, _APP14 = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xE1, 0xEE
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_NEEDED = _FRAMES + (_DQT, _DHT, _DRI, _APP14, 0xCC)  # segments that the picture's pixels depend on
_HEADER_BYTES = 64 << 20  # of segments before the picture; more is no photo
# libjpeg's warnings that mean lost data (jerror.h: JWRN_HIT_MARKER, JWRN_JPEG_EOF, JWRN_HUFF_BAD_CODE,
# JWRN_ARITH_BAD_CODE, JWRN_MUST_RESYNC). All others are about oddities that viewers pass over, too.
_LOSSES = ("premature end", "Premature end", "bad Huffman", "bad arithmetic", "instead of RST")
_EXTRANEOUS = "extraneous bytes before marker 0x"
_RUN = 64  # bytes of zeros in a row that no encoder writes, unless zeros are its code for a flat area


def read_facts(stream):
    """Reads a JPEG's header, as far as its picture begins.

    Garbage between segments is passed over, as libjpeg does; what belongs to a thumbnail is not looked at.

    Args:
        stream: seekable binary file.

    Returns:
        Facts.

    Raises:
        ImageError: the file ends or makes no sense before the picture begins.
    """
    stream.seek(0)
    frame: typing.Any = None
    progressive, exif, xmp = False, b"", b""
    for marker, place, body in _segments(stream):
        if marker in _FRAMES and frame is None:
            count = body[5] if len(body) > 5 else 0
            if count not in (1, 3, 4) or len(body) < 6 + 3 * count:
                raise ImageError("is damaged (JPEG: a broken frame header)")
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            sampling = [(max(1, body[7 + 3 * n] >> 4), max(1, body[7 + 3 * n] & 15)) for n in range(count)]
            frame, progressive = (width, height, count, sampling), marker in (0xC2, 0xC6, 0xCA, 0xCE)
        elif marker == _APP1 and body[:4] == b"Exif":
            exif = exif or body
        elif marker == _APP1 and body[:29] == b"http://ns.adobe.com/xap/1.0/\0":
            xmp = xmp or body[29:]
        elif marker == _SOS:
            if frame is None or not frame[0] or not frame[1]:
                break
            buffered = progressive or (body[:1] != bytes([frame[2]]))
            width, height, count, sampling = frame
            return Facts(width, height, count, sampling, progressive, buffered, exif, xmp, place)
    raise ImageError("is damaged (JPEG: its header is cut off or broken)")


def _segments(stream):
    """Yields (marker, its place in the file, body) up to the first start of scan."""
    stream.seek(2)
    total = 2
    while total < _HEADER_BYTES:
        byte = stream.read(1)
        if not byte:
            return
        total += 1
        if byte != b"\xff":
            continue
        while byte == b"\xff":
            byte = stream.read(1)
        marker = byte[0] if byte else 0
        if marker == 0 or marker == 0x01 or 0xD0 <= marker <= 0xD9 or marker < 0xC0:
            if marker == _EOI:
                return
            continue
        place = stream.tell() - 2
        length = int.from_bytes(stream.read(2), "big")
        body = stream.read(max(0, length - 2)) if length >= 2 else b""
        if len(body) != length - 2:
            return
        total += length + 1
        yield marker, place, body


def has_end(data, facts):
    """Whether the picture (not a thumbnail before it, nor a film behind it) reaches its end mark."""
    return data.find(b"\xff\xd9", facts.scan_start) >= 0  # inside a picture 0xff is always escaped


def decode(data, facts, scale):
    """Decodes a JPEG at 1/scale of its size.

    Args:
        data: bytes of the file.
        facts: of read_facts.
        scale: 1, 2, 4 or 8.

    Returns:
        uint8 array [height, width, 3], RGB, as stored (not turned); None where simplejpeg cannot decode this kind
        (CMYK among others) although no data is lost, as far as it can tell.

    Raises:
        ImageError: data is lost. MemoryError.
    """
    if not has_end(data, facts):
        raise ImageError("is damaged (JPEG without its end: truncated)")
    if facts.components == 4:
        _decode(data, facts, scale, "CMYK")
        return None
    return _decode(data, facts, scale, "RGB")


def _decode(data, facts, scale, colours):
    try:
        picture = _decode_strictly(data, facts, scale, colours)
    except ValueError as error:
        warning = str(error)
    else:
        _check_runs(data, facts)
        return picture
    if _EXTRANEOUS in warning or "Corrupt" in warning:
        # The message is the first warning only. Without the segments that the pixels do not depend on, warnings about
        # these do not stand before one about the picture.
        bare = _bare(data, facts)
        try:
            picture = _decode_strictly(bare, facts, scale, colours)
        except ValueError as error:
            warning = str(error)
        else:
            _check_runs(data, facts)
            return picture
    if any(loss in warning for loss in _LOSSES) or _is_out_of_step(warning):
        raise ImageError("is damaged (JPEG: %s)" % warning.replace("Corrupt JPEG data: ", ""))
    if "emory" in warning and "llocat" in warning or "nsufficient memory" in warning:
        raise MemoryError(warning)
    if _EXTRANEOUS in warning:
        _check_runs(data, facts, is_out_of_step=True)
    return None


def _decode_strictly(data, facts, scale, colours):
    """Raises ValueError with libjpeg's first warning or error."""
    height, width = (-(-length // scale) for length in (facts.height, facts.width))
    picture = simplejpeg.decode_jpeg(data, colorspace=colours, min_height=height, min_width=width)
    if picture.shape[:2] != (height, width):
        raise ValueError("decoded as %d x %d pixels" % picture.shape[1::-1])
    return picture


def _is_out_of_step(warning):
    """Whether data was left over before a restart marker: the part before it is not what the camera wrote."""
    _, _, marker = warning.partition(_EXTRANEOUS)
    return marker[:1] == "d" and marker[1:2] in tuple("01234567")


def _bare(data, facts):
    """Returns the file without what its pixels do not depend on."""
    parts = [b"\xff\xd8"]
    for marker, place, body in _segments(io.BytesIO(data)):
        if marker in _NEEDED:
            parts.append(data[place : place + 4 + len(body)])
    return b"".join(parts + [data[facts.scan_start :]])


def _check_runs(data, facts, is_out_of_step=False):
    """Refuses a picture with a hole of zeros, such as a sector that was never written or could not be read.

    Zeros are a valid code, so a decoder may not notice. An encoder writes many in a row only for a flat area, and only
    if its code for "no change" and "end of block" is zeros. In a progressive picture zeros say "no correction", too.

    Args:
        is_out_of_step: the decoder has found data left over.

    Raises:
        ImageError: there is such a hole.
    """
    end = data.find(b"\xff\xd9", facts.scan_start)
    while data[end - 1] == 0:  # bytes to fill up, before the end mark, are no part of the picture
        end -= 1
    if facts.progressive or data.find(bytes(_RUN), facts.scan_start, end) < 0:
        return
    if is_out_of_step or not _zeros_are_flat(data, facts):
        raise ImageError("is damaged (JPEG: a hole of zeros in its data)")


def _zeros_are_flat(data, facts):
    """Whether zeros code a flat area in every Huffman table of a baseline picture."""
    for marker, _, body in _segments(io.BytesIO(data)):
        place = 0
        while marker == _DHT and place + 17 <= len(body):
            counts = body[place + 1 : place + 17]
            symbols = body[place + 17 : place + 17 + sum(counts)]
            if symbols[:1] != b"\0":  # the first symbol has the code of zeros: DC 0 is "no change", AC 0 "end of block"
                return False
            place += 17 + sum(counts)
    return True
