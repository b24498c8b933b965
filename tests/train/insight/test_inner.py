"""Inner tensors of a bundle's network."""

import os

import numpy as np
import pytest

from edge_runtime.bundle import manifest, writing
from edge_runtime.bundle.reading import Bundle
from edge_runtime.errors import BundleError, UsageError
from edge_runtime.photos import spec
from tests import helpers
from train.insight import inner


def softmax(logits):
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def rewrite(folder, change):
    """Changes a bundle's ONNX graph and signs the bundle again."""
    import onnx

    path = os.path.join(folder, "model.onnx")
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)
    os.unlink(os.path.join(folder, manifest.MANIFEST))
    writing.write_manifest(folder, sorted(helpers.COLOURS), spec.to_manifest(spec.INCEPTION_V3), {}, {})
    return Bundle.open(folder)


@pytest.fixture
def blocks_bundle(tmp_path):
    return helpers.write_blocks_bundle(tmp_path / "blocks")


def test_features_kernel_and_bias_give_the_probabilities(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    sample = bundle.sample()
    pixels = np.concatenate([sample.images, sample.images[::-1]])  # more than one run's worth
    session = inner.open_session(bundle, ["probabilities", "features"])
    outputs = session.run(pixels)
    assert list(outputs) == ["probabilities", "features"]
    np.testing.assert_allclose(outputs["features"], pixels.mean(axis=(1, 2)) / 255, atol=1e-4)
    np.testing.assert_allclose(
        softmax(outputs["features"].dot(session.kernel) + session.bias), outputs["probabilities"], atol=1e-6
    )
    np.testing.assert_allclose(outputs["probabilities"][: len(sample.images)], sample.probabilities, atol=1e-4)
    assert (session.kernel.shape, session.bias.shape) == ((3, 3), (3,))
    assert {array.dtype for array in list(outputs.values()) + [session.kernel, session.bias]} == {np.dtype(np.float32)}


def test_blocks_come_in_order_with_channels_last(blocks_bundle):
    pixels = np.zeros((1, 299, 299, 3), np.uint8)
    pixels[0, :33, 33:66] = (255, 102, 51)  # the place in row 0, column 1
    outputs = inner.open_session(Bundle.open(blocks_bundle), list(inner.BLOCKS)).run(pixels)
    assert list(outputs) == list(inner.BLOCKS)
    for array in outputs.values():
        assert (array.shape, array.dtype) == ((1, 9, 9, 4), np.float32)
        np.testing.assert_allclose(array[0, 0, 1], [1, 0.4, 0.2, 1.6 / 3], atol=1e-4)
        assert array.sum() == pytest.approx(array[0, 0, 1].sum())


def test_each_block_is_its_own(blocks_bundle):
    def double_from_the_fourth_on(graph):
        (node,) = [node for node in graph.node if node.output[0] == "colour4"]
        node.input[1] = "doubled"
        (keep,) = [value for value in graph.initializer if value.name == "keep"]
        doubled = graph.initializer.add()
        doubled.CopyFrom(keep)
        doubled.name = "doubled"
        doubled.raw_data = (np.frombuffer(keep.raw_data, np.float32) * 2).tobytes()

    bundle = rewrite(blocks_bundle, double_from_the_fourth_on)
    outputs = inner.open_session(bundle, list(inner.BLOCKS)).run(np.full((1, 299, 299, 3), 51, np.uint8))
    red = [round(float(outputs[block][0, 0, 0, 0]), 4) for block in inner.BLOCKS]
    assert red == 4 * [0.2] + 7 * [0.4]


def test_a_network_without_inception_s_blocks(tiny_bundle):
    with pytest.raises(UsageError, match="InceptionV3.* 11 .* 0"):
        inner.open_session(Bundle.open(tiny_bundle), ["mixed10"])


def test_a_network_without_a_last_dense_layer(tiny_bundle):
    def cut(graph):
        del graph.node[3:]
        graph.output[0].name = "colour"

    with pytest.raises(UsageError, match="model.onnx: .*dense layer"):
        inner.open_session(rewrite(tiny_bundle, cut), ["features"])


def test_a_model_file_that_is_no_onnx(tiny_bundle):
    helpers.write_bytes(os.path.join(tiny_bundle, "model.onnx"), b"\xff\xff no model")
    os.unlink(os.path.join(tiny_bundle, manifest.MANIFEST))
    writing.write_manifest(tiny_bundle, sorted(helpers.COLOURS), spec.to_manifest(spec.INCEPTION_V3), {}, {})
    with pytest.raises(BundleError, match="model.onnx .*ONNX"):
        inner.open_session(Bundle.open(tiny_bundle), ["features"])
