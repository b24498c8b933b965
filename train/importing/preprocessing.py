"""How a model's makers turned photos into numbers: presets, what the user says, and the arithmetic itself."""

import math
import typing

import numpy as np

from edge_runtime.console import say
from edge_runtime.errors import UsageError
from edge_runtime.photos.spec import FILTERS, MAX_SIDE, MIN_SIDE, RESIZES, InputSpec, checked
from train.importing.original import Declared

DEFAULT_SIZE = 224  # where neither the graph, the files nor the user say another: that of most ImageNet classifiers
DEFAULT_FILTER = "bilinear"
DEFAULT_COLOUR = (114, 114, 114)  # of a letterbox's bars: ultralytics' grey


class Preprocessing(typing.NamedTuple):
    """From a photo to the numbers that an original takes.

    Attributes:
        input_spec: of the makers' own picture, with their filter (one of Pillow's).
        channels: "RGB" or "BGR".
        mean, std: three numbers each, in the order of the channels, for pixels 0 to 255: (pixel - mean) / std goes in.
    """

    input_spec: InputSpec
    channels: str
    mean: typing.Tuple[float, ...]
    std: typing.Tuple[float, ...]


# (the order of the channels, mean and std of pixels 0 to 255).
SCALES = {
    "0..255": ("RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "0..1": ("RGB", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "-1..1": ("RGB", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "imagenet": ("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "caffe": ("BGR", (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
}


class Preset(typing.NamedTuple):
    """How one library prepares photos.

    Attributes:
        source: whose way it is, and where it can be read.
        resize, filter: as in Declared.
        scale: name in SCALES.
        channels: "RGB" or "BGR".
        share: for "crop": of the scaled photo's shorter side that the centre is.
        rounding: makes an int of size / share: the scaled photo's shorter side.
    """

    source: str
    resize: str
    filter: str
    scale: str
    channels: str = "RGB"
    share: float = 1.0
    rounding: typing.Callable = math.floor


_KERAS = "keras.utils.load_img(target_size=...) and preprocess_input of "
PRESETS = {
    "keras-tf": Preset(_KERAS + "Inception, MobileNet, MobileNetV2, Xception", "squash", "nearest", "-1..1"),
    "keras-caffe": Preset(_KERAS + "ResNet, VGG", "squash", "nearest", "caffe", "BGR"),
    "keras-torch": Preset(_KERAS + "DenseNet", "squash", "nearest", "imagenet"),
    "keras-none": Preset(
        _KERAS + "EfficientNet, ConvNeXt, MobileNetV3, which scale inside", "squash", "nearest", "0..255"
    ),
    "torchvision": Preset(
        "torchvision.transforms: Resize, CenterCrop, ToTensor, Normalize, as its ImageNet reference has them",
        "crop",
        "bilinear",
        "imagenet",
        share=0.875,
        rounding=round,
    ),
    "timm": Preset(
        "timm.data.resolve_data_config without a pretrained_cfg of its own",
        "crop",
        "bicubic",
        "imagenet",
        share=0.875,
    ),
    "vit": Preset("transformers.ViTImageProcessor with its defaults", "squash", "bilinear", "-1..1"),
    "ultralytics": Preset("ultralytics.data.augment.classify_transforms since version 8.1", "crop", "bilinear", "0..1"),
    "teachable-machine": Preset(
        "Teachable Machine's Keras example: ImageOps.fit, (x / 127.5) - 1", "crop", "lanczos", "-1..1"
    ),
    "custom-vision": Preset(
        "Microsoft's example for exported ONNX models: Pillow, BGR, 0 to 255", "squash", "bicubic", "0..255", "BGR"
    ),
    "jetson-inference": Preset("jetson-inference's imageNet::PreProcess", "squash", "nearest", "imagenet"),
    "tf-hub": Preset("TensorFlow Hub's common signatures for images: 0 to 1", "squash", "bilinear", "0..1"),
}


def from_options(original, options):
    """Returns what is known of an original's preprocessing: its files, over these --preset, over both the options.

    Args:
        original: train.importing.original.Original.
        options: with preset, size, scale, channels and resize as on the command line, None each where not given:
            size "224" or "HEIGHTxWIDTH"; scale a name in SCALES or "MEAN,MEAN,MEAN/STD,STD,STD" for pixels 0 to 255 in
            the order of the channels; channels "RGB" or "BGR"; resize "squash", "crop:SHARE" or
            "letterbox:RED,GREEN,BLUE", each with ":FILTER" behind it where the filter is known.

    Returns:
        Declared with height and width.

    Raises:
        UsageError: an option is none of these, or the graph takes another size.
    """
    declared = original.declared
    height, width = _size(original, options.size)
    if options.preset is not None:
        declared = _declared_by_preset(options.preset, max(height, width))
    elif options.size is not None and declared.height and declared.shorter_side:
        shorter_side = int(round(declared.shorter_side * max(height, width) / max(declared.height, declared.width)))
        declared = declared._replace(shorter_side=shorter_side)
    declared = declared._replace(height=height, width=width)
    changes: typing.Dict[str, typing.Any] = {}
    if options.channels not in (None, "RGB", "BGR"):
        raise UsageError(f"--channels {options.channels}: expected RGB or BGR")
    channels = options.channels or declared.channels
    if options.scale is not None:
        order, mean, std = _parse_scale(options.scale)
        channels = channels or order
        changes["mean"], changes["std"] = in_order(mean, std, order is None or channels == order)
    elif options.channels is not None and declared.mean and declared.channels:  # a colour keeps its mean
        changes["mean"], changes["std"] = in_order(declared.mean, declared.std, declared.channels == channels)
    changes["channels"] = channels
    if options.resize is not None:
        changes.update(_parse_resize(options.resize, max(height, width), declared.filter))
    names = [f"--{name}" for name in ("scale", "channels", "resize") if getattr(options, name) is not None]
    if names:
        changes["source"] = " and ".join(([declared.source] if declared.source else []) + [", ".join(names)])
    declared = declared._replace(**changes)
    if original.dtype == "uint8" and options.scale not in (None, "0..255"):
        raise UsageError(
            f"--scale {options.scale}: {original.path} takes uint8 pixels, 0..255, and scales them in its graph"
        )
    return declared


def of_declared(original, declared):
    """Returns (Preprocessing, []) where what is declared is complete, else (None, names of the options that lack).

    Args:
        original: train.importing.original.Original.
        declared: result of from_options.
    """
    mean, std, channels = declared.mean, declared.std, declared.channels
    if original.dtype == "uint8":
        _, mean, std = SCALES["0..255"]
    lacking = [
        option
        for option, value in (("--scale", mean and std), ("--channels", channels), ("--resize", declared.resize))
        if not value
    ]
    if lacking:
        return None, lacking
    return Preprocessing(input_spec(declared, declared.resize), channels, tuple(mean), tuple(std)), []


def input_spec(declared, resize, share=None):
    """Returns the makers' InputSpec.

    Args:
        declared: Declared with height and width; its filter, colour and shorter_side count where they are known.
        resize: of edge_runtime.photos.spec.RESIZES.
        share: for "crop": of the shorter side that the centre is; None for the declared shorter_side.

    Raises:
        UsageError: the size is none that a bundle may have.
    """
    height, width = declared.height or DEFAULT_SIZE, declared.width or declared.height or DEFAULT_SIZE
    shorter_side, colour = 0, ()
    if resize == "crop":
        given = share is None and declared.shorter_side
        shorter_side = declared.shorter_side if given else _shorter_side(max(height, width), share or 1.0, math.floor)
    if resize == "letterbox":
        colour = tuple(declared.colour or DEFAULT_COLOUR)
    try:
        return checked(InputSpec(height, width, resize, shorter_side, colour, declared.filter or DEFAULT_FILTER))
    except ValueError as error:
        raise UsageError(f"{declared.source or 'the input'}: {error}")


def as_input(original, preprocessing, pictures):
    """Returns what an original takes, in its layout and dtype.

    Args:
        original: train.importing.original.Original.
        preprocessing: Preprocessing.
        pictures: uint8 [n, height, width, 3], RGB.
    """
    values = pictures if preprocessing.channels == "RGB" else pictures[..., ::-1]
    if original.dtype != "uint8":
        mean, std = np.array(preprocessing.mean, np.float32), np.array(preprocessing.std, np.float32)
        values = ((values.astype(np.float32) - mean) / std).astype(original.dtype)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if original.layout == "NCHW" else values)


def scale_name(channels, mean, std):
    """Returns the name of a mean and std in SCALES, else the numbers."""
    for name, (order, known_mean, known_std) in SCALES.items():
        if channels != order:
            known_mean, known_std = known_mean[::-1], known_std[::-1]
        if np.allclose(mean, known_mean, atol=0.01) and np.allclose(std, known_std, rtol=1e-3):
            return name
    numbers = [",".join(f"{value:.4g}" for value in values) for values in (mean, std)]
    return "/".join(numbers)


def resize_name(spec):
    """Returns an InputSpec's resize as --resize has it, without the filter."""
    if spec.resize == "crop":
        return f"crop:{max(spec.height, spec.width) / spec.shorter_side:.3g}"
    if spec.resize == "letterbox":
        return "letterbox:{},{},{}".format(*spec.colour)
    return spec.resize


def describe(preprocessing):
    """Returns a Preprocessing as the options that give it."""
    spec = preprocessing.input_spec
    scale = scale_name(preprocessing.channels, preprocessing.mean, preprocessing.std)
    size = f"{spec.height}" if spec.height == spec.width else f"{spec.height}x{spec.width}"
    resize = f"{resize_name(spec)}:{spec.filter}"
    return f"--size {size} --scale {scale} --channels {preprocessing.channels} --resize {resize}"


def _size(original, text):
    """Returns (height, width) of the input in pixels."""
    declared = original.declared
    graph = original.height, original.width
    size = tuple(known or said for known, said in zip(graph, (declared.height, declared.width)))
    if text is not None:
        try:
            size = tuple(int(side) for side in str(text).lower().split("x"))
        except ValueError:
            size = ()
        size = size * 2 if len(size) == 1 else size
        if len(size) != 2 or not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
            raise UsageError(f"--size {text}: expected N or HEIGHTxWIDTH, {MIN_SIDE} to {MAX_SIDE} pixels each")
        if any(known not in (None, side) for known, side in zip(graph, size)):
            takes = " x ".join(str(known or "any") for known in graph)
            raise UsageError(f"--size {text}: {original.path} takes pictures of {takes} (height x width)")
    if not all(size):
        say(
            f"{original.path}: takes pictures of any size and does not say which: {DEFAULT_SIZE} x {DEFAULT_SIZE} is "
            "taken; another with --size"
        )
        size = tuple(side or DEFAULT_SIZE for side in size)
    return size


def _declared_by_preset(name, longer_side):
    if name not in PRESETS:
        raise UsageError(f"--preset {name}: expected one of {', '.join(PRESETS)}")
    preset = PRESETS[name]
    order, mean, std = SCALES[preset.scale]
    mean, std = in_order(mean, std, order == preset.channels)
    shorter_side = _shorter_side(longer_side, preset.share, preset.rounding) if preset.resize == "crop" else None
    return Declared(f"--preset {name}", preset.resize, shorter_side, preset.filter, preset.channels, mean, std)


def in_order(mean, std, same):
    """Returns (mean, std) as tuples, turned round where their channels are to be in the other order."""
    return (tuple(mean), tuple(std)) if same else (tuple(mean)[::-1], tuple(std)[::-1])


def _shorter_side(longer_side, share, rounding):
    return int(rounding(longer_side / share + 1e-6))


def _parse_scale(text):
    """Returns (channels, or None for numbers, mean, std)."""
    if text in SCALES:
        return SCALES[text]
    try:
        mean, std = (tuple(float(value) for value in part.split(",")) for part in text.split("/"))
    except ValueError:
        mean, std = (), ()
    if not (len(mean) == len(std) == 3 and all(value > 0 for value in std) and np.isfinite(mean + std).all()):
        raise UsageError(
            f"--scale {text}: expected {', '.join(SCALES)}, or MEAN,MEAN,MEAN/STD,STD,STD for pixels 0 to 255"
        )
    return None, mean, std


def _parse_resize(text, longer_side, filter_name):
    """Returns the fields of Declared that a --resize gives."""
    mode, *words = text.split(":")
    if words and words[-1] in FILTERS and words[-1] != "area":
        filter_name = words.pop()
    fields = {"resize": mode, "filter": filter_name, "shorter_side": None, "colour": None}
    try:
        if mode not in RESIZES or len(words) > (mode != "squash"):
            raise ValueError
        if mode == "crop":
            share = float(words[0]) if words else 1.0
            if not 0.25 <= share <= 1:
                raise ValueError
            fields["shorter_side"] = _shorter_side(longer_side, share, round)
        if mode == "letterbox":
            fields["colour"] = tuple(int(value) for value in words[0].split(",")) if words else DEFAULT_COLOUR
            if len(fields["colour"]) != 3 or not all(0 <= value <= 255 for value in fields["colour"]):
                raise ValueError
    except ValueError:
        filters = ", ".join(name for name in FILTERS if name != "area")
        raise UsageError(
            f"--resize {text}: expected squash, crop:SHARE (0.25 to 1) or letterbox:RED,GREEN,BLUE; behind it may be "
            f":FILTER, one of {filters}"
        )
    return fields
