"""ONNX files: opened without believing what they claim, cut to one input and one output, made free of a fixed batch."""

import functools
import mmap
import os

import numpy as np

from edge_runtime.bundle.onnx_file import names_other_files
from edge_runtime.console import say
from edge_runtime.engines.onnxruntime import session
from edge_runtime.errors import UsageError
from edge_runtime.machine import cpu
from edge_runtime.machine.libraries import require
from edge_runtime.photos.spec import MAX_SIDE, MIN_SIDE
from edge_runtime.text import printable
from train.importing import batch, labels, onnx_weights, opsets, trial
from train.importing.original import Original
from train.importing.readers import custom_vision, tensorflow_graph, ultralytics

_SUBGRAPHS = ("Loop", "Scan", "If", "SequenceMap")


def recognizes(path):
    """Tells whether a file is an ONNX model, by its name or its content."""
    if not os.path.isfile(path):
        return False
    if path.lower().endswith((".onnx", ".pb", ".mlmodel")):  # a SavedModel and Core ML begin in the same way
        return path.lower().endswith(".onnx")
    with open(path, "rb") as file:
        if file.read(1) != b"\x08" or os.path.getsize(path) > onnx_weights.MAX_BYTES:  # its first field: ir_version
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                names_other_files(data)
                model = require("onnx").ModelProto.FromString(data[:])
            except Exception:  # protobuf raises classes of its own
                return False
    return model.HasField("graph") and bool(model.opset_import)


def read(path, options):
    """Reads a classifier from an ONNX file. The arguments and errors are those of readers.read_original."""
    onnx = require("onnx")
    model, changed = onnx_weights.load(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    kind, class_names, declared = _said(path, metadata, options)
    if getattr(model, "functions", ()):
        model, changed = _inlined(path, model), True
    output, zipped_names = _choose_output(path, model, options)
    class_names = class_names or zipped_names
    model, cut = _cut(path, model, options.input, output)
    _check_operators(path, model)
    layout, dtype, height, width, fixed = _describe_input(path, model)

    data = model.SerializeToString() if changed or cut else onnx_weights.bytes_of(path)
    sides = (height or declared.height, width or declared.width)
    _check_sides(f"{path}: its metadata says that it", sides)
    pictures = batch.noise(layout, dtype, *sides)
    batches = [_fill(pictures[:1], fixed)] if fixed else [pictures[:1], pictures]
    answers = trial.run_limited(path, data, batches)
    _check_answers(path, answers[0], len(batches[0]))
    tensorflow_graph.check_head(path, model, int(np.prod(answers[0].shape[1:])), has_labels=True)
    run = functools.partial(_run, session(data, cpu.core_count(), optimize=True), fixed)
    expected = run(pictures)
    alone = np.concatenate([run(pictures[place : place + 1]) for place in range(len(pictures))])
    if not fixed and not batch.close(alone, expected, batch.largest_difference(pictures, expected)):
        raise UsageError(
            f"{path}: a photo's answer depends on the other photos of its batch, or on chance: it was exported while "
            "training. Export it after model.eval()"
        )

    _end_in_rows(onnx, model, answers[0])
    same = batch.same_answers(pictures, expected)
    model = batch.with_free_batch(path, model, same)
    model = _in_opset_13(path, model, same)
    return Original(
        path=path,
        kind=kind,
        model=model,
        layout=layout,
        dtype=dtype,
        height=height,
        width=width,
        outputs=expected.shape[1],
        class_names=class_names,
        declared=declared,
        run=run,
    )


def _said(path, metadata, options):
    """Returns (kind, class names or None, Declared) by what the makers' tools write into a file."""
    if options.labels:  # these names count; the file's may be wrong
        metadata = dict(metadata, names="")
    if ultralytics.is_theirs(metadata):
        return ultralytics.said(path, metadata)
    if custom_vision.is_theirs(metadata):
        return "Custom Vision ONNX model", None, custom_vision.declared(path, metadata)
    names = None
    if metadata.get("names"):  # YOLOv5 writes no more than that
        names = labels.names_of_mapping(metadata["names"], f"{path}, names in its metadata")
    return "ONNX model", names, custom_vision.declared(path, metadata)


# --- what is in it


def _inlined(path, model):
    """Returns a model whose functions (PyTorch's newer exporter writes them) are replaced by what is in them."""
    try:
        inliner = require("onnx.inliner")
    except Exception:
        raise UsageError(f"{path}: holds functions, which this version of onnx cannot unfold; pip install 'onnx>=1.15'")
    return inliner.inline_local_functions(model)


def _choose_output(path, model, options):
    """Returns (name of the tensor to answer with, class names that are in the graph or None)."""
    graph, wanted = model.graph, options.output
    producers = {name: node for node in graph.node for name in node.output}
    known = [output.name for output in graph.output]
    if wanted is not None:
        if wanted not in producers:
            raise UsageError(
                f"{path}: --output {wanted}: it has no such tensor; its outputs are {_listed(graph.output)}"
            )
        return wanted, None
    tensors, zipped = [], {}
    for output in graph.output:
        producer = producers.get(output.name)
        if producer is not None and producer.op_type == "ZipMap":  # Custom Vision: {label: probability}
            zipped[output.name] = producer
        elif _elem_type(output) in _FLOATS:
            tensors.append(output.name)
    if not tensors and len(zipped) == 1:
        producer = next(iter(zipped.values()))
        names = [name for one in producer.attribute if one.name == "classlabels_strings" for name in one.strings]
        text = [] if options.labels else [name.decode("utf-8", "replace") for name in names]
        return producer.input[0], labels.checked_names(text, path) if text else None
    if len(tensors) == 1:
        return tensors[0], None
    if not tensors:
        raise UsageError(
            f"{path}: none of its outputs holds numbers per class: {_listed(graph.output)}. Choose the tensor with the "
            "logits or probabilities with --output NAME"
        )
    words = ("box", "score", "det", "mask", "keypoint")
    is_detector = any(word in name.lower() for name in known for word in words)
    raise UsageError(
        f"{path}: has {len(known)} outputs: {_listed(graph.output)}. "
        + ("It looks like a detector, which cannot be imported; for" if is_detector else "For")
        + " a classifier choose the one with the logits or probabilities: --output NAME"
    )


_FLOATS = (1, 10, 11)  # TensorProto: float, float16, double
_TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    8: "text",
    9: "bool",
    10: "float16",
    11: "float64",
}


