"""What `picnic-edge train --weights none` makes of the drawn samples: the bundle, and its way through the verbs.

One training (fixture trained, seconds on an idle machine) serves them all; tests of other folders that need its bundle
stand here, since each file of tests is one process's in `make test`. The pieces have tests of their own beside this.
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.bench import roofline
from convert import cli as convert
from edge_runtime.bundle import checksums, manifest
from edge_runtime.bundle.reading import Bundle
from edge_runtime.classifier import Classifier
from edge_runtime.engines.kinds import create_engine
from edge_runtime.engines.record import EngineInfo
from edge_runtime.errors import UsageError
from edge_runtime.files import sha256_of
from edge_runtime.machine import cpu, libraries
from edge_runtime.photos import read, spec
from edge_runtime.sources import table_reader
from tests import helpers
from tests.conftest import BUILD
from tests.train.insight.test_inner import softmax
from train.cli import evaluate, explain, predict, train
from train.data import dataset, labels
from train.insight import inner
from train.insight import report as reports
from train.model import metrics, recipe
from train.model.checkpoint import Checkpoint
from train.model.export import MAX_DIFFERENCE_RANDOM

# All stages but the refit, after which a bundle does not give the figures of its own validation.
SIZE = 160  # less than a third of the work at 299, which test_the_default_size has
TRAIN_OPTIONS = ["--size", str(SIZE), "--fine-tune", "1", "--fine-tune-epochs", "1", "--no-refit"]
PHOTOS_PER_CLASS = 5  # InceptionV3 runs over each about ten times


@pytest.fixture(scope="module")
def train_table(samples, tmp_path_factory):
    """The path of a table with some of the samples' training photos of each class."""
    path = str(tmp_path_factory.mktemp("table") / "train.tsv")
    files = {}
    for row in table_reader.read_rows(os.path.join(samples, "train.tsv"), need_label=True):
        files.setdefault(row.label, []).append(row.file)
    helpers.write_table(path, [(name, label) for label in files for name in files[label][:PHOTOS_PER_CLASS]])
    return path


@pytest.fixture(scope="module")
def trained(samples, train_table):
    """What `picnic-edge train --weights none` made of train_table: (bundle, CompletedProcess)."""
    bundle = os.path.join(BUILD, "python%d.%d" % sys.version_info[:2])
    shutil.rmtree(bundle, ignore_errors=True)
    done = helpers.picnic_edge(
        *["train", train_table, "--images", samples + "/photos", "--out", bundle, "--weights", "none"] + TRAIN_OPTIONS
    )
    assert done.returncode == 0, done.stderr
    return bundle, done


@pytest.fixture(scope="module")
def bundle(trained):
    return Bundle.open(trained[0])


@pytest.fixture(scope="module")
def onnx_model(bundle):
    onnx = pytest.importorskip("onnx")
    return onnx.load(bundle.file("model.onnx"))


@pytest.fixture(scope="module")
def train_rows(train_table):
    return list(table_reader.read_rows(train_table, need_label=True))


def built_in(bundle, kind, batch=8):
    name = {"onnxruntime": "model.onnx", "tensorflow": "saved_model"}[kind]
    info = EngineInfo(kind, kind, "fp32", bundle.file(name), None)
    return create_engine(info, bundle.input_spec.shape, len(bundle.class_names), batch, None)


def compared_photos(bundle):
    """All validation photos; where those are fewer than 128, training photos join them."""
    validation, training = bundle.manifest["metrics"]["val_photos"], bundle.manifest["training"]["photos"]
    return max(validation, min(128, validation + training))


# ---- the manifest


def recorded(words, interrupted=False):
    done = recipe.Outcome(None, None, {"fine_tune": {"loss": [2.0, 1.5, 1.2]}}, {}, False, interrupted)
    return train._reproducing_command(words, train.parser().parse_args(words), done)[2:]


def test_the_recorded_command_makes_as_many_epochs_on_a_machine_of_another_speed():
    words = ["train.tsv", "--out", "bundle"]
    assert recorded(words) == words + ["--fine-tune-epochs", "3"]
    assert recorded(words + ["--fine-tune-epochs", "3"]) == words + ["--fine-tune-epochs", "3"]
    assert recorded(words, interrupted=True) == words  # which would have made more


