"""The original's own answers beside the bundle's."""

import json
import os

import jsonschema
import numpy as np
import pytest

from edge_runtime.errors import ParityError, UsageError
from edge_runtime.photos.read import read_image
from tests.helpers import ROOT
from tests.train.importing import networks
from tests.train.importing.networks import NAMES, preprocessing, softmax
from train.importing import proof
from train.model import calibrate

RANDOM = np.random.RandomState(0)
LOGITS = RANDOM.normal(0, 2, (20, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    return networks.write_blocks(tmp_path_factory.mktemp("blocks"), 40)


def infer(pictures):
    """The bundle's model: what the original of preprocessing() computes."""
    return softmax(networks.logits(pictures.astype(np.float32)))


def prove(paths, model=None, one=infer, exact=True, labels=None, used=()):
    photos = list(zip(paths, labels or [None] * len(paths)))
    model = model or networks.original(preprocessing())
    return proof.prove(model, networks.choice(preprocessing(), used=used), one, photos, exact)


class TestKindOfAnswers:
    def test_logits(self):
        assert proof.logits_or_probabilities(networks.original(preprocessing()), LOGITS) == "logits"

    def test_logarithms_of_probabilities_are_logits(self):
        model = networks.original(preprocessing())
        assert proof.logits_or_probabilities(model, np.log(softmax(LOGITS))) == "logits"

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_probabilities(self, dtype):
        rows = softmax(RANDOM.normal(0, 2, (20, 1000))).astype(dtype)
        assert proof.logits_or_probabilities(networks.original(preprocessing()), rows) == "probabilities"

    @pytest.mark.parametrize(
        "answers, word",
        [
            (1 / (1 + np.exp(-LOGITS)), "sigmoid"),
            (np.ones((20, 5)), "same"),
            (np.where(LOGITS > 3, np.nan, LOGITS), "NaN"),
            (LOGITS[:, :1], "one number"),
            (RANDOM.normal(size=(20, 5, 8, 8)), "segmentation"),
            (LOGITS / np.linalg.norm(LOGITS, axis=1, keepdims=True), "embedding"),
        ],
        ids=["several labels", "constant", "NaN", "one output", "dense", "embedding"],
    )
    def test_what_is_no_classifier_is_refused_as_what_it_is(self, answers, word):
        with pytest.raises(UsageError, match=word):
            proof.logits_or_probabilities(networks.original(preprocessing()), answers)


class TestBackground:
    def test_of_imagenet(self, capsys):
        names = ["class %d" % number for number in range(1000)]
        assert proof.background(networks.original(preprocessing(), names=names)._replace(outputs=1001))
        assert "first output" in capsys.readouterr().err

    def test_none(self):
        assert not proof.background(networks.original(preprocessing()))

    def test_the_others_sum_to_one(self):
        rows = proof.as_probabilities(LOGITS, "logits", True)
        assert rows.shape == (20, 4) and np.allclose(rows, softmax(LOGITS[:, 1:]), atol=1e-6)
        assert np.allclose(proof.as_probabilities(softmax(LOGITS), "probabilities", True), rows, atol=1e-6)

    def test_without_labelled_photos_one_label_less_is_refused(self):
        names = ["class %d" % number for number in range(999)]
        with pytest.raises(UsageError, match="1000 outputs and 999 labels.*50 labelled photos"):
            proof.background(networks.original(preprocessing(), names=names)._replace(outputs=1000))

    @pytest.mark.parametrize("count", [2, 4, 9])
    def test_other_numbers_of_labels_are_refused(self, count):
        model = networks.original(preprocessing(), names=["class %d" % number for number in range(count)])
        with pytest.raises(UsageError, match="5 outputs and %d labels" % count):
            proof.background(model)


class TestProve:
    def test_the_same_network_gives_every_label(self, blocks):
        done = prove(blocks)
        assert (done.photos, done.same_label, done.labelled) == (40, 40, 0)
        assert done.graph_difference < 1e-5 and done.accuracy_ours is None and done.temperature == 1
        assert done.interval[0] < 1 == done.interval[1]
        assert set(done.metrics) == {"agreement"}
        assert "40 of 40" in proof.describe(done)

    def test_the_sample_has_the_originals_own_answers_to_the_bundles_pictures(self, blocks):
        wrong = prove(blocks, one=lambda pictures: infer(pictures) * 0.9 + 0.02)  # the same labels
        names = wrong.sample.names
        expected = infer(np.stack([read_image(path, preprocessing().input_spec) for path in names]))
        assert np.allclose(wrong.sample.probabilities, expected, atol=1e-5)
        assert wrong.sample.probabilities.dtype == np.float32
        assert wrong.graph_difference > 0.01
        assert wrong.sample.labels == [""] * 40

    def test_labels_calibrate_and_give_the_figures_that_train_writes(self, blocks):
        labels = [number % 5 for number in range(40)]
        done = prove(blocks, labels=labels)
        assert done.labelled == 40 and done.accuracy_ours == done.accuracy_theirs
        figures = done.metrics
        assert figures["val_accuracy"] == done.accuracy_ours and figures["val_photos"] == 40
        assert figures["calibration"]["temperature"] == done.temperature > 1  # random labels: no confidence is due
        assert figures["calibration"]["ece_after"] < figures["calibration"]["ece_before"]
        assert {row["label"] for row in figures["per_class"]} <= set(NAMES)
        assert set(done.sample.labels[:5]) == set(NAMES)  # the classes in turn
        order = [blocks.index(name) for name in done.sample.names]
        pictures = np.stack([read_image(blocks[index], preprocessing().input_spec) for index in order])
        expected = calibrate.apply_temperature(infer(pictures), done.temperature)
        assert np.allclose(done.sample.probabilities, expected, atol=1e-4)
        assert "temperature" in proof.describe(done)

    def test_the_figures_fit_the_schema_of_a_manifest(self, blocks):
        with open(os.path.join(ROOT, "edge_runtime", "bundle", "manifest.schema.json"), encoding="utf-8") as file:
            schema = json.load(file)["properties"]["metrics"]
        figures = prove(blocks, labels=[number % 5 for number in range(40)]).metrics
        jsonschema.validate(json.loads(json.dumps(figures)), schema)

    def test_a_resize_that_changes_labels_is_named_with_the_option_that_helps(self, tmp_path):
        paths = networks.write_noise(tmp_path, 40)
        with pytest.raises(ParityError, match="--exact-resize") as caught:
            nearest = preprocessing()._replace(input_spec=preprocessing().input_spec._replace(filter="nearest"))
            model = networks.original(preprocessing())
            proof.prove(model, networks.choice(nearest), infer, [(path, None) for path in paths], False)
        assert "nearest filter (assumed" in str(caught.value)
        named = networks.choice(nearest, filter_assumed=False)
        with pytest.raises(ParityError, match="nearest filter .the makers' own"):
            proof.prove(model, named, infer, [(path, None) for path in paths], False)
        done = proof.prove(model, networks.choice(nearest), infer, [(path, None) for path in paths], True)
        assert done.same_label == 40

    @pytest.mark.parametrize("exact", [True, False])
    def test_a_wrong_graph_is_named_as_such(self, blocks, exact):
        with pytest.raises(ParityError, match="graph, not the resize"):
            prove(blocks, one=lambda pictures: infer(pictures[..., ::-1]), exact=exact)

    def test_nothing_is_proven_without_photos(self, tmp_path, capsys):
        with pytest.raises(UsageError, match="--check"):
            prove([])
        with pytest.raises(UsageError, match="0 of its 1 photos"):
            prove([str(tmp_path / "missing.jpg")])
        assert "missing.jpg" in capsys.readouterr().err

    def test_fewer_than_20_photos_prove_nothing(self, blocks):
        with pytest.raises(UsageError, match="19 of its 19 photos.*20 or more"):
            prove(blocks[:19])
        assert prove(blocks[:20]).photos == 20

    def test_one_other_label_of_few_photos_asks_for_more(self, blocks):
        def one_wrong(pictures):
            answers = infer(pictures)
            answers[first[0]] = answers[first[0], ::-1]
            first[0] = slice(0, 0)
            return answers

        first = [0]
        with pytest.raises(ParityError, match="39 of 40.*\n.*give 100 or more"):
            prove(blocks, one=one_wrong)

    def test_figures_are_of_photos_that_did_not_choose(self, tmp_path):
        paths = networks.write_blocks(tmp_path, 120)
        pictures = np.stack([read_image(path, preprocessing().input_spec) for path in paths])
        labels = infer(pictures).argmax(axis=1)
        labels[60:70] = (labels[60:70] + 1) % 5
        done = prove(paths, labels=list(labels), used=paths[:60])
        assert (done.labelled, done.independent, done.accuracy_ours) == (60, True, 50 / 60.0)
        assert done.metrics["val_photos"] == 60 and done.photos == 120
        done = prove(paths, labels=list(labels), used=paths[:100])  # 20 others are too few
        assert (done.labelled, done.independent) == (120, False)
        assert "same photos chose" in proof.describe(done)

    def test_nan_on_a_black_picture_is_refused(self, blocks):
        model = networks.original(preprocessing())
        divided = model._replace(run=lambda values: model.run(values) * (np.nan if values.max() == values.min() else 1))
        with pytest.raises(UsageError, match="black"):
            prove(blocks, divided)


def test_photos_in_turn_are_not_the_first_of_a_list():
    truth = np.repeat(np.arange(40), 5)
    turns = proof.class_turns(truth)
    assert sorted(turns) == list(range(200)) and turns == proof.class_turns(truth)
    assert len(set(truth[turns[:40]])) == 40
    assert truth[turns[:20]].max() >= 20 and not all(turn % 5 == 0 for turn in turns[:40])


class TestTemperature:
    @pytest.mark.parametrize("at_the_end", ["softmax", "division"])
    def test_of_a_graph_it_divides_the_logits(self, at_the_end):
        onnx = pytest.importorskip("onnx")
        numpy_helper = pytest.importorskip("onnx.numpy_helper")
        from edge_runtime.engines.onnxruntime import session

        make, float32 = onnx.helper.make_node, onnx.TensorProto.FLOAT
        nodes = [make("Softmax", ["logits"], ["probabilities"], axis=1)]
        if at_the_end == "division":
            nodes[0].output[0] = "all"
            nodes.append(make("ReduceSum", ["all"], ["sum"], keepdims=1))
            nodes.append(make("Div", ["all", "sum"], ["probabilities"]))
        shapes = [onnx.helper.make_tensor_value_info(name, float32, ["n", 5]) for name in ("logits", "probabilities")]
        graph = onnx.helper.make_graph(nodes, "end", shapes[:1], shapes[1:])
        if at_the_end == "division":
            graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
            graph.node[1].input.append("axis")
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
        model.ir_version = 7
        changed = proof.with_temperature(model, 2.5)
        onnx.checker.check_model(changed)
        (answers,) = session(changed.SerializeToString(), 1, True).run(["probabilities"], {"logits": LOGITS})
        assert np.allclose(answers, softmax(LOGITS / 2.5), atol=1e-6)
        assert len(model.graph.node) == len(nodes)  # the model itself is as it was
