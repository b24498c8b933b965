"""TensorFlow Lite models in float: run by LiteRT, which checks the file before it opens it; converted by tf2onnx."""

import os
import zipfile

import numpy as np

from edge_runtime.errors import UsageError
from edge_runtime.machine.libraries import require
from edge_runtime.text import printable
from train.importing import archives, labels
from train.importing.original import Declared, Original
from train.importing.readers import tensorflow_graph
from train.model import tf_setup, to_onnx

_MARK = b"TFL3"  # after the four bytes of a flatbuffer's offset
FLOAT_EXPORT = (
    "export it in float: in Teachable Machine Tensorflow Lite > Floating point; with TensorFlow's converter without "
    "optimizations. picnic-edge convert --precision int8 then quantizes it, and checks the answers"
)


def recognizes(path):
    """Tells whether a file is a TensorFlow Lite model."""
    if os.path.isdir(path):
        return False
    with open(path, "rb") as file:
        return file.read(8)[4:] == _MARK


def read(path, options):
    """Opens a TensorFlow Lite model.

    Args:
        path: of the file.
        options: see train.importing.readers.read_original; --output names one of several outputs.

    Returns:
        train.importing.original.Original. LiteRT runs it, one photo at a time.

    Raises:
        UsageError: it is damaged, quantized, or no classifier of photos.
        MissingRequirement: LiteRT or TensorFlow is missing.
    """
    litert = require("ai_edge_litert.interpreter")
    with open(path, "rb") as file:
        data = file.read()
    try:
        with tf_setup.nothing_on_stderr():
            interpreter = litert.Interpreter(model_content=data)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = printable(str(error).strip().splitlines()[0][:200])
        raise UsageError(
            f"{path}: LiteRT does not open it ({reason}); copy or export it again, without custom operations"
        )
    sources, targets = interpreter.get_input_details(), interpreter.get_output_details()
    if len(sources) != 1:
        raise UsageError(f"{path}: takes {len(sources)} inputs; expected one, the photo")
    if any(len(tensor["quantization_parameters"]["scales"]) for tensor in interpreter.get_tensor_details()):
        raise UsageError(f"{path}: is quantized to 8 bits, which cannot be undone; {FLOAT_EXPORT}")
    names = [detail["name"] for detail in targets]
    target = targets[names.index(tensorflow_graph.one_output(path, names, options.output))]
    source = sources[0]
    dtype = np.dtype(source["dtype"]).name
    layout, height, width = tensorflow_graph.picture_input(path, _shape(source), dtype)
    outputs = tensorflow_graph.row_of_numbers(path, _shape(target), np.dtype(target["dtype"]).name)
    model = _to_onnx(path, target["name"])
    tensorflow_graph.check_head(path, model, outputs, options.labels is not None)

    def answer(picture):
        interpreter.set_tensor(source["index"], picture)
        interpreter.invoke()
        return interpreter.get_tensor(target["index"])

    run = tensorflow_graph.one_by_one(answer, [1])
    kind, class_names = "TensorFlow Lite model", _class_names(path, outputs)
    return Original(path, kind, model, layout, dtype, height, width, outputs, class_names, Declared(), run)


def _shape(detail):
    return [int(side) if side >= 0 else None for side in detail["shape_signature"]]


def _to_onnx(path, output):
    """Returns the model as onnx.ModelProto with the one output of that name."""
    tf2onnx = to_onnx.quiet_tf2onnx()
    with tensorflow_graph.quiet_tensorflow(), tf_setup.nothing_on_stderr(), to_onnx.frequent_garbage_collection():
        return tensorflow_graph.checked_conversion(
            path, lambda: tf2onnx.convert.from_tflite(path, output_names=[output], opset=to_onnx.OPSET)[0]
        )


def _class_names(path, outputs):
    """Returns the labels that are packed behind a model with metadata; None where there are none, or another number."""
    if not zipfile.is_zipfile(path):
        return None
    with archives.unpacked(path) as folder:
        files = [name for name in archives.file_names(folder) if name.endswith(".txt")]
        if len(files) != 1:
            return None
        names = labels.read_class_names(os.path.join(folder, files[0]))
    return names if len(names) == outputs else None
