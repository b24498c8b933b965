"""The network: InceptionV3 as a frozen base, a dense softmax head on its pooled features."""

import os
import socket
import typing

import numpy as np

from edge_runtime import files
from edge_runtime.errors import MissingRequirement, UsageError
from edge_runtime.machine.libraries import require
from edge_runtime.photos import spec
from train.data.batches import photo_batches
from train.model.random_base import calibrate_batch_norm

FEATURES = 2048


class Network(typing.NamedTuple):
    """A whole network."""

    base: typing.Any  # Keras model, float32 [n, 299, 299, 3] in [-1, 1] -> float32 [n, 2048]
    head: typing.Any  # Keras model, float32 [n, 2048] features -> float32 [n, classes] probabilities
    strategy: typing.Any  # tf.distribute strategy that both were built under


_CALIBRATION_BATCH = 8


_DOWNLOAD_TIMEOUT_S = 20


def build_base(weights, paths=()):
    """Builds the frozen InceptionV3 base.

    Args:
        weights: "imagenet" (downloaded by Keras, kept in ~/.keras), the name of an .h5 file of the no-top network, or
            "none" for random weights.
        paths: training photos, which random weights' batch norms are fitted to (see train.model.random_base).

    Returns:
        (model, weights id): a Keras model, float32 [n, 299, 299, 3] in [-1, 1] -> float32 [n, 2048]; and a string
        that says which weights these are.

    Raises:
        UsageError: the file does not hold such weights. MissingRequirement: they cannot be downloaded.
    """
    keras = require("tensorflow").keras

    def inception(source):
        return keras.applications.InceptionV3(
            include_top=False, weights=source, input_shape=tuple(spec.INPUT_SPEC["shape"]), pooling="avg"
        )

    if weights == "imagenet":
        waiting_s = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_S)  # Keras would wait for ever behind a firewall that drops packets
        try:
            base = inception("imagenet")
        except Exception as error:  # Keras raises a bare Exception for any failed download
            raise MissingRequirement(
                "the ImageNet weights cannot be had (%s).\nDownload inception_v3_weights_tf_dim_ordering_tf_kernels_"
                "notop.h5 elsewhere and pass it with --weights FILE.h5, or start from --weights none" % error
            ) from error
        finally:
            socket.setdefaulttimeout(waiting_s)
        weights_id = "imagenet (Keras Applications)"
    elif weights == "none":
        base = inception(None)
        chosen = [paths[index] for index in np.random.permutation(len(paths))[: 8 * _CALIBRATION_BATCH]]
        calibrate_batch_norm(base, (scale(pixels) for pixels in photo_batches(chosen, _CALIBRATION_BATCH)))
        weights_id = "random"
    else:
        try:
            base = inception(weights)
        except Exception as error:  # h5py and Keras raise OSError, ValueError, KeyError, ...
            raise UsageError(f"--weights {weights}: holds no InceptionV3 weights without top ({error})") from error
        weights_id = f"{os.path.basename(weights)} (sha256 {files.sha256_of(weights)})"
    base.trainable = False
    return base, weights_id


def scale(pixels):
    """uint8 pixels -> float32 in [-1, 1]: the one definition, for training and, traced, inside the exported graph."""
    tensorflow = require("tensorflow")
    return tensorflow.cast(pixels, tensorflow.float32) / 127.5 - 1.0
