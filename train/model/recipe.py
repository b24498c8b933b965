"""The training recipe, stage by stage: head, fine-tuning, validation, calibration, refit.

head         on the cached features of the frozen base; stops early
fine-tune    the last blocks and the head, on augmented photos; the weights of the best epoch are kept. As many epochs
             as the time allows: one schedule of a few epochs, not a longer one that is cut off (Li, Yumer, Ramanan:
             Budgeted Training, 2020, arXiv:1905.04753)
validation   the figures that the bundle carries, on photos that nothing was trained on so far
calibration  one temperature, folded into the head
refit        on training and validation photos together, from where fine-tuning ended (Goodfellow, Bengio, Courville:
             Deep Learning, 2016, algorithm 7.3): photos from other places and days are too good to be left out of what
             is shipped. Its figures would mean nothing, so that there are none. The mean of the fine-tuned weights
             before and after it is what counts (Wortsman et al.: Robust fine-tuning of zero-shot models, 2022,
             arXiv:2109.01903): starting anew at a high rate costs something that the mean gives back.
"""

import math
import typing

import numpy as np

from edge_runtime.console import progress, say
from edge_runtime.errors import UsageError
from edge_runtime.machine.libraries import require
from edge_runtime.photos import read
from train.data import classes
from train.data.batches import photo_batches
from train.model import calibrate, fine_tune, metrics, workers
from train.model.features import compute_features
from train.model.head import build_head, train_head
from train.model.network import Network, scale
from train.model.tf_setup import set_seed

BLOCKS = 8
FINE_TUNE_EPOCHS = 16  # where the time allows them
MINUTES = 60
_PLANNED = 0.9  # of the minutes: two whole trainings took 4 and 8 % longer than foretold, beside other work
PEAK_RATE = 6e-4  # of learning, for FINE_TUNE_EPOCHS; fewer have no time to mend what a high rate breaks
REFIT_RATE = 3e-4
REFIT = "refit"
REFIT_SHARE = 0.4  # of the fine-tuning's epochs
_BATCH = 32
# What a validation photo costs, in photos of fine-tuning: in an epoch, where the network only runs forward; and after
# the last one, where the trained network and the exported files answer it five times in all.
_PER_EPOCH, _AT_THE_END = 0.5, 3.0

Settings = typing.NamedTuple(
    "Settings",
    [
        ("epochs", int),  # of the head, at most
        ("blocks", int),  # of InceptionV3 that are fine-tuned, 0..11
        ("fine_tune_epochs", typing.Optional[int]),  # None: FINE_TUNE_EPOCHS, or as many as fit into the minutes
        ("minutes", float),  # for the whole training
        ("augment", float),  # strength, 0..2
        ("mix", typing.Optional[str]),  # one of train.model.augment.MIXES, or None
        ("refit", bool),
        ("seed", int),
    ],
)
Outcome = typing.NamedTuple(
    "Outcome",
    [
        ("network", Network),
        ("probabilities", np.ndarray),  # float32 [validation photos, classes], calibrated, from before the refit
        ("history", dict),  # stage -> {metric: [value per epoch]}
        ("calibration", dict),  # temperature, ece_before, ece_after
        ("refitted", bool),
        ("interrupted", bool),  # by Ctrl-C; the network is the best until then
    ],
)


