"""Is the preprocessing of a model recovered from photos? python -m train.experiments.disguises BUNDLE --check TSV

A trained bundle's own network is wrapped in 24 ways, as other libraries would have saved it: layout, order of the
channels, scale, how photos are resized, logits or probabilities, a class for the background. For each, the finder of
`picnic-edge import` gets the labelled photos and nothing else: no file says how they were prepared.

No wrap can make a network that was trained on squashed photos expect cut ones. So the true class of a photo is what the
network itself answers to the expected picture (--labels own). With --labels true the classes are the photos' own, and
the network expects what it was trained on, in all 24; then a network tolerates some differences, and the table says
which ones the photos cannot show. Square photos are cut to 4:3 and 3:4 in turn: squashed, cut and with bars they would
be the same picture.
"""

import argparse
import hashlib
import os
import sys
import tempfile
import typing

import cv2
import numpy as np

from edge_runtime import console
from edge_runtime.bundle.manifest import INPUT_NAME, OUTPUT_NAME
from edge_runtime.bundle.reading import Bundle
from edge_runtime.cli.run import run_verb
from edge_runtime.console import progress, say
from edge_runtime.engines.onnxruntime import session
from edge_runtime.errors import ImageError, UsageError
from edge_runtime.machine import cpu
from edge_runtime.machine.libraries import require
from edge_runtime.photos import read
from train.data.labels import read_labels
from train.importing import find, graph, preprocessing, proof
from train.importing.original import Declared, Original
from train.importing.preprocessing import SCALES, Preprocessing, input_spec, scale_name

WAYS = 24
_RESIZES = (("squash", None), ("crop", 0.875), ("crop", 1.0), ("letterbox", None))


class Way(typing.NamedTuple):
    """One disguise: what a model's user would have to know."""

    layout: str  # "NCHW" or "NHWC"
    preprocessing: Preprocessing
    kind: str  # "logits" or "probabilities"
    background: bool  # the first output is a class of its own, for what is no product


