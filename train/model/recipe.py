"""The training recipe, stage by stage: head, fine-tuning, validation, calibration, refit.

head         on the cached features of the frozen base; stops early
fine-tune    the last blocks and the head, on augmented photos; the weights of the best epoch are kept. As many epochs
             as the time allows: one schedule of a few epochs, not a longer one that is cut off (Li, Yumer, Ramanan:
             Budgeted Training, 2020, arXiv:1905.04753)
validation   the figures that the bundle carries, on photos that nothing was trained on so far
calibration  one temperature, folded into the head
refit        on training and validation photos together, starting from the fine-tuned weights (Goodfellow, Bengio,
             Courville: Deep Learning, 2016, algorithm 7.3): photos from other places and days are too good to leave out
             of what is shipped. No photos are left to validate it on, so it has no figures of its own. The bundle gets
             the mean of the weights before and after it (Wortsman et al.: Robust fine-tuning of zero-shot models, 2022,
             arXiv:2109.01903): restarting at a high learning rate loses accuracy; averaging the weights recovers it.
"""

import math
import typing

import numpy as np

from edge_runtime.console import progress, say
from edge_runtime.errors import UsageError
from edge_runtime.machine.libraries import require
from edge_runtime.photos import spec
from train.data.batches import photo_batches
from train.data.classes import class_indices, class_weights
from train.data.dataset import Dataset
from train.model import calibrate, fine_tune, metrics, workers
from train.model.checkpoint import Checkpoint
from train.model.features import compute_features
from train.model.head import build_head, train_head
from train.model.network import Network, scale
from train.model.tf_setup import set_seed

BLOCKS = 8
FINE_TUNE_EPOCHS = 16  # if the time allows
MINUTES = 60
_PLANNED = 0.9  # share of the minutes: two whole trainings took 4 and 8 % longer than estimated, beside other work
PEAK_RATE = 6e-4  # learning rate for FINE_TUNE_EPOCHS; fewer epochs have no time to repair what a high rate breaks
REFIT_RATE = 3e-4
REFIT = "refit"
REFIT_SHARE = 0.4  # of the fine-tuning's epochs
_BATCH = 32
# The cost of a validation photo, in photos of fine-tuning: in an epoch, where the network only runs forward; and after
# the last one, where the trained network and the exported files classify it five times in all.
_PER_EPOCH, _AT_THE_END = 0.5, 3.0


class Settings(typing.NamedTuple):
    """What the user decides about a training."""

    epochs: int  # of the head, at most
    blocks: int  # of InceptionV3 that are fine-tuned, 0..11
    fine_tune_epochs: typing.Optional[int]  # None: FINE_TUNE_EPOCHS, or as many as fit into the minutes
    minutes: float  # for the whole training
    augment: float  # strength, 0..2
    mix: typing.Optional[str]  # one of train.model.augment.MIXES, or None
    refit: bool
    seed: int
    size: int  # of the network's input, height and width in pixels


class Outcome(typing.NamedTuple):
    """A trained network and how it was validated."""

    network: Network
    probabilities: np.ndarray  # float32 [validation photos, classes], calibrated, from before the refit
    history: dict  # stage -> {metric: [value per epoch]}
    calibration: dict  # temperature, ece_before, ece_after
    refitted: bool
    interrupted: bool  # by Ctrl-C; the network is the best until then


class _Run(typing.NamedTuple):
    """What all stages of a training work with."""

    data: Dataset
    labels: np.ndarray  # int [training photos], class indices
    val_labels: np.ndarray  # int [validation photos]
    settings: Settings
    checkpoint: Checkpoint
    on_epoch: typing.Callable


def train(base, strategy, data, settings, checkpoint, on_epoch):
    """Runs all stages; after --resume, those that an interrupted training has not finished.

    Args:
        base: Keras model from train.model.network.build_base.
        strategy: tf.distribute strategy that the base was built under.
        data: train.data.dataset.Dataset; the head's outputs are in the order of its class_names.
        settings: Settings.
        checkpoint: train.model.checkpoint.Checkpoint.
        on_epoch: function of (stage, epoch, {name: value}), called after each epoch.

    Returns:
        Outcome.

    Raises:
        UsageError: workers that resume from different states; a photo that cannot be read any more.
    """
    progress_made = [len(checkpoint.results), checkpoint.facts.get("epoch", 0)]
    if list(workers.mean(strategy, progress_made)) != progress_made:
        raise UsageError(f"--resume: the workers' folders {checkpoint.folder} differ; copy the chief's to all")
    labels, val_labels = (class_indices(photos, data.class_names) for photos in (data.training, data.validation))
    weights = class_weights(labels, len(data.class_names))
    if weights.max() > 1:
        say(f"classes are weighted: a photo counts from {weights.min():.2f} to {weights.max():.2f}")
    run = _Run(data, labels, val_labels, settings, checkpoint, on_epoch)

    network, history, interrupted = _train_head(base, strategy, run, weights)
    plan = _plan(network, run, weights, interrupted)
    if "validated" in checkpoint.results:
        history, calibration = checkpoint.results["validated"]
        probabilities = checkpoint.result_arrays["val_probabilities"]
        _set_weights(network, checkpoint.result_arrays)
    else:
        if settings.blocks and not interrupted:
            validate = _validator(data.validation, val_labels, data.class_names, network.input_spec)
            plan = plan._replace(peak_rate=_peak_rate(PEAK_RATE, plan.epochs))
            history["fine_tune"], interrupted = fine_tune.fine_tune(
                network, data.training, labels, weights, validate, plan, checkpoint, on_epoch
            )
        probabilities, calibration = _calibrate(network, run)
        if not interrupted:
            arrays = _get_weights(network)
            checkpoint.add_result("validated", [history, calibration], val_probabilities=probabilities, **arrays)
    refitted = False
    if settings.refit and not interrupted:
        refitted, interrupted = _refit(network, run, plan, history, probabilities)
    calibrate.fold_temperature(network.head, calibration["temperature"])
    return Outcome(network, probabilities, history, calibration, refitted, interrupted)


