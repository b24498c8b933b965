"""Augmentation: other pictures of the same product, the same ones again for the same seed."""

import numpy as np
import pytest

from edge_runtime.photos import spec
from edge_runtime.photos.resize import fit_image
from tests.helpers import gradient
from train.model.augment import MIXES, augment, mix


def picture():
    return fit_image(gradient(400, 500), spec.INCEPTION_V3)


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


def plain_pictures(count=64):
    """Each of one grey, which tells it from the others."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None] * 4, (count, 299, 299, 3))


def test_mixup_shows_both_pictures_by_their_shares():
    pictures = plain_pictures()
    mixed, others, shares = mix(pictures, np.random.RandomState(0), "mixup")
    assert mixed.dtype == np.uint8 and sorted(others) == list(range(64))
    assert 0 <= shares.min() < 0.2 and 0.8 < shares.max() <= 1
    expected = shares * pictures[:, 0, 0, 0] + (1 - shares) * pictures[others, 0, 0, 0]
    assert np.abs(mixed - expected[:, None, None, None]).max() <= 0.51


def test_cutmix_shows_one_rectangle_of_the_other_picture_by_its_share():
    pictures = plain_pictures()
    mixed, others, shares = mix(pictures, np.random.RandomState(0), "cutmix")
    for picture, changed, other, share in zip(pictures, mixed, others, shares):
        pasted = (changed != picture).any(axis=2)
        if (pictures[other] == picture).all():  # with itself
            assert not pasted.any()
            continue
        assert np.array_equal(changed[pasted], pictures[other][pasted])
        assert pasted.mean() == pytest.approx(1 - share, abs=1e-6)
        rows, columns = pasted.any(axis=1), pasted.any(axis=0)
        assert np.array_equal(pasted, np.outer(rows, columns))
        assert np.abs(np.diff(rows.astype(int))).sum() <= 2 and np.abs(np.diff(columns.astype(int))).sum() <= 2
    assert 0.3 < (shares == 1).mean() < 0.7
    assert shares.min() < 0.4


@pytest.mark.parametrize("kind", MIXES)
def test_mixing_leaves_the_caller_s_pictures_alone_and_repeats_itself(kind):
    pictures = np.stack([picture(), picture()[::-1], picture()[:, ::-1]])
    original = pictures.copy()
    first, again, other = (mix(pictures, np.random.RandomState(seed), kind)[0] for seed in (1, 1, 2))
    assert np.array_equal(pictures, original)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("kind", MIXES)
def test_a_picture_alone_is_mixed_with_itself(kind):
    mixed, others, _ = mix(picture()[None], np.random.RandomState(0), kind)
    assert others.tolist() == [0]
    assert np.abs(mixed[0].astype(int) - picture()).max() <= 1


@pytest.mark.parametrize("height, width", [(96, 96), (60, 120)])
def test_pictures_of_any_size_are_changed_in_proportion(height, width):
    small = fit_image(gradient(400, 500), spec.squash(height, width))
    large = fit_image(gradient(400, 500), spec.INCEPTION_V3)
    for seed in range(20):
        changed, like = (augment(one, np.random.RandomState(seed)) for one in (small, large))
        assert (changed.shape, changed.dtype) == (small.shape, np.uint8)
        if height == width:  # the same view and light; what is hidden is drawn anew
            difference = fit_image(like, spec.squash(height, width)).astype(int) - changed
            assert np.median(np.abs(difference)) <= 2
    pictures = np.stack([small, small[::-1]])
    for kind in MIXES:
        mixed, _, shares = mix(pictures, np.random.RandomState(0), kind)
        assert mixed.shape == pictures.shape and ((shares >= 0) & (shares <= 1)).all()