def _elem_type(value):
    return value.type.tensor_type.elem_type  # 0 for a sequence or a map


def _dims(value):
    """Returns the dimensions of a ValueInfoProto: ints, names, or None where nothing is said."""
    return [dim.dim_value or dim.dim_param or None for dim in value.type.tensor_type.shape.dim]


def _listed(values):
    """Returns inputs or outputs as text: name, type, shape."""
    return ", ".join(f"{printable(value.name)} ({_type_text(value)})" for value in list(values)[:8])


def _type_text(value):
    number = _elem_type(value)
    return f"{_TYPES.get(number, f'type {number}')} {_shape_text(value)}" if number else "no tensor"


def _shape_text(value):
    return "[" + ", ".join(str(side or "?") for side in _dims(value)) + "]"


def _cut(path, model, wanted, output):
    """Returns (the model with what output needs and nothing else, whether anything was changed)."""
    onnx = require("onnx")
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    needed, pending, kept = set(), [output], set()
    while pending:
        name = pending.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in producers:
            kept.add(id(producers[name]))
            pending += [source for source in producers[name].input if source]
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants and value.name in needed]
    if len(inputs) != 1:
        what = f"{len(inputs)} inputs: {_listed(inputs)}" if inputs else "no input"
        raise UsageError(f"{path}: has {what}; a classifier takes one, the pictures. Export it with that one alone")
    if wanted is not None and wanted != inputs[0].name:
        raise UsageError(f"{path}: --input {wanted}: expected {printable(inputs[0].name)}, the only one that it needs")
    nodes = [node for node in graph.node if id(node) in kept]
    is_whole = [value.name for value in graph.output] == [output] and len(nodes) == len(graph.node)
    result = onnx.ModelProto()
    result.ir_version = model.ir_version
    result.opset_import.extend(entry for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    result.graph.name = graph.name or "classifier"
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in needed)
    result.graph.input.extend(inputs)
    if model.ir_version < 4:  # constants are inputs there
        result.graph.input.extend(value for value in graph.input if value.name in constants and value.name in needed)
    known = [value for value in graph.output if value.name == output and _elem_type(value)]
    if not known:  # its type is worked out; the trial tells its shape
        known = [value for value in opsets.inferred_values(result) if value.name == output and _elem_type(value)]
    unknown = [onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)]
    result.graph.output.extend(known or unknown)
    were_numbers = [_make_free(value) for value in list(result.graph.input) + list(result.graph.output)]
    return result, not is_whole or any(were_numbers)