def _train_head(base, strategy, run, weights):
    """Trains the head, or takes it from the checkpoint. Returns (Network, history, interrupted)."""
    data, checkpoint, input_spec = run.data, run.checkpoint, spec.squash(run.settings.size)
    if "head" in checkpoint.results:
        kernel, bias = checkpoint.result_arrays["head_kernel"], checkpoint.result_arrays["head_bias"]
        history, interrupted = dict(checkpoint.results["head"]), False
    else:
        features, val_features = (
            compute_features(base, input_spec, photos, data.sums) for photos in (data.training, data.validation)
        )
        head, history, interrupted = train_head(
            features, run.labels, weights, run.settings.epochs, val_features, run.val_labels, run.on_epoch
        )
        kernel, bias = head.get_weights()
        if not interrupted:
            checkpoint.add_result("head", dict(history), head_kernel=kernel, head_bias=bias)
    with strategy.scope():
        head = build_head(len(data.class_names))
    head.set_weights([kernel, bias])
    return Network(base, head, strategy, input_spec), history, interrupted


def _plan(network, run, weights, interrupted):
    """Returns the Plan of the fine-tuning; times some steps where nothing else decides how many epochs it has."""
    settings, checkpoint, training = run.settings, run.checkpoint, run.data.training
    plan = fine_tune.Plan(
        stage="fine-tune",
        blocks=settings.blocks,
        epochs=settings.fine_tune_epochs,
        peak_rate=PEAK_RATE,
        augment=settings.augment,
        mix=settings.mix,
        seed=settings.seed,
    )
    if not settings.blocks or settings.fine_tune_epochs or interrupted:
        return plan
    if "epochs" not in checkpoint.results:
        photo_s = fine_tune.seconds_per_photo(network, training, run.labels, weights, plan)
        elapsed_s = workers.mean(network.strategy, [checkpoint.seconds()])[0]
        epochs = _epochs_in(elapsed_s, photo_s, len(training), len(run.data.validation), settings)
        checkpoint.add_result("epochs", epochs)
    return plan._replace(epochs=checkpoint.results["epochs"])


def _calibrate(network, run):
    """Returns (calibrated probabilities for the validation photos, {"temperature", "ece_before", "ece_after"})."""
    raw = predict(network, [photo.path for photo in run.data.validation])
    temperature = calibrate.fit_temperature(raw, run.val_labels)
    probabilities = calibrate.apply_temperature(raw, temperature)
    return probabilities, {
        "temperature": temperature,
        "ece_before": metrics.expected_calibration_error(raw, run.val_labels),
        "ece_after": metrics.expected_calibration_error(probabilities, run.val_labels),
    }


def _refit(network, run, plan, history, probabilities):
    """Trains the validated network on all photos, or puts its weights back if that makes it worse.

    Args:
        plan: the fine-tuning's Plan.
        history: the refit's curves are entered here.
        probabilities: of the validated network, float32 [validation photos, classes].

    Returns:
        (refitted, interrupted).
    """
    data, checkpoint = run.data, run.checkpoint
    photos, labels = data.training + data.validation, np.concatenate([run.labels, run.val_labels])
    weights = class_weights(labels, len(data.class_names))
    say(f"refit: learning from all {len(photos)} photos")
    if np.argmin(history.get("fine_tune", {}).get("val_loss", [0])):  # fine-tuning did better than the head alone
        epochs = _refit_epochs(plan.epochs)
        plan = plan._replace(stage=REFIT, epochs=epochs, peak_rate=_peak_rate(REFIT_RATE, plan.epochs))
        history[REFIT], interrupted = fine_tune.fine_tune(
            network, photos, labels, weights, None, plan, checkpoint, run.on_epoch
        )
        refitted_arrays = _get_weights(network)
        means = {name: 0.5 * (checkpoint.result_arrays[name] + value) for name, value in refitted_arrays.items()}
        _set_weights(network, means)
    else:
        epochs = int(np.argmin(history["val_loss"])) + 1
        features = compute_features(network.base, network.input_spec, photos, data.sums)
        set_seed(run.settings.seed)  # a resumed training has drawn fewer random numbers until here
        head, history[REFIT], interrupted = train_head(
            features, labels, weights, epochs, on_epoch=run.on_epoch, stage=REFIT
        )
        network.head.set_weights(head.get_weights())
    # Now that it has seen these photos, it must classify them at least as well.
    accuracy = _accuracy(predict(network, [photo.path for photo in data.validation]), run.val_labels)
    refitted = not interrupted and accuracy >= _accuracy(probabilities, run.val_labels)
    if not refitted:
        say(f"refit: {'interrupted' if interrupted else 'made it worse'}: the validated model is kept")
        _set_weights(network, checkpoint.result_arrays)
    return refitted, interrupted


