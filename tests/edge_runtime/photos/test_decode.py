"""From the bytes of a photo to the picture the network takes: every kind of file, and every way it can be broken."""

import errno
import functools
import glob
import io
import os
import re
import signal
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from edge_runtime.errors import ImageError, PhotoMissing, StorageLost
from edge_runtime.photos import decode as photos_decode
from edge_runtime.photos import jpeg, memory_budget, png, resize, spec
from edge_runtime.photos import read as photos_read
from edge_runtime.photos.decode import decode_large
from edge_runtime.photos.picture import is_one_colour
from edge_runtime.photos.read import read_bytes, read_large
from tests.helpers import encoded, gradient, png_chunk, raw_png, write_bytes

SIDE = 299
decode_image, fit_image, read_image, read_photo = (
    functools.partial(function, input_spec=spec.INCEPTION_V3)
    for function in (photos_decode.decode_image, resize.fit_image, photos_read.read_image, photos_read.read_photo)
)
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def difference(first, second):
    """The mean absolute difference of two pictures, in levels."""
    return np.abs(first.astype(int) - second.astype(int)).mean()


def reason_of(data):
    with pytest.raises(ImageError) as refused:
        decode_image(data)
    return str(refused.value)


def middle_of(data):
    """The colour in the middle of a decoded photo, which may be one colour."""
    picture = decode_large(data, SIDE)
    return picture[picture.shape[0] // 2, picture.shape[1] // 2].tolist()


@pytest.fixture
def jpeg_sizes(monkeypatch):
    """The (width, height) at which every JPEG is decoded."""
    sizes, decode = [], jpeg.simplejpeg.decode_jpeg

    def spy(*arguments, **settings):
        picture = decode(*arguments, **settings)
        sizes.append(picture.shape[1::-1])
        return picture

    monkeypatch.setattr(jpeg.simplejpeg, "decode_jpeg", spy)
    return sizes


@pytest.fixture
def no_decoder(monkeypatch):
    """A call of any decoder fails the test."""

    def decode(*_, **__):
        pytest.fail("the photo was decoded")

    monkeypatch.setattr(cv2, "imdecode", decode)
    monkeypatch.setattr(jpeg.simplejpeg, "decode_jpeg", decode)
    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)


# --- whole photos


@pytest.mark.parametrize("suffix, most", [("jpg", 3), ("png", 0), ("bmp", 0), ("gif", 12), ("webp", 3)])
def test_each_format_decodes_to_what_was_saved(suffix, most):
    decoded = decode_image(encoded(gradient(), suffix))
    assert decoded.shape == (SIDE, SIDE, 3) and decoded.dtype == np.uint8
    assert difference(decoded, fit_image(gradient())) <= most


def test_the_bytes_tell_the_format_whatever_the_suffix_says(tmp_path):
    path = write_bytes(tmp_path / "really_a_png.jpeg", encoded(gradient(), "png"))
    assert np.array_equal(read_image(path), fit_image(gradient()))


def test_a_file_name_may_be_bytes(tmp_path):
    path = write_bytes(tmp_path / "photo.png", encoded(gradient(), "png"))
    assert np.array_equal(read_image(os.fsencode(path)), fit_image(gradient()))


def test_a_cmyk_jpeg_keeps_its_colours():
    data = encoded(Image.fromarray(gradient()).convert("CMYK"), "jpg", quality=95)
    assert difference(decode_image(data), fit_image(gradient())) < 4


def test_a_grey_jpeg_becomes_three_equal_channels():
    decoded = decode_image(encoded(Image.fromarray(gradient()).convert("L"), "jpg"))
    assert np.array_equal(decoded[..., 0], decoded[..., 1]) and np.array_equal(decoded[..., 0], decoded[..., 2])
    assert difference(decoded, fit_image(np.array(Image.fromarray(gradient()).convert("L").convert("RGB")))) < 3


def test_a_progressive_jpeg_decodes():
    data = encoded(gradient(), "jpg", progressive=True)
    assert difference(decode_image(data), fit_image(gradient())) < 3


@pytest.mark.parametrize("channels", [1, 3])
def test_a_16_bit_png_is_scaled_to_8_bits_not_clipped(channels):
    deep = (gradient()[..., :channels].astype(np.uint16) * 257).squeeze()
    _, data = cv2.imencode(".png", deep if channels == 1 else deep[..., ::-1])
    expected = np.repeat(gradient()[..., :1], 3, axis=2) if channels == 1 else gradient()
    assert difference(decode_image(data.tobytes()), fit_image(expected)) < 1


def test_a_16_bit_grey_png_with_a_transparent_grey_is_not_clipped_to_white():
    pixels = (b"\0" + struct.pack(">2H", 0x4000, 0x4000)) * 2
    assert middle_of(raw_png(2, 2, pixels, depth=16, kind=0, more=png_chunk(b"tRNS", b"\0\0"))) == [64, 64, 64]


def test_a_palette_png_shows_its_palette():
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette(list(BLUE + RED))
    assert middle_of(encoded(picture, "png")) == list(RED)


# --- transparency stands on white, as product photos do


def mostly_clear(mode, colour):
    """A picture that is opaque in one corner only."""
    picture = Image.new(mode, (8, 8), colour + (0,))
    picture.putpixel((0, 0), colour + (255,))
    return picture


@pytest.mark.parametrize(
    "picture, expected",
    [
        (Image.new("RGBA", (8, 8), RED + (255,)), [255, 0, 0]),
        (Image.new("RGBA", (8, 8), (0, 100, 0, 128)), [127, 177, 127]),
        (Image.new("LA", (8, 8), (10, 255)), [10, 10, 10]),
        (mostly_clear("RGBA", RED), [255, 255, 255]),
        (mostly_clear("LA", (10,)), [255, 255, 255]),
    ],
    ids=["opaque RGBA", "half clear RGBA", "opaque LA", "clear RGBA", "clear LA"],
)
def test_alpha_is_laid_over_white(picture, expected):
    assert middle_of(encoded(picture, "png")) == expected


