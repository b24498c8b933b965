"""Undoes the orientation that EXIF gives a photo: it is turned or mirrored until it is upright."""

import numpy as np


def upright_size(width, height, orientation):
    """Returns the (width, height) of a picture after turn_upright."""
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)


def turn_upright(image, orientation):
    """Undoes an EXIF orientation (1..8; anything else counts as 1) on a picture [height, width, 3]."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)
