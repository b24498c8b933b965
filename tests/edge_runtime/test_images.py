"""From the bytes of a photo to the picture the network takes: every kind of file, and every way it can be broken."""

import io
import os
import signal
import struct

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from edge_runtime import images
from edge_runtime.errors import ImageError
from tests.helpers import encoded, gradient, png_chunk, raw_png, write_bytes

SIDE = images.SIDE
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def difference(first, second):
    """The mean absolute difference of two pictures, in levels."""
    return np.abs(first.astype(int) - second.astype(int)).mean()


def reason_of(data):
    with pytest.raises(ImageError) as refused:
        images.decode_image(data)
    return str(refused.value)


def middle_of(data):
    """The colour in the middle of a decoded photo."""
    return images.decode_image(data)[SIDE // 2, SIDE // 2].tolist()


@pytest.fixture
def decoder(monkeypatch):
    """The flags of every call of OpenCV's decoder, which still decodes."""
    flags, decode = [], cv2.imdecode

    def spy(data, flag):
        flags.append(flag)
        return decode(data, flag)

    monkeypatch.setattr(cv2, "imdecode", spy)
    return flags


@pytest.fixture
def no_decoder(monkeypatch):
    """A call of any decoder fails the test."""

    def decode(*_, **__):
        pytest.fail("the photo was decoded")

    monkeypatch.setattr(cv2, "imdecode", decode)
    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)


# --- whole photos


@pytest.mark.parametrize("suffix, most", [("jpg", 3), ("png", 0), ("bmp", 0), ("gif", 12), ("webp", 3)])
def test_each_format_decodes_to_what_was_saved(suffix, most):
    found = images.decode_image(encoded(gradient(), suffix))
    assert found.shape == (SIDE, SIDE, 3) and found.dtype == np.uint8
    assert difference(found, images.fit_image(gradient())) <= most


def test_the_bytes_tell_the_format_whatever_the_suffix_says(tmp_path):
    path = write_bytes(tmp_path / "really_a_png.jpeg", encoded(gradient(), "png"))
    assert np.array_equal(images.read_image(path), images.fit_image(gradient()))


def test_a_file_name_may_be_bytes(tmp_path):
    path = write_bytes(tmp_path / "photo.png", encoded(gradient(), "png"))
    assert np.array_equal(images.read_image(os.fsencode(path)), images.fit_image(gradient()))


def test_a_cmyk_jpeg_keeps_its_colours():
    data = encoded(Image.fromarray(gradient()).convert("CMYK"), "jpg", quality=95)
    assert difference(images.decode_image(data), images.fit_image(gradient())) < 4


def test_a_grey_jpeg_becomes_three_equal_channels():
    found = images.decode_image(encoded(Image.fromarray(gradient()).convert("L"), "jpg"))
    assert np.array_equal(found[..., 0], found[..., 1]) and np.array_equal(found[..., 0], found[..., 2])
    assert difference(found, images.fit_image(np.array(Image.fromarray(gradient()).convert("L").convert("RGB")))) < 3


def test_a_progressive_jpeg_decodes():
    data = encoded(gradient(), "jpg", progressive=True)
    assert difference(images.decode_image(data), images.fit_image(gradient())) < 3


@pytest.mark.parametrize("channels", [1, 3])
def test_a_16_bit_png_is_scaled_to_8_bits_not_clipped(channels):
    deep = (gradient()[..., :channels].astype(np.uint16) * 257).squeeze()
    _, data = cv2.imencode(".png", deep if channels == 1 else deep[..., ::-1])
    expected = np.repeat(gradient()[..., :1], 3, axis=2) if channels == 1 else gradient()
    assert difference(images.decode_image(data.tobytes()), images.fit_image(expected)) < 1


def test_a_16_bit_grey_png_with_a_transparent_grey_is_not_clipped_to_white():
    pixels = (b"\0" + struct.pack(">2H", 0x4000, 0x4000)) * 2
    assert middle_of(raw_png(2, 2, pixels, depth=16, kind=0, more=png_chunk(b"tRNS", b"\0\0"))) == [64, 64, 64]


def test_a_palette_png_shows_its_palette():
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette(list(BLUE + RED))
    assert middle_of(encoded(picture, "png")) == list(RED)


# --- transparency stands on white, as product photos do


@pytest.mark.parametrize(
    "picture, expected",
    [
        (Image.new("RGBA", (8, 8), RED + (255,)), [255, 0, 0]),
        (Image.new("RGBA", (8, 8), RED + (0,)), [255, 255, 255]),
        (Image.new("RGBA", (8, 8), (0, 100, 0, 128)), [127, 177, 127]),
        (Image.new("LA", (8, 8), (10, 255)), [10, 10, 10]),
        (Image.new("LA", (8, 8), (10, 0)), [255, 255, 255]),
    ],
    ids=["opaque RGBA", "clear RGBA", "half clear RGBA", "opaque LA", "clear LA"],
)
def test_alpha_is_laid_over_white(picture, expected):
    assert middle_of(encoded(picture, "png")) == expected


