"""Does the gate keep good engines and refuse bad ones? python -m benchmarks.experiments.gate_trial BUNDLE

Each engine is built as `convert` builds it and judged with default settings; then with faults planted on purpose: the
colour channels swapped in the first layer, one layer of the network too strong, and answers that are those of the batch
before or of the photo before. A table on standard output says how many of the bad ones were refused.
"""

import argparse
import importlib
import itertools
import os
import sys
import tempfile

import numpy as np

from convert import reference
from convert.cli import TARGETS
from convert.conversion import Settings
from edge_runtime import console
from edge_runtime.bundle.reading import Bundle
from edge_runtime.console import say
from edge_runtime.engines.check import run_sample, split_sample, without_copies
from edge_runtime.engines.kinds import create_engine
from edge_runtime.engines.record import EngineInfo, default_min_agreement
from edge_runtime.gate import compare, judge
from edge_runtime.machine.libraries import require

_BATCH = 8
_TRIES = 20


class PlantedBundle:
    """What a builder needs of a bundle, with another model.

    Args:
        model: onnx.ModelProto.
        path: file to write it to.
    """

    def __init__(self, model, path):
        require("onnx").save(model, path)
        self._path = path

    def checked(self, name):
        """Returns the path of the model, the only file there is."""
        return self._path

    def read(self, name):
        """Returns the content of the model."""
        with open(self._path, "rb") as file:
            return file.read()


def main(argv=None):
    """Prints the table."""
    options = _parser().parse_args(argv)
    bundle = Bundle.open(options.bundle)
    model = require("onnx").load_model_from_string(bundle.read("model.onnx"))
    header = ["engine", "good", "log-odds change", "flips", "channels", "stale", "shifted", "layers", "not refused"]
    rows = []
    for name in options.engines.split(","):
        rows.append(_trial(bundle, model, name, options))
        print(console.format_table(header, rows, markdown=True), flush=True)


def _parser():
    this = argparse.ArgumentParser(prog="python -m benchmarks.experiments.gate_trial", description=__doc__)
    this.add_argument("bundle", help="folder written by `picnic-edge train` or `import`")
    this.add_argument(
        "--engines",
        default="onnxruntime-fp32,openvino-fp32,openvino-bf16,openvino-int8,onnxruntime-int8",
        metavar="NAMES",
        help="separated by commas (default %(default)s)",
    )
    this.add_argument("--layers", type=int, default=_TRIES, metavar="N", help="how many layers (default %(default)s)")
    this.add_argument("--photos", type=int, default=128, metavar="N", help="of the sample (default: all)")
    this.add_argument("--scale", type=float, default=1.05, metavar="F", help="of a layer (default %(default)s)")
    return this


def _trial(bundle, model, name, options):
    """Returns the row of one engine."""
    kind, _, precision = name.rpartition("-")
    engine = _Trial(bundle, kind, precision, options.photos)
    verdict, answers = engine.judge_model(model)
    good = verdict.refused or "kept"
    about = judge.describe(verdict, halves=precision == "int8")
    say(f"{name}: {good}\n{about}")
    row = [name, good, f"{verdict.log_odds_change:.6f}", f"{verdict.flips} of {verdict.photos}"]
    orders = list(itertools.permutations(range(3)))[1:]
    row.append(_refused([engine.judge_model(_with_channels(model, order))[0].refused for order in orders]))
    shuffles = [np.random.RandomState(number).permutation(len(answers)) for number in range(_TRIES)]
    row.append(_refused([engine.judge_answers(answers, order, _BATCH).refused for order in shuffles]))
    row.append(_refused([engine.judge_answers(answers, order, 1).refused for order in shuffles]))
    layers, kept = _layers(model, options.layers), []
    for layer in layers:
        verdict, _ = engine.judge_model(_with_scale(model, layer, options.scale))
        say(f"{name}, {layer} x {options.scale}: {verdict.log_odds_change:.4f}, {verdict.refused or 'kept'}")
        if not verdict.refused:
            kept.append(layer)
    return row + [f"{len(layers) - len(kept)} of {len(layers)}", ", ".join(kept)]


def _refused(reasons):
    return f"{sum(map(bool, reasons))} of {len(reasons)}"


class _Trial:
    """Builds engines of one kind and precision, and judges them."""

    def __init__(self, bundle, kind, precision, photos):
        self._builder = importlib.import_module(TARGETS[kind])
        self._kind, self._precision = kind, precision
        self._shapes = bundle.input_spec.shape, len(bundle.class_names)
        sample = without_copies(bundle.sample())
        sample = sample._replace(
            names=sample.names[:photos],
            images=sample.images[:photos],
            labels=sample.labels[:photos],
            probabilities=sample.probabilities[:photos],
        )
        self._calibration, self._sample = split_sample(sample, precision)

    def judge_model(self, model):
        """Returns (the Verdict on the engine of a model, its answer to each photo)."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = os.path.join(scratch, "engine")
            os.mkdir(folder)
            planted = PlantedBundle(model, os.path.join(scratch, "model.onnx"))
            self._builder.build(planted, Settings(self._precision, _BATCH, None, self._calibration), folder)
            exact = getattr(self._builder, "also_runs_in", lambda precision: precision)(self._precision)
            for precision in sorted({exact, self._precision} - {self._precision}) + [self._precision]:
                info = EngineInfo("trial", self._kind, precision, folder, {})
                with create_engine(info, *self._shapes, _BATCH, None).open() as engine:
                    answers = run_sample(engine, self._sample, _BATCH)
                verdict = self._judge(self._sample.probabilities, answers, precision)
                if verdict.refused:
                    break
        return verdict, answers[: len(self._sample.names)]

    def judge_answers(self, answers, order, late):
        """Returns the Verdict on an engine whose answers come late by so many photos.

        Args:
            answers: float32 [photos, classes], the right ones.
            order: indices, in which the photos are run.
        """
        rows = answers[order][compare.photo_order(len(order), _BATCH)]
        rows = np.concatenate([rows[:late], rows[:-late]])
        return self._judge(self._sample.probabilities[order], rows, self._precision)

    def _judge(self, original, answers, precision):
        names = [str(number) for number in range(len(original))]
        parity = compare.compare(names, original, {_BATCH: answers})
        return judge.judge(parity, default_min_agreement(precision), judge.MAX_LOG_ODDS_CHANGE[precision])


def _layers(model, count):
    """Returns the names of convolutions' outputs, evenly spread over the network."""
    return reference.spread([node.output[0] for node in model.graph.node if node.op_type == "Conv"], count)


def _with_scale(model, layer, scale):
    """Returns a copy of a model, a layer's output multiplied by scale: its weights and its bias, after the norm."""
    (node,) = [node for node in model.graph.node if layer in node.output]
    return _changed(model, node.input[1:], lambda values: values * np.float32(scale))


def _with_channels(model, order):
    """Returns a copy of a model whose first convolution takes red, green and blue in another order."""
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    return _changed(model, first.input[1:2], lambda values: values[:, list(order)])


def _changed(model, names, change):
    helper = require("onnx.numpy_helper")
    copy = type(model)()
    copy.CopyFrom(model)
    for value in copy.graph.initializer:
        if value.name in names:
            changed = np.ascontiguousarray(change(helper.to_array(value)))
            value.CopyFrom(helper.from_array(changed, value.name))
    return copy


if __name__ == "__main__":
    sys.exit(main())
