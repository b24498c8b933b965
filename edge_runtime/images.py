"""From the bytes of a photo to the uint8 picture that the network takes. The only such code in the product:
training's tf.data pipeline calls the same functions, so that a photo cannot look different on the device.

Steps: read the header (Pillow) -> refuse what is too large -> decode (OpenCV; a JPEG at the smallest DCT scale that
still covers the input size) -> RGB, transparency over white -> resize -> EXIF orientation (on the small picture:
turning and mirroring commute with squashing to a square, and cost next to nothing there).
"""

import io
import os
import stat
import typing

import cv2
import numpy as np
from PIL import Image

from edge_runtime.errors import ImageError, PhotoMissing

SIDE = 299
# Written into every bundle; a reader refuses a bundle whose spec differs from its own.
INPUT_SPEC: typing.Dict[str, typing.Any] = {
    "shape": [SIDE, SIDE, 3],
    "dtype": "uint8",
    "channels": "RGB",
    "layout": "NHWC",
    # The whole photo is squashed to the square: no product at the edge is cut off. INTER_AREA averages all source
    # pixels, so that a 12-megapixel photo shrinks without aliasing; INTER_LINEAR serves the rare enlargement.
    "resize": "squash; INTER_AREA to shrink, INTER_LINEAR to enlarge; "
    "JPEG decoded at 1/8, 1/4 or 1/2 where that covers",
    "scaling": "x / 127.5 - 1, inside the graph",
}

# Formats are told by their bytes, whatever the suffix claims. A closed list: rarer decoders stay out of reach.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp")
MAX_PIXELS = 178956970  # Pillow's own limit for a decompression bomb: 512 MiB of RGB

_JPEG = ("JPEG", "MPO")  # MPO: a JPEG with more pictures behind the first, as some phones and cameras write
_EXIF_ORIENTATION = 0x0112
_REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))


def read_image(path):
    """Reads a photo for the network.

    Args:
        path: file name (str or bytes).

    Returns:
        uint8 array [299, 299, 3], RGB, upright.

    Raises:
        ImageError: the file cannot be read or is no usable photo; the message says why.
    """
    return decode_image(read_bytes(path))


