"""The head and its training."""

import re

import numpy as np
import pytest

from train.model import head as head_module
from train.model import tf_setup
from train.model.head import _mean_and_deviation, train_head
from train.model.network import FEATURES


@pytest.fixture(scope="module")
def tensorflow():
    module = pytest.importorskip("tensorflow", reason="training needs TensorFlow")
    tf_setup.load_tensorflow()
    return module


def random_features(seed, count=60, classes=3):
    random = np.random.RandomState(seed)
    labels = np.arange(count) % classes
    features = np.zeros((count, FEATURES), np.float32)  # most say nothing, as where a ReLU stays shut
    features[:, :300] = random.rand(count, 300)
    for position in range(0, 300, 3):  # 100 telling features per class
        features[np.arange(count), position + labels] += 1
    return features, labels


def train(seed, epochs=4):
    features, labels = random_features(0)
    val_features, val_labels = random_features(1, 30)
    tf_setup.set_seed(seed)
    head, history, _ = train_head(features, labels, np.ones(3, np.float32), epochs, val_features, val_labels)
    return head.predict(val_features, verbose=0), history


def test_one_seed_trains_the_same_head_and_another_seed_another(tensorflow):
    first, first_history = train(seed=7)
    again, again_history = train(seed=7)
    other, _ = train(seed=8)
    assert np.array_equal(first, again)
    assert first_history == again_history
    assert not np.array_equal(first, other)


def test_head_learns_and_records_every_epoch(tensorflow, capsys):
    answers, history = train(seed=0, epochs=12)
    assert answers.shape == (30, 3)
    assert np.allclose(answers.sum(axis=1), 1, atol=1e-5)
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert {len(values) for values in history.values()} == {12}
    assert all(type(value) is float for values in history.values() for value in values)
    assert history["loss"][-1] < history["loss"][0]
    assert np.mean(answers.argmax(axis=1) == random_features(1, 30)[1]) > 0.8
    assert re.search(r"^head: epoch 11 .* val_loss 0\.\d{3}", capsys.readouterr().err, re.MULTILINE)


def opposed_answers(epochs):
    """Trains where what is learned soon hurts the validation. Returns (answers, validation loss per epoch)."""
    features, labels = random_features(0)
    opposed = np.where(np.arange(60) % 2, labels, (labels + 1) % 3)
    tf_setup.set_seed(0)
    head, history, _ = train_head(features, labels, np.ones(3, np.float32), epochs, features, opposed)
    return head.predict(features, verbose=0), history["val_loss"]


def test_training_stops_early_and_keeps_the_weights_of_the_best_epoch(tensorflow, monkeypatch):
    monkeypatch.setattr(head_module, "PATIENCE_EPOCHS", 2)
    stopped, losses = opposed_answers(200)
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 2 < 200
    assert np.array_equal(stopped, opposed_answers(best + 1)[0])


def test_the_best_epoch_is_kept_where_training_does_not_stop_early_too(tensorflow):
    module, losses = opposed_answers(12)
    best = int(np.argmin(losses))
    assert best < 11 and len(losses) == 12
    assert np.array_equal(module, opposed_answers(best + 1)[0])


def test_without_validation_photos_the_head_trains_for_all_epochs(tensorflow):
    features, labels = random_features(0)
    tf_setup.set_seed(0)
    head, history, _ = train_head(features, labels, np.ones(3, np.float32), 5)
    assert set(history) == {"loss", "accuracy"} and len(history["loss"]) == 5
    assert np.mean(head.predict(features, verbose=0).argmax(axis=1) == labels) > 0.8


def test_a_weighted_class_is_preferred_where_photos_cannot_tell(tensorflow):
    kinds = np.random.RandomState(2).rand(2, FEATURES).astype(np.float32)
    features, labels = kinds[np.arange(60) % 2], np.arange(60) // 2 % 3  # either kind has all labels alike

    def answers(weights):
        tf_setup.set_seed(0)
        head, _, _ = train_head(features, labels, np.array(weights, np.float32), 30)
        return head.predict(kinds, verbose=0).mean(axis=0)

    assert answers([1, 1, 9]).argmax() == 2
    assert answers([9, 1, 1]).argmax() == 0


def test_standardization_in_pieces_is_numpy_s(tensorflow):
    features = np.random.RandomState(0).rand(2500, FEATURES).astype(np.float32)
    mean, deviation = _mean_and_deviation(features)
    assert mean == pytest.approx(features.mean(axis=0), abs=1e-5)
    assert deviation == pytest.approx(features.std(axis=0), abs=1e-5)
