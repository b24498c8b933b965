"""What the tests of the readers for Keras and TensorFlow share."""

import types

import numpy as np

from tests.helpers import content_of

PICTURES = np.random.RandomState(0).uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)


def options(labels=None, output=None, trust=False):
    """What the command gives to a reader."""
    return types.SimpleNamespace(labels=labels, input=None, output=output, trust=trust)


def onnx_answers(original, pictures=PICTURES):
    """Returns what the ONNX model of an Original answers, one by one where its batch is fixed."""
    from edge_runtime.engines.onnxruntime import session

    opened = session(original.model.SerializeToString(), 1, optimize=True)
    source = opened.get_inputs()[0]
    batches = [picture[None] for picture in pictures] if source.shape[0] == 1 else [pictures]
    return np.concatenate([opened.run(None, {source.name: batch})[0] for batch in batches])


def check(original, expected, pictures=PICTURES):
    """Asserts that an Original answers pictures as expected, by its own framework and as ONNX."""
    answers = original.run(pictures)
    assert answers.dtype == np.float32 and answers.shape == (len(pictures), original.outputs)
    np.testing.assert_allclose(answers, expected, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(onnx_answers(original, pictures), expected, rtol=1e-5, atol=2e-6)
    assert [entry.version for entry in original.model.opset_import if entry.domain == ""] == [13]
    assert len(original.model.graph.input) == len(original.model.graph.output) == 1


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
