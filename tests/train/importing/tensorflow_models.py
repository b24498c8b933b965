"""What the tests of the readers for Keras and TensorFlow share."""

import types

import numpy as np

from edge_runtime.photos.spec import InputSpec
from tests.helpers import content_of
from train.importing import graph
from train.importing.preprocessing import SCALES, Preprocessing

PICTURES = np.random.RandomState(0).uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)


def options(labels=None, output=None, trust=False):
    """What the command gives to a reader."""
    return types.SimpleNamespace(labels=labels, input=None, output=output, trust=trust)


def check(original, expected, pictures=PICTURES):
    """Asserts that an Original answers pictures as expected: by its own framework, as ONNX, and as a bundle's model."""
    from edge_runtime.engines.onnxruntime import session

    answers = original.run(pictures)
    assert answers.dtype == np.float32 and answers.shape == (len(pictures), original.outputs)
    np.testing.assert_allclose(answers, expected, rtol=1e-5, atol=2e-6)
    opened = session(original.model.SerializeToString(), 1, optimize=True)
    as_onnx = opened.run(None, {opened.get_inputs()[0].name: pictures})[0]
    np.testing.assert_allclose(as_onnx, expected, rtol=1e-5, atol=2e-6)
    assert [entry.version for entry in original.model.opset_import if entry.domain == ""] == [13]
    assert len(original.model.graph.input) == len(original.model.graph.output) == 1
    # With the shorter scale, logits are not so far apart that every probability is 0 or 1.
    sides = pictures.shape[1:3] if original.layout == "NHWC" else pictures.shape[2:]
    preprocessing = Preprocessing(InputSpec(*sides, filter="bilinear"), *SCALES["0..1"])
    kind = "probabilities" if np.allclose(np.sum(expected, axis=1), 1, atol=1e-3) else "logits"
    model = graph.bundle_model(original, preprocessing, kind)
    graph.check_numbers(model, original, preprocessing, kind)


def read_unchanged(reader, path, **settings):
    """Returns the Original that a reader makes of a file or folder, which must recognize it and leave it as it is."""
    path = str(path)
    assert reader.recognizes(path)
    before = _content(path)
    try:
        return reader.read(path, options(**settings))
    finally:
        assert _content(path) == before


def _content(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except IsADirectoryError:
        return content_of(path)
