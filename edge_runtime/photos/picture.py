"""Looks at a decoded picture, uint8 [height, width, 3]: is it one colour, how sharp is it."""

import cv2
import numpy as np

from edge_runtime.errors import ImageError


def check_picture(rgb):
    """Raises ImageError where a picture is one colour all over: a lens cap, a broken sensor, an empty export."""
    if is_one_colour(rgb):
        raise ImageError("is one colour")


def is_one_colour(picture):
    """Tells whether a picture shows nothing: one colour all over, or black with next to no variance.

    Args:
        picture: uint8 [height, width, 3].
    """
    # Every eighth pixel is enough to clear nearly all pictures.
    return _is_flat(picture[::8, ::8]) and _is_flat(picture)


def _is_flat(picture):
    pixels = np.ascontiguousarray(picture).reshape(-1, 3)
    spread = pixels.max(axis=0).astype(int) - pixels.min(axis=0)
    return bool(spread.max() <= 2 or (picture.max() < 24 and picture.std() < 1.5))


def sharpness(rgb):
    """Returns how sharp a picture is: the variance of the Laplacian of its grey values, low where it is blurred.

    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000. Only pictures of the same size are
    comparable.

    Args:
        rgb: uint8 [height, width, 3], RGB.
    """
    return float(cv2.Laplacian(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())