def ways(size):
    """Returns WAYS Ways: each scale with each resize, and all else in turns.

    Args:
        size: edge_runtime.photos.spec.InputSpec with the network's height and width.
    """
    declared = Declared(height=size.height, width=size.width)
    result = []
    for number in range(WAYS):
        order, mean, std = list(SCALES.values())[number % len(SCALES)]
        channels = ("RGB", "BGR")[number // 4 % 2]
        step = 1 if channels == order else -1
        spec = input_spec(declared, *_RESIZES[number % len(_RESIZES)])
        one = Preprocessing(spec, channels, mean[::step], std[::step])
        kind = ("logits", "probabilities")[number // 3 % 2]
        result.append(Way(("NCHW", "NHWC")[number // 2 % 2], one, kind, number % 3 == 0))
    return result


def wrapped(model, way):
    """Returns an onnx.ModelProto that takes and answers what a Way says, and computes what a bundle's model does.

    Args:
        model: onnx.ModelProto of a bundle.
        way: Way.
    """
    onnx = require("onnx")
    changed, helper = onnx.ModelProto(), onnx.helper
    changed.CopyFrom(model)
    graph = changed.graph
    numbers = {"wrap_std": way.preprocessing.std, "wrap_mean": way.preprocessing.mean}
    for name, values in numbers.items():
        graph.initializer.append(require("onnx.numpy_helper").from_array(np.array(values, np.float32), name))
    before, value = [], "pixels_in"
    steps: typing.List[tuple] = [("Mul", ["wrap_std"], {}), ("Add", ["wrap_mean"], {})]
    if way.layout == "NCHW":
        steps.insert(0, ("Transpose", [], {"perm": [0, 2, 3, 1]}))
    if way.preprocessing.channels == "BGR":
        graph.initializer.append(require("onnx.numpy_helper").from_array(np.array([2, 1, 0], np.int64), "wrap_order"))
        steps.append(("Gather", ["wrap_order"], {"axis": 3}))
    for number, (operator, others, attributes) in enumerate(steps):
        before.append(helper.make_node(operator, [value] + others, [f"wrap_{number}"], **attributes))
        value = f"wrap_{number}"
    for node in graph.node:
        node.input[:] = [value if name == INPUT_NAME else name for name in node.input]
    after, answer = [], _answer(graph, way.kind)
    if way.background:
        after, answer = _with_background(onnx, graph, answer, way.kind)
    nodes = before + list(graph.node) + after
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    height, width, _ = way.preprocessing.input_spec.shape
    shape = [3, height, width] if way.layout == "NCHW" else [height, width, 3]
    classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value + way.background
    graph.input.append(helper.make_tensor_value_info("pixels_in", onnx.TensorProto.FLOAT, ["batch"] + shape))
    graph.output.append(helper.make_tensor_value_info(answer, onnx.TensorProto.FLOAT, ["batch", classes]))
    return changed


def _answer(graph, kind):
    """Returns the name of the logits or the probabilities in a bundle's graph; removes the softmax for the logits."""
    last = next(node for node in graph.node if OUTPUT_NAME in node.output)
    if last.op_type != "Softmax":
        raise UsageError(f"the bundle's graph ends with {last.op_type}, not with a softmax")
    if kind == "probabilities":
        return OUTPUT_NAME
    graph.node.remove(last)
    return last.input[0]


def _with_background(onnx, graph, answer, kind):
    """Returns (nodes that put a class in front, the name of the answers with it): the least likely one, or 1 %."""
    make = onnx.helper.make_node
    if kind == "logits":
        least = make("ReduceMin", [answer], ["wrap_least"], axes=[1], keepdims=1)
        return [least, make("Concat", ["wrap_least", answer], ["wrap_answers"], axis=1)], "wrap_answers"
    for name, value in (("wrap_share", 0.99), ("wrap_rest", 0.01)):
        graph.initializer.append(require("onnx.numpy_helper").from_array(np.float32(value), name))
    nodes = [
        make("Mul", [answer, "wrap_share"], ["wrap_shared"]),
        make("ReduceSum", [answer], ["wrap_sum"], keepdims=1),
        make("Mul", ["wrap_sum", "wrap_rest"], ["wrap_first"]),
        make("Concat", ["wrap_first", "wrap_shared"], ["wrap_answers"], axis=1),
    ]
    graph.initializer.append(require("onnx.numpy_helper").from_array(np.array([1], np.int64), "wrap_axis"))
    nodes[1].input.append("wrap_axis")
    return nodes, "wrap_answers"


class Network:
    """A bundle's network, run once on each distinct picture: disguises of it see the same pictures again and again.

    Args:
        bundle: an open Bundle whose model casts its input and ends with a softmax.
        precision: "fp32" by ONNX Runtime, or "bf16" by OpenVINO.
    """

    def __init__(self, bundle, precision):
        onnx = require("onnx")
        self.model = onnx.load_model_from_string(bundle.read("model.onnx"))
        plain = Way("NHWC", Preprocessing(bundle.input_spec, "RGB", (0.0,) * 3, (1.0,) * 3), "logits", False)
        model = wrapped(self.model, plain).SerializeToString()
        self.session = session(model, cpu.core_count(), True)
        self._run = self._run_exactly if precision == "fp32" else _run_by_openvino(model)
        self._answers: typing.Dict[bytes, np.ndarray] = {}

    def logits(self, pixels):
        """Returns float32 [n, classes] for pixels, float [n, height, width, 3], RGB, 0 to 255 where they are right."""
        keys = [hashlib.sha256(np.round(one, 1).astype(np.float32).tobytes()).digest() for one in pixels]
        new = [place for place, key in enumerate(keys) if key not in self._answers]
        if new:
            rows = self._run(pixels[new].astype(np.float32))
            self._answers.update((keys[place], row) for place, row in zip(new, rows))
        return np.stack([self._answers[key] for key in keys])

    def _run_exactly(self, pixels):
        return self.session.run(None, {"pixels_in": pixels})[0]

    def disguised(self, way, class_names):
        """Returns the Original of a Way, run by a shorter way: the network's answers to the pixels that it undoes."""

        def run(values):
            return _answers_of(self.logits(undone(values, way)), way)

        height, width, _ = way.preprocessing.input_spec.shape
        return Original(
            path="disguise.onnx",
            kind="ONNX model",
            model=wrapped(self.model, way),
            layout=way.layout,
            dtype="float32",
            height=height,
            width=width,
            outputs=len(class_names) + way.background,
            class_names=class_names,
            declared=Declared(),
            run=run,
        )


def undone(values, way):
    """Returns the pixels, float [n, height, width, 3], RGB, of which a Way made an input."""
    pixels = values.transpose(0, 2, 3, 1) if way.layout == "NCHW" else values
    pixels = pixels * np.array(way.preprocessing.std) + np.array(way.preprocessing.mean)
    return pixels if way.preprocessing.channels == "RGB" else pixels[..., ::-1]


def _run_by_openvino(model):
    """Returns a function from float32 pixels to float32 logits, computed in bf16 in batches of one size."""
    core = require("openvino").Core()
    settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": cpu.core_count()}
    compiled = core.compile_model(core.read_model(model), "CPU", settings)

    def run(pixels):
        full = pixels[np.arange(-(-len(pixels) // proof.BATCH) * proof.BATCH) % len(pixels)]
        parts = [compiled(full[start : start + proof.BATCH])[0] for start in range(0, len(full), proof.BATCH)]
        return np.concatenate(parts)[: len(pixels)]

    return run


def _answers_of(logits, way):
    """Returns what the wrapped graph answers, from the network's logits."""
    if way.kind == "logits":
        return np.hstack([logits.min(axis=1, keepdims=True), logits]) if way.background else logits
    probabilities = proof.as_probabilities(logits, "logits", False)
    if not way.background:
        return probabilities
    return np.hstack([np.full((len(logits), 1), 0.01, np.float32), 0.99 * probabilities])


def main(argv=None):
    """Prints the table. Raises PicnicError as the exit codes say; SystemExit(1) where a disguise was not recovered."""
    options = _parser().parse_args(argv)
    bundle = Bundle.open(options.bundle)
    network = Network(bundle, options.precision)
    with tempfile.TemporaryDirectory() as scratch:
        photos = _photos(bundle, options, scratch)
        rows, recovered = [], 0
        for number, way in enumerate(ways(bundle.input_spec)):
            if options.labels == "true":
                spec = way.preprocessing.input_spec
                spec = input_spec(Declared(height=spec.height, width=spec.width), "squash")
                way = way._replace(preprocessing=way.preprocessing._replace(input_spec=spec))
            say(f"disguise {number + 1} of {WAYS}")
            row, right = _try(network, way, bundle.class_names, photos, options)
            rows.append([str(number + 1)] + row)
            recovered += right
    header = ["", "layout", "order", "scale", "resize", "answers", "background", "chosen by", "equal", "same label"]
    print(console.format_table(header, rows, markdown=True))
    alone = sum(row[7] == "photos" for row in rows)
    print(
        f"recovered: {recovered} of {WAYS}, from {len(photos)} photos with {options.labels} labels; in {alone} of them "
        "the photos alone leave no other way"
    )
    if recovered < WAYS:
        raise SystemExit(1)


def _parser():
    this = argparse.ArgumentParser(
        prog="python -m train.experiments.disguises",
        description=__doc__.partition("\n\n")[2],
        epilog="example: python -m train.experiments.disguises bundle --check val.tsv --images val",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train`")
    this.add_argument("--check", required=True, metavar="TSV|FOLDER", help="labelled photos of the bundle's classes")
    this.add_argument("--images", metavar="DIR", help="where a table's file names start (default: the table's folder)")
    this.add_argument("--photos", type=int, default=200, metavar="N", help="how many are used (default %(default)s)")
    this.add_argument(
        "--rows",
        type=int,
        default=200,
        metavar="N",
        help="photos that the imported graphs run on (default %(default)s)",
    )
    this.add_argument("--labels", choices=("own", "true"), default="own", help="of the photos (default %(default)s)")
    this.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="in which the network is run (default %(default)s; bf16 by OpenVINO takes a fraction of the time)",
    )
    return this


def _photos(bundle, options, scratch):
    """Returns [(path, index of the class)] of photos that are not square, the classes in turn."""
    photos, _ = read_labels(options.check, options.images)
    index = {name: number for number, name in enumerate(bundle.class_names)}
    known = [(photo.path, index[photo.label]) for photo in photos if photo.label in index]
    turns = proof.class_turns(np.array([label for _, label in known], int))[: options.photos]
    result = []
    for number, (path, label) in enumerate(progress([known[turn] for turn in turns], what="cutting")):
        try:
            picture = read.read_large(path, 4 * max(bundle.input_spec.shape))
        except ImageError as error:
            say(f"{path}: {error} (left out)")
            continue
        height, width = picture.shape[:2]
        if height == width:
            side = 3 * height // 4
            picture = picture[:side] if number % 2 else picture[:, :side]
        cut = os.path.join(scratch, f"{number:04d}.png")
        cv2.imwrite(cut, cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2BGR))
        result.append((cut, label))
    if len(result) < find.MIN_PHOTOS:
        raise UsageError(f"--check {options.check}: {len(result)} photos can be used, {find.MIN_PHOTOS} are needed")
    return result


def _try(network, way, class_names, photos, options):
    """Returns (a row of the table, whether a disguise was recovered as a whole)."""
    original = network.disguised(way, class_names)
    paths = [path for path, _ in photos]
    expected_pictures = _pictures(paths, way.preprocessing)
    if options.labels == "own":
        labels = network.logits(expected_pictures.astype(np.float32)).argmax(axis=1)
        photos = list(zip(paths, map(int, labels)))
    nothing = argparse.Namespace(preset=None, size=None, scale=None, channels=None, resize=None)
    choice = find.choose(original, photos, preprocessing.from_options(original, nothing), nothing)
    chosen = choice.preprocessing
    pictures = _pictures(paths, chosen)
    kind, background = choice.kind, choice.without_background
    model = graph.bundle_model(original, chosen, kind, background)
    rows, same = min(options.rows, len(photos)), 0
    imported = session(model.SerializeToString(), cpu.core_count(), True)
    for start in range(0, rows, proof.BATCH):
        part = slice(start, min(start + proof.BATCH, rows))
        (ours,) = imported.run(None, {INPUT_NAME: pictures[part]})
        (theirs,) = network.session.run(None, {"pixels_in": expected_pictures[part].astype(np.float32)})
        same += int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
    right = (chosen, kind, background, same) == (way.preprocessing, way.kind, way.background, rows)
    row = [
        way.layout,
        way.preprocessing.channels,
        scale_name(way.preprocessing.channels, way.preprocessing.mean, way.preprocessing.std),
        preprocessing.resize_name(way.preprocessing.input_spec),
        way.kind,
        "yes" if way.background else "no",
        choice.decided_by if right else f"WRONG: {preprocessing.describe(chosen)}",
        str(len(choice.equal)),
        f"{same} of {rows}",
    ]
    return row, right


def _pictures(paths, one):
    return np.stack([pictures[0] for pictures in proof.read_pictures(paths, [one.input_spec])])


if __name__ == "__main__":
    sys.exit(run_verb(main, sys.argv[1:]))
