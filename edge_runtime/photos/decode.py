"""Decodes a photo's file to the uint8 picture that the network takes.

Training's tf.data pipeline calls the same functions, so that a photo looks the same on the device. The one exception is
jpeg_hardware.py, which is off by default: it decodes large JPEGs with a Jetson's hardware.

Steps: recognize the format by the first bytes -> read the header -> reserve the memory that decoding takes -> decode (a
JPEG at the smallest DCT scale that still covers the input size), transparency over white -> resize -> RGB, EXIF
orientation (on the small picture: swapping channels, turning and mirroring commute with resizing, and cost next to
nothing there).

Which decoder gets which format (benchmarks/experiments/fuzz_photos.py tries them): JPEGs go to simplejpeg, since it
reports lost data; still WebPs, BMPs and JPEGs in CMYK to OpenCV; the rest to Pillow: PNGs (only their critical chunks,
see edge_runtime/photos/png.py; OpenCV would write to standard error about what it cannot decode), transparency, GIF,
TIFF, animated WebP, and HEIC and AVIF where it can.
"""

import functools
import io
import typing

import cv2
import numpy as np
from PIL import Image

from edge_runtime.errors import ImageError, is_out_of_memory
from edge_runtime.photos import jpeg, memory_budget, png
from edge_runtime.photos.header import TIFF_PHOTOMETRIC, header_of, pillow_orientation
from edge_runtime.photos.orientation import turn_upright, upright_size
from edge_runtime.photos.picture import check_picture
from edge_runtime.photos.resize import fit_image, shrink_picture

_REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
STRIP_BYTES = 16 << 20  # of RGBA that is laid over white at a time
# Of the decoders that make the whole picture, measured with benchmarks/experiments/fuzz_photos.py --memory
_BYTES_PER_PIXEL = {"GIF": 8, "BMP": 8, "TIFF": 20, "HEIF": 16, "AVIF": 18}
_FIXED_BYTES = 1 << 20  # for the small picture, and for what libraries keep


class _Decoded(typing.NamedTuple):
    """A decoded picture that is not turned upright yet."""

    pixels: np.ndarray  # uint8 [height, width, 3]
    bgr: bool  # the order of the channels; else RGB
    orientation: int  # EXIF's, not applied yet


def decode_image(data, input_spec, scaled=True):
    """Decodes an encoded photo (in a format of formats.SUFFIXES; of several pictures in a file the first or main one).

    Args:
        data: the bytes of the file.
        input_spec: edge_runtime.photos.spec.InputSpec of the network.
        scaled: let the JPEG decoder shrink while it decodes; False decodes every pixel (for comparison).

    Returns:
        uint8 array of input_spec.shape, RGB, upright.

    Raises:
        ImageError: not a photo, damaged, one colour, wholly transparent, or too large. MemoryError.
    """
    return decode_for_network(io.BytesIO(data), len(data), input_spec, scaled)[0]


def decode_large(data, side):
    """Decodes an encoded photo for people to look at, in its own proportions; it may be of one colour.

    Args:
        data: the bytes of the file.
        side: the longer side of the result in pixels, at most.

    Returns:
        uint8 array [height, width, 3], RGB, upright.

    Raises:
        ImageError: not a photo, damaged, wholly transparent, or too large. MemoryError.
    """
    return decode_for_people(io.BytesIO(data), len(data), side)


def decode_for_network(stream, size_bytes, input_spec, scaled, digest=None):
    """Returns (picture for the network, Header); adds the file's bytes to a hashlib object."""
    header = header_of(stream, size_bytes)
    upright = upright_size(header.width, header.height, header.orientation)[::-1]
    scaled_size = input_spec.scaled_size(*upright)
    # A JPEG may be decoded so much smaller that both sides still are as long as in the scaled photo.
    reduction = min(length / shorter for length, shorter in zip(upright, scaled_size))
    scale = _scale(header, reduction) if scaled and not input_spec.exact else 1
    shorter, longer = sorted(scaled_size)
    fit_bytes = 6 * shorter * min(longer, 4 * shorter)  # scaled and cut; what is longer is cut before it is scaled
    if input_spec.exact:  # Pillow's copy, and what is only scaled across yet
        fit_bytes += 4 * header.width * header.height + 4 * max(scaled_size) * max(header.width, header.height)
    fit = functools.partial(_fit, input_spec)
    picture = _decode_in_budget(stream, size_bytes, header, scale, fit, fit_bytes, digest)
    check_picture(picture)
    return picture, header


