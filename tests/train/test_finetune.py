"""Fine-tuning, on a network small enough to be trained in seconds."""

import math

import numpy as np
import pytest

from tests import helpers
from train import finetune, model
from train.data import Photo


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("tensorflow").keras


@pytest.fixture
def photos(tmp_path):
    rows = helpers.write_photos(tmp_path, per_class=6)
    return [Photo(file, str(tmp_path / file), label) for file, label in rows]


def small_network(keras):
    """A base with two of InceptionV3's block names, and a head."""
    model.set_seed(0)
    layers = keras.layers
    inputs = keras.Input((299, 299, 3))
    found = layers.Conv2D(8, 32, strides=32, name="early")(inputs)
    found = layers.BatchNormalization(name="early_norm")(found)
    found = layers.Activation("relu", name="mixed9")(found)
    found = layers.Conv2D(model.FEATURES, 1, name="late")(found)
    found = layers.BatchNormalization(name="late_norm")(found)
    found = layers.Activation("relu", name="mixed10")(found)
    base = keras.Model(inputs, layers.GlobalAveragePooling2D()(found))
    base.trainable = False
    return base, model._build_head(len(helpers.COLOURS))


def tune(keras, photos, epochs=3, seed=0, validation=None):
    base, head = small_network(keras)
    before = {layer.name: layer.get_weights() for layer in base.layers}
    names = sorted(helpers.COLOURS)
    history = finetune.fine_tune(base, head, photos, validation or photos[::2], names, 1, epochs, seed)
    return base, head, before, history


def test_only_the_last_blocks_learn_and_no_batch_norm_does(keras, photos):
    base, _, before, history = tune(keras, photos)
    for name in ("early", "early_norm", "late_norm"):
        for old, new in zip(before[name], base.get_layer(name).get_weights()):
            assert np.array_equal(old, new), name
    assert not np.array_equal(before["late"][0], base.get_layer("late").get_weights()[0])
    assert min(history["val_loss"]) < history["val_loss"][0]
    assert not base.trainable_variables


def test_the_best_epoch_s_weights_are_kept(keras, photos, monkeypatch):
    monkeypatch.setattr(finetune, "LEARNING_RATE", 0.02)
    names = sorted(helpers.COLOURS)
    others = [photo._replace(label=names[names.index(photo.label) - 1]) for photo in photos]
    base, _, before, history = tune(keras, photos, epochs=3, validation=others)  # what it learns is wrong
    assert min(history["val_loss"]) == history["val_loss"][0]
    assert np.array_equal(before["late"][0], base.get_layer("late").get_weights()[0])


def test_the_same_seed_ends_at_the_same_place(keras, photos):
    first, again = (tune(keras, photos, epochs=2, seed=3)[3] for _ in range(2))
    assert first["loss"] == pytest.approx(again["loss"], rel=1e-4)
    assert first["val_loss"] == pytest.approx(again["val_loss"], rel=1e-4)
    other = tune(keras, photos, epochs=2, seed=4)[3]
    assert other["loss"] != pytest.approx(first["loss"], rel=1e-4)


def test_the_learning_rate_warms_up_and_then_falls_to_nothing():
    rates = [finetune.learning_rate(step, 10, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([finetune.LEARNING_RATE * (step + 1) / 10 for step in range(10)])
    assert max(rates) == pytest.approx(finetune.LEARNING_RATE)
    assert all(later <= earlier for earlier, later in zip(rates[9:], rates[10:]))
    assert rates[55] == pytest.approx(finetune.LEARNING_RATE / 2)
    assert rates[-1] == pytest.approx(finetune.LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * 89 / 90)))


def test_blocks_are_counted_from_the_last(keras):
    base = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(299, 299, 3), pooling="avg")
    counts = [sum(int(np.prod(value.shape)) for value in finetune._unfreeze(base, blocks)) for blocks in (1, 2, 11)]
    assert 0 < counts[0] < counts[1] < counts[2]
    norms = sum(layer.count_params() for layer in base.layers if "batch_normalization" in layer.name)
    assert counts[2] == base.count_params() - norms


def test_smoothed_targets_are_probabilities_with_the_label_on_top():
    targets = finetune._smooth(np.array([2, 0]), 4)
    assert targets.sum(axis=1) == pytest.approx(1)
    assert targets.argmax(axis=1).tolist() == [2, 0]
    assert targets[0, 1] == pytest.approx(finetune.LABEL_SMOOTHING / 4)