@pytest.mark.parametrize("words", [[], ["--mix", "mixup"], ["--mix", "cutmix", "--no-augment"]])
def test_the_report_s_samples_show_what_fine_tuning_sees(words, tmp_path):
    photos = [labels.Photo(file, str(tmp_path / file), label) for file, label in helpers.write_photos(tmp_path)]
    os.remove(photos[0].path)  # since it was learned from
    photos = photos[:5]
    rows = train._augmentation_examples(photos, train.parser().parse_args(["t.tsv", "--out", "b"] + words))
    originals = [read.read_image(photo.path, spec.INCEPTION_V3) for photo in photos[1:]]
    assert len(rows) == 4 and {len(row) for row in rows} == {7}
    for row in rows:
        assert any(np.array_equal(row[0], original) for original in originals)
    changed = [sum(not np.array_equal(row[0], picture) for picture in row[1:]) for row in rows]
    # cutmix alone leaves about half as they are, and one of four has itself to be mixed with
    assert sum(changed) == 24 if "cutmix" not in words else 3 <= sum(changed) <= 20
    assert train._augmentation_examples(photos[:1], train.parser().parse_args(["t.tsv", "--out", "b"] + words)) == []


def test_class_names_are_those_of_the_table_sorted(bundle, train_rows):
    assert bundle.class_names == sorted({row.label for row in train_rows})
    assert len(bundle.class_names) >= 6


def test_manifest_says_how_it_was_trained(bundle, samples, train_table, train_rows):
    training = bundle.manifest["training"]
    assert training["command"] == (
        ["picnic-edge", "train", train_table, "--images", samples + "/photos", "--out", bundle.path]
        + ["--weights", "none"]
        + TRAIN_OPTIONS
    )
    assert training["seed"] == 0
    assert training["weights"].startswith("random")
    assert training["photos"] + bundle.manifest["metrics"]["val_photos"] == len(train_rows)
    assert training["machine"] == cpu.describe()
    assert training["peak_memory_bytes"] > 100 << 20
    assert len(training["photos_sha256"]) == training["photos"] and not training["refitted"]
    own = sha256_of(os.path.join(samples, "photos", train_rows[0].file))[:16]
    copies = [sha256_of(os.path.join(samples, "photos", row.file))[:16] for row in train_rows]
    assert set(training["photos_sha256"]) < set(copies) and copies[0] == own
    for library in ("numpy", "onnxruntime", "opencv-python-headless", "keras", "tf2onnx"):
        assert training["versions"][library] == libraries.library_version(library) is not None
    assert training["versions"]["tensorflow"] or training["versions"]["tensorflow-cpu"]
    assert bundle.manifest["input_spec"] == spec.to_manifest(spec.squash(SIZE))
    assert bundle.manifest["format_version"] == manifest.FORMAT_VERSION
    assert not os.path.exists(bundle.path + ".problems.tsv")


def test_the_manifest_fits_its_schema(bundle):
    helpers.check_manifest(bundle)


def test_manifest_lists_every_file_and_nothing_else(bundle):
    names = set(checksums.list_files(bundle.path)) - {"manifest.json"}
    assert set(bundle.manifest["files"]) == names
    assert {"model.onnx", "saved_model/saved_model.pb", "sample/sample.json", "sample/probabilities.npy"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".h5"))]
    assert sorted(name for name in os.listdir(os.path.dirname(bundle.path)) if "unfinished" in name) == []


def test_metrics_are_those_of_the_validation_photos(bundle):
    figures = bundle.manifest["metrics"]
    assert 0 < figures["val_accuracy"] <= 1
    assert figures["val_macro_f1"] == pytest.approx(np.mean([row["f1"] for row in figures["per_class"]]))
    assert sum(row["photos"] for row in figures["per_class"]) == figures["val_photos"]
    correct = sum(row["recall"] * row["photos"] for row in figures["per_class"])
    assert figures["val_accuracy"] == pytest.approx(correct / figures["val_photos"])
    assert set(figures["history"]) == {"loss", "accuracy", "val_loss", "val_accuracy", "fine_tune"}
    assert 1 <= len(figures["history"]["loss"]) <= 100
    assert len(figures["history"]["fine_tune"]["loss"]) == 1
    assert figures["calibration"]["temperature"] > 0
    assert 0 <= figures["calibration"]["ece_after"] <= 1


