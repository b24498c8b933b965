"""Augmentation: other pictures of the same product, the same ones again for the same seed."""

import numpy as np

from edge_runtime import images
from tests.helpers import gradient
from train.augment import augment


def picture():
    return images.fit_image(gradient(400, 500))


def test_an_augmented_photo_is_another_picture_of_the_input_s_shape():
    changed = augment(picture(), np.random.RandomState(0))
    assert changed.shape == (299, 299, 3) and changed.dtype == np.uint8
    assert np.abs(changed.astype(int) - picture()).mean() > 5


def test_the_caller_s_picture_is_left_alone():
    original = picture()
    for seed in range(20):
        augment(original, np.random.RandomState(seed))
    assert np.array_equal(original, picture())


def test_the_same_random_state_gives_the_same_picture_and_another_gives_another():
    first, again, other = (augment(picture(), np.random.RandomState(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_about_half_of_the_pictures_are_mirrored():
    # The left half of the picture is dark, the right half bright; strong lighting changes keep that order.
    halves = np.zeros((299, 299, 3), np.uint8)
    halves[:, 150:] = 200
    mirrored = 0
    for seed in range(200):
        changed = augment(halves, np.random.RandomState(seed)).astype(float)
        mirrored += changed[120:180, 75:105].mean() > changed[120:180, 195:225].mean()
    assert 70 <= mirrored <= 130


def test_products_stay_in_the_picture():
    # A bright square in the middle is never moved out or shrunk away.
    square = np.full((299, 299, 3), 20, np.uint8)
    square[100:200, 100:200] = 220
    for seed in range(200):
        changed = augment(square, np.random.RandomState(seed)).astype(float).mean(axis=2)
        assert (changed > (changed.min() + changed.max()) / 2).mean() > 0.03, seed
