"""Random changes to training photos that keep their label true: other places, other light, other cameras. And mixtures
of two photos, whose labels are mixed in the same shares.

All of it is numpy and OpenCV on uint8 pictures. Each photo of each epoch, and each batch that is mixed, has its own
random generator. So the result depends only on (seed, epoch, position), not on the timing of threads: an interrupted
training sees the same pictures after --resume.
"""

import cv2
import numpy as np

ROTATION_DEGREES = 25.0
ZOOM = (0.75, 1.45)  # below 1 the photo shrinks and its mirrored edge fills the rest
STRETCH = 1.2  # of the aspect ratio, either way
SHIFT = 0.12  # of the side
GAIN = (0.6, 1.4)  # brightness
CAST = 0.12  # of each colour channel: lamps have different colours
CONTRAST = (0.7, 1.35)
SATURATION = (0.6, 1.4)
# The blur is that of a lens or of a moving hand: it shrinks with the photo. Sigma in pixels of a side of 299.
BLUR_CHANCE, BLUR_SIGMA, _BLUR_SIDE = 0.15, (0.5, 1.6), 299
ERASE_CHANCE, ERASE_SIDE = 0.25, (0.15, 0.4)  # of the photo's side
MIXES = ("mixup", "cutmix")
MIXUP_ALPHA, CUTMIX_ALPHA = 0.2, 1.0  # of the beta distribution of a photo's share, as in the papers on ImageNet
CUTMIX_CHANCE = 0.5


def augment(image, random, strength=1.0):
    """Returns a changed copy of a picture.

    Args:
        image: uint8 [height, width, 3], RGB, as the network sees it.
        random: numpy.random.RandomState that all choices are drawn from.
        strength: 1 for the ranges of this module's constants, 0.5 for half of them; more than 0.
    """
    height, width = image.shape[:2]
    matrix = _placement(random, strength, np.array([width, height]))
    image = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    if random.rand() < BLUR_CHANCE * strength:
        image = cv2.GaussianBlur(image, (0, 0), random.uniform(*BLUR_SIGMA) * (height / _BLUR_SIDE))
    image = _relight(image, random, strength)
    if random.rand() < ERASE_CHANCE * strength:
        _erase(image, random)
    return image


def _placement(random, strength, size):
    """A 2 x 3 affine matrix: mirror, rotate, zoom, stretch, shift about the centre. size: int [width, height]."""
    angle = strength * np.deg2rad(random.uniform(-ROTATION_DEGREES, ROTATION_DEGREES))
    zoom = _factor(ZOOM, random, strength)
    stretch = _factor((1 / STRETCH, STRETCH), random, strength)
    mirror = 1 if random.rand() < 0.5 else -1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn.dot(np.diag([mirror * zoom * stretch, zoom / stretch]))
    centre = (size - 1) / 2
    shift = strength * random.uniform(-SHIFT, SHIFT, 2) * size
    return np.column_stack([matrix, centre + shift - matrix.dot(centre)])


def _factor(bounds, random, strength, size=None):
    """A factor within bounds, uniform on the logarithmic scale: a half is as likely as a double."""
    return np.exp(strength * random.uniform(*np.log(bounds), size=size))


def _relight(image, random, strength):
    """Brightness and colour cast, contrast about the mean, saturation about the grey picture: one colour matrix."""
    gains = _factor(GAIN, random, strength) * _factor((1 - CAST, 1 + CAST), random, strength, 3)
    contrast, saturation = _factor(CONTRAST, random, strength), _factor(SATURATION, random, strength)
    luma = np.array([0.299, 0.587, 0.114])
    mix = saturation * np.eye(3) + (1 - saturation) * np.tile(luma, (3, 1))
    matrix = contrast * mix * gains  # scales the columns: gains first
    mean = float(cv2.mean(image)[:3] @ (luma * gains))
    offset = np.full((3, 1), (1 - contrast) * mean)
    return cv2.transform(image, np.hstack([matrix, offset]))


def _erase(image, random):
    """Paints one rectangle of the picture in one random colour: part of the product is hidden."""
    sides = image.shape[:2]
    height, width = (random.uniform(*ERASE_SIDE, size=2) * sides).astype(int)
    top, left = random.randint(0, sides[0] - height), random.randint(0, sides[1] - width)
    image[top : top + height, left : left + width] = random.randint(0, 256, 3)


def mix(pictures, random, kind):
    """Mixes each picture of a batch with another picture of the batch, or with itself.

    Args:
        pictures: uint8 [n, height, width, 3].
        random: numpy.random.RandomState that all choices are drawn from.
        kind: "mixup" blends the two (Zhang et al. 2018, arXiv:1710.09412). "cutmix" pastes a rectangle of the other
            picture over about half of the pictures (Yun et al. 2019, arXiv:1905.04899).

    Returns:
        (mixed pictures, uint8 [n, height, width, 3]; int [n], the index of the other picture; float32 [n], 0..1, each
        picture's own share).
    """
    count, sides = len(pictures), np.array(pictures.shape[1:3])
    others = random.permutation(count)
    alpha = MIXUP_ALPHA if kind == "mixup" else CUTMIX_ALPHA
    shares = random.beta(alpha, alpha, count)
    mixed = pictures.copy()
    for number, other in enumerate(others):
        if kind == "mixup":
            share = shares[number]
            mixed[number] = cv2.addWeighted(pictures[number], share, pictures[other], 1 - share, 0)
        else:
            share = shares[number] if random.rand() < CUTMIX_CHANCE else 1.0
            # A rectangle around any point, cut at the picture's edge.
            half, centre = 0.5 * np.sqrt(1 - share) * sides, random.uniform(0, sides)
            top, left = np.maximum(centre - half, 0).round().astype(int)
            bottom, right = np.minimum(centre + half, sides).round().astype(int)
            mixed[number, top:bottom, left:right] = pictures[other, top:bottom, left:right]
            shares[number] = 1 - (bottom - top) * (right - left) / sides.prod()
    return mixed, others, shares.astype(np.float32)
