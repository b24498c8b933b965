"""Keras files of several versions: read as the same network, or refused as what they are."""

import json
import os
import shutil
import sys
import types
import zipfile

import numpy as np
import pytest

from edge_runtime.errors import MissingRequirement, UsageError
from tests.helpers import ROOT
from tests.train.importing.tensorflow_models import PICTURES, check, options, read_unchanged
from train.importing.readers import keras_config, keras_file

KERAS_2 = os.path.join(ROOT, "tests", "data", "keras-2.6")  # make.py there wrote them


@pytest.fixture(scope="module")
def keras():
    from train.model import tf_setup

    tf_setup.load_tensorflow()
    import tensorflow

    return tensorflow.keras


@pytest.fixture(scope="module")
def keras_3(keras):
    if keras.__version__.startswith("2"):
        pytest.skip("needs Keras 3")
    return keras


def network(keras, source, activation="softmax", classes=3):
    small = keras.initializers.RandomNormal(stddev=0.002, seed=0)  # large logits would round too much to compare
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu", kernel_initializer=small)(source)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.DepthwiseConv2D(3)(x))
    return keras.layers.Dense(classes, activation=activation, name="classes")(x)


def saved(keras, path, build, shape=(32, 32, 3)):
    """Saves the model from one input to build(input); returns (path, model)."""
    source = keras.layers.Input(shape)
    model = keras.Model(source, build(source))
    model.save(str(path))
    return str(path), model


@pytest.mark.parametrize(
    "name, mean, source",
    [
        ("teachable_machine", 127.5, "layer names (MobileNetV2"),
        ("transfer", 0.0, "layer 'tf.math.truediv"),
        ("caffe", 0.0, "layer 'tf.nn.bias_add"),
        ("others", 0.0, "layer 'tf.math.truediv"),
    ],
)
def test_files_of_keras_2_answer_as_they_did_there(name, mean, source):
    """They have layers with groups, models within models, TensorFlow's functions as layers, and names with slashes."""
    original = read_unchanged(keras_file, os.path.join(KERAS_2, name + ".h5"))
    with open(os.path.join(KERAS_2, "answers.json")) as file:
        check(original, json.load(file)[name])
    assert (original.layout, original.height, original.width, original.outputs) == ("NHWC", 32, 32, 3)
    assert original.declared.mean == (mean,) * 3 and source in original.declared.source
    assert "2.6" in original.kind


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_files_of_the_keras_that_is_here(keras, tmp_path, suffix):
    if suffix == ".keras" and keras.__version__.startswith("2"):
        pytest.skip("this Keras writes none")

    def build(source):
        preprocessing = getattr(keras.layers, "Rescaling", None) or keras.layers.experimental.preprocessing.Rescaling
        return network(keras, preprocessing(1 / 127.5, -1.0)(source))

    path, model = saved(keras, tmp_path / ("model" + suffix), build, (32, 48, 3))
    original = read_unchanged(keras_file, path)
    pictures = np.random.RandomState(1).uniform(0, 255, (5, 32, 48, 3)).astype(np.float32)
    check(original, model.predict(pictures, verbose=0), pictures)
    assert (original.height, original.width, original.class_names) == (32, 48, None)
    assert (original.declared.channels, original.declared.std) == ("RGB", (1.0, 1.0, 1.0))


def test_preprocess_input_of_keras_3_is_recognized(keras_3, tmp_path):
    for name, preprocess_input in [
        ("tf", keras_3.applications.mobilenet_v2.preprocess_input),
        ("caffe", keras_3.applications.resnet50.preprocess_input),
    ]:
        path, model = saved(
            keras_3,
            tmp_path / (name + ".keras"),
            lambda source, prepare=preprocess_input: network(keras_3, prepare(source)),
        )
        original = read_unchanged(keras_file, path)
        check(original, model.predict(PICTURES, verbose=0))
        assert original.declared.std == (1.0, 1.0, 1.0), name


