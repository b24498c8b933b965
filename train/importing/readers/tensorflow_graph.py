"""What the readers of Keras, TensorFlow and TensorFlow Lite share: what a classifier must look like, and its ONNX."""

import contextlib
import logging
import warnings

import numpy as np

from edge_runtime.errors import UsageError, is_out_of_memory
from edge_runtime.machine.libraries import require
from edge_runtime.photos.spec import MAX_SIDE, MIN_SIDE
from edge_runtime.text import printable
from train.importing import batch
from train.importing.original import Original
from train.model import tf_setup, to_onnx

DTYPES = ("float32", "float16", "uint8")
MAX_BYTES = 2 << 30  # of all weights together: what an ONNX file of one piece can hold
# What stands between the layer that decides and the output, in ONNX.
_PASSED = ("Identity", "Cast", "Reshape", "Squeeze", "Flatten", "Add", "BatchNormalization", "Mul", "Div", "Transpose")
_POOLS = ("GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool", "ReduceMean", "ReduceMax", "Relu", "Concat")
_BOXES = ("box", "anchor", "detection")


@contextlib.contextmanager
def quiet_tensorflow():
    """Yields the module tensorflow; within the block it and its libraries say nothing, but for errors."""
    tf_setup.load_tensorflow()
    logging.getLogger("absl").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield require("tensorflow")


def picture_input(path, shape, dtype):
    """Returns (layout, height, width) of a network's input.

    Args:
        path: for messages.
        shape: of the input with the batch, a list of numbers and None (any size); None where the file does not say it.
        dtype: numpy's name.

    Raises:
        UsageError: it takes no photos.
    """
    if dtype in ("object", "string", "bytes"):
        raise UsageError(
            f"{path}: takes text or encoded files (serialized examples, JPEGs), no pixels; expected float32 [n, "
            "height, width, 3]. Export it once more with a signature that takes pixels"
        )
    if dtype not in DTYPES:
        raise UsageError(f"{path}: takes numbers of type {dtype}; expected {', '.join(DTYPES)}")
    if shape is None:
        return "NHWC", None, None
    text = _shown(shape)
    if len(shape) != 4:
        raise UsageError(f"{path}: takes {text}; expected one photo, [n, height, width, 3]")
    if shape[0] is not None and shape[0] > batch.MAX_BATCH:
        raise UsageError(f"{path}: takes {shape[0]} photos at a time; export it with a free batch")
    layout = "NCHW" if shape[1] == 3 and shape[3] != 3 else "NHWC"
    height, width, channels = shape[2:] + shape[1:2] if layout == "NCHW" else shape[1:]
    if channels not in (3, None):
        raise UsageError(f"{path}: takes {text}, {channels} channels; expected photos in colour, of 3")
    for side in (height, width):
        if side is not None and not MIN_SIDE <= side <= MAX_SIDE:
            raise UsageError(f"{path}: takes {text}; expected {MIN_SIDE} to {MAX_SIDE} pixels of height and width")
    return layout, height, width


def row_of_numbers(path, shape, dtype):
    """Returns how many numbers a network answers for a photo.

    Args:
        shape, dtype: of its output, as for picture_input.

    Raises:
        UsageError: it is no classifier's.
    """
    if dtype not in ("float32", "float16"):
        raise UsageError(
            f"{path}: answers {dtype}; expected float32 [n, classes], the logits or probabilities of all classes"
        )
    if shape is None:
        raise UsageError(f"{path}: does not say the shape of its answer; expected [n, classes]")
    if len(shape) == 4:
        raise UsageError(
            f"{path}: answers {_shown(shape)}, a picture of numbers (segmentation, or a network without its last "
            "layers); expected [n, classes]"
        )
    if len(shape) == 3:
        raise UsageError(f"{path}: answers {_shown(shape)}, as a detector does; expected a classifier's [n, classes]")
    if len(shape) != 2 or shape[1] is None:
        raise UsageError(f"{path}: answers {_shown(shape)}; expected [n, classes]")
    if shape[1] < 2:
        raise UsageError(
            f"{path}: answers one number for a photo, a yes or no; expected one for each of two classes or more. "
            "Give the network a last layer of two outputs and softmax, and train it again"
        )
    return shape[1]


def _shown(shape):
    return "[{}]".format(", ".join("n" if side is None else str(side) for side in shape))


def one_output(path, names, wanted, what="outputs"):
    """Returns the name of the output to take.

    Args:
        names: of all outputs.
        wanted: --output, or None.

    Raises:
        UsageError: there is no such one, or several and none was named.
    """
    names = list(names)
    listed = ", ".join(printable(name) for name in sorted(names)[:8])
    if wanted is not None:
        if wanted not in names:
            raise UsageError(f"--output {wanted}: {path} has no such one; it has {listed}")
        return wanted
    if len(names) == 1:
        return names[0]
    if any(word in name.lower() for name in names for word in _BOXES):
        raise UsageError(f"{path}: is a detector (its outputs: {listed}); expected a classifier of whole photos")
    raise UsageError(f"{path}: has {len(names)} {what} ({listed}); name the one with the classes: --output NAME")