@pytest.mark.parametrize("clear, expected", [(0, RED), (1, WHITE)])
def test_a_palette_colour_marked_transparent_is_laid_over_white(clear, expected):
    picture = Image.new("P", (8, 8), 1)
    picture.putpixel((0, 0), 0)
    picture.putpalette(list(BLUE + RED))
    assert middle_of(encoded(picture, "png", transparency=clear)) == list(expected)


@pytest.mark.parametrize("colour, expected", [(RED, WHITE), (BLUE, BLUE)])
def test_an_rgb_colour_marked_transparent_is_laid_over_white(colour, expected):
    picture = Image.new("RGB", (8, 8), colour)
    picture.putpixel((0, 0), (0, 255, 0))
    assert middle_of(encoded(picture, "png", transparency=RED)) == list(expected)


def test_a_transparent_webp_is_laid_over_white():
    assert middle_of(encoded(mostly_clear("RGBA", (0, 0, 0)), "webp", lossless=True, exact=True)) == list(WHITE)


@pytest.mark.parametrize(
    "mode, colour, suffix, settings",
    [
        ("RGBA", RED + (0,), "png", {}),
        ("LA", (10, 0), "png", {}),
        ("P", 1, "png", {"transparency": 1}),
        ("RGB", RED, "png", {"transparency": RED}),
        ("RGBA", RED + (0,), "webp", {"lossless": True}),
        ("RGBA", RED + (0,), "tiff", {}),
        ("P", 1, "gif", {"transparency": 1}),
    ],
)
def test_what_is_wholly_transparent_is_no_white_picture(mode, colour, suffix, settings):
    picture = Image.new(mode, (8, 8), colour)
    if mode == "P":
        picture.putpalette(list(BLUE + RED))
    assert reason_of(encoded(picture, suffix, **settings)) == "is wholly transparent"


def bmp_with_alpha(rgb, alpha):
    """Returns a BMP of 32 bits whose header names an alpha channel (BITMAPV4HEADER, BI_BITFIELDS)."""
    height, width = rgb.shape[:2]
    pixels = np.dstack([rgb[::-1, :, ::-1], np.full((height, width), alpha, np.uint8)]).tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    body = header + masks + b"BGRs" + bytes(48) + pixels
    return b"BM" + struct.pack("<IHHI", 14 + len(body), 0, 0, 14 + 108) + body


@pytest.mark.parametrize("alpha", [0, 255])
def test_a_bmp_whose_alpha_was_left_zero_is_opaque(alpha):
    decoded = decode_image(bmp_with_alpha(gradient(), alpha))
    assert np.array_equal(decoded, fit_image(gradient()))


def test_a_large_transparent_png_is_laid_over_white_in_strips(monkeypatch):
    picture = Image.fromarray(np.dstack([gradient(), np.arange(120000).reshape(300, 400) % 256]).astype(np.uint8))
    data = encoded(picture, "png")
    whole = decode_image(data)
    monkeypatch.setattr(photos_decode, "STRIP_BYTES", 5000)
    assert np.array_equal(decode_image(data), whole)


# --- several pictures in one file: the first counts


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_the_first_frame_of_an_animation_is_taken(suffix):
    frames = [Image.new("RGB", (40, 40), colour) for colour in (RED, BLUE)]
    data = encoded(frames[0], suffix, save_all=True, append_images=frames[1:], duration=100)
    assert difference(np.array([[middle_of(data)]]), np.array([[RED]])) < 2


def multi_picture(first, second):
    """Returns an MPO file: two JPEGs, listed in an APP2 segment of the first."""
    entries = struct.pack(">IIIHH", 0x030000, len(first), 0, 0, 0) + struct.pack(">IIIHH", 0, len(second), 1, 0, 0)
    tags = struct.pack(">HHI4s", 0xB000, 7, 4, b"0100") + struct.pack(">HHII", 0xB001, 4, 1, 2)
    tags += struct.pack(">HHII", 0xB002, 7, len(entries), 8 + 2 + 3 * 12 + 4)
    body = b"MPF\0MM\0*" + struct.pack(">IH", 8, 3) + tags + struct.pack(">I", 0) + entries
    return first[:2] + b"\xff\xe2" + struct.pack(">H", 2 + len(body)) + body + first[2:] + second


@pytest.fixture
def two_pictures():
    data = multi_picture(encoded(gradient(1200, 1300), "jpg"), encoded(gradient()[::-1], "jpg"))
    assert Image.open(io.BytesIO(data)).format == "MPO"  # or this would test a plain JPEG
    return data


def test_the_first_picture_of_a_multi_picture_jpeg_is_taken(two_pictures):
    assert difference(decode_image(two_pictures), fit_image(gradient(1200, 1300))) < 3


def test_a_multi_picture_jpeg_is_scaled_while_it_is_decoded(two_pictures, jpeg_sizes):
    decode_image(two_pictures)
    assert jpeg_sizes == [(325, 300)]


