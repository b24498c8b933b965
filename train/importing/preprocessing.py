"""How a model's makers turned photos into numbers."""

import typing

from edge_runtime.photos.spec import InputSpec


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


# (mean, std) of pixels 0 to 255, and the order of the channels.
SCALES = {
    "0..255": ("RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "0..1": ("RGB", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "-1..1": ("RGB", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "imagenet": ("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "caffe": ("BGR", (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
}
