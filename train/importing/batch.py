"""An ONNX model exported for a fixed number of pictures, made to take any number."""

import os
import tempfile
import typing

import numpy as np

from edge_runtime.machine.libraries import require


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
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
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
    nodes = [_copy(onnx, node) for node in nodes]
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


def _copy(onnx, node):
    """Returns a copy: deleting a graph's nodes frees those that are still referred to."""
    result = onnx.NodeProto()
    result.CopyFrom(node)
    return result
