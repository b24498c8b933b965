"""The bundle's model.onnx: the original with its preprocessing inside, from uint8 pixels to probabilities."""

import numpy as np

from edge_runtime.bundle.manifest import INPUT_NAME, OUTPUT_NAME
from edge_runtime.engines.onnxruntime import session
from edge_runtime.errors import ParityError, UsageError, is_out_of_memory
from edge_runtime.machine import cpu
from edge_runtime.machine.libraries import require
from edge_runtime.text import printable
from train.importing import batch, onnx_weights, opsets
from train.importing.preprocessing import as_input
from train.importing.proof import BATCH, as_probabilities, require_finite

MAX_DIFFERENCE = 1e-5  # of a probability, between the original and the bundle's model, on the same pixels
# float16 keeps eleven bits, and each library adds up in an order of its own.
MAX_DIFFERENCE_FLOAT16 = 5e-3
_PICTURES = 3  # of noise
_AT_FAULT = (
    "nothing was written. The conversion to ONNX is at fault: export the model as ONNX where it was trained, and "
    "import that"
)
# Nodes that move values and compute nothing: uint8 or float is the same to them.
_MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")


def bundle_model(original, preprocessing, kind, without_background=False):
    """Returns the onnx.ModelProto of a bundle.

    It takes "images", uint8 [n, height, width, 3], RGB, and answers "probabilities", float32 [n, classes]. The first
    node is a Cast to float32: TensorRT takes a uint8 input for nothing else.

    Args:
        original: train.importing.original.Original.
        preprocessing: train.importing.preprocessing.Preprocessing of its makers; height and width are the model's.
        kind: what the original answers, "logits" or "probabilities".
        without_background: leave out the first output; the other probabilities then sum to 1.

    Raises:
        UsageError: the result is larger than one ONNX file may be.
        ParityError: it is no valid ONNX model.
        MissingRequirement: onnx is not installed.
    """
    onnx = require("onnx")
    model = onnx.ModelProto()
    model.CopyFrom(original.model)
    graph = model.graph
    _make_room(graph)
    source, target = graph.input[0].name, graph.output[0].name
    names = _names(graph)
    before = _Nodes(onnx, graph, names)
    _from_pixels(before, original, preprocessing, source)
    after = _Nodes(onnx, graph, names)
    _to_probabilities(after, target, kind, original.outputs if without_background else None)
    rest = [batch.copied(onnx, node) for node in graph.node]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(before.nodes + rest + after.nodes)
    del graph.input[:], graph.output[:]
    height, width = preprocessing.input_spec.height, preprocessing.input_spec.width
    types = onnx.TensorProto
    graph.input.extend([onnx.helper.make_tensor_value_info(INPUT_NAME, types.UINT8, ["batch", height, width, 3])])
    classes = original.outputs - bool(without_background)
    graph.output.extend([onnx.helper.make_tensor_value_info(OUTPUT_NAME, types.FLOAT, ["batch", classes])])
    model.ir_version = max(model.ir_version, 4)  # before that, constants had to be inputs
    if opsets.opset_of(model) <= opsets.OPSET:
        model.ir_version = min(model.ir_version, opsets.IR_VERSION)
    model.producer_name, model.producer_version, model.doc_string = "picnic-edge", "", ""
    del model.metadata_props[:]
    size_bytes = model.ByteSize()
    if size_bytes > onnx_weights.MAX_BYTES:
        raise UsageError(
            f"{original.path}: becomes a model of {size_bytes >> 20} MiB; one file may have less than 2 GiB"
        )
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ParityError(f"{original.path}: becomes no valid ONNX model ({_first_line(error)}); {_AT_FAULT}")
    return model


