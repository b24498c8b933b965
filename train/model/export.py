"""Trained model -> bundle: frozen SavedModel, ONNX, sample photos, manifest; both files are compared with the model."""

import collections
import contextlib
import functools
import itertools
import os

import cv2
import numpy as np

from edge_runtime import files
from edge_runtime.bundle.manifest import INPUT_NAME, OUTPUT_NAME
from edge_runtime.bundle.reading import Sample
from edge_runtime.bundle.writing import check_target, write_manifest
from edge_runtime.console import progress, say
from edge_runtime.engines.kinds import create_engine
from edge_runtime.engines.record import EngineInfo
from edge_runtime.errors import ImageError, ParityError, UsageError
from edge_runtime.machine.libraries import require
from edge_runtime.photos import read, spec
from edge_runtime.pipeline.classify_items import classify_items
from edge_runtime.text import printable
from train.model.network import scale
from train.model.to_onnx import to_onnx

MAX_DIFFERENCE = 1e-5  # of a probability, between the Keras model and an exported file, in fp32
# Random features vary little about a large mean, so that rounding matters more: with them TensorFlow's results differ
# by up to 1e-5 between batch sizes.
MAX_DIFFERENCE_RANDOM = 1e-4
SAMPLE_PHOTOS = 128
_CHECK_BATCH = 8


def export_bundle(out, network, class_names, photos, probabilities, metrics, training, max_difference, sample=None):
    """Writes a bundle atomically.

    Args:
        out: folder to publish the bundle under; an older bundle there is replaced in one step.
        network: train.model.network.Network.
        class_names: in the order of the head's outputs.
        photos: list of train.data.labels.Photo that the exported files are compared on.
        probabilities: float32 [len(photos), classes], the Keras model's.
        metrics, training: plain dicts for the manifest; the agreement is added to metrics.
        max_difference: of a probability, between the Keras model and an exported file.
        sample: edge_runtime.bundle.reading.Sample to keep in the bundle; None for the first SAMPLE_PHOTOS of photos.

    Returns:
        the agreement: {file: {"max_abs_difference", "top1_equal", "photos"}}.

    Raises:
        ParityError: an exported file gives other probabilities; nothing is published.
        UsageError: there is something else at out by now, or the disk is full; nothing is published.
    """
    check_target(out)  # again: hours may have passed since the training began
    say("exporting the bundle")
    with _check_target_on_failure(out), files.atomic_folder(out) as folder:
        files.remove_abandoned(os.path.dirname(os.path.realpath(out)))
        graph = _freeze(network)
        _save_model(graph, os.path.join(folder, "saved_model"), network.input_spec)
        _save_onnx(graph, os.path.join(folder, "model.onnx"))
        if sample is None:
            sample = take_sample(photos[:SAMPLE_PHOTOS], probabilities[:SAMPLE_PHOTOS], _reader(network.input_spec))
        save_sample(os.path.join(folder, "sample"), sample)
        agreement = {
            name: _compare(kind, os.path.join(folder, name), network.input_spec, photos, probabilities, max_difference)
            for kind, name in (("tensorflow", "saved_model"), ("onnxruntime", "model.onnx"))
        }
        input_spec = spec.to_manifest(network.input_spec)
        write_manifest(folder, class_names, input_spec, dict(metrics, agreement=agreement), training)
    return agreement


@contextlib.contextmanager
def _check_target_on_failure(out):
    """Raises UsageError if the block fails and the disk is full: each library has its own error for that."""
    try:
        yield
    except Exception:
        check_target(out)
        raise


def _freeze(network):
    """Returns the whole network, from uint8 pixels to probabilities, as a ConcreteFunction without variables.

    A SavedModel with variables from a current TensorFlow does not load in the board's (unknown op DisableCopyOnRead);
    one whose variables were folded to constants does.
    """
    tensorflow = require("tensorflow")
    constants = require("tensorflow.python.framework.convert_to_constants")
    base, head = network.base, network.head
    classify = tensorflow.function(
        lambda pixels: head(base(scale(pixels), training=False), training=False),
        input_signature=[_tensor_spec(network.input_spec)],
        autograph=False,
    )
    return constants.convert_variables_to_constants_v2(classify.get_concrete_function())


def _tensor_spec(input_spec):
    tensorflow = require("tensorflow")
    return tensorflow.TensorSpec((None,) + input_spec.shape, tensorflow.uint8, name=INPUT_NAME)