def train(base, strategy, training, validation, class_names, sums, settings, checkpoint, watch):
    """Runs all stages, or those that an earlier run has left to do.

    Args:
        base: Keras model as train.model.network.build_base makes it.
        strategy: tf.distribute strategy that the base was built under.
        training, validation: lists of train.data.labels.Photo.
        class_names: in the order of the head's outputs.
        sums: {path: sha256 of the photo's bytes}.
        settings: Settings.
        checkpoint: train.model.checkpoint.Checkpoint.
        watch: function of (stage, epoch, {name: value}).

    Returns:
        Outcome.

    Raises:
        UsageError: workers that go on from different places; a photo that cannot be read any more.
    """
    place = [len(checkpoint.kept), checkpoint.facts.get("epoch", 0)]
    if list(workers.mean(strategy, place)) != place:
        raise UsageError(f"--resume: the workers' folders {checkpoint.folder} differ; copy the chief's to all")
    labels, val_labels = (classes.class_indices(photos, class_names) for photos in (training, validation))
    weights = classes.class_weights(labels, len(class_names))
    if weights.max() > 1:
        say(f"classes are weighted: a photo counts from {weights.min():.2f} to {weights.max():.2f}")
    if "head" in checkpoint.kept:
        kernel, bias = checkpoint.kept_arrays["head_kernel"], checkpoint.kept_arrays["head_bias"]
        history, interrupted = dict(checkpoint.kept["head"]), False
    else:
        features, val_features = (compute_features(base, photos, sums) for photos in (training, validation))
        head, history, interrupted = train_head(
            features, labels, weights, settings.epochs, val_features, val_labels, watch
        )
        kernel, bias = head.get_weights()
        if not interrupted:
            checkpoint.keep("head", dict(history), head_kernel=kernel, head_bias=bias)
    with strategy.scope():
        head = build_head(len(class_names))
    head.set_weights([kernel, bias])
    network = Network(base, head, strategy)

    plan = fine_tune.Plan(
        stage="fine-tune",
        blocks=settings.blocks,
        epochs=settings.fine_tune_epochs,
        peak_rate=PEAK_RATE,
        augment=settings.augment,
        mix=settings.mix,
        seed=settings.seed,
    )
    if settings.blocks and not settings.fine_tune_epochs and not interrupted:
        if "epochs" not in checkpoint.kept:
            photo_s = fine_tune.seconds_per_photo(network, training, labels, weights, plan)
            taken_s = workers.mean(strategy, [checkpoint.seconds()])[0]
            checkpoint.keep("epochs", _epochs_in(taken_s, photo_s, len(training), len(validation), settings))
        plan = plan._replace(epochs=checkpoint.kept["epochs"])
    if "validated" in checkpoint.kept:
        history, calibration = checkpoint.kept["validated"]
        probabilities = checkpoint.kept_arrays["val_probabilities"]
        _set_weights(network, checkpoint.kept_arrays)
    else:
        if settings.blocks and not interrupted:
            validate = _validator(validation, val_labels, class_names)
            plan = plan._replace(peak_rate=_rate(PEAK_RATE, plan.epochs))
            history["fine_tune"], interrupted = fine_tune.fine_tune(
                network, training, labels, weights, validate, plan, checkpoint, watch
            )
        raw = predict(network, [photo.path for photo in validation])
        calibration = {
            "temperature": calibrate.fit_temperature(raw, val_labels),
            "ece_before": metrics.expected_calibration_error(raw, val_labels),
        }
        probabilities = calibrate.apply_temperature(raw, calibration["temperature"])
        calibration["ece_after"] = metrics.expected_calibration_error(probabilities, val_labels)
        if not interrupted:
            kept = _get_weights(network)
            checkpoint.keep("validated", [history, calibration], val_probabilities=probabilities, **kept)

    refitted = False
    if settings.refit and not interrupted:
        photos, all_labels = training + validation, np.concatenate([labels, val_labels])
        weights = classes.class_weights(all_labels, len(class_names))
        say(f"refit: learning from all {len(photos)} photos")
        if np.argmin(history.get("fine_tune", {}).get("val_loss", [0])):  # fine-tuning did better than the head alone
            epochs = _refit_epochs(plan.epochs)
            plan = plan._replace(stage=REFIT, epochs=epochs, peak_rate=_rate(REFIT_RATE, plan.epochs))
            history[REFIT], interrupted = fine_tune.fine_tune(
                network, photos, all_labels, weights, None, plan, checkpoint, watch
            )
            halves = {
                name: 0.5 * (checkpoint.kept_arrays[name] + value) for name, value in _get_weights(network).items()
            }
            _set_weights(network, halves)
        else:
            epochs = int(np.argmin(history["val_loss"])) + 1
            features = compute_features(base, photos, sums)
            set_seed(settings.seed)  # a resumed training has drawn fewer random numbers until here
            found, history[REFIT], interrupted = train_head(
                features, all_labels, weights, epochs, watch=watch, stage=REFIT
            )
            head.set_weights(found.get_weights())
        # Now that it has seen these photos, it must know them at least as well.
        known = (predict(network, [photo.path for photo in validation]).argmax(axis=1) == val_labels).mean()
        refitted = not interrupted and bool(known >= (probabilities.argmax(axis=1) == val_labels).mean())
        if not refitted:
            say(f"refit: {'interrupted' if interrupted else 'made it worse'}: the validated model is kept")
            _set_weights(network, checkpoint.kept_arrays)
    calibrate.fold_temperature(network.head, calibration["temperature"])
    return Outcome(network, probabilities, history, calibration, refitted, interrupted)


