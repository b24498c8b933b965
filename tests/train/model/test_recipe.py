"""The stages of training, on a network small enough to be trained in seconds."""

import sys

import numpy as np
import pytest

from edge_runtime.errors import UsageError
from edge_runtime.files import sha256_of
from edge_runtime.machine import cpu
from edge_runtime.photos import read
from tests import helpers
from tests.train.model.tune_once import INPUT, small_network, weights_of
from train.cli.train import _augmented_sample
from train.data import classes, labels, split
from train.data.dataset import Dataset
from train.model import calibrate, recipe, workers
from train.model import fine_tune as model_fine_tune
from train.model.checkpoint import Checkpoint
from train.model.fine_tune import Plan
from train.model.network import scale

# Each trains for seconds; Python 3.6 gets the trained bundle of test_training, and these with make test-slow.
pytestmark = [pytest.mark.slow] if sys.version_info < (3, 7) else []

SETTINGS = recipe.Settings(
    epochs=1, blocks=1, fine_tune_epochs=3, minutes=60, augment=1.0, mix=None, refit=True, seed=0, size=INPUT.height
)


class KilledError(Exception):
    """Stands for kill -9: nothing after it runs."""


def stop_with(error, stage, epoch):
    def on_epoch(at_stage, at_epoch, figures):
        if (at_stage, at_epoch) == (stage, epoch):
            raise error

    return on_epoch


