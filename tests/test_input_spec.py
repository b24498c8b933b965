"""A bundle whose network takes other pictures than InceptionV3's, through every verb that reads photos."""

import json

import cv2
import numpy as np
import pytest

from edge_runtime.bundle.reading import Bundle
from edge_runtime.classifier import Classifier
from edge_runtime.errors import BundleError, MissingRequirement
from edge_runtime.photos.spec import InputSpec
from tests import helpers

SPECS = {
    "wide": InputSpec(48, 96),
    "crop": InputSpec(64, 64, "crop", shorter_side=72),
    "bars": InputSpec(96, 64, "letterbox", colour=(0, 0, 0)),
    "Pillow's": InputSpec(64, 64, "crop", shorter_side=72, filter="bicubic"),
}


@pytest.fixture(params=list(SPECS))
def bundle(request, tmp_path):
    return helpers.write_tiny_bundle(tmp_path / "bundle", SPECS[request.param])


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(sorted(helpers.COLOURS) * 3):
        helpers.write_photo(folder / f"{name}-{number}.jpg", helpers.photo(helpers.COLOURS[name], number, 150, 240))
    return folder


def labels_of(done):
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.decode())
    return {row["file"]: row["label"] for row in document["results"]}


@pytest.mark.parametrize("kind", ["onnxruntime", "openvino"])
def test_a_folder_is_classified_alike_by_a_converted_engine(bundle, photos, kind, capsys):
    pytest.importorskip(kind, reason=f"{kind} is not installed")
    helpers.convert(bundle, "--to", kind)
    labels = labels_of(helpers.picnic_edge("classify", bundle, photos, "--engine", kind, "--json"))
    assert labels == {name: name.split("-")[0] for name in labels} and len(labels) == 9


def test_frames_of_a_video_and_arrays_have_the_picture_of_a_photo(bundle, photos, tmp_path):
    name = sorted(helpers.COLOURS)[0]
    path = photos / f"{name}-0.jpg"
    frame = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    with Classifier.open(bundle) as classifier:
        from_file, from_array = classifier.classify([str(path), frame])
        assert from_file.label == from_array.label == name
        assert np.allclose(from_file.probabilities, from_array.probabilities, atol=0.02)
    clip = str(tmp_path / "clip.avi")
    writer = cv2.VideoWriter(clip, cv2.VideoWriter_fourcc(*"MJPG"), 10, (240, 150))
    for _ in range(4):
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    assert set(labels_of(helpers.picnic_edge("classify", bundle, clip, "--json")).values()) == {name}


def test_it_is_measured_and_annotated(photos, tmp_path):
    bundle = helpers.write_tiny_bundle(tmp_path / "bundle", SPECS["crop"])
    done = helpers.picnic_edge("bench", bundle, "--engine", "onnxruntime", "--seconds", "0.1", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.decode())
    assert document["photos"] == "the bundle's sample as JPEGs of 64 x 64" and document["engines"][0]["batches"]
    done = helpers.picnic_edge("classify", bundle, photos, "--annotate", tmp_path / "drawn")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "drawn").iterdir())) == 9


def test_a_sample_of_another_size_is_refused(tmp_path):
    bundle = Bundle.open(helpers.write_tiny_bundle(tmp_path / "bundle", SPECS["crop"]))
    other = bundle.__class__(bundle.path, bundle.manifest)  # of 299 x 299 until its manifest is read
    with pytest.raises(BundleError, match="not 299 x 299"):
        other.sample()


def test_the_board_s_decoder_is_not_for_pillow_s_filters(tmp_path, monkeypatch):
    bundle = helpers.write_tiny_bundle(tmp_path / "bundle", SPECS["Pillow's"])
    monkeypatch.setenv("PICNIC_EDGE_JPEG", "hardware")
    with pytest.raises(MissingRequirement, match="bicubic"):
        Classifier.open(bundle)
