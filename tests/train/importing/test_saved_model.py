"""SavedModels of TensorFlow 1 and 2: the right signature is read, and what is no classifier is refused."""

import os
import shutil
import zipfile

import numpy as np
import pytest

from edge_runtime.errors import UsageError
from tests.train.importing.tensorflow_models import PICTURES, check, options, read_unchanged
from train.importing.readers import saved_model


@pytest.fixture(scope="module")
def tensorflow():
    from train.model import tf_setup

    tf_setup.load_tensorflow()
    import tensorflow

    return tensorflow


WEIGHTS = np.random.RandomState(0).normal(0, 0.02, (3, 4)).astype(np.float32)


def expected(pictures=PICTURES):
    logits = pictures.mean(axis=(1, 2)) @ WEIGHTS
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.fixture
def save(tensorflow, tmp_path):
    """save(functions, shape): writes a SavedModel whose signatures are functions of (pictures, weights)."""

    def write(functions, shape=(None, 32, 32, 3), dtype="float32"):
        module = tensorflow.Module()
        module.weights = tensorflow.Variable(WEIGHTS)
        signatures = {}
        for name, function in functions.items():
            traced = tensorflow.function(
                lambda image, function=function: function(image, module.weights),
                input_signature=[tensorflow.TensorSpec(shape, dtype, name="image")],
            )
            signatures[name] = traced.get_concrete_function()
        tensorflow.saved_model.save(module, str(tmp_path / "model"), signatures=signatures)
        return str(tmp_path / "model")

    return write


@pytest.fixture(scope="module")
def classify(tensorflow):
    def classify(image, weights):
        return {"scores": tensorflow.nn.softmax(tensorflow.reduce_mean(image, [1, 2]) @ weights)}

    return classify


def test_the_default_signature_is_read(tensorflow, save, classify):
    def other(image, weights):
        return {"twice": classify(image, weights)["scores"] * 2.0}

    folder = save({"serving_default": classify, "other": other})
    original = read_unchanged(saved_model, folder)
    check(original, expected())
    assert (original.layout, original.dtype, original.height, original.outputs) == ("NHWC", "float32", 32, 4)
    assert original.class_names is None and not original.declared.source
    check(saved_model.read(folder, options(output="other")), expected() * 2)


def test_several_signatures_without_the_default_one_need_a_name(save, classify):
    folder = save({"one": classify, "two": classify})
    with pytest.raises(UsageError, match="2 signatures.*one, two.*--output"):
        saved_model.read(folder, options())
    check(saved_model.read(folder, options(output="two")), expected())


def test_several_outputs_need_a_name(tensorflow, save, classify):
    def both(image, weights):
        scores = classify(image, weights)["scores"]
        return {"scores": scores, "logs": tensorflow.math.log(scores), "best": tensorflow.argmax(scores, 1)}

    folder = save({"serving_default": both})
    with pytest.raises(UsageError, match="2 outputs.*logs, scores"):
        saved_model.read(folder, options())
    check(saved_model.read(folder, options(output="scores")), expected())