def test_the_run_is_added_to_runs_tsv_beside_the_bundle(bundle, trained):
    with open(os.path.join(os.path.dirname(bundle.path), "runs.tsv"), newline="", encoding="utf-8") as file:
        row = list(csv.DictReader(file, dialect="excel-tab"))[-1]
    assert (row["bundle"], row["bundle_id"], row["seed"]) == (os.path.basename(bundle.path), bundle.id, "0")
    assert row["command"].endswith(" ".join(TRAIN_OPTIONS))
    assert row["val_accuracy"] == f"{bundle.manifest['metrics']['val_accuracy']:.4f}"
    assert row["epochs"] == f"{len(bundle.manifest['metrics']['history']['loss'])}+1"
    assert row["weights"] == "random" and float(row["minutes"]) > 0
    assert not os.path.exists(bundle.path + ".training")  # nothing is left to resume


def test_the_head_has_learned_its_photos(bundle):
    assert bundle.manifest["metrics"]["history"]["accuracy"][-1] > 0.9


def test_exported_files_agree_with_the_trained_model(bundle, trained):
    agreement = bundle.manifest["metrics"]["agreement"]
    assert set(agreement) == {"model.onnx", "saved_model"}
    for compared in agreement.values():
        assert 0 <= compared["max_abs_difference"] <= MAX_DIFFERENCE_RANDOM
        assert compared["top1_equal"] == compared["photos"] == compared_photos(bundle)
    said = trained[1].stdout.decode("utf-8")
    for name in agreement:
        assert name + " agrees with the trained model: largest difference of a probability " in said


def test_the_command_prints_its_result_on_stdout_and_the_rest_on_stderr(bundle, trained):
    out = trained[1].stdout.decode("utf-8").splitlines()
    assert out[0].split() == ["class", "precision", "recall", "F1", "photos"]
    figures = bundle.manifest["metrics"]
    line = "validation: accuracy %(val_accuracy).4f, macro-F1 %(val_macro_f1).4f on %(val_photos)d photos" % figures
    assert line in out
    assert out[-1].startswith(f"bundle: {bundle.path} (")
    assert "exporting the bundle" in trained[1].stderr
    for word in ("oneDNN", "absl", "cuda", "WARNING"):  # TensorFlow's own messages
        assert word not in trained[1].stderr


# ---- model.onnx


def test_onnx_is_what_tensorrt_8_2_reads(onnx_model):
    assert [(opset.domain, opset.version) for opset in onnx_model.opset_import if opset.domain in ("", "ai.onnx")] == [
        ("", 13)
    ]
    assert {node.domain for node in onnx_model.graph.node} <= {"", "ai.onnx"}  # no operator of a vendor
    kinds = [node.op_type for node in onnx_model.graph.node]
    assert "BatchNormalization" not in kinds  # folded into the convolutions
    assert kinds.count("Conv") == 94
    assert kinds.count("Transpose") <= 1
    assert kinds.count("Dropout") == 0


def test_onnx_takes_uint8_nhwc_and_gives_probabilities(onnx_model):
    import onnx

    onnx.checker.check_model(onnx_model)
    weights = {value.name for value in onnx_model.graph.initializer}
    (source,) = [value for value in onnx_model.graph.input if value.name not in weights]
    (target,) = onnx_model.graph.output
    assert (source.name, target.name) == ("images", "probabilities")
    assert source.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert target.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    dims = source.type.tensor_type.shape.dim
    assert dims[0].dim_param and not dims[0].dim_value
    assert [dim.dim_value for dim in dims[1:]] == [SIZE, SIZE, 3]
    assert target.type.tensor_type.shape.dim[1].dim_value == 8


# ---- saved_model


def test_saved_model_has_the_signature_and_no_variables(bundle):
    tensorflow = pytest.importorskip("tensorflow")
    loaded = tensorflow.saved_model.load(bundle.file("saved_model"))
    assert list(loaded.signatures) == ["serving_default"]
    signature = loaded.signatures["serving_default"]
    _, inputs = signature.structured_input_signature
    assert list(inputs) == ["images"]
    assert inputs["images"].shape.as_list() == [None, SIZE, SIZE, 3]
    assert inputs["images"].dtype == tensorflow.uint8
    assert list(signature.structured_outputs) == ["probabilities"]
    assert signature.structured_outputs["probabilities"].shape.as_list() == [None, 8]
    assert signature.structured_outputs["probabilities"].dtype == tensorflow.float32


