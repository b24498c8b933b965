"""Tensors whose values are in other files are found wherever onnx.proto allows a tensor."""

import random

import numpy as np
import pytest

from edge_runtime.bundle import onnx_file

onnx = pytest.importorskip("onnx")

TENSOR = "TensorProto"


def a_model():
    """Returns a small valid model."""
    helper, kinds = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"], name="location")],
        "graph",
        [helper.make_tensor_value_info("x", kinds.FLOAT, [4])],
        [helper.make_tensor_value_info("y", kinds.FLOAT, [4])],
        [onnx.numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")],
    )
    return helper.make_model(graph)


def ways_to_a_tensor(message=None, way=(), seen=()):
    """Yields the fields that lead from a model to a tensor, each way once through every kind of message."""
    message = message or onnx.ModelProto.DESCRIPTOR
    for field in message.fields:
        inner = field.message_type
        if inner is None or inner.name in seen:
            continue
        if inner.name == TENSOR:
            yield way + (field,)
        else:
            for found in ways_to_a_tensor(inner, way + (field,), seen + (inner.name,)):
                yield found


def is_repeated(field):
    return field.label == field.LABEL_REPEATED if hasattr(field, "label") else field.is_repeated


def tensor_at(model, way):
    """Adds a tensor to a model where a way leads to, and returns it."""
    message = model
    for field in way:
        place = getattr(message, field.name)
        message = place.add() if is_repeated(field) else place
    return message


WAYS = list(ways_to_a_tensor())


@pytest.mark.parametrize("way", WAYS, ids=lambda way: ".".join(field.name for field in way))
def test_a_tensor_elsewhere_is_found_wherever_it_is(way):
    model = a_model()
    tensor = tensor_at(model, way)
    tensor.name = "weights"
    assert not onnx_file.names_other_files(model.SerializeToString())
    tensor.data_location = onnx.TensorProto.EXTERNAL
    assert onnx_file.names_other_files(model.SerializeToString())


def test_all_ways_are_tried():
    assert len(WAYS) >= 10
    assert {way[0].name for way in WAYS} >= {"graph", "training_info"}


def test_deep_graphs_are_looked_through():
    model = a_model()
    graph = model.graph
    for _ in range(30):
        graph = graph.node.add().attribute.add().g
    graph.initializer.add().data_location = onnx.TensorProto.EXTERNAL
    assert onnx_file.names_other_files(model.SerializeToString())


@pytest.mark.parametrize("data", [b"\x0f", b"\x00\x01", b"\x08", b"\x08" + b"\xff" * 20, b"\x3a\x7f", b"\x09abc"])
def test_what_is_no_protobuf_is_no_onnx_file(data):
    with pytest.raises(ValueError):
        onnx_file.names_other_files(data)


def test_whatever_the_bytes_are_the_answer_is_yes_no_or_no_onnx_file():
    model = a_model()
    tensor_at(model, WAYS[0]).data_location = onnx.TensorProto.EXTERNAL
    whole, chance = model.SerializeToString(), random.Random(7)
    answers = set()
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            answers.add(onnx_file.names_other_files(bytes(data)))
        except ValueError:
            answers.add("no ONNX file")
    assert answers == {True, False, "no ONNX file"}
