"""From a photo's file to the uint8 picture that the network takes. The only such code in the product: training's
tf.data pipeline calls the same functions, so that a photo cannot look different on the device.

Steps: tell the format by the first bytes -> read the header -> reserve the memory that decoding takes -> decode (a JPEG
at the smallest DCT scale that still covers the input size), transparency over white -> resize -> RGB, EXIF orientation
(on the small picture: swapping channels, turning and mirroring commute with squashing to a square, and cost next to
nothing there).

Which decoder is given what (benchmarks/experiments/fuzz_photos.py tries them): JPEGs go to simplejpeg, since it says
where data is lost; still WebPs, BMPs and JPEGs in CMYK to OpenCV; the rest to Pillow: PNGs (only their critical chunks,
see edge_runtime/photos/png.py; OpenCV would write to standard error of what it cannot decode), transparency, GIF, TIFF,
animated WebP, and HEIC and AVIF where it can.
"""

import contextlib
import errno
import functools
import hashlib
import importlib
import io
import os
import re
import stat
import typing

import cv2
import numpy as np
from PIL import Image

from edge_runtime.errors import STORAGE_ERRORS, ImageError, PhotoMissing, StorageLost
from edge_runtime.photos import formats, gif, jpeg, memory, png, webp

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

MAX_PIXELS = 178956970  # Pillow's own limit for a decompression bomb: 512 MiB of RGB

Header = typing.NamedTuple(
    "Header",
    [
        ("format", str),  # one of edge_runtime.photos.formats.PHOTO_FORMATS
        ("width", int),  # as stored
        ("height", int),
        ("orientation", int),  # EXIF's, 1 (upright) to 8: how it is to be turned
        ("facts", typing.Any),  # what the format's own reader returned
    ],
)

Photo = typing.NamedTuple(
    "Photo",
    [
        ("picture", np.ndarray),  # uint8 [299, 299, 3], RGB, upright
        ("header", Header),
        ("size_bytes", int),  # of the file
        ("sha256", str),  # of the file's bytes
    ],
)

_Decoded = typing.NamedTuple(
    "_Decoded",
    [
        ("pixels", np.ndarray),  # uint8 [height, width, 3]
        ("bgr", bool),  # the order of the channels; else RGB
        ("orientation", int),  # EXIF's, that is left to undo
    ],
)

_EXIF_ORIENTATION = 0x0112
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_PLANES = 258, 262, 284
_REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
_STRIP_BYTES = 16 << 20  # of RGBA that is laid over white at a time
_NO_MEMORY = -4  # cv::Error::StsNoMem
# Bytes a pixel of the decoders that make the whole picture, measured with benchmarks/experiments/fuzz_photos.py
# --memory
_NEED = {"GIF": 8, "BMP": 8, "TIFF": 20, "HEIF": 16, "AVIF": 18}
_NEED_ALWAYS_BYTES = 1 << 20  # for the small picture, and what libraries keep for themselves


def read_image(path):
    """Reads a photo for the network.

    Args:
        path: file name (str or bytes).

    Returns:
        uint8 array [299, 299, 3], RGB, upright.

    Raises:
        ImageError: the file cannot be read or is no usable photo; the message says why. PhotoMissing: it is not there.
        StorageLost: the disk or network drive fails, or no more files can be opened.
        MemoryError: there is not enough memory, also with no other photo beside it.
    """
    return _patiently(_read_image, path)


def _read_image(path):
    with _opened(path) as (stream, size_bytes):
        return _for_network(stream, size_bytes, True)[0]


def read_photo(path):
    """Reads a photo for the network, with what is known of its file: a Photo. Raises as read_image."""
    return _patiently(_read_photo, path)


def _read_photo(path):
    digest = hashlib.sha256()
    with _opened(path) as (stream, size_bytes):
        picture, header = _for_network(stream, size_bytes, True, digest)
    return Photo(picture, header, size_bytes, digest.hexdigest())


def read_bytes(path):
    """Returns the bytes of a regular file (never blocks on a pipe or device). Raises as read_image."""
    with _opened(path) as (stream, size_bytes):
        with memory.decode_budget().reserve(size_bytes, "a file"):
            return stream.read()


def decode_image(data, scaled=True):
    """Decodes an encoded photo (of formats.PHOTO_FORMATS; of several pictures in a file the first or main one).

    Args:
        data: the bytes of the file.
        scaled: let the JPEG decoder shrink while it decodes; False decodes every pixel (for comparison).

    Returns:
        uint8 array [299, 299, 3], RGB, upright.

    Raises:
        ImageError: not a photo, damaged, one colour, wholly transparent, or too large. MemoryError.
    """
    return _for_network(io.BytesIO(data), len(data), scaled)[0]


