"""python -m benchmarks.experiments.hackathon_training TRAIN.tsv VAL.tsv: the hackathon's training, in TensorFlow 2.

This project grew from it.

The hackathon's script was written for TensorFlow 1.13 (github.com/imartinezl/picnic-hackathon-2019). Kept from its last
version: photos through tf.data, one at a time (tf.image, 192 x 192, 0..1, then -1..1), shuffled once (as its split
did), in batches of 32, prefetched; a frozen ImageNet base, global average pooling, one dense softmax layer; Keras' Adam
as it comes, sparse categorical cross-entropy; 15 epochs at most, ended after the first one whose validation loss is not
the lowest so far, like Keras' EarlyStopping there (TensorFlow 2.6's always ends after the first epoch: not used).

Changed: TensorFlow 2's names of the same calls; the base is InceptionV3, which its README names (the public
versions try MobileNetV2 and Xception; which one made the submission is not known); the split is given, where it drew
20 % at random; macro-F1, by which the hackathon was decided, is computed after each epoch. Its submission was predicted
on pixels of 0..1 and scored 0.590; here validation photos are scaled as in training.
"""

import argparse
import json
import os
import sys
import time

import numpy as np

from edge_runtime.cli.options import positive
from edge_runtime.cli.run import run_verb
from edge_runtime.errors import UsageError
from edge_runtime.machine.libraries import require
from edge_runtime.sources import table, table_reader

SIDE = 192
BATCH = 32
EPOCHS = 15


def main(argv=None):
    """Trains. Prints a JSON line per epoch: epoch, val_loss, val_accuracy, val_macro_f1, and extra_s.

    extra_s: seconds spent so far on predicting for macro-F1, which the original script did not do.
    """
    this = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.hackathon_training", description=__doc__.split("\n")[0]
    )
    this.add_argument("train", metavar="TRAIN.tsv")
    this.add_argument("val", metavar="VAL.tsv")
    this.add_argument("--images", metavar="DIR", required=True, help="where TRAIN.tsv's file names start")
    this.add_argument("--val-images", metavar="DIR", help="where VAL.tsv's start (default: --images)")
    this.add_argument("--weights", metavar="W", required=True, help="imagenet (downloaded), none, or an .h5 file")
    this.add_argument("--epochs", type=positive, default=EPOCHS, metavar="N", help=f"at most (default {EPOCHS})")
    options = this.parse_args(argv)
    paths, labels = read_table(options.train, options.images)
    names = list(dict.fromkeys(labels))  # in the order of the table, as pandas' unique gave them
    order = np.random.RandomState(0).permutation(len(paths))
    paths, labels = ([some[place] for place in order] for some in (paths, labels))
    val_paths, val_labels = read_table(options.val, options.val_images or options.images)
    if not names or not set(val_labels) or set(val_labels) - set(names):
        raise UsageError(f"{options.val}: has no photos, or labels that {options.train} lacks")

    keras = require("tensorflow").keras
    weights = None if options.weights == "none" else options.weights
    try:
        base = keras.applications.InceptionV3(include_top=False, weights=weights, input_shape=(SIDE, SIDE, 3))
    except Exception as error:  # Keras and h5py raise OSError, ValueError, KeyError, a bare Exception, ...
        raise UsageError(f"--weights {weights}: InceptionV3's weights without top cannot be loaded ({error})")
    base.trainable = False
    layers = [base, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(len(names), activation="softmax")]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(), "sparse_categorical_crossentropy", metrics=["accuracy"])
    truth, val_truth = ([names.index(label) for label in some] for some in (labels, val_labels))
    extra_s, lowest_loss = [0.0], [float("inf")]

    def show(epoch, logs):
        started = time.perf_counter()
        predicted = model.predict(dataset(val_paths, val_truth), steps=steps(val_paths), verbose=0).argmax(axis=1)
        scored = predicted[: len(val_truth)]  # the dataset starts again to fill its last batch
        macro_f1 = require("sklearn.metrics").f1_score(val_truth, scored, average="macro", zero_division=0)
        extra_s[0] += time.perf_counter() - started
        figures = {name: float(logs[name]) for name in ("val_loss", "val_accuracy")}
        model.stop_training = not figures["val_loss"] < lowest_loss[0]
        lowest_loss[0] = figures["val_loss"]
        print(json.dumps(dict(figures, epoch=epoch + 1, val_macro_f1=macro_f1, extra_s=extra_s[0])), flush=True)

    model.fit(
        dataset(paths, truth),
        epochs=options.epochs,
        steps_per_epoch=steps(paths),
        validation_data=dataset(val_paths, val_truth),
        validation_steps=steps(val_paths),
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=show)],
        verbose=0,
    )


def read_table(path, folder):
    """Returns (paths, labels) of the usable rows of a table. The photos are not opened."""
    rows = [row for row in table_reader.read_rows(path, need_label=True) if not row.problem]
    return [table.path_of(row.file, folder) for row in rows], [row.label for row in rows]


def steps(paths):
    """Returns the number of batches that hold all photos."""
    return -(-len(paths) // BATCH)


def dataset(paths, truth):
    """Returns the script's endless tf.data.Dataset: (float32 [32, 192, 192, 3] in -1..1, int [32])."""
    tensorflow = require("tensorflow")

    def load(path, label):
        data = tensorflow.io.read_file(path)
        pixels = tensorflow.cond(
            tensorflow.image.is_jpeg(data),
            lambda: tensorflow.image.decode_jpeg(data, channels=3),
            lambda: tensorflow.image.decode_png(data, channels=3),
        )
        return tensorflow.image.resize(pixels, [SIDE, SIDE]) / 255.0, label

    photos = tensorflow.data.Dataset.from_tensor_slices(([os.fsencode(path) for path in paths], truth))
    photos = photos.map(load).repeat().batch(BATCH).prefetch(tensorflow.data.experimental.AUTOTUNE)
    return photos.map(lambda pixels, label: (2 * pixels - 1, label))


if __name__ == "__main__":
    sys.exit(run_verb(main, sys.argv[1:]))
