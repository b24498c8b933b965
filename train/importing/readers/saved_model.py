"""TensorFlow SavedModels: of TensorFlow 2, run by their signature, and of TensorFlow 1, run by a session."""

import os

import numpy as np

from edge_runtime.errors import UsageError, is_out_of_memory
from edge_runtime.machine.libraries import require
from edge_runtime.text import printable
from train.importing import archives
from train.importing.original import Declared, Original
from train.importing.readers import tensorflow_graph, tensorflow_operations

_GRAPH = "saved_model.pb"
_DEFAULT = "serving_default"
_INIT = "__saved_model_init_op"  # a signature that only sets variables
_TAG = "serve"


def recognizes(path):
    """Tells whether a folder or zip holds one SavedModel."""
    return len(_graphs(path)) == 1


def _graphs(path):
    return [name for name in archives.file_names(path) if name == _GRAPH or name.endswith("/" + _GRAPH)]


def read(path, options):
    """Opens a SavedModel.

    Args:
        path: its folder, a folder above it, or a zip with it.
        options: see train.importing.readers.read_original; --output names a signature, or one of several outputs of the
            signature serving_default or the only one.

    Returns:
        train.importing.original.Original. TensorFlow itself runs it.

    Raises:
        UsageError: it is damaged or no classifier of photos; several signatures, and none was named.
        MissingRequirement: TensorFlow is missing.
    """
    (graph,) = _graphs(path)
    with archives.unpacked(path) as content:
        folder = os.path.join(content, os.path.dirname(graph))
        with tensorflow_graph.quiet_tensorflow():
            meta = _meta_graph(path, folder)
            if not options.trust:
                tensorflow_operations.refuse_others(path, meta)
            _check_variables(path, folder, meta)
            name, signature, wanted = _signature(path, meta, options.output)
            source = _only_input(path, signature)
            target = tensorflow_graph.one_output(path, _float_outputs(signature), wanted)
            shape, dtype = _shape(signature.inputs[source]), _dtype(signature.inputs[source])
            tensorflow_graph.picture_input(path, shape, dtype)
            tensorflow_graph.row_of_numbers(path, _shape(signature.outputs[target]), _dtype(signature.outputs[target]))
            kind = f"SavedModel of TensorFlow {printable(meta.meta_info_def.tensorflow_version or '1 or 2')}"
            has_labels = options.labels is not None
            pictures = (shape, dtype)
            if meta.HasField("object_graph_def"):
                return _read_2(path, folder, kind, (name, source, target), pictures, has_labels)
            return _read_1(path, folder, kind, signature, source, target, pictures, has_labels)


def _loaded(path, load, *arguments):
    """Returns what TensorFlow loads. Raises UsageError: it cannot."""
    try:
        return load(*arguments)
    except Exception as error:  # OpError, which is no ValueError, OSError, KeyError, ...
        if is_out_of_memory(error):
            raise
        reason = printable((str(error).strip() or type(error).__name__).splitlines()[0][:300])
        raise UsageError(f"{path}: TensorFlow does not open it ({reason}); copy or export it again")


def _meta_graph(path, folder):
    """Returns the MetaGraphDef to serve, parsed and not loaded."""
    file = os.path.join(folder, _GRAPH)
    if os.path.getsize(file) >= tensorflow_graph.MAX_BYTES:
        raise UsageError(f"{path}: {_GRAPH} has {os.path.getsize(file)} bytes; at most {tensorflow_graph.MAX_BYTES}")
    saved_model = require("tensorflow.core.protobuf.saved_model_pb2").SavedModel()
    decode_error = require("google.protobuf.message").DecodeError
    with open(file, "rb") as opened:
        try:
            saved_model.ParseFromString(opened.read())
        except decode_error as error:
            raise UsageError(f"{path}: {_GRAPH} is damaged or not whole ({error}); copy or export it again")
    tagged = [meta for meta in saved_model.meta_graphs if list(meta.meta_info_def.tags) == [_TAG]]
    if not tagged:
        tags = [" + ".join(meta.meta_info_def.tags) for meta in saved_model.meta_graphs]
        raise UsageError(
            f"{path}: holds no graph with the tag {_TAG!r} (it has {printable(', '.join(tags)) or 'none'}); export "
            "it for serving"
        )
    return tagged[0]


