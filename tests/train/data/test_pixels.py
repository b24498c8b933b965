"""Training must see exactly the pixels that the device sees (train/data/batches.py, edge_runtime/photos/decode.py)."""

import os

import numpy as np
import pytest
from PIL import Image

from edge_runtime.errors import UsageError
from edge_runtime.photos import read, spec
from edge_runtime.sources.registry import open_source
from tests import helpers
from train.data.batches import photo_batches, untuned
from train.model import network, tf_setup


@pytest.fixture(scope="module", autouse=True)
def tensorflow():
    pytest.importorskip("tensorflow", reason="training needs TensorFlow")
    tf_setup.load_tensorflow()


def pipeline_pixels(paths, batch_size=4):
    """Returns (all pictures as training is fed them, sizes of the batches)."""
    batches = [batch.numpy() for batch in photo_batches(paths, batch_size, spec.INCEPTION_V3)]
    return np.concatenate(batches), [len(batch) for batch in batches]


def assert_same_pixels(paths):
    pixels, _ = pipeline_pixels(paths)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (len(paths), 299, 299, 3)
    for path, picture in zip(paths, pixels):
        assert np.array_equal(picture, read.read_image(path, spec.INCEPTION_V3)), path


@pytest.fixture(scope="module")
def drawn(samples, tmp_path_factory):
    """A drawn photo as JPEG, PNG, BMP, WebP, turned by EXIF in all ways, transparent, tiny, large."""
    folder = tmp_path_factory.mktemp("kinds")
    name = os.path.join(samples, "photos", "Milk", "001.jpg")
    with Image.open(name) as file:
        photo = file.convert("RGB")
    for suffix in ("png", "bmp", "webp"):
        photo.save(str(folder / ("plain." + suffix)))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        photo.save(str(folder / f"turned{orientation}.jpg"), exif=exif, quality=95)
    photo.resize((2600, 1950)).save(str(folder / "large.jpg"))  # decoded at 1/4
    photo.resize((700, 650)).save(str(folder / "medium.jpg"))  # decoded at 1/2
    photo.resize((40, 30)).save(str(folder / "small.jpg"))
    photo.resize((1200, 20)).save(str(folder / "wide.jpg"))
    photo.convert("L").save(str(folder / "grey.jpg"))
    photo.convert("CMYK").save(str(folder / "cmyk.jpg"))
    photo.putalpha(128)
    photo.save(str(folder / "glass.png"))
    return folder


def test_training_is_fed_what_the_device_decodes(drawn, samples):
    paths = sorted(str(path) for path in drawn.iterdir())
    assert len(paths) == 18
    assert_same_pixels(paths)
    assert_same_pixels([item.path for item in open_source(os.path.join(samples, "photos"))][::5])


def test_real_photos_too(grocery):
    paths = [item.path for item in open_source(os.path.join(grocery, "val"))]
    assert len(paths) == 296
    assert_same_pixels(paths)


def test_the_pixels_are_right_not_only_equal(drawn):
    """A guard for the tests above: both sides could agree on something wrong."""
    plain = read.read_image(str(drawn / "plain.png"), spec.INCEPTION_V3).astype(int)
    with Image.open(str(drawn / "plain.png")) as file:
        independent = np.asarray(file.convert("RGB").resize((299, 299), Image.BOX)).astype(int)
    assert np.abs(plain - independent).mean() < 4
    for orientation in range(1, 9):
        upright = pipeline_pixels([str(drawn / f"turned{orientation}.jpg")])[0][0].astype(int)
        undone = undo(plain, orientation)
        assert np.abs(upright - undone).mean() < 6, orientation
    for name in ("large.jpg", "medium.jpg"):
        assert np.abs(pipeline_pixels([str(drawn / name)])[0][0].astype(int) - plain).mean() < 8, name


def undo(picture, orientation):
    """What a viewer shows of a picture stored with an EXIF orientation, by the table of the EXIF standard."""
    ways = {
        1: lambda p: p,
        2: np.fliplr,
        3: lambda p: np.rot90(p, 2),
        4: np.flipud,
        5: lambda p: np.fliplr(np.rot90(p, -1)),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: np.flipud(np.rot90(p, -1)),
        8: np.rot90,
    }
    return ways[orientation](picture)


def test_order_is_kept_and_the_last_batch_is_not_dropped(tmp_path):
    paths = []
    for number in range(11):  # large and small ones in turn, so that their decoding ends out of order
        side = 1500 if number % 3 == 0 else 20
        paths.append(str(tmp_path / f"{number:02d}.png"))
        helpers.write_photo(paths[-1], helpers.two_greys(number * 20 + 10, side, side))
    pixels, sizes = pipeline_pixels(paths, 4)
    assert sizes == [4, 4, 3]
    assert pixels[:, 150, 290, 0].tolist() == [number * 20 + 13 for number in range(11)]
    _, sizes = pipeline_pixels(paths, 16)
    assert sizes == [11]


def test_a_photo_that_vanished_stops_the_training_and_is_named(tmp_path):
    helpers.write_photo(tmp_path / "a.png", helpers.photo((1, 2, 3)))
    with pytest.raises(UsageError, match="gone.png: "):
        pipeline_pixels([str(tmp_path / "a.png"), str(tmp_path / "gone.png")])


def test_scaling_maps_0_and_255_to_the_ends_of_the_range():
    scaled = network.scale(np.array([0, 51, 255], np.uint8)).numpy()
    assert scaled.dtype == np.float32
    assert scaled == pytest.approx([-1.0, 51 / 127.5 - 1, 1.0], abs=1e-6)


def test_nothing_is_left_to_tensorflow_s_autotuning():
    options = untuned(network.require("tensorflow").data.Dataset.range(3)).options()
    tuned = options.autotune.enabled if hasattr(options, "autotune") else options.experimental_optimization.autotune
    assert tuned is False