@pytest.mark.parametrize("clear, expected", [(0, RED), (1, WHITE)])
def test_a_palette_colour_marked_transparent_is_laid_over_white(clear, expected):
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette(list(BLUE + RED))
    assert middle_of(encoded(picture, "png", transparency=clear)) == list(expected)


@pytest.mark.parametrize("colour, expected", [(RED, WHITE), (BLUE, BLUE)])
def test_an_rgb_colour_marked_transparent_is_laid_over_white(colour, expected):
    assert middle_of(encoded(Image.new("RGB", (8, 8), colour), "png", transparency=RED)) == list(expected)


def test_a_transparent_webp_is_laid_over_white():
    assert middle_of(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "webp", lossless=True)) == list(WHITE)


# --- several pictures in one file: the first counts


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
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
    assert difference(images.decode_image(two_pictures), images.fit_image(gradient(1200, 1300))) < 3


def test_a_multi_picture_jpeg_is_scaled_while_it_is_decoded(two_pictures, decoder):
    images.decode_image(two_pictures)
    assert decoder == [cv2.IMREAD_REDUCED_COLOR_4 | cv2.IMREAD_IGNORE_ORIENTATION]


def test_a_multi_picture_jpeg_cut_in_its_first_picture_is_truncated(two_pictures):
    assert "truncated" in reason_of(two_pictures[: len(two_pictures) // 3])


def test_a_motion_photo_with_a_film_behind_it_decodes():
    film = b"\0\0\0\x18ftypmp42" + b"\xff\xda" + bytes(range(256)) * 4  # holds a start-of-scan mark by chance
    found = images.decode_image(encoded(gradient(), "jpg") + film)
    assert difference(found, images.fit_image(gradient())) < 3


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
    found = images.decode_image(with_orientation(gradient(), orientation))
    assert difference(found, images.fit_image(gradient())) < 3


@pytest.mark.parametrize("orientation", sorted(STORED))
def test_every_exif_orientation_comes_out_upright_when_scaled_while_decoding(orientation):
    found = images.decode_image(with_orientation(gradient(1300, 1400), orientation))
    assert difference(found, images.fit_image(gradient(1300, 1400))) < 3


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_exif_orientation_counts_in_other_formats_too(suffix):
    found = images.decode_image(with_orientation(gradient(), 6, suffix))
    assert difference(found, images.fit_image(gradient())) < 3


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_that_does_not_exist_counts_as_upright(orientation):
    found = images.decode_image(with_orientation(gradient(), orientation))
    assert difference(found, images.fit_image(gradient())) < 3


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
    found = images.decode_image(with_segment(encoded(gradient(), "jpg"), exif))
    assert difference(found, images.fit_image(gradient())) < 3


def with_segment(jpeg, body, marker=b"\xff\xe1"):
    """Puts a segment (by default APP1, where EXIF lives) behind the start of a JPEG."""
    return jpeg[:2] + marker + struct.pack(">H", 2 + len(body)) + body + jpeg[2:]


# --- broken photos


@pytest.mark.parametrize(
    "data",
    [b"this is no photo\n" * 20, b"\xff\xd8", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"\0" * 5000],
    ids=["text", "JPEG mark", "JPEG marks", "PNG signature", "GIF signature", "BMP signature", "zeros"],
)
def test_what_is_no_photo_is_called_that(data):
    assert reason_of(data) == "is not a JPEG, PNG, BMP, GIF or WebP picture"


def test_a_format_off_the_list_is_refused():
    assert "is not a JPEG" in reason_of(encoded(gradient(), "tiff"))


def test_an_empty_file_is_called_empty():
    assert reason_of(b"") == "is empty (0 bytes)"


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("left", [0.2, 0.5, 0.9, 0.999])
def test_a_jpeg_cut_anywhere_is_truncated(left, progressive):
    data = encoded(gradient(), "jpg", progressive=progressive)
    assert reason_of(data[: int(len(data) * left)]) == "is truncated (JPEG without its end)"


@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_without_its_last_bytes_is_truncated(missing):
    assert "truncated" in reason_of(encoded(gradient(), "jpg")[:-missing])


@pytest.mark.parametrize("left", [0.3, 0.6, 0.99])
def test_a_cut_jpeg_is_truncated_although_its_exif_thumbnail_is_whole(left):
    thumbnail = encoded(gradient(60, 80), "jpg")
    data = with_segment(encoded(gradient(), "jpg"), b"Exif\0\0" + thumbnail)
    assert difference(images.decode_image(data), images.fit_image(gradient())) < 3
    assert "truncated" in reason_of(data[: len(thumbnail) + int((len(data) - len(thumbnail)) * left)])


def test_a_jpeg_whose_tail_was_never_written_is_truncated():
    data = encoded(gradient(), "jpg")
    assert "truncated" in reason_of(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def test_fill_bytes_between_the_segments_of_a_jpeg_are_fine():
    data = encoded(gradient(), "jpg")
    filled = data[:2] + b"\xff" * 5 + data[2:]
    assert np.array_equal(images.decode_image(filled), images.decode_image(data))


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "webp"])
@pytest.mark.parametrize("left", [0.3, 0.6, 0.98])
def test_other_formats_cut_anywhere_are_truncated(suffix, left):
    data = encoded(gradient(), suffix)
    assert "truncated or corrupt (%s" % suffix.upper() in reason_of(data[: int(len(data) * left)])


def test_a_png_with_alpha_cut_short_is_truncated():
    data = encoded(Image.fromarray(gradient()).convert("RGBA"), "png")
    assert "truncated or corrupt (PNG" in reason_of(data[: len(data) // 2])


# --- sizes


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 2), (299, 299), (298, 300)])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_any_proportion_is_squashed_to_the_square(size, suffix):
    found = images.decode_image(encoded(Image.new("RGB", size, (200, 40, 90)), suffix))
    assert found.shape == (SIDE, SIDE, 3)
    assert difference(found, np.full_like(found, (200, 40, 90))) < 2


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
    "shorter, flag",
    [
        (597, cv2.IMREAD_COLOR),
        (598, cv2.IMREAD_REDUCED_COLOR_2),
        (1195, cv2.IMREAD_REDUCED_COLOR_2),
        (1196, cv2.IMREAD_REDUCED_COLOR_4),
        (2391, cv2.IMREAD_REDUCED_COLOR_4),
        (2392, cv2.IMREAD_REDUCED_COLOR_8),
    ],
)
@pytest.mark.parametrize("upright", [False, True])
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_covers_the_input(shorter, flag, upright, decoder):
    size = (shorter + 50, shorter) if upright else (shorter, shorter + 50)
    scaled = images.decode_image(encoded(gradient(*size), "jpg"))
    assert decoder == [flag | cv2.IMREAD_IGNORE_ORIENTATION]
    assert difference(scaled, images.fit_image(gradient(*size))) < 2