def read_bytes(path):
    """Returns the bytes of a regular file. Raises ImageError with the reason (never blocks on a pipe or device)."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageError("is a directory" if os.path.isdir(path) else "is not a regular file")
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PhotoMissing(_reason(error))
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL byte
        raise ImageError(_reason(error))


def decode_image(data, scaled=True):
    """Decodes an encoded photo (JPEG, PNG, BMP, WebP, or a GIF's first frame) for the network.

    Args:
        data: the bytes of the file.
        scaled: let the JPEG decoder shrink while it decodes; False decodes every pixel (for comparison).

    Returns:
        uint8 array [299, 299, 3], RGB, upright.

    Raises:
        ImageError: not a photo, truncated, corrupt, or more than MAX_PIXELS.
    """
    header = read_header(data)
    return turn_upright(fit_image(_decode(data, header, scaled, SIDE)), orientation(header))


def decode_large(data, side):
    """Decodes an encoded photo for people to look at, in its own proportions.

    Args:
        data, and what is raised: as decode_image.
        side: the longer side of the result in pixels, at most.

    Returns:
        uint8 array [height, width, 3], RGB, upright.
    """
    header = read_header(data)
    rgb = _decode(data, header, True, side)
    scale = float(side) / max(rgb.shape[:2])
    if scale < 1:
        size = tuple(max(1, int(round(length * scale))) for length in rgb.shape[1::-1])
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return turn_upright(rgb, orientation(header))


def fit_image(rgb):
    """Squashes a picture to the network's input size.

    Args:
        rgb: uint8 array [height, width, 3] of any size >= 1.

    Returns:
        uint8 array [299, 299, 3]; the array itself where it has that size already.

    Raises:
        ImageError: another dtype, number of dimensions or channels.
    """
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        found = "%s %s" % (getattr(rgb, "dtype", type(rgb).__name__), getattr(rgb, "shape", ""))
        raise ImageError("a frame must be a uint8 array [height, width, 3], RGB; got %s" % found)
    height, width = rgb.shape[:2]
    if height > SIDE or width > SIDE:
        rgb = cv2.resize(rgb, (min(width, SIDE), min(height, SIDE)), interpolation=cv2.INTER_AREA)
    if rgb.shape[:2] != (SIDE, SIDE):
        rgb = cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return rgb


def read_header(data):
    """Returns a photo as Pillow opens it, its pixels not yet decoded. Raises ImageError as decode_image does."""
    if not data:
        raise ImageError("is empty (0 bytes)")
    try:
        header = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ImageError("is larger than %d megapixels: refused before decoding" % (MAX_PIXELS // 1000000))
    except Exception:  # whatever a broken header makes the parser raise
        if data[8:12] == b"WEBP":  # Pillow reads the whole of a WebP at once
            raise ImageError("is truncated or corrupt (WEBP)")
        raise ImageError("is not a JPEG, PNG, BMP, GIF or WebP picture")
    if header.size[0] * header.size[1] > MAX_PIXELS:  # an application may have switched Pillow's own check off
        raise ImageError("is %d x %d pixels: refused before decoding" % header.size)
    if header.format in _JPEG and not _has_jpeg_end(data):
        raise ImageError("is truncated (JPEG without its end)")
    return header


def _has_jpeg_end(data):
    """Whether the first picture of a JPEG file reaches its end mark.

    Segments before the picture are stepped over: an EXIF thumbnail has marks of its own. What follows the picture (the
    film of a phone's motion photo, a depth map) is not looked at. Inside the picture 0xff is always escaped.
    """
    place = data.find(b"\xff", 2)
    while 0 <= place < len(data) - 3:
        marker = data[place + 1]
        if marker == 0xDA:  # start of scan
            return data.find(b"\xff\xd9", place) >= 0
        if marker == 0xFF:  # padding
            place += 1
        elif 0xC0 <= marker <= 0xFE and not 0xD0 <= marker <= 0xD9:  # a segment, its length behind the marker
            place = data.find(b"\xff", place + 2 + int.from_bytes(data[place + 2 : place + 4], "big"))
        else:
            place = data.find(b"\xff", place + 2)
    return False


def _is_animated_webp(header):
    """OpenCV 4.5 cannot decode these."""
    return header.format == "WEBP" and getattr(header, "is_animated", False)


def _is_transparent(header):
    # Pillow clips 16-bit grey (mode I) to white; OpenCV scales it, and leaves out its one transparent grey.
    return header.mode in ("RGBA", "LA", "PA") or ("transparency" in header.info and header.mode[0] != "I")


def _decode(data, header, scaled, side):
    if header.format == "GIF" or _is_animated_webp(header) or _is_transparent(header):
        return _over_white(header)
    flag = cv2.IMREAD_COLOR
    if scaled and header.format in _JPEG:
        flag = next((flag for scale, flag in _REDUCED if min(header.size) >= side * scale), flag)
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ImageError("cannot be decoded (%s)" % getattr(error, "err", error))
    if bgr is None:
        raise ImageError("is truncated or corrupt (%s)" % header.format)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _over_white(header):
    """Pillow decodes what OpenCV versions treat differently: GIF and transparency (product photos stand on white)."""
    try:
        picture = header.convert("RGBA")
        white = Image.new("RGB", picture.size, "white")
        white.paste(picture, mask=picture.getchannel("A"))
        return np.asarray(white)
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, ... on broken data
        raise ImageError("is truncated or corrupt (%s: %s)" % (header.format, error))


def orientation(header):
    """Returns the EXIF orientation, 1..8, of what read_header returned; 1 where there is none."""
    try:
        return header.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a broken EXIF block does not make the photo unusable
        return 1


def turn_upright(image, orientation):
    """Undoes an EXIF orientation (1..8; anything else counts as 1) on a picture [height, width, 3]."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _reason(error):
    """What went wrong, without the path: the row already names the file."""
    return getattr(error, "strerror", None) or str(error)