def _fit(input_spec, decoded):
    sideways = upright_size(1, 2, decoded.orientation) != (1, 2)
    return fit_image(decoded.pixels, input_spec.as_stored(decoded.bgr, sideways))


def decode_for_people(stream, size_bytes, side):
    """Returns a photo's picture, RGB, upright, its longer side at most side pixels."""
    header = header_of(stream, size_bytes)
    scale = _scale(header, min(header.width, header.height) / side)

    def shrink(decoded):
        return shrink_picture(decoded.pixels, height=side, width=side)

    return _decode_in_budget(stream, size_bytes, header, scale, shrink)


def _upright_rgb(picture, decoded):
    rgb = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) if decoded.bgr else picture
    return turn_upright(rgb, decoded.orientation)


def _decode_in_budget(stream, size_bytes, header, scale, resize, resize_bytes=0, digest=None):
    """Returns a photo's picture, RGB, upright, decoded within the budget of memory.

    Args:
        scale: of a JPEG: it is decoded at 1/scale of its size.
        resize: _Decoded -> its pixels in another size.
        resize_bytes: what that takes.
    """
    what = f"{header.format} of {header.width} x {header.height} pixels"
    need_bytes = size_bytes + _need_bytes(header, size_bytes, scale) + resize_bytes + _FIXED_BYTES
    with memory_budget.decode_budget().reserve(need_bytes, what):
        return _read_and_decode(stream, header, scale, need_bytes, resize, digest)  # nothing large outlives the call


def _read_and_decode(stream, header, scale, need_bytes, resize, digest):
    stream.seek(0)
    data = stream.read()
    if digest:
        digest.update(data)
    try:
        decoded = _decode_or_no_memory(data, header, scale, need_bytes)
        return _upright_rgb(resize(decoded), decoded)
    except cv2.error as error:
        if is_out_of_memory(error):
            raise MemoryError(str(error))
        raise ImageError(f"is damaged ({header.format}: {getattr(error, 'err', error)})")


def _scale(header, reduction):
    """Returns at what part of its size (1/8, 1/4, 1/2 or all of it) a photo that is reduced this much is decoded."""
    if header.format != "JPEG":
        return 1
    return next((scale for scale in (8, 4, 2) if reduction >= scale), 1)


