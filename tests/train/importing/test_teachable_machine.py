"""Exports of Teachable Machine, as zips and folders."""

import json
import os
import re
import shutil
import zipfile

import pytest

from edge_runtime.bundle.reading import Bundle
from edge_runtime.errors import UsageError
from tests.helpers import ROOT, picnic_edge, write_photos
from tests.train.importing.tensorflow_models import check, options, read_unchanged
from train.importing.readers import keras_file, saved_model, teachable_machine

KERAS_2 = os.path.join(ROOT, "tests", "data", "keras-2.6")
LABELS = "0 Cat\r\n1 Dog house\r\n2 Owl\r\n"


@pytest.fixture
def export(tmp_path):
    """A folder as Teachable Machine's Keras zip has it."""
    folder = tmp_path / "converted_keras"
    folder.mkdir()
    shutil.copy(os.path.join(KERAS_2, "teachable_machine.h5"), str(folder / "keras_model.h5"))
    (folder / "labels.txt").write_text(LABELS)
    return folder


def zipped(folder):
    path = str(folder) + ".zip"
    with zipfile.ZipFile(path, "w") as archive:
        for parent, _, names in os.walk(str(folder)):
            for name in names:
                archive.write(os.path.join(parent, name), os.path.relpath(os.path.join(parent, name), str(folder)))
    return path


@pytest.mark.parametrize("pack, name", [(str, "keras_model.h5"), (zipped, "keras_Model.h5")])
def test_a_keras_export(export, pack, name):
    os.rename(str(export / "keras_model.h5"), str(export / name))
    path = pack(export)
    original = read_unchanged(teachable_machine, path)
    with open(os.path.join(KERAS_2, "answers.json")) as file:
        check(original, json.load(file)["teachable_machine"])
    assert original.path == path and "Teachable Machine" in original.kind
    assert original.class_names == ["Cat", "Dog house", "Owl"]
    declared = original.declared
    assert (declared.resize, declared.shorter_side, declared.filter) == ("crop", 32, "lanczos")
    assert (declared.channels, declared.mean, declared.std) == ("RGB", (127.5,) * 3, (127.5,) * 3)


def test_a_saved_model_export(export):
    from train.model import tf_setup

    tf_setup.load_tensorflow()
    import tensorflow

    module = tensorflow.Module()
    spec = tensorflow.TensorSpec([None, 32, 32, 3], name="sequential_1_input")
    weights = tensorflow.constant([[1.0, 0.0, 2.0]] * 3)
    function = tensorflow.function(lambda x: tensorflow.nn.softmax(tensorflow.reduce_mean(x, [1, 2]) @ weights), [spec])
    tensorflow.saved_model.save(module, str(export / "model.savedmodel"), signatures=function)
    os.remove(str(export / "keras_model.h5"))
    original = read_unchanged(teachable_machine, zipped(export))
    assert original.class_names == ["Cat", "Dog house", "Owl"] and "SavedModel" in original.kind
    assert saved_model.recognizes(str(export))  # without the labels it is one


def test_labels_of_the_user_replace_those_that_cannot_be_read(export):
    (export / "labels.txt").write_text("0 Cat\n1 Cat\n2 Owl\n")
    with pytest.raises(UsageError, match="same name.*--labels"):
        teachable_machine.read(str(export), options())
    assert teachable_machine.read(str(export), options(labels="labels.txt")).class_names is None


def test_a_quantized_export_says_what_to_choose(export):
    os.rename(str(export / "keras_model.h5"), str(export / "model.tflite"))
    with pytest.raises(UsageError, match="quantized.*Export Model > Tensorflow > Keras"):
        teachable_machine.read(zipped(export), options())


def test_errors_name_the_zip(export):
    (export / "keras_model.h5").write_bytes((export / "keras_model.h5").read_bytes()[:9000])
    path = zipped(export)
    with pytest.raises(UsageError) as error:
        teachable_machine.read(path, options())
    assert str(error.value).startswith(path) and "not whole" in str(error.value)


def test_others_are_not_recognized(export):
    keras = str(export / "keras_model.h5")
    assert keras_file.recognizes(keras) and not teachable_machine.recognizes(keras)
    (export / "cvexport.manifest").write_text("{}")
    assert not teachable_machine.recognizes(str(export))
    os.remove(str(export / "cvexport.manifest"))
    os.remove(str(export / "labels.txt"))
    assert not teachable_machine.recognizes(str(export))


def test_the_command_makes_a_bundle_and_keeps_tensorflow_quiet(export, tmp_path):
    write_photos(tmp_path / "photos", per_class=20)
    out = tmp_path / "bundle"
    done = picnic_edge("import", zipped(export), "--out", out, "--check", tmp_path / "photos" / "red")
    assert done.returncode == 0, done.stderr
    assert "same label as the original on 20 of 20 photos" in done.stdout.decode()
    assert not re.search("tensorflow/|WARNING|oneDNN|XNNPACK|deprecated", done.stderr + done.stdout.decode())
    assert Bundle.open(str(out)).class_names == ["Cat", "Dog house", "Owl"]
    rows = picnic_edge("classify", out, tmp_path / "photos" / "red").stdout.decode().splitlines()[1:]
    assert len(rows) == 20 and {row.split("\t")[1] for row in rows} <= {"Cat", "Dog house", "Owl"}