def test_saved_model_has_only_operators_that_an_older_tensorflow_knows(bundle):
    pytest.importorskip("tensorflow")
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    with open(bundle.file("saved_model/saved_model.pb"), "rb") as file:
        saved.ParseFromString(file.read())
    graph = saved.meta_graphs[0].graph_def
    kinds = {node.op for node in graph.node}
    for function in graph.library.function:
        kinds.update(node.op for node in function.node_def)
    assert "Conv2D" in kinds
    assert kinds & {"DisableCopyOnRead", "ReadVariableOp", "PyFunc", "EagerPyFunc"} == set()


# ---- both, on the sample


@pytest.fixture(scope="module", params=["onnxruntime", "tensorflow"])
def exported(bundle, request):
    pytest.importorskip(request.param)
    with built_in(bundle, request.param).open() as opened:
        yield opened


def test_the_sample_s_answers_are_the_model_s(bundle, exported):
    sample = bundle.sample()
    assert len(sample.names) == min(128, compared_photos(bundle))
    assert len(set(sample.names)) == len(sample.names)
    assert set(sample.labels) == set(bundle.class_names)
    assert sample.probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    answers = np.concatenate([exported.infer(sample.images[start : start + 8]) for start in range(0, 16, 8)])
    assert np.abs(answers - sample.probabilities[:16]).max() <= MAX_DIFFERENCE_RANDOM
    assert np.array_equal(answers.argmax(axis=1), sample.probabilities[:16].argmax(axis=1))


def test_any_batch_size_gives_a_photo_the_same_answer(bundle, exported):
    pictures = bundle.sample().images[:5]
    alone = np.concatenate([exported.infer(pictures[index : index + 1]) for index in range(5)])
    for size in (2, 5):
        assert exported.infer(pictures[:size]) == pytest.approx(alone[:size], abs=MAX_DIFFERENCE_RANDOM)


def test_it_has_the_blocks_of_inception_v3(bundle):
    sample = bundle.sample()
    session = inner.open_session(bundle, ["features", "probabilities"] + list(inner.BLOCKS))
    outputs = session.run(sample.images[:18])
    shapes = [(17, 17, 256)] + 2 * [(17, 17, 288)] + 5 * [(8, 8, 768)] + [(3, 3, 1280)] + 2 * [(3, 3, 2048)]
    assert [outputs[block].shape for block in inner.BLOCKS] == [(18,) + shape for shape in shapes]
    np.testing.assert_allclose(outputs["features"], outputs["mixed10"].mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs["probabilities"], sample.probabilities[:18], atol=1e-4)
    logits = outputs["features"].dot(session.kernel) + session.bias
    np.testing.assert_allclose(softmax(logits), outputs["probabilities"], atol=1e-4)
    assert session.kernel.shape == (2048, 8)


def test_a_smaller_input_is_less_work_for_the_same_weights(bundle):
    pytest.importorskip("onnx")
    work = roofline.count_work(bundle.file("model.onnx"))
    assert 1e9 < work["macs_per_image"] < 5.71e9 * (SIZE / 299.0) ** 2  # at the edges the convolutions are not padded
    assert work["weight_values"] == pytest.approx(21.8e6, rel=0.02)
    assert work["input_bytes_per_image"] == SIZE * SIZE * 3


@pytest.mark.slow
def test_the_default_size(samples, train_table, tmp_path):
    onnx = pytest.importorskip("onnx")
    train.main(
        [train_table, "--images", samples + "/photos", "--out", str(tmp_path / "bundle")]
        + ["--weights", "none", "--epochs", "2", "--no-refit"]
    )
    bundle = Bundle.open(str(tmp_path / "bundle"))
    assert bundle.manifest["input_spec"] == spec.to_manifest(spec.INCEPTION_V3)
    work = roofline.count_work(bundle.file("model.onnx"))
    assert work["macs_per_image"] == pytest.approx(5.71e9, rel=0.005)  # the first 1000 classes are 2 of 5713 MMAC
    assert work["weight_values"] == pytest.approx(21.8e6, rel=0.02)
    assert work["input_bytes_per_image"] == 299 * 299 * 3
    assert sum(node.op_type == "Transpose" for node in onnx.load(bundle.file("model.onnx")).graph.node) <= 1
    outputs = inner.open_session(bundle, ["places", "features"] + list(inner.BLOCKS)).run(bundle.sample().images[:2])
    shapes = [(35, 35, 256)] + 2 * [(35, 35, 288)] + 5 * [(17, 17, 768)] + [(8, 8, 1280)] + 2 * [(8, 8, 2048)]
    assert [outputs[block].shape for block in inner.BLOCKS] == [(2,) + shape for shape in shapes]
    assert np.array_equal(outputs["places"], outputs["mixed10"])


