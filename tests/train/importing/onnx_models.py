"""Small ONNX classifiers of many kinds; each names the dominant colour of tests.helpers.COLOURS."""

import os

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.helpers import COLOURS

NAMES = sorted(COLOURS)
WEIGHTS = np.array([COLOURS[name] for name in NAMES], np.float32) / 32  # [classes, 3], for pixels 0..1
BIAS = (-0.3 * WEIGHTS.sum(axis=1)).astype(np.float32)


class Options:
    """What the readers get of the command's options."""

    def __init__(self, **given):
        self.labels = self.input = self.output = None
        self.trust = False
        self.__dict__.update(given)


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes, inputs, outputs, constants=None, opset=13, domains=()):
    """Returns a ModelProto; constants is {name: array}."""
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, tensors)
    sets = [helper.make_opsetid("", opset)] + [helper.make_opsetid(domain, 1) for domain in domains]
    result = helper.make_model(graph, opset_imports=sets)
    result.ir_version = 7
    return result


def head(source, opset=13):
    """Returns (nodes, constants) from [n, 3], the mean colour, to "logits"."""
    return [node("Gemm", source + " weights bias", "logits", transB=1)], {"weights": WEIGHTS, "bias": BIAS}


def classifier(
    layout="NCHW", batch="n", side=64, kind=TensorProto.FLOAT, opset=13, end="logits", middle=None, shape=None
):
    """Returns a ModelProto that names the dominant colour of pixels 0..1 (uint8: 0..255).

    Args:
        end: its output: "logits", "probabilities", or "map": logits as [n, classes, 1, 1].
        middle: function that returns (nodes, constants) from "colour" [n, 3] to "mixed" of the same shape.
        shape: of the input, in place of the usual one.
    """
    nodes, constants, last = [], {}, "pixels"
    if kind == TensorProto.UINT8:
        nodes += [node("Cast", "pixels", "floats", to=TensorProto.FLOAT), node("Div", "floats most", "unit")]
        constants["most"] = np.float32(255)
        last = "unit"
    if layout == "NHWC":
        nodes.append(node("Transpose", last, "planes", perm=[0, 3, 1, 2]))
        last = "planes"
    nodes += [node("GlobalAveragePool", last, "pooled"), node("Flatten", "pooled", "colour")]
    last = "colour"
    if middle:
        more_nodes, more = middle()
        nodes += more_nodes
        constants.update(more)
        last = "mixed"
    more_nodes, more = head(last)
    nodes += more_nodes
    constants.update(more)
    if kind == TensorProto.FLOAT16:
        constants.update({name: array.astype(np.float16) for name, array in constants.items()})
    last, dims = "logits", [batch, len(NAMES)]
    if end == "probabilities":
        nodes.append(node("Softmax", last, "answers", axis=1))
        last = "answers"
    if end == "map":
        nodes.append(node("Reshape", last + " places", "answers"))
        constants["places"] = np.array([0, len(NAMES), 1, 1], np.int64)
        last, dims = "answers", [batch, len(NAMES), 1, 1]
    shape = shape or ([batch, 3, side, side] if layout == "NCHW" else [batch, side, side, 3])
    out = TensorProto.FLOAT if kind == TensorProto.UINT8 else kind
    return model(nodes, [value("pixels", shape, kind)], [value(last, dims, out)], constants, opset)


def save(folder, one, name="model.onnx"):
    """Writes a ModelProto and returns its path as text."""
    path = os.path.join(str(folder), name)
    with open(path, "wb") as file:
        file.write(one.SerializeToString())
    return path
