"""What can be told about a photo without knowing what is on it: size, format, light, sharpness, and its likes.

A photo is read once and decoded once, as the network sees it (edge_runtime.photos.decode): a large JPEG at a fraction
of its size. Light, sharpness and likeness are measured on that picture, so that photos of any size are comparable.
"""

import math
import typing

import cv2
import numpy as np

from edge_runtime import pages
from edge_runtime.machine.libraries import require
from edge_runtime.photos import read

# Grey values 0..255. Between the 5th and the 95th percentile, so that neither a lit product before black nor a dark one
# on white is taken for a bad exposure. 2,936 photos taken in shops have a 95th percentile of 103 and more and a 5th of
# 96 and less.
DARK = 80  # 95th percentile below: even what is bright is dark
BRIGHT = 180  # 5th percentile above: even what is dark is bright
# Variance of the Laplacian (Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000). Sharp
# photos from shops blurred by a Gaussian of 2 pixels have 9 in the median, of 3 pixels 6 at most; of the 2,936 as they
# are, 4 are below 12 and look blurred, those from 20 on do not.
BLURRED = 12
# Standard deviation of the grey values at 64 x 64 pixels, where noise has averaged out; photos from shops have 26 and
# more, a white picture with a mid-grey product on 1 % of it has 13.
UNIFORM = 5

# Two photos are alike when their perceptual hashes (those of imagehash.phash, hash_size=16) differ in at most so many
# of 256 bits and their colours agree. Measured on 245 photos from shops and copies of them: JPEG quality 15 to 40,
# shrunk to a third, darkened by 40 %: at most 12 bits; lightened by 25 %: at most 22; 1 % cropped on each side: 24 in
# 95 of 100. Of the 4.3 million pairs of the 2,936 photos one is within 28 (the same crates twice); the next, a small
# step to the side, is at 34, and different products begin above 80. The usual 64-bit hash does not part them: copies
# reach 8, and so do 46 of these pairs.
HASH_BITS = 256
MOST_BITS_APART = 28
# A wider limit joins the frames of a film. From one frame to the next the picture moves by 1 %
# of its width: 28 bits in 95 of 100; by 2 %: 49, and 60 at most; a product moves before a shelf by 4 %: 46, and 54 at
# most. Of the pairs of the 2,936 photos 16 are within 56, each of one class, and no three photos of them make a chain.
FRAME_BITS_APART = 56
# The hash sees grey only, and a shop has the same carton in red and in blue. Correlation of 8 x 8 RGB pictures, which
# does not change with brightness and contrast: those copies, also with a warmer white balance, have 0.953 and more; the
# same photos with every hue turned by 120 degrees 0.893 at most.
LEAST_COLOUR_CORRELATION = 0.95

THUMBNAIL_SIDE = 112  # pixels, the longer side
_HASH_SIDE = 64  # the grey picture whose frequencies are hashed
_LOW = 16  # of them in each direction: HASH_BITS in all
_COLOUR_SIDE = 8
_CELLS_AT_ONCE = 1 << 22  # of the matrix that compares all with all: 16 MiB of float32

# What tells whether two photos are alike.
Likeness = typing.NamedTuple(
    "Likeness",
    [
        ("sha256", str),  # of the file's bytes
        ("contrast", float),  # standard deviation of grey at 64 x 64
        ("hash_bits", np.ndarray),  # bool [256]
        ("colours", np.ndarray),  # float32 [192], mean 0, length 1 (all 0 for a picture of one grey)
    ],
)
PhotoFacts = typing.NamedTuple(
    "PhotoFacts",
    [
        ("sha256", str),  # this, contrast, hash_bits and colours: as in Likeness
        ("size_bytes", int),
        ("format", str),  # one of edge_runtime.photos.formats.PHOTO_FORMATS, by the bytes
        ("width", int),  # upright, pixels
        ("height", int),
        ("turned", bool),  # stored turned or mirrored, with an EXIF note to undo it
        ("darkest", float),  # 5th percentile of grey, 0..255
        ("brightest", float),  # 95th
        ("contrast", float),
        ("sharpness", float),  # variance of the Laplacian at 299 x 299
        ("hash_bits", np.ndarray),
        ("colours", np.ndarray),
        ("thumbnail", str),  # for <img src>, in the photo's own proportions
    ],
)