def test_a_multi_picture_jpeg_cut_in_its_first_picture_is_truncated(two_pictures):
    assert "truncated" in reason_of(two_pictures[: len(two_pictures) // 3])


def test_a_motion_photo_with_a_film_behind_it_decodes():
    film = b"\0\0\0\x18ftypmp42" + b"\xff\xda" + bytes(range(256)) * 4  # holds a start-of-scan mark by chance
    decoded = decode_image(encoded(gradient(), "jpg") + film)
    assert difference(decoded, fit_image(gradient())) < 3


# --- EXIF

# orientation -> how a camera held like that stores an upright picture
STORED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda upright: np.rot90(upright.transpose(1, 0, 2), 2),
    8: lambda upright: np.rot90(upright, -1),
}


def with_orientation(upright, orientation, suffix="jpg", **settings):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED.get(orientation, STORED[1])(upright))
    return encoded(stored, suffix, exif=exif.tobytes(), **settings)


@pytest.mark.parametrize("orientation", sorted(STORED))
def test_every_exif_orientation_comes_out_upright(orientation):
    decoded = decode_image(with_orientation(gradient(), orientation))
    assert difference(decoded, fit_image(gradient())) < 3


@pytest.mark.parametrize("orientation", sorted(STORED))
def test_every_exif_orientation_comes_out_upright_when_scaled_while_decoding(orientation):
    decoded = decode_image(with_orientation(gradient(1300, 1400), orientation))
    assert difference(decoded, fit_image(gradient(1300, 1400))) < 3


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_exif_orientation_counts_in_other_formats_too(suffix):
    decoded = decode_image(with_orientation(gradient(), 6, suffix))
    assert difference(decoded, fit_image(gradient())) < 3


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_that_does_not_exist_counts_as_upright(orientation):
    decoded = decode_image(with_orientation(gradient(), orientation))
    assert difference(decoded, fit_image(gradient())) < 3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12",
        b"\0" * 40,
    ],
    ids=["empty", "no header", "directory out of the file", "directory cut off", "zeros"],
)
def test_a_broken_exif_block_does_not_make_the_photo_unusable(exif):
    decoded = decode_image(with_segment(encoded(gradient(), "jpg"), exif))
    assert difference(decoded, fit_image(gradient())) < 3


def with_segment(jpeg, body, marker=b"\xff\xe1"):
    """Puts a segment (by default APP1, where EXIF lives) behind the start of a JPEG."""
    return jpeg[:2] + marker + struct.pack(">H", 2 + len(body)) + body + jpeg[2:]


# --- broken photos


@pytest.mark.parametrize(
    "data, kind",
    [
        (b"this is no photo\n" * 20, "text"),
        (b"\0" * 5000, "zero"),
        (b"%PDF-1.4\n%\xe2\xe3", "a PDF document"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"PK\3\4" + bytes(50), "a zip archive"),
        (b"\n<!DOCTYPE html><title>404 Not Found</title>", "a web page"),
        (b"\0\0\0\x18ftypmp42" + bytes(50), "a video"),
    ],
    ids=["text", "zeros", "PDF", "LFS", "zip", "HTML", "video"],
)
def test_what_is_no_photo_is_called_by_what_it_is(data, kind):
    reason = reason_of(data)
    assert reason.startswith("is not a JPEG, PNG, BMP, GIF, WebP, TIFF, HEIC or AVIF picture, but") and kind in reason


def test_bytes_that_are_nothing_known_are_no_picture():
    assert reason_of(b"\x93\xa7\x01" * 50).endswith("AVIF picture")