@pytest.mark.parametrize("size", [(598, 640), (1300, 1196), (2392, 2400)])
def test_scaled_decoding_shows_the_same_picture_as_decoding_every_pixel(size, decoder):
    data = encoded(gradient(*size), "jpg")
    assert difference(images.decode_image(data), images.decode_image(data, scaled=False)) < 1
    assert decoder[1] == cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def test_a_png_is_never_decoded_at_a_smaller_scale(decoder):
    images.decode_image(encoded(Image.new("RGB", (700, 700)), "png"))
    assert decoder == [cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION]


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
    with pytest.raises(ImageError, match=r"must be a uint8 array \[height, width, 3\], RGB; got "):
        images.fit_image(frame)


@pytest.mark.parametrize("size", [(299, 299), (100, 100), (600, 100), (900, 700)])
def test_fitting_never_changes_the_caller_s_array(size):
    frame = gradient(*size)
    before = frame.copy()
    fitted = images.fit_image(frame)
    assert fitted.shape == (SIDE, SIDE, 3)
    assert np.array_equal(frame, before)


@pytest.mark.parametrize(
    "view",
    [np.s_[:, :, ::-1], np.s_[::-1], np.s_[::2, ::3], np.s_[:, ::-1]],
    ids=["BGR", "flipped", "strided", "mirrored"],
)
def test_a_frame_may_be_a_view(view):
    frame = gradient(700, 900)[view]
    assert np.array_equal(images.fit_image(frame), images.fit_image(np.ascontiguousarray(frame)))


def test_a_read_only_frame_is_fine():
    frame = gradient()
    frame.flags.writeable = False
    assert np.array_equal(images.fit_image(frame), images.fit_image(gradient()))


# --- files


def test_a_missing_file_is_named_by_its_reason(tmp_path):
    with pytest.raises(ImageError, match="^No such file or directory$"):
        images.read_image(str(tmp_path / "nowhere.jpg"))


def test_a_folder_is_no_photo(tmp_path):
    with pytest.raises(ImageError, match="^is a directory$"):
        images.read_image(str(tmp_path))


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
        images.read_image(str(tmp_path / "pipe.jpg"))


def test_a_device_is_refused():
    with pytest.raises(ImageError, match="^is not a regular file$"):
        images.read_image("/dev/null")


def test_a_name_with_a_nul_byte_is_an_unreadable_photo():
    with pytest.raises(ImageError, match="null byte|NUL"):
        images.read_image("a\0b.jpg")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_read_permission_says_so(tmp_path):
    path = write_bytes(tmp_path / "secret.jpg", encoded(gradient(), "jpg"))
    os.chmod(path, 0)
    with pytest.raises(ImageError, match="^Permission denied$"):
        images.read_image(path)


def test_a_file_that_may_not_be_opened_says_so(tmp_path, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(images, "open", refuse, raising=False)
    with pytest.raises(ImageError, match="^Permission denied$"):
        images.read_image(write_bytes(tmp_path / "secret.jpg", encoded(gradient(), "jpg")))
