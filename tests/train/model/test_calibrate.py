"""Temperature scaling: confidence that is right as often as it says."""

import numpy as np
import pytest

from tests.train.model.test_network import tensorflow  # noqa: F401 (a fixture)
from train.model import calibrate, network, tf_setup
from train.model.head import build_head


def photos(temperature, count=20000, classes=5):
    """Returns (probabilities that are too sure by a temperature, the true classes that fit the right ones)."""
    random = np.random.RandomState(0)
    logits = random.randn(count, classes) * 2
    right = calibrate.apply_temperature(softmax(logits), 1)
    truth = (right.cumsum(axis=1) > random.rand(count, 1)).argmax(axis=1)
    return softmax(logits * temperature), truth


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_the_labels_fit_is_found(temperature):
    pytest.importorskip("scipy")
    probabilities, truth = photos(temperature)
    estimate = calibrate.fit_temperature(probabilities, truth)
    assert estimate == pytest.approx(temperature, rel=0.05)
    scaled = calibrate.apply_temperature(probabilities, estimate)
    assert np.array_equal(scaled.argmax(axis=1), probabilities.argmax(axis=1))
    assert scaled.max(axis=1).mean() == pytest.approx((scaled.argmax(axis=1) == truth).mean(), abs=0.02)


def test_perfect_answers_and_zero_probabilities_end_within_the_bounds():
    pytest.importorskip("scipy")
    probabilities = np.eye(3, dtype=np.float32)
    for truth in (np.arange(3), np.array([1, 2, 0])):
        estimate = calibrate.fit_temperature(probabilities, truth)
        assert 0.05 <= estimate <= 20
        assert np.isfinite(calibrate.apply_temperature(probabilities, estimate)).all()


def test_a_few_photos_that_are_all_right_are_no_reason_to_be_sure_of_everything():
    pytest.importorskip("scipy")
    probabilities = np.array([[0.9, 0.05, 0.03, 0.02]] * 30 + [[0.3, 0.28, 0.22, 0.2]] * 10, np.float32)
    estimate = calibrate.fit_temperature(probabilities, np.zeros(40, int))
    assert 0.3 < estimate < 1  # it was too modest
    unsure = calibrate.apply_temperature(np.array([[0.28, 0.26, 0.24, 0.22]], np.float32), estimate)
    assert unsure.max() < 0.4


def test_a_folded_head_gives_the_scaled_probabilities(tensorflow):  # noqa: F811
    tf_setup.set_seed(0)
    head = build_head(4)
    features = np.random.RandomState(0).rand(6, network.FEATURES).astype(np.float32)
    before = head.predict(features, verbose=0)
    calibrate.fold_temperature(head, 2.5)
    expected = calibrate.apply_temperature(before, 2.5)
    assert head.predict(features, verbose=0) == pytest.approx(expected, abs=1e-6)
    assert not np.allclose(before, expected, atol=1e-3)
