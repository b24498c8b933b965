"""Decoded pictures: their size upright, their sharpness."""

import cv2
import numpy as np
import pytest
from PIL import Image

from edge_runtime.photos import decode, jpeg, picture, resize
from edge_runtime.photos import orientation as orientation_of
from edge_runtime.photos.spec import InputSpec
from tests.helpers import encoded, gradient


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_upright_size_is_that_of_the_turned_picture(orientation):
    rgb = np.zeros((20, 30, 3), np.uint8)
    height, width = orientation_of.turn_upright(rgb, orientation).shape[:2]
    assert orientation_of.upright_size(30, 20, orientation) == (width, height)


def test_a_blurred_picture_is_less_sharp():
    rgb = np.random.RandomState(0).randint(0, 256, (299, 299, 3)).astype(np.uint8)
    assert picture.sharpness(cv2.GaussianBlur(rgb, (0, 0), 2)) < 0.1 * picture.sharpness(rgb)


# --- the picture that a network takes


def drawn(height, width):
    return np.random.RandomState(0).randint(0, 256, (height, width, 3)).astype(np.uint8)


def pillow(rgb, size, resample):
    return np.asarray(Image.fromarray(rgb).resize(size, resample))


@pytest.mark.parametrize("name, resample", [("nearest", 0), ("bilinear", 2), ("bicubic", 3), ("lanczos", 1)])
def test_a_pillow_filter_gives_pillow_s_pixels(name, resample):
    rgb = drawn(90, 120)
    fitted = resize.fit_image(rgb, InputSpec(48, 64, filter=name))
    assert np.array_equal(fitted, pillow(rgb, (64, 48), resample))


def test_a_crop_is_the_middle_of_the_photo_scaled_by_its_shorter_side():
    rgb = drawn(90, 121)
    fitted = resize.fit_image(rgb, InputSpec(64, 64, "crop", shorter_side=72, filter="bilinear"))
    scaled = pillow(rgb, (72 * 121 // 90, 72), 2)
    assert np.array_equal(fitted, scaled[4:68, 16:80])


def test_a_crop_of_a_very_long_picture_is_that_of_its_middle():
    rgb = drawn(40, 4000)
    spec = InputSpec(64, 64, "crop", shorter_side=72, filter="bilinear")
    assert np.array_equal(resize.fit_image(rgb, spec), resize.fit_image(rgb[:, 1920:2080], spec))


@pytest.mark.parametrize("height, width", [(500, 60), (60, 500), (41, 41), (1, 3)])
def test_a_crop_that_is_no_square_always_covers_the_input(height, width):
    fitted = resize.fit_image(np.full((height, width, 3), 9, np.uint8), InputSpec(48, 96, "crop", shorter_side=96))
    assert fitted.shape == (48, 96, 3) and fitted.min() == fitted.max() == 9


def test_a_letterbox_keeps_the_whole_photo_between_bars_of_its_colour():
    fitted = resize.fit_image(np.full((50, 100, 3), 9, np.uint8), InputSpec(64, 64, "letterbox", colour=(1, 2, 3)))
    assert (fitted[:16] == (1, 2, 3)).all() and (fitted[48:] == (1, 2, 3)).all() and (fitted[16:48] == 9).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "spec",
    [
        InputSpec(48, 96),
        InputSpec(64, 48, "crop", shorter_side=72),
        InputSpec(64, 96, "letterbox", colour=(255, 0, 0)),
        InputSpec(64, 96, filter="bicubic"),
    ],
    ids=str,
)
def test_a_photo_on_its_side_gives_the_picture_of_the_upright_one(spec, orientation):
    upright = gradient(240, 330)
    stored = Image.fromarray(upright)
    if orientation > 1:  # how a camera that was held like that stores it
        back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
        stored = stored.transpose(back)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix, most in (("png", 1.5), ("jpeg", 3)):  # WebP and BMP come as BGR
        data = encoded(stored, suffix, exif=exif)
        decoded = decode.decode_image(data, spec)
        expected = resize.fit_image(upright, spec)
        assert decoded.shape == spec.shape and np.abs(decoded.astype(int) - expected).mean() < most


def test_the_bars_of_a_photo_that_is_decoded_as_bgr_have_their_colour():
    spec = InputSpec(64, 64, "letterbox", colour=(255, 0, 10))
    assert decode.decode_image(encoded(gradient(100, 200), "bmp"), spec)[0, 0].tolist() == [255, 0, 10]


def test_a_jpeg_is_decoded_smaller_only_where_the_filter_averages(monkeypatch):
    sizes, decode_jpeg = [], jpeg.simplejpeg.decode_jpeg

    def spy(*arguments, **settings):
        sizes.append((settings["min_height"], settings["min_width"]))
        return decode_jpeg(*arguments, **settings)

    monkeypatch.setattr(jpeg.simplejpeg, "decode_jpeg", spy)
    data = encoded(gradient(800, 1200), "jpg")
    for spec in (
        InputSpec(100, 100),
        InputSpec(100, 100, "crop", shorter_side=110),
        InputSpec(100, 150, "letterbox", colour=(0, 0, 0)),
        InputSpec(100, 100, filter="bilinear"),
    ):
        decode.decode_image(data, spec)
    assert sizes == [(100, 150), (200, 300), (100, 150), (800, 1200)]
