"""python -m benchmarks.experiments.training TSV --images DIR --weights W: training, measured from outside.

input pipeline   photos/s that tf.data reads, decodes and augments, beside the network's: the lower one is the limit
feature cache    the same training of the head twice, first with an empty cache, then with the filled one
time to a score  seconds from the start of the process to a macro-F1 on the validation photos, beside the hackathon's
                 script in TensorFlow 2 (benchmarks/experiments/hackathon_training.py) on the same photos, split and
                 weights

Options after -- go to `picnic-edge train`, for the run that is timed to a score.
"""

import argparse
import codecs
import collections
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import typing

from benchmarks import rivals
from benchmarks.commands import kill_group
from edge_runtime import files
from edge_runtime.cli.options import share
from edge_runtime.cli.run import run_verb
from edge_runtime.console import print_json, say
from edge_runtime.errors import MissingRequirement, PicnicError, UsageError
from edge_runtime.machine import cpu
from edge_runtime.results import text_formats
from edge_runtime.sources import table, table_reader

TRAIN = [sys.executable, "-m", "train"]
HACKATHON = [sys.executable, "-m", "benchmarks.experiments.hackathon_training"]
_VAL_EVERY = 5  # photos of a class where no --val is given
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Measures train's own functions: photos for computing features, and augmented photos for fine-tuning.
PIPELINE = """
import json, sys, time
import numpy as np
from edge_runtime.photos import read
from edge_runtime.photos.spec import INCEPTION_V3
from train.model.augment import augment
from train.data.batches import photo_batches
with open(sys.argv[1]) as file:
    paths = json.load(file)
rates = []
def augmented(path):
    return augment(read.read_image(path, INCEPTION_V3), np.random.RandomState(len(path)))
for load in (None, augmented):
    list(photo_batches(paths[:32], 32, INCEPTION_V3, load))
    count, started = 0, time.perf_counter()
    while not count or time.perf_counter() - started < 2:
        count += sum(int(batch.shape[0]) for batch in photo_batches(paths, 32, INCEPTION_V3, load))
    rates.append(count / (time.perf_counter() - started))
print(json.dumps(rates))
"""


class Run(typing.NamedTuple):
    """The output of a command."""

    lines: list  # of (seconds from the start to the line's beginning, text)
    seconds: float


