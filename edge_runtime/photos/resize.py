"""Resizes pictures, uint8 [height, width, 3]: to what a network takes, or smaller for people."""

import typing

import cv2
import numpy as np
from PIL import Image

from edge_runtime.errors import ImageError

_LONGEST = 4  # times the shorter side: what is beyond that is never in the middle
_PILLOW: typing.Dict[str, typing.Any] = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}


def fit_image(rgb, input_spec):
    """Makes the picture that a network takes.

    Args:
        rgb: uint8 array [height, width, 3] of any size >= 1.
        input_spec: edge_runtime.photos.spec.InputSpec.

    Returns:
        uint8 array of input_spec.shape; perhaps the array itself where it has that shape already.

    Raises:
        ImageError: another dtype, number of dimensions or channels.
    """
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        actual = f"{getattr(rgb, 'dtype', type(rgb).__name__)} {getattr(rgb, 'shape', '')}"
        raise ImageError(f"a frame must be a uint8 array [height, width, 3], RGB; got {actual}")
    if input_spec.resize == "crop":
        rgb = _centre(rgb)
    scaled = _resize(rgb, input_spec.scaled_size(*rgb.shape[:2]), input_spec.filter)
    if scaled.shape == input_spec.shape:
        return scaled
    height, width = scaled.shape[:2]
    if input_spec.resize == "crop":
        top, left = int(round((height - input_spec.height) / 2)), int(round((width - input_spec.width) / 2))
        return np.ascontiguousarray(scaled[top : top + input_spec.height, left : left + input_spec.width])
    picture = np.full(input_spec.shape, input_spec.colour, np.uint8)
    top, left = (input_spec.height - height) // 2, (input_spec.width - width) // 2
    picture[top : top + height, left : left + width] = scaled
    return picture


def _centre(rgb):
    """Returns the part of a long picture that can be in its middle: scaling all of it could take any memory."""
    height, width = rgb.shape[:2]
    top, left = (max(0, (length - _LONGEST * min(height, width)) // 2) for length in (height, width))
    return rgb[top : height - top, left : width - left]


def _resize(rgb, size, filter_name):
    """Returns a picture in another size, (height, width), or itself where it has that size."""
    height, width = size
    if rgb.shape[:2] == (height, width):
        return rgb
    if filter_name != "area":
        return np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).resize((width, height), _PILLOW[filter_name]))
    if rgb.shape[0] > height or rgb.shape[1] > width:
        smaller = (min(rgb.shape[1], width), min(rgb.shape[0], height))
        rgb = cv2.resize(rgb, smaller, interpolation=cv2.INTER_AREA)
    if rgb.shape[:2] != (height, width):
        rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_LINEAR)
    return rgb


def scale_picture(rgb, scale):
    """Returns a picture, uint8 [height, width, 3], scaled by a factor; each side keeps at least one pixel."""
    size = tuple(max(1, int(round(length * scale))) for length in rgb.shape[1::-1])
    if size == rgb.shape[1::-1]:
        return rgb
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def shrink_picture(rgb, height, width):
    """Returns a picture, uint8 [height, width, 3], that fits into height x width pixels; it is never enlarged."""
    return scale_picture(rgb, min(1.0, float(height) / rgb.shape[0], float(width) / rgb.shape[1]))