def _accuracy(probabilities, labels):
    return float((probabilities.argmax(axis=1) == labels).mean())


def _peak_rate(rate, epochs):
    """Returns the peak learning rate where fine-tuning has `epochs`, which may be fewer than FINE_TUNE_EPOCHS."""
    return rate * math.sqrt(min(1.0, epochs / FINE_TUNE_EPOCHS))


def _refit_epochs(epochs):
    return max(1, int(REFIT_SHARE * epochs))


def _epochs_in(elapsed_s, photo_s, training, validation, settings):
    """Returns how many epochs fit into the settings' minutes, 1 to FINE_TUNE_EPOCHS, and says how long they take.

    Args:
        elapsed_s: how many seconds the training has taken so far.
        photo_s: how many seconds a photo of fine-tuning takes.
        training, validation: how many photos there are.
        settings: Settings.
    """

    def total_minutes(epochs):
        refit_photos = _refit_epochs(epochs) * (training + validation) if settings.refit else 0
        photos = epochs * (training + _PER_EPOCH * validation) + refit_photos + _AT_THE_END * validation
        return (elapsed_s + photo_s * photos) / 60

    epochs = FINE_TUNE_EPOCHS
    while epochs > 1 and total_minutes(epochs) > _PLANNED * settings.minutes:
        epochs -= 1
    say(f"fine-tune: {epochs} epochs; the whole training will take about {math.ceil(total_minutes(epochs))} minutes")
    if epochs < FINE_TUNE_EPOCHS:
        needed = math.ceil(total_minutes(FINE_TUNE_EPOCHS) / _PLANNED)
        say(f"for all {FINE_TUNE_EPOCHS} epochs, which are more accurate, give --minutes {needed}")
    return epochs


def predict(network, paths, load=None):
    """Returns float32 [photos, classes]: the network's probabilities, in float32 arithmetic throughout.

    load: as of train.data.batches.photo_batches.
    """
    tensorflow = require("tensorflow")
    base, head, _, input_spec = network
    run = tensorflow.function(lambda pixels: head(base(scale(pixels), training=False)), autograph=False)
    with progress(total=len(paths), what="predict") as bar:
        batches = []
        for pixels in photo_batches(paths, _BATCH, input_spec, load):
            batches.append(run(pixels).numpy())
            bar.update(len(batches[-1]))
    return np.concatenate(batches)


def _get_weights(network):
    """Returns {name: array} of all weights, for _set_weights."""
    values = network.base.get_weights() + network.head.get_weights()
    return {f"network/{number}": value for number, value in enumerate(values)}


def _set_weights(network, arrays):
    """Gives the network the weights that _get_weights returned; arrays may hold others too."""
    base_count = len(network.base.get_weights())
    values = [arrays[f"network/{number}"] for number in range(base_count + len(network.head.get_weights()))]
    network.base.set_weights(values[:base_count])
    network.head.set_weights(values[base_count:])


def _validator(photos, labels, class_names, input_spec):
    """Returns a function: (uint8 batch -> probabilities) -> {"val_loss", "val_accuracy", "val_macro_f1"}.

    The loss is taken at the temperature that fits the photos best: it compares what the epochs know, not how confident
    they are, since the temperature is set at the end anyway.
    """
    truth = [photo.label for photo in photos]

    def validate(run):
        batches = photo_batches([photo.path for photo in photos], _BATCH, input_spec)
        probabilities = np.concatenate([run(pixels).numpy() for pixels in batches])
        predicted = probabilities.argmax(axis=1)
        scaled = calibrate.apply_temperature(probabilities, calibrate.fit_temperature(probabilities, labels))
        return {
            "val_loss": float(-np.log(scaled[np.arange(len(labels)), labels] + 1e-7).mean()),
            "val_accuracy": float((predicted == labels).mean()),
            "val_macro_f1": metrics.score(truth, [class_names[best] for best in predicted], class_names)[1],
        }

    return validate
