"""The head: a dense softmax layer on the base's pooled features, and how it is trained."""

import typing

import numpy as np

from edge_runtime.console import say
from edge_runtime.machine.libraries import require
from train.data.batches import untuned
from train.model.network import FEATURES

# The head's recipe was chosen by validation on ImageNet features of real photos and on random features of drawn ones.
_DROPOUT = 0.2
_L2 = 1e-3
_LEARNING_RATE = 1e-3
_MIN_DEVIATION = 0.1  # of the features' mean standard deviation
PATIENCE_EPOCHS = 15
_BATCH = 32


def train_head(
    features, labels, class_weights, epochs, val_features=None, val_labels=None, on_epoch=None, stage="head"
):
    """Trains dropout -> dense -> softmax on cached features; with validation photos it stops early on their loss.

    It trains on standardized features, which the returned head does not need: the standardization is folded into its
    weights.

    Args:
        features, val_features: train.model.features.FeatureTable, or float32 [n, 2048].
        labels, val_labels: int [n], indices of classes.
        class_weights: float32 [classes], the weight of a photo of each class in the loss.
        epochs: the maximum; training stops PATIENCE_EPOCHS after the best epoch, whose weights are kept. Without
            validation photos the exact number.
        on_epoch: None or a function of (stage, epoch, {name: value}), called after each epoch.
        stage: its name there and on the screen.

    Returns:
        (head, history, interrupted): a Keras model float32 [n, 2048] -> float32 [n, classes]; {metric: [value per
        epoch]}; whether Ctrl-C ended it, after at least one epoch; the head is then the best so far.
    """
    tensorflow = require("tensorflow")
    keras = tensorflow.keras
    mean, deviation = _mean_and_deviation(features)

    def batches(table, truth, shuffled):
        def gather(indices):
            return (table[indices] - mean) / deviation, truth[indices], class_weights[truth[indices]]

        types = (tensorflow.float32, tensorflow.int64, tensorflow.float32)

        def load(indices):
            tensors = tensorflow.numpy_function(gather, [indices], types)
            for tensor, shape in zip(tensors, ([None, FEATURES], [None], [None])):
                tensor.set_shape(shape)
            return tuple(tensors)

        indices = tensorflow.data.Dataset.range(len(truth))
        if shuffled:
            indices = indices.shuffle(len(truth), seed=int(np.random.randint(1 << 31)))
        return untuned(indices.batch(_BATCH).map(load).prefetch(2))

    head = build_head(len(class_weights), dropout=_DROPOUT)
    head.compile(keras.optimizers.Adam(_LEARNING_RATE), "sparse_categorical_crossentropy", metrics=["accuracy"])
    stop = keras.callbacks.EarlyStopping("val_loss", patience=PATIENCE_EPOCHS, restore_best_weights=True)
    history: typing.Dict[str, list] = {}

    def show(epoch, logs):
        for name, value in logs.items():
            history.setdefault(name, []).append(float(value))
        if epoch % 5 == 0:
            say(f"{stage}: epoch {epoch + 1}  " + "  ".join(f"{name} {value:.3f}" for name, value in logs.items()))
        if on_epoch:
            on_epoch(stage, epoch, logs)

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
        head.set_weights(stop.best_weights)  # Keras 2 does that only if it stopped early
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
            keras.layers.Dense(class_count, activation="softmax", kernel_regularizer=keras.regularizers.l2(_L2)),
        ]
    )


def _mean_and_deviation(features):
    """Returns (mean, standard deviation) of each feature, float32 [2048]; reads the table in pieces."""
    count, total, squares = 0, np.zeros(FEATURES), np.zeros(FEATURES)
    for start in range(0, len(features), 1024):
        piece = features[np.arange(start, min(start + 1024, len(features)))].astype(np.float64)
        count, total, squares = count + len(piece), total + piece.sum(axis=0), squares + (piece**2).sum(axis=0)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    # A feature that hardly varies in training must not dominate when another photo activates it.
    deviation = np.maximum(deviation, _MIN_DEVIATION * deviation.mean()) + 1e-6
    return mean.astype(np.float32), deviation.astype(np.float32)