def from_function(path, kind, call, shape, dtype, declared, has_labels):
    """Returns the Original of a network that TensorFlow can trace.

    Args:
        path, kind, declared: as in Original.
        call: function from a tensor, the pictures, to a tensor.
        shape, dtype: of the pictures, see picture_input.
        has_labels: the user names as many classes as there are outputs: they are classes, whatever they look like.

    Raises:
        UsageError: it is no classifier of photos, or has an operation without counterpart in ONNX.
    """
    layout, height, width = picture_input(path, shape, dtype)
    constants = require("tensorflow.python.framework.convert_to_constants")
    with quiet_tensorflow() as tensorflow:
        spec = tensorflow.TensorSpec(shape if shape is not None else [None, None, None, 3], dtype)

        def in_float32(pictures):
            answers = call(pictures)
            return tensorflow.cast(answers, tensorflow.float32) if answers.dtype.is_floating else answers

        function = tensorflow.function(in_float32, input_signature=[spec], autograph=False)
        graph = _or_error(path, function.get_concrete_function)
        (output,) = graph.outputs
        dims = None if output.shape.rank is None else output.shape.as_list()
        count = row_of_numbers(path, dims, output.dtype.base_dtype.name)
        frozen = _or_error(path, lambda: constants.convert_variables_to_constants_v2(graph, lower_control_flow=False))
        model = converted(path, frozen.graph.as_graph_def(), frozen.inputs[0].name, frozen.outputs[0].name)
    check_head(path, model, count, has_labels)

    def answer(pictures, _network=call):  # the variables live only as long as their network
        return graph(tensorflow.constant(pictures)).numpy()

    run = in_batches(answer, shape[0] if shape is not None else None)
    model = with_free_batch(path, model, layout, dtype, height, width, run)
    return Original(path, kind, model, layout, dtype, height, width, count, None, declared, run)


def in_batches(answer, fixed):
    """Returns Original.run of a function from pictures to numbers.

    Args:
        answer: the function.
        fixed: how many pictures it takes at a time, None for any number. The last batch is filled up
            with its last picture.
    """

    def run(pictures):
        pictures = np.ascontiguousarray(pictures)
        rows = []
        for start in range(0, len(pictures), fixed or max(len(pictures), 1)):
            part = pictures[start : start + fixed] if fixed else pictures
            places = np.minimum(np.arange(fixed or len(part)), len(part) - 1)
            rows.append(answer(part[places])[: len(part)])
        return np.concatenate(rows).astype(np.float32)

    return run


def with_free_batch(path, model, layout, dtype, height, width, run):
    """Returns an onnx.ModelProto that takes any number of pictures; the other arguments are attributes of Original.

    Raises:
        UsageError: its batch is fixed, and cannot be freed without changing the answers.
    """
    if batch.fixed_batch(model) is None:
        return model
    pictures = batch.noise(layout, dtype, height, width)
    return batch.with_free_batch(path, model, batch.same_answers(pictures, run(pictures)))


def converted(path, graph_def, source, target):
    """Returns a frozen graph as onnx.ModelProto. Raises UsageError: an operation of it has no counterpart in ONNX."""
    return checked_conversion(path, lambda: to_onnx.to_onnx(graph_def, source, target))


def checked_conversion(path, convert):
    """Returns the onnx.ModelProto that convert() returns.

    Raises:
        UsageError: it fails, or leaves an operation of TensorFlow as it is, which no other library runs.
    """
    model = _or_error(path, convert)
    defs = require("onnx").defs
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or not defs.has(node.op_type):
            raise UsageError(
                f"{path}: its operation {printable(node.op_type)} has no counterpart in ONNX; export the model "
                "without it"
            )
    return model


def _or_error(path, convert):
    """Returns what convert() returns. Raises UsageError for what TensorFlow or tf2onnx raise, which is of any kind."""
    try:
        return convert()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = printable((str(error).strip() or type(error).__name__).splitlines()[0][:200])
        raise UsageError(f"{path}: cannot be converted to ONNX ({reason}); export it as ONNX where it was trained")


def check_head(path, model, outputs, has_labels):
    """Looks at how a network ends.

    Args:
        model: onnx.ModelProto with one output.
        outputs: how many numbers it answers for a photo.
        has_labels: see from_function.

    Raises:
        UsageError: in a sigmoid, as for several labels a photo; in an average of features, without a dense layer.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    constants = {value.name for value in model.graph.initializer}
    name = model.graph.output[0].name
    for _ in range(len(producers)):
        node = producers.get(name)
        if node is None or node.op_type in ("Softmax", "LogSoftmax", "MatMul", "Gemm", "Conv"):
            return
        if node.op_type in ("Sigmoid", "HardSigmoid"):
            raise UsageError(
                f"{path}: ends in a sigmoid: each of its {outputs} numbers is a yes or no of its own (several labels a "
                "photo). Expected a classifier with one label a photo, which ends in a softmax"
            )
        if node.op_type in _POOLS and not has_labels:
            raise UsageError(
                f"{path}: answers {outputs} numbers that no dense layer gives ({node.op_type} is the last): the "
                "features of a network without its top. Add the layer that was trained for your classes, or if they "
                "are classes, name them with --labels"
            )
        if node.op_type not in _PASSED:
            return
        name = next((name for name in node.input if name not in constants), "")