def _rate(rate, epochs):
    """Returns the peak rate for fewer epochs of fine-tuning than FINE_TUNE_EPOCHS."""
    return rate * math.sqrt(min(1.0, epochs / FINE_TUNE_EPOCHS))


def _refit_epochs(epochs):
    return max(1, int(REFIT_SHARE * epochs))


def _epochs_in(taken_s, photo_s, training, validation, settings):
    """Returns how many epochs fit into the settings' minutes, 1 to FINE_TUNE_EPOCHS, and says how long they take.

    Args:
        taken_s: how many seconds the training has taken so far.
        photo_s: what a photo of fine-tuning takes, in seconds.
        training, validation: how many photos there are.
        settings: Settings.
    """

    def minutes(epochs):
        """Of the whole training."""
        refitted = _refit_epochs(epochs) * (training + validation) if settings.refit else 0
        photos = epochs * (training + _PER_EPOCH * validation) + refitted + _AT_THE_END * validation
        return (taken_s + photo_s * photos) / 60

    epochs = FINE_TUNE_EPOCHS
    while epochs > 1 and minutes(epochs) > _PLANNED * settings.minutes:
        epochs -= 1
    say(f"fine-tune: {epochs} epochs, which makes about {math.ceil(minutes(epochs))} minutes for the whole training")
    if epochs < FINE_TUNE_EPOCHS:
        needed = math.ceil(minutes(FINE_TUNE_EPOCHS) / _PLANNED)
        say(f"for all {FINE_TUNE_EPOCHS}, which do better, give --minutes {needed}")
    return epochs


def predict(network, paths, load=read.read_image):
    """Returns float32 [photos, classes]: the network's probabilities, in float32 arithmetic throughout."""
    tensorflow = require("tensorflow")
    base, head, _ = network
    run = tensorflow.function(lambda pixels: head(base(scale(pixels), training=False)), autograph=False)
    with progress(total=len(paths), what="predict") as bar:
        found = []
        for pixels in photo_batches(paths, _BATCH, load):
            found.append(run(pixels).numpy())
            bar.update(len(found[-1]))
    return np.concatenate(found)


def _get_weights(network):
    """Returns {name: array} of all weights, for _set_weights."""
    values = network.base.get_weights() + network.head.get_weights()
    return {f"network/{place}": value for place, value in enumerate(values)}


def _set_weights(network, arrays):
    """Gives the network the weights that _get_weights returned; arrays may hold others too."""
    base_count = len(network.base.get_weights())
    values = [arrays[f"network/{place}"] for place in range(base_count + len(network.head.get_weights()))]
    network.base.set_weights(values[:base_count])
    network.head.set_weights(values[base_count:])


def _validator(photos, labels, class_names):
    """Returns a function: (uint8 batch -> probabilities) -> {"val_loss", "val_accuracy", "val_macro_f1"}.

    The loss is taken at the temperature that suits the photos best: it tells which epoch knows more, not which is less
    sure of itself, since the temperature is set at the end anyway.
    """

    truth = [photo.label for photo in photos]

    def validate(run):
        batches = photo_batches([photo.path for photo in photos], _BATCH)
        probabilities = np.concatenate([run(pixels).numpy() for pixels in batches])
        predicted = probabilities.argmax(axis=1)
        scaled = calibrate.apply_temperature(probabilities, calibrate.fit_temperature(probabilities, labels))
        return {
            "val_loss": float(-np.log(scaled[np.arange(len(labels)), labels] + 1e-7).mean()),
            "val_accuracy": float((predicted == labels).mean()),
            "val_macro_f1": metrics.score(truth, [class_names[best] for best in predicted], class_names)[1],
        }

    return validate
