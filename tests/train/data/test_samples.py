"""The photos that the demo draws itself."""

import collections
import filecmp
import inspect
import os

import pytest
from PIL import Image

from edge_runtime.sources import table_reader
from tests.helpers import content_of
from train.data import checks, labels, samples


def draw(folder, **settings):
    return samples.draw_samples(str(folder), images_per_class=2, **settings)


def test_one_seed_gives_the_same_bytes_and_another_gives_other_photos(tmp_path):
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        draw(tmp_path / name, seed=seed)
    names = sorted(content_of(tmp_path / "first"))
    assert names == sorted(content_of(tmp_path / "again")) == sorted(content_of(tmp_path / "other"))
    same, differing, errors = filecmp.cmpfiles(str(tmp_path / "first"), str(tmp_path / "again"), names, shallow=False)
    assert (sorted(same), differing, errors) == (names, [], [])
    same, differing, _ = filecmp.cmpfiles(str(tmp_path / "first"), str(tmp_path / "other"), names, shallow=False)
    assert all(name in differing for name in names if name.endswith(".jpg"))


def test_a_second_draw_into_the_folder_leaves_no_temporary_files(tmp_path):
    draw(tmp_path, seed=0)
    names = sorted(content_of(tmp_path))
    draw(tmp_path, seed=1)
    assert sorted(content_of(tmp_path)) == names


def test_splits_share_no_photo_and_hold_every_class(samples):
    train, test = (
        [(row.file, row.label) for row in table_reader.read_rows(os.path.join(samples, name), need_label=True)]
        for name in ("train.tsv", "test.tsv")
    )
    assert not set(train) & set(test)
    assert not {file for file, _ in train} & {file for file, _ in test}
    counts = collections.Counter(label for _, label in train + test)
    assert len(counts) >= 6
    assert set(counts.values()) == {10}
    assert {label for _, label in train} == {label for _, label in test} == set(counts)
    assert any("," in label and "&" in label for label in counts)  # such names occur in real tables
    files = {file for file, _ in train + test}
    assert sorted(files) == sorted(content_of(os.path.join(samples, "photos")))


def test_every_photo_is_usable_and_its_label_is_its_folder(samples):
    photos, problems = labels.read_labels(os.path.join(samples, "photos"))
    readable, unreadable = checks.check_photos(photos, {})
    assert problems + unreadable == []
    from_tables = [
        row
        for name in ("train.tsv", "test.tsv")
        for row in table_reader.read_rows(os.path.join(samples, name), need_label=True)
    ]
    assert sorted((photo.file, photo.label) for photo in readable) == sorted(
        (row.file, row.label) for row in from_tables
    )


def test_boxes_lie_inside_their_photos(samples):
    with open(os.path.join(samples, "boxes.tsv"), encoding="utf-8") as file:
        header, *rows = [line.rstrip("\n").split("\t") for line in file]
    assert header == ["file", "x0", "y0", "x1", "y1"]
    assert len(rows) == 80
    for name, *corners in rows:
        x0, y0, x1, y1 = map(int, corners)
        with Image.open(os.path.join(samples, "photos", name)) as photo:
            width, height = photo.size
            assert photo.format == "JPEG"
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height, name
        assert (x1 - x0) * (y1 - y0) > 0.04 * width * height, f"{name}: the product is hardly there"


def test_default_size_is_enough_for_a_demo():
    default = inspect.signature(samples.draw_samples).parameters["images_per_class"].default
    assert default * len(samples.DRAWERS) >= 300


@pytest.mark.parametrize("count", [0, 1])
def test_a_class_needs_a_photo_for_either_split(tmp_path, count):
    with pytest.raises(ValueError, match="images_per_class"):
        samples.draw_samples(str(tmp_path), images_per_class=count)
    assert os.listdir(str(tmp_path)) == []
