"""Finds out whether an ONNX file keeps weights in other files. It reads the bytes: the board has no onnx package."""

# Where onnx.proto has tensors: {message: {number of a field: the message in it}}.
_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_DATA_LOCATION = 14  # of a tensor: 0 where its values are in this file
_FIXED_BYTES = {1: 8, 5: 4}  # by the kind of a field


def names_other_files(data):
    """Tells whether values of a model's tensors are in other files ("external data").

    ONNX Runtime opens these by itself: beside the model, and in the current folder where it was given bytes.

    Args:
        data: bytes of an ONNX file.

    Raises:
        ValueError: data is no ONNX file.
    """
    pending = [("model", 0, len(data))]
    while pending:
        message, place, end = pending.pop()
        while place < end:
            key, place = _number(data, place, end)
            field, kind = (key & 0xFFFFFFFF) >> 3, key & 7
            if kind == 0:
                value, place = _number(data, place, end)
                if message == "tensor" and field == _DATA_LOCATION and value:
                    return True
            elif kind == 2:
                size, place = _number(data, place, end)
                if field in _INSIDE[message]:
                    pending.append((_INSIDE[message][field], place, place + size))
                place += size
            elif kind in _FIXED_BYTES:
                place += _FIXED_BYTES[kind]
            else:
                raise ValueError(f"a field of kind {kind}")
            if not field or place > end:
                raise ValueError("a field that ends too late, or has no number")
    return False


def _number(data, place, end):
    """Returns a number of protobuf's (7 bits a byte, the lowest first), and the place behind it."""
    value = shift = 0
    while place < end and shift < 70:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise ValueError("a number without an end")