@pytest.mark.parametrize(
    "data, kind",
    [
        (b"\xff\xd8\xff", "JPEG"),
        (encoded(gradient(), "jpg")[:100], "JPEG"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (encoded(gradient(), "png")[:30], "PNG"),
        (b"\x89PNG\n\x1a\n" + encoded(gradient(), "png")[8:], "PNG"),
        (b"GIF89a", "GIF"),
        (encoded(gradient(), "bmp")[:20], "BMP"),
        (encoded(gradient(), "webp")[:18], "WEBP"),
        (b"II*\0" + b"\xff" * 60, "TIFF"),
    ],
    ids=["marks", "JPEG", "signature", "PNG", "copied as text", "GIF", "BMP", "WebP", "TIFF"],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_photo_whose_header_is_cut_is_damaged_and_its_format_named(data, kind):
    assert reason_of(data).startswith(f"is damaged ({kind}: ")


def test_an_empty_file_is_called_empty():
    assert reason_of(b"") == "is empty (0 bytes)"


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("left", [0.2, 0.5, 0.9, 0.999])
def test_a_jpeg_cut_anywhere_is_truncated(left, progressive):
    data = encoded(gradient(), "jpg", progressive=progressive)
    assert reason_of(data[: int(len(data) * left)]).startswith("is damaged (JPEG")


@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_without_its_last_bytes_is_truncated(missing):
    assert "truncated" in reason_of(encoded(gradient(), "jpg")[:-missing])


@pytest.mark.parametrize("left", [0.3, 0.6, 0.99])
def test_a_cut_jpeg_is_truncated_although_its_exif_thumbnail_is_whole(left):
    thumbnail = encoded(gradient(60, 80), "jpg")
    data = with_segment(encoded(gradient(), "jpg"), b"Exif\0\0" + thumbnail)
    assert difference(decode_image(data), fit_image(gradient())) < 3
    assert "truncated" in reason_of(data[: len(thumbnail) + int((len(data) - len(thumbnail)) * left)])


def test_a_jpeg_whose_tail_was_never_written_is_truncated():
    data = encoded(gradient(), "jpg")
    assert "damaged" in reason_of(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def test_fill_bytes_between_the_segments_of_a_jpeg_are_fine():
    data = encoded(gradient(), "jpg")
    filled = data[:2] + b"\xff" * 5 + data[2:]
    assert np.array_equal(decode_image(filled), decode_image(data))


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "webp", "tiff"])
@pytest.mark.parametrize("left", [0.3, 0.6, 0.98])
def test_other_formats_cut_anywhere_are_truncated(suffix, left):
    data = encoded(gradient(), suffix)
    reason = reason_of(data[: int(len(data) * left)])
    assert re.match(r"is damaged \(%s: .*truncated or corrupt" % suffix.upper(), reason)


def test_a_png_with_alpha_cut_short_is_truncated():
    data = encoded(Image.fromarray(gradient()).convert("RGBA"), "png")
    assert "truncated or corrupt" in reason_of(data[: len(data) // 2])


# --- sizes


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 2), (299, 299), (298, 300)])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_any_proportion_is_squashed_to_the_square(size, suffix):
    picture = Image.new("RGB", size, (200, 40, 90))
    data = encoded(picture, suffix)
    assert reason_of(data) == "is one colour"
    if max(size) > 100:
        half = Image.new("RGB", (max(1, size[0] // 2), size[1] if size[0] > 1 else size[1] // 2), (20, 140, 9))
        picture.paste(half, (0, 0))
        decoded = decode_image(encoded(picture, suffix))
        assert decoded.shape == (SIDE, SIDE, 3)
        assert difference(decoded[-20:, -20:], np.full((20, 20, 3), (200, 40, 90))) < 3


def test_a_very_wide_png_decodes():
    assert middle_of(encoded(Image.new("RGB", (70000, 1), RED), "png")) == list(RED)


def jpeg_header(width, height):
    """Returns a JPEG that ends behind its header."""
    frame = struct.pack(">BHHB", 8, height, width, 3) + bytes([1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1])
    scan = bytes([3, 1, 0, 2, 0x11, 3, 0x11, 0, 63, 0])
    segments = [(b"\xff\xc0", frame), (b"\xff\xda", scan)]
    return b"\xff\xd8" + b"".join(m + struct.pack(">H", 2 + len(b)) + b for m, b in segments) + b"\0\xff\xd9"


BOMBS = {
    "png": raw_png(20000, 20000),
    "png with alpha": raw_png(20000, 20000, kind=6),
    "jpeg": jpeg_header(20000, 20000),
    "gif": b"GIF89a" + struct.pack("<HHBBBcHHHHBB", 20000, 20000, 0, 0, 0, b",", 0, 0, 20000, 20000, 0, 2) + b"\1\0\0;",
    "bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 20000, 20000, 1, 24, 0, 0, 0, 0, 0, 0),
}


@pytest.mark.parametrize("kind", sorted(BOMBS))
def test_a_decompression_bomb_is_refused_before_it_is_decoded(kind, no_decoder):
    assert "refused before decoding" in reason_of(BOMBS[kind])


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_bomb_is_refused_even_where_the_application_switched_pillow_s_check_off(kind, no_decoder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert reason_of(BOMBS[kind]) == "is 20000 x 20000 pixels: refused before decoding"


# --- scaled decoding


@pytest.mark.parametrize(
    "shorter, scale",
    [
        (597, 1),
        (598, 2),
        (1195, 2),
        (1196, 4),
        (2391, 4),
        (2392, 8),
    ],
)
@pytest.mark.parametrize("upright", [False, True])
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_covers_the_input(shorter, scale, upright, jpeg_sizes):
    size = (shorter + 50, shorter) if upright else (shorter, shorter + 50)
    scaled = decode_image(encoded(gradient(*size), "jpg"))
    assert jpeg_sizes == [tuple(-(-length // scale) for length in size[::-1])]
    assert difference(scaled, fit_image(gradient(*size))) < 2


@pytest.mark.parametrize("size", [(598, 640), (1300, 1196), (2392, 2400)])
def test_scaled_decoding_shows_the_same_picture_as_decoding_every_pixel(size, jpeg_sizes):
    data = encoded(gradient(*size), "jpg")
    assert difference(decode_image(data), decode_image(data, scaled=False)) < 1
    assert jpeg_sizes[1] == size[::-1]


def test_the_pixels_of_a_jpeg_are_those_that_opencv_decodes(grocery):
    flags = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 8: cv2.IMREAD_REDUCED_COLOR_8}
    for path in sorted(glob.glob(os.path.join(grocery, "val", "**", "*.jpg"), recursive=True))[::30]:
        with open(path, "rb") as file:
            data = file.read()
        facts = jpeg.read_facts(io.BytesIO(data))
        for scale, flag in flags.items():
            bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
            assert np.array_equal(jpeg.decode(data, facts, scale), bgr[:, :, ::-1]), (path, scale)


# --- one colour


def test_what_is_one_colour():
    noise = np.random.RandomState(0)
    dark = np.full((480, 640, 3), 40, np.uint8)
    assert is_one_colour(dark)
    assert is_one_colour(dark + noise.randint(0, 3, dark.shape).astype(np.uint8))
    assert is_one_colour(noise.randint(0, 4, dark.shape).astype(np.uint8))  # black with a trace of noise
    assert not is_one_colour(noise.randint(0, 12, dark.shape).astype(np.uint8))  # a dark room
    assert not is_one_colour(dark + noise.randint(0, 6, dark.shape).astype(np.uint8))
    dark[300, 301] = 200
    assert not is_one_colour(dark)


# --- frames


@pytest.mark.parametrize(
    "frame",
    [
        None,
        "a.jpg",
        [[[0, 0, 0]]],
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.int8),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 1), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
    ids=["None", "name", "list", "float", "int8", "grey", "one channel", "four channels", "batch", "empty"],
)
def test_a_frame_of_another_kind_is_refused_with_what_was_expected(frame):
    with pytest.raises(ImageError, match=r"uint8 .*\[height, width, 3\]"):
        fit_image(frame)


@pytest.mark.parametrize("size", [(299, 299), (100, 100), (600, 100), (900, 700)])
def test_fitting_never_changes_the_caller_s_array(size):
    frame = gradient(*size)
    before = frame.copy()
    fitted = fit_image(frame)
    assert fitted.shape == (SIDE, SIDE, 3)
    assert np.array_equal(frame, before)


@pytest.mark.parametrize(
    "view",
    [np.s_[:, :, ::-1], np.s_[::-1], np.s_[::2, ::3], np.s_[:, ::-1]],
    ids=["BGR", "flipped", "strided", "mirrored"],
)
def test_a_frame_may_be_a_view(view):
    frame = gradient(700, 900)[view]
    assert np.array_equal(fit_image(frame), fit_image(np.ascontiguousarray(frame)))


def test_a_read_only_frame_is_fine():
    frame = gradient()
    frame.flags.writeable = False
    assert np.array_equal(fit_image(frame), fit_image(gradient()))


# --- files


def test_a_missing_file_is_named_by_its_reason(tmp_path):
    with pytest.raises(PhotoMissing, match="^No such file or directory$"):
        read_image(str(tmp_path / "nowhere.jpg"))


def test_a_folder_is_no_photo(tmp_path):
    with pytest.raises(ImageError, match="^is a directory$"):
        read_image(str(tmp_path))


@pytest.fixture
def ten_seconds():
    """Turns a test that blocks into one that fails."""

    def stop(*_):
        pytest.fail("blocked")

    former = signal.signal(signal.SIGALRM, stop)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path, ten_seconds):
    os.mkfifo(str(tmp_path / "pipe.jpg"))
    with pytest.raises(ImageError, match="^is not a regular file$"):
        read_image(str(tmp_path / "pipe.jpg"))


def test_a_device_is_refused():
    with pytest.raises(ImageError, match="^is not a regular file$"):
        read_image("/dev/null")


def test_a_name_with_a_nul_byte_is_an_unreadable_photo():
    with pytest.raises(ImageError, match="null byte|NUL"):
        read_image("a\0b.jpg")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_read_permission_says_so(tmp_path):
    path = write_bytes(tmp_path / "secret.jpg", encoded(gradient(), "jpg"))
    os.chmod(path, 0)
    with pytest.raises(ImageError, match="^Permission denied$"):
        read_image(path)


def test_a_file_that_may_not_be_opened_says_so(tmp_path, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(photos_read, "open", refuse, raising=False)
    with pytest.raises(ImageError, match="^Permission denied$"):
        read_image(write_bytes(tmp_path / "secret.jpg", encoded(gradient(), "jpg")))


class FailingFile(io.BytesIO):
    """A file whose disk fails at its first read."""

    def __init__(self, number, descriptor):
        super().__init__()
        self.number = number
        self.fileno = lambda: descriptor

    def read(self, *_):
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("name", ["EIO", "ESTALE", "ENODEV", "ENXIO", "ENOTCONN", "ETIMEDOUT"])
@pytest.mark.parametrize("read", [read_image, read_photo, read_bytes])
def test_a_disk_that_fails_is_no_fault_of_the_photo(name, read, tmp_path, monkeypatch):
    path = write_bytes(tmp_path / "photo.jpg", encoded(gradient(), "jpg"))
    with open(path, "rb") as real:
        failing = FailingFile(getattr(errno, name), real.fileno())
        monkeypatch.setattr(photos_read, "open", lambda *_: failing, raising=False)
        with pytest.raises(StorageLost, match="photo.jpg"):
            read(path)


@pytest.mark.parametrize("name", ["EIO", "EMFILE", "ENFILE"])
def test_a_file_that_nothing_can_open_now_is_no_fault_of_the_photo(name, tmp_path, monkeypatch):
    def refuse(path, *_):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)), path)

    monkeypatch.setattr(photos_read, "open", refuse, raising=False)
    with pytest.raises(StorageLost, match="photo.jpg"):
        read_image(write_bytes(tmp_path / "photo.jpg", encoded(gradient(), "jpg")))


# --- memory


def no_memory(*_, **__):
    raise MemoryError("planted")


def without_a_word(*_, **__):
    raise OSError("could not create decoder object")  # as Pillow says of a WebP, damaged or not


def opencv_has_no_memory(*_, **__):
    cv2.resize(np.zeros((1, 1), np.uint8), (1 << 30, 1 << 30), interpolation=cv2.INTER_NEAREST)


@pytest.mark.parametrize(
    "suffix, settings, module, name, fail",
    [
        ("jpg", {}, jpeg.simplejpeg, "decode_jpeg", no_memory),
        ("bmp", {}, cv2, "imdecode", no_memory),
        ("webp", {}, cv2, "imdecode", opencv_has_no_memory),
        ("png", {}, ImageFile.ImageFile, "load", no_memory),
        ("gif", {}, ImageFile.ImageFile, "load", no_memory),
        ("gif", {}, ImageFile.ImageFile, "load", without_a_word),
        ("webp", {}, cv2, "imdecode", lambda *_: None),
        ("tiff", {}, Image, "open", no_memory),
    ],
)
def test_too_little_memory_is_no_fault_of_the_photo(suffix, settings, module, name, fail, monkeypatch):
    data = encoded(gradient(), suffix, **settings)
    monkeypatch.setattr(module, name, fail)
    if fail not in (no_memory, opencv_has_no_memory):
        monkeypatch.setattr(np, "empty", no_memory)
    with pytest.raises(MemoryError):
        decode_image(data)


@pytest.mark.parametrize("read", [read_image, read_photo, lambda path: read_large(path, 300)])
def test_a_photo_for_which_memory_is_short_once_is_tried_again_alone(tmp_path, monkeypatch, read):
    """The memory of the first attempt is free again, and no other photo is decoded beside the second."""
    path, freed = write_bytes(tmp_path / "photo.jpg", encoded(gradient(), "jpg")), []
    decode = jpeg.decode

    class Allocation:
        def __del__(self):
            freed.append(True)

    def fail_once(*arguments):
        if not freed:
            memory = Allocation()
            raise MemoryError("planted", id(memory))
        with memory_budget.decode_budget()._changed:
            assert memory_budget.decode_budget()._used_bytes == memory_budget.decode_budget().size_bytes
        return decode(*arguments)

    monkeypatch.setattr(jpeg, "decode", fail_once)
    read(path)
    assert freed == [True]


def test_a_photo_for_which_memory_is_short_twice_is_not_blamed(tmp_path, monkeypatch):
    monkeypatch.setattr(jpeg, "decode", no_memory)
    with pytest.raises(MemoryError):
        read_image(write_bytes(tmp_path / "photo.jpg", encoded(gradient(), "jpg")))


@pytest.fixture
def small_budget(monkeypatch):
    budget = memory_budget.Budget(1 << 20)
    monkeypatch.setattr(memory_budget, "decode_budget", lambda: budget)
    return budget


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "webp", "tiff", "jpg"])
def test_what_never_fits_into_the_budget_is_an_error_that_says_so(suffix, small_budget, no_decoder):
    reason = reason_of(encoded(np.zeros((800, 900, 3), np.uint8), suffix)) if suffix != "jpg" else None
    if suffix == "jpg":
        reason = reason_of(encoded(gradient(2300, 2300), "jpg", progressive=True))
    assert "MiB of memory to decode" in reason and memory_budget.SETTING in reason