def check_numbers(model, original, preprocessing, kind, without_background=False):
    """Compares a model of bundle_model, run by ONNX Runtime, with the original, on noise and on pictures of one colour.

    Returns:
        the largest difference of a probability.

    Raises:
        UsageError: the original answers NaN or infinity.
        ParityError: the model does not run, or a difference is more than MAX_DIFFERENCE (float16:
            MAX_DIFFERENCE_FLOAT16).
    """
    require_finite(original, preprocessing)
    shape = preprocessing.input_spec.shape
    noise = np.random.RandomState(0).randint(0, 256, (_PICTURES,) + shape).astype(np.uint8)
    pictures = np.concatenate([noise] + [np.full((1,) + shape, level, np.uint8) for level in (0, 128, 255)])
    answers = original.run(as_input(original, preprocessing, pictures))
    if not np.isfinite(answers).all():
        raise UsageError(f"{original.path}: answers NaN or infinity to pictures of noise")
    expected = as_probabilities(answers, kind, without_background)
    limit = MAX_DIFFERENCE_FLOAT16 if original.dtype == "float16" else MAX_DIFFERENCE
    return max(_difference(model, original, part, expected[: len(part)], limit) for part in (pictures[:1], pictures))


def check_sample(model, original, sample):
    """Compares the model that is written, whose answers have a temperature, with the original's answers.

    Args:
        model: onnx.ModelProto of a bundle.
        original: train.importing.original.Original.
        sample: train.importing.proof.Sample with the original's probabilities.

    Raises:
        ParityError: a probability differs by more than ten times what check_numbers allows: a temperature below 1
            enlarges differences.
    """
    limit = 10 * (MAX_DIFFERENCE_FLOAT16 if original.dtype == "float16" else MAX_DIFFERENCE)
    for start in range(0, len(sample.images), BATCH):
        part = slice(start, start + BATCH)
        _difference(model, original, sample.images[part], sample.probabilities[part], limit)


def _difference(model, original, pictures, expected, limit):
    """Returns the largest difference of a probability. Raises ParityError: it is more than limit."""
    try:
        run = session(model.SerializeToString(), cpu.core_count(), optimize=True).run
        answers = run([OUTPUT_NAME], {INPUT_NAME: pictures})[0]
    except Exception as error:  # ONNX Runtime raises classes of its own
        if is_out_of_memory(error):
            raise
        raise ParityError(f"{original.path}: as one ONNX graph it does not run ({_first_line(error)}); {_AT_FAULT}")
    if answers.shape != expected.shape:
        raise ParityError(
            f"{original.path}: as one ONNX graph it answers {list(answers.shape)}, expected {list(expected.shape)}; "
            + _AT_FAULT
        )
    difference = float(np.abs(answers - expected).max())
    if not difference <= limit:  # also for NaN
        raise ParityError(
            f"{original.path}: as one ONNX graph its probabilities differ by up to {difference:.2g} from its own (at "
            f"most {limit:.0e} is allowed); {_AT_FAULT}"
        )
    return difference


def _first_line(error):
    return printable((str(error).strip() or type(error).__name__).splitlines()[0][:200])


class _Nodes:
    """New nodes of a graph, in a row: each takes the output of the one before."""

    def __init__(self, onnx, graph, names):
        self.onnx, self.graph, self.nodes = onnx, graph, []
        self._names = names  # of all tensors

    def _new(self, name):
        name = f"picnic_{name}"
        while name in self._names:  # also where a bundle's model is imported once more
            name += "_"
        self._names.add(name)
        return name

    def constant(self, values, dtype, what):
        """Adds a constant and returns its name."""
        name = self._new(what)
        self.graph.initializer.append(require("onnx.numpy_helper").from_array(np.asarray(values, dtype), name))
        return name

    def add(self, kind, source, output=None, **attributes):
        """Adds a node and returns its output; source is a name or a list of names."""
        output = output or self._new(kind.lower())
        sources = [source] if isinstance(source, str) else source
        self.nodes.append(self.onnx.helper.make_node(kind, sources, [output], name=output, **attributes))
        return output