def _save_model(graph, folder, input_spec):
    tensorflow = require("tensorflow")
    module = tensorflow.Module()
    module.classify = tensorflow.function(
        lambda pixels: {OUTPUT_NAME: graph(pixels)[0]}, input_signature=[_tensor_spec(input_spec)], autograph=False
    )
    tensorflow.saved_model.save(module, folder, signatures={"serving_default": module.classify})


def _save_onnx(graph, path):
    (source,), (target,) = graph.inputs, graph.outputs
    model = to_onnx(graph.graph.as_graph_def(), source.name, target.name)
    renamed = {source.name: INPUT_NAME, target.name: OUTPUT_NAME}
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in list(model.graph.input) + list(model.graph.output):
        value.name = renamed[value.name]
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    with open(path, "wb") as file:
        file.write(model.SerializeToString())


def _reader(input_spec):
    return functools.partial(read.read_image, input_spec=input_spec)


def take_sample(photos, probabilities, load):
    """Returns the Sample of photos.

    Args:
        photos: list of train.data.labels.Photo.
        probabilities: float32 [len(photos), classes], the network's.
        load: path -> uint8 [height, width, 3], the photo as the network sees it.

    Raises:
        UsageError: a photo cannot be read any more.
    """
    pictures = np.stack([_picture(photo.path, load) for photo in photos])
    names, labels = [printable(photo.file) for photo in photos], [photo.label for photo in photos]
    return Sample(names, pictures, labels, probabilities)


def _picture(path, load):
    try:
        return load(path)
    except ImageError as error:
        raise UsageError(f"{path}: {error}; it could be read before: put it back")


def save_sample(folder, sample):
    """Writes photos as the network sees them (PNG: lossless) and the model's probabilities, for the converter."""
    os.makedirs(folder)
    for number, rgb in enumerate(sample.images):
        path = os.path.join(folder, f"{number:03d}.png")
        if not cv2.imwrite(path, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)):
            raise OSError(f"{path}: cannot be written")
    entries = [{"file": name, "label": label} for name, label in zip(sample.names, sample.labels)]
    files.write_json(os.path.join(folder, "sample.json"), entries)
    np.save(os.path.join(folder, "probabilities.npy"), sample.probabilities, allow_pickle=False)


def class_turns(photos):
    """Returns the indices of all photos, from the classes in turn: any first part has equally many of each class."""
    by_label = collections.defaultdict(list)
    for index, photo in enumerate(photos):
        by_label[photo.label].append(index)
    turns = itertools.zip_longest(*(by_label[label] for label in sorted(by_label)))
    return [index for turn in turns for index in turn if index is not None]


def _compare(kind, path, input_spec, photos, expected, max_difference):
    """Classifies photos with an exported file and compares the probabilities with the Keras model's.

    Args:
        kind: the engine's kind.
        path: the exported file or folder.
        input_spec: edge_runtime.photos.spec.InputSpec of the network.
        photos: list of train.data.labels.Photo.
        expected: float32 [len(photos), classes], the Keras model's probabilities.
        max_difference: of a probability.

    Returns:
        {"max_abs_difference", "top1_equal", "photos"}.

    Raises:
        ParityError: a probability differs by more.
    """
    info = EngineInfo(kind, kind, "fp32", path, None)
    rows = []
    with create_engine(info, input_spec.shape, expected.shape[1], _CHECK_BATCH, None).open() as engine:
        paths = (photo.path for photo in progress(photos, what="check " + os.path.basename(path)))
        read_photo = _reader(input_spec)
        for answer in classify_items(paths, read_photo, input_spec, engine, _CHECK_BATCH):
            if answer.error:
                raise ParityError(f"export: {os.path.basename(path)}: {answer.item}: {answer.error}")
            rows.append(answer.probabilities)
    probabilities = np.array(rows)
    difference = float(np.abs(probabilities - expected).max())
    same = int((probabilities.argmax(axis=1) == expected.argmax(axis=1)).sum())
    if not difference <= max_difference:  # also for NaN; within it, only labels of nearly equal probability can differ
        raise ParityError(
            f"export: {os.path.basename(path)} differs from the trained model by up to {difference:.2g} (at most "
            f"{max_difference:.0e} is allowed), same label for {same} of {len(photos)} photos; nothing was written"
        )
    return {"max_abs_difference": difference, "top1_equal": same, "photos": len(photos)}