def read_large(path, side):
    """Reads a photo for people to look at, in its own proportions.

    Args:
        path, and what is raised: as read_image, but that a picture of one colour is fine.
        side: the longer side of the result in pixels, at most.

    Returns:
        uint8 array [height, width, 3], RGB, upright.
    """
    return _patiently(functools.partial(_read_large, side=side), path)


def _read_large(path, side):
    with _opened(path) as (stream, size_bytes):
        return _for_people(stream, size_bytes, side)


def decode_large(data, side):
    """Decodes an encoded photo for people to look at; as read_large, from the bytes of the file."""
    return _for_people(io.BytesIO(data), len(data), side)


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


def check_picture(rgb):
    """Raises ImageError where a picture is one colour all over: a lens cap, a broken sensor, an empty export."""
    if is_one_colour(rgb):
        raise ImageError("is one colour")


def is_one_colour(picture):
    """Whether a picture shows nothing: one colour all over, or black without a trace of variance.

    Args:
        picture: uint8 [height, width, 3].
    """
    # Every eighth pixel settles it for nearly all pictures.
    return _is_flat(picture[::8, ::8]) and _is_flat(picture)


def _is_flat(picture):
    pixels = np.ascontiguousarray(picture).reshape(-1, 3)
    spread = pixels.max(axis=0).astype(int) - pixels.min(axis=0)
    return bool(spread.max() <= 2 or (picture.max() < 24 and picture.std() < 1.5))


def read_header(data):
    """Returns the Header of an encoded photo, its pixels not decoded. Raises ImageError as decode_image does."""
    return _read_header(io.BytesIO(data), len(data))


def turn_upright(image, orientation):
    """Undoes an EXIF orientation (1..8; anything else counts as 1) on a picture [height, width, 3]."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


# --- files


def _patiently(read, path):
    """Returns read(path). Where memory runs out it tries once more, with no other photo beside it."""
    try:
        return read(path)
    except MemoryError:
        pass  # only here is what the first attempt had taken free again
    with memory.decode_budget().alone():
        return read(path)


@contextlib.contextmanager
def _opened(path):
    """Yields (a regular file opened for reading, its size in bytes); turns OSErrors into what read_image raises."""
    try:
        status = os.stat(path)
    except ValueError as error:  # a name with a NUL byte
        raise ImageError(str(error))
    except OSError as error:
        raise _reading_failed(path, error)
    try:
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("is a directory" if os.path.isdir(path) else "is not a regular file")
        if os.path.splitext(os.fsdecode(path))[1].lower() in formats.RAW_SUFFIXES:
            raise ImageError("is a camera raw file, of which only a small preview could be read; convert it to JPEG")
        with open(path, "rb", 0) as stream:  # unbuffered: a few bytes of the header, then all at once, in one piece
            yield stream, os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise _reading_failed(path, error)


def _reading_failed(path, error):
    """Returns the exception to raise for an OSError: whether the photo is at fault, or what it is read from."""
    if error.errno == errno.ENOMEM:
        return MemoryError(error.strerror)
    if error.errno in STORAGE_ERRORS:
        hint = "is the disk, card or network drive still there?"
        if error.errno in (errno.EMFILE, errno.ENFILE):
            hint = "raise the limit of open files with: ulimit -n 4096"
        return StorageLost("%s: cannot be read any more (%s); %s" % (os.fsdecode(path), error.strerror, hint))
    kind = PhotoMissing if error.errno in (errno.ENOENT, errno.ENOTDIR) else ImageError
    return kind(error.strerror or str(error))  # without the path: the row already names the file


# --- decoding


def _for_network(stream, size_bytes, scaled, digest=None):
    """Returns (picture for the network, Header); adds the file's bytes to a hashlib object."""
    header = _read_header(stream, size_bytes)
    picture = _decoded(stream, size_bytes, header, SIDE if scaled else None, fit_image, digest)
    check_picture(picture)
    return picture, header


def _for_people(stream, size_bytes, side):
    def shrink(picture):
        scale = float(side) / max(picture.shape[:2])
        if scale >= 1:
            return picture
        size = tuple(max(1, int(round(length * scale))) for length in picture.shape[1::-1])
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)

    return _decoded(stream, size_bytes, _read_header(stream, size_bytes), side, shrink)


def _upright_rgb(picture, decoded):
    rgb = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) if decoded.bgr else picture
    return turn_upright(rgb, decoded.orientation)