def _from_pixels(nodes, original, preprocessing, source):
    """Adds what turns pixels into the original's input, which is called source."""
    types = nodes.onnx.TensorProto
    channel_axis = {"NCHW": 1, "NHWC": 3}[original.layout]
    # Where the original casts its pixels first, that Cast goes in front of what is added here.
    casts = _first_casts(nodes.graph, source, types.FLOAT) if original.dtype == "uint8" else []
    last = nodes.add("Cast", INPUT_NAME, to=types.FLOAT)
    if original.layout == "NCHW":
        last = nodes.add("Transpose", last, perm=[0, 3, 1, 2])
    if preprocessing.channels == "BGR":
        last = nodes.add("Gather", [last, nodes.constant([2, 1, 0], np.int64, "bgr")], axis=channel_axis)
    if original.dtype != "uint8":
        mean, std = (np.asarray(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
        shape = (3, 1, 1) if original.layout == "NCHW" else (3,)
        if mean.any():
            last = nodes.add("Sub", [last, nodes.constant(_short(mean, shape), np.float32, "mean")])
        if (std != 1).any():
            last = nodes.add("Div", [last, nodes.constant(_short(std, shape), np.float32, "std")])
    if original.dtype == "float16":
        last = nodes.add("Cast", last, to=types.FLOAT16)
    if original.dtype == "uint8" and not casts:
        last = nodes.add("Cast", last, to=types.UINT8)
    replaced = {source: last}
    for node in casts:
        replaced[node.output[0]] = replaced.get(node.input[0], node.input[0])
        nodes.graph.node.remove(node)
    for node in nodes.graph.node:
        node.input[:] = [replaced.get(name, name) for name in node.input]
    if nodes.graph.output[0].name in replaced:
        raise UsageError(f"{original.path}: answers with its own input; it is no classifier")


def _first_casts(graph, source, to_float):
    """Returns the Casts to float32 that all uses of the uint8 input come to, [] where some use is another."""
    casts, pending = [], [source]
    while pending:
        name = pending.pop()
        if name == graph.output[0].name:
            return []
        for node in [one for one in graph.node if name in one.input]:
            if node.op_type == "Cast" and node.attribute[0].i == to_float:
                casts.append(node)
            elif node.op_type in _MOVES and node.input[0] == name and name not in list(node.input)[1:]:
                pending.append(node.output[0])
            else:
                return []
    return casts


def _short(values, shape):
    """Returns one number where all are the same, else the values in a shape that fits the channels."""
    return values[0] if (values == values[0]).all() else values.reshape(shape)


def _to_probabilities(nodes, last, kind, background_and_classes):
    """Adds what turns the original's output, called last, into probabilities.

    Args:
        background_and_classes: how many outputs there are, where the first is to be left out; else None.
    """
    if background_and_classes:
        # Gather and MatMul are the same in all opsets; Slice and ReduceSum are not.
        places = np.arange(1, background_and_classes)
        last = nodes.add("Gather", [last, nodes.constant(places, np.int64, "classes")], axis=1)
        if kind == "probabilities":
            ones = nodes.constant(np.ones((len(places), 1)), np.float32, "ones")
            total = nodes.add("MatMul", [last, ones])
            # The background may have all of it; 0 / 0 is NaN.
            total = nodes.add("Max", [total, nodes.constant(1e-30, np.float32, "least")])
            last = nodes.add("Div", [last, total])
    if kind == "logits":
        nodes.add("Softmax", last, OUTPUT_NAME, axis=1)
    elif nodes.nodes:
        nodes.nodes[-1].output[0] = OUTPUT_NAME
    else:  # the original's own softmax stays the last node
        for node in nodes.graph.node:
            node.input[:] = [OUTPUT_NAME if name == last else name for name in node.input]
            node.output[:] = [OUTPUT_NAME if name == last else name for name in node.output]


def _make_room(graph):
    """Renames tensors of the original that have the names of the bundle's input and output, in place."""
    names = _names(graph)
    renamed = {}
    for taken_name in (INPUT_NAME, OUTPUT_NAME):
        if taken_name in names:
            new = taken_name + "_of_original"
            while new in names:
                new += "_"
            renamed[taken_name] = new
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in list(graph.input) + list(graph.output) + list(graph.initializer):
        value.name = renamed.get(value.name, value.name)


def _names(graph):
    return {name for node in graph.node for name in list(node.input) + list(node.output)}
