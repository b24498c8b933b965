"""Publishing a bundle: proven equal first, then there in one piece or not at all. The network is a small stand-in."""

import os
import shutil

import numpy as np
import pytest

from edge_runtime.bundle.reading import Bundle
from edge_runtime.engines.kinds import create_engine
from edge_runtime.engines.record import EngineInfo
from edge_runtime.errors import ParityError, UsageError
from edge_runtime.photos import read, spec
from tests import helpers
from train.data.labels import Photo
from train.model import export
from train.model.network import Network

NAMES = sorted(helpers.COLOURS)


@pytest.fixture
def photos(tmp_path):
    rows = helpers.write_photos(tmp_path / "photos", per_class=3)
    return [Photo(name, str(tmp_path / "photos" / name), label) for name, label in rows]


@pytest.fixture
def answers(pristine_bundle, photos):
    """What the tiny network says about the photos."""
    info = EngineInfo("onnxruntime", "onnxruntime", "fp32", os.path.join(pristine_bundle, "model.onnx"), None)
    pictures = np.stack([read.read_image(photo.path, spec.INCEPTION_V3) for photo in photos])
    with create_engine(info, spec.INCEPTION_V3.shape, len(NAMES), export._CHECK_BATCH, None).open() as engine:
        batches = [pictures[: export._CHECK_BATCH], pictures[export._CHECK_BATCH :]]  # as _compare makes them
        return np.concatenate([engine.infer(batch) for batch in batches])


@pytest.fixture
def tiny_network(pristine_bundle, monkeypatch):
    """export writes the tiny network; its ONNX file is compared, a SavedModel is taken to be equal."""
    compare = export._compare

    def save_model(graph, folder, input_spec):
        os.makedirs(folder)
        with open(os.path.join(folder, "saved_model.pb"), "wb") as file:
            file.write(b"stands for a SavedModel")

    def compare_onnx(kind, path, input_spec, photos, expected, limit):
        if kind == "tensorflow":
            return {"max_abs_difference": 0.0, "top1_equal": len(photos), "photos": len(photos)}
        return compare(kind, path, input_spec, photos, expected, limit)

    monkeypatch.setattr(export, "_freeze", lambda network: None)
    monkeypatch.setattr(export, "_save_model", save_model)
    monkeypatch.setattr(
        export, "_save_onnx", lambda graph, path: shutil.copy(os.path.join(pristine_bundle, "model.onnx"), path)
    )
    monkeypatch.setattr(export, "_compare", compare_onnx)


@pytest.fixture
def older(tiny_bundle):
    """An older bundle with a converted engine in it: (path, its files)."""
    os.makedirs(os.path.join(tiny_bundle, "engines", "onnxruntime-fp32"))
    with open(os.path.join(tiny_bundle, "engines", "onnxruntime-fp32", "engine.json"), "w") as file:
        file.write("{}")
    return tiny_bundle, helpers.content_of(tiny_bundle)


def publish(out, photos, answers, limit=1e-5):
    figures, network = {"val_photos": len(photos)}, Network(None, None, None, spec.INCEPTION_V3)
    return export.export_bundle(out, network, NAMES, photos, answers, figures, {"seed": 5}, limit)


def test_a_new_bundle_opens_and_holds_what_it_was_given(tmp_path, photos, answers, tiny_network):
    out = str(tmp_path / "new" / "bundle")
    agreement = publish(out, photos, answers)
    assert set(agreement) == {"saved_model", "model.onnx"}
    assert agreement["model.onnx"] == {"max_abs_difference": 0.0, "top1_equal": 9, "photos": 9}
    opened = Bundle.open(out)
    assert opened.class_names == NAMES
    assert opened.manifest["metrics"] == {"val_photos": 9, "agreement": agreement}
    assert opened.manifest["training"] == {"seed": 5}
    assert set(opened.manifest["files"]) == set(helpers.content_of(out)) - {"manifest.json"}
    sample = opened.sample()
    assert sorted(sample.names) == sorted(photo.file for photo in photos)
    for name, picture, label, row in zip(sample.names, sample.images, sample.labels, sample.probabilities):
        index = [photo.file for photo in photos].index(name)
        assert label == photos[index].label
        assert np.array_equal(picture, read.read_image(photos[index].path, spec.INCEPTION_V3))
        assert np.array_equal(row, answers[index])
    assert os.listdir(str(tmp_path / "new")) == ["bundle"]


def test_an_older_bundle_is_replaced_in_one_piece(older, tmp_path, photos, answers, tiny_network, monkeypatch):
    out, before = older
    old_id = Bundle.open(out).id
    write_manifest, looked = export.write_manifest, []

    def look_first(*arguments):
        looked.append(helpers.content_of(out) == before and Bundle.open(out).id == old_id)
        write_manifest(*arguments)

    monkeypatch.setattr(export, "write_manifest", look_first)
    publish(out, photos, answers)
    assert looked == [True]  # until the last moment it was the older one
    assert Bundle.open(out).id != old_id
    assert not os.path.exists(os.path.join(out, "engines"))  # they were made of the older model
    assert sorted(os.listdir(str(tmp_path))) == ["bundle", "photos"]


