"""An ONNX model exported for a fixed number of pictures, made to take any number."""

import os
import tempfile
import typing

import numpy as np

from edge_runtime.engines.onnxruntime import session
from edge_runtime.errors import UsageError
from edge_runtime.machine import cpu
from edge_runtime.machine.libraries import require
from train.model.tf_setup import nothing_on_stderr

MAX_BATCH = 256  # the largest fixed one that a model may have
TRIAL_SIDE = 224  # of the pictures that a model of any size is tried with
_TRIAL_PICTURES = 3


def with_free_batch(path, model, same):
    """Returns an onnx.ModelProto that takes any number of pictures: the model itself where it does so already.

    Args:
        path: the file, for messages.
        model: onnx.ModelProto with one input and one output.
        same: result of same_answers.

    Raises:
        UsageError: the batch is fixed, and cannot be freed without changing the answers.
    """
    fixed = fixed_batch(model)
    if fixed is None:
        return model
    for prepare in (lambda: model, lambda: folded(model)):
        changed = freed(prepare(), fixed)
        if same(changed):
            return changed
    raise UsageError(
        f"{path}: takes exactly {fixed} picture{'s' if fixed > 1 else ''} at a time, and its graph cannot be freed of "
        f"that ({', '.join(suspects(model)) or 'the number is inside'}). Export it with a free batch: for "
        'torch.onnx.export dynamic_axes={"INPUT": {0: "batch"}}, for ultralytics dynamic=True, for TensorFlow an '
        "input of shape [None, height, width, 3]"
    )


def fixed_batch(model):
    """Returns the number of pictures that a model takes at a time, None where any number goes."""
    number = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    return number if number > 0 else None  # some exporters write -1 for any number


def noise(layout, dtype, height, width):
    """Returns a few pictures of noise to try a model with, in its layout and dtype; None for a side: any goes."""
    sides = (height or TRIAL_SIDE, width or TRIAL_SIDE)
    shape = (_TRIAL_PICTURES, 3) + sides if layout == "NCHW" else (_TRIAL_PICTURES,) + sides + (3,)
    random = np.random.RandomState(0)
    return (
        random.randint(0, 256, shape).astype(np.uint8)
        if dtype == "uint8"
        else random.random_sample(shape).astype(dtype)
    )


def same_answers(pictures, expected):
    """Returns a function that tells whether an onnx.ModelProto answers as expected, to one picture and to several.

    Args:
        pictures: array [n, ...] in the model's layout and dtype.
        expected: float32 [n, outputs], the original's answers.
    """
    limit = largest_difference(pictures, expected)

    def same(model):
        try:
            with nothing_on_stderr():  # what ONNX Runtime says of a change that was no good
                run = session(model.SerializeToString(), cpu.core_count(), optimize=True).run
                name = model.graph.input[0].name
                several, single = (run(None, {name: part})[0] for part in (pictures, pictures[:1]))
            return close(several, expected, limit) and close(single, expected[:1], limit)
        except Exception:  # ONNX Runtime raises classes of its own
            return False

    return same


def largest_difference(pictures, expected):
    """Returns how far answers may differ and still count as the same.

    Probabilities of many classes are small numbers: differences count in terms of the largest answer.
    """
    return (2e-2 if pictures.dtype == np.float16 else 1e-3) * max(float(np.abs(expected).max()), 1e-6)


def close(rows, expected, limit):
    """Tells whether answers, one row per picture, are the expected ones, each number within limit."""
    rows = np.asarray(rows, np.float32).reshape(len(rows), -1)
    return bool(rows.shape == expected.shape and np.allclose(rows, expected, rtol=0, atol=limit, equal_nan=True))