def test_a_batch_of_one_any_size_and_channels_first(keras, tmp_path):
    source = keras.layers.Input(batch_shape=(1, 32, 32, 3))
    model = keras.Model(source, network(keras, source))
    model.save(str(tmp_path / "one.h5"))
    check(read_unchanged(keras_file, tmp_path / "one.h5"), np.concatenate([model(p[None]).numpy() for p in PICTURES]))

    path, model = saved(keras, tmp_path / "any.h5", lambda source: network(keras, source), (None, None, 3))
    original = read_unchanged(keras_file, path)
    check(original, model(PICTURES).numpy())
    assert (original.height, original.width) == (None, None)

    first = lambda source: network(keras, keras.layers.Permute((2, 3, 1))(source))  # noqa: E731
    path, model = saved(keras, tmp_path / "first.h5", first, (3, 32, 48))
    original = read_unchanged(keras_file, path)
    assert (original.layout, original.height, original.width) == ("NCHW", 32, 48)


def test_mixed_precision_is_read_in_float32(keras, tmp_path):
    policy = keras.mixed_precision
    policy.set_global_policy("mixed_float16")
    try:
        path, model = saved(keras, tmp_path / "mixed.h5", lambda source: network(keras, source))
    finally:
        policy.set_global_policy("float32")
    original = read_unchanged(keras_file, path)
    assert original.run(PICTURES) == pytest.approx(model(PICTURES).numpy(), abs=0.03)
    assert {entry.data_type for entry in original.model.graph.initializer} <= {1, 7}  # float32, int64


def test_several_outputs_need_a_name(keras, tmp_path):
    def build(source):
        return [network(keras, source), keras.layers.Softmax(name="aux")(keras.layers.GlobalMaxPooling2D()(source))]

    path, model = saved(keras, tmp_path / "two.h5", build)
    with pytest.raises(UsageError, match="aux, classes.*--output"):
        keras_file.read(path, options())
    with pytest.raises(UsageError, match="no such"):
        keras_file.read(path, options(output="other"))
    check(keras_file.read(path, options(output="aux")), model(PICTURES)[1].numpy())


@pytest.mark.parametrize(
    "build, shape, words",
    [
        (lambda k, x: network(k, x, "sigmoid"), (32, 32, 3), "sigmoid"),
        (lambda k, x: network(k, x, "sigmoid", 1), (32, 32, 3), "one number"),
        (
            lambda k, x: k.layers.GlobalAveragePooling2D()(k.layers.Conv2D(4, 3, activation="relu")(x)),
            (32, 32, 3),
            "features",
        ),
        (lambda k, x: k.layers.Conv2D(4, 3)(x), (32, 32, 3), "segmentation"),
        (lambda k, x: network(k, x), (32, 32, 1), "1 channels"),
        (lambda k, x: network(k, x), (16, 32, 3), "32 to 1024"),
        (lambda k, x: k.layers.Dense(3)(x), (32,), "height, width"),
    ],
)
def test_what_is_no_classifier_of_photos_is_refused_as_what_it_is(keras, tmp_path, build, shape, words):
    path, _ = saved(keras, tmp_path / "model.h5", lambda source: build(keras, source), shape)
    with pytest.raises(UsageError, match=words):
        keras_file.read(path, options())


def test_pooled_numbers_are_classes_where_labels_name_them(keras, tmp_path):
    path, model = saved(
        keras, tmp_path / "pooled.h5", lambda x: keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(x))
    )
    check(keras_file.read(path, options(labels="labels.txt")), model(PICTURES).numpy())


def test_two_inputs(keras, tmp_path):
    one, two = keras.layers.Input((32, 32, 3)), keras.layers.Input((4,))
    x = keras.layers.Concatenate()([keras.layers.GlobalMaxPooling2D()(one), two])
    keras.Model([one, two], keras.layers.Dense(3)(x)).save(str(tmp_path / "model.h5"))
    with pytest.raises(UsageError, match="2 inputs"):
        keras_file.read(str(tmp_path / "model.h5"), options())


