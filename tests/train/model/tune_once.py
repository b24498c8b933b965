"""A training of seconds, as a process of its own: one worker of a cluster that TF_CONFIG names, or the only one.

python -m tests.train.model.tune_once FOLDER OUT.npz [MIX]: FOLDER holds photos in class folders.
"""

import sys

import numpy as np

from edge_runtime.machine import cpu
from edge_runtime.machine.libraries import require
from edge_runtime.photos import spec
from tests import helpers
from train.data import classes
from train.data.labels import read_labels
from train.model import fine_tune, recipe, workers
from train.model.checkpoint import Checkpoint
from train.model.head import build_head
from train.model.network import FEATURES, Network
from train.model.tf_setup import set_seed

INPUT = spec.squash(96)


def small_network():
    """A network with two of InceptionV3's block names."""
    strategy = workers.new_strategy()
    set_seed(0)
    keras = require("tensorflow").keras
    layers = keras.layers
    with strategy.scope():
        inputs = keras.Input(INPUT.shape)
        outputs = layers.Conv2D(8, 32, strides=32, name="early")(inputs)
        outputs = layers.BatchNormalization(name="early_norm")(outputs)
        outputs = layers.Activation("relu", name="mixed9")(outputs)
        outputs = layers.Conv2D(FEATURES, 1, name="late")(outputs)
        outputs = layers.BatchNormalization(name="late_norm")(outputs)
        outputs = layers.Activation("relu", name="mixed10")(outputs)
        base = keras.Model(inputs, layers.GlobalAveragePooling2D()(outputs))
        base.trainable = False
        head = build_head(len(helpers.COLOURS))
    return Network(base, head, strategy, INPUT)


def weights_of(network):
    return [np.array(value) for value in network.base.get_weights() + network.head.get_weights()]


def main(folder, out, mix=None):
    cpu.cpu_features = list  # full precision, so that noise is small
    network = small_network()
    photos, _ = read_labels(folder)
    names = sorted(helpers.COLOURS)
    labels = classes.class_indices(photos, names)
    weights, plan = np.ones(len(names), np.float32), fine_tune.Plan("fine-tune", 1, 3, 6e-4, 1.0, mix, 0)
    assert fine_tune.seconds_per_photo(network, photos, labels, weights, plan) > 0
    history, _ = fine_tune.fine_tune(
        network,
        photos,
        labels,
        weights,
        recipe._validator(photos, labels, names, network.input_spec),
        plan,
        Checkpoint(out + ".state", {}, False),
        lambda *_: None,
    )
    trained = {f"w{place}": value for place, value in enumerate(weights_of(network))}
    np.savez(out, loss=history["loss"], val_loss=history["val_loss"], **trained)
    workers.wait_for_all(network.strategy)
    workers.leave(network.strategy)


if __name__ == "__main__":
    main(*sys.argv[1:])
