"""Trained model -> bundle: frozen SavedModel, ONNX, sample photos, manifest; proven equal before it is published."""

import collections
import contextlib
import gc
import itertools
import logging
import os
import threading

import cv2
import numpy as np

from edge_runtime import files
from edge_runtime.bundle.manifest import INPUT_NAME, OUTPUT_NAME
from edge_runtime.bundle.reading import Sample
from edge_runtime.bundle.writing import check_target, write_manifest
from edge_runtime.console import progress, say
from edge_runtime.engines.modules import create_engine
from edge_runtime.engines.record import EngineInfo
from edge_runtime.errors import ImageError, ParityError, UsageError
from edge_runtime.machine import cpu
from edge_runtime.machine.libraries import require
from edge_runtime.photos import read, spec
from edge_runtime.pipeline import classify_items
from edge_runtime.text import printable
from train.model.network import scale

OPSET = 13  # the newest that TensorRT 8.2 on the Jetson TX2 reads
MAX_DIFFERENCE = 1e-5  # of a probability, between the Keras model and an exported file, in fp32
# Random features vary little about a large mean, so that rounding weighs more: with them TensorFlow differs from itself
# by up to 1e-5 between batch sizes.
MAX_DIFFERENCE_RANDOM = 1e-4
SAMPLE_PHOTOS = 128
_CHECK_BATCH = 8


def export_bundle(out, base, head, class_names, photos, probabilities, metrics, training, max_difference, sample=None):
    """Writes a bundle, whole or not at all.

    Args:
        out: folder to publish the bundle under; an older bundle there is replaced in one step.
        base, head: Keras models as train.model.network builds them.
        class_names: in the order of the head's outputs.
        photos: train.data.labels.Photo list that the exported files are compared on.
        probabilities: float32 [len(photos), classes], the Keras model's own answers.
        metrics, training: plain dicts for the manifest; the agreement found here is added to metrics.
        max_difference: of a probability, between the Keras model and an exported file.
        sample: edge_runtime.bundle.reading.Sample to keep in the bundle; None for the first SAMPLE_PHOTOS of photos.

    Returns:
        the agreement: {file: {"max_abs_difference", "top1_equal", "photos"}}.

    Raises:
        ParityError: an exported file answers differently; nothing is published.
        UsageError: something else lies under this name by now, or the disk is full; nothing is published.
    """
    check_target(out)  # it was when the training began
    say("exporting the bundle")
    with _telling_of_a_full_disk(out), files.atomic_folder(out) as folder:
        files.remove_abandoned(os.path.dirname(os.path.realpath(out)))
        graph = _freeze(base, head)
        _save_model(graph, os.path.join(folder, "saved_model"))
        _save_onnx(graph, os.path.join(folder, "model.onnx"))
        if sample is None:
            sample = take_sample(photos[:SAMPLE_PHOTOS], probabilities[:SAMPLE_PHOTOS], read.read_image)
        _save_sample(os.path.join(folder, "sample"), sample)
        agreement = {
            name: _compare(kind, os.path.join(folder, name), photos, probabilities, max_difference)
            for kind, name in (("tensorflow", "saved_model"), ("onnxruntime", "model.onnx"))
        }
        write_manifest(folder, class_names, dict(metrics, agreement=agreement), training)
    return agreement


@contextlib.contextmanager
def _telling_of_a_full_disk(out):
    """Asks after a failure whether the disk is full: that has as many names as there are libraries that write."""
    try:
        yield
    except Exception:
        check_target(out)
        raise


def _freeze(base, head):
    """Returns the whole network, from uint8 pixels to probabilities, as a ConcreteFunction without variables.

    A SavedModel with variables from a current TensorFlow does not load in the board's (unknown op DisableCopyOnRead);
    one whose variables were folded to constants does.
    """
    tensorflow = require("tensorflow")
    constants = require("tensorflow.python.framework.convert_to_constants")
    classify = tensorflow.function(
        lambda pixels: head(base(scale(pixels), training=False), training=False),
        input_signature=[_input_spec()],
        autograph=False,
    )
    return constants.convert_variables_to_constants_v2(classify.get_concrete_function())


def _input_spec():
    tensorflow = require("tensorflow")
    return tensorflow.TensorSpec([None] + spec.INPUT_SPEC["shape"], tensorflow.uint8, name=INPUT_NAME)