def test_a_huge_file_is_refused_before_it_is_read(tmp_path, small_budget, monkeypatch):
    path = write_bytes(tmp_path / "huge.jpg", encoded(gradient(), "jpg"))
    os.truncate(path, 6 << 30)  # a hole: takes no room
    with pytest.raises(ImageError, match="MiB"):
        read_image(path)
    assert small_budget.peak_bytes == 0


@pytest.mark.parametrize("kind", ["AVIF", "HEIF", "TIFF"])
def test_a_huge_file_that_pillow_would_read_to_learn_its_size_is_refused_before(
    kind, tmp_path, small_budget, monkeypatch
):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("the file was read"))
    start = {"AVIF": b"\0\0\0\x18ftypavif", "HEIF": b"\0\0\0\x18ftypheic", "TIFF": b"II*\0"}[kind]
    path = write_bytes(tmp_path / "huge", start + bytes(60))
    os.truncate(path, 1 << 30)
    with pytest.raises(ImageError, match=f"memory.*{kind}"):
        read_image(path)


@pytest.mark.parametrize("start", [b"GIF89a\x64\0\x64\0\0\0\0", encoded(gradient(), "jpg")[:20]], ids=["GIF", "JPEG"])
def test_zeros_without_end_behind_a_sound_start_are_not_searched(start, tmp_path, monkeypatch):
    path, reads = write_bytes(tmp_path / "zeros.jpg", start), []
    os.truncate(path, 6 << 30)

    class Counting(io.FileIO):
        def readinto(self, buffer):
            reads.append(len(buffer))
            return super().readinto(buffer)

    monkeypatch.setattr(photos_read, "open", lambda name, *_: io.BufferedReader(Counting(name)), raising=False)
    with pytest.raises(ImageError, match="damaged"):
        read_image(path)
    assert sum(reads) < 64 << 20


