"""picnic-edge train: labelled photos -> a trained model -> a bundle."""

import argparse
import contextlib
import datetime
import fcntl
import os
import shlex
import sys
import time
import typing

import numpy as np

from edge_runtime import files
from edge_runtime.bundle import reading, writing
from edge_runtime.cli.options import amount, parsed, positive, share
from edge_runtime.console import say
from edge_runtime.errors import ImageError, UsageError
from edge_runtime.machine import cpu, libraries, memory
from edge_runtime.machine.libraries import require
from edge_runtime.photos import read, spec
from edge_runtime.results import text_formats
from edge_runtime.text import printable
from train.data import split
from train.data.dataset import read_dataset
from train.insight import report
from train.model import export, metrics, recipe, tf_setup, workers
from train.model.augment import MIXES, augment, mix
from train.model.checkpoint import Checkpoint
from train.model.network import build_base

_VERSIONS = (
    "picnic-edge",
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "tf2onnx",
    "onnx",
    "onnxruntime",
    "numpy",
    "opencv-python-headless",
)
_INTERRUPTED = ".interrupted"  # after Ctrl-C the best model so far is in BUNDLE.interrupted
LEAST_SIZE, MOST_SIZE = 96, 512  # of --size
_EXAMPLES, _VARIANTS = 8, 6  # of augmentation in the report: photos, pictures of each


def parser():
    """Returns the argument parser of `picnic-edge train`."""
    this = argparse.ArgumentParser(
        prog="picnic-edge train",
        description="Train InceptionV3 on labelled photos by transfer learning and write a bundle.",
        epilog="example: picnic-edge train train.tsv --images photos/ --out bundle",
    )
    this.add_argument(
        "labels",
        metavar="TSV",
        help="table (tab-separated) with the columns file and label, or a folder with one folder per class",
    )
    this.add_argument("--images", metavar="DIR", help="where the TSV's file names start (default: the TSV's folder)")
    this.add_argument("--out", metavar="BUNDLE", required=True, help="the folder to write; an older bundle is replaced")
    held_out = this.add_mutually_exclusive_group()
    held_out.add_argument(
        "--val", metavar="TSV", help="validation photos: a table or a folder with one folder per class"
    )
    held_out.add_argument(
        "--val-split",
        metavar="P",
        type=_part,
        default=0.2,
        help="without --val: the share of each class to validate on, between 0 and 1, chosen by --seed (default 0.2); "
        "photos that look alike stay together, and at least one photo stays on either side",
    )
    this.add_argument("--val-images", metavar="DIR", help="where --val's file names start (default: --images)")
    this.add_argument(
        "--weights",
        default="imagenet",
        metavar="W",
        help="imagenet (downloaded), none, or an .h5 file (default imagenet)",
    )
    this.add_argument(
        "--size",
        type=_size,
        default=spec.INCEPTION_V3.height,
        metavar="N",
        help=f"height and width of the network's input in pixels, {LEAST_SIZE} to {MOST_SIZE} (default %(default)s): "
        "the work of a photo grows with the square of it; small products need a large input",
    )
    this.add_argument(
        "--epochs", type=positive, default=100, metavar="N", help="of the head, at most; stops early (default 100)"
    )
    this.add_argument(
        "--fine-tune",
        type=int,
        choices=range(12),
        metavar="BLOCKS",
        help="then train the last BLOCKS (1..11) of InceptionV3 too; 0: the head only "
        f"(default {recipe.BLOCKS}; 0 with --weights none, since random weights have nothing to keep)",
    )
    this.add_argument(
        "--fine-tune-epochs",
        type=positive,
        metavar="N",
        help=f"epochs of --fine-tune (default {recipe.FINE_TUNE_EPOCHS}, or as many as fit into --minutes)",
    )
    this.add_argument(
        "--minutes",
        type=amount,
        default=recipe.MINUTES,
        metavar="N",
        help="run fewer epochs of --fine-tune, at least one, if the training would take longer on this machine "
        f"(default {recipe.MINUTES}); has no effect with --fine-tune-epochs",
    )
    augmented = this.add_mutually_exclusive_group()
    augmented.add_argument(
        "--augment",
        action="store_const",
        const=1.0,
        default=1.0,
        help="rotate, zoom, relight and partly hide the photos of --fine-tune, differently in every epoch (default)",
    )
    augmented.add_argument(
        "--augment-strength", dest="augment", type=float, metavar="F", help="the same, F times as strong (0 to 2)"
    )
    augmented.add_argument(
        "--no-augment", dest="augment", action="store_const", const=0.0, help="train on the photos as they are"
    )
    this.add_argument(
        "--mix",
        choices=MIXES,
        help="mix each of these photos, and its label, with another one: mixup blends the two, cutmix pastes a part of "
        "the other over about half of the photos (default: no mixing)",
    )
    this.add_argument(
        "--no-refit",
        dest="refit",
        action="store_false",
        help="keep the model that was validated; by default it then learns from the validation photos too, for "
        f"{100 * recipe.REFIT_SHARE:.0f} %% of the fine-tuning's epochs (the head alone: its best number of epochs)",
    )
    this.add_argument("--resume", action="store_true", help="continue a training that was stopped")
    this.add_argument(
        "--report", metavar="DIR", help="write a report on the validation there: " + ", ".join(report.FILES)
    )
    this.add_argument("--tensorboard", metavar="DIR", help="write logs for TensorBoard there")
    this.add_argument(
        "--gpu-memory-fraction",
        type=share,
        metavar="F",
        help="use at most this share of the GPU's memory (default: as much as is needed)",
    )
    this.add_argument("--seed", type=_seed, default=0, metavar="N", help="for the split and the training (default 0)")
    this.add_argument("--strict", action="store_true", help="stop if any labelled photo cannot be used")
    return this