# ---- its way through the other verbs


def test_a_smaller_network_is_converted_and_explained(bundle, samples, tmp_path, capsys):
    copy = shutil.copytree(bundle.path, str(tmp_path / "bundle"))
    convert.main([copy, "--to", "onnxruntime", "--min-agreement", "0.85"])
    photos = [os.path.join(samples, "photos", "Milk", name) for name in ("001.jpg", "002.jpg")]
    with Classifier.open(copy, engine="onnxruntime-fp32") as classifier:
        labels_of = [prediction.label for prediction in classifier.classify(photos)]
    assert set(labels_of) <= set(bundle.class_names)
    explain.main([copy, *photos, "--out", str(tmp_path / "out")])
    assert "by occlusion" not in capsys.readouterr().err
    page = (tmp_path / "out" / "explain.html").read_text(encoding="utf-8")
    assert "3 x 3 places: finer" in page and "<b>mixed10</b>: 3 x 3 places, 2048 channels" in page
    assert read.read_large(str(tmp_path / "out" / "001-heat.png"), 1000).shape == (SIZE, SIZE, 3)


@pytest.mark.slow
@pytest.mark.parametrize("target, most", [("onnxruntime", 0.1), ("openvino", 0.02)])  # 7 bits a weight without VNNI
def test_int8_is_a_quarter_of_its_size_and_answers_nearly_the_same(bundle, tmp_path, target, most):
    pytest.importorskip({"openvino": "nncf"}.get(target, target))
    copy = shutil.copytree(bundle.path, str(tmp_path / "bundle"))
    # Short training without ImageNet weights leaves many photos undecided, whose label any rounding changes.
    convert.main([copy, "--to", target, "--precision", "int8", "--min-agreement", "0.85"])
    with open(os.path.join(copy, "engines", target + "-int8", "engine.json"), encoding="utf-8") as file:
        record = json.load(file)
    assert record["parity"]["kl_divergence"] < most
    size_bytes = sum(facts["size_bytes"] for facts in record["files"].values())
    assert size_bytes < 0.3 * os.path.getsize(bundle.file("model.onnx"))