def _make_free(value):
    """Makes dimensions of -1 or 0, which some write for any size, free, in place; tells whether there were any."""
    sides = [dim for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value") and dim.dim_value <= 0]
    for dim in sides:
        dim.ClearField("dim_value")
    return bool(sides)


def _check_operators(path, model):
    """Raises UsageError for operators that this product's engines do not all have."""
    foreign = sorted(
        {f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    )
    if foreign:
        raise UsageError(
            f"{path}: needs operators that are not ONNX's own: {', '.join(foreign[:5])}. "
            + (
                "ONNX Runtime wrote it for one machine; give the file from before it was optimized"
                if any(name.startswith(("com.microsoft", "ai.onnx.contrib")) for name in foreign)
                else "Export it without them"
            )
        )
    kinds = {node.op_type for node in model.graph.node}
    for node in model.graph.node:
        if node.domain == "ai.onnx":
            node.domain = ""
        if node.op_type in _SUBGRAPHS or any(one.HasField("g") or one.graphs for one in node.attribute):
            raise UsageError(
                f"{path}: holds {node.op_type} ({printable(node.name or node.output[0])}), a part that runs "
                "conditionally or repeatedly: engines cannot be built of it. Export it with a fixed size, or simplify "
                "it: pip install onnxsim; onnxsim MODEL.onnx SIMPLER.onnx"
            )
    random = sorted(kinds & {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli"})
    if random:
        raise UsageError(
            f"{path}: answers by chance ({', '.join(random)}); a classifier gives the same answer each time"
        )


def _describe_input(path, model):
    """Returns (layout, dtype, height, width, the fixed batch or None) of a model's input; None for any size."""
    value = model.graph.input[0]
    dtype, dims = _TYPES.get(_elem_type(value), "another type"), _dims(value)
    said = f"{path}: its input {_listed([value])}"
    if len(dims) == 3 and 3 in (dims[0], dims[2]):
        raise UsageError(f"{said} takes a single picture; export it with a batch in front")
    if len(dims) != 4:
        raise UsageError(
            f"{said} is no batch of pictures; expected [batch, 3, height, width] or [batch, height, width, 3]"
        )
    if dtype not in ("float32", "float16", "uint8"):
        raise UsageError(
            f"{said} takes {dtype}; expected float32, float16 or uint8"
            + (" (export it before it is quantized, `convert --precision int8` does that)" if dtype == "int8" else "")
        )
    layout = _layout(model, dims)
    if layout is None:
        raise UsageError(f"{said} has no dimension of 3 colours: grey or other pictures cannot be imported")
    height, width = dims[2:] if layout == "NCHW" else dims[1:3]
    sides = [side if isinstance(side, int) else None for side in (height, width)]
    _check_sides(said, sides)
    if isinstance(dims[0], int) and dims[0] > batch.MAX_BATCH:
        raise UsageError(f"{said} takes {dims[0]} pictures at a time; export it with a free batch")
    return layout, dtype, sides[0], sides[1], dims[0] if isinstance(dims[0], int) else None


def _check_sides(said, sides):
    if any(side is not None and not MIN_SIDE <= side <= MAX_SIDE for side in sides):
        raise UsageError(
            f"{said} takes pictures of {sides[0]} x {sides[1]} (height x width); {MIN_SIDE} to {MAX_SIDE} pixels fit"
        )


def _layout(model, dims):
    """Returns "NCHW", "NHWC", or None where the input has no three colours."""
    if dims[1] == 3 or dims[3] == 3:
        return "NCHW" if dims[1] == 3 else "NHWC"
    free = [place for place in (1, 3) if not isinstance(dims[place], int)]
    users = [node for node in model.graph.node if model.graph.input[0].name in node.input]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in users:
        if node.op_type == "Conv" and 1 in free and node.input[1] in weights and weights[node.input[1]].dims[1] == 3:
            return "NCHW"
        if node.op_type == "Transpose" and 3 in free and [list(one.ints) for one in node.attribute] == [[0, 3, 1, 2]]:
            return "NHWC"
    for place, layout in ((1, "NCHW"), (3, "NHWC")):
        if place in free and "channel" in str(dims[place]).lower():
            return layout
    return None


# --- what it answers


def _fill(pictures, fixed):
    """Returns pictures, the last repeated, so that there are as many as the fixed batch has."""
    return np.concatenate([pictures, np.repeat(pictures[-1:], fixed - len(pictures), axis=0)])


def _run(model, fixed, pictures):
    """Returns float32 [n, outputs], the original's answers to n pictures."""
    name = model.get_inputs()[0].name
    step = fixed or max(len(pictures), 1)
    rows = []
    for start in range(0, len(pictures), step):
        part = pictures[start : start + step]
        answers = model.run(None, {name: _fill(part, fixed) if fixed else part})[0]
        rows.append(np.reshape(answers, (len(answers), -1))[: len(part)])
    return np.concatenate(rows).astype(np.float32)


def _check_answers(path, answers, pictures):
    """Raises UsageError where an answer is none of a classifier."""
    if not isinstance(answers, np.ndarray) or answers.dtype.kind != "f":
        what = answers.dtype if isinstance(answers, np.ndarray) else type(answers).__name__
        raise UsageError(
            f"{path}: answers with {what}, not with one number per class; choose the tensor with the logits or "
            "probabilities with --output NAME"
        )
    shape = list(answers.shape)
    if len(shape) == 4 and shape[0] == pictures and (shape[2:] == [1, 1] or shape[1:3] == [1, 1]):
        shape = [shape[0], max(shape[1], shape[3])]
    text = f"{path}: answers {list(answers.shape)} to {pictures} picture" + ("s" if pictures > 1 else "")
    if len(shape) == 4:
        raise UsageError(
            f"{text}: a map of the picture (segmentation, depth) or a feature map, not one row per picture"
        )
    if len(shape) == 3:
        raise UsageError(f"{text}: rows of boxes (a detector) or features of patches, not one row per picture")
    if len(shape) != 2 or shape[0] != pictures:
        raise UsageError(f"{text}: expected one row per picture, with one number per class")
    if shape[1] < 2:
        raise UsageError(f"{text}: one number, a yes or no (sigmoid) or a measure; expected one per class, 2 or more")


def _end_in_rows(onnx, model, answers):
    """Makes the output float32 [n, classes], in place."""
    graph = model.graph
    name = graph.output[0].name
    steps = []
    if answers.ndim == 4:
        steps.append(("Flatten", {"axis": 1}))
    if answers.dtype != np.float32:
        steps.append(("Cast", {"to": onnx.TensorProto.FLOAT}))
    names = {name for node in graph.node for name in node.output}
    for number, (kind, attributes) in enumerate(steps):
        result = f"{name}_rows_{number}"
        while result in names:
            result += "_"
        graph.node.append(onnx.helper.make_node(kind, [name], [result], **attributes))
        name = result
    sides = [_dims(graph.input[0])[0] or "batch", int(np.prod(answers.shape[1:]))]
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sides))


def _in_opset_13(path, model, same):
    """Returns the model in opset 13 where its numbers stay the same; else as it is, and says what that means."""
    opset = opsets.opset_of(model)
    if opset == opsets.OPSET:
        return model
    changed, lacking = opsets.in_opset_13(model)
    if changed is not None and same(changed):
        return changed
    if opset > opsets.OPSET:
        cause = f"opset 13 has no {', '.join(lacking)}" if lacking else "its numbers change in opset 13"
        say(
            f"the model stays in opset {opset}, since {cause}. TensorRT 8.2 (JetPack 4.6) reads up to opset 13: there "
            "convert --to tensorrt refuses this bundle, other engines take it"
        )
    return model