def _decoded(stream, size_bytes, header, side, resize, digest=None):
    """Returns a photo's picture, RGB, upright, decoded within the budget of memory.

    Args:
        side: the pixels that the shorter side of a JPEG must still have; None: all.
        resize: uint8 [height, width, 3] -> the same in another size.
    """
    scale = _scale(header, side)
    what = "%s of %d x %d pixels" % (header.format, header.width, header.height)
    need_bytes = size_bytes + _need_bytes(header, size_bytes, scale) + _NEED_ALWAYS_BYTES
    with memory.decode_budget().reserve(need_bytes, what):
        return _read_and_decode(stream, header, scale, need_bytes, resize, digest)  # nothing large outlives the call


def _read_and_decode(stream, header, scale, need_bytes, resize, digest):
    stream.seek(0)
    data = stream.read()
    if digest:
        digest.update(data)
    try:
        decoded = _decode(data, header, scale, need_bytes)
        return _upright_rgb(resize(decoded.pixels), decoded)
    except cv2.error as error:
        if getattr(error, "code", None) == _NO_MEMORY:
            raise MemoryError(str(error))
        raise ImageError("is damaged (%s: %s)" % (header.format, getattr(error, "err", error)))


def _scale(header, side):
    if header.format != "JPEG" or side is None:
        return 1
    return next((scale for scale in (8, 4, 2) if min(header.width, header.height) >= side * scale), 1)


def _need_bytes(header, size_bytes, scale):
    """Returns how much memory decoding takes at most, beside the file's own bytes."""
    pixels, facts = header.width * header.height, header.facts
    if header.format == "JPEG":
        out = 3 * -(-header.width // scale) * -(-header.height // scale) * (4 if facts.components == 4 else 1)
        largest = [max(factors) for factors in zip(*facts.sampling)]
        shares = [float(across * down) / (largest[0] * largest[1]) for across, down in facts.sampling]
        return out + (int(2 * pixels * sum(shares)) if facts.buffered else 0)
    if header.format == "PNG":
        # As Pillow decodes it and as RGB, and where it lies over white a strip of it several times. The chunks are
        # copied once.
        return size_bytes + 7 * pixels + 5 * min(4 * pixels, _STRIP_BYTES)
    if header.format == "WEBP":
        return (24 if facts.alpha or facts.animated else 10) * pixels
    return 2 * size_bytes + _NEED[header.format] * pixels


def _decode(data, header, scale, need_bytes):
    """Returns the _Decoded of a photo, for which need_bytes of memory are enough."""
    try:
        return _decode_as(data, header, scale)
    except ImageError:
        # Some decoders fail alike on damage and for want of memory. This raises MemoryError where there is too little.
        np.empty(need_bytes, np.uint8)
        raise


def _decode_as(data, header, scale):
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
        orientation = _pillow_orientation(picture)
    # Pillow 8 has grey PNGs of 16 bits as "I".
    if picture.mode.startswith("I;16") or (header.format == "PNG" and picture.mode == "I"):
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        if header.format == "TIFF" and picture.tag_v2.get(_TIFF_PHOTOMETRIC) == 0:  # white is zero
            grey = 255 - grey
        return _Decoded(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), False, orientation)
    if picture.mode in ("I", "F"):
        raise ImageError("is a %s whose numbers have no known range; save it with 8 bits" % header.format)
    return _Decoded(_over_white(picture, alpha_may_be_unset=header.format == "BMP"), False, orientation)