# --- the small files on which earlier versions failed


HARD = {
    "apng_bad_filter.png": "damaged",
    "apng_garbage_idat.png": "damaged",
    "png_chunk_length_4gb.png": "damaged",
    "png_large_itxt.png": "",
    "png_bad_crc_text.png": "",
    "jpeg_lost_half.jpg": "damaged",
    "jpeg_gap.jpg": "damaged",
}


@pytest.mark.parametrize("name", sorted(HARD))
def test_hard_inputs(name, hard):
    path = os.path.join(hard, name)
    if HARD[name]:
        with pytest.raises(ImageError, match=HARD[name]):
            read_image(path)
    else:
        assert read_image(path).std() > 20


def test_the_hard_pngs_look_like_the_same_picture_without_their_text(hard):
    first, second = (read_image(os.path.join(hard, name)) for name in sorted(HARD) if not HARD[name])
    assert np.array_equal(first, second)


def test_the_default_image_of_an_animation_is_taken_in_every_version():
    """Where the default image is no frame of the animation, it is what viewers without animation show."""
    default, frame = encoded(gradient(), "png"), zlib.compress((b"\0" + b"\x40" * 1200) * 300)
    control = struct.pack(">IIIIIHHBB", 0, 400, 300, 0, 0, 1, 10, 0, 0)
    end = default.index(b"IEND") - 4
    animated = default[:33] + png_chunk(b"acTL", struct.pack(">II", 1, 0)) + default[33:end]
    animated += png_chunk(b"fcTL", control) + png_chunk(b"fdAT", struct.pack(">I", 1) + frame) + default[end:]
    assert np.array_equal(decode_image(animated), decode_image(default))
    broken = animated.replace(frame, zlib.compress((b"\x09" + b"\x40" * 1200) * 300))
    assert "damaged" in reason_of(broken)


def interlaced(rgb, filter_type=0):
    """Returns a PNG whose rows are stored in Adam7's seven passes."""
    rows = b""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    for left, top, across, down in passes:
        for row in rgb[top::down, left::across]:
            rows += bytes([filter_type]) + row.tobytes()
    header = struct.pack(">IIBBBBB", rgb.shape[1], rgb.shape[0], 8, 2, 0, 0, 1)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return png.SIGNATURE + chunks


def test_an_interlaced_png_decodes():
    assert np.array_equal(decode_image(interlaced(gradient())), fit_image(gradient()))


