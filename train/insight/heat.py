"""Heat maps: which places of a photo speak for a class. They need no gradients, so ONNX Runtime is enough.

Where a network ends in the mean over all places and one dense layer, as InceptionV3 does, the map is computed from the
values at these places (grad_cam). Of every other network it is measured: parts of the photo are covered, and the
probability falls where they mattered (occlusion).
"""

import cv2
import numpy as np

from edge_runtime.bundle.manifest import OUTPUT_NAME
from edge_runtime.console import progress
from train.insight import inner

_MAX_OPACITY = 0.7  # of the colour where the heat is 1
_LEAST_PLACES = 3  # in a row or column: with fewer a map says next to nothing
# Squares of 2 x 2 cells on a grid of 9 x 9, in all positions: 64 runs of the network per photo.
CELLS, _COVERED = 9, 2
RUNS = (CELLS - _COVERED + 1) ** 2
_GREY = 128
_NOISE = 1e-3  # a smaller fall, in shares of the probability, counts as none


def heat_maps(bundle, pixels, classes):
    """Runs photos through a bundle's network and returns their heat maps.

    Args:
        bundle: edge_runtime.bundle.reading.Bundle.
        pixels: uint8 [n, height, width, 3], RGB, n >= 1.
        classes: int [n, k], the classes that each photo gets a map for.

    Returns:
        (maps, places): float32 [n, k, height, width], see maps_of; as of places_of.

    Raises:
        BundleError: the network is corrupt.
        MissingRequirement: onnx or ONNX Runtime is not installed.
    """
    session = open_session(bundle)
    outputs = session.run(pixels)
    places, numbers = places_of(outputs), range(len(pixels))
    maps = [
        maps_of(session, pixels[number], {name: values[number] for name, values in outputs.items()}, classes[number])
        for number in (numbers if places else progress(numbers, len(pixels), "heat maps by occlusion"))
    ]
    return np.stack(maps), places


def open_session(bundle, where_there=()):
    """Opens a bundle's network with what maps_of needs.

    Args:
        bundle: edge_runtime.bundle.reading.Bundle.
        where_there: more outputs; see train.insight.inner.open_session, which says what is raised, too.
    """
    return inner.open_session(bundle, [OUTPUT_NAME], [inner.PLACES] + list(where_there))


def places_of(outputs):
    """Returns the (rows, columns) of places that maps are computed from; None where they are measured (occlusion).

    Args:
        outputs: {name: array} of InnerSession.run, for several photos or one.
    """
    places = outputs[inner.PLACES].shape[-3:-1] if inner.PLACES in outputs else (0, 0)
    return places if min(places) >= _LEAST_PLACES else None


def maps_of(session, rgb, outputs, classes):
    """Returns the heat maps of one photo.

    Args:
        session: of open_session.
        rgb: uint8 [height, width, 3], the photo as the network sees it.
        outputs: {name: array} of session.run for this photo alone, without the first axis.
        classes: list of class numbers.

    Returns:
        float32 [classes, height, width], 0..1: the hottest place of each map is 1; all 0 where no place speaks for the
        class.
    """
    if places_of(outputs):
        places = np.stack([outputs[inner.PLACES]] * len(classes))
        return grad_cam(places, session.kernel, classes, rgb.shape[:2])
    return occlusion(session, rgb, outputs[OUTPUT_NAME], classes)


def occlusion(session, rgb, probabilities, classes):
    """Covers parts of a photo with grey squares (Zeiler and Fergus 2014, arXiv:1311.2901), RUNS runs of the network.

    A place's heat is how far the probability of the class falls, averaged over the squares that cover the place,
    without its negative part.

    Args:
        session: of open_session.
        rgb: uint8 [height, width, 3].
        probabilities: float32 [classes of the network], of the photo as it is.
        classes: list of class numbers.

    Returns:
        float32 [classes, height, width], 0..1, as maps_of.
    """
    height, width = rgb.shape[:2]
    rows, columns = (np.round(np.linspace(0, length, CELLS + 1)).astype(int) for length in (height, width))
    corners = [(row, column) for row in range(CELLS - _COVERED + 1) for column in range(CELLS - _COVERED + 1)]
    fall, times = np.zeros((len(classes), CELLS, CELLS), np.float32), np.zeros((CELLS, CELLS), np.float32)
    for start in range(0, len(corners), inner.BATCH):
        some = corners[start : start + inner.BATCH]
        covered = np.stack([rgb] * len(some))
        for picture, (row, column) in zip(covered, some):
            bottom, right = rows[row + _COVERED], columns[column + _COVERED]
            picture[rows[row] : bottom, columns[column] : right] = _GREY
        answers = session.run(covered)[OUTPUT_NAME]
        for answer, (row, column) in zip(answers, some):
            square = (slice(row, row + _COVERED), slice(column, column + _COVERED))
            fall[(slice(None),) + square] += (probabilities - answer)[classes][:, None, None]
            times[square] += 1
    fall /= times
    fall[fall < _NOISE * probabilities[classes][:, None, None]] = 0
    return _enlarged(fall, rgb.shape[:2])


def grad_cam(block, kernel, classes, size):
    """Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) on the values before the mean over all places.

    Grad-CAM weighs each channel by the gradient of the class's logit, averaged over places, and keeps the positive part
    of the sum. In these networks they are followed by the average over places, a dense layer and the softmax, so the
    gradient is kernel[channel, class] / (height * width) at every place. (In this case Grad-CAM is CAM, Zhou et al.
    2016, arXiv:1512.04150, without its negative part.)

    A softmax does not change when the same value is added to all logits, so kernel - kernel.mean(axis=1) would do as
    well. It was tried: with ImageNet features its maps were less on the products (tests/train/insight/test_heat.py),
    and hiding the places that they mark lowered the network's confidence no further.

    Args:
        block: float32 [n, height, width, channels], the values before the mean: the output of InceptionV3's last block.
        kernel: float32 [channels, classes].
        classes: int [n].
        size: (height, width) of the maps.

    Returns:
        float32 [n, height, width], 0..1, enlarged bilinearly: the hottest place of each photo is 1; all 0 where no
        place speaks for the class.
    """
    return _enlarged(np.einsum("nhwc,nc->nhw", block, kernel.T[np.asarray(classes)]), size)


def _enlarged(coarse, size):
    """Returns maps of a few places, [n, rows, columns], as maps of (height, width), 0..1; what is negative is 0."""
    coarse = np.maximum(coarse, 0)
    maps = np.stack([cv2.resize(one, tuple(size[::-1]), interpolation=cv2.INTER_LINEAR) for one in coarse])
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)


def overlay(rgb, heat):
    """Draws heat over a photo. The photo is grey, so that its colours are not mistaken for heat.

    Args:
        rgb: uint8 [height, width, 3].
        heat: float32 [height, width], 0..1.

    Returns:
        uint8 [height, width, 3], RGB: blue (little) to red (much), more opaque where it is hotter; grey where it is 0.
    """
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None]
    colours = cv2.applyColorMap(np.round(heat * 255).astype(np.uint8), cv2.COLORMAP_JET)
    alpha = _MAX_OPACITY * heat[..., None]
    return np.round(grey * (1 - alpha) + cv2.cvtColor(colours, cv2.COLOR_BGR2RGB) * alpha).astype(np.uint8)