def _part(text):
    return parsed(float, text, lambda value: 0 < value < 1, "more than 0 and less than 1")


def _size(text):
    return parsed(int, text, lambda value: LEAST_SIZE <= value <= MOST_SIZE, f"{LEAST_SIZE} to {MOST_SIZE}")


def _seed(text):
    # numpy's generators take no other
    return parsed(int, text, lambda value: 0 <= value < 1 << 32, f"0 to {(1 << 32) - 1}")


def main(argv=None):
    """Trains and writes a bundle. Raises PicnicError as the exit codes say."""
    arguments = sys.argv[1:] if argv is None else argv
    options = parser().parse_args(arguments)
    _check_options(options)
    worker, worker_count = workers.cluster()
    _claim_folders(options)
    started = time.perf_counter()
    data = read_dataset(options)

    tf_setup.load_tensorflow()
    tf_setup.limit_gpu_memory(options.gpu_memory_fraction)
    strategy = workers.new_strategy()
    say(
        f"training: {len(data.training)} photos, {len(data.class_names)} classes; "
        f"validation: {len(data.validation)} photos"
    )
    tf_setup.set_seed(options.seed)
    with strategy.scope():
        base, weights_id = build_base(
            options.weights, spec.squash(options.size), [photo.path for photo in data.training]
        )
    say(f"InceptionV3 with {weights_id} weights")
    settings = settings_of(options)
    photos_id = split.dataset_id(data.training, data.validation, data.sums, ordered=True)
    identity = dict(settings._asdict(), weights=weights_id, photos=photos_id)
    checkpoint = Checkpoint(os.path.normpath(options.out) + ".training", identity, options.resume, started)
    on_epoch = _tensorboard_log(options.tensorboard if worker == 0 else None)
    with _state_named_on_failure(checkpoint):
        outcome = recipe.train(base, strategy, data, settings, checkpoint, on_epoch)
        if worker and outcome.interrupted:  # the others still compute
            raise KeyboardInterrupt
    if worker:
        say(f"worker {worker} of {worker_count} is done; worker 0 writes the bundle")
        workers.wait_for_all(strategy)
        checkpoint.remove()
        workers.leave(strategy)

    figures, table = _figures(outcome, data)
    record = _training_record(arguments, options, outcome, data, weights_id, worker_count, checkpoint.seconds())
    out = os.path.normpath(options.out) + (_INTERRUPTED if outcome.interrupted else "")
    with _state_named_on_failure(checkpoint):
        agreement = _export(out, options, outcome, data, figures, record)
    seconds = checkpoint.seconds()
    _log_run(out, arguments, outcome, figures, record, seconds / 60)
    _print_results(table, figures, outcome, agreement)
    print(f"bundle: {out} ({seconds:.0f} s)")
    if options.report:
        is_changed = (options.augment or options.mix) and "fine_tune" in outcome.history
        examples = _augmentation_examples(data.training, options) if is_changed else None
        report.write_report(
            options.report,
            reading.Bundle.open(out),
            data.validation,
            outcome.probabilities,
            "the trained model",
            examples,
        )
    if outcome.interrupted:
        say(f"interrupted: the best model so far is in {out}" + _resume_hint(checkpoint))
        raise KeyboardInterrupt
    checkpoint.remove()
    if os.path.exists(out + _INTERRUPTED):
        say(f"{out + _INTERRUPTED} is from an interrupted training and no longer needed")
    workers.wait_for_all(strategy)
    workers.leave(strategy)