@pytest.mark.parametrize("kind", ["filter", "short", "garbage", "long"])
def test_pixels_of_a_png_that_cannot_be_unpacked_are_damaged(kind):
    rows = bytearray(b"".join(b"\0" + row.tobytes() for row in gradient()))
    if kind == "filter":
        rows[1201 * 150] = 5
    packed = zlib.compress(bytes(rows[:-1] if kind == "short" else rows))
    packed = packed[:200] + b"\xff" * 300 + packed[500:] if kind == "garbage" else packed
    header = struct.pack(">IIBBBBB", 401 if kind == "long" else 400, 300, 8, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")
    assert reason_of(png.SIGNATURE + chunks).startswith("is damaged (PNG: ")


def test_a_png_with_a_wrong_checksum_in_its_pixels_is_damaged():
    data = bytearray(encoded(gradient(), "png"))
    data[len(data) // 2] ^= 1
    assert "checksum" in reason_of(bytes(data))


def test_the_orientation_in_a_png_of_imagemagick_and_in_xmp_counts():
    upright = encoded(gradient(), "png")
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0"
    text = b"\nexif\n%8d\n" % len(exif) + exif.hex().encode() + b"\n"
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    for chunk in (
        png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)),
        png_chunk(b"eXIf", exif[6:]),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
    ):
        turned = decode_image(upright[:33] + chunk + upright[33:])
        assert np.array_equal(turned, decode_image(upright)[::-1, ::-1])


# --- JPEGs that lost data


def sectors(data, fill=0):
    """Yields copies of a file in each of which one 512-byte sector of its picture is lost."""
    start = jpeg.read_facts(io.BytesIO(data)).scan_start
    for place in range(-(-start // 512) * 512, len(data) - 512, 512):
        yield data[:place] + bytes([fill]) * 512 + data[place + 512 :]


def test_a_jpeg_that_lost_a_sector_is_damaged(grocery):
    path = os.path.join(grocery, "val", "Fruit", "Apple", "Golden-Delicious", "Golden-Delicious_001.jpg")
    with open(path, "rb") as file:
        data = file.read()
    reasons = [reason_of(damaged) for damaged in sectors(data)]
    assert len(reasons) > 20 and all(reason.startswith("is damaged (JPEG") for reason in reasons)


def test_a_jpeg_with_restart_markers_that_lost_one_is_damaged():
    data = cv2.imencode(".jpg", gradient(), [cv2.IMWRITE_JPEG_RST_INTERVAL, 10])[1].tobytes()
    place = data.index(b"\xff\xd3")
    assert reason_of(data[:place] + data[place + 2 :]).startswith("is damaged (JPEG")
    later = data.index(b"\xff\xd6")
    assert reason_of(data[:place] + data[later:]).startswith("is damaged (JPEG")


@pytest.mark.parametrize("extra", [b"\0", b"\x12\x34\x56", bytes(range(1, 60)), b"\xff\xff", bytes(300)])
def test_bytes_too_many_before_the_end_of_a_jpeg_are_harmless(extra):
    data = encoded(gradient(), "jpg")
    decoded = decode_image(data[:-2] + extra + data[-2:])
    assert difference(decoded, decode_image(data)) == 0


@pytest.mark.parametrize("progressive", [False, True])
def test_what_a_decoder_leaves_over_when_it_lost_its_place_is_damage(progressive):
    data, garbage = encoded(gradient(), "jpg", progressive=progressive), bytes(range(1, 200)) * 3
    assert reason_of(data[:-2] + garbage + data[-2:]).startswith("is damaged (JPEG")
    if progressive:
        later = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
        assert reason_of(data[:later] + garbage[:20] + data[later:]).startswith("is damaged (JPEG")


@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"optimize": True}, {"subsampling": 0}])
@pytest.mark.parametrize("kind", ["RGB", "L", "CMYK"])
def test_one_byte_of_a_jpeg_s_picture_turned_into_a_marker_is_damage(settings, kind):
    data = encoded(Image.fromarray(gradient()).convert(kind), "jpg", **settings)
    start = jpeg.read_facts(io.BytesIO(data)).scan_start
    for place in range(start + 40, len(data) - 40, len(data) // 9):
        if data[place + 1] and not 0xD0 <= data[place + 1] <= 0xD7:  # or it would be no marker
            assert reason_of(data[:place] + b"\xff" + data[place + 1 :]).startswith("is damaged (JPEG")


@pytest.mark.parametrize("scans", [1, 2, 5])
def test_a_progressive_jpeg_without_its_last_scans_is_damage(scans):
    data = encoded(gradient(), "jpg", progressive=True)
    starts = [match.start() for match in re.finditer(b"\xff[\xda\xc4]", data)]
    firsts = [match.start() for match in re.finditer(b"\xff\xda", data)]
    cut = next(start for start in starts if start > firsts[scans - 1])
    assert "scans are missing" in reason_of(data[:cut] + b"\xff\xd9")


def test_a_hole_in_a_progressive_jpeg_is_damage():
    data = encoded(gradient(900, 1200), "jpg", progressive=True, quality=95)
    firsts = [match.start() for match in re.finditer(b"\xff\xda", data)]
    place = (firsts[1] + firsts[2]) // 2
    assert reason_of(data[:place] + bytes(512) + data[place + 512 :]).startswith("is damaged (JPEG")


def test_a_scan_that_claims_to_begin_behind_the_end_is_damage():
    data = bytearray(encoded(gradient(), "jpg", progressive=True))
    last = [match.start() for match in re.finditer(b"\xff\xda", data)][-1]
    data[last + 2 : last + 4] = b"\xff\xff"
    assert reason_of(bytes(data)).startswith("is damaged (JPEG")


def test_a_jpeg_of_12_bits_is_called_that():
    data = bytearray(encoded(gradient(), "jpg"))
    data[data.index(b"\xff\xc0") + 4] = 12
    assert reason_of(bytes(data)).startswith("is a JPEG of 12 bits")


def test_bytes_too_many_between_the_segments_of_a_jpeg_are_harmless_and_hide_nothing():
    data = encoded(gradient(), "jpg")
    place = data.index(b"\xff\xdb")
    odd = data[:place] + b"\x01\x02\x03\x04" + data[place:]
    assert np.array_equal(decode_image(odd), decode_image(data))
    cut = odd[: len(odd) // 2] + odd[-2:]
    assert reason_of(cut).startswith("is damaged (JPEG")


def test_a_flat_jpeg_whose_code_for_flat_is_zeros_is_not_taken_for_one_with_a_hole():
    picture = Image.new("RGB", (1600, 1600), "white")
    picture.paste(Image.fromarray(gradient(200, 200)), (50, 700))
    data = encoded(picture, "jpg", optimize=True)
    assert data.find(bytes(64), jpeg.read_facts(io.BytesIO(data)).scan_start) > 0  # or this would test nothing
    assert decode_image(data).max() > 250


# --- phones' and scanners' formats


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "1", "RGBA", "I;16"])
def test_a_tiff_of_any_mode_decodes(mode):
    grey = Image.fromarray(gradient()).convert("L")
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(gradient()).convert(mode)
    decoded = decode_image(encoded(picture, "tiff"))
    expected = gradient() if mode in ("RGB", "RGBA", "CMYK", "P") else np.array(grey.convert("RGB"))
    assert difference(decoded, fit_image(expected)) < (60 if mode in ("P", "1") else 4)