def _need_bytes(header, size_bytes, scale):
    """Returns how many bytes decoding takes at most, beside the file's own."""
    pixels, facts = header.width * header.height, header.facts
    if header.format == "JPEG":
        out = 3 * -(-header.width // scale) * -(-header.height // scale) * (4 if facts.components == 4 else 1)
        largest = [max(factors) for factors in zip(*facts.sampling)]
        shares = [float(across * down) / (largest[0] * largest[1]) for across, down in facts.sampling]
        return out + (int(2 * pixels * sum(shares)) if facts.buffered else 0)
    if header.format == "PNG":
        # As Pillow decodes it and as RGB, and where it lies over white a strip of it several times. The chunks are
        # copied once.
        return size_bytes + 7 * pixels + 5 * min(4 * pixels, STRIP_BYTES)
    if header.format == "WEBP":
        return (24 if facts.alpha or facts.animated else 10) * pixels
    return 2 * size_bytes + _BYTES_PER_PIXEL[header.format] * pixels


def _decode_or_no_memory(data, header, scale, need_bytes):
    """Returns the _Decoded of a photo. Raises MemoryError where a decoder failed and need_bytes cannot be had."""
    try:
        return _decode_by_format(data, header, scale)
    except ImageError:
        # Some decoders fail alike on damage and for lack of memory. This raises MemoryError where there is too little.
        np.empty(need_bytes, np.uint8)
        raise


def _decode_by_format(data, header, scale):
    facts, orientation = header.facts, header.orientation
    if header.format == "JPEG":
        rgb = jpeg.decode(data, facts, scale)
        return _Decoded(rgb, False, orientation) if rgb is not None else _opencv(data, header, scale)
    if header.format == "PNG":
        if facts.frame:
            _pillow(png.first_frame(data, facts), "PNG")
        data = png.plain(data, facts)
    if header.format == "WEBP" and not (facts.alpha or facts.animated) or header.format == "BMP" and facts != "RGBA":
        return _opencv(data, header)
    picture = _pillow(data, header.format)
    if header.format in ("TIFF", "AVIF"):  # some versions of Pillow turn a TIFF upright while they load it
        orientation = pillow_orientation(picture)
    # Pillow 8 has grey PNGs of 16 bits as "I".
    if picture.mode.startswith("I;16") or (header.format == "PNG" and picture.mode == "I"):
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        if header.format == "TIFF" and picture.tag_v2.get(TIFF_PHOTOMETRIC) == 0:  # white is zero
            grey = 255 - grey
        return _Decoded(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), False, orientation)
    if picture.mode in ("I", "F"):
        raise ImageError(f"is a {header.format} whose numbers have no known range; save it with 8 bits")
    return _Decoded(_over_white(picture, alpha_may_be_unset=header.format == "BMP"), False, orientation)


def _opencv(data, header, scale=1):
    flag = _REDUCED.get(scale, cv2.IMREAD_COLOR)
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None or bgr.shape != (-(-header.height // scale), -(-header.width // scale), 3):
        raise ImageError(f"is damaged ({header.format}: truncated or corrupt, or of a kind that is not read)")
    return _Decoded(bgr, True, header.orientation)


def _pillow(data, kind):
    """Returns a loaded Pillow picture."""
    try:
        picture = Image.open(io.BytesIO(data), formats=(kind,))
        picture.load()
        return picture
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, ... on broken data
        what = " ".join(str(error).split())
        raise ImageError(f"is damaged ({kind}: truncated or corrupt, or of a kind that is not read: {what})")


def _over_white(picture, alpha_may_be_unset=False):
    """Lays a Pillow picture over white, as product photos stand. Returns uint8 [height, width, 3], RGB.

    A strip at a time, so that no second picture of its size is made.

    Args:
        alpha_may_be_unset: a picture that is wholly transparent counts as opaque.

    Raises:
        ImageError: the picture is wholly transparent.
    """
    if picture.mode in ("RGB", "L", "1", "CMYK", "YCbCr") and "transparency" not in picture.info:
        return _in_strips(picture, lambda strip: strip if strip.mode == "RGB" else strip.convert("RGB"))
    visible = False

    def over_white(strip):
        nonlocal visible
        strip = strip.convert("RGBA")
        alpha = strip.getchannel("A")
        visible = visible or alpha.getextrema()[1] > 0
        white = Image.new("RGB", strip.size, "white")
        white.paste(strip, mask=alpha)
        return white

    rgb = _in_strips(picture, over_white)
    if not visible and alpha_may_be_unset:
        return _in_strips(picture, lambda strip: strip.convert("RGB"))
    if not visible:
        raise ImageError("is wholly transparent")
    return rgb


def _in_strips(picture, to_rgb):
    """Returns uint8 [height, width, 3] of a Pillow picture; to_rgb turns a strip of it into an RGB one."""
    width, height = picture.size
    rows = max(1, STRIP_BYTES // (4 * width))
    if rows >= height:
        return np.asarray(to_rgb(picture))
    rgb = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        strip = picture.crop((0, top, width, min(height, top + rows)))
        rgb[top : top + rows] = np.asarray(to_rgb(strip))
    return rgb
