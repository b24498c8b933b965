"""The inside of the network: a bundle's model.onnx with inner tensors as outputs.

It needs onnx and ONNX Runtime but no TensorFlow, so it runs on any machine that runs the bundle.
"""

import collections

import numpy as np

from edge_runtime.bundle.manifest import INPUT_NAME, OUTPUT_NAME
from edge_runtime.engines.onnxruntime import session
from edge_runtime.errors import BundleError
from edge_runtime.machine import cpu
from edge_runtime.machine.libraries import require

FEATURES = "features"
BLOCKS = tuple(f"mixed{number}" for number in range(11))  # InceptionV3's blocks by their Keras names
_BATCH = 16  # photos per run: all blocks of one photo take 10 MB


class InnerSession:
    """The network with inner outputs.

    kernel: float32 [features, classes], of the last dense layer; InceptionV3 has 2048 features.
    bias: float32 [classes]; features.dot(kernel) + bias are the logits, and their softmax is the probabilities.
    """

    def __init__(self, onnx_session, tensors, kernel, bias):
        self._session = onnx_session
        self._tensors = tensors  # {output: name of its tensor in the graph}
        self.kernel = kernel
        self.bias = bias

    def run(self, pixels):
        """Runs photos through the network, a few at a time.

        Args:
            pixels: uint8 [n, height, width, 3], RGB, n >= 1.

        Returns:
            {output: float32 array}: "features" [n, features], "probabilities" [n, classes], a block [n, height, width,
            channels].
        """
        batches = [
            self._session.run(list(self._tensors.values()), {INPUT_NAME: pixels[start : start + _BATCH]})
            for start in range(0, len(pixels), _BATCH)
        ]
        arrays = {}
        for output, parts in zip(self._tensors, zip(*batches)):
            array = np.concatenate(parts)
            arrays[output] = np.ascontiguousarray(array.transpose(0, 2, 3, 1)) if output in BLOCKS else array
        return arrays


def open_session(bundle, outputs):
    """Opens a bundle's network with inner outputs.

    Args:
        bundle: edge_runtime.bundle.reading.Bundle.
        outputs: list out of "features" (the input of the last dense layer), "mixed0" ... "mixed10" (InceptionV3's
            blocks, early to late), "probabilities".

    Returns:
        InnerSession.

    Raises:
        BundleError: the file is corrupt, the network does not end in a dense layer, or outputs has a block and the
            network is no InceptionV3.
        MissingRequirement: onnx or ONNX Runtime is not installed.
    """
    onnx = require("onnx")
    require("onnxruntime")  # before the file is read
    path = bundle.file("model.onnx")
    data = bundle.read("model.onnx")
    try:
        model = onnx.load_model_from_string(data)
    except MemoryError:
        raise
    except Exception as error:  # protobuf's and onnx's own
        raise BundleError(f"{path}: is no ONNX file ({error}); train the bundle again")
    features, kernel, bias = _last_dense(model.graph, path)
    names = {FEATURES: features, OUTPUT_NAME: OUTPUT_NAME}
    if set(outputs) & set(BLOCKS):
        names.update(zip(BLOCKS, _blocks(model.graph, path)))
    tensors = collections.OrderedDict((output, names[output]) for output in outputs)
    del model.graph.output[:]
    for name in tensors.values():
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    onnx_session = session(model.SerializeToString(), cpu.core_count(), optimize=True)
    return InnerSession(onnx_session, tensors, kernel, bias)


def _last_dense(graph, path):
    """Returns (name of the last dense layer's input tensor, its kernel, its bias)."""
    to_array = require("onnx.numpy_helper").to_array
    constants = {value.name: value for value in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in constants]
    biases = [
        name
        for node in graph.node
        if node.op_type == "Add" and products and products[-1].output[0] in node.input
        for name in node.input
        if name in constants
    ]
    if len(biases) != 1:
        raise BundleError(
            f"{path}: its network does not end in a dense layer (MatMul, Add), so it cannot be explained; use a bundle "
            "of `picnic-edge train`"
        )
    features, kernel = products[-1].input
    return features, to_array(constants[kernel]), to_array(constants[biases[0]])


def _blocks(graph, path):
    """Returns the names of the tensors of BLOCKS.

    A block ends where its branches are joined along the channels (NCHW: axis 1). Names do not identify blocks: Keras 3
    calls mixed9 "mixed9_1", which in Keras 2 is a join inside mixed9. Inner joins, where the exporter kept them, feed
    only other joins. ONNX lists nodes in the order of computation.
    """
    users = collections.defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    joins = [node for node in graph.node if _joins_channels(node)]
    ends = [node.output[0] for node in joins if not all(_joins_channels(user) for user in users[node.output[0]])]
    if len(ends) != len(BLOCKS):
        raise BundleError(
            f"{path}: its network is no InceptionV3: expected {len(BLOCKS)} blocks that join their branches, got "
            f"{len(ends)}; use a bundle of `picnic-edge train`"
        )
    return ends


def _joins_channels(node):
    return node.op_type == "Concat" and any(
        attribute.name == "axis" and attribute.i == 1 for attribute in node.attribute
    )
