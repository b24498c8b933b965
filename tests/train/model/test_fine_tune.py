"""Fine-tuning, on a network small enough to be trained in seconds."""

import itertools
import sys
import types

import numpy as np
import pytest

from edge_runtime.photos import read
from tests import helpers
from tests.train.model.tune_once import INPUT, small_network, weights_of
from train.data import classes
from train.data.labels import Photo
from train.model import fine_tune, recipe
from train.model.checkpoint import Checkpoint

# Each trains for seconds; Python 3.6 gets the trained bundle of test_training, and these with make test-slow.
pytestmark = [pytest.mark.slow] if sys.version_info < (3, 7) else []


@pytest.fixture(scope="module", autouse=True)
def keras():
    return pytest.importorskip("tensorflow").keras


@pytest.fixture
def photos(tmp_path):
    rows = helpers.write_photos(tmp_path, per_class=6)
    return [Photo(file, str(tmp_path / file), label) for file, label in rows]


def tune(
    photos,
    folder,
    epochs=3,
    seed=0,
    validation=None,
    resume=False,
    on_epoch=None,
    stage="fine-tune",
    rate=6e-4,
    mix=None,
    strength=1.0,
):
    """Returns (network, its weights before, history, interrupted)."""
    network = small_network()
    before = {layer.name: layer.get_weights() for layer in network.base.layers}
    names = sorted(helpers.COLOURS)
    labels = classes.class_indices(photos, names)
    validation = validation or photos[::2]
    validate = (
        recipe._validator(validation, classes.class_indices(validation, names), names, INPUT)
        if stage == "fine-tune"
        else None
    )
    history, interrupted = fine_tune.fine_tune(
        network,
        photos,
        labels,
        np.ones(len(names), np.float32),
        validate,
        fine_tune.Plan(stage, 1, epochs, rate, strength, mix, seed),
        Checkpoint(str(folder / "state"), {}, resume),
        on_epoch or (lambda *_: None),
    )
    return network, before, history, interrupted


def test_only_the_last_blocks_learn_and_no_batch_norm_does(photos, tmp_path):
    network, before, history, interrupted = tune(photos, tmp_path)
    for name in ("early", "early_norm", "late_norm"):
        for old, new in zip(before[name], network.base.get_layer(name).get_weights()):
            assert np.array_equal(old, new), name
    assert not np.array_equal(before["late"][0], network.base.get_layer("late").get_weights()[0])
    assert min(history["val_loss"]) < history["val_loss"][0]
    assert not network.base.trainable_variables
    assert not interrupted


def test_the_largest_seed_trains_too(photos, tmp_path):
    assert len(tune(photos, tmp_path, epochs=1, seed=(1 << 32) - 1)[2]["loss"]) == 1


def test_the_best_epoch_s_weights_are_kept(photos, tmp_path):
    names = sorted(helpers.COLOURS)
    others = [photo._replace(label=names[names.index(photo.label) - 1]) for photo in photos]
    # What it learns is wrong.
    network, before, history, _ = tune(photos, tmp_path, validation=others, rate=0.02)
    assert min(history["val_loss"]) == history["val_loss"][0]
    assert np.array_equal(before["late"][0], network.base.get_layer("late").get_weights()[0])


def test_without_validation_the_last_weights_are_kept(photos, tmp_path):
    network, before, history, _ = tune(photos, tmp_path, stage="refit")
    assert list(history) == ["loss"] and len(history["loss"]) == 3
    assert not np.array_equal(before["late"][0], network.base.get_layer("late").get_weights()[0])


def test_gradients_that_overflow_spoil_nothing(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tune, "LOSS_SCALE", float("inf"))
    network, before, history, _ = tune(photos, tmp_path, epochs=1)
    assert np.isfinite(history["val_loss"]).all()
    for value, old in zip(network.base.get_layer("late").get_weights(), before["late"]):
        assert value == pytest.approx(old, rel=1e-6)  # the moving average rounds


def test_the_same_seed_ends_at_the_same_place(photos, tmp_path):
    first, again = (tune(photos, tmp_path, epochs=2, seed=3)[2] for _ in range(2))
    assert first["loss"] == pytest.approx(again["loss"], rel=1e-4)
    assert first["val_loss"] == pytest.approx(again["val_loss"], rel=1e-4)
    other = tune(photos, tmp_path, epochs=2, seed=4)[2]
    assert other["loss"] != pytest.approx(first["loss"], rel=1e-4)


class KilledError(Exception):
    """Stands for kill -9: nothing after it runs."""


def stop_with(error, epoch):
    def on_epoch(stage, done, figures):
        if done == epoch:
            raise error

    return on_epoch


@pytest.mark.parametrize(
    "stage, mix",
    [  # test_recipe.py kills without mixing, in the refit too
        pytest.param("fine-tune", None, marks=pytest.mark.slow),
        pytest.param("refit", None, marks=pytest.mark.slow),
        ("fine-tune", "mixup"),
    ],
)
def test_a_killed_training_goes_on_and_ends_where_a_whole_one_ends(photos, tmp_path, stage, mix):
    whole, _, history, _ = tune(photos, tmp_path / "whole", stage=stage, mix=mix)
    with pytest.raises(KilledError):  # in its second epoch's end, before that epoch's state is saved
        tune(photos, tmp_path / "killed", stage=stage, mix=mix, on_epoch=stop_with(KilledError(), 1))
    resumed, _, resumed_history, _ = tune(photos, tmp_path / "killed", stage=stage, mix=mix, resume=True)
    assert resumed_history.keys() == history.keys()
    for name, values in history.items():
        assert resumed_history[name] == pytest.approx(values, rel=1e-5), name
    for value, expected in zip(weights_of(resumed), weights_of(whole)):
        assert np.abs(value - expected).max() < 1e-5


