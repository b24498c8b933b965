"""picnic-edge import: a model from elsewhere becomes a bundle that the other verbs use, or an error says why not."""

import json
import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from convert import tensorrt_model
from edge_runtime import files
from edge_runtime.bundle.reading import Bundle
from edge_runtime.errors import ParityError, UsageError
from tests.helpers import check_manifest, content_of, convert, picnic_edge, write_photos, write_table
from tests.train.importing.onnx_models import NAMES, classifier, node, save
from train.cli import import_model


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of class folders, 20 photos each, and photos.tsv beside it."""
    folder = tmp_path_factory.mktemp("check")
    write_table(str(folder / "photos.tsv"), write_photos(folder / "photos", 20))
    return str(folder / "photos")


def labels_file(folder, names=NAMES):
    path = folder / "labels.txt"
    path.write_text("\r\n".join(names))
    return str(path)


def run(*arguments):
    import_model.main([str(argument) for argument in arguments])


def test_an_imported_bundle_works_with_the_other_verbs(tmp_path, photos):
    model, out = save(tmp_path, classifier(batch=1, opset=11)), tmp_path / "bundle"
    before = files.sha256_of(model)
    done = picnic_edge("import", model, "--labels", labels_file(tmp_path), "--check", photos, "--out", out)
    assert done.returncode == 0, done.stderr
    assert files.sha256_of(model) == before
    assert b"same label as the original on 60 of 60 photos" in done.stdout and b"0..1" in done.stdout
    bundle = Bundle.open(str(out))
    check_manifest(bundle)
    assert bundle.class_names == NAMES and bundle.manifest["metrics"]["val_accuracy"] == 1
    record = bundle.manifest["training"]
    assert record["source_sha256"] == before
    assert record["filter_assumed"] and record["metrics_on_photos_that_chose"]
    assert "bilinear is assumed" in done.stderr and b"the same photos chose" in done.stdout
    assert bundle.sample().images.shape[1:] == (64, 64, 3)
    model = onnx.load(str(out / "model.onnx"))
    tensorrt_model.check_model(model)
    assert tensorrt_model.cast_comes_first(model) and tensorrt_model.with_float_input(model)
    done = picnic_edge("evaluate", out, photos + ".tsv", "--images", photos, "--json")
    assert json.loads(done.stdout.decode())["accuracy"] == 1
    convert(out, "--to", "onnxruntime")
    rows = picnic_edge("classify", out, photos).stdout.decode().splitlines()[1:]
    assert len(rows) == 60 and all(row.split("\t")[0].split("/")[0] == row.split("\t")[1] for row in rows)


def test_photos_without_labels_are_enough_where_the_files_say_how(tmp_path, photos, capsys):
    out = tmp_path / "bundle"
    flat = tmp_path / "flat"
    write_photos(flat, 20)
    options = ("--scale", "0..1", "--channels", "RGB", "--resize", "crop:0.875:bicubic", "--exact-resize")
    run(
        save(tmp_path, classifier()), "--labels", labels_file(tmp_path), "--check", flat / "red", "--out", out, *options
    )
    bundle = Bundle.open(str(out))
    check_manifest(bundle)
    assert "val_accuracy" not in bundle.manifest["metrics"]
    spec = bundle.input_spec
    assert (spec.resize, spec.shorter_side, spec.filter) == ("crop", 73, "bicubic")
    assert "accuracy" not in capsys.readouterr().out


def test_a_background_class_is_not_in_the_bundle(tmp_path, photos):
    one = classifier()
    for tensor in one.graph.initializer:  # a first output that never wins
        array = onnx.numpy_helper.to_array(tensor)
        if tensor.name in ("weights", "bias"):
            first = np.zeros_like(array[:1]) - (50 if tensor.name == "bias" else 0)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.concatenate([first, array]), tensor.name))
    one.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    out = tmp_path / "bundle"
    run(save(tmp_path, one), "--labels", labels_file(tmp_path), "--check", photos, "--preset", "tf-hub", "--out", out)
    assert Bundle.open(str(out)).sample().probabilities.shape[1] == 3


# --- what ends it


def with_end(kind, *nodes):
    def build():
        one = classifier()
        one.graph.node.extend(nodes)
        one.graph.output[0].name = kind
        return one

    return build


def nan_on_black():
    def middle():
        return [node("Div", "colour colour", "ones"), node("Mul", "ones colour", "mixed")], {}

    return classifier(middle=middle)


def constant():
    def middle():
        return [node("Sub", "colour colour", "mixed")], {}

    return classifier(middle=middle)


PRESET = ("--preset", "tf-hub")
REFUSED = {
    "no photos": (classifier, PRESET, "give photos with --check"),
    "nothing known, few photos": (classifier, ("--check", "FEW"), "30 labelled photos are too few|--preset, one of"),
    "sigmoid": (with_end("end", node("Sigmoid", "logits", "end")), ("--check", "FEW") + PRESET, "sigmoid"),
    "embedding": (
        with_end("end", node("LpNormalization", "logits", "end", axis=1)),
        ("--check", "FEW") + PRESET,
        "embedding",
    ),
    "NaN on black": (nan_on_black, ("--check", "FEW") + PRESET, "black picture"),
    "always the same": (constant, ("--check", "FEW") + PRESET, "the same to"),
    "no such photos": (classifier, ("--check", "nowhere.tsv") + PRESET, "--check nowhere.tsv: no such"),
    "images without check": (classifier, ("--images", "FEW"), "needs --check"),
    "size of the graph": (classifier, ("--check", "FEW", "--size", "32") + PRESET, "--size 32"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_errors_leave_no_bundle(tmp_path, photos, name):
    build, options, words = REFUSED[name]
    write_photos(tmp_path / "few", 2)
    model, out = save(tmp_path, build()), tmp_path / "out" / "bundle"
    given = [str(tmp_path / "few") if word == "FEW" else word for word in options]
    with pytest.raises(UsageError, match=words):
        run(model, "--labels", labels_file(tmp_path), "--out", out, *given)
    assert not os.path.exists(str(out.parent))


@pytest.mark.parametrize(
    "names, words",
    [
        (NAMES[:1], "1 class;"),
        (NAMES + ["more"], "4 class names; the model has 3 outputs"),
        (NAMES[:2] + NAMES[:1], "same name"),
        (None, "do not name its 3 classes"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, photos, names, words):
    given = [] if names is None else ["--labels", labels_file(tmp_path, names)]
    with pytest.raises(UsageError, match=words):
        run(save(tmp_path, classifier()), "--out", tmp_path / "b", "--check", photos, *(given + list(PRESET)))


def test_labels_in_the_wrong_order_are_noticed_and_an_order_is_suggested(tmp_path, photos):
    turned = NAMES[1:] + NAMES[:1]
    with pytest.raises(UsageError, match="wrong order.*sorted as strings") as caught:
        run(
            save(tmp_path, classifier()),
            "--out",
            tmp_path / "b",
            "--check",
            photos,
            "--labels",
            labels_file(tmp_path, turned),
            "--channels",  # of colours alone, red things seen as BGR are blue things
            "RGB",
        )
    assert "--labels" in str(caught.value) and not (tmp_path / "b").exists()


def test_labels_of_another_model(tmp_path, photos):
    other = labels_file(tmp_path, ["a", "b", "c"])
    with pytest.raises(UsageError, match="none of its labels is a class of the model.*the model has a, b, c"):
        run(
            save(tmp_path, classifier()),
            "--labels",
            other,
            "--check",
            photos + ".tsv",
            "--images",
            photos,
            "--out",
            "b",
        )


def test_the_model_is_never_written_to(tmp_path, photos):
    model = save(tmp_path, classifier())
    before = files.sha256_of(model)
    for out in (tmp_path, tmp_path / "model.onnx"):
        with pytest.raises(UsageError, match="--out"):
            run(model, "--out", out, "--labels", labels_file(tmp_path), "--check", photos)
        assert files.sha256_of(model) == before
    with pytest.raises(UsageError, match="is in MODEL"):
        run(tmp_path, "--out", tmp_path / "bundle", "--check", photos)


def test_a_bundle_that_is_refused_leaves_the_older_one(tmp_path, tiny_bundle, photos, monkeypatch):
    before = content_of(tiny_bundle)
    monkeypatch.setattr(import_model.proof, "MIN_AGREEMENT", 1.01)
    with pytest.raises(ParityError):
        run(
            save(tmp_path, classifier()),
            "--labels",
            labels_file(tmp_path),
            "--check",
            photos,
            "--out",
            tiny_bundle,
            *PRESET,
        )
    assert content_of(tiny_bundle) == before


def test_a_uint8_original_keeps_its_own_scaling_and_a_bundle_s_model_is_one(tmp_path, photos):
    model = save(tmp_path, classifier("NHWC", kind=TensorProto.UINT8))
    given = ("--labels", labels_file(tmp_path), "--check", photos, "--channels", "RGB", "--resize", "squash")
    for number in range(2):
        out = tmp_path / ("bundle %d" % number)
        run(model, *given, "--out", out)
        assert "original's own graph" in Bundle.open(str(out)).manifest["input_spec"]["scaling"]
        model = str(out / "model.onnx")


def test_the_model_that_is_written_is_the_one_that_was_compared(tmp_path, photos, monkeypatch):
    add = import_model.proof.with_temperature
    monkeypatch.setattr(import_model.proof, "with_temperature", lambda model, temperature: add(model, 2 * temperature))
    given = ("--labels", labels_file(tmp_path), "--check", photos, "--out", tmp_path / "bundle")
    with pytest.raises(ParityError, match="differ"):
        run(save(tmp_path, classifier()), *(given + PRESET))
    assert not (tmp_path / "bundle").exists()


def test_missing_photos_are_told_before_the_model_is_opened(tmp_path):
    (tmp_path / "model.onnx").write_text("no model")
    for given in ((), ("--check", tmp_path / "nowhere")):
        with pytest.raises(UsageError, match="--check"):
            run(tmp_path / "model.onnx", "--out", tmp_path / "bundle", *given)