def _save_model(graph, folder):
    tensorflow = require("tensorflow")
    module = tensorflow.Module()
    module.classify = tensorflow.function(
        lambda pixels: {OUTPUT_NAME: graph(pixels)[0]}, input_signature=[_input_spec()], autograph=False
    )
    tensorflow.saved_model.save(module, folder, signatures={"serving_default": module.classify})


def _save_onnx(graph, path):
    """tf2onnx folds the batch norms into the convolutions and leaves one transpose, at the input."""
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    tf2onnx = require("tf2onnx")
    (source,), (target,) = graph.inputs, graph.outputs
    with _collecting_garbage():
        model, _ = tf2onnx.convert.from_graph_def(
            graph.graph.as_graph_def(), input_names=[source.name], output_names=[target.name], opset=OPSET
        )
    renamed = {source.name: INPUT_NAME, target.name: OUTPUT_NAME}
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in list(model.graph.input) + list(model.graph.output):
        value.name = renamed[value.name]
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    with open(path, "wb") as file:
        file.write(model.SerializeToString())


@contextlib.contextmanager
def _collecting_garbage():
    """Collects garbage every half second within the block.

    Each pass of tf2onnx leaves a copy of the graph, weights and all, that refers to itself in circles. Python looks for
    such garbage too rarely for copies of 90 MB: memory would rise from 1.6 to 7.3 GiB (with this, to 3.2). What was
    there before, half a million objects, is not looked through each time: that took longer than tf2onnx itself.
    """
    done = threading.Event()

    def collect():
        while not done.wait(0.5):
            gc.collect()

    thread = threading.Thread(target=collect, daemon=True)
    if hasattr(gc, "freeze"):  # not in Python 3.6
        gc.freeze()
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if hasattr(gc, "freeze"):
            gc.unfreeze()


def take_sample(photos, probabilities, load):
    """Returns the bundle.Sample of photos as load (path -> uint8 [299, 299, 3]) shows them to the network."""
    pictures = np.stack([_load(photo.path, load) for photo in photos])
    names, labels = [printable(photo.file) for photo in photos], [photo.label for photo in photos]
    return Sample(names, pictures, labels, probabilities)


def _load(path, load):
    try:
        return load(path)
    except ImageError as error:
        raise UsageError(f"{path}: {error}; it could be read before: put it back")


def _save_sample(folder, sample):
    """Keeps photos as the network sees them (PNG: bit by bit) with the model's answers, for the converter."""
    os.makedirs(folder)
    for number, rgb in enumerate(sample.images):
        path = os.path.join(folder, f"{number:03d}.png")
        if not cv2.imwrite(path, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)):
            raise OSError(f"{path}: cannot be written")
    listed = [{"file": name, "label": label} for name, label in zip(sample.names, sample.labels)]
    files.write_json(os.path.join(folder, "sample.json"), listed)
    np.save(os.path.join(folder, "probabilities.npy"), sample.probabilities, allow_pickle=False)


def class_turns(photos):
    """Returns the indices of all photos, taken from the classes in turn: any first part has all classes alike."""
    by_label = collections.defaultdict(list)
    for index, photo in enumerate(photos):
        by_label[photo.label].append(index)
    turns = itertools.zip_longest(*(by_label[label] for label in sorted(by_label)))
    return [index for turn in turns for index in turn if index is not None]


def _compare(kind, path, photos, expected, max_difference):
    """Runs an exported file over photos and compares its answers with the Keras model's."""
    info = EngineInfo(kind, kind, "fp32", path, None)
    answers = []
    with create_engine(info, expected.shape[1], _CHECK_BATCH, None).open() as engine:
        paths = (photo.path for photo in progress(photos, what="check " + os.path.basename(path)))
        for answer in classify_items.classify_items(paths, read.read_image, engine, _CHECK_BATCH, cpu.core_count()):
            if answer.error:
                raise ParityError(f"export: {os.path.basename(path)}: {answer.item}: {answer.error}")
            answers.append(answer.probabilities)
    found = np.array(answers)
    difference = float(np.abs(found - expected).max())
    same = int((found.argmax(axis=1) == expected.argmax(axis=1)).sum())
    if not difference <= max_difference:  # within it, only labels that are as good as equal can differ
        raise ParityError(
            "export: %s differs from the trained model by up to %.2g (at most %.0e is allowed), same label for %d of "
            "%d photos; nothing was written" % (os.path.basename(path), difference, max_difference, same, len(photos))
        )
    return {"max_abs_difference": difference, "top1_equal": same, "photos": len(photos)}