def main(argv=None):
    """Measures and prints the figures. Raises PicnicError as the exit codes say."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    place = arguments.index("--") if "--" in arguments else len(arguments)
    this = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.training",
        description="Measure training from outside: input pipeline, feature cache, time to a macro-F1.",
        epilog="example: python -m benchmarks.experiments.training train.tsv --images photos --weights none",
    )
    this.add_argument("labels", metavar="TSV", help="table with the columns file and label")
    this.add_argument("--images", metavar="DIR", required=True, help="where the TSV's file names start")
    this.add_argument("--weights", metavar="W", required=True, help="imagenet (downloaded), none, or an .h5 file")
    this.add_argument("--val", metavar="TSV", help="validation photos (default: every fifth photo of each class)")
    this.add_argument("--val-images", metavar="DIR", help="where --val's file names start (default: --images)")
    this.add_argument(
        "--target", type=share, metavar="F1", help="macro-F1 (default: what the hackathon's script reaches)"
    )
    this.add_argument("--json", action="store_true", help="one JSON document on stdout instead of the table")
    options = this.parse_args(arguments[:place])
    photos, val_photos = read_photos(options.labels, options.images, options.val, options.val_images)
    figures = measure(photos, val_photos, options.weights, options.target, arguments[place + 1 :])
    figures["command"] = ["python", "-m", "benchmarks.experiments.training"] + arguments
    if options.json:
        print_json(figures)
        return
    for name, value in figures.items():
        if not isinstance(value, (list, dict)):
            text = f"{value:.4g}" if isinstance(value, float) else "-" if value in (None, "") else value
            print(f"{name:<36} {text}")


def read_photos(labels, folder, val=None, val_folder=None):
    """Reads the labelled photos that both trainings can use, and splits them where no validation table is given.

    Rows and photos that one of them cannot use, classes with a single photo, and validation photos of untrained classes
    are left out.

    Returns:
        ([(path, label)] to train on, [(path, label)] to validate on).

    Raises:
        UsageError: a table cannot be read, or too little is left.
    """
    photos = _read_table(labels, folder)
    if val:
        val_photos = _read_table(val, folder if val_folder is None else val_folder)
    else:
        val_photos = []
        count: typing.Dict[str, int] = collections.Counter()
        for photo in photos:
            count[photo[1]] += 1
            if count[photo[1]] % _VAL_EVERY == 2:  # the second, the seventh, ...: the first stays
                val_photos.append(photo)
        chosen = set(val_photos)
        photos = [photo for photo in photos if photo not in chosen]
    # `train` wants two of a class.
    few = {label for label, count in collections.Counter(label for _, label in photos).items() if count < 2}
    photos = [photo for photo in photos if photo[1] not in few]
    known = {label for _, label in photos}
    val_photos = [photo for photo in val_photos if photo[1] in known]
    if len(known) < 2 or not val_photos:
        counts = f"{len(known)} classes with 2 usable photos to train on and {len(val_photos)} photos to validate on"
        raise UsageError(f"{labels}: {counts}; at least 2 and 1 are needed")
    return photos, val_photos


def measure(photos, val_photos, weights, target=None, train_options=()):
    """Measures everything, one thing after the other, in a temporary folder.

    Args:
        photos, val_photos: lists of (path, label): the result of read_photos.
        weights: imagenet, none, or the name of an .h5 file.
        target: macro-F1 to reach, 0..1; None for the one that the hackathon's script reaches.
        train_options: more options of `picnic-edge train` for the timed run.

    Returns:
        flat dict, None for what could not be measured:
            photos, val_photos, classes, weights, machine
            pipeline_images_per_s, augmented_pipeline_images_per_s     the input pipeline alone
            features_images_per_s, fine_tune_images_per_s              with the network behind it
            pipeline_over_features, augmented_over_fine_tune           above 1: the network is the limit, not the input
            cache_miss_s, cache_hit_s                                  the head's whole training
            picnic_s, picnic_macro_f1, picnic_accuracy, picnic_curve   curves are lists of [seconds, macro-F1]
            hackathon_s, hackathon_macro_f1, hackathon_epochs, hackathon_curve, hackathon_skipped (why, or "")
            target_macro_f1, picnic_to_target_s, hackathon_to_target_s

    Raises:
        UsageError, MissingRequirement: `picnic-edge train` ended with an error, which is in the message.
    """
    with tempfile.TemporaryDirectory() as scratch:

        def inside(name):
            return os.path.join(scratch, name)

        for name, some in (("train.tsv", photos), ("val.tsv", val_photos)):
            with files.atomic_file(inside(name)) as file:
                write = text_formats.tsv_writer(file, ["file", "label"])
                for path, label in some:
                    write([os.path.relpath(path, os.sep), label])
        files.write_json(inside("paths.json"), [path for path, _ in photos])
        common = ["--images", os.sep, "--weights", weights]
        train = TRAIN + [inside("train.tsv"), "--val", inside("val.tsv")] + common
        head = train + ["--fine-tune", "0", "--no-refit", "--out"]
        say("input pipeline")
        rates = json.loads(run([sys.executable, "-c", PIPELINE, inside("paths.json")]).lines[-1][1])
        say("training the head, with an empty cache of features")
        miss = run(head + [inside("miss")], XDG_CACHE_HOME=inside("cache"))
        say("training the head, with its features in the cache")
        hit = run(head + [inside("hit")], XDG_CACHE_HOME=inside("cache"))
        say("training with all stages")
        timed = run(train + ["--out", inside("all")] + list(train_options), XDG_CACHE_HOME=inside("other-cache"))
        with open(os.path.join(inside("all"), "manifest.json"), encoding="utf-8") as file:
            metrics = json.load(file)["metrics"]
        say("training as the hackathon's script does")
        rival, skipped = None, ""
        try:
            rival = run(HACKATHON + [inside("train.tsv"), inside("val.tsv")] + common)
        except PicnicError as error:
            skipped = str(error)
    features, fine_tune = (bar_rate(some.lines, what) for some, what in ((miss, "features"), (timed, "fine-tune")))
    curve = picnic_curve(timed.lines, metrics)
    epochs = [] if rival is None else [json.loads(text) for _, text in rival.lines if text.startswith("{")]
    rival_curve = hackathon_curve(rival.lines) if rival else []
    if target is None and rival_curve:
        target = rival_curve[-1][1]
    return {
        "photos": len(photos),
        "val_photos": len(val_photos),
        "classes": len({label for _, label in photos}),
        "weights": weights,
        "machine": cpu.describe(),
        "pipeline_images_per_s": rates[0],
        "augmented_pipeline_images_per_s": rates[1],
        "features_images_per_s": features,
        "fine_tune_images_per_s": fine_tune,
        "pipeline_over_features": rates[0] / features if features else None,
        "augmented_over_fine_tune": rates[1] / fine_tune if fine_tune else None,
        "cache_miss_s": miss.seconds,
        "cache_hit_s": hit.seconds,
        "picnic_s": timed.seconds,
        "picnic_macro_f1": metrics["val_macro_f1"],
        "picnic_accuracy": metrics["val_accuracy"],
        "picnic_curve": curve,
        "hackathon_s": rival.seconds - epochs[-1]["extra_s"] if rival else None,
        "hackathon_macro_f1": rival_curve[-1][1] if rival_curve else None,
        "hackathon_epochs": len(epochs),
        "hackathon_curve": rival_curve,
        "hackathon_skipped": skipped,
        "target_macro_f1": target,
        "picnic_to_target_s": time_to(curve, target),
        "hackathon_to_target_s": time_to(rival_curve, target),
    }


def run(command, **environment):
    """Runs a command. Ends it with all its children if this process is interrupted.

    Returns:
        Run: its lines (both streams; a progress bar's states are lines too) with the seconds since its start.

    Raises:
        MissingRequirement: it ended with exit code 4. UsageError: with another than 0.
    """
    variables = dict(os.environ, PYTHONUNBUFFERED="1", **environment)
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))
    started = time.perf_counter()
    process: typing.Any = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=variables,
        start_new_session=True,
    )
    try:
        lines = _timed_lines(process.stdout.fileno(), started)
        code = process.wait()
        seconds = time.perf_counter() - started
    finally:
        kill_group(process)
        process.wait()
        process.stdout.close()
    if code:
        messages = [text for _, text in lines]
        messages = [text for text in messages if text.startswith("picnic-edge: ")] or messages or [""]
        problem = f"{' '.join(command[1:3])} ended with exit code {code}: {messages[-1]}"
        raise (MissingRequirement if code == MissingRequirement.exit_code else UsageError)(problem)
    return Run(lines, seconds)


def bar_rate(lines, what):
    """Returns the photos/s of all finished progress bars of a name, None where there is none.

    Args:
        lines: of a Run.
        what: "features", or "fine-tune" for the bars of all its epochs.
    """
    # "fine-tune 1/20: 100%|##########| 2640/2640 [01:21<00:00, 32.22 photos/s]", below 1/s " 1.50s/ photos"
    bar = re.compile(re.escape(what) + r"(?: \d+/\d+)?: 100%\|[^|]*\| (\d+)/\1 \[.*, +([\d.]+)( photos/s|s/ photos)")
    photos, seconds = 0, 0.0
    bars = {match.group(0): match for _, text in lines for match in [bar.match(text)] if match}
    for match in bars.values():  # a bar's last state may be printed twice
        rate = float(match.group(2)) if match.group(3) == " photos/s" else 1 / float(match.group(2))
        photos += int(match.group(1))
        seconds += int(match.group(1)) / rate
    return photos / seconds if seconds else None


def picnic_curve(lines, metrics):
    """Returns [[seconds, macro-F1]] of a training by `picnic-edge train`.

    The head's when fine-tuning begins, then one per epoch; without fine-tuning that of the finished bundle.

    Args:
        lines: of a Run.
        metrics: of the bundle's manifest.
    """
    known = metrics.get("history", {}).get("fine_tune", {}).get("val_macro_f1")
    if not known:
        return [[at_s, metrics["val_macro_f1"]] for at_s, text in lines if text.startswith("validation: accuracy ")]
    begun = [at_s for at_s, text in lines if text.startswith("fine-tune 1/")][:1]
    ended = [at_s for at_s, text in lines if text.startswith("fine-tune: epoch ")]
    return [[at_s, macro_f1] for at_s, macro_f1 in zip(begun + ended, known)]


def hackathon_curve(lines):
    """Returns [[seconds, macro-F1]] per epoch of hackathon_training, without its time for macro-F1."""
    epochs = [(at_s, json.loads(text)) for at_s, text in lines if text.startswith("{")]
    return [[at_s - figures["extra_s"], figures["val_macro_f1"]] for at_s, figures in epochs]


def time_to(curve, target):
    """Returns the seconds after which a curve first has the target, None if it never does, or without a target."""
    return next((at_s for at_s, macro_f1 in curve if target is not None and macro_f1 >= target), None)


def _read_table(path, folder):
    if not os.path.isdir(folder):
        raise UsageError(f"--images {folder}: no such folder")
    rows = list(table_reader.read_rows(path, need_label=True))
    labels = {
        os.path.abspath(table.path_of(row.file, folder)): row.label for row in rows if not row.problem
    }  # one that is listed twice counts once
    usable, left_out = rivals.common_photos(list(labels))
    unusable = len(left_out) + sum(bool(row.problem) for row in rows)
    if unusable:
        say(f"{path}: {unusable} of its photos are left out: one of the two trainings cannot use them")
    return [(name, labels[name]) for name in usable]


def _timed_lines(descriptor, started):
    """Reads a pipe to its end. Returns [(seconds from started to when the line began, line)], empty lines left out."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    lines, rest, began_s = [], "", 0.0
    while True:
        data = os.read(descriptor, 1 << 16)
        now_s = time.perf_counter() - started
        parts = re.split(r"[\r\n]", decoder.decode(data, final=not data))
        for number, part in enumerate(parts):
            if part and not rest:
                began_s = now_s
            rest += part
            if rest and (number < len(parts) - 1 or not data):
                lines.append((began_s, rest))
                rest = ""
        if not data:
            return lines


if __name__ == "__main__":
    sys.exit(run_verb(main, sys.argv[1:]))
