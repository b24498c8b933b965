"""Which photos look alike: copies, re-encoded or resized photos, the frames of a film."""

import math
import typing

import cv2
import numpy as np

from edge_runtime.machine.libraries import require

# Standard deviation of the grey values at 64 x 64 pixels, where noise has averaged out; photos from shops have 26 and
# more, a white picture with a mid-grey product on 1 % of it has 13.
UNIFORM = 5

# Two photos are alike when their perceptual hashes (those of imagehash.phash, hash_size=16) differ in at most so many
# of 256 bits and their colours agree. Measured on 245 photos from shops and copies of them: JPEG quality 15 to 40,
# shrunk to a third, darkened by 40 %: at most 12 bits; lightened by 25 %: at most 22; 1 % cropped on each side: 24 in
# 95 of 100. Of the 4.3 million pairs of the 2,936 photos one is within 28 (the same crates twice); the next, a small
# step to the side, is at 34, and different products begin above 80. The usual 64-bit hash does not separate them:
# copies reach 8, and so do 46 of these pairs.
HASH_BITS = 256
MAX_BITS_APART = 28
# A wider limit joins the frames of a film. From one frame to the next the picture moves by 1 % of its width: 28 bits in
# 95 of 100; by 2 %: 49, and 60 at most; a product moves in front of a shelf by 4 %: 46, and 54 at most. Of the pairs of
# the 2,936 photos 16 are within 56, each of one class, and no three photos of them make a chain.
FRAME_BITS_APART = 56
# The hash sees grey only, and a shop has the same carton in red and in blue. Correlation of 8 x 8 RGB pictures, which
# does not change with brightness and contrast: those copies, also with a warmer white balance, have 0.953 and more; the
# same photos with every hue turned by 120 degrees 0.893 at most.
MIN_COLOUR_CORRELATION = 0.95

_HASH_SIDE = 64  # the grey picture whose frequencies are hashed
_LOW_FREQUENCIES = 16  # in each direction: HASH_BITS in all
_COLOUR_SIDE = 8
CELLS_AT_ONCE = 1 << 22  # of the matrix that compares all with all: 16 MiB of float32


class Fingerprint(typing.NamedTuple):
    """What decides whether two photos look alike."""

    sha256: str  # of the file's bytes
    contrast: float  # standard deviation of grey at 64 x 64
    hash_bits: np.ndarray  # bool [256]
    colours: np.ndarray  # float32 [192], mean 0, length 1 (all 0 for a picture of one grey)


def fingerprint(rgb, sha256):
    """Returns the Fingerprint of a photo.

    Args:
        rgb: uint8 [299, 299, 3], the whole photo.
        sha256: of the file's bytes.
    """
    small = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(small, (_HASH_SIDE, _HASH_SIDE), interpolation=cv2.INTER_AREA)
    return Fingerprint(sha256, float(small.std()), _hash_bits(small), _colours(rgb))


def frame_groups(facts, labels):
    """Finds photos of one class that look alike, within FRAME_BITS_APART: the frames of a film.

    Only of one class: in front of a fixed camera all small products look alike to the hash, and a photo of another
    class makes validation no easier.

    Args:
        facts: list of Fingerprint or train.data.photo_facts.PhotoFacts.
        labels: the label of each photo.

    Returns:
        lists of two or more indices into facts, each in rising order, sorted by label.
    """
    by_label: typing.Dict[str, typing.List[int]] = {}
    for index, label in enumerate(labels):
        by_label.setdefault(label, []).append(index)
    return [
        [indices[place] for place in group]
        for _, indices in sorted(by_label.items())
        for group in similar_groups([facts[index] for index in indices], FRAME_BITS_APART)
    ]


def similar_groups(facts, max_bits=MAX_BITS_APART):
    """Finds photos that look alike: copied, re-encoded, resized or lightened ones, or a second shot.

    Uniform photos are similar to none: all blank walls look the same. Photos are compared in pairs and joined to
    groups, so that the ends of a long group may differ more than max_bits. 10,000 photos take seconds; memory does not
    grow with the number of pairs.

    Args:
        facts: list of Fingerprint or train.data.photo_facts.PhotoFacts.
        max_bits: in how many bits the hashes of two similar photos may differ.

    Returns:
        lists of two or more indices into facts, each in rising order, the lists in the order of their first index.
    """
    # Exact copies are compared once, or a table that lists one photo a thousand times would be slow.
    first: typing.Dict[str, typing.List[int]] = {}
    for index, fact in enumerate(facts):
        if fact.contrast >= UNIFORM:
            first.setdefault(fact.sha256, []).append(index)
    copies = list(first.values())
    if not copies:
        return []
    signs = np.array([facts[indices[0]].hash_bits for indices in copies], np.float32) * 2 - 1
    colours = np.array([facts[indices[0]].colours for indices in copies])
    members = _components(signs, colours, max_bits)
    together: typing.Dict[int, typing.List[int]] = {}
    for indices, member in zip(copies, members):
        together.setdefault(member, []).extend(indices)
    return sorted(sorted(indices) for indices in together.values() if len(indices) > 1)


def differing_bits(one, other):
    """Returns in how many of 256 bits the hashes of two photos differ."""
    return int(np.count_nonzero(one.hash_bits != other.hash_bits))


def _components(signs, colours, max_bits):
    """Returns int [n]: which group each photo belongs to. signs: float32 [n, 256] of -1 and 1; colours: [n, 192]."""
    sparse, csgraph = require("scipy.sparse"), require("scipy.sparse.csgraph")
    count = len(signs)
    group = np.arange(count)
    step = max(1, CELLS_AT_ONCE // count)
    # The product of two rows of signs is 256 less twice the bits that differ: a matrix product counts them all.
    least = HASH_BITS - 2 * max_bits
    for start in range(0, count, step):
        alike = signs[start : start + step].dot(signs[start:].T) >= least
        alike &= colours[start : start + step].dot(colours[start:].T) >= MIN_COLOUR_CORRELATION
        one, other = np.nonzero(alike)
        later = other > one
        edges = (group[one[later] + start], group[other[later] + start])
        if len(edges[0]):
            graph = sparse.coo_matrix((np.ones(len(edges[0]), bool), edges), (count, count))
            group = csgraph.connected_components(graph, directed=False)[1][group]
    return group


def _hash_bits(small):
    """Returns the bits of imagehash.phash: which low frequencies of a grey picture are above their median."""
    low = cv2.dct(small.astype(np.float64))[:_LOW_FREQUENCIES, :_LOW_FREQUENCIES]
    low[0] *= math.sqrt(2)  # cv2.dct makes the base functions equally long, imagehash leaves them as they are
    low[:, 0] *= math.sqrt(2)
    return (low > np.median(low)).ravel()


def _colours(rgb):
    values = cv2.resize(rgb, (_COLOUR_SIDE, _COLOUR_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    values -= values.mean()
    return values / max(float(np.linalg.norm(values)), 1e-6)