def settings_of(options):
    """Returns the recipe.Settings of parsed options whose --fine-tune is set."""
    return recipe.Settings(
        epochs=options.epochs,
        blocks=options.fine_tune,
        fine_tune_epochs=options.fine_tune_epochs,
        minutes=options.minutes,
        augment=options.augment,
        mix=options.mix,
        refit=options.refit,
        seed=options.seed,
        size=options.size,
    )


def _check_options(options):
    """Raises UsageError for options that cannot be right. Sets --fine-tune where it was not given."""
    interrupted = os.path.normpath(options.out) + _INTERRUPTED
    for target in (options.out, interrupted):
        writing.check_target(target)
    if options.weights not in ("imagenet", "none") and not os.path.isfile(options.weights):
        raise UsageError(f"--weights {options.weights}: no such file; expected imagenet, none or an .h5 file")
    if not 0 <= options.augment <= 2:
        raise UsageError(f"--augment-strength {options.augment:g}: expected 0 to 2")
    if options.val_images is not None and not options.val:
        raise UsageError(f"--val-images {options.val_images}: needs --val, the table of these photos")
    for option, folder in (("--report", options.report), ("--tensorboard", options.tensorboard)):
        for target in (options.out, interrupted):
            if folder and files.is_inside(folder, target):
                raise UsageError(f"{option} {folder}: is inside {target}, which is replaced as a whole")
    if options.fine_tune is None:
        options.fine_tune = 0 if options.weights == "none" else recipe.BLOCKS
    if options.fine_tune_epochs and not options.fine_tune:
        say(f"--fine-tune-epochs {options.fine_tune_epochs}: nothing is fine-tuned, since --fine-tune is 0")


def _claim_folders(options):
    """Makes the folders of --report and --tensorboard. What is missing for them is said before the training."""
    if options.report:
        report.check_requirements()
        files.claim_folder(options.report, "--report")
    if options.tensorboard:
        require("tensorboard")
        files.claim_folder(options.tensorboard, "--tensorboard")


def _tensorboard_log(folder):
    """Returns a function of (stage, epoch, {name: value}) that logs for TensorBoard; without a folder, nothing."""
    if not folder:
        return lambda stage, epoch, figures: None
    summary = require("tensorflow").summary
    writers: typing.Dict[str, typing.Any] = {}

    def log(stage, epoch, figures):
        if stage not in writers:
            writers[stage] = summary.create_file_writer(os.path.join(folder, stage))
        with writers[stage].as_default():
            for name, value in figures.items():
                summary.scalar(name, value, step=epoch + 1)
        writers[stage].flush()

    return log


@contextlib.contextmanager
def _state_named_on_failure(checkpoint):
    """Says where the state is kept if the block fails or is interrupted."""
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        if checkpoint.is_ours:
            what = "interrupted: " if isinstance(error, KeyboardInterrupt) else ""
            say(what + f"the state is in {checkpoint.path}" + _resume_hint(checkpoint))
        raise


def _resume_hint(checkpoint):
    return "; to continue, give the same command with --resume" if checkpoint.is_ours else ""


def _figures(outcome, data):
    """Returns (the validation's figures for the manifest, the per-class table)."""
    predicted = [data.class_names[best] for best in outcome.probabilities.argmax(axis=1)]
    accuracy, macro_f1, table = metrics.score([photo.label for photo in data.validation], predicted, data.class_names)
    figures = {
        "val_accuracy": accuracy,
        "val_macro_f1": macro_f1,
        "val_photos": len(data.validation),
        "calibration": outcome.calibration,
        "history": outcome.history,
        "per_class": [row._asdict() for row in table],
    }
    return figures, table


def _training_record(arguments, options, outcome, data, weights_id, worker_count, seconds):
    """Returns how the model was trained, for the manifest."""
    trained_on = data.training + data.validation if outcome.refitted else data.training
    return {
        "command": _reproducing_command(arguments, options, outcome),
        "seed": options.seed,
        "weights": weights_id,
        "photos": len(trained_on),
        "photos_id": split.dataset_id(data.training, data.validation, data.sums),
        "photos_sha256": sorted(data.sums[photo.path][:16] for photo in trained_on),
        "refitted": outcome.refitted,
        "workers": worker_count,
        "versions": {name: libraries.library_version(name) for name in _VERSIONS},
        "machine": cpu.describe(),
        "seconds": round(seconds, 1),
        "peak_memory_bytes": memory.peak_memory_bytes(),
    }


def _reproducing_command(arguments, options, outcome):
    """Returns the words of a command that trains the same model on a machine of any speed."""
    command = ["picnic-edge", "train"] + [printable(argument) for argument in arguments]
    if "fine_tune" in outcome.history and not options.fine_tune_epochs and not outcome.interrupted:
        command += ["--fine-tune-epochs", str(len(outcome.history["fine_tune"]["loss"]))]
    return command