@pytest.fixture(scope="module", autouse=True)
def full_precision():
    pytest.importorskip("tensorflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "cpu_features", list)
        yield


class Training:
    """Trains on the photos of a folder: training(state) -> (Outcome, probabilities for the validation photos)."""

    def __init__(self, shelf, states):
        photos, _ = labels.read_labels(str(shelf))
        self.states = states
        training, self.validation = split.split(photos, 0.25, 0)
        sums = {photo.path: sha256_of(photo.path) for photo in photos}
        self.data = Dataset(training, self.validation, sorted(helpers.COLOURS), sums)
        self.val_labels = classes.class_indices(self.validation, self.data.class_names)

    def __call__(self, state, resume=False, on_epoch=None, **settings):
        network = small_network()
        outcome = recipe.train(
            network.base,
            network.strategy,
            self.data,
            SETTINGS._replace(**settings),
            Checkpoint(str(self.states / state), {}, resume),
            on_epoch or (lambda *_: None),
        )
        return outcome, recipe.predict(outcome.network, [photo.path for photo in self.validation])


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shelf")
    helpers.write_photos(folder, per_class=8)
    return folder


@pytest.fixture
def train(shelf, tmp_path):
    return Training(shelf, tmp_path)


@pytest.fixture(scope="module")
def train_whole(shelf, tmp_path_factory):
    return Training(shelf, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def whole(train_whole):
    """A training that nothing stops, made once for all who compare theirs with it."""
    return train_whole("state")


def test_all_stages_run_and_their_curves_are_kept(train, whole):
    outcome, _ = whole
    assert {"loss", "val_loss", "fine_tune", "refit"} <= set(outcome.history)
    assert len(outcome.history["fine_tune"]["loss"]) == 3
    assert len(outcome.history["fine_tune"]["val_loss"]) == 4
    assert len(outcome.history["refit"]["loss"]) == 1
    assert outcome.refitted and not outcome.interrupted
    assert outcome.probabilities.shape == (6, 3)
    assert outcome.probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert set(outcome.calibration) == {"temperature", "ece_before", "ece_after"}
    assert (outcome.probabilities.argmax(axis=1) == train.val_labels).all()  # colours are easy


def test_the_refit_s_weights_are_averaged_with_the_validated_ones(train, monkeypatch):
    after = []
    fine_tune = model_fine_tune.fine_tune

    def record(network, *arguments):
        done = fine_tune(network, *arguments)
        after.append(network.base.get_weights())
        return done

    monkeypatch.setattr(model_fine_tune, "fine_tune", record)
    outcome, _ = train("state")
    assert outcome.refitted
    validated, refitted = after
    assert max(np.abs(one - other).max() for one, other in zip(validated, refitted)) > 5e-5
    for one, other, shipped in zip(validated, refitted, outcome.network.base.get_weights()):
        assert shipped == pytest.approx((one + other) / 2, abs=1e-7)


def test_without_refit_the_network_gives_the_calibrated_probabilities_that_were_scored(train):
    outcome, answers = train("state", refit=False)
    assert not outcome.refitted and "refit" not in outcome.history
    assert answers == pytest.approx(outcome.probabilities, abs=1e-5)
    assert outcome.calibration["temperature"] != pytest.approx(1, abs=1e-3)


def test_the_head_alone_can_be_trained_and_refitted(train):
    outcome, _ = train("state", blocks=0, epochs=6)
    assert "fine_tune" not in outcome.history and outcome.refitted
    best = int(np.argmin(outcome.history["val_loss"]))
    assert len(outcome.history["refit"]["loss"]) == best + 1


@pytest.mark.parametrize("epochs, share", [(1, 0.5), (5, 1.0)])
def test_fewer_epochs_learn_at_a_lower_rate(train, monkeypatch, epochs, share):
    rates = {}

    def record(*arguments):  # in the place of the fine-tuning, which says that its last epoch was the best
        (plan,) = [argument for argument in arguments if isinstance(argument, Plan)]
        rates[plan.stage] = plan.peak_rate
        return {"loss": [1.0], "val_loss": [1.0, 0.5]}, False

    monkeypatch.setattr(model_fine_tune, "fine_tune", record)
    monkeypatch.setattr(recipe, "FINE_TUNE_EPOCHS", 4)
    train("state", fine_tune_epochs=epochs)
    assert rates == {"fine-tune": pytest.approx(share * 6e-4), "refit": pytest.approx(share * 3e-4)}


@pytest.mark.parametrize(
    "stage, epoch",
    [
        pytest.param("head", 0, marks=pytest.mark.slow),
        pytest.param("fine-tune", 0, marks=pytest.mark.slow),
        ("fine-tune", 2),
        ("refit", 0),
    ],
)
def test_a_training_killed_in_any_stage_ends_where_a_whole_one_ends(train, whole, stage, epoch):
    uninterrupted, answers = whole
    with pytest.raises(KilledError):
        train("killed", on_epoch=stop_with(KilledError(), stage, epoch))
    again = []
    resumed, resumed_answers = train(
        "killed", resume=True, on_epoch=lambda stage, epoch, _: again.append((stage, epoch))
    )
    assert again[0] == (stage, epoch)  # what was done is not done again
    assert resumed.probabilities == pytest.approx(uninterrupted.probabilities, abs=1e-5)
    assert resumed_answers == pytest.approx(answers, abs=1e-5)
    assert resumed.calibration == pytest.approx(uninterrupted.calibration, abs=1e-4)
    assert resumed.history.keys() == uninterrupted.history.keys()
    for value, expected in zip(weights_of(resumed.network), weights_of(uninterrupted.network)):
        assert np.abs(value - expected).max() < 1e-5


def test_a_training_killed_after_its_last_epoch_has_nothing_left_to_train(train_whole, whole):
    uninterrupted, answers = whole
    again = []
    resumed, resumed_answers = train_whole("state", resume=True, on_epoch=lambda *epoch: again.append(epoch))
    assert again == []
    assert resumed_answers == pytest.approx(answers, abs=1e-5)
    assert resumed.refitted == uninterrupted.refitted and resumed.history == uninterrupted.history


def test_as_many_epochs_are_made_as_fit_into_the_minutes(train, monkeypatch, capsys):
    # 18 + 6 photos: an epoch costs 21 photos of fine-tuning, one of the refit 24, the checks at the end 18
    monkeypatch.setattr(model_fine_tune, "seconds_per_photo", lambda *_: 10.0)
    outcome, _ = train("state", fine_tune_epochs=None, minutes=((5 * 21 + 2 * 24 + 18) * 10 / 60 + 1) / 0.9)
    assert len(outcome.history["fine_tune"]["loss"]) == 5
    assert len(outcome.history["refit"]["loss"]) == 2
    said = capsys.readouterr().err
    assert "fine-tune: 5 epochs; the whole training will take about 29 minutes" in said
    assert "for all 16 epochs, which are more accurate, give --minutes 93" in said


def test_where_the_time_allows_all_epochs_are_made(train, monkeypatch, capsys):
    monkeypatch.setattr(recipe, "FINE_TUNE_EPOCHS", 2)
    outcome, _ = train("state", fine_tune_epochs=None)  # measured
    assert len(outcome.history["fine_tune"]["loss"]) == 2
    said = capsys.readouterr().err
    assert "fine-tune: 2 epochs; the whole training will take about 1 minutes" in said and "--minutes" not in said


def test_one_epoch_is_made_however_short_the_time(train, monkeypatch):
    monkeypatch.setattr(model_fine_tune, "seconds_per_photo", lambda *_: 10.0)
    outcome, _ = train("state", fine_tune_epochs=None, minutes=0.001)
    assert len(outcome.history["fine_tune"]["loss"]) == 1


@pytest.mark.slow
def test_a_resumed_training_makes_as_many_epochs_as_the_first_meant_to(train, monkeypatch):
    monkeypatch.setattr(model_fine_tune, "seconds_per_photo", lambda *_: 10.0)
    options = {"fine_tune_epochs": None, "minutes": ((3 * 21 + 24 + 18) * 10 / 60 + 1) / 0.9}
    whole, answers = train("whole", **options)
    with pytest.raises(KilledError):
        train("killed", on_epoch=stop_with(KilledError(), "fine-tune", 1), **options)
    monkeypatch.setattr(model_fine_tune, "seconds_per_photo", lambda *_: 0.0)  # the machine is faster now
    resumed, resumed_answers = train("killed", resume=True, **options)
    assert len(resumed.history["fine_tune"]["loss"]) == len(whole.history["fine_tune"]["loss"]) == 3
    assert resumed_answers == pytest.approx(answers, abs=1e-5)


def test_ctrl_c_in_the_head_keeps_the_best_so_far(train, tmp_path):
    outcome, answers = train("state", epochs=9, on_epoch=stop_with(KeyboardInterrupt(), "head", 2))
    assert outcome.interrupted and not outcome.refitted
    assert len(outcome.history["val_loss"]) == 3 and "fine_tune" not in outcome.history
    assert answers == pytest.approx(outcome.probabilities, abs=1e-5)
    assert not (tmp_path / "state").exists()  # --resume starts at the beginning, from the cached features


def test_ctrl_c_in_the_refit_of_the_head_keeps_the_validated_model(train):
    seen = []

    def on_epoch(stage, epoch, figures):
        seen.append(epoch)
        if seen.count(0) == 2:
            raise KeyboardInterrupt

    outcome, answers = train("state", blocks=0, epochs=6, on_epoch=on_epoch)
    assert outcome.interrupted and not outcome.refitted and len(outcome.history["refit"]["loss"]) == 1
    assert answers == pytest.approx(outcome.probabilities, abs=1e-5)


def test_workers_that_go_on_from_different_places_are_refused(train, monkeypatch):
    monkeypatch.setattr(workers, "mean", lambda strategy, values: [value + 0.5 for value in values])
    with pytest.raises(UsageError, match="--resume: .*chief"):
        train("state")


def test_a_photo_that_goes_missing_meanwhile_is_named(tmp_path):
    helpers.write_photos(tmp_path / "photos", per_class=8)
    train = Training(tmp_path / "photos", tmp_path)

    def lose(stage, epoch, figures):
        if (stage, epoch) == ("fine-tune", 0):
            for path in (tmp_path / "photos" / "red").iterdir():
                path.unlink()

    expected = r"red.\d+\.jpg: No such file or directory"
    with pytest.raises(UsageError, match=expected):
        train("state", on_epoch=lose)


def test_ctrl_c_in_the_fine_tuning_keeps_the_best_so_far(train, whole):
    outcome, answers = train("state", on_epoch=stop_with(KeyboardInterrupt(), "fine-tune", 1))
    assert outcome.interrupted and not outcome.refitted
    assert len(outcome.history["fine_tune"]["val_loss"]) == 3
    assert answers == pytest.approx(outcome.probabilities, abs=1e-5)
    resumed, resumed_answers = train("state", resume=True)
    assert resumed_answers == pytest.approx(whole[1], abs=1e-5)


def test_ctrl_c_in_the_refit_keeps_the_validated_model(train):
    outcome, answers = train("state", on_epoch=stop_with(KeyboardInterrupt(), "refit", 0))
    assert outcome.interrupted and not outcome.refitted
    assert answers == pytest.approx(outcome.probabilities, abs=1e-5)


@pytest.mark.slow
def test_ctrl_c_in_a_resumed_refit_keeps_the_validated_model_too(train):
    with pytest.raises(KilledError):
        train("state", on_epoch=stop_with(KilledError(), "refit", 1), fine_tune_epochs=5)
    outcome, answers = train(
        "state", resume=True, on_epoch=stop_with(KeyboardInterrupt(), "refit", 1), fine_tune_epochs=5
    )
    assert outcome.interrupted and not outcome.refitted
    assert answers == pytest.approx(outcome.probabilities, abs=1e-5)


def test_a_refit_that_makes_it_worse_is_given_up(train, monkeypatch, capsys):
    monkeypatch.setattr(recipe, "REFIT_RATE", 50.0)
    outcome, answers = train("state")
    assert not outcome.refitted
    assert answers == pytest.approx(outcome.probabilities, abs=1e-5)
    assert "refit: made it worse: the validated model is kept" in capsys.readouterr().err


def test_where_fine_tuning_does_not_help_the_head_alone_is_refitted(train, monkeypatch):
    monkeypatch.setattr(recipe, "PEAK_RATE", 50.0)
    outcome, _ = train("state", epochs=6)
    assert np.argmin(outcome.history["fine_tune"]["val_loss"]) == 0
    assert "accuracy" in outcome.history["refit"]  # the head's curve
    assert outcome.refitted


def test_temperature_reaches_the_network(train, monkeypatch):
    monkeypatch.setattr(calibrate, "fit_temperature", lambda *_: 1.0)
    _, plain = train("plain", blocks=0, refit=False)
    monkeypatch.setattr(calibrate, "fit_temperature", lambda *_: 4.0)
    _, scaled = train("scaled", blocks=0, refit=False)
    assert scaled == pytest.approx(calibrate.apply_temperature(plain, 4.0), abs=1e-4)


def test_the_sample_of_a_refitted_network_shows_photos_that_it_does_not_know_by_heart(tmp_path):
    rows = helpers.write_photos(tmp_path, per_class=2)
    photos = [labels.Photo(file, str(tmp_path / file), label) for file, label in rows]
    network = small_network()
    sample = _augmented_sample(network, photos, seed=0)
    assert (sample.names, sample.labels) == ([row[0] for row in rows], [row[1] for row in rows])
    for photo, picture in zip(photos, sample.images):
        assert np.abs(read.read_image(photo.path, INPUT).astype(int) - picture).mean() > 5
    run = network.head(network.base(scale(sample.images), training=False))
    assert np.array(run) == pytest.approx(sample.probabilities, abs=1e-5)
