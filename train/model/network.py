"""The network: a base, InceptionV3 with frozen weights, and a dense softmax head on the base's pooled features."""

import os
import socket
import typing

import numpy as np

from edge_runtime import files
from edge_runtime.errors import MissingRequirement, UsageError
from edge_runtime.machine.libraries import require
from train.data.batches import photo_batches
from train.model.random_base import calibrate_batch_norm

FEATURES = 2048
_CALIBRATION_BATCH = 8
_DOWNLOAD_TIMEOUT_S = 20


class Network(typing.NamedTuple):
    """A whole network."""

    base: typing.Any  # Keras model, float32 [n, height, width, 3] in [-1, 1] -> float32 [n, 2048]
    head: typing.Any  # Keras model, float32 [n, 2048] features -> float32 [n, classes] probabilities
    strategy: typing.Any  # tf.distribute strategy that both were built under
    input_spec: typing.Any  # edge_runtime.photos.spec.InputSpec: how photos become the base's input


def build_base(weights, input_spec, paths=()):
    """Builds the frozen InceptionV3 base.

    Args:
        weights: "imagenet" (downloaded by Keras, kept in ~/.keras), the name of an .h5 file of the no-top network, or
            "none" for random weights.
        input_spec: edge_runtime.photos.spec.InputSpec; the weights are the same for every size.
        paths: training photos; with random weights the batch norms are set from them (see train.model.random_base).

    Returns:
        (model, weights id): a Keras model, float32 [n, height, width, 3] in [-1, 1] -> float32 [n, 2048]; a string
        that identifies the weights.

    Raises:
        UsageError: the file does not hold such weights. MissingRequirement: they cannot be downloaded.
    """
    keras = require("tensorflow").keras

    def inception(source):
        return keras.applications.InceptionV3(
            include_top=False, weights=source, input_shape=input_spec.shape, pooling="avg"
        )

    if weights == "imagenet":
        default_s = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_S)  # Keras would wait forever behind a firewall that drops packets
        try:
            base = inception("imagenet")
        except Exception as error:  # Keras raises a bare Exception for any failed download
            raise MissingRequirement(
                f"the ImageNet weights cannot be downloaded ({error}).\nDownload inception_v3_weights_tf_dim_ordering_"
                "tf_kernels_notop.h5 elsewhere and pass it with --weights FILE.h5, or start from --weights none"
            ) from error
        finally:
            socket.setdefaulttimeout(default_s)
        weights_id = "imagenet (Keras Applications)"
    elif weights == "none":
        base = inception(None)
        chosen = [paths[index] for index in np.random.permutation(len(paths))[: 8 * _CALIBRATION_BATCH]]
        batches = photo_batches(chosen, _CALIBRATION_BATCH, input_spec)
        calibrate_batch_norm(base, (scale(pixels) for pixels in batches))
        weights_id = "random"
    else:
        try:
            base = inception(weights)
        except Exception as error:  # h5py and Keras raise OSError, ValueError, KeyError, ...
            raise UsageError(f"--weights {weights}: not a file of InceptionV3 weights without top ({error})") from error
        weights_id = f"{os.path.basename(weights)} (sha256 {files.sha256_of(weights)})"
    base.trainable = False
    return base, weights_id


def scale(pixels):
    """Returns uint8 pixels as float32 in [-1, 1]. Training uses it, and it is traced into the exported graph."""
    tensorflow = require("tensorflow")
    return tensorflow.cast(pixels, tensorflow.float32) / 127.5 - 1.0
