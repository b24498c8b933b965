"""What can be measured on a photo without knowing what it shows: size, format, light, sharpness, fingerprint.

A photo is read and decoded once, to 299 x 299 pixels, whatever the size of a network's input is. All measures are taken
on that picture, so that photos of any size are comparable.
"""

import typing

import cv2
import numpy as np

from edge_runtime import pages
from edge_runtime.photos import read, spec
from edge_runtime.photos.orientation import upright_size
from edge_runtime.photos.picture import sharpness
from train.data.similarity import fingerprint

# Grey values 0..255. Between the 5th and the 95th percentile, so that neither a lit product on black nor a dark one on
# white is taken for a bad exposure. 2,936 photos taken in shops have a 95th percentile of 103 and more and a 5th of
# 96 and less.
DARK = 80  # 95th percentile below: even what is bright is dark
BRIGHT = 180  # 5th percentile above: even what is dark is bright
# Sharpness. Sharp photos from shops blurred by a Gaussian of 2 pixels have 9 in the median, of 3 pixels 6 at most; of
# the 2,936 as they are, 4 are below 12 and look blurred, those from 20 on do not.
BLURRED = 12
THUMBNAIL_SIDE = 112  # pixels, the longer side


class PhotoFacts(typing.NamedTuple):
    """What is known of a photo, its content aside."""

    sha256: str  # of the file's bytes
    size_bytes: int
    format: str  # a value of edge_runtime.photos.formats.SUFFIXES, by the bytes
    width: int  # upright, pixels
    height: int
    turned: bool  # stored turned or mirrored, with an EXIF orientation that undoes it
    darkest: float  # 5th percentile of grey, 0..255
    brightest: float  # 95th percentile
    contrast: float  # this, hash_bits and colours: see train.data.similarity.Fingerprint
    sharpness: float  # edge_runtime.photos.picture.sharpness, at 299 x 299
    hash_bits: np.ndarray
    colours: np.ndarray
    thumbnail: str  # for <img src>, in the photo's own proportions


def look_at(path):
    """Reads a photo and returns its PhotoFacts. Raises ImageError with the reason where it cannot be read."""
    photo = read.read_photo(path, spec.INCEPTION_V3)
    rgb, header = photo.picture, photo.header
    width, height = upright_size(header.width, header.height, header.orientation)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    darkest, brightest = np.percentile(grey, (5, 95))
    like = fingerprint(rgb, photo.sha256)
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
        sharpness=sharpness(rgb),
        hash_bits=like.hash_bits,
        colours=like.colours,
        thumbnail=_thumbnail(rgb, width, height),
    )


def _thumbnail(rgb, width, height):
    longest = max(width, height)
    size = tuple(max(1, int(round(length * THUMBNAIL_SIDE / longest))) for length in (width, height))
    return pages.picture(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))
