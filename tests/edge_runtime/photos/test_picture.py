"""Decoded pictures: their size upright, their sharpness."""

import cv2
import numpy as np
import pytest

from edge_runtime.photos import picture


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_upright_size_is_that_of_the_turned_picture(orientation):
    rgb = np.zeros((20, 30, 3), np.uint8)
    height, width = picture.turn_upright(rgb, orientation).shape[:2]
    assert picture.upright_size(30, 20, orientation) == (width, height)


def test_a_blurred_picture_is_less_sharp():
    rgb = np.random.RandomState(0).randint(0, 256, (299, 299, 3)).astype(np.uint8)
    assert picture.sharpness(cv2.GaussianBlur(rgb, (0, 0), 2)) < 0.1 * picture.sharpness(rgb)
