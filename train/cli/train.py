"""picnic-edge train"""

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
from edge_runtime.photos import read
from edge_runtime.results import text_formats
from edge_runtime.text import printable
from train.data import split
from train.data.dataset import read_dataset
from train.insight import report
from train.model import export, metrics, recipe, tf_setup, workers
from train.model.augment import MIXES, augment, mix
from train.model.checkpoint import Checkpoint
from train.model.network import build_base

VERSIONS = (
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


INTERRUPTED = ".interrupted"  # what Ctrl-C leaves: BUNDLE.interrupted


_SAMPLES, _VARIANTS = 8, 6  # of augmented photos in the report


def parser():
    """Returns the argument parser of `picnic-edge train`."""
    this = argparse.ArgumentParser(
        prog="picnic-edge train",
        description="Train InceptionV3 on labelled photos by transfer learning and write a bundle.",
        epilog="example: picnic-edge train train.tsv --images photos/ --out bundle",
    )
    this.add_argument(
        "labels", metavar="TSV", help="table (tab-separated) with columns file and label, or a folder of class folders"
    )
    this.add_argument("--images", metavar="DIR", help="where the TSV's file names start (default: the TSV's folder)")
    this.add_argument("--out", metavar="BUNDLE", required=True, help="the folder to write; an older bundle is replaced")
    held_out = this.add_mutually_exclusive_group()
    held_out.add_argument("--val", metavar="TSV", help="validation photos: a table or a folder of class folders")
    held_out.add_argument(
        "--val-split",
        metavar="P",
        type=_part,
        default=0.2,
        help="else this share of each class, between 0 and 1, chosen by --seed (0.2); photos that look alike stay "
        "together, and at least one photo is left on either side",
    )
    this.add_argument("--val-images", metavar="DIR", help="where --val's file names start (default: --images)")
    this.add_argument(
        "--weights",
        default="imagenet",
        metavar="W",
        help="imagenet (downloaded), none, or an .h5 file (default imagenet)",
    )
    this.add_argument(
        "--epochs", type=positive, default=100, metavar="N", help="of the head, at most; stops early (default 100)"
    )
    this.add_argument(
        "--fine-tune",
        type=int,
        choices=range(12),
        metavar="BLOCKS",
        help="then train the last BLOCKS (1..11) of InceptionV3 too; 0: the head only (default %d; 0 with --weights "
        "none, since random weights have nothing to keep)" % recipe.BLOCKS,
    )
    this.add_argument(
        "--fine-tune-epochs",
        type=positive,
        metavar="N",
        help=f"epochs of --fine-tune (default {recipe.FINE_TUNE_EPOCHS}, or fewer as --minutes says)",
    )
    this.add_argument(
        "--minutes",
        type=amount,
        default=recipe.MINUTES,
        metavar="N",
        help="where this machine would take longer, make fewer epochs of --fine-tune, one at least (default %d); "
        "--fine-tune-epochs is kept to however long it takes" % recipe.MINUTES,
    )
    augmented = this.add_mutually_exclusive_group()
    augmented.add_argument(
        "--augment",
        action="store_const",
        const=1.0,
        default=1.0,
        help="turn, zoom, relight and partly hide the photos of --fine-tune, anew in every epoch (the default)",
    )
    augmented.add_argument(
        "--augment-strength", dest="augment", type=float, metavar="F", help="the same, F times as far (0 to 2)"
    )
    augmented.add_argument(
        "--no-augment", dest="augment", action="store_const", const=0.0, help="show them as they are"
    )
    this.add_argument(
        "--mix",
        choices=MIXES,
        help="mix each of these photos with another one, and their labels likewise: mixup lets both shine through, "
        "cutmix hides part of every second one behind the other (default: neither)",
    )
    this.add_argument(
        "--no-refit",
        dest="refit",
        action="store_false",
        help="keep the model that was validated; else it then learns from the validation photos too, for %d %%%% of "
        "the fine-tuning's epochs (the head alone: its best number of them)" % (100 * recipe.REFIT_SHARE),
    )
    this.add_argument("--resume", action="store_true", help="go on where a training that was stopped left off")
    this.add_argument("--report", metavar="DIR", help="write there, about the validation: " + ", ".join(report.FILES))
    this.add_argument("--tensorboard", metavar="DIR", help="write logs for TensorBoard there")
    this.add_argument(
        "--gpu-memory-fraction",
        type=share,
        metavar="F",
        help="at most this share of the GPU's memory (default: grow)",
    )
    this.add_argument("--seed", type=_seed, default=0, metavar="N", help="for the split and the training (default 0)")
    this.add_argument("--strict", action="store_true", help="stop if any labelled photo cannot be used")
    return this


def _part(text):
    return parsed(float, text, lambda value: 0 < value < 1, "more than 0 and less than 1")


def _seed(text):
    # numpy's generators take no other
    return parsed(int, text, lambda value: 0 <= value < 1 << 32, f"0 to {(1 << 32) - 1}")


def main(argv=None):
    """Trains and writes a bundle. Raises PicnicError as the exit codes say."""
    arguments = sys.argv[1:] if argv is None else argv
    options = parser().parse_args(arguments)
    writing.check_target(options.out)
    writing.check_target(os.path.normpath(options.out) + INTERRUPTED)
    if options.weights not in ("imagenet", "none") and not os.path.isfile(options.weights):
        raise UsageError(f"--weights {options.weights}: no such file; expected imagenet, none or an .h5 file")
    if not 0 <= options.augment <= 2:
        raise UsageError(f"--augment-strength {options.augment:g}: expected 0 to 2")
    if options.val_images is not None and not options.val:
        raise UsageError(f"--val-images {options.val_images}: needs --val, the table of these photos")
    for option, folder in (("--report", options.report), ("--tensorboard", options.tensorboard)):
        for written in (options.out, os.path.normpath(options.out) + INTERRUPTED):
            if folder and files.is_inside(folder, written):
                raise UsageError(f"{option} {folder}: lies in {written}, which is replaced as a whole")
    if options.fine_tune is None:
        options.fine_tune = 0 if options.weights == "none" else recipe.BLOCKS
    if options.fine_tune_epochs and not options.fine_tune:
        say(f"--fine-tune-epochs {options.fine_tune_epochs}: nothing is fine-tuned, since --fine-tune is 0")
    worker, worker_count = workers.cluster()
    if options.report:
        report.check_requirements()
        files.claim_folder(options.report, "--report")
    if options.tensorboard:
        require("tensorboard")
        files.claim_folder(options.tensorboard, "--tensorboard")
    started = time.perf_counter()
    sums: typing.Dict[str, str] = {}
    training, validation = read_dataset(options, sums)

    tf_setup.load_tensorflow()
    tf_setup.limit_gpu_memory(options.gpu_memory_fraction)
    strategy = workers.new_strategy()
    class_names = sorted({photo.label for photo in training})
    say(f"training: {len(training)} photos, {len(class_names)} classes; validation: {len(validation)} photos")
    tf_setup.set_seed(options.seed)
    with strategy.scope():
        base, weights_id = build_base(options.weights, [photo.path for photo in training])
    say(f"InceptionV3 with {weights_id} weights")
    settings = recipe.Settings(
        epochs=options.epochs,
        blocks=options.fine_tune,
        fine_tune_epochs=options.fine_tune_epochs,
        minutes=options.minutes,
        augment=options.augment,
        mix=options.mix,
        refit=options.refit,
        seed=options.seed,
    )
    identity = dict(settings._asdict(), weights=weights_id, photos=split.dataset_id(training, validation, sums, True))
    checkpoint = Checkpoint(os.path.normpath(options.out) + ".training", identity, options.resume, started)
    watch = _watch(options.tensorboard if worker == 0 else None)
    with _saying_where_the_state_is(checkpoint):
        done = recipe.train(base, strategy, training, validation, class_names, sums, settings, checkpoint, watch)
        if worker and done.interrupted:  # the others still compute
            raise KeyboardInterrupt
    if worker:
        say(f"worker {worker} of {worker_count} is done; worker 0 writes the bundle")
        workers.wait_for_all(strategy)
        checkpoint.remove()
        workers.leave(strategy)

    predicted = [class_names[best] for best in done.probabilities.argmax(axis=1)]
    accuracy, macro_f1, table = metrics.score([photo.label for photo in validation], predicted, class_names)
    figures = {
        "val_accuracy": accuracy,
        "val_macro_f1": macro_f1,
        "val_photos": len(validation),
        "calibration": done.calibration,
        "history": done.history,
        "per_class": [row._asdict() for row in table],
    }
    trained_on = training + validation if done.refitted else training
    record = {
        "command": _command_for_the_same(arguments, options, done),
        "seed": options.seed,
        "weights": weights_id,
        "photos": len(trained_on),
        "photos_id": split.dataset_id(training, validation, sums),
        "photos_sha256": sorted(sums[photo.path][:16] for photo in trained_on),
        "refitted": done.refitted,
        "workers": worker_count,
        "versions": {name: libraries.library_version(name) for name in VERSIONS},
        "machine": cpu.describe(),
        "seconds": round(checkpoint.seconds(), 1),
        "peak_memory_bytes": memory.peak_memory_bytes(),
    }
    out = os.path.normpath(options.out) + (INTERRUPTED if done.interrupted else "")
    # The exported files are compared on the validation photos; where those are few, training photos join them.
    shown = [validation[index] for index in export.in_turn(validation)]
    shown += [training[index] for index in export.in_turn(training)[: max(0, export.SAMPLE_PHOTOS - len(validation))]]
    limit = export.MAX_DIFFERENCE_RANDOM if options.weights == "none" else export.MAX_DIFFERENCE
    base, head, _ = done.network
    with _saying_where_the_state_is(checkpoint):
        answers = recipe.predict(done.network, [photo.path for photo in shown])
        sample = _unfamiliar_sample(done.network, shown, options.seed) if done.refitted else None
        agreement = export.export_bundle(out, base, head, class_names, shown, answers, figures, record, limit, sample)
    minutes = checkpoint.seconds() / 60
    _log_run(out, arguments, done, figures, record, minutes)
    print(metrics.format_table(table))
    print(f"validation: accuracy {accuracy:.4f}, macro-F1 {macro_f1:.4f} on {len(validation)} photos")
    print(
        "calibration: temperature %(temperature).2f, expected calibration error %(ece_before).3f before, "
        "%(ece_after).3f after" % done.calibration
    )
    if done.refitted:
        print("refit: the bundle has learned from the validation photos too; these figures are from before")
    for name, found in sorted(agreement.items()):
        print(
            "%s agrees with the trained model: largest difference of a probability %.1e, same label for %d of %d photos"
            % (name, found["max_abs_difference"], found["top1_equal"], found["photos"])
        )
    print(f"peak memory: {memory.peak_memory_bytes() / 2.0**30:.1f} GiB")
    print(f"bundle: {out} ({60 * minutes:.0f} s)")
    if options.report:
        is_changed = (options.augment or options.mix) and "fine_tune" in done.history
        samples = _augmented_samples(training, options) if is_changed else None
        report.write_report(
            options.report, reading.Bundle.open(out), validation, done.probabilities, "the trained model", samples
        )
    if done.interrupted:
        say(f"interrupted: the best so far is in {out}" + _how_to_go_on(checkpoint))
        raise KeyboardInterrupt
    checkpoint.remove()
    if os.path.exists(out + INTERRUPTED):
        say(f"{out + INTERRUPTED} is from an interrupted training and not needed any more")
    workers.wait_for_all(strategy)
    workers.leave(strategy)


def _command_for_the_same(arguments, options, done):
    """Returns the words of a command that trains the same on a machine of any speed."""
    command = ["picnic-edge", "train"] + [printable(argument) for argument in arguments]
    if "fine_tune" in done.history and not options.fine_tune_epochs and not done.interrupted:
        command += ["--fine-tune-epochs", str(len(done.history["fine_tune"]["loss"]))]
    return command


@contextlib.contextmanager
def _saying_where_the_state_is(checkpoint):
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        if checkpoint.is_ours:
            what = "interrupted: " if isinstance(error, KeyboardInterrupt) else ""
            say(what + f"the state is in {checkpoint.path}" + _how_to_go_on(checkpoint))
        raise


def _how_to_go_on(checkpoint):
    return "; to go on, give the same command with --resume" * checkpoint.is_ours


def _unfamiliar_sample(network, photos, seed):
    """Returns the sample of a network that learned from all photos: each is changed, so that it is not known by heart.

    Sure of itself throughout, the network would give the same labels in any engine, and the converter's check would say
    little.
    """
    photos = photos[: export.SAMPLE_PHOTOS]
    number_of = {photo.path: number for number, photo in enumerate(photos)}

    def load(path):
        return augment(read.read_image(path), np.random.RandomState([seed, number_of[path]]))

    return export.take_sample(photos, recipe.predict(network, [photo.path for photo in photos], load), load)


def _watch(folder):
    """Returns a function of (stage, epoch, {name: value}) that logs for TensorBoard; without a folder, nothing."""
    if not folder:
        return lambda stage, epoch, figures: None
    summary = require("tensorflow").summary
    writers: typing.Dict[str, typing.Any] = {}

    def watch(stage, epoch, figures):
        if stage not in writers:
            writers[stage] = summary.create_file_writer(os.path.join(folder, stage))
        with writers[stage].as_default():
            for name, value in figures.items():
                summary.scalar(name, value, step=epoch + 1)
        writers[stage].flush()

    return watch


def _augmented_samples(photos, options):
    """Returns lists of pictures: a training photo as it is, then as some epochs show it; _SAMPLES photos."""
    originals: typing.List[np.ndarray] = []
    for number in np.random.RandomState(options.seed).permutation(len(photos)):
        if len(originals) == _SAMPLES:
            break
        with contextlib.suppress(ImageError):  # it could be read while it was learned from
            originals.append(read.read_image(photos[number].path))
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


def _log_run(out, arguments, done, figures, record, minutes):
    """Adds a line about this training to runs.tsv beside the bundle."""
    path = os.path.join(os.path.dirname(os.path.abspath(out)), "runs.tsv")
    curves = [done.history] + [done.history[stage] for stage in ("fine_tune", recipe.REFIT) if stage in done.history]
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