def test_evaluate_on_the_test_split(bundle, samples, tmp_path, capsys):
    table = os.path.join(samples, "test.tsv")
    report = tmp_path / "report"
    evaluate.main([bundle.path, table, "--images", os.path.join(samples, "photos"), "--report", str(report)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 8 + 2
    assert lines[-1].endswith("on 16 photos, with onnxruntime")
    assert sorted(os.listdir(str(report))) == sorted(reports.FILES)
    with open(str(report / "predictions.tsv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, dialect="excel-tab"))
    expected = [(row.file, row.label) for row in table_reader.read_rows(table, need_label=True)]
    assert [(row["file"], row["truth"]) for row in rows] == expected
    accuracy, macro_f1, _ = metrics.score(
        [row["truth"] for row in rows], [row["label"] for row in rows], bundle.class_names
    )
    assert lines[-1].startswith(f"accuracy {accuracy:.4f}, macro-F1 {macro_f1:.4f} on")
    result = json.loads((report / "evaluation.json").read_text())
    assert (result["accuracy"], result["macro_f1"], result["bundle_id"]) == (accuracy, macro_f1, bundle.id)
    assert accuracy > 2.0 / 8  # of photos that it has never seen; chance is 1 in 8


@pytest.mark.parametrize("engine", ["onnxruntime", "tensorflow"])
def test_evaluating_the_training_table_again_finds_the_figures_of_the_manifest(
    bundle, samples, train_table, engine, tmp_path, capsys
):
    """The validation photos go through the device's decoder and engines and score what training said they score."""
    pytest.importorskip(engine)
    options = train.parser().parse_args(
        [train_table, "--images", samples + "/photos", "--out", bundle.path, "--weights", "none"]
    )
    validation = dataset.read_dataset(options).validation
    folder = os.path.join(samples, "photos")
    table = tmp_path / "validation.tsv"
    helpers.write_table(table, [(photo.file, photo.label) for photo in validation])
    capsys.readouterr()
    evaluate.main([bundle.path, str(table), "--images", folder, "--engine", engine, "--json"])
    result = json.loads(capsys.readouterr().out)
    figures = bundle.manifest["metrics"]
    assert (result["accuracy"], result["photos"]) == (figures["val_accuracy"], figures["val_photos"])
    assert result["macro_f1"] == pytest.approx(figures["val_macro_f1"])
    assert [row["label"] for row in result["per_class"]] == [row["label"] for row in figures["per_class"]]


def test_predict_keeps_the_table_s_order(bundle, samples, tmp_path):
    rows = [(row.file,) for row in table_reader.read_rows(os.path.join(samples, "test.tsv"))][::-1]
    helpers.write_table(tmp_path / "t.tsv", rows, header=("file",))
    predict.main(
        [bundle.path, str(tmp_path / "t.tsv"), "--images", os.path.join(samples, "photos")]
        + ["--out", str(tmp_path / "submission.tsv")]
    )
    with open(str(tmp_path / "submission.tsv"), newline="", encoding="utf-8") as file:
        header, *predictions = csv.reader(file, "excel-tab")
    assert header == ["file", "label"]
    assert [name for name, _ in predictions] == [name for (name,) in rows]
    assert {label for _, label in predictions} <= set(bundle.class_names)


# ---- stopped half way


def start_training(samples, out, *more):
    command = [sys.executable, "-m", "picnic_edge", "train", samples + "/train.tsv", "--images", samples + "/photos"]
    command += ["--out", out, "--weights", "none", "--size", "96", "--fine-tune", "1", "--fine-tune-epochs", "3"]
    command += ["--epochs", "4"]
    environment = dict(os.environ, PYTHONPATH=helpers.ROOT)
    return subprocess.Popen(
        command + list(more), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True
    )


def read_until(process, text):
    """Reads what a training says until it says a text; then it is busy with what comes next."""
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it ended without saying {text!r}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", ["training: ", "head: epoch 1 ", "fine-tune: epoch 1 ", "fine-tune: epoch 3 ", "refit: "]
)
def test_kill_9_and_resume_ends_where_a_whole_training_ends(samples, tmp_path, moment):
    whole, killed = str(tmp_path / "whole"), str(tmp_path / "killed")
    out, said = start_training(samples, whole).communicate()
    process = start_training(samples, killed)
    read_until(process, moment)
    process.kill()
    process.communicate()
    assert not os.path.exists(killed)
    resumed = start_training(samples, killed, "--resume")
    out, said = resumed.communicate()
    assert resumed.returncode == 0, said
    first, second = Bundle.open(whole), Bundle.open(killed)
    assert np.abs(first.sample().probabilities - second.sample().probabilities).max() < 1e-3
    for stage in ("fine_tune", "refit"):
        for name, values in first.manifest["metrics"]["history"][stage].items():
            assert second.manifest["metrics"]["history"][stage][name] == pytest.approx(values, rel=1e-3)
    assert not os.path.exists(killed + ".training")


@pytest.mark.slow
def test_ctrl_c_leaves_a_bundle_of_the_best_so_far(samples, tmp_path):
    out = str(tmp_path / "bundle")
    process = start_training(samples, out)
    read_until(process, "fine-tune: epoch 1 ")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert f"the best model so far is in {out}.interrupted; to continue, give the same command with --resume" in said
    assert "Traceback" not in said
    assert len(Bundle.open(out + ".interrupted").manifest["metrics"]["history"]["fine_tune"]["val_loss"]) >= 2
    assert not os.path.exists(out)
    resumed = start_training(samples, out, "--resume")
    _, said = resumed.communicate()
    assert resumed.returncode == 0 and "fine-tune: resuming after epoch 1" in said
    assert f"{out}.interrupted is from an interrupted training and no longer needed" in said
    Bundle.open(out)


# ---- refused before any work


@pytest.fixture
def no_reading(monkeypatch):
    monkeypatch.setattr(train, "read_dataset", None)


@pytest.mark.parametrize("size", ["95", "513", "224.5", "large"])
def test_a_size_out_of_range_exits_with_2(tmp_path, no_reading, capsys, size):
    with pytest.raises(SystemExit) as refused:
        train.main(["t.tsv", "--out", str(tmp_path / "bundle"), "--size", size])
    assert refused.value.code == 2 and "--size" in capsys.readouterr().err


def test_an_out_that_is_something_else_is_refused_and_left_alone(tmp_path, no_reading):
    folder = tmp_path / "holiday"
    folder.mkdir()
    (folder / "diary.txt").write_text("dear diary")
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("holiday", "file", "link"):
        with pytest.raises(UsageError, match=f"{name}: .*--out"):
            train.main(["t.tsv", "--out", str(tmp_path / name)])
    assert (folder / "diary.txt").read_text() == "dear diary"
    assert (tmp_path / "file").read_text() == "text"
    assert os.readlink(str(tmp_path / "link")) == "nowhere"
    done = helpers.picnic_edge("train", "t.tsv", "--out", folder)
    assert (done.returncode, done.stdout) == (2, b"")


def test_where_an_interrupted_training_would_go_is_left_alone_too(tmp_path, no_reading):
    (tmp_path / "bundle.interrupted").mkdir()
    (tmp_path / "bundle.interrupted" / "diary.txt").write_text("dear diary")
    with pytest.raises(UsageError, match="bundle.interrupted: "):
        train.main(["t.tsv", "--out", str(tmp_path / "bundle")])


def test_ctrl_c_between_the_stages_says_where_the_state_is(tmp_path, capsys):
    state = Checkpoint(str(tmp_path / "bundle.training"), {}, resume=False)
    for said in ("", f"interrupted: the state is in {state.path}; to continue, give"):
        with pytest.raises(KeyboardInterrupt), train._state_named_on_failure(state):
            raise KeyboardInterrupt
        assert capsys.readouterr().err.startswith(said)
        state.add_result("head", {})
    with pytest.raises(UsageError, match="disk"), train._state_named_on_failure(state):
        raise UsageError("a full disk")
    assert capsys.readouterr().err.startswith(f"the state is in {state.path}; to continue, give")


def test_copies_among_the_validation_photos_are_set_aside(tmp_path, capsys):
    rows = helpers.write_photos(tmp_path / "photos", per_class=3)
    helpers.write_table(tmp_path / "train.tsv", rows)
    held_out = helpers.write_photos(tmp_path / "val", per_class=1)
    file, label = held_out[0]
    other = next(name for name in helpers.COLOURS if name != label)
    picture = (tmp_path / "val" / file).read_bytes()
    (tmp_path / "val" / "again.jpg").write_bytes(picture + b" ")
    (tmp_path / "val" / "copy.jpg").write_bytes(picture + b" ")
    held_out += [("again.jpg", label), ("copy.jpg", other)]
    helpers.write_table(tmp_path / "val.tsv", held_out)
    options = train.parser().parse_args(
        [str(tmp_path / "train.tsv"), "--images", str(tmp_path / "photos"), "--val", str(tmp_path / "val.tsv")]
        + ["--val-images", str(tmp_path / "val"), "--out", str(tmp_path / "bundle")]
    )
    validation = dataset.read_dataset(options).validation
    assert {photo.file for photo in validation}.isdisjoint(["again.jpg", "copy.jpg"])
    assert "has copies under several labels" in capsys.readouterr().err


def test_an_out_below_a_file_is_met_before_training(tmp_path, no_reading):
    (tmp_path / "file").write_text("text")
    with pytest.raises(UsageError, match="file"):
        train.main(["t.tsv", "--out", str(tmp_path / "file" / "bundle")])


def test_a_full_disk_is_met_before_training(tmp_path, monkeypatch, no_reading):
    import collections

    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, 100 << 20))
    with pytest.raises(UsageError, match="100 MiB"):
        train.main(["t.tsv", "--out", str(tmp_path / "bundle")])


def test_without_tensorflow_training_exits_with_4_and_says_how_to_get_it(tmp_path, monkeypatch):
    from edge_runtime.errors import MissingRequirement

    helpers.write_photos(tmp_path / "photos", per_class=2)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingRequirement, match="pip install tensorflow"):
        train.main([str(tmp_path / "photos"), "--out", str(tmp_path / "bundle")])
    assert not (tmp_path / "bundle").exists()
