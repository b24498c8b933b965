"""Heat maps: which places of a photo speak for a class. They need no gradients, so ONNX Runtime is enough."""

import cv2
import numpy as np

from edge_runtime.bundle.manifest import OUTPUT_NAME
from train.insight import inner

LAST_BLOCK = inner.BLOCKS[-1]
_MAX_OPACITY = 0.7  # of the colour where the heat is 1


def heat_maps(bundle, pixels, classes=None):
    """Runs photos through a bundle's network and returns their heat maps.

    Args:
        bundle: edge_runtime.bundle.reading.Bundle.
        pixels: uint8 [n, height, width, 3], RGB, n >= 1.
        classes: int [n], the class of each photo's map; None for its most probable one.

    Returns:
        float32 [n, height, width], 0..1: the hottest place of each photo is 1; all 0 where no place speaks for
        the class.

    Raises:
        BundleError: the network is corrupt or no InceptionV3.
        MissingRequirement: onnx or ONNX Runtime is not installed.
    """
    session = inner.open_session(bundle, [LAST_BLOCK, OUTPUT_NAME])
    outputs = session.run(pixels)
    if classes is None:
        classes = outputs[OUTPUT_NAME].argmax(axis=1)
    return grad_cam(outputs[LAST_BLOCK], session.kernel, classes, pixels.shape[1:3])


def grad_cam(block, kernel, classes, size):
    """Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) on the last block.

    Grad-CAM weighs each channel by the gradient of the class's logit, averaged over places, and keeps the positive part
    of the sum. In this network the last block is followed by the average over places, a dense layer and the softmax, so
    the gradient is kernel[channel, class] / (height * width) at every place. (In this case Grad-CAM is CAM, Zhou et al.
    2016, arXiv:1512.04150, without its negative part.)

    A softmax does not change when the same value is added to all logits, so kernel - kernel.mean(axis=1) would do as
    well. It was tried: with ImageNet features its maps were less on the products (tests/train/insight/test_heat.py),
    and hiding the places that they mark lowered the network's confidence no further.

    Args:
        block: float32 [n, height, width, channels], the last block's output.
        kernel: float32 [channels, classes].
        classes: int [n].
        size: (height, width) of the maps.

    Returns:
        float32 [n, height, width], 0..1, enlarged bilinearly: the hottest place of each photo is 1; all 0 where no
        place speaks for the class.
    """
    coarse = np.maximum(np.einsum("nhwc,nc->nhw", block, kernel.T[np.asarray(classes)]), 0)
    maps = np.stack([cv2.resize(one, size[::-1], interpolation=cv2.INTER_LINEAR) for one in coarse])
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
