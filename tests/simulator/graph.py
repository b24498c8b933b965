"""What the simulated TensorRT knows about an ONNX model, and the running of it through ONNX Runtime."""

import functools
import hashlib
import json
import struct
import typing

import numpy as np

Binding = typing.NamedTuple(
    "Binding",
    [
        ("name", str),
        ("is_input", bool),
        ("onnx_dtype", str),  # numpy's name
        ("shape", tuple),  # int, or a name or -1 where it is dynamic
    ],
)
_MAGIC = b"ftrt"


def bindings_of(model):
    """Returns the Bindings of an ONNX model: inputs that are no weights, then outputs."""
    import onnx

    weights = {value.name for value in model.graph.initializer}
    values = [(value, True) for value in model.graph.input if value.name not in weights]
    found = []
    for value, is_input in values + [(value, False) for value in model.graph.output]:
        kind = value.type.tensor_type
        dtype = _numpy_name(onnx, kind.elem_type)
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or -1 for dim in kind.shape.dim)
        found.append(Binding(value.name, is_input, dtype, shape))
    return found


def cast_to(node):
    """Returns numpy's name of the type that a Cast node casts to."""
    import onnx

    return _numpy_name(onnx, [attribute.i for attribute in node.attribute if attribute.name == "to"][0])


def _numpy_name(onnx, elem_type):
    kinds = onnx.TensorProto
    names = {kinds.FLOAT: "float32", kinds.FLOAT16: "float16", kinds.INT8: "int8", kinds.INT32: "int32"}
    names.update({kinds.BOOL: "bool", kinds.UINT8: "uint8", kinds.INT64: "int64"})
    return names.get(elem_type, kinds.DataType.Name(elem_type))


def rounded(data, precision):
    """Returns an ONNX file's bytes with the float32 weights as a precision leaves them: the simulated engine's loss.

    fp16: through float16. int8: to 127 steps of the largest of each output channel. Activations stay float32.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(data)
    tensors = list(model.graph.initializer)
    tensors += [
        a.t for node in model.graph.node if node.op_type == "Constant" for a in node.attribute if a.name == "value"
    ]
    for tensor in tensors:
        weights = numpy_helper.to_array(tensor)
        if weights.dtype != np.float32:
            continue
        with np.errstate(over="ignore"):
            if precision == "fp16":
                weights = weights.astype(np.float16).astype(np.float32)
            elif weights.ndim > 1:
                step = np.abs(weights).max(axis=tuple(range(1, weights.ndim)), keepdims=True) / 127
                weights = np.round(weights / np.maximum(step, 1e-30)) * step
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(weights.astype(np.float32), name))
    return model.SerializeToString()


@functools.lru_cache(maxsize=2)
def session(data, precision):
    """Returns an ONNX Runtime session for an ONNX file's bytes at a precision: "fp32", "fp16" or "int8"."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    model = data if precision == "fp32" else rounded(data, precision)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(data, precision, feeds):
    """Runs the model. feeds: {name: array}. Returns the outputs in the graph's order."""
    if precision != "fp32":
        feeds = {n: a.astype(np.float16).astype(np.float32) if a.dtype == np.float32 else a for n, a in feeds.items()}
    with np.errstate(over="ignore"):
        return session(data, precision).run(None, feeds)


def write_plan(header, data):
    """Returns the bytes of a serialized engine: magic, sha256, header (JSON), ONNX file."""
    text = json.dumps(header, sort_keys=True).encode()
    body = struct.pack("<I", len(text)) + text + data
    return _MAGIC + hashlib.sha256(body).digest() + body


def read_plan(plan):
    """Returns (header, the ONNX file's bytes). Raises ValueError: it is no plan, or not as it was written."""
    plan = bytes(plan)
    body = plan[36:]
    if plan[:4] != _MAGIC or plan[4:36] != hashlib.sha256(body).digest():
        raise ValueError("no plan")
    size = struct.unpack("<I", body[:4])[0]
    return json.loads(body[4 : 4 + size].decode()), body[4 + size :]