def look_at(path):
    """Reads a photo and returns its PhotoFacts. Raises ImageError with the reason where it cannot be read."""
    photo = read.read_photo(path)
    rgb, header = photo.picture, photo.header
    width, height = (header.width, header.height) if header.orientation < 5 else (header.height, header.width)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    darkest, brightest = np.percentile(grey, (5, 95))
    like = likeness(rgb, photo.sha256)
    return PhotoFacts(
        sha256=like.sha256,
        size_bytes=photo.size_bytes,
        format=header.format,
        width=width,
        height=height,
        turned=header.orientation != 1,
        darkest=float(darkest),
        brightest=float(brightest),
        contrast=like.contrast,
        sharpness=float(cv2.Laplacian(grey, cv2.CV_32F).var()),
        hash_bits=like.hash_bits,
        colours=like.colours,
        thumbnail=_thumbnail(rgb, width, height),
    )


def likeness(rgb, sha256):
    """Returns the Likeness of a photo: uint8 [299, 299, 3] as photos.decode decodes it; sha256 of its bytes."""
    small = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(small, (_HASH_SIDE, _HASH_SIDE), interpolation=cv2.INTER_AREA)
    return Likeness(sha256, float(small.std()), _hash_bits(small), _colours(rgb))


def groups_of_frames(facts, labels):
    """Finds photos of one class that look alike, within FRAME_BITS_APART, as the frames of a film do.

    Only of one class: before a camera that stands still all small products look alike to the hash, and a photo of
    another class makes validation no easier.

    Args:
        facts: list of Likeness or PhotoFacts.
        labels: of each of them.

    Returns:
        lists of two or more indices into facts, each rising, sorted by label.
    """
    by_label: typing.Dict[str, typing.List[int]] = {}
    for index, label in enumerate(labels):
        by_label.setdefault(label, []).append(index)
    return [
        [indices[place] for place in group]
        for _, indices in sorted(by_label.items())
        for group in groups_alike([facts[index] for index in indices], FRAME_BITS_APART)
    ]


def groups_alike(facts, most_bits=MOST_BITS_APART):
    """Finds photos that look alike: one copied, re-encoded, resized or lightened from the other, or a second shot.

    Uniform photos are like none: all blank walls look the same. Photos are compared in pairs and joined to groups, so
    that the ends of a long group may differ more than most_bits. 10,000 photos take seconds; memory does not grow
    with the number of pairs.

    Args:
        facts: list of Likeness or PhotoFacts.
        most_bits: that the hashes of two of them may differ in.

    Returns:
        lists of two or more indices into facts, each rising, the lists in the order of their first.
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
    members = _components(signs, colours, most_bits)
    together: typing.Dict[int, typing.List[int]] = {}
    for indices, member in zip(copies, members):
        together.setdefault(member, []).extend(indices)
    return sorted(sorted(indices) for indices in together.values() if len(indices) > 1)


def bits_apart(one, other):
    """Returns in how many of 256 bits the hashes of two PhotoFacts differ."""
    return int(np.count_nonzero(one.hash_bits != other.hash_bits))


def _components(signs, colours, most_bits):
    """Returns int [n]: which group each photo belongs to. signs: float32 [n, 256] of -1 and 1; colours: [n, 192]."""
    sparse, csgraph = require("scipy.sparse"), require("scipy.sparse.csgraph")
    count = len(signs)
    group = np.arange(count)
    step = max(1, _CELLS_AT_ONCE // count)
    # The product of two rows of signs is 256 less twice the bits that differ: a matrix product counts them all.
    least = HASH_BITS - 2 * most_bits
    for start in range(0, count, step):
        alike = signs[start : start + step].dot(signs[start:].T) >= least
        alike &= colours[start : start + step].dot(colours[start:].T) >= LEAST_COLOUR_CORRELATION
        one, other = np.nonzero(alike)
        later = other > one
        edges = (group[one[later] + start], group[other[later] + start])
        if len(edges[0]):
            graph = sparse.coo_matrix((np.ones(len(edges[0]), bool), edges), (count, count))
            group = csgraph.connected_components(graph, directed=False)[1][group]
    return group


def _hash_bits(small):
    """Returns the bits of imagehash.phash: which low frequencies of a grey picture are above their median."""
    low = cv2.dct(small.astype(np.float64))[:_LOW, :_LOW]
    low[0] *= math.sqrt(2)  # cv2.dct makes the base functions equally long, imagehash leaves them as they are
    low[:, 0] *= math.sqrt(2)
    return (low > np.median(low)).ravel()


def _colours(rgb):
    values = cv2.resize(rgb, (_COLOUR_SIDE, _COLOUR_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    values -= values.mean()
    return values / max(float(np.linalg.norm(values)), 1e-6)


def _thumbnail(rgb, width, height):
    longest = max(width, height)
    size = tuple(max(1, int(round(length * THUMBNAIL_SIDE / longest))) for length in (width, height))
    return pages.picture(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))