def _opencv(data, header, scale=1):
    flag = _REDUCED.get(scale, cv2.IMREAD_COLOR)
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None or bgr.shape != (-(-header.height // scale), -(-header.width // scale), 3):
        raise ImageError("is damaged (%s: truncated or corrupt, or of a kind that is not read)" % header.format)
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
        raise ImageError("is damaged (%s: truncated or corrupt, or of a kind that is not read: %s)" % (kind, what))


def _over_white(picture, alpha_may_be_unset=False):
    """Lays a Pillow picture over white, as product photos stand. Returns uint8 [height, width, 3], RGB.

    A strip at a time, so that no second picture of its size is made on the way.

    Raises:
        ImageError: nothing of it can be seen; but with alpha_may_be_unset it is opaque then.
    """
    if picture.mode in ("RGB", "L", "1", "CMYK", "YCbCr") and "transparency" not in picture.info:
        return _in_strips(picture, lambda strip: strip if strip.mode == "RGB" else strip.convert("RGB"))
    seen = False

    def over_white(strip):
        nonlocal seen
        strip = strip.convert("RGBA")
        alpha = strip.getchannel("A")
        seen = seen or alpha.getextrema()[1] > 0
        white = Image.new("RGB", strip.size, "white")
        white.paste(strip, mask=alpha)
        return white

    rgb = _in_strips(picture, over_white)
    if not seen and alpha_may_be_unset:
        return _in_strips(picture, lambda strip: strip.convert("RGB"))
    if not seen:
        raise ImageError("is wholly transparent")
    return rgb


def _in_strips(picture, to_rgb):
    """Returns uint8 [height, width, 3] of a Pillow picture; to_rgb turns a strip of it into an RGB one."""
    width, height = picture.size
    rows = max(1, _STRIP_BYTES // (4 * width))
    if rows >= height:
        return np.asarray(to_rgb(picture))
    rgb = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        strip = picture.crop((0, top, width, min(height, top + rows)))
        rgb[top : top + rows] = np.asarray(to_rgb(strip))
    return rgb


# --- headers


def _read_header(stream, size_bytes):
    """Returns the Header of a photo in a seekable binary file. Raises ImageError, and OSErrors of the file."""
    stream.seek(0)
    start = stream.read(formats.START_BYTES)
    kind = formats.format_of(start)
    if not kind:
        raise ImageError(_not_a_photo(start))
    stream.seek(0)
    if kind in ("JPEG", "PNG", "WEBP"):
        facts = {"JPEG": jpeg, "PNG": png, "WEBP": webp}[kind].read_facts(stream)
        width, height, orientation = facts.width, facts.height, _orientation(facts.exif, facts.xmp)
    else:
        if kind == "GIF":
            gif.check_start(stream)
        # Pillow may read the whole file, and copies it then, to learn its size in pixels.
        with memory.decode_budget().reserve(2 * size_bytes, "%s of %d bytes" % (kind, size_bytes)):
            picture = _open_with_pillow(stream, kind)
            facts, (width, height) = picture.mode, picture.size
            orientation = _pillow_orientation(picture) if kind in ("TIFF", "AVIF") else 1
            if kind == "TIFF":
                _check_tiff(picture)
            del picture
    if width * height > MAX_PIXELS:
        raise ImageError("is %d x %d pixels: refused before decoding" % (width, height))
    return Header(kind, width, height, orientation, facts)


def _not_a_photo(start):
    if not start:
        return "is empty (0 bytes)"
    kind = formats.kind_of(start)
    return "is not a JPEG, PNG, BMP, GIF, WebP, TIFF, HEIC or AVIF picture" + (", but %s" % kind if kind else "")


def _open_with_pillow(stream, kind):
    """Returns a Pillow picture, its pixels not loaded. The file stays open."""
    if kind in ("HEIF", "AVIF"):
        _check_heif(kind)
    try:
        return Image.open(stream, formats=(kind,))
    except Image.DecompressionBombError:
        raise ImageError("is larger than %d megapixels: refused before decoding" % (MAX_PIXELS // 1000000))
    except MemoryError:
        raise
    except Exception as error:  # whatever a broken header makes the parser raise
        if getattr(error, "errno", None):  # the file, not what is in it
            raise
        raise ImageError("is damaged (%s: truncated or corrupt header, or of a kind that is not read)" % kind)


def _check_tiff(picture):
    """Raises ImageError for what Pillow decodes to other pixels."""
    bits = picture.tag_v2.get(_TIFF_BITS, (1,))
    if picture.tag_v2.get(_TIFF_PLANES) == 2 and len(bits) > 1 and max(bits) > 8:
        raise ImageError(
            "is a TIFF with a plane of %d bits for each colour, which is not read; save it with 8 bits" % max(bits)
        )


def _check_heif(kind):
    """Makes Pillow read HEIC or AVIF. Raises ImageError where nothing here can."""
    Image.init()
    if kind in Image.OPEN:
        return
    with contextlib.suppress(ImportError):
        pillow_heif = importlib.import_module("pillow_heif")
        getattr(pillow_heif, "register_%s_opener" % kind.lower(), lambda: None)()
    if kind not in Image.OPEN:
        name = "HEIC" if kind == "HEIF" else kind
        raise ImageError(
            "is %s %s photo, which needs another library: pip install pillow-heif"
            % ("an" if kind == "AVIF" else "a", name)
        )


def _orientation(exif, xmp):
    """Returns the EXIF orientation of a photo, 1..8; 1 where neither block has one that exists."""
    value: typing.Any = None
    if exif:
        try:
            block = Image.Exif()
            block.load(exif)
            value = block.get(_EXIF_ORIENTATION)
        except MemoryError:
            raise
        except Exception:  # a broken EXIF block does not make the photo unusable
            value = None
    if value is None and xmp:
        match = re.search(rb"tiff:Orientation(?:=[\"']|>)([1-8])", xmp)
        value = int(match.group(1)) if match else None
    return value if value in range(1, 9) else 1


def _pillow_orientation(picture):
    try:
        value = picture.getexif().get(_EXIF_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:
        return 1
    return value if value in range(1, 9) else 1
