"""A network wrapped in 24 ways: its preprocessing is recovered from photos alone."""

import os

import numpy as np
import pytest

from edge_runtime.bundle import writing
from edge_runtime.photos import spec
from tests.helpers import write_table
from tests.train.importing import networks
from train.experiments import disguises
from train.importing.preprocessing import scale_name

onnx = pytest.importorskip("onnx")
numpy_helper = pytest.importorskip("onnx.numpy_helper")
PHOTOS = 50


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle of networks.logits."""
    folder = tmp_path_factory.mktemp("bundle")
    make, float32 = onnx.helper.make_node, onnx.TensorProto.FLOAT
    constants = {
        "half": np.float32(1 / 127.5),
        "one": np.float32(-1),
        "first": networks.FIRST,
        "second": networks.SECOND,
    }
    side = networks.SIZE // networks.CELLS
    nodes = [
        make("Cast", ["images"], ["pixels"], to=float32),
        make("Mul", ["pixels", "half"], ["scaled"]),
        make("Add", ["scaled", "one"], ["around 0"]),
        make("Transpose", ["around 0"], ["channels first"], perm=[0, 3, 1, 2]),
        make("AveragePool", ["channels first"], ["cells"], kernel_shape=[side, side], strides=[side, side]),
        make("Transpose", ["cells"], ["channels last"], perm=[0, 2, 3, 1]),
        make("Flatten", ["channels last"], ["features"]),
        make("MatMul", ["features", "first"], ["hidden"]),
        make("Tanh", ["hidden"], ["bent"]),
        make("MatMul", ["bent", "second"], ["logits"]),
        make("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    shape = ["batch", networks.SIZE, networks.SIZE, 3]
    graph = onnx.helper.make_graph(
        nodes,
        "blocks",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, shape)],
        [onnx.helper.make_tensor_value_info("probabilities", float32, ["batch", networks.CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    model.ir_version = 7
    onnx.save(model, str(folder / "model.onnx"))
    writing.write_manifest(str(folder), networks.NAMES, spec.to_manifest(spec.squash(networks.SIZE)), {}, {})
    return str(folder)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blocks")
    paths = networks.write_blocks(folder, PHOTOS)
    rows = [(os.path.basename(path), networks.NAMES[number % 5]) for number, path in enumerate(paths)]
    write_table(folder / "check.tsv", rows)
    return str(folder / "check.tsv")


def test_ways_have_every_scale_with_every_resize_and_both_of_all_else():
    ways = disguises.ways(spec.squash(64))
    assert len(set(ways)) == len(ways) == 24
    both = [way.preprocessing for way in ways[:20]]
    names = {(scale_name(one.channels, one.mean, one.std), one.input_spec) for one in both}
    assert len(names) == 20
    for both in zip(*((way.layout, way.preprocessing.channels, way.kind, way.background) for way in ways)):
        assert len(set(both)) == 2


def test_the_preprocessing_of_24_disguises_is_recovered(bundle, table, capsys):
    disguises.main([bundle, "--check", table])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 24 + 1
    assert lines[-1].startswith("recovered: 24 of 24, from %d photos" % PHOTOS)
    assert all("%d of %d" % (PHOTOS, PHOTOS) in line for line in lines[2:-1])


def test_too_few_photos_are_refused(bundle, table):
    with pytest.raises(disguises.UsageError, match="50"):
        disguises.main([bundle, "--check", table, "--photos", "20"])
