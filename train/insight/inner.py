"""The inside of the network: a bundle's model.onnx with inner tensors as outputs.

It needs onnx and ONNX Runtime but no TensorFlow, so it runs on any machine that runs the bundle.
"""

import collections

import numpy as np

from edge_runtime.bundle.manifest import INPUT_NAME, OUTPUT_NAME
from edge_runtime.engines.onnxruntime import session
from edge_runtime.errors import BundleError, UsageError
from edge_runtime.machine import cpu
from edge_runtime.machine.libraries import require
from train.insight import ending

FEATURES = "features"
PLACES = "places"
BLOCKS = tuple(f"mixed{number}" for number in range(11))  # InceptionV3's blocks by their Keras names
BATCH = 16  # photos per run: all blocks of one photo take 10 MB


class InnerSession:
    """The network with inner outputs.

    outputs: names of what run returns.
    kernel: float32 [features, classes], of the last dense layer; InceptionV3 has 2048 features. None where the network
        does not end in one.
    bias: float32 [classes] or None; features.dot(kernel) + bias are the logits, and their softmax is the probabilities.
    """

    def __init__(self, onnx_session, tensors, channels_first, kernel, bias):
        self._session = onnx_session
        self._tensors = tensors  # {output: name of its tensor in the graph}
        self._channels_first = channels_first  # outputs that are [n, channels, height, width] in the graph
        self.outputs = tuple(tensors)
        self.kernel = kernel
        self.bias = bias

    def run(self, pixels):
        """Runs photos through the network, a few at a time.

        Args:
            pixels: uint8 [n, height, width, 3], RGB, n >= 1.

        Returns:
            {output: float32 array}: "features" [n, features], "probabilities" [n, classes], "places" and a block [n,
            height, width, channels].
        """
        batches = [
            self._session.run(list(self._tensors.values()), {INPUT_NAME: pixels[start : start + BATCH]})
            for start in range(0, len(pixels), BATCH)
        ]
        arrays = {}
        for output, parts in zip(self._tensors, zip(*batches)):
            array = np.concatenate(parts)
            if output in self._channels_first:
                array = np.ascontiguousarray(array.transpose(0, 2, 3, 1))
            arrays[output] = array.reshape(len(array), -1) if output == FEATURES else array
        return arrays


def open_session(bundle, outputs, where_there=()):
    """Opens a bundle's network with inner outputs.

    Args:
        bundle: edge_runtime.bundle.reading.Bundle.
        outputs: list out of "features" (the input of the last dense layer), "places" (the tensor whose mean over all
            places is "features"), "mixed0" ... "mixed10" (InceptionV3's blocks, early to late), "probabilities".
        where_there: list of more of them: those that the network does not have are left out.

    Returns:
        InnerSession.

    Raises:
        BundleError: the file is corrupt. UsageError: the network does not have one of outputs.
        MissingRequirement: onnx or ONNX Runtime is not installed.
    """
    onnx = require("onnx")
    require("onnxruntime")  # before the file is read
    path = bundle.file("model.onnx")
    data = bundle.read("model.onnx")
    try:
        model = onnx.load_model_from_string(data)
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except MemoryError:
        raise
    except Exception as error:  # protobuf's and onnx's own
        raise BundleError(f"{path}: is no ONNX file ({error}); make the bundle again")
    end = ending.ending_of(inferred, OUTPUT_NAME)
    names, missing, channels_first = {OUTPUT_NAME: OUTPUT_NAME}, {}, set(BLOCKS)
    if isinstance(end, str):
        missing = dict.fromkeys((FEATURES, PLACES), f"its network {end}")
    else:
        names[FEATURES] = end.features
        if end.places:
            names[PLACES] = end.places
            channels_first.update([] if end.is_nhwc else [PLACES])
        missing[PLACES] = "its network does not end in the mean over all places and one dense layer"
    blocks = _blocks(model.graph)
    if len(blocks) == len(BLOCKS):
        names.update(zip(BLOCKS, blocks))
    no_inception = f"its network is no InceptionV3: {len(BLOCKS)} blocks that join branches expected, got {len(blocks)}"
    for output in outputs:
        if output not in names:
            raise UsageError(f"{path}: has no {output}: {missing.get(output, no_inception)}; use another bundle")
    wanted = list(outputs) + [output for output in where_there if output in names and output not in outputs]
    tensors = collections.OrderedDict()
    del model.graph.output[:]
    for output in wanted:
        tensors[output] = names[output] if output == OUTPUT_NAME else "inner/" + output
        if output != OUTPUT_NAME:  # some networks compute in float16
            cast = onnx.helper.make_node("Cast", [names[output]], [tensors[output]], to=onnx.TensorProto.FLOAT)
            model.graph.node.append(cast)
        model.graph.output.append(onnx.helper.make_tensor_value_info(tensors[output], onnx.TensorProto.FLOAT, None))
    onnx_session = session(model.SerializeToString(), cpu.core_count(), optimize=True)
    kernel, bias = (None, None) if isinstance(end, str) else (end.kernel, end.bias)
    return InnerSession(onnx_session, tensors, channels_first, kernel, bias)


def _blocks(graph):
    """Returns the names of the tensors of BLOCKS; another number of names where the network is no InceptionV3.

    A block ends where its branches are joined along the channels (NCHW: axis 1). Names do not identify blocks: Keras 3
    calls mixed9 "mixed9_1", which in Keras 2 is a join inside mixed9. Inner joins, where the exporter kept them, feed
    only other joins. ONNX lists nodes in the order of computation.
    """
    users = collections.defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    joins = [node for node in graph.node if _joins_channels(node)]
    return [node.output[0] for node in joins if not all(_joins_channels(user) for user in users[node.output[0]])]


def _joins_channels(node):
    return node.op_type == "Concat" and any(
        attribute.name == "axis" and attribute.i == 1 for attribute in node.attribute
    )
