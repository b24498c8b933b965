"""picnic-edge train"""

import argparse
import os
import sys
import time

import numpy as np

from edge_runtime import bundle, machine
from edge_runtime.cli import positive, share
from edge_runtime.command import say
from edge_runtime.errors import UsageError
from train import data, metrics

VERSIONS = (
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "tf2onnx",
    "onnx",
    "onnxruntime",
    "numpy",
    "opencv-python-headless",
)


def parser():
    """Returns the argument parser of `picnic-edge train`."""
    this = argparse.ArgumentParser(
        prog="picnic-edge train",
        description="Train InceptionV3 on labelled photos by transfer learning and write a bundle.",
        epilog="example: picnic-edge train train.tsv --images photos/ --out bundle",
    )
    this.add_argument(
        "labels", metavar="TSV", help="table with the columns file and label, or a folder of class folders"
    )
    this.add_argument("--images", metavar="DIR", help="where the TSV's file names start (default: the TSV's folder)")
    this.add_argument("--out", metavar="BUNDLE", required=True, help="the folder to write; an older bundle is replaced")
    held_out = this.add_mutually_exclusive_group()
    held_out.add_argument("--val", metavar="TSV", help="validation photos: a table or a folder of class folders")
    held_out.add_argument(
        "--val-split",
        metavar="P",
        type=share,
        default=0.2,
        help="else this share of each class, chosen by --seed (0.2)",
    )
    this.add_argument("--val-images", metavar="DIR", help="where --val's file names start (default: --images)")
    this.add_argument(
        "--weights",
        default="imagenet",
        metavar="W",
        help="imagenet (downloaded), none, or an .h5 file (default imagenet)",
    )
    this.add_argument("--epochs", type=positive, default=100, metavar="N", help="at most; stops early (default 100)")
    this.add_argument(
        "--fine-tune",
        type=int,
        choices=range(12),
        default=0,
        metavar="BLOCKS",
        help="then train the last BLOCKS (1..11) of InceptionV3 on augmented photos (default 0: the head only)",
    )
    this.add_argument(
        "--fine-tune-epochs", type=positive, default=10, metavar="N", help="epochs of --fine-tune (default 10)"
    )
    this.add_argument(
        "--gpu-memory-fraction",
        type=share,
        metavar="F",
        help="at most this share of the GPU's memory (default: grow)",
    )
    this.add_argument("--seed", type=int, default=0, metavar="N", help="for the split and the training (default 0)")
    this.add_argument("--strict", action="store_true", help="stop if any labelled photo cannot be used")
    return this


def main(argv=None):
    """Trains and writes a bundle. Raises PicnicError as the exit codes say."""
    arguments = sys.argv[1:] if argv is None else argv
    options = parser().parse_args(arguments)
    bundle.publishable(options.out)
    if options.weights not in ("imagenet", "none") and not os.path.isfile(options.weights):
        raise UsageError("--weights %s: no such file; expected imagenet, none or an .h5 file" % options.weights)
    started = time.perf_counter()
    training, validation = read_photos(options)

    from train import export, finetune, model

    model.load_tensorflow()

    class_names = sorted({photo.label for photo in training})
    say("training: %d photos, %d classes; validation: %d photos" % (len(training), len(class_names), len(validation)))
    model.limit_gpu_memory(options.gpu_memory_fraction)
    model.set_seed(options.seed)
    base, weights_id = model.build_base(options.weights, [photo.path for photo in training])
    say("InceptionV3 with %s weights, frozen" % weights_id)
    features = model.compute_features(base, [photo.path for photo in training])
    val_features = model.compute_features(base, [photo.path for photo in validation])
    index = {name: position for position, name in enumerate(class_names)}
    head, history = model.train_head(
        features,
        np.array([index[photo.label] for photo in training]),
        val_features,
        np.array([index[photo.label] for photo in validation]),
        len(class_names),
        options.epochs,
    )
    if options.fine_tune:
        history["fine_tune"] = finetune.fine_tune(
            base, head, training, validation, class_names, options.fine_tune, options.fine_tune_epochs, options.seed
        )
        val_features = model.compute_features(base, [photo.path for photo in validation])
    probabilities = head.predict(val_features, verbose=0)
    predicted = [class_names[best] for best in probabilities.argmax(axis=1)]
    accuracy, macro_f1, table = metrics.score([photo.label for photo in validation], predicted, class_names)
    figures = {
        "val_accuracy": accuracy,
        "val_macro_f1": macro_f1,
        "val_photos": len(validation),
        "history": history,
        "per_class": [row._asdict() for row in table],
    }
    record = {
        "command": ["picnic-edge", "train"] + [data.ascii_name(argument) for argument in arguments],
        "seed": options.seed,
        "weights": weights_id,
        "photos": len(training),
        "versions": {name: machine.library_version(name) for name in VERSIONS},
        "machine": machine.describe(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    # The exported files are compared on the validation photos; where those are few, training photos join them.
    order = export.in_turn(validation)
    more = export.in_turn(training)[: max(0, export.SAMPLE_PHOTOS - len(validation))]
    shown = [validation[index] for index in order] + [training[index] for index in more]
    if options.fine_tune:
        features[more] = model.compute_features(base, [training[index].path for index in more])
    answers = np.concatenate([probabilities[order], head(features[more], training=False).numpy()])
    limit = export.MAX_DIFFERENCE_RANDOM if options.weights == "none" else export.MAX_DIFFERENCE
    agreement = export.export_bundle(options.out, base, head, class_names, shown, answers, figures, record, limit)
    print(metrics.format_table(table))
    print("validation: accuracy %.4f, macro-F1 %.4f on %d photos" % (accuracy, macro_f1, len(validation)))
    for name, found in sorted(agreement.items()):
        print(
            "%s agrees with the trained model: largest difference of a probability %.1e, same label for %d of %d photos"
            % (name, found["max_abs_difference"], found["top1_equal"], found["photos"])
        )
    print("bundle: %s (%.0f s)" % (options.out, time.perf_counter() - started))


def read_photos(options):
    """Reads, checks and splits the labelled photos of the options. Returns (training, validation) lists of Photo."""
    photos, problems = data.read_labels(options.labels, options.images)
    photos, unreadable = data.check_photos(photos)
    problems += unreadable
    if options.val:
        val_images = options.val_images if options.val_images is not None else options.images
        validation, val_problems = data.read_labels(options.val, val_images)
        validation, val_unreadable = data.check_photos(validation)
        photos, shared = data.drop_shared(photos, validation)
        if len(shared) * 2 > len(validation):
            say("more than half of the validation photos are training photos: is --val-images missing?")
        photos, small = data.drop_small_classes(photos)
        validation, unknown = data.drop_unknown_labels(validation, {photo.label for photo in photos})
        problems += val_problems + val_unreadable + shared + small + unknown
    else:
        photos, small = data.drop_small_classes(photos)
        problems += small
        photos, validation = data.split(photos, options.val_split, options.seed)
    data.report_problems(problems, os.path.normpath(options.out) + ".problems.tsv", options.strict)
    if len({photo.label for photo in photos}) < 2 or not validation:
        raise UsageError(
            "%s: %d usable photos of %d classes for training and %d for validation; at least 2 classes with 2 photos "
            "each are needed" % (options.labels, len(photos), len({photo.label for photo in photos}), len(validation))
        )
    return photos, validation
