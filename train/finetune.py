"""Stage 2: the last InceptionV3 blocks and the head, trained together on augmented photos."""

import math

import numpy as np

from edge_runtime import images
from edge_runtime.command import progress, say
from edge_runtime.requirements import require
from train.augment import augment
from train.model import scale
from train.pipeline import photo_batches

LEARNING_RATE = 6e-4  # peak, after one epoch of warm-up; then half a cosine down to 0
WEIGHT_DECAY = 0.02  # of kernels, decoupled from the gradient (AdamW: Loshchilov and Hutter 2019, arXiv:1711.05101)
LABEL_SMOOTHING = 0.1
LAST_BLOCK = 10  # InceptionV3's blocks are mixed0 .. mixed10
_BATCH = 32


def fine_tune(base, head, training, validation, class_names, blocks, epochs, seed):
    """Trains the last blocks of the base together with the head, in place. The weights of the best epoch are kept.

    Batch norms stay in inference mode: the statistics of small batches would undo what ImageNet taught them.

    Args:
        base, head: Keras models as train.model builds them, the head trained.
        training, validation: lists of train.data.Photo.
        class_names: in the order of the head's outputs.
        blocks: 1..11, how many of mixed0 .. mixed10, counted from the last, are trained.
        epochs: passes over the training photos, each photo augmented anew.
        seed: of the order and of the augmentation; the same seed shows the same pictures.

    Returns:
        history: {"loss", "val_loss", "val_accuracy"}, each a list of one value per epoch; the validation's before the
        first epoch comes first.
    """
    tensorflow = require("tensorflow")
    variables = _unfreeze(base, blocks) + head.trainable_variables
    index = {name: position for position, name in enumerate(class_names)}
    labels = np.array([index[photo.label] for photo in training])
    val_labels = np.array([index[photo.label] for photo in validation])
    steps = int(math.ceil(len(training) / _BATCH))
    train_step = _train_step(base, head, variables)
    predict = tensorflow.function(lambda pixels: head(base(scale(pixels), training=False)), autograph=False)

    def validate():
        found = [predict(pixels).numpy() for pixels in photo_batches([photo.path for photo in validation], _BATCH)]
        probabilities = np.concatenate(found)
        own = probabilities[np.arange(len(val_labels)), val_labels]
        return float(-np.log(own + 1e-7).mean()), float((probabilities.argmax(axis=1) == val_labels).mean())

    val_loss, val_accuracy = validate()
    history = {"loss": [], "val_loss": [val_loss], "val_accuracy": [val_accuracy]}
    best = [variable.numpy() for variable in variables]
    for epoch in range(epochs):
        order = np.random.RandomState([seed, epoch]).permutation(len(training))
        losses = []
        with progress(total=len(training), what="fine-tune %d/%d" % (epoch + 1, epochs)) as bar:
            paths = [training[number].path for number in order]
            for number, pixels in enumerate(photo_batches(paths, _BATCH, _augmented(training, seed, epoch))):
                chosen = order[number * _BATCH : number * _BATCH + _BATCH]
                rate = learning_rate(epoch * steps + number, steps, epochs * steps)
                losses.append(float(train_step(pixels, _smooth(labels[chosen], len(class_names)), np.float32(rate))))
                bar.update(len(chosen))
        val_loss, val_accuracy = validate()
        history["loss"].append(float(np.mean(losses)))
        history["val_loss"].append(val_loss)
        history["val_accuracy"].append(val_accuracy)
        say("loss %.3f  val loss %.3f  val accuracy %.3f" % (history["loss"][-1], val_loss, val_accuracy))
        if val_loss <= min(history["val_loss"]):
            best = [variable.numpy() for variable in variables]
    for variable, value in zip(variables, best):
        variable.assign(value)
    base.trainable = False
    return history


def learning_rate(step, warm_up, total):
    """Returns the rate of a step: linear warm-up, then half a cosine."""
    if step < warm_up:
        return LEARNING_RATE * (step + 1) / warm_up
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))


def _unfreeze(base, blocks):
    """Makes the last blocks trainable, without their batch norms; returns their variables."""
    norm = require("tensorflow").keras.layers.BatchNormalization
    names = [layer.name for layer in base.layers]
    first = 0 if blocks > LAST_BLOCK else names.index("mixed%d" % (LAST_BLOCK - blocks)) + 1
    base.trainable = True
    for position, layer in enumerate(base.layers):
        layer.trainable = position >= first and not isinstance(layer, norm)
    return base.trainable_variables


def _train_step(base, head, variables):
    """Returns a function (uint8 pixels, target probabilities, rate) -> loss that makes one AdamW step."""
    tensorflow = require("tensorflow")
    optimizer = tensorflow.keras.optimizers.Adam(LEARNING_RATE)
    if hasattr(optimizer, "build"):
        optimizer.build(variables)

    @tensorflow.function(autograph=False)
    def step(pixels, targets, rate):
        with tensorflow.GradientTape() as tape:
            probabilities = head(base(scale(pixels), training=False), training=True)
            loss = -tensorflow.reduce_mean(
                tensorflow.reduce_sum(targets * tensorflow.math.log(probabilities + 1e-7), axis=1)
            )
        gradients = tape.gradient(loss, variables)
        for variable in variables:
            if len(variable.shape) > 1:  # kernels, not biases
                variable.assign_sub(rate * WEIGHT_DECAY * variable)
        optimizer.apply_gradients(zip(gradients, variables))
        return loss

    def scheduled(pixels, targets, rate):
        optimizer.learning_rate = rate
        return step(pixels, targets, rate)

    return scheduled


def _augmented(photos, seed, epoch):
    """Returns a function path -> augmented picture, whose chance depends on seed, epoch and photo alone."""
    number_of = {photo.path: number for number, photo in enumerate(photos)}

    def load(path):
        return augment(images.read_image(path), np.random.RandomState([seed, epoch, number_of[path]]))

    return load


def _smooth(labels, class_count):
    targets = np.full((len(labels), class_count), LABEL_SMOOTHING / class_count, np.float32)
    targets[np.arange(len(labels)), labels] += 1 - LABEL_SMOOTHING
    return targets
