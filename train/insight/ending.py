"""How a classifier's graph ends: where it pools all places, its last dense layer, and what comes after that."""

import typing

import numpy as np

from edge_runtime.machine.libraries import require

# What leaves the values of a photo as they are, but for their shape or type.
_SHAPES = ("Identity", "Cast", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze")
_WEIGHT_SHAPES = ("Identity", "Cast")


class Ending(typing.NamedTuple):
    """The last layers of a graph.

    features.dot(kernel) + bias are the logits of the classes, in their order.
    """

    features: str  # name of the tensor that the last dense layer takes, [n, features] apart from axes of length 1
    kernel: np.ndarray  # float32 [features, classes]
    bias: np.ndarray  # float32 [classes]
    places: typing.Optional[str]  # name of the tensor whose mean over all places is features; None: there is none such
    is_nhwc: bool  # places is [n, height, width, features], not [n, features, height, width]


def ending_of(graph, output):
    """Finds the last layers of a graph by walking back from its output.

    On its way to the dense layer (MatMul or Gemm, or a Conv of one place) may be: softmax, its logarithm, changes of
    shape and type, products and sums with constants (bias, temperature), and a choice of some of its outputs (Slice,
    Gather: without a background class, in another order), divided by their sum.

    Args:
        graph: onnx.GraphProto with shapes (onnx.shape_inference), as far as they are known.
        output: name of the tensor of probabilities.

    Returns:
        Ending, or text: why there is none, as the end of a sentence that starts with "its network".
    """
    walk = _Walk(graph)
    changes: typing.List[typing.Tuple[str, typing.Any]] = []  # of the logits, the last one first
    name = output
    while True:
        node = walk.makers.get(name)
        if node is None:
            return "does not end in a dense layer"
        dense = walk.dense(node)
        if dense:
            break
        step = walk.before(node)
        if step is None:
            return f"does not end in a dense layer, but in {node.op_type} ({name})"
        name = step[0]
        if step[1]:
            changes.append(step[1])
    features, kernel, bias = dense
    for kind, value in reversed(changes):
        if kind == "choose":
            kernel, bias = kernel[:, value], bias[value]
        elif kind == "times":
            kernel, bias = kernel * value, bias * value
        else:
            bias = bias + value
    bias = np.broadcast_to(bias, kernel.shape[1:])
    places, is_nhwc = walk.places(features)
    return Ending(features, kernel.astype(np.float32), bias.astype(np.float32), places, is_nhwc)


class _Walk:
    """A graph, and how to go back in it."""

    def __init__(self, graph):
        self.makers = {name: node for node in graph.node for name in node.output}
        self._initializers = {value.name: value for value in graph.initializer}
        self._ranks = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.value_info
        }

    def constant(self, name):
        """Returns the array of a constant, None where the tensor depends on the photo."""
        to_array = require("onnx.numpy_helper").to_array
        if name in self._initializers:
            return to_array(self._initializers[name])
        node = self.makers.get(name)
        if node is None:
            return None
        if node.op_type == "Constant":
            values = [attribute.t for attribute in node.attribute if attribute.name == "value"]
            return to_array(values[0]) if values else None
        if node.op_type not in _WEIGHT_SHAPES + ("Transpose",):
            return None
        array = self.constant(node.input[0])
        return array.transpose(_attribute(node, "perm")) if array is not None and node.op_type == "Transpose" else array

    def dense(self, node):
        """Returns (name of its input, kernel [features, outputs], bias [outputs]) of a dense layer, None of others."""
        if node.op_type not in ("MatMul", "Gemm", "Conv"):
            return None
        kernel = self.constant(node.input[1])
        if kernel is None:
            return None
        kernel = kernel.astype(np.float64)
        if node.op_type == "Conv":
            if kernel.shape[2:] != (1, 1) or _attribute(node, "group", 1) != 1 or not self._is_one_place(node.input[0]):
                return None
            kernel = kernel[:, :, 0, 0].T
        elif kernel.ndim != 2 or _attribute(node, "transA", 0):
            return None
        bias = self.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
        if bias is None:
            return None
        if node.op_type == "Gemm":
            kernel = kernel.T if _attribute(node, "transB", 0) else kernel
            kernel, bias = kernel * _attribute(node, "alpha", 1.0), bias * _attribute(node, "beta", 1.0)
        return node.input[0], kernel, np.broadcast_to(np.ravel(bias), kernel.shape[1:]).astype(np.float64)

    def before(self, node):
        """Returns (name of the tensor that a node changes, the change or None); None where it does anything else."""
        kind, source = node.op_type, node.input[0] if node.input else ""
        # The logarithm of a softmax's result (not below the least float) is its input, up to a number for all classes.
        if kind in _SHAPES + ("Softmax", "Log") or (kind == "Max" and self.constant(node.input[-1]) is not None):
            return source, None
        if kind in ("Slice", "Gather"):
            chosen = self._chosen(node)
            return (source, ("choose", chosen)) if chosen is not None else None
        if kind not in ("Mul", "Div", "Add", "Sub"):
            return None
        if kind in ("Mul", "Add") and self.constant(source) is not None:
            source, other = node.input[1], node.input[0]
        else:
            other = node.input[1]
        value = self.constant(other)
        if kind == "Div" and self._is_sum(other, source):
            return source, None  # probabilities without the background's, which sum to 1 again
        if value is None or value.size != max(value.shape or (1,)) or not np.isfinite(value).all():
            return None
        value = np.ravel(value).astype(np.float64)
        if kind in ("Mul", "Div"):
            return (source, ("times", value if kind == "Mul" else 1 / value)) if value.all() else None
        return source, ("plus", value if kind == "Add" else -value)

    def places(self, name):
        """Returns (name of the tensor [n, height, width, c] or [n, c, height, width] whose mean over all places this
        tensor is, whether its channels come last); (None, False) where there is none such."""
        node = self.makers.get(name)
        while node is not None and node.op_type in _SHAPES:
            node = self.makers.get(node.input[0])
        if node is None:
            return None, False
        source = node.input[0] if node.input else ""
        if node.op_type == "GlobalAveragePool":
            return source, False
        if node.op_type == "AveragePool":
            # Zeros around it would be counted, or not: then it is another mean.
            covers = list(_attribute(node, "kernel_shape")) == self._ranks.get(source, [])[2:]
            return (source, False) if covers and not any(_attribute(node, "pads", [])) else (None, False)
        if node.op_type == "ReduceMean":
            axes = _attribute(node, "axes", None)
            if axes is None and len(node.input) > 1:
                axes = self.constant(node.input[1])
            axes = sorted(int(axis) % 4 for axis in axes) if axes is not None else []
            if len(self._ranks.get(source, [0] * 4)) == 4 and axes in ([1, 2], [2, 3]):
                return source, axes == [1, 2]
        return None, False

    def _is_one_place(self, name):
        """Tells whether a tensor [n, c, height, width] has one place only."""
        shape = self._ranks.get(name)
        return (shape is not None and shape[2:] == [1, 1]) or self.places(name)[0] is not None

    def _is_sum(self, name, source):
        """Tells whether a tensor is the sum of another one over the classes."""
        node = self.makers.get(name)
        if node is None or node.input[0] != source:
            return False
        if node.op_type == "MatMul":
            ones = self.constant(node.input[1])
            return ones is not None and ones.shape[-1] == 1 and bool((ones == 1).all())
        return node.op_type == "ReduceSum"

    def _chosen(self, node):
        """Returns what a node chooses of the last axis of [n, classes], as an index; None for anything else."""
        if node.op_type == "Gather":
            indices = self.constant(node.input[1])
            is_list = indices is not None and indices.ndim == 1 and _attribute(node, "axis", 0) in (1, -1)
            return indices if is_list else None
        if len(node.input) > 1:
            values = [self.constant(name) if name else None for name in list(node.input[1:]) + ["", ""]][:4]
        else:  # before opset 10
            values = [_attribute(node, name, None) for name in ("starts", "ends", "axes")] + [None]
        starts, ends, axes, steps = (None if value is None else np.ravel(value).tolist() for value in values)
        if not starts or not ends or len(starts) != 1 or axes not in ([1], [-1]):
            return None
        return slice(starts[0], ends[0], steps[0] if steps else 1)


def _attribute(node, name, default=()):
    values = [require("onnx").helper.get_attribute_value(one) for one in node.attribute if one.name == name]
    return values[0] if values else default