def tiff(pixels, bits, samples, photometric, planes=1):
    """Returns an uncompressed TIFF of one strip for each plane."""
    height, width = 300, 400
    data = pixels.tobytes()
    strips = samples if planes == 2 else 1
    tags, extra, behind = [], b"", 8 + 2 + 10 * 12 + 4

    def add(tag, kind, values):
        nonlocal extra
        packed = struct.pack(f"<{len(values)}{'HI'[kind - 3]}", *values)
        if len(packed) > 4:
            extra, packed = extra + packed, struct.pack("<I", behind + len(extra))
        tags.append(struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0"))

    start = behind + (2 * samples if samples > 2 else 0) + (8 * strips if strips > 1 else 0)
    for tag, kind, values in (
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [bits] * samples),
        (259, 3, [1]),
        (262, 3, [photometric]),
        (273, 4, [start + n * len(data) // strips for n in range(strips)]),
        (277, 3, [samples]),
        (278, 4, [height]),
        (279, 4, [len(data) // strips] * strips),
        (284, 3, [planes]),
    ):
        add(tag, kind, values)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 10) + b"".join(tags) + bytes(4) + extra + data


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_grey_tiff_in_which_white_is_zero_is_no_negative(photometric, bits):
    grey = np.asarray(Image.fromarray(gradient()).convert("L"))
    stored = (
        (grey if photometric else 255 - grey).astype("<u2") * 257 if bits == 16 else grey if photometric else 255 - grey
    )
    try:
        decoded = decode_image(tiff(np.ascontiguousarray(stored), bits, 1, photometric))
    except ImageError as error:
        assert bits == 16 and photometric == 0 and "of a kind that is not read" in str(error)  # Pillow 8
        return
    assert difference(decoded, fit_image(np.repeat(grey[:, :, None], 3, axis=2))) < 1


def test_a_tiff_with_planes_of_16_bits_is_refused_and_one_of_8_bits_is_read():
    planes = np.ascontiguousarray(gradient().transpose(2, 0, 1))
    assert difference(decode_image(tiff(planes, 8, 3, 2, planes=2)), fit_image(gradient())) == 0
    assert "plane of 16 bits" in reason_of(tiff(planes.astype("<u2") * 257, 16, 3, 2, planes=2))


@pytest.mark.parametrize("orientation", sorted(STORED))
def test_the_orientation_of_a_tiff_counts_once(orientation):
    stored = np.ascontiguousarray(STORED[orientation](gradient()))
    data = encoded(Image.fromarray(stored), "tiff", tiffinfo={0x0112: orientation})
    assert difference(decode_image(data), fit_image(gradient())) < 1


def heif(suffix, orientation=1):
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif (extra heif), which is not here")
    pillow_heif.register_heif_opener()
    getattr(pillow_heif, "register_avif_opener", lambda: None)()
    if orientation != 1 and pillow_heif.__version__.startswith("0."):
        pytest.skip(f"pillow-heif {pillow_heif.__version__} does not write how a photo is turned")
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](gradient())))
    file = io.BytesIO()
    try:
        stored.save(file, {"heic": "HEIF", "avif": "AVIF"}[suffix], quality=90, exif=exif.tobytes())
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        pytest.skip(f"cannot write {suffix} here: {error}")
    return file.getvalue()


@pytest.mark.parametrize("suffix", ["heic", "avif"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_photos_of_iphones_are_read_where_the_library_is(suffix, orientation):
    decoded = decode_image(heif(suffix, orientation))
    assert difference(decoded, fit_image(gradient())) < 6


def test_photos_of_iphones_say_what_to_install_where_it_is_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    Image.init()
    for kind in ("HEIF", "AVIF"):
        monkeypatch.delitem(Image.OPEN, kind, raising=False)
    for brand in (b"heic", b"mif1", b"avif"):
        assert "pip install pillow-heif" in reason_of(b"\0\0\0\x18ftyp" + brand + bytes(40))