def test_a_zip_and_a_batch_of_one(save, classify, tmp_path):
    folder = save({"serving_default": classify}, (1, 32, 32, 3))
    path = str(tmp_path / "model.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for parent, _, names in os.walk(folder):
            for name in names:
                archive.write(os.path.join(parent, name), os.path.relpath(os.path.join(parent, name), str(tmp_path)))
    check(read_unchanged(saved_model, path), expected())


def test_a_batch_of_two_in_the_graph(tensorflow, save):
    def classify(image, weights):
        means = tensorflow.reduce_mean(tensorflow.reshape(image, [2, 32 * 32, 3]), 1)
        return {"scores": tensorflow.nn.softmax(means @ weights)}

    check(read_unchanged(saved_model, save({"serving_default": classify}, (2, 32, 32, 3))), expected())


def test_a_batch_that_cannot_be_freed(tensorflow, save):
    def classify(image, weights):
        means = tensorflow.reduce_mean(image, [1, 2])
        return {"scores": tensorflow.nn.softmax((means - tensorflow.reduce_mean(means, 0)) @ (weights * 1000.0))}

    with pytest.raises(UsageError, match="exactly 2 pictures"):
        saved_model.read(save({"serving_default": classify}, (2, 32, 32, 3)), options())


def test_any_size_and_float16(tensorflow, save):
    def classify(image, weights):
        means = tensorflow.cast(tensorflow.reduce_mean(tensorflow.cast(image, "float32"), [1, 2]), "float32")
        return {"logits": tensorflow.ensure_shape(tensorflow.cast(means @ weights, "float16"), [None, 4])}

    original = read_unchanged(saved_model, save({"serving_default": classify}, None, "float16"))
    assert (original.height, original.width, original.dtype) == (None, None, "float16")
    answers = original.run(PICTURES.astype(np.float16))
    assert answers.dtype == np.float32 and np.abs(answers - PICTURES.mean(axis=(1, 2)) @ WEIGHTS).max() < 0.02


@pytest.mark.parametrize("resource", [False, True], ids=["reference variables", "resource variables"])
def test_tensorflow_1(tensorflow, tmp_path, resource):
    v1 = tensorflow.compat.v1
    folder = str(tmp_path / "model")
    with tensorflow.Graph().as_default():
        image = v1.placeholder("float32", [None, 32, 32, 3], name="image")
        is_training = v1.placeholder_with_default(False, [], name="is_training")
        weights = v1.get_variable("weights", initializer=WEIGHTS, use_resource=resource)
        # What tf.layers.dropout makes of is_training.
        keep = v1.where(is_training, tensorflow.constant(0.5), tensorflow.constant(1.0))
        scores = tensorflow.nn.softmax(tensorflow.matmul(tensorflow.reduce_mean(image, [1, 2]), weights) * keep)
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            v1.saved_model.simple_save(session, folder, {"image": image}, {"scores": scores})
    check(read_unchanged(saved_model, folder), expected())


@pytest.mark.parametrize(
    "answer, shape, dtype, words",
    [
        (lambda tf, x: {"boxes": x[:, 0], "detection_scores": x[:, 0, 0]}, (None, 32, 32, 3), "float32", "detector"),
        (lambda tf, x: {"y": x * 2.0}, (None, 32, 32, 3), "float32", "segmentation"),
        (lambda tf, x: {"y": x[:, 0]}, (None, 32, 32, 3), "float32", "detector"),
        (lambda tf, x: {"y": tf.argmax(x[:, 0, 0], 1)}, (None, 32, 32, 3), "float32", r"\[n\]|int64"),
        (lambda tf, x: {"y": tf.sigmoid(x[:, 0, 0])}, (None, 32, 32, 3), "float32", "sigmoid"),
        (lambda tf, x: {"y": tf.reduce_mean(x, [1, 2])}, (None, 32, 32, 3), "float32", "features"),
        (lambda tf, x: {"y": x[:, 0, 0]}, (10**6, 32, 32, 3), "float32", "1000000 photos at a time"),
        (lambda tf, x: {"y": tf.zeros([1, 3])}, (None,), "string", "text or encoded"),
        (lambda tf, x: {"y": tf.zeros([1, 3])}, (None, 32, 32, 3), "int32", "int32"),
        (
            lambda tf, x: {"y": tf.io.read_file("/etc/hostname") + "a"},
            (None, 32, 32, 3),
            "float32",
            "ReadFile.*--trust",
        ),
    ],
)
def test_what_is_no_classifier_of_photos_is_refused_as_what_it_is(tensorflow, save, answer, shape, dtype, words):
    folder = save({"serving_default": lambda x, weights: answer(tensorflow, x)}, shape, dtype)
    with pytest.raises(UsageError, match=words):
        saved_model.read(folder, options())


def test_two_inputs(tensorflow, tmp_path):
    specs = [tensorflow.TensorSpec([None, 32, 32, 3], name=name) for name in ("left", "right")]
    function = tensorflow.function(lambda left, right: {"y": left[:, 0, 0] + right[:, 0, 0]}, input_signature=specs)
    module = tensorflow.Module()
    tensorflow.saved_model.save(module, str(tmp_path / "model"), signatures=function)
    with pytest.raises(UsageError, match="2 inputs.*left, right"):
        saved_model.read(str(tmp_path / "model"), options())


def test_damaged_ones(save, classify, tmp_path):
    folder = save({"serving_default": classify})
    graph = os.path.join(folder, "saved_model.pb")
    with open(graph, "rb") as file:
        data = file.read()

    with open(graph, "wb") as file:
        file.write(data[:-100])
    with pytest.raises(UsageError, match="not whole"):
        saved_model.read(folder, options())

    with open(graph, "wb") as file:
        file.write(data)
    shard = os.path.join(folder, "variables", "variables.data-00000-of-00001")
    with open(shard, "r+b") as file:
        file.truncate(8)
    with pytest.raises(UsageError, match="copy or export it again"):
        saved_model.read(folder, options())

    shutil.rmtree(os.path.join(folder, "variables"))
    with pytest.raises(UsageError, match="weights are missing"):
        saved_model.read(folder, options())

    os.remove(graph)
    assert not saved_model.recognizes(folder)


def test_without_signature_or_for_training_only(tensorflow, tmp_path):
    tensorflow.saved_model.save(tensorflow.Module(), str(tmp_path / "none"))
    with pytest.raises(UsageError, match="signature"):
        saved_model.read(str(tmp_path / "none"), options())

    v1 = tensorflow.compat.v1
    with tensorflow.Graph().as_default(), v1.Session() as session:
        builder = v1.saved_model.Builder(str(tmp_path / "train"))
        builder.add_meta_graph_and_variables(session, ["train"])
        builder.save()
    with pytest.raises(UsageError, match="'serve'.*train"):
        saved_model.read(str(tmp_path / "train"), options())


def writes(tensorflow, path, image):
    """An operation of each kind that a file's makers could write a file with, or read one, as the graph is run."""
    raw = tensorflow.raw_ops
    name, names = tensorflow.constant(path), tensorflow.constant([path])
    yield lambda: tensorflow.print("trap", output_stream="file://" + path)
    yield lambda: raw.WriteFile(filename=name, contents="trap")
    yield lambda: raw.SaveV2(prefix=name, tensor_names=["x"], shape_and_slices=[""], tensors=[image])
    yield lambda: raw.Save(filename=name, tensor_names=["x"], data=[image])
    yield lambda: raw.MergeV2Checkpoints(checkpoint_prefixes=names, destination_prefix=name, delete_old_dirs=True)
    yield lambda: raw.ImmutableConst(dtype="float32", shape=[4], memory_region_name=path)
    yield lambda: raw.DebugIdentityV2(input=image, debug_urls=["file://" + path])


@pytest.mark.parametrize("kind", range(7))
def test_operations_that_write_or_read_files_are_refused(tensorflow, save, classify, tmp_path, kind):
    trace = tmp_path / "trace"

    def write(image, weights):
        list(writes(tensorflow, str(trace), image))[kind]()
        return classify(image, weights)

    folder = save({"serving_default": write})
    with pytest.raises(UsageError, match="operation (Print|Write|Save|Merge|Immutable|Debug).*--trust"):
        saved_model.read(folder, options())
    assert not trace.exists()
    if kind == 0:  # it is a trap
        loaded = tensorflow.saved_model.load(folder)
        loaded.signatures["serving_default"](image=tensorflow.constant(PICTURES))
        assert trace.exists()


@pytest.mark.parametrize("place", ["main op", "restore"])
def test_tensorflow_1_runs_operations_when_it_is_loaded(tensorflow, tmp_path, place):
    v1, trace = tensorflow.compat.v1, tmp_path / "trace"
    with tensorflow.Graph().as_default(), v1.Session() as session:
        image = v1.placeholder("float32", [None, 32, 32, 3], name="image")
        weights = v1.get_variable("weights", initializer=WEIGHTS)
        scores = tensorflow.nn.softmax(tensorflow.matmul(tensorflow.reduce_mean(image, [1, 2]), weights))
        session.run(v1.global_variables_initializer())
        with tensorflow.control_dependencies([tensorflow.raw_ops.WriteFile(filename=str(trace), contents="trap")]):
            trap = tensorflow.no_op("trap")
        saver = v1.train.Saver()
        if place == "restore":
            session.graph.get_operation_by_name(saver.saver_def.restore_op_name)._add_control_input(trap)
        signature = v1.saved_model.predict_signature_def({"image": image}, {"scores": scores})
        builder = v1.saved_model.Builder(str(tmp_path / "model"))
        main_op = trap if place == "main op" else None
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": signature}, main_op=main_op, saver=saver
        )
        builder.save()
    with pytest.raises(UsageError, match="operation WriteFile.*--trust"):
        saved_model.read(str(tmp_path / "model"), options())
    assert not trace.exists()


def test_functions_that_tensorflow_may_call_are_looked_at_too(tensorflow, classify, tmp_path):
    module = tensorflow.Module()
    spec = [tensorflow.TensorSpec((None, 32, 32, 3))]
    module.answer = tensorflow.function(lambda image: classify(image, tensorflow.constant(WEIGHTS)), spec)
    target = "file://" + str(tmp_path / "trace")
    module.other = tensorflow.function(lambda: [tensorflow.print("trap", output_stream=target), 1][1], [])
    tensorflow.saved_model.save(module, str(tmp_path / "model"), signatures=module.answer)
    with pytest.raises(UsageError, match="PrintV2"):
        saved_model.read(str(tmp_path / "model"), options())
