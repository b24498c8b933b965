"""Presets, and what the user says about the preprocessing."""

import numpy as np
import pytest

from edge_runtime.errors import UsageError
from tests.train.importing import networks
from tests.train.importing.networks import options, preprocessing
from train.importing.original import Declared
from train.importing.preprocessing import PRESETS, SCALES, as_input, describe, from_options, of_declared

FILES = Declared("config.json", "crop", 36, "bicubic", "RGB", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))


def declared_by(files=None, side=networks.SIZE, **given):
    model = networks.original(preprocessing(), declared=files)._replace(height=side, width=side)
    return from_options(model, options(**given))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_says_all(name):
    model = networks.original(preprocessing())
    stated, lacking = of_declared(model, declared_by(preset=name))
    assert lacking == []
    assert len(stated.mean) == len(stated.std) == 3 and stated.input_spec.exact
    assert PRESETS[name].source


@pytest.mark.parametrize(
    "name, size, shorter_side",
    [("torchvision", 224, 256), ("torchvision", 299, 342), ("timm", 299, 341), ("ultralytics", 224, 224)],
)
def test_the_shorter_side_is_rounded_as_the_library_does(name, size, shorter_side):
    assert declared_by(side=size, preset=name).shorter_side == shorter_side


def test_keras_caffe_is_bgr_with_the_mean_of_blue_first():
    stated = declared_by(preset="keras-caffe")
    assert (stated.channels, stated.mean[0]) == ("BGR", 103.939)


def test_options_come_before_the_preset_and_the_preset_before_the_files():
    assert declared_by(FILES).filter == "bicubic"
    assert declared_by(FILES, preset="torchvision").mean == SCALES["imagenet"][1]
    stated = declared_by(FILES, preset="torchvision", scale="0..1", resize="squash:lanczos")
    assert (stated.resize, stated.filter, stated.std) == ("squash", "lanczos", (255.0,) * 3)
    assert "torchvision" in stated.source and "--scale, --resize" in stated.source


def test_a_colour_keeps_its_mean_when_the_order_changes():
    assert declared_by(FILES, channels="BGR").mean == (3.0, 2.0, 1.0)
    assert declared_by(scale="imagenet", channels="BGR").mean == SCALES["imagenet"][1][::-1]
    assert declared_by(scale="caffe").channels == "BGR"
    assert declared_by(scale="1,2,3/4,5,6", channels="BGR").mean == (1.0, 2.0, 3.0)


def test_letterbox_and_crop_take_values():
    assert declared_by(resize="letterbox:0,10,20").colour == (0, 10, 20)
    assert declared_by(resize="crop:0.8", side=224).shorter_side == 280
    assert declared_by(resize="crop", side=224).shorter_side == 224


@pytest.mark.parametrize(
    "given",
    [
        {"preset": "pytorch"},
        {"size": "7"},
        {"size": "64x64x3"},
        {"size": "64"},  # the graph takes 32
        {"scale": "0..2"},
        {"scale": "1,2,3/0,1,1"},
        {"scale": "1,2,3/nan,1,1"},
        {"channels": "GBR"},
        {"resize": "stretch"},
        {"resize": "crop:2"},
        {"resize": "crop:bilinear:0.8"},
        {"resize": "squash:0.875"},
        {"resize": "squash:area"},
        {"resize": "letterbox:1,2"},
        {"resize": "letterbox:1,2,256"},
    ],
)
def test_what_cannot_be_is_an_error_that_names_the_option(given):
    ((name, value),) = given.items()
    with pytest.raises(UsageError, match="--%s" % name) as caught:
        declared_by(**given)
    assert value in str(caught.value)


def test_the_size_comes_from_the_graph_the_files_or_the_option(capsys):
    assert declared_by(side=None, files=Declared(height=96, width=64)).height == 96
    assert declared_by(side=None).width == 224
    assert "--size" in capsys.readouterr().err
    model = networks.original(preprocessing())._replace(height=None, width=None)
    stated = from_options(model, options(size="64x128"))
    assert (stated.height, stated.width) == (64, 128)


def test_another_size_scales_the_shorter_side_that_the_files_say():
    files = FILES._replace(shorter_side=256, height=224, width=224)
    model = networks.original(preprocessing(), declared=files)._replace(height=None, width=None)
    assert from_options(model, options(size="448")).shorter_side == 512


def test_bytes_are_not_scaled():
    model = networks.original(preprocessing())._replace(dtype="uint8")
    with pytest.raises(UsageError, match="uint8"):
        from_options(model, options(scale="-1..1"))
    stated, lacking = of_declared(model, from_options(model, options(channels="RGB", resize="squash")))
    assert lacking == [] and stated.std == (1.0, 1.0, 1.0)


def test_what_is_not_said_is_named():
    model = networks.original(preprocessing())
    assert of_declared(model, declared_by(channels="RGB")) == (None, ["--scale", "--resize"])


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pixels_become_what_the_original_takes(layout, dtype):
    model = networks.original(preprocessing(), layout)._replace(dtype=dtype)
    pictures = np.random.RandomState(0).randint(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    values = as_input(model, preprocessing("caffe", "BGR"), pictures)
    assert values.dtype == dtype and values.flags.c_contiguous
    blue = values[:, 0] if layout == "NCHW" else values[..., 0]
    assert np.allclose(blue, pictures[..., 2] - 103.939, atol=0.1 if dtype == "float16" else 1e-4)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preprocessing_is_described_by_the_options_that_give_it(name):
    model = networks.original(preprocessing())._replace(height=224, width=224)
    stated, _ = of_declared(model, from_options(model, options(preset=name)))
    words = describe(stated).split()
    given = dict(zip((word[2:] for word in words[::2]), words[1::2]))
    again, _ = of_declared(model, from_options(model, options(**given)))
    assert again == stated