def test_ctrl_c_keeps_the_best_so_far(photos, tmp_path):
    shorter = []

    def on_epoch(stage, epoch, figures):
        if epoch == 1:
            raise KeyboardInterrupt
        shorter.append(figures)

    network, before, history, interrupted = tune(photos, tmp_path, on_epoch=on_epoch)
    assert interrupted and len(shorter) == 1 and len(history["loss"]) == 2
    assert not np.array_equal(before["late"][0], network.base.get_layer("late").get_weights()[0])
    _, _, whole, again = tune(photos, tmp_path, resume=True)
    assert not again and len(whole["loss"]) == 3


def test_each_epoch_says_how_long_the_stage_still_takes(photos, tmp_path, monkeypatch, capfd):
    ticks_s = itertools.count(0, 100)  # the clock is read at the start and once an epoch
    monkeypatch.setattr(fine_tune, "time", types.SimpleNamespace(perf_counter=lambda: next(ticks_s)))
    tune(photos, tmp_path, stage="refit")
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("refit: epoch")]
    assert [line.split("  ")[2:] for line in lines] == [["3 min left"], ["2 min left"], []]


def test_timing_a_few_steps_leaves_the_network_as_it_was(photos):
    network = small_network()
    before = weights_of(network)
    names = sorted(helpers.COLOURS)
    plan = fine_tune.Plan("fine-tune", 1, 3, 6e-4, 1.0, None, 0)
    labels = classes.class_indices(photos, names)
    seconds = fine_tune.seconds_per_photo(network, photos, labels, np.ones(len(names), np.float32), plan)
    assert 0 < seconds < 10
    for value, old in zip(weights_of(network), before):
        assert np.array_equal(value, old)
    assert not network.base.trainable_variables


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_without_augmentation_the_photos_are_shown_as_they_are(photos, tmp_path, monkeypatch, strength):
    shown, mix = [], fine_tune.mix

    def spy(pixels, random, kind):
        shown.extend(pixels)
        return mix(pixels, random, kind)

    monkeypatch.setattr(fine_tune, "mix", spy)
    tune(photos, tmp_path, epochs=1, mix="mixup", strength=strength)
    originals = [read.read_image(photo.path, INPUT) for photo in photos]
    as_they_are = [any(np.array_equal(picture, original) for original in originals) for picture in shown]
    assert len(shown) == len(photos) and all(as_they_are) == (strength == 0)


def test_the_learning_rate_warms_up_and_then_falls_to_nothing():
    rates = [fine_tune.learning_rate(step, 1000, 6e-4) for step in range(1000)]
    assert rates[:100] == pytest.approx([6e-4 * (step + 1) / 100 for step in range(100)])
    assert max(rates) == pytest.approx(6e-4)
    assert all(later <= earlier for earlier, later in zip(rates[99:], rates[100:]))
    assert rates[550] == pytest.approx(3e-4)
    assert 0 < rates[-1] < 1e-8
    short = [fine_tune.learning_rate(step, 9, 6e-4) for step in range(9)]
    assert short[:3] == pytest.approx([2e-4, 4e-4, 6e-4]) and short[-1] < 1e-4
    assert fine_tune.learning_rate(0, 1, 6e-4) == pytest.approx(6e-4)


def test_blocks_are_counted_from_the_last(keras):
    base = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(299, 299, 3), pooling="avg")
    counts = [sum(int(np.prod(value.shape)) for value in fine_tune._unfreeze(base, blocks)) for blocks in (1, 2, 11)]
    assert 0 < counts[0] < counts[1] < counts[2]
    norms = sum(layer.count_params() for layer in base.layers if "batch_normalization" in layer.name)
    assert counts[2] == base.count_params() - norms


@pytest.mark.parametrize("smoothing", [0, 0.1])
def test_targets_are_probabilities_with_the_label_on_top(smoothing, monkeypatch):
    monkeypatch.setattr(fine_tune, "LABEL_SMOOTHING", smoothing)
    targets = fine_tune._targets(np.array([2, 0]), 4)
    assert targets.sum(axis=1) == pytest.approx(1)
    assert targets.argmax(axis=1).tolist() == [2, 0]
    assert targets[0, 1] == pytest.approx(smoothing / 4)


def test_a_mixed_label_counts_by_its_share_and_its_class_s_weight(monkeypatch):
    shares = np.array([0.75, 1.0], np.float32)
    monkeypatch.setattr(fine_tune, "mix", lambda pixels, random, kind: (pixels, np.array([1, 0]), shares))
    targets, weights = np.eye(3, dtype=np.float32)[[2, 0]], np.array([2.0, 4.0], np.float32)
    _, mixed, mixed_weights = fine_tune._mixed(np.zeros((2, 1)), targets, weights, None, "mixup")
    assert mixed_weights == pytest.approx([0.75 * 2 + 0.25 * 4, 4])
    assert mixed[0] == pytest.approx([0.25 * 4 / 2.5, 0, 0.75 * 2 / 2.5])
    assert mixed[1] == pytest.approx([1, 0, 0])
    assert mixed.dtype == mixed_weights.dtype == np.float32


def test_photos_are_mixed_in_training_and_never_in_validation(photos, tmp_path, monkeypatch):
    mixed = []

    def spy(pixels, random, kind):
        mixed.append((len(pixels), kind))
        return mix(pixels, random, kind)

    mix = fine_tune.mix
    monkeypatch.setattr(fine_tune, "mix", spy)
    tune(photos, tmp_path / "none", epochs=1)
    assert not mixed
    tune(photos, tmp_path / "cutmix", epochs=2, mix="cutmix")
    assert mixed == [(len(photos), "cutmix")] * 2
