"""Heat maps: which places of a photo speak for a class. No gradients are computed, so that ONNX Runtime is enough."""

import cv2
import numpy as np

from edge_runtime.bundle.manifest import OUTPUT_NAME
from edge_runtime.photos.spec import SIDE
from train.insight import inner

LAST_BLOCK = inner.BLOCKS[-1]
_STRONGEST = 0.7  # how much of the photo the colour hides where the heat is 1


def heat_maps(bundle, pixels, classes=None):
    """Runs photos through a bundle's network and returns what grad_cam finds.

    Args:
        bundle: edge_runtime.bundle.reading.Bundle.
        pixels: uint8 [n, 299, 299, 3], RGB, n >= 1.
        classes: int [n], the class that each photo's map is for; None for the most probable one.

    Returns:
        float32 [n, 299, 299], 0..1.

    Raises:
        BundleError, MissingRequirement: as train.insight.inner.open_session.
    """
    session = inner.open_session(bundle, [LAST_BLOCK, OUTPUT_NAME])
    found = session.run(pixels)
    chosen = found[OUTPUT_NAME].argmax(axis=1) if classes is None else classes
    return grad_cam(found[LAST_BLOCK], session.kernel, chosen)


def grad_cam(block, kernel, classes):
    """Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) on the last block.

    Grad-CAM weighs each channel by the class logit's gradient, averaged over places, and keeps the positive part of
    the sum. Behind the last block of this network come the average over places, a dense layer and the softmax: the
    gradient is kernel[channel, class] / (height * width) at every place, known without differentiating. (In this case
    Grad-CAM is CAM, Zhou et al. 2016, arXiv:1512.04150, without its negative part.)

    A softmax does not see what is added to all logits alike, so that kernel - kernel.mean(axis=1) would be as good a
    kernel. It was tried: with ImageNet features its maps lay less on the products (see
    tests/train/insight/test_heat.py), and hiding what they mark cost the network no more of its confidence.

    Args:
        block: float32 [n, height, width, channels], the last block's output.
        kernel: float32 [channels, classes].
        classes: int [n].

    Returns:
        float32 [n, 299, 299]: enlarged bilinearly, the hottest place of each photo is 1; all 0 where no place speaks
        for the class.
    """
    coarse = np.maximum(np.einsum("nhwc,nc->nhw", block, kernel.T[np.asarray(classes)]), 0)
    maps = np.stack([cv2.resize(one, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) for one in coarse])
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)


def overlay(rgb, heat):
    """Lays heat over a photo without its colours, which would be taken for heat.

    Args:
        rgb: uint8 [height, width, 3].
        heat: float32 [height, width], 0..1.

    Returns:
        uint8 [height, width, 3], RGB: blue to red from little to much, the less of the photo the hotter; grey where the
        heat is 0.
    """
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None]
    colours = cv2.applyColorMap(np.round(heat * 255).astype(np.uint8), cv2.COLORMAP_JET)
    alpha = _STRONGEST * heat[..., None]
    return np.round(grey * (1 - alpha) + cv2.cvtColor(colours, cv2.COLOR_BGR2RGB) * alpha).astype(np.uint8)
