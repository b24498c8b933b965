"""TensorFlow Lite files: float ones are read, quantized and damaged ones refused."""

import zipfile

import numpy as np
import pytest

from edge_runtime.errors import UsageError
from tests.train.importing.tensorflow_models import PICTURES, check, options, read_unchanged
from train.importing.readers import tflite

pytest.importorskip("ai_edge_litert", reason="LiteRT needs Python 3.9")


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """write(float16=, weights=, all8=): the path of a network of a few layers, and its Keras model."""
    from train.model import tf_setup

    tf_setup.load_tensorflow()
    import tensorflow

    keras = tensorflow.keras
    folder = tmp_path_factory.mktemp("tflite")
    source = keras.layers.Input((32, 32, 3))
    small = keras.initializers.RandomNormal(stddev=0.002, seed=0)  # large logits would round too much to compare
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", kernel_initializer=small)(source)
    x = keras.layers.DepthwiseConv2D(3)(x)
    outputs = keras.layers.Dense(3, activation="softmax")(keras.layers.Dense(1024)(keras.layers.Flatten()(x)))
    model = keras.Model(source, outputs)

    def convert(name, kind="float32"):
        converter = tensorflow.lite.TFLiteConverter.from_keras_model(model)
        if kind != "float32":
            converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
        if kind == "float16":
            converter.target_spec.supported_types = [tensorflow.float16]
        if kind == "int8":
            converter.representative_dataset = lambda: ([picture[None]] for picture in PICTURES)
            converter.target_spec.supported_ops = [tensorflow.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tensorflow.uint8
        with tf_setup.nothing_on_stderr():
            data = converter.convert()
        (folder / name).write_bytes(data)
        return str(folder / name)

    return convert, model


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_float_models(write, kind):
    convert, model = write
    original = read_unchanged(tflite, convert(kind + ".tflite", kind))
    expected = model.predict(PICTURES, verbose=0) if kind == "float32" else original.run(PICTURES)
    check(original, expected)
    assert np.abs(expected - model.predict(PICTURES, verbose=0)).max() < 0.02
    assert (original.layout, original.dtype, original.height, original.outputs) == ("NHWC", "float32", 32, 3)
    assert original.class_names is None


@pytest.mark.parametrize("kind", ["weights", "int8"])
def test_quantized_models_are_refused(write, kind):
    with pytest.raises(UsageError, match="quantized to 8 bits.*Floating point"):
        tflite.read(write[0](kind + ".tflite", kind), options())


def test_labels_packed_behind_the_model(write, tmp_path):
    path = write[0]("labels.tflite")
    for names, expected in [("cat\ndog\nowl\n", ["cat", "dog", "owl"]), ("cat\ndog\n", None)]:
        packed = tmp_path / "packed.tflite"
        with open(path, "rb") as file:
            packed.write_bytes(file.read())
        with zipfile.ZipFile(str(packed), "a") as archive:
            archive.writestr("labels.txt", names)
        assert read_unchanged(tflite, packed).class_names == expected


def test_damaged_models(write, tmp_path):
    with open(write[0]("whole.tflite"), "rb") as file:
        data = file.read()
    changed = bytearray(data)
    changed[40:400] = bytes(range(180)) * 2
    for content in (data[: len(data) // 2], bytes(changed), data[:8]):
        (tmp_path / "model.tflite").write_bytes(content)
        with pytest.raises(UsageError, match="LiteRT does not open it"):
            tflite.read(str(tmp_path / "model.tflite"), options())
    (tmp_path / "model.tflite").write_bytes(b"no model")
    assert not tflite.recognizes(str(tmp_path / "model.tflite")) and not tflite.recognizes(str(tmp_path))
