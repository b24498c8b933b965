"""An ONNX file becomes a model with all weights inside; what it claims is checked before it is believed."""

import os

from edge_runtime.bundle.onnx_file import names_other_files
from edge_runtime.errors import UsageError
from edge_runtime.machine.libraries import require
from edge_runtime.text import printable

MAX_BYTES = (2 << 30) - (1 << 20)  # of protobuf, which holds the bundle's model; its own nodes need a little
# bits of a value, by TensorProto's data types 1 (float) to 24
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16}
_BITS.update({17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8})


def load(path):
    """Opens an ONNX file.

    Returns:
        (onnx.ModelProto with all weights inside, whether they came from other files).

    Raises:
        UsageError: it is no ONNX file or a part of one, too large, a constant's shape does not fit its data, or weights
            are elsewhere than in plain files beside it.
    """
    onnx = require("onnx")
    size_bytes = os.path.getsize(path)
    if size_bytes > MAX_BYTES:
        raise UsageError(f"{path}: has {size_bytes} bytes; a bundle's model must be smaller than 2 GiB")
    data = bytes_of(path)
    try:
        is_split = names_other_files(data)
        model = onnx.ModelProto()
        model.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError is another class in each version
        raise UsageError(f"{path}: is no ONNX file, or only a part of one ({error}); export or copy it again")
    if not model.graph.node or not model.graph.output:
        raise UsageError(f"{path}: is no ONNX file, or only a part of one (no network in it); export or copy it again")
    total_bytes = len(data)
    for tensor in _tensors(path, model):
        total_bytes += _check_claim(path, tensor)
        if total_bytes > MAX_BYTES:
            raise UsageError(f"{path}: its weights take more than 2 GiB; a bundle's model is one file below that")
    if is_split:
        for tensor in _tensors(path, model):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                _load_external(path, tensor)
        if names_other_files(model.SerializeToString()):
            raise UsageError(f"{path}: a function or a loop in it keeps weights in other files, which are not read")
    return model, is_split


def bytes_of(path):
    """Returns the content of a file."""
    with open(path, "rb") as file:
        return file.read()


def _tensors(path, model):
    """Yields the TensorProtos of a graph's constants. Raises UsageError for sparse ones."""
    graph = model.graph
    yield from graph.initializer
    sparse = len(graph.sparse_initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            sparse += attribute.HasField("sparse_tensor") + len(attribute.sparse_tensors)
    if sparse:
        raise UsageError(f"{path}: has sparse constants, which no engine here reads; export it with dense ones")


def _check_claim(path, tensor):
    """Returns the bytes of a tensor in another file, 0 for one in this file. Its shape must fit its data."""
    onnx = require("onnx")
    name = printable(tensor.name or "a constant")
    count = 1
    for side in tensor.dims:
        count *= max(side, -1)
    if count < 0 or any(side < 0 for side in tensor.dims):
        raise UsageError(f"{path}: {name} has the shape {list(tensor.dims)}; the file is damaged")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _, _, length = _external_place(path, tensor)
        return length
    if tensor.data_type == onnx.TensorProto.STRING:
        return 0
    bits = _BITS.get(tensor.data_type)
    if bits is None:
        raise UsageError(f"{path}: {name} has the ONNX type {tensor.data_type}, which is not known here")
    if tensor.HasField("raw_data"):
        fits, there = len(tensor.raw_data) == (count * bits + 7) // 8, f"{len(tensor.raw_data)} bytes"
    else:
        fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        values = max(len(field) for field in fields)
        fits = values in (count, 2 * count) or (bits < 8 and values == (count * bits + 7) // 8)
        there = f"{values} values"
    if not fits:
        raise UsageError(
            f"{path}: {name} claims the shape {list(tensor.dims)} ({count * bits // 8 >> 20} MiB) and holds "
            f"{there}; the file is damaged"
        )
    return 0


def _external_place(path, tensor):
    """Returns (file, offset, length in bytes) of a tensor that is in another file, which must be beside the model."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location, name = entries.get("location", ""), printable(tensor.name)
    if os.path.basename(location) != location or location in ("", ".", ".."):
        raise UsageError(
            f"{path}: {name} is kept in {printable(location)!r}; weights are read from plain names beside the "
            "model only"
        )
    file = os.path.join(os.path.dirname(path), location)
    if not os.path.isfile(file):
        raise UsageError(
            f"{path}: its weights are in {printable(location)}, which is not beside it; copy that file, too"
        )
    size_bytes = os.path.getsize(file)
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", size_bytes - offset))
    except ValueError:
        raise UsageError(f"{path}: {name} has no valid place in {printable(location)}; the file is damaged")
    if offset < 0 or length < 0 or offset + length > size_bytes:
        raise UsageError(
            f"{path}: {name} is bytes {offset} to {offset + length} of {printable(location)}, which has {size_bytes}; "
            "it is damaged, or only a part of it was copied"
        )
    return file, offset, length


def _load_external(path, tensor):
    file, offset, length = _external_place(path, tensor)
    with open(file, "rb") as data:
        data.seek(offset)
        tensor.raw_data = data.read(length)
    del tensor.external_data[:]
    tensor.data_location = require("onnx").TensorProto.DEFAULT
    _check_claim(path, tensor)