# What a Lambda layer may hold: code that leaves a trace, named by the environment.
TRAP = lambda pictures: (open(__import__("os").environ["PICNIC_EDGE_TRAP"], "w").close(), pictures / 255.0)[1]  # noqa: E731


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_lambda_layers_are_code(keras_3, tmp_path, monkeypatch, suffix):
    trace = tmp_path / "trace"
    monkeypatch.setenv("PICNIC_EDGE_TRAP", str(trace))
    inner = keras_3.Sequential([keras_3.layers.Lambda(TRAP, output_shape=(32, 32, 3), name="own")])
    path, _ = saved(keras_3, tmp_path / ("model" + suffix), lambda source: network(keras_3, inner(source)))
    with pytest.raises(UsageError, match="'own'.*program code.*--trust"):
        keras_file.read(path, options())
    assert not trace.exists()
    if suffix == ".keras":
        keras_file.read(path, options(trust=True))
        assert trace.exists()


def keras_zip(path, config, **members):
    """Writes a .keras file around a configuration."""
    with zipfile.ZipFile(str(path), "w") as archive:
        archive.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        archive.writestr("metadata.json", '{"keras_version": "3.10.0"}')
        archive.write(os.path.join(KERAS_2, "transfer.h5"), "model.weights.h5")
    return str(path)


def sequential(*layers):
    source = {"module": "keras.layers", "class_name": "InputLayer", "config": {"batch_shape": [None, 32, 32, 3]}}
    return {"module": "keras", "class_name": "Sequential", "config": {"layers": [source] + list(layers)}}


@pytest.mark.parametrize(
    "layer, words",
    [
        ({"module": "subprocess", "class_name": "Popen", "config": {"args": "true"}}, "subprocess"),
        ({"module": "builtins", "class_name": "exec", "config": {}}, "builtins"),
        (
            {
                "class_name": "Activation",
                "config": {
                    "activation": {
                        "module": "keras.config",
                        "class_name": "function",
                        "config": "enable_unsafe_deserialization",
                    }
                },
            },
            "enable_unsafe_deserialization",
        ),
        ({"class_name": "Mine", "registered_name": "My>Mine", "config": {}}, "My>Mine"),
        ({"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/x"}}, "TFSMLayer"),
        ({"module": "keras.layers", "class_name": "TextVectorization", "config": {"vocabulary": "/x"}}, "for text"),
        ({"class_name": "TFOpLambda", "config": {"function": "io.write_file"}}, "io.write_file"),
        ({"class_name": "Dense", "config": {"name": "d", "units": 10**10}}, "10000000000 outputs"),
        ({"class_name": "InputLayer", "config": {"batch_shape": [None, 10**6, 10**6, 3]}}, "1000000 pixels"),
    ],
)
def test_configurations_that_would_run_code_or_take_all_memory(tmp_path, layer, words):
    with pytest.raises(UsageError, match=words):
        keras_file.read(keras_zip(tmp_path / "model.keras", sequential(layer)), options())


@pytest.mark.parametrize("config", ["{", "[]", "[" * 100000, '{"class_name": "Sequential", "config": {"layers": 3}}'])
def test_damaged_configurations(tmp_path, config):
    with pytest.raises((UsageError, MissingRequirement), match="model.keras"):
        keras_file.read(keras_zip(tmp_path / "model.keras", config), options())


def test_keras_archives_need_a_newer_keras_than_the_boards(keras, tmp_path):
    if keras.__version__.startswith("3"):
        pytest.skip("this Keras reads them")
    with pytest.raises(MissingRequirement, match="TensorFlow 2.17"):
        keras_file.read(keras_zip(tmp_path / "model.keras", sequential()), options())


def test_files_without_a_network(keras, tmp_path):
    import h5py

    source = keras.layers.Input((32, 32, 3))
    keras.Model(source, network(keras, source)).save_weights(str(tmp_path / "model.weights.h5"))
    with pytest.raises(UsageError, match="weights only"):
        keras_file.read(str(tmp_path / "model.weights.h5"), options())

    with h5py.File(str(tmp_path / "other.h5"), "w") as file:
        file["temperatures"] = [1.0, 2.0]
    with pytest.raises(UsageError, match="no Keras model.*temperatures"):
        keras_file.read(str(tmp_path / "other.h5"), options())

    with open(os.path.join(KERAS_2, "transfer.h5"), "rb") as file:
        (tmp_path / "half.h5").write_bytes(file.read()[:9000])
    with pytest.raises(UsageError, match="not whole"):
        keras_file.read(str(tmp_path / "half.h5"), options())


