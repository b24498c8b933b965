"""The network: InceptionV3 as a frozen base, a dense softmax head on its pooled features."""

import contextlib
import logging
import os
import random
import socket
import subprocess
import sys
import typing

import numpy as np

from edge_runtime import files, images, machine
from edge_runtime.command import say
from edge_runtime.errors import MissingRequirement, UsageError
from edge_runtime.requirements import require
from train.pipeline import photo_batches, untuned
from train.random_base import calibrate_batch_norm

FEATURES = 2048

# base: float32 [n, 299, 299, 3] in [-1, 1] -> float32 [n, 2048]; head: features -> float32 [n, classes] probabilities
Network = typing.NamedTuple("Network", [("base", typing.Any), ("head", typing.Any), ("strategy", typing.Any)])
# The head's recipe was chosen by validation on ImageNet features of real photos and on random features of drawn ones.
DROPOUT = 0.2
L2 = 1e-3
LEARNING_RATE = 1e-3
LEAST_DEVIATION = 0.1  # of the features' mean standard deviation
PATIENCE_EPOCHS = 15
_CALIBRATION_BATCH = 8
_HEAD_BATCH = 32
_DOWNLOAD_TIMEOUT_S = 20
_ONEDNN_SINCE = [2, 21]  # the TensorFlow it was tried with; with 2.6 on a CPU without AVX512 it dies of SIGFPE


def load_tensorflow():
    """Imports TensorFlow without its start-up messages; errors are still shown. float32 means float32 from then on."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    if "avx2" in machine.cpu_features():
        version = [int(part) for part in (machine.library_version("tensorflow") or "0.0").split(".")[:2]]
        if version >= _ONEDNN_SINCE:
            # Left to itself TensorFlow takes oneDNN's convolutions only where there is AVX512-VNNI. Without it they
            # train faster, too (docs/experiments/training.md).
            os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
        with _nothing_on_stderr():  # where it takes them, it says so twice, before it knows of any log level
            require("tensorflow")
    tensorflow = require("tensorflow")
    tensorflow.get_logger().setLevel("ERROR")
    # By default newer GPUs round to 10 bits: the exported files could not agree with that to a hundred-thousandth.
    tensorflow.config.experimental.enable_tensor_float_32_execution(False)


@contextlib.contextmanager
def _nothing_on_stderr():
    """Within the block what is written to stderr is lost, also what libraries in C++ write."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def set_seed(seed):
    """Seeds Python, numpy and TensorFlow."""
    random.seed(seed)
    np.random.seed(seed)
    require("tensorflow").random.set_seed(seed)


def limit_gpu_memory(fraction):
    """Lets TensorFlow take GPU memory as it needs it, or at most a fraction of it; without a GPU nothing happens.

    Must run before anything is placed on a GPU. On a Jetson the GPU's memory is the board's.

    Args:
        fraction: 0..1, or None for growth without a limit.
    """
    tensorflow = require("tensorflow")
    for index, gpu in enumerate(tensorflow.config.list_physical_devices("GPU")):
        if fraction is None:
            tensorflow.config.experimental.set_memory_growth(gpu, True)
        else:
            limit_mib = int(fraction * gpu_memory_bytes(index)) >> 20
            limit = tensorflow.config.experimental.VirtualDeviceConfiguration(memory_limit=limit_mib)
            tensorflow.config.experimental.set_virtual_device_configuration(gpu, [limit])


def gpu_memory_bytes(index):
    """Returns the memory of a GPU as TensorFlow counts them: the card's, or on a Jetson (no nvidia-smi) the board's."""
    # nvidia-smi counts all cards, TensorFlow those of CUDA_VISIBLE_DEVICES: their numbers or ids
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    card = visible[index] if index < len(visible) else str(index)
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits", "--id=" + card]
    try:
        return int(subprocess.check_output(query, stderr=subprocess.DEVNULL).decode().strip()) << 20
    except (OSError, ValueError, subprocess.CalledProcessError):
        return machine.memory_info()["MemTotal"]


@contextlib.contextmanager
def low_precision():
    """Within the block TensorFlow multiplies in 16 bits where that is faster: float16 on a GPU, bfloat16 on some CPUs.

    Weights, sums and what is no convolution or product stay float32 (TensorFlow's auto_mixed_precision).
    """
    tensorflow = require("tensorflow")
    if tensorflow.config.list_physical_devices("GPU"):
        options = ["auto_mixed_precision"]
    elif {"avx512_bf16", "amx_bf16"} & set(machine.cpu_features()):
        options = ["auto_mixed_precision_onednn_bfloat16"]
    else:
        options = []
    tensorflow.config.optimizer.set_experimental_options(dict.fromkeys(options, True))
    try:
        yield
    finally:
        tensorflow.config.optimizer.set_experimental_options(dict.fromkeys(options, False))