@pytest.mark.parametrize("step", ["_freeze", "_save_model", "_save_onnx", "save_sample", "_compare", "write_manifest"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError])
def test_whatever_stops_the_export_leaves_the_older_bundle(
    older, tmp_path, photos, answers, tiny_network, monkeypatch, step, error
):
    def stop(*arguments):
        raise error("planted")

    out, before = older
    monkeypatch.setattr(export, step, stop)
    with pytest.raises(error):
        publish(out, photos, answers)
    assert helpers.content_of(out) == before
    assert sorted(os.listdir(str(tmp_path))) == ["bundle", "photos"]


def test_a_picture_that_the_disk_does_not_take_stops_the_export(older, photos, answers, tiny_network, monkeypatch):
    out, before = older
    monkeypatch.setattr(export.cv2, "imwrite", lambda path, pixels: False)
    with pytest.raises(OSError, match="000.png: "):
        publish(out, photos, answers)
    assert helpers.content_of(out) == before


@pytest.mark.parametrize("step", ["_save_model", "_save_onnx", "save_sample"])
def test_a_full_disk_is_named_whatever_the_library_calls_it(older, photos, answers, tiny_network, monkeypatch, step):
    out, before = older
    usage = shutil.disk_usage(out)

    def stop(*arguments):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=150 << 20))
        raise RuntimeError("BundleWriter: status 8")

    monkeypatch.setattr(export, step, stop)
    with pytest.raises(UsageError, match="500 MiB .*150 MiB"):
        publish(out, photos, answers)
    assert helpers.content_of(out) == before


def test_what_came_to_lie_in_the_older_bundle_during_the_training_is_not_lost(older, photos, answers, tiny_network):
    out, _ = older
    with open(os.path.join(out, "notes.txt"), "w") as file:
        file.write("dear diary")
    with pytest.raises(UsageError, match="notes.txt"):
        publish(out, photos, answers)
    assert os.path.exists(os.path.join(out, "notes.txt"))


def test_a_photo_that_goes_away_before_the_export_is_named(photos, answers):
    os.unlink(photos[4].path)
    with pytest.raises(UsageError, match=f"{photos[4].path}: .*before"):
        export.take_sample(photos, answers, lambda path: read.read_image(path, spec.INCEPTION_V3))


@pytest.mark.parametrize(
    "spoil, said",
    [
        (
            lambda answers: answers + np.float32(2e-5),
            " 2e-05 .* 1e-05 .* 9 of 9",
        ),
        (lambda answers: answers[:, ::-1], "3 of 9"),
        (lambda answers: np.where(answers == answers.max(), np.float32(np.nan), answers), " nan .*9 of 9"),
    ],
    ids=["a little off", "classes mixed up", "nan in one best class"],
)
def test_an_export_that_answers_differently_is_refused(older, tmp_path, photos, answers, tiny_network, spoil, said):
    out, before = older
    with pytest.raises(ParityError, match="export: model.onnx .*" + said) as refused:
        publish(out, photos, spoil(answers))
    assert refused.value.exit_code == 6
    assert helpers.content_of(out) == before
    assert sorted(os.listdir(str(tmp_path))) == ["bundle", "photos"]


def test_a_label_that_differs_within_the_limit_stops_nothing(tmp_path, photos, answers, tiny_network):
    agreement = publish(str(tmp_path / "bundle"), photos, answers[:, ::-1], limit=1.0)
    assert agreement["model.onnx"]["top1_equal"] == 3


def test_names_that_no_terminal_can_show_get_into_the_sample(tmp_path, answers, photos, tiny_network):
    strange = os.fsdecode(b"caf\xe9\t.jpg")
    os.rename(photos[0].path, str(tmp_path / "photos" / strange))
    photos[0] = Photo(strange, str(tmp_path / "photos" / strange), photos[0].label)
    publish(str(tmp_path / "bundle"), photos, answers)
    assert "caf\\xe9\\t.jpg" in Bundle.open(str(tmp_path / "bundle")).sample().names


def test_the_classes_take_turns():
    labels = "a" * 7 + "b" * 2 + "c" * 4
    photos = [Photo(str(index), str(index), label) for index, label in enumerate(labels)]
    order = export.class_turns(photos)
    assert [labels[index] for index in order] == list("abcabcacacaaa")
    assert sorted(order) == list(range(13))


def test_no_more_photos_are_kept_than_the_limit(tmp_path, photos, answers, tiny_network, monkeypatch):
    monkeypatch.setattr(export, "SAMPLE_PHOTOS", 4)
    agreement = publish(str(tmp_path / "bundle"), photos, answers)
    assert agreement["model.onnx"]["photos"] == 9  # but all are compared
    sample = Bundle.open(str(tmp_path / "bundle")).sample()
    assert sample.names == [photo.file for photo in photos[:4]]
    assert np.array_equal(sample.probabilities, answers[:4])