def test_weights_that_lie_elsewhere_or_claim_too_much(tmp_path):
    import h5py

    for name, change, words in [
        ("link", lambda file: file.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/")), "is a link"),
        ("outside", lambda file: file.create_dataset("x", (4,), "f4", external=[("/etc/passwd", 0, 16)]), "in another"),
        ("large", lambda file: file.create_dataset("x", (10**10,), "f4", chunks=(10**5,)), "40000[0-9]* bytes"),
    ]:
        path = str(tmp_path / (name + ".h5"))
        shutil.copy(os.path.join(KERAS_2, "transfer.h5"), path)
        with h5py.File(path, "r+") as file:
            change(file)
        with pytest.raises(UsageError, match=words):
            keras_file.read(path, options())


def with_layer(tmp_path, kind):
    """Returns a copy of a Keras 2 file in which the Dropout layer is of another class."""
    import h5py

    path = str(tmp_path / "changed.h5")
    shutil.copy(os.path.join(KERAS_2, "transfer.h5"), path)
    with h5py.File(path, "r+") as file:
        text = file.attrs["model_config"]
        text = text.decode() if isinstance(text, bytes) else text
        file.attrs["model_config"] = text.replace('"class_name": "Dropout"', '"class_name": "%s"' % kind)
    return path


def test_what_keras_3_does_not_know_goes_to_tf_keras(keras, tmp_path, monkeypatch):
    path = with_layer(tmp_path, "DropoutOfOld")
    if keras.__version__.startswith("2"):
        with pytest.raises(UsageError, match="DropoutOfOld(.|\n)*SavedModel"):
            keras_file.read(path, options())
        return
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(UsageError, match="DropoutOfOld(.|\n)*pip install tf_keras"):
        keras_file.read(path, options())

    source = keras.layers.Input((32, 32, 3))
    model = keras.Model(source, network(keras, source))
    models = types.SimpleNamespace(load_model=lambda opened, compile: model if opened == path else None)
    monkeypatch.setitem(sys.modules, "tf_keras", types.SimpleNamespace(models=models))
    check(keras_file.read(path, options()), model(PICTURES).numpy())


@pytest.mark.parametrize(
    "name, scale",
    [
        ("mixed10", 127.5),
        ("block_16_project_BN", 127.5),
        ("conv5_block1_preact_bn", 127.5),
        ("conv5_block1_add", 103.939),
        ("block5_conv3", 103.939),
        ("conv5_block16_concat", 123.675),
        ("my_own_block", None),
    ],
)
def test_names_of_keras_applications_tell_the_scale(name, scale):
    layers = [{"class_name": "Conv2D", "config": {"name": "first"}}, {"class_name": "Conv2D", "config": {"name": name}}]
    declared = keras_config.declared({"class_name": "Sequential", "config": {"name": "mine", "layers": layers}})
    assert (declared.mean or (None,))[0] == scale


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, side, mean",
    [
        ("InceptionV3", 299, 127.5),
        ("MobileNetV2", 224, 127.5),
        ("EfficientNetB0", 224, 0.0),
        ("ResNet50", 224, 103.939),
    ],
)
def test_networks_of_keras_applications_at_their_own_size(keras, tmp_path, name, side, mean):
    """With random weights and a dense head; the first is the network of the hackathon of 2019."""
    base = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(side, side, 3))
    x = keras.layers.Dense(64, activation="relu")(keras.layers.GlobalAveragePooling2D()(base.output))
    model = keras.Model(base.input, keras.layers.Dense(9, activation="softmax")(x))
    model.save(str(tmp_path / "model.h5"), include_optimizer=False)
    original = read_unchanged(keras_file, tmp_path / "model.h5")
    pictures = np.random.RandomState(1).uniform(0, 255, (2, side, side, 3)).astype(np.float32)
    check(original, model.predict(pictures, verbose=0), pictures)
    assert original.declared.mean[0] == mean and original.height == side


def test_other_files_are_not_recognized(tmp_path):
    (tmp_path / "model.h5").write_bytes(b"not HDF5")
    with zipfile.ZipFile(str(tmp_path / "model.keras"), "w") as archive:
        archive.writestr("config.json", "{}")
    assert not any(keras_file.recognizes(str(path)) for path in [tmp_path] + list(tmp_path.iterdir()))