def freed(model, fixed):
    """Returns a copy of an onnx.ModelProto whose batch is free; whether it computes the same must be tried.

    Numbers that were written down for the fixed batch are replaced: the first one of a Reshape, and constants that are
    joined (Concat) with each picture's own values, as a vision transformer's class token.

    Args:
        model: with one input and one output, whose first dimension is fixed.
        fixed: that number.
    """
    onnx = require("onnx")
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    del graph.value_info[:]  # shapes with the fixed batch
    for value in (graph.input[0], graph.output[0]):
        for side in value.type.tensor_type.shape.dim[:1]:  # an output's shape may be missing
            side.dim_param = "batch"
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    names = {name for node in graph.node for name in list(node.input) + list(node.output)}
    nodes: typing.List[typing.Any] = []
    batch = None  # the tensor with the number of pictures, once it is needed

    def new(name):
        while name in names:
            name += "_"
        names.add(name)
        return name

    def constant(array, name):
        name = new(name)
        graph.initializer.append(require("onnx.numpy_helper").from_array(np.asarray(array, np.int64), name))
        return name

    for node in graph.node:
        if node.op_type == "Reshape" and node.input[0] not in constants and node.input[1] in constants:
            shape = _free_shape(require("onnx.numpy_helper").to_array(constants[node.input[1]]), fixed)
            if shape is not None:
                node.input[1] = constant(shape, node.input[1] + "_free")
                del node.attribute[:]  # allowzero
        places = _repeated_places(onnx, node, constants, fixed)
        for place in places:
            if batch is None:
                whole, batch = new("batch_shape"), new("batch_size")
                first = constant([0], "batch_place")
                nodes[:0] = [
                    onnx.helper.make_node("Shape", [graph.input[0].name], [whole]),
                    onnx.helper.make_node("Gather", [whole, first], [batch]),
                ]
            name = node.input[place]
            ones = constant([1] * (len(constants[name].dims) - 1), name + "_ones")
            shape, repeated = new(name + "_shape"), new(name + "_repeated")
            nodes += [
                onnx.helper.make_node("Concat", [batch, ones], [shape], axis=0),
                onnx.helper.make_node("Expand", [_one(onnx, graph, new, constants[name], name), shape], [repeated]),
            ]
            node.input[place] = repeated
        nodes.append(node)
    nodes = [copied(onnx, node) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    return changed


def folded(model):
    """Returns a copy of an onnx.ModelProto whose parts that are the same for all pictures are constants.

    ONNX Runtime computes them; the operators stay ONNX's own.
    """
    onnx, onnxruntime = require("onnx"), require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory(prefix="picnic-edge-import-") as folder:
        options.optimized_model_filepath = os.path.join(folder, "folded.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        result = onnx.load(options.optimized_model_filepath)
    standard = [entry for entry in result.opset_import if entry.domain in ("", "ai.onnx")]
    del result.opset_import[:]  # it lists what it could have used, too
    result.opset_import.extend(standard)
    return result


def suspects(model):
    """Returns the operators of a model that can have a batch written into them, for a message."""
    kinds = ("Reshape", "Concat", "Expand", "Tile", "Slice", "Split", "Resize", "Gemm", "LSTM", "GRU")
    return [kind for kind in kinds if any(node.op_type == kind for node in model.graph.node)]


def _free_shape(shape, fixed):
    """Returns the shape for a Reshape with a free first dimension, None where it is free or cannot be told."""
    shape = [int(side) for side in shape]
    if not shape or shape[0] in (0, -1):
        return None
    if -1 not in shape:  # the rest is each picture's own, so that what is left is the batch
        return [-1] + shape[1:]
    return [0] + shape[1:] if shape[0] == fixed else None


def _repeated_places(onnx, node, constants, fixed):
    """Returns the places of a Concat's inputs that are constants for the fixed batch, between computed ones."""
    if node.op_type != "Concat" or all(name in constants for name in node.input):
        return []
    axis = onnx.helper.get_attribute_value(node.attribute[0])
    return [
        place
        for place, name in enumerate(node.input)
        if name in constants
        and axis not in (0, -len(constants[name].dims))
        and list(constants[name].dims)[:1] == [fixed]
    ]


def _one(onnx, graph, new, tensor, name):
    """Returns the name of a constant for one picture: the first of the fixed batch."""
    if tensor.dims[0] == 1:
        return name
    single = new(name + "_single")
    graph.initializer.append(
        require("onnx.numpy_helper").from_array(require("onnx.numpy_helper").to_array(tensor)[:1], single)
    )
    return single


def copied(onnx, node):
    """Returns a copy of a node: deleting a graph's nodes frees those that are still referred to."""
    result = onnx.NodeProto()
    result.CopyFrom(node)
    return result