def _export(out, options, outcome, data, figures, record):
    """Writes the bundle. Returns how far the exported files agree with the trained model."""
    network = outcome.network
    # The exported files are compared on the validation photos; where those are few, training photos join them.
    training_count = max(0, export.SAMPLE_PHOTOS - len(data.validation))
    photos = [data.validation[index] for index in export.class_turns(data.validation)]
    photos += [data.training[index] for index in export.class_turns(data.training)[:training_count]]
    limit = export.MAX_DIFFERENCE_RANDOM if options.weights == "none" else export.MAX_DIFFERENCE
    probabilities = recipe.predict(network, [photo.path for photo in photos])
    sample = _augmented_sample(network, photos, options.seed) if outcome.refitted else None
    return export.export_bundle(out, network, data.class_names, photos, probabilities, figures, record, limit, sample)


def _augmented_sample(network, photos, seed):
    """Returns the sample of a network that learned from all photos: each is augmented, so that it is new to it.

    On photos it knows the network would be so confident that any engine gives the same labels, and the converter's
    check would say little.
    """
    photos = photos[: export.SAMPLE_PHOTOS]
    number_of = {photo.path: number for number, photo in enumerate(photos)}

    def load(path):
        return augment(read.read_image(path, network.input_spec), np.random.RandomState([seed, number_of[path]]))

    return export.take_sample(photos, recipe.predict(network, [photo.path for photo in photos], load), load)


def _augmentation_examples(photos, options):
    """Returns up to _EXAMPLES lists of pictures: a training photo, then _VARIANTS of it as the epochs show it."""
    originals: typing.List[np.ndarray] = []
    for number in np.random.RandomState(options.seed).permutation(len(photos)):
        if len(originals) == _EXAMPLES:
            break
        with contextlib.suppress(ImageError):  # it could be read while it was learned from
            originals.append(read.read_image(photos[number].path, spec.squash(options.size)))
    columns = [np.array(originals)]
    for number in range(_VARIANTS if originals else 0):
        random = np.random.RandomState([options.seed, number])
        column = columns[0]
        if options.augment:
            column = np.array([augment(original, random, options.augment) for original in originals])
        if options.mix:
            column, _, _ = mix(column, random, options.mix)
        columns.append(column)
    return list(zip(*columns))


def _log_run(out, arguments, outcome, figures, record, minutes):
    """Adds a line about this training to runs.tsv beside the bundle."""
    path = os.path.join(os.path.dirname(os.path.abspath(out)), "runs.tsv")
    history = outcome.history
    curves = [history] + [history[stage] for stage in ("fine_tune", recipe.REFIT) if stage in history]
    row = {
        "when": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": " ".join(shlex.quote(printable(argument)) for argument in arguments),
        "seed": record["seed"],
        "photos": record["photos_id"],
        "weights": record["weights"],
        "epochs": "+".join(str(len(curve["loss"])) for curve in curves),
        "val_accuracy": f"{figures['val_accuracy']:.4f}",
        "val_macro_f1": f"{figures['val_macro_f1']:.4f}",
        "minutes": f"{minutes:.1f}",
        "bundle": os.path.basename(out),
        "bundle_id": reading.Bundle.open(out).id,
    }
    try:
        with open(path, "a", encoding="utf-8", errors="surrogateescape", newline="") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            write = text_formats.tsv_writer(file, list(row), header=file.seek(0, os.SEEK_END) == 0)
            write(list(row.values()))
    except OSError as error:
        say(f"{path}: this run cannot be added ({error.strerror})")


def _print_results(table, figures, outcome, agreement):
    calibration = outcome.calibration
    print(metrics.format_table(table))
    print(
        f"validation: accuracy {figures['val_accuracy']:.4f}, macro-F1 {figures['val_macro_f1']:.4f} "
        f"on {figures['val_photos']} photos"
    )
    print(
        f"calibration: temperature {calibration['temperature']:.2f}, expected calibration error "
        f"{calibration['ece_before']:.3f} before, {calibration['ece_after']:.3f} after"
    )
    if outcome.refitted:
        print("refit: the bundle has learned from the validation photos too; these figures are from before")
    for name, compared in sorted(agreement.items()):
        print(
            f"{name} agrees with the trained model: largest difference of a probability "
            f"{compared['max_abs_difference']:.1e}, same label for {compared['top1_equal']} of "
            f"{compared['photos']} photos"
        )
    print(f"peak memory: {memory.peak_memory_bytes() / (1 << 30):.1f} GiB")
