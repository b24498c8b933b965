"""The board's JPEG decoder, with GStreamer's own elements in the place of NVIDIA's."""

import functools
import threading

import numpy as np
import pytest

from edge_runtime.errors import ImageError, MissingRequirement
from edge_runtime.photos import decode, jpeg_hardware
from edge_runtime.photos.spec import INCEPTION_V3
from tests.helpers import encoded, gradient

decode_image = functools.partial(decode.decode_image, input_spec=INCEPTION_V3)
SOFTWARE = "jpegdec ! videoscale ! videoconvert"  # decodes and resizes as nvjpegdec and nvvidconv do


@pytest.fixture(scope="module")
def decoder():
    gi = pytest.importorskip("gi", reason="needs GStreamer for Python (python3-gi), which is not here")
    gi.require_version("Gst", "1.0")
    decoder = jpeg_hardware.HardwareDecoder(INCEPTION_V3, SOFTWARE)
    yield decoder
    decoder.close()


@pytest.fixture
def hardware_only(monkeypatch):
    """Fails the test where a photo is decoded without the hardware."""

    def refuse(*_):
        raise AssertionError("decoded without the hardware")

    monkeypatch.setattr(jpeg_hardware.decode, "decode_image", refuse)


def large(**settings):
    return encoded(gradient(1300, 1700), "jpg", **settings)


def difference(picture, other):
    return np.abs(picture.astype(int) - other).mean()


def test_it_is_off_unless_it_is_switched_on(monkeypatch):
    monkeypatch.delenv(jpeg_hardware.SWITCH, raising=False)
    assert jpeg_hardware.open_decoder(INCEPTION_V3) is None


def test_switched_on_where_there_is_none_it_says_what_is_missing(monkeypatch):
    monkeypatch.setenv(jpeg_hardware.SWITCH, "hardware")
    with pytest.raises(MissingRequirement, match="PICNIC_EDGE_JPEG=hardware: .*GStreamer"):
        jpeg_hardware.open_decoder(INCEPTION_V3)


def test_once_closed_it_is_not_opened_again_by_another_user(monkeypatch):
    monkeypatch.setattr(jpeg_hardware, "_gstreamer", lambda: None)
    monkeypatch.setattr(jpeg_hardware.HardwareDecoder, "_check", lambda decoder: None)
    monkeypatch.setattr(jpeg_hardware.HardwareDecoder, "_start", lambda *_: pytest.fail("it was opened again"))
    decoder = jpeg_hardware.HardwareDecoder(INCEPTION_V3)
    decoder.close()
    assert np.array_equal(decoder.decode_image(large()), decode_image(large()))
    assert decoder.failures == 0


def test_a_large_jpeg_comes_out_close_to_the_software_s(decoder):
    expected = decode_image(large())
    decoded = decoder.decode_image(large())
    assert decoded.shape == (299, 299, 3) and decoded.dtype == np.uint8
    assert difference(decoded, expected) < 2
    assert decoder.failures == 0


def test_it_goes_through_the_hardware(decoder, hardware_only):
    assert decoder.decode_image(large()).shape == (299, 299, 3)
    assert decoder.failures == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_comes_out_upright(decoder, orientation):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = large(exif=exif)
    assert difference(decoder.decode_image(data), decode_image(data)) < 2


@pytest.mark.parametrize(
    "data",
    [
        encoded(gradient(300, 400), "jpg"),
        large(progressive=True),
        encoded(gradient(1300, 1700), "png"),
        encoded(gradient(1300, 1700), "webp"),
    ],
    ids=["small", "progressive", "png", "webp"],
)
def test_other_photos_are_decoded_as_ever(decoder, data):
    assert np.array_equal(decoder.decode_image(data), decode_image(data))


def test_a_grey_jpeg_is_decoded_as_ever(decoder):
    from PIL import Image

    data = encoded(Image.fromarray(gradient(1300, 1700)).convert("L"), "jpg")
    assert np.array_equal(decoder.decode_image(data), decode_image(data))


@pytest.mark.parametrize("data", [b"", b"no photo", large()[:5000]], ids=["empty", "text", "truncated"])
def test_what_is_no_photo_is_an_error_as_ever(decoder, data):
    with pytest.raises(ImageError):
        decoder.decode_image(data)


def test_photos_of_different_sizes_in_turn(decoder):
    for height, width in [(1300, 1700), (1700, 1300), (1211, 1213), (1300, 1700)]:
        data = encoded(gradient(height, width), "jpg")
        assert difference(decoder.decode_image(data), decode_image(data)) < 2


def test_threads_get_their_own_photos(decoder):
    photos = [encoded(np.full((1200, 1200, 3), level, np.uint8), "jpg") for level in range(0, 250, 25)]
    wrong = []

    def decode(start):
        for number in range(start, start + 10):
            level = number % 10 * 25
            picture = decoder.decode_image(photos[number % 10])
            if abs(int(picture.mean()) - level) > 3:
                wrong.append((level, picture.mean()))

    threads = [threading.Thread(target=decode, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_photo_that_the_hardware_does_not_decode_is_decoded_without_it(decoder, monkeypatch):
    monkeypatch.setattr(jpeg_hardware, "_TIMEOUT_S", 0.3)
    good = large()
    place = good.index(b"\xff\xda") + 12
    bad = good[: place + 10] + good[-2:]  # a header, hardly any pixels, an end
    before = decoder.failures
    try:
        expected = decode_image(bad)
    except ImageError:
        with pytest.raises(ImageError):
            decoder.decode_image(bad)
    else:
        assert difference(decoder.decode_image(bad), expected) < 60
    assert difference(decoder.decode_image(good), decode_image(good)) < 2
    assert decoder.failures - before <= 1


def test_a_pipeline_that_gives_nothing_costs_no_photo(decoder, monkeypatch):
    monkeypatch.setattr(jpeg_hardware, "_TIMEOUT_S", 0.05)
    stuck = jpeg_hardware.HardwareDecoder(INCEPTION_V3, SOFTWARE)
    monkeypatch.setattr(stuck, "_elements", "valve drop=true ! " + SOFTWARE)
    stuck._stop()
    assert np.array_equal(stuck.decode_image(large()), decode_image(large()))
    assert stuck.failures == 1
    stuck.close()


def test_other_colours_are_refused_at_once(decoder):
    with pytest.raises(MissingRequirement, match="test picture .*255"):
        jpeg_hardware.HardwareDecoder(INCEPTION_V3, "jpegdec ! videobalance brightness=0.1 ! videoscale ! videoconvert")


def test_elements_that_are_not_there_are_named(decoder):
    with pytest.raises(MissingRequirement, match="nvjpegdec, nvvidconv"):
        jpeg_hardware.HardwareDecoder(INCEPTION_V3)


def test_opening_and_closing_leaves_no_thread(decoder):
    import os

    decoder.decode_image(large())
    before = len(os.listdir("/proc/self/task"))
    for _ in range(10):
        one = jpeg_hardware.HardwareDecoder(INCEPTION_V3, SOFTWARE)
        one.close()
        one.close()
    assert len(os.listdir("/proc/self/task")) <= before + 1