def build_base(weights, paths=()):
    """Builds the frozen InceptionV3 base.

    Args:
        weights: "imagenet" (downloaded by Keras, kept in ~/.keras), the name of an .h5 file of the no-top network, or
            "none" for random weights.
        paths: training photos, which random weights' batch norms are fitted to (see train.random_base).

    Returns:
        (model, weights id): a Keras model, float32 [n, 299, 299, 3] in [-1, 1] -> float32 [n, 2048]; and a string
        that says which weights these are.

    Raises:
        UsageError: the file does not hold such weights. MissingRequirement: they cannot be downloaded.
    """
    keras = require("tensorflow").keras

    def inception(source):
        return keras.applications.InceptionV3(
            include_top=False, weights=source, input_shape=tuple(images.INPUT_SPEC["shape"]), pooling="avg"
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
            raise UsageError(
                "--weights %s: holds no InceptionV3 weights without top (%s)" % (weights, error)
            ) from error
        weights_id = "%s (sha256 %s)" % (os.path.basename(weights), files.sha256_of(weights))
    base.trainable = False
    return base, weights_id


def scale(pixels):
    """uint8 pixels -> float32 in [-1, 1]: the one definition, for training and, traced, inside the exported graph."""
    tensorflow = require("tensorflow")
    return tensorflow.cast(pixels, tensorflow.float32) / 127.5 - 1.0


def train_head(features, labels, class_weights, epochs, val_features=None, val_labels=None, watch=None, stage="head"):
    """Trains dropout -> dense -> softmax on cached features; with validation photos it stops early on their loss.

    It trains on standardized features, which the returned head does not need: the standardization is folded into its
    weights.

    Args:
        features, val_features: train.features.FeatureTable, or float32 [n, 2048].
        labels, val_labels: int [n], indices of classes.
        class_weights: float32 [classes], what a photo of each class counts in the loss.
        epochs: at most so many; training stops PATIENCE_EPOCHS after the best, whose weights are kept. Without
            validation photos exactly so many.
        watch: None or a function of (stage, epoch, {name: value}), called after each epoch.
        stage: names it there and on the screen.

    Returns:
        (head, history, interrupted): a Keras model float32 [n, 2048] -> float32 [n, classes]; {metric: [value per
        epoch]}; whether Ctrl-C ended it, after an epoch at least, in which case it is the best until then.
    """
    tensorflow = require("tensorflow")
    keras = tensorflow.keras
    mean, deviation = _standard(features)

    def batches(table, truth, shuffled):
        def gather(indices):
            return (table[indices] - mean) / deviation, truth[indices], class_weights[truth[indices]]

        types = (tensorflow.float32, tensorflow.int64, tensorflow.float32)

        def load(indices):
            found = tensorflow.numpy_function(gather, [indices], types)
            for tensor, shape in zip(found, ([None, FEATURES], [None], [None])):
                tensor.set_shape(shape)
            return tuple(found)

        indices = tensorflow.data.Dataset.range(len(truth))
        if shuffled:
            indices = indices.shuffle(len(truth), seed=int(np.random.randint(1 << 31)))
        return untuned(indices.batch(_HEAD_BATCH).map(load).prefetch(2))

    head = build_head(len(class_weights), dropout=DROPOUT)
    head.compile(keras.optimizers.Adam(LEARNING_RATE), "sparse_categorical_crossentropy", metrics=["accuracy"])
    stop = keras.callbacks.EarlyStopping("val_loss", patience=PATIENCE_EPOCHS, restore_best_weights=True)
    history: typing.Dict[str, list] = {}

    def show(epoch, logs):
        for name, value in logs.items():
            history.setdefault(name, []).append(float(value))
        if epoch % 5 == 0:
            say("%s: epoch %d  " % (stage, epoch + 1) + "  ".join("%s %.3f" % item for item in logs.items()))
        if watch:
            watch(stage, epoch, logs)

    options = {"epochs": epochs, "callbacks": [keras.callbacks.LambdaCallback(on_epoch_end=show)]}
    if val_features is not None:
        options["validation_data"] = batches(val_features, val_labels, False)
        options["callbacks"].insert(0, stop)
    interrupted = False
    try:
        head.fit(batches(features, labels, True), shuffle=False, verbose=0, **options)
    except KeyboardInterrupt:
        if not history:
            raise
        interrupted = True
    if stop in options["callbacks"]:
        head.set_weights(stop.best_weights)  # Keras 2 does that only where it stopped early
    kernel, bias = head.get_weights()
    kernel = kernel / deviation[:, None]
    folded = build_head(len(class_weights))
    folded.set_weights([kernel, bias - mean.dot(kernel)])
    return folded, history, interrupted


def build_head(class_count, dropout=0.0):
    """Returns a Keras model, float32 [n, 2048] features -> float32 [n, class_count] probabilities."""
    keras = require("tensorflow").keras
    return keras.Sequential(
        [
            keras.layers.InputLayer((FEATURES,)),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(class_count, activation="softmax", kernel_regularizer=keras.regularizers.l2(L2)),
        ]
    )


def _standard(features):
    """Returns (mean, deviation) of each feature, float32 [2048], from a table that is read in pieces."""
    count, total, squares = 0, np.zeros(FEATURES), np.zeros(FEATURES)
    for start in range(0, len(features), 1024):
        piece = features[np.arange(start, min(start + 1024, len(features)))].astype(np.float64)
        count, total, squares = count + len(piece), total + piece.sum(axis=0), squares + (piece**2).sum(axis=0)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    # A feature that is silent in training must not shout when another photo wakes it.
    deviation = np.maximum(deviation, LEAST_DEVIATION * deviation.mean()) + 1e-6
    return mean.astype(np.float32), deviation.astype(np.float32)