def _check_variables(path, folder, meta):
    kinds = {node.op for node in meta.graph_def.node}
    index = os.path.join(folder, "variables", "variables.index")
    if kinds & {"VarHandleOp", "VariableV2", "Variable"} and not os.path.isfile(index):
        raise UsageError(
            f"{path}: its weights are missing: no {os.path.join('variables', 'variables.index')} beside {_GRAPH}"
        )


def _signature(path, meta, output):
    """Returns (name, SignatureDef, name of the output to take, or None)."""
    signatures = {name: meta.signature_def[name] for name in meta.signature_def if name != _INIT}
    if not signatures:
        raise UsageError(
            f"{path}: has no signature, which says what goes in and comes out; save it with one: "
            "tf.saved_model.save(model, FOLDER, signatures=...)"
        )
    if output in signatures:
        return output, signatures[output], None
    if _DEFAULT in signatures or len(signatures) == 1:
        name = _DEFAULT if _DEFAULT in signatures else list(signatures)[0]
        return name, signatures[name], output
    name = tensorflow_graph.one_output(path, signatures, output, "signatures, and none is named serving_default")
    return name, signatures[name], None


def _only_input(path, signature):
    names = sorted(signature.inputs)
    if len(names) != 1:
        raise UsageError(
            f"{path}: takes {len(names)} inputs ({printable(', '.join(names[:8]))}); expected one, the photos"
        )
    return names[0]


def _float_outputs(signature):
    """Returns the names of the outputs that may be logits or probabilities; of all where none may."""
    names = [name for name in sorted(signature.outputs) if _dtype(signature.outputs[name]).startswith("float")]
    return names or sorted(signature.outputs)


def _shape(info):
    """Returns the shape of a signature's tensor, None for any size; None where it is not known."""
    if info.tensor_shape.unknown_rank:
        return None
    return [side.size if side.size >= 0 else None for side in info.tensor_shape.dim]


def _dtype(info):
    return require("tensorflow").as_dtype(info.dtype).name


def _read_2(path, folder, kind, names, pictures, has_labels):
    """Returns the Original of a SavedModel of TensorFlow 2; names are those of the signature, its input and output."""
    loaded = _loaded(path, require("tensorflow").saved_model.load, folder)
    name, source, target = names

    def call(pictures):
        return loaded.signatures[name](**{source: pictures})[target]

    return tensorflow_graph.from_function(path, kind, call, pictures[0], pictures[1], Declared(), has_labels)


def _read_1(path, folder, kind, signature, source, target, pictures, has_labels):
    """Returns the Original of a SavedModel of TensorFlow 1, whose variables TensorFlow 2 may be unable to trace."""
    tensorflow = require("tensorflow")
    source, target = signature.inputs[source].name, signature.outputs[target].name
    graph = tensorflow.Graph()
    with graph.as_default():
        session = tensorflow.compat.v1.Session(graph=graph)
        _loaded(path, tensorflow.compat.v1.saved_model.loader.load, session, [_TAG], folder)
        answers = graph.get_tensor_by_name(target)
        if answers.dtype != tensorflow.float32:
            answers = tensorflow.cast(answers, tensorflow.float32)
        shape, dtype = pictures
        layout, height, width = tensorflow_graph.picture_input(path, shape, dtype)
        dims = None if answers.shape.rank is None else answers.shape.as_list()
        count = tensorflow_graph.row_of_numbers(path, dims, "float32")
        frozen = tensorflow.compat.v1.graph_util.convert_variables_to_constants(
            session, graph.as_graph_def(), [answers.op.name]
        )
    for node in frozen.node:  # such as is_training: without this it would be an input of the ONNX model
        if node.op == "PlaceholderWithDefault" and node.name != source.split(":")[0]:
            node.op = "Identity"
            node.attr["T"].CopyFrom(node.attr.pop("dtype"))
            del node.attr["shape"]
    model = tensorflow_graph.converted(path, frozen, source, answers.name)
    tensorflow_graph.check_head(path, model, count, has_labels)

    def answer(pictures):
        return np.asarray(session.run(answers, {source: pictures}))

    run = tensorflow_graph.in_batches(answer, shape[0] if shape is not None else None)
    model = tensorflow_graph.with_free_batch(path, model, layout, dtype, height, width, run)
    return Original(path, kind, model, layout, dtype, height, width, count, None, Declared(), run)
