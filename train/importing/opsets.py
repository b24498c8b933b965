"""An ONNX model in opset 13, the newest that TensorRT 8.2 (JetPack 4.6) reads.

onnx.version_converter goes upwards; downwards it refuses even Add and Relu, whose newer versions take more types and
compute the same. So newer nodes are kept where opset 13 has the operator with the same attributes, rewritten where the
table below knows how, and else named. Whoever calls this compares the numbers.
"""

import collections
import typing

import numpy as np

from edge_runtime.machine.libraries import require

OPSET = 13
IR_VERSION = 7  # of opset 13


def opset_of(model):
    """Returns the version of the standard operators that an onnx.ModelProto uses."""
    return max([entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")] or [1])


def inferred_values(model):
    """Returns the ValueInfoProtos of a model's tensors, as far as onnx can work them out."""
    inference = require("onnx.shape_inference")
    try:
        graph = inference.infer_shapes(model).graph
    except (inference.InferenceError, RuntimeError, ValueError):
        graph = model.graph
    return list(graph.value_info) + list(graph.input) + list(graph.output)


def in_opset_13(model):
    """Returns (a copy of an onnx.ModelProto in opset 13, []), or (None, the operators that opset 13 lacks)."""
    opset = opset_of(model)
    if opset < OPSET:
        return _upwards(model)
    onnx = require("onnx")
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    editor = _Editor(changed)
    nodes, lacking = [], set()
    for node in changed.graph.node:
        replaced = _as_13(editor, node, opset)
        if replaced is None:
            lacking.add(node.op_type)
        else:
            nodes += replaced
    if lacking:
        return None, sorted(lacking)
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    changed.graph.initializer.extend(editor.constants)
    del changed.opset_import[:]
    changed.opset_import.extend([onnx.helper.make_opsetid("", OPSET)])
    changed.ir_version = min(changed.ir_version, IR_VERSION)
    return changed, []


def _upwards(model):
    """Returns what in_opset_13 does, for a model of an older opset."""
    onnx = require("onnx")
    listed = onnx.ModelProto()
    listed.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    known = {value.name for value in model.graph.input}
    listed.graph.input.extend(  # onnx 1.10 does not know them else
        onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
        for name, tensor in constants.items()
        if name not in known
    )
    try:
        changed = require("onnx.version_converter").convert_version(listed, OPSET)
    except (RuntimeError, ValueError, IndexError, onnx.checker.ValidationError):
        return None, sorted({node.op_type for node in model.graph.node})
    inputs = [value for value in changed.graph.input if value.name not in constants]
    del changed.graph.input[:]
    changed.graph.input.extend(inputs)
    changed.ir_version = IR_VERSION
    return changed, []


class _Editor:
    """Makes nodes and constants with new names, and finds the values of constants."""

    def __init__(self, model):
        self._onnx = require("onnx")
        self._model = model
        self._ranks = None
        self._count: typing.Counter[str] = collections.Counter()
        self._values = {value.name: value for value in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self._values[node.output[0]] = node.attribute[0].t
        self._names = {name for node in model.graph.node for name in list(node.output) + list(node.input)}
        self.constants = []

    def value(self, name):
        """Returns a constant as an array, None where the tensor is computed."""
        tensor = self._values.get(name)
        return None if tensor is None else require("onnx.numpy_helper").to_array(tensor)

    def name(self, what):
        """Returns a name that no tensor has yet."""
        while True:
            self._count[what] += 1
            name = f"{what}_{self._count[what]}"
            if name not in self._names:
                self._names.add(name)
                return name

    def constant(self, array, what):
        """Adds a constant and returns its name."""
        name = self.name(what)
        self.constants.append(require("onnx.numpy_helper").from_array(np.asarray(array), name))
        return name

    def node(self, kind, inputs, output=None, **attributes):
        """Returns a node; its output has a new name if none is given."""
        return self._onnx.helper.make_node(kind, inputs, [output or self.name(kind)], **attributes)

    def rank(self, name):
        """Returns how many dimensions a tensor has, None where that is not known."""
        if self._ranks is None:
            self._ranks = {
                value.name: len(value.type.tensor_type.shape.dim)
                for value in inferred_values(self._model)
                if value.type.tensor_type.HasField("shape")
            }
        return self._ranks.get(name)

    def dtype(self, name, default=np.float32):
        """Returns the numpy dtype of a constant."""
        value = self.value(name)
        return default if value is None else value.dtype


def _as_13(editor, node, opset):
    """Returns the nodes of opset 13 that compute the same as a node of a newer one, None where it is not known how."""
    newer, schema = _schema(node, opset), _schema(node, OPSET)
    if newer is not None and newer.since_version <= OPSET:
        return [node]
    if node.op_type in _REWRITES:
        return _REWRITES[node.op_type](editor, node)
    if newer is None or schema is None:
        return None
    for attribute in [one for one in node.attribute if one.name not in schema.attributes]:
        if not _is_default(attribute, newer):
            return None
        node.attribute.remove(attribute)
    while node.input and not node.input[-1]:
        del node.input[-1]
    return [node] if len(node.input) <= schema.max_input and len(node.output) <= schema.max_output else None


def _schema(node, opset):
    defs = require("onnx").defs
    try:
        return defs.get_schema(node.op_type, opset)
    except defs.SchemaError:
        return None


def _is_default(attribute, schema):
    """Whether an attribute that opset 13 lacks says nothing: it has its default value, or all its numbers are 1."""
    onnx = require("onnx")
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "dilations":  # of AveragePool
        return set(value) <= {1}
    default = schema.attributes[attribute.name].default_value
    return default.type != onnx.AttributeProto.UNDEFINED and value == onnx.helper.get_attribute_value(default)


def _attributes(node):
    helper = require("onnx").helper
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _reshape(editor, node):
    shape = editor.value(node.input[1])
    if _attributes(node).get("allowzero") and (shape is None or not shape.all()):
        return None  # a dimension of 0 pixels
    del node.attribute[:]
    return [node]


def _reduce(editor, node):
    """ReduceMean and its like have their axes as an attribute in opset 13, as an input since 18."""
    attributes = _attributes(node)
    if len(node.input) < 2 or not node.input[1]:
        axes = None
    else:
        axes = editor.value(node.input[1])
        if axes is None:
            return None
    if (axes is None or not axes.size) and attributes.get("noop_with_empty_axes"):
        return [editor.node("Identity", [node.input[0]], node.output[0])]
    more = {"axes": [int(axis) for axis in axes]} if axes is not None and axes.size else {}
    return [
        editor.node(node.op_type, [node.input[0]], node.output[0], keepdims=int(attributes.get("keepdims", 1)), **more)
    ]


def _split(editor, node):
    for attribute in [one for one in node.attribute if one.name == "num_outputs"]:
        node.attribute.remove(attribute)  # parts of the same size; the numbers show it where they are not
    return [node]


def _shape(editor, node):
    attributes = _attributes(node)
    if not {"start", "end"} & set(attributes):
        return [node]
    whole = editor.node("Shape", [node.input[0]])
    start, end = attributes.get("start", 0), attributes.get("end", (1 << 31) - 1)
    bounds = [editor.constant(np.array([bound], np.int64), "bound") for bound in (start, end)]
    return [whole, editor.node("Slice", [whole.output[0]] + bounds, node.output[0])]


def _hard_swish(editor, node):
    gate = editor.node("HardSigmoid", [node.input[0]], alpha=1 / 6.0, beta=0.5)
    return [gate, editor.node("Mul", [node.input[0], gate.output[0]], node.output[0])]


def _mish(editor, node):
    soft = editor.node("Softplus", [node.input[0]])
    gate = editor.node("Tanh", [soft.output[0]])
    return [soft, gate, editor.node("Mul", [node.input[0], gate.output[0]], node.output[0])]


def _gelu(editor, node):
    x = node.input[0]

    def number(value):
        return editor.constant(np.float32(value), "number")

    if _attributes(node).get("approximate", b"none") == b"tanh":
        cube = editor.node("Pow", [x, number(3)])
        small = editor.node("Mul", [cube.output[0], number(0.044715)])
        both = editor.node("Add", [x, small.output[0]])
        scaled = editor.node("Mul", [both.output[0], number(np.sqrt(2 / np.pi))])
        before = [cube, small, both, scaled, editor.node("Tanh", [scaled.output[0]])]
    else:
        scaled = editor.node("Mul", [x, number(np.sqrt(0.5))])
        before = [scaled, editor.node("Erf", [scaled.output[0]])]
    shifted = editor.node("Add", [before[-1].output[0], number(1)])
    half = editor.node("Mul", [x, number(0.5)])
    return before + [shifted, half, editor.node("Mul", [half.output[0], shifted.output[0]], node.output[0])]


def _layer_normalization(editor, node):
    attributes = _attributes(node)
    if len([name for name in node.output if name]) > 1:
        return None
    axis, rank = attributes.get("axis", -1), editor.rank(node.input[0])
    if axis >= 0 and rank is None:
        return None
    axes = list(range(axis, 0)) if axis < 0 else list(range(axis - rank, 0))
    dtype = editor.dtype(node.input[1])
    mean = editor.node("ReduceMean", [node.input[0]], axes=axes, keepdims=1)
    centred = editor.node("Sub", [node.input[0], mean.output[0]])
    square = editor.node("Mul", [centred.output[0], centred.output[0]])
    variance = editor.node("ReduceMean", [square.output[0]], axes=axes, keepdims=1)
    epsilon = editor.constant(np.array(attributes.get("epsilon", 1e-5), dtype), "epsilon")
    safe = editor.node("Add", [variance.output[0], epsilon])
    root = editor.node("Sqrt", [safe.output[0]])
    nodes = [mean, centred, square, variance, safe, root, editor.node("Div", [centred.output[0], root.output[0]])]
    for kind, name in zip(("Mul", "Add"), node.input[1:]):
        if name:
            nodes.append(editor.node(kind, [nodes[-1].output[0], name]))
    nodes[-1].output[0] = node.output[0]
    return nodes


# operator -> function of (_Editor, node) that returns nodes of opset 13, or None
_REWRITES = {
    "Reshape": _reshape,
    "Split": _split,
    "Shape": _shape,
    "HardSwish": _hard_swish,
    "Mish": _mish,
    "Gelu": _gelu,
    "LayerNormalization": _layer_normalization,
}
_REWRITES.update(
    (f"Reduce{what}", _reduce)
    for what in ("Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
)
