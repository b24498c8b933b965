"""Reads a photo's header (format, size, orientation) before its pixels are decoded."""

import contextlib
import importlib
import io
import re
import typing

from PIL import Image

from edge_runtime.errors import ImageError
from edge_runtime.photos import formats, gif, jpeg, memory_budget, png, webp
from edge_runtime.photos.spec import MAX_PIXELS

_EXIF_ORIENTATION = 0x0112
_TIFF_BITS, TIFF_PHOTOMETRIC, _TIFF_PLANES = 258, 262, 284


class Header(typing.NamedTuple):
    """A photo's header."""

    format: str  # a value of edge_runtime.photos.formats.SUFFIXES
    width: int  # as stored
    height: int
    orientation: int  # EXIF's, 1 (upright) to 8: how the picture must be turned
    facts: typing.Any  # of the format's own reader: jpeg.Facts, png.Facts, webp.Facts; else Pillow's mode


def read_header(data):
    """Returns the Header of an encoded photo, given its bytes. Raises ImageError: not a photo, damaged or too large."""
    return header_of(io.BytesIO(data), len(data))


def header_of(stream, size_bytes):
    """Returns the Header of a photo, given as a seekable binary file.

    Raises:
        ImageError: not a photo, damaged or too large. OSError: the file cannot be read.
    """
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
        # To find the size in pixels Pillow may read the whole file, and copies it then.
        with memory_budget.decode_budget().reserve(2 * size_bytes, f"{kind} of {size_bytes} bytes"):
            picture = _open_with_pillow(stream, kind)
            facts, (width, height) = picture.mode, picture.size
            orientation = pillow_orientation(picture) if kind in ("TIFF", "AVIF") else 1
            if kind == "TIFF":
                _check_tiff(picture)
            del picture
    if width * height > MAX_PIXELS:
        raise ImageError(f"is {width} x {height} pixels: refused before decoding")
    return Header(kind, width, height, orientation, facts)


def _not_a_photo(start):
    if not start:
        return "is empty (0 bytes)"
    kind = formats.kind_of(start)
    return "is not a JPEG, PNG, BMP, GIF, WebP, TIFF, HEIC or AVIF picture" + (f", but {kind}" if kind else "")


def _open_with_pillow(stream, kind):
    """Returns a Pillow picture, its pixels not loaded. The file stays open."""
    if kind in ("HEIF", "AVIF"):
        _check_heif(kind)
    try:
        return Image.open(stream, formats=(kind,))
    except Image.DecompressionBombError:
        raise ImageError(f"is larger than {MAX_PIXELS // 1000000} megapixels: refused before decoding")
    except MemoryError:
        raise
    except Exception as error:  # whatever a broken header makes the parser raise
        if getattr(error, "errno", None):  # the file, not what is in it
            raise
        raise ImageError(f"is damaged ({kind}: truncated or corrupt header, or of a kind that is not read)")


def _check_tiff(picture):
    """Raises ImageError for a TIFF that Pillow decodes to wrong pixels."""
    bits = picture.tag_v2.get(_TIFF_BITS, (1,))
    if picture.tag_v2.get(_TIFF_PLANES) == 2 and len(bits) > 1 and max(bits) > 8:
        raise ImageError(
            f"is a TIFF with a plane of {max(bits)} bits for each colour, which is not read; save it with 8 bits"
        )


def _check_heif(kind):
    """Enables HEIC or AVIF in Pillow. Raises ImageError where the library for it is missing."""
    Image.init()
    if kind in Image.OPEN:
        return
    with contextlib.suppress(ImportError):
        pillow_heif = importlib.import_module("pillow_heif")
        getattr(pillow_heif, f"register_{kind.lower()}_opener", lambda: None)()
    if kind not in Image.OPEN:
        name = "HEIC" if kind == "HEIF" else kind
        raise ImageError(
            f"is {'an' if kind == 'AVIF' else 'a'} {name} photo, which needs another library: pip install pillow-heif"
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


def pillow_orientation(picture):
    """Returns the EXIF orientation of an open Pillow picture, 1..8; 1 where it has none."""
    try:
        value = picture.getexif().get(_EXIF_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:
        return 1
    return value if value in range(1, 9) else 1
