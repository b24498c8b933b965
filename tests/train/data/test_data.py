"""Labels: reading, checking, splitting, and naming whatever cannot be used."""

import collections
import csv
import gzip
import os
import shutil

import numpy as np
import pytest

from edge_runtime.errors import SomeInputsFailed, StorageLost, UsageError
from edge_runtime.files import sha256_of
from edge_runtime.photos import read as photos_read
from edge_runtime.sources import registry
from tests import helpers
from tests.train.insight.test_explore import drawn
from train.cli import train
from train.data import checks, classes, dataset, labels, similarity, split
from train.data.labels import Photo


@pytest.fixture
def photos(tmp_path):
    """Class folders with 4 photos each; the rows of a table of them."""
    folder = tmp_path / "photos"
    return folder, helpers.write_photos(folder)


@pytest.fixture
def no_long_work(monkeypatch):
    """Fails the test when training goes further than reading the labels."""

    def started():
        raise AssertionError("training went on")

    monkeypatch.setattr("train.model.tf_setup.load_tensorflow", started)


def read_options(*arguments):
    """Returns (training, validation) photos."""
    data = dataset.read_dataset(train.parser().parse_args([str(argument) for argument in arguments]))
    return data.training, data.validation


def labelled(**counts):
    """Returns Photos: labelled(a=3, b=2)."""
    return [
        Photo(f"{label}{number}.jpg", f"{label}{number}.jpg", label)
        for label, count in sorted(counts.items())
        for number in range(count)
    ]


def write_films(folder, films, frames=12):
    """Writes folder/<class>/<film>-<frame>.jpg: a product that moves slowly before a background of each film's own.

    Args:
        films: {label: number of films}.
    """
    random = np.random.RandomState(0)
    for number, label in enumerate(sorted(films)):
        for film in range(films[label]):
            ground = drawn(100 * number + film).astype(int)
            product = drawn(1000 + number, 120, 90)
            for frame in range(frames):
                rgb = ground + random.randint(-9, 10, ground.shape[:2] + (1,))
                left, top = 60 + 7 * frame, 90 + 2 * frame
                rgb[top : top + 120, left : left + 90] = product
                name = f"{label}/{film}-{frame:02d}.jpg"
                helpers.write_photo(folder / name, np.clip(rgb, 0, 255).astype(np.uint8))


# ---- reading


def test_table_and_class_folders_give_the_same_photos(photos, tmp_path):
    folder, rows = photos
    helpers.write_table(tmp_path / "train.tsv", rows)
    from_table, problems = labels.read_labels(str(tmp_path / "train.tsv"), str(folder))
    from_folder, more = labels.read_labels(str(folder))
    assert problems == more == []
    assert [(photo.file, photo.label) for photo in from_table] == rows
    assert sorted(photo[:3] for photo in from_folder) == sorted(photo[:3] for photo in from_table)
    assert all(os.path.isfile(photo.path) for photo in from_table)


def test_images_folder_defaults_to_the_table_s(photos):
    folder, rows = photos
    helpers.write_table(folder / "train.tsv", rows)
    usable, problems = labels.read_labels(str(folder / "train.tsv"))
    assert (len(usable), problems) == (len(rows), [])
    assert all(os.path.isfile(photo.path) for photo in usable)


def test_nested_class_folders_keep_their_whole_name(tmp_path):
    for name in ("Fruit/Apple/a.jpg", "Fruit/Pear/a.jpg", "Dairy/Apple/a.jpg"):
        helpers.write_photo(tmp_path / name, helpers.photo((9, 9, 9)))
    helpers.write_photo(tmp_path / "stray.jpg", helpers.photo((9, 9, 9)))
    usable, problems = labels.read_labels(str(tmp_path))
    assert [photo.label for photo in usable] == ["Dairy/Apple", "Fruit/Apple", "Fruit/Pear"]
    assert problems == [labels.Problem("stray.jpg", "is not in a class folder")]


def test_more_columns_in_any_order_are_ignored(photos, tmp_path):
    folder, rows = photos
    helpers.write_table(
        tmp_path / "t.tsv", [(label, "7", file) for file, label in rows], header=("label", "weight", "file")
    )
    usable, problems = labels.read_labels(str(tmp_path / "t.tsv"), str(folder))
    assert problems == []
    assert [(photo.file, photo.label) for photo in usable] == rows


@pytest.mark.parametrize(
    "row, name, what",
    [
        (("a.jpg", ""), "a.jpg", "no label"),
        (("a.jpg", "   "), "a.jpg", "no label"),
        (("a.jpg",), "a.jpg", "no label"),
        (("", "red"), "line 4", "no file name"),
        (("a.jpg", "red", "more", "fields"), "a.jpg", "line has 4 fields, the header 2"),
        (("/etc/passwd", "red"), "/etc/passwd", "absolute path; names are relative to the images folder"),
        (("../a.jpg", "red"), "../a.jpg", "path leaves the images folder (..)"),
        (("x/../../a.jpg", "red"), "x/../../a.jpg", "path leaves the images folder (..)"),
    ],
)
def test_each_unusable_row_is_set_aside_and_named(tmp_path, row, name, what):
    helpers.write_table(tmp_path / "t.tsv", [("1.jpg", "red"), ("2.jpg", "red"), row, ("3.jpg", "red")])
    usable, problems = labels.read_labels(str(tmp_path / "t.tsv"))
    assert [photo.file for photo in usable] == ["1.jpg", "2.jpg", "3.jpg"]
    assert problems == [labels.Problem(name, what)]


def test_a_photo_listed_twice_counts_once(tmp_path):
    helpers.write_table(tmp_path / "t.tsv", [("a.jpg", "red"), ("b.jpg", "red"), ("./a.jpg", "red")])
    usable, problems = labels.read_labels(str(tmp_path / "t.tsv"))
    assert [photo.file for photo in usable] == ["a.jpg", "b.jpg"]
    assert problems == [labels.Problem("./a.jpg", "is listed more than once: counted once")]


def test_a_photo_under_two_labels_is_not_used_at_all(tmp_path):
    helpers.write_table(tmp_path / "t.tsv", [("a.jpg", "red"), ("b.jpg", "red"), ("a.jpg", "green")])
    usable, problems = labels.read_labels(str(tmp_path / "t.tsv"))
    assert [photo.file for photo in usable] == ["b.jpg"]
    assert problems == [labels.Problem("a.jpg", "is listed under several labels: green, red")] * 2


@pytest.mark.parametrize(
    "content, said",
    [
        (b"file\tname\na.jpg\tred\n", "no column named label"),
        (b"a.jpg\tred\n", "no column named file or label"),
        (b"", "is empty"),
        (b"file:label\na.jpg:red\n", "no column named file or label"),
    ],
)
def test_a_table_without_the_columns_is_refused(tmp_path, content, said):
    (tmp_path / "t.tsv").write_bytes(content)
    with pytest.raises(UsageError) as refused:
        labels.read_labels(str(tmp_path / "t.tsv"))
    assert said in str(refused.value)
    assert str(tmp_path / "t.tsv") in str(refused.value)


def test_missing_table_and_missing_images_folder_are_told_apart(tmp_path):
    with pytest.raises(UsageError, match="nosuch.tsv: "):
        labels.read_labels(str(tmp_path / "nosuch.tsv"))
    helpers.write_table(tmp_path / "t.tsv", [])
    with pytest.raises(UsageError, match="--images .*nosuch"):
        labels.read_labels(str(tmp_path / "t.tsv"), str(tmp_path / "nosuch"))


# ---- checking


def test_every_kind_of_unreadable_photo_is_named_with_its_reason(tmp_path):
    good = helpers.photo((200, 30, 30), height=200, width=300)
    helpers.write_photo(tmp_path / "good.jpg", good)
    helpers.write_photo(tmp_path / "good.png", good)
    whole = {kind: (tmp_path / ("good." + kind)).read_bytes() for kind in ("jpg", "png")}
    (tmp_path / "half.jpg").write_bytes(whole["jpg"][: len(whole["jpg"]) // 2])
    (tmp_path / "half.png").write_bytes(whole["png"][: len(whole["png"]) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_bytes(b"not a photo at all")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(str(tmp_path / "pipe.jpg"))
    names = sorted(os.listdir(str(tmp_path))) + ["missing.jpg"]
    listed = [Photo(name, str(tmp_path / name), "red") for name in names]
    sums = {}
    readable, problems = checks.check_photos(listed, sums)
    assert sums == {photo.path: sha256_of(photo.path) for photo in readable}
    assert [photo.file for photo in readable] == ["good.jpg", "good.png"]
    reasons = dict(problems)
    assert set(reasons) == set(names) - {"good.jpg", "good.png"}
    assert reasons["missing.jpg"] == reasons["dangling.jpg"] == "No such file or directory"
    assert reasons["half.jpg"] == "is damaged (JPEG without its end: truncated)"
    assert "truncated or corrupt" in reasons["half.png"]
    assert reasons["empty.jpg"] == "is empty (0 bytes)"
    assert reasons["text.jpg"].endswith("picture, but text")
    assert reasons["folder.jpg"] == "is a directory"
    assert reasons["pipe.jpg"] == "is not a regular file"


def test_a_class_with_one_photo_is_set_aside():
    kept, problems = checks.drop_small_classes(labelled(a=2, b=1, c=3))
    assert collections.Counter(photo.label for photo in kept) == {"a": 2, "c": 3}
    assert problems == [labels.Problem("b0.jpg", "class 'b' has 1 usable photo, 2 are needed")]


# ---- splitting


def test_split_takes_the_share_of_every_class_and_loses_nothing():
    every = labelled(a=50, b=20, c=10)
    training, validation = split.split(every, 0.2, seed=0)
    assert collections.Counter(photo.label for photo in validation) == {"a": 10, "b": 4, "c": 2}
    assert sorted(training + validation) == sorted(every)
    assert training == [photo for photo in every if photo not in validation]
    assert validation == [photo for photo in every if photo in validation]


def test_split_follows_the_seed():
    every = labelled(a=50, b=20)
    assert split.split(every, 0.3, seed=5) == split.split(every, 0.3, seed=5)
    assert split.split(every, 0.3, seed=5) != split.split(every, 0.3, seed=6)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999, 1.0])
def test_split_empties_no_class_on_either_side(share):
    for side in split.split(labelled(a=2, b=3, c=40), share, seed=1):
        assert {photo.label for photo in side} == {"a", "b", "c"}


@pytest.mark.parametrize("share, seed", [(0.2, 0), (0.3, 7), (0.75, 3), (0.001, 1), (0.999, 2)])
def test_photos_that_look_alike_stay_together_and_each_class_has_its_share(share, seed):
    every = labelled(a=50, b=20, c=9, d=5)
    names = [photo.file for photo in every]
    groups = [[f"a{n}.jpg" for n in range(first, first + 5)] for first in range(0, 50, 5)]
    groups += [
        ["b0.jpg", "b7.jpg"],
        ["c2.jpg", "c3.jpg", "c4.jpg"],
        ["d0.jpg", "d1.jpg"],
        ["d2.jpg", "d3.jpg", "d4.jpg"],
    ]
    indices = [[names.index(name) for name in group] for group in groups]
    training, validation = split.split(every, share, seed, indices)
    assert sorted(training + validation) == sorted(every)
    held_out = {photo.file for photo in validation}
    assert [group for group in groups if held_out.intersection(group) not in (set(), set(group))] == []
    for side in (training, validation):
        assert {photo.label for photo in side} == {"a", "b", "c", "d"}
    counts = collections.Counter(photo.label for photo in validation)
    for label, count, largest in (("a", 50, 5), ("b", 20, 2), ("c", 9, 3), ("d", 5, 3)):
        assert abs(counts[label] - share * count) <= largest
    assert (training, validation) == split.split(every, share, seed, indices)


def test_where_no_photos_look_alike_the_split_is_what_it_always_was():
    before = ["a3.jpg", "a4.jpg", "a6.jpg", "a9.jpg", "b2.jpg", "b4.jpg", "c1.jpg"]
    for groups in ([], [[0, 1], [12, 13]]):  # these are on one side anyway
        _, validation = split.split(labelled(a=12, b=5, c=2), 0.3, seed=4, groups=groups)
        assert [photo.file for photo in validation] == before


def test_a_class_that_is_one_group_stays_in_training():
    every = labelled(a=6, b=6, c=6)
    training, validation = split.split(every, 0.2, 0, [list(range(6))])
    assert collections.Counter(photo.label for photo in validation) == {"b": 1, "c": 1}
    assert sum(photo.label == "a" for photo in training) == 6


@pytest.mark.parametrize("groups", [[range(6), range(6, 12), range(12, 18)], [range(6), range(12, 18)]])
def test_where_most_classes_are_one_group_they_are_split_all_the_same(groups):
    every = labelled(a=6, b=6, c=6)
    assert split.split(every, 0.2, 0, [list(group) for group in groups]) == split.split(every, 0.2, 0)


def test_frames_of_one_film_are_on_one_side(tmp_path, capsys):
    write_films(tmp_path / "films", {"milk": 5, "soap": 5, "tea": 5})
    options = train.parser().parse_args([str(tmp_path / "films"), "--out", str(tmp_path / "bundle")])
    training, validation, _, _ = dataset.read_dataset(options)
    films = [{photo.file.split("-")[0] for photo in side} for side in (training, validation)]
    assert films[0].isdisjoint(films[1]) and len(films[0]) == 12 and len(films[1]) == 3
    said = capsys.readouterr().err
    assert "180 photos look like another photo of their class: each of their 15 groups stays on one side" in said
    assert "warning" not in said
    # What the split was before: the network would be asked for what it has learned by heart.
    fingerprints = {}
    photos, _ = checks.check_photos(labels.read_labels(str(tmp_path / "films"))[0], {}, fingerprints)
    groups = similarity.frame_groups([fingerprints[photo.path] for photo in photos], [photo.label for photo in photos])
    training, validation = split.split(photos, 0.2, 0)
    leaking = split.count_leaking(training, validation, [[photos[index] for index in group] for group in groups])
    assert leaking == len(validation) == 36


def test_one_film_for_each_class_is_split_and_said(tmp_path, capsys):
    write_films(tmp_path / "films", {"milk": 1, "soap": 1})
    training, validation = read_options(tmp_path / "films", "--out", tmp_path / "bundle")
    assert {photo.label for photo in validation} == {"milk", "soap"}
    said = capsys.readouterr().err
    assert (
        "4 of 4 validation photos look like a training photo: accuracy may be higher on them than on new photos" in said
    )
    assert "2 classes whose photos all look alike, like frames of a film: 'milk', 'soap'" in said


def test_validation_photos_that_look_like_training_photos_are_said(tmp_path, capsys):
    write_films(tmp_path / "train", {"milk": 2, "soap": 2}, frames=6)
    for label in ("milk", "soap"):
        (tmp_path / "val" / label).mkdir(parents=True)
        (tmp_path / "train" / label / "1-03.jpg").rename(tmp_path / "val" / label / "frame.jpg")
        helpers.write_photo(tmp_path / "val" / label / "new.jpg", drawn(len(label) + (label == "soap")))
    training, validation = read_options(tmp_path / "train", "--val", tmp_path / "val", "--out", tmp_path / "bundle")
    assert (len(training), len(validation)) == (22, 4)  # warned of, not left out
    said = capsys.readouterr().err
    assert "warning: 2 of 4 validation photos look like a training photo" in said and "picnic-edge explore" in said


# ---- reporting


def test_report_names_all_in_the_file_and_the_first_ten_on_the_screen(tmp_path, capsys):
    problems = [labels.Problem(f"{number:02d}.jpg", "No such file or directory") for number in range(13)]
    problems += [labels.Problem("odd\tname\n.jpg", "is empty (0 bytes)")]
    path = str(tmp_path / "problems.tsv")
    checks.report_problems(problems, path, strict=False)
    said = capsys.readouterr().err
    assert "14 photos cannot be used:" in said
    assert "  13: No such file or directory: 00.jpg, 01.jpg," in said
    assert "09.jpg, and 3 more\n" in said
    assert "10.jpg" not in said
    assert "  1: is empty (0 bytes): odd\\tname\\n.jpg\n" in said  # no control characters on the terminal
    assert "the whole list: " + path in said
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, "excel-tab"))
    assert rows == [["file", "problem"]] + [list(problem) for problem in problems]


def test_report_is_silent_without_problems(tmp_path, capsys):
    checks.report_problems([], str(tmp_path / "problems.tsv"), strict=True)
    assert capsys.readouterr().err == ""
    assert os.listdir(str(tmp_path)) == []


def test_report_makes_the_folder_of_the_bundle_to_be(tmp_path, capsys):
    path = tmp_path / "new" / "bundle.problems.tsv"
    checks.report_problems([labels.Problem("a.jpg", "is empty")], str(path), strict=False)
    assert "a.jpg\tis empty" in path.read_text()


def test_report_that_cannot_be_written_is_the_user_s_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="problems.tsv"):
        checks.report_problems([labels.Problem("a", "b")], str(tmp_path / "file" / "problems.tsv"), strict=False)


# ---- through the command


def test_strict_exits_with_3_before_any_long_work(photos, tmp_path, no_long_work, capsys):
    folder, rows = photos
    helpers.write_table(tmp_path / "t.tsv", rows + [("missing.jpg", "red")])
    command = [str(tmp_path / "t.tsv"), "--images", str(folder), "--out", str(tmp_path / "bundle"), "--strict"]
    with pytest.raises(SomeInputsFailed, match="--strict: 1 "):
        train.main(command)
    assert "missing.jpg" in capsys.readouterr().err
    assert (tmp_path / "bundle.problems.tsv").read_text() == "file\tproblem\nmissing.jpg\tNo such file or directory\n"
    assert not (tmp_path / "bundle").exists()
    done = helpers.picnic_edge("train", *command)
    assert (done.returncode, done.stdout) == (3, b"")
    assert "Traceback" not in done.stderr


def test_without_strict_the_rest_goes_on(photos, tmp_path, capsys):
    folder, rows = photos
    helpers.write_table(tmp_path / "t.tsv", rows + [("missing.jpg", "red")])
    training, validation = read_options(
        tmp_path / "t.tsv", "--images", folder, "--out", tmp_path / "bundle", "--val-split", "0.25"
    )
    assert sorted(photo.file for photo in training + validation) == sorted(file for file, _ in rows)
    assert collections.Counter(photo.label for photo in validation) == dict.fromkeys(helpers.COLOURS, 1)
    assert "1 photo cannot be used:" in capsys.readouterr().err


@pytest.mark.parametrize("kept", [0, 1, 5])
def test_fewer_than_two_classes_left_exits_with_2(photos, tmp_path, no_long_work, kept):
    folder, rows = photos
    ones = [row for row in rows if row[1] == "red"][:kept] + [row for row in rows if row[1] == "blue things"][:1]
    helpers.write_table(tmp_path / "t.tsv", ones)
    with pytest.raises(UsageError, match="2 classes with 2 photos"):
        train.main([str(tmp_path / "t.tsv"), "--images", str(folder), "--out", str(tmp_path / "bundle")])


def test_no_readable_photo_at_all_exits_with_2(tmp_path, no_long_work):
    helpers.write_table(tmp_path / "t.tsv", [(f"{n}.jpg", "ab"[n % 2]) for n in range(8)])
    done = helpers.picnic_edge("train", tmp_path / "t.tsv", "--out", tmp_path / "new" / "bundle")
    assert done.returncode == 2, done.stderr
    assert "0 usable photos of 0 classes" in done.stderr


@pytest.mark.parametrize("command", ["train", "explore"])
def test_where_validation_photos_lie_is_asked_with_their_table_only(tmp_path, command):
    helpers.write_table(tmp_path / "t.tsv", [("a.jpg", "a")])
    out = "--out" if command == "train" else "--report"
    done = helpers.picnic_edge(command, tmp_path / "t.tsv", "--val-images", tmp_path, out, tmp_path / "new")
    assert done.returncode == 2, done.stderr
    assert f"--val-images {tmp_path}: needs --val" in done.stderr


@pytest.mark.parametrize("linked", ["training", "validation"])
def test_validation_photos_are_left_out_of_training(photos, tmp_path, capsys, linked):
    folder, rows = photos
    helpers.write_table(tmp_path / "train.tsv", rows)
    held_out = [row for row in rows if row[0].endswith("00.jpg")]
    (tmp_path / "link").symlink_to(folder)  # the same photos by another name
    helpers.write_table(tmp_path / "val.tsv", held_out)
    images, val_images = (tmp_path / "link", folder) if linked == "training" else (folder, tmp_path / "link")
    training, validation = read_options(
        *[tmp_path / "train.tsv", "--images", images, "--val", tmp_path / "val.tsv", "--val-images", val_images]
        + ["--out", tmp_path / "bundle"]
    )
    assert sorted(photo.file for photo in validation) == sorted(file for file, _ in held_out)
    assert sorted(photo.file for photo in training) == sorted(file for file, _ in set(rows) - set(held_out))
    said = capsys.readouterr().err
    assert "  3: is a validation photo too: left out of training: " in said
    assert "is --val-images missing?" in said  # all of the validation photos are training photos


def test_a_copy_of_a_validation_photo_is_left_out_too(photos, tmp_path, capsys):
    folder, rows = photos
    shutil.copyfile(os.path.join(str(folder), rows[0][0]), str(folder / "copy.jpg"))
    helpers.write_table(tmp_path / "train.tsv", rows[1:] + [("copy.jpg", rows[0][1])])
    helpers.write_table(tmp_path / "val.tsv", rows[:1])
    training, validation = read_options(
        *[tmp_path / "train.tsv", "--images", folder, "--val", tmp_path / "val.tsv", "--out", tmp_path / "bundle"]
    )
    assert [photo.file for photo in validation] == [rows[0][0]]
    assert "copy.jpg" not in [photo.file for photo in training]
    assert "1: is a validation photo too: left out of training: copy.jpg" in capsys.readouterr().err


def test_classes_are_weighted_when_one_has_more_than_five_times_another_s_photos():
    even = np.repeat([0, 1], [10, 2])
    assert classes.class_weights(even, 2).tolist() == [1, 1]
    uneven = np.repeat([0, 1], [11, 2])
    weights = classes.class_weights(uneven, 2)
    assert weights * [11, 2] == pytest.approx([6.5, 6.5])  # both classes count alike
    assert weights[uneven].mean() == pytest.approx(1)


def test_the_data_s_name_depends_on_photos_labels_and_split_alone():
    photos = labelled(a=3, b=3)
    sums = {photo.path: photo.file for photo in photos}
    name = split.dataset_id(photos[:4], photos[4:], sums)
    assert split.dataset_id(photos[3::-1], photos[4:], sums) == name
    assert split.dataset_id(photos[:5], photos[5:], sums) != name
    assert split.dataset_id(photos[:4], [photo._replace(label="a") for photo in photos[4:]], sums) != name
    assert split.dataset_id(photos[:4], photos[4:], dict(sums, **{photos[0].path: "other"})) != name


def test_the_order_of_photos_counts_where_it_is_asked_for():
    photos = labelled(a=1, b=2)
    sums = {photo.path: photo.file for photo in photos}
    assert split.dataset_id(photos, photos[:2], sums, True) != split.dataset_id(photos[::-1], photos[:2], sums, True)
    assert split.dataset_id(photos, photos[:2], sums, True) != split.dataset_id(photos, photos[1::-1], sums, True)


def test_validation_photos_with_unknown_labels_are_set_aside(photos, tmp_path, capsys):
    folder, rows = photos
    helpers.write_table(tmp_path / "train.tsv", [row for row in rows if not row[0].endswith("00.jpg")])
    unknown = [(file, "purple" if label == "red" else label) for file, label in rows if file.endswith("00.jpg")]
    helpers.write_table(tmp_path / "val.tsv", unknown)
    training, validation = read_options(
        tmp_path / "train.tsv", "--images", folder, "--out", tmp_path / "bundle", "--val", tmp_path / "val.tsv"
    )
    assert len(training) == 9
    assert {photo.label for photo in validation} == {"blue things", "green, fresh & ripe"}
    assert "label 'purple' is not among the training classes" in capsys.readouterr().err


def test_validation_without_any_usable_photo_exits_with_2(photos, tmp_path, no_long_work):
    folder, rows = photos
    helpers.write_table(tmp_path / "train.tsv", rows)
    helpers.write_table(tmp_path / "val.tsv", [("nosuch.jpg", "red")])
    with pytest.raises(UsageError, match="--val .*val.tsv: "):
        train.main(
            [str(tmp_path / "train.tsv"), "--images", str(folder), "--out", str(tmp_path / "bundle")]
            + ["--val", str(tmp_path / "val.tsv")]
        )


@pytest.mark.parametrize(
    "arguments",
    [["--val-split", share] for share in ("1.5", "0", "1", "nan")]
    + [["--epochs", "0"], ["--val", "v", "--val-split", "0.1"]],
)
def test_senseless_options_exit_with_2(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main(["t.tsv", "--out", str(tmp_path / "bundle")] + arguments)
    assert stopped.value.code == 2
    assert arguments[-2] in capsys.readouterr().err


# ---- warnings


def test_a_share_that_was_clamped_is_said_with_what_it_came_to(photos, tmp_path, capsys):
    training, validation = read_options(photos[0], "--out", tmp_path / "bundle", "--val-split", "0.01")
    assert len(validation) == 3
    expected = "warning: --val-split 0.01 is none or all of the photos of 3 classes: one photo stays on that "
    assert expected + "side; in all 3 of 12 photos are validation photos, 25.0 %" in capsys.readouterr().err
    read_options(photos[0], "--out", tmp_path / "bundle", "--val-split", "0.25")
    assert "--val-split" not in capsys.readouterr().err


def test_train_says_what_is_odd_about_the_labels_before_the_work(photos, tmp_path):
    folder, rows = photos
    odd = {"red": b"Red", "blue things": b"unknown", "green, fresh & ripe": b"gr\xfcn"}
    table = [os.fsencode(file) + b"\t" + odd[label] for file, label in rows]
    table[0] = table[0].replace(b"unknown", b"train/apple")
    table[1] = table[1].replace(b"unknown", b"val/apple")
    table[-1] = table[-1].replace(b"Red", b"red ")
    helpers.write_bytes(tmp_path / "t.tsv", b"\n".join([b"file\tlabel"] + table))
    done = helpers.picnic_edge("train", tmp_path / "t.tsv", "--images", folder, "--out", tmp_path / "b", "--strict")
    assert done.returncode == 3, done.stderr
    said = "\n".join(line for line in done.stderr.splitlines() if line.startswith("warning: "))
    for expected in ("t.tsv is not UTF-8 (line 6: 'gr\\udcfcn')", "train, val: read as classes", "class 'unknown'"):
        assert expected in said
    assert "'Red' (3 photos) and 'red' (1 photo)" in said and "3 classes with fewer than 10 photos" in said
    assert len(said.splitlines()) == 6


def test_a_near_copy_under_another_label_is_said(tmp_path, capsys):
    for number, label in enumerate(("milk", "soap")):
        for place in range(10):
            helpers.write_photo(tmp_path / "photos" / label / f"{place}.jpg", drawn(100 * number + place))
    helpers.write_photo(tmp_path / "photos" / "soap" / "again.png", drawn(3))
    read_options(tmp_path / "photos", "--out", tmp_path / "bundle")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(said) == 1 and "1 group of photos that look the same, 2 photos, have several labels" in said[0]


def test_sound_labels_are_not_warned_of(tmp_path, capsys):
    for number, label in enumerate(("milk", "soap", "train")):  # a toy
        for place in range(10):
            helpers.write_photo(tmp_path / "photos" / label / f"{place}.jpg", drawn(100 * number + place))
    read_options(tmp_path / "photos", "--out", tmp_path / "bundle")
    said = capsys.readouterr().err
    assert "warning" not in said and "look like another" not in said


@pytest.mark.slow
def test_real_photos_are_warned_of_classes_without_validation_alone(grocery, tmp_path, capsys):
    tables = [grocery + "/train.tsv", "--images", grocery + "/train", "--val", grocery + "/val.tsv"]
    read_options(*(tables + ["--val-images", grocery + "/val", "--out", tmp_path / "bundle"]))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(said) == 1 and "21 classes without any validation photo: 'Alpro-Fresh-Soy-Milk'" in said[0]


# ---- the hackathon's own files


def test_real_picnic_labels(picnic):
    usable, problems = labels.read_labels(os.path.join(picnic, "train.tsv"))
    assert (len(usable), problems) == (7258, [])
    counts = collections.Counter(photo.label for photo in usable)
    assert len(counts) == 25
    assert counts["Bananas, apples & pears"] == 851
    assert counts["Asparagus, string beans & brussels sprouts"] == 129
    assert min(counts.values()) == counts["Fish"] == 93
    assert usable[0].file == "0.png"
    training, validation = split.split(usable, 0.2, seed=0)
    assert len(training) + len(validation) == 7258
    for label, count in collections.Counter(photo.label for photo in validation).items():
        assert abs(count - 0.2 * counts[label]) <= 0.5


def test_real_picnic_labels_without_their_photos(picnic, tmp_path, no_long_work, capsys):
    with pytest.raises(UsageError, match="0 classes"):
        train.main([os.path.join(picnic, "train.tsv"), "--out", str(tmp_path / "bundle")])
    assert "  7258: No such file or directory: 0.png, 1.png," in capsys.readouterr().err
    with open(str(tmp_path / "bundle.problems.tsv"), encoding="utf-8") as file:
        assert len(file.readlines()) == 7259


def test_copies_count_once_and_copies_under_two_labels_not_at_all():
    photos = [Photo(name, name, label) for name, label in zip("abcdef", ["red", "red", "blue", "red", "blue", "blue"])]
    sums = dict(zip("abcdef", ["1", "1", "2", "3", "3", "4"]))
    left, problems = checks.drop_copies(photos, sums)
    assert [photo.file for photo in left] == ["a", "c", "f"]
    assert dict(problems) == {
        "b": "is a copy of another photo: counted once",
        "d": "has copies under several labels: blue, red",
        "e": "has copies under several labels: blue, red",
    }


def test_copies_cannot_get_into_training_and_validation_both(photos, tmp_path, no_long_work, capsys):
    folder, rows = photos
    for name, _ in rows:
        shutil.copy(str(folder / name), str(folder / (name[:-4] + "-copy.jpg")))
    with pytest.raises(AssertionError, match="training went on"):
        train.main([str(folder), "--out", str(tmp_path / "bundle")])
    assert f"{len(rows)}: is a copy of another photo: counted once" in capsys.readouterr().err


@pytest.mark.parametrize("name", [".thumbs", "__MACOSX", "@eaDir", ".ipynb_checkpoints", "lost+found", "$RECYCLE.BIN"])
def test_hidden_folders_and_those_that_systems_make_are_no_classes(photos, name):
    folder, rows = photos
    shutil.copytree(str(folder / os.path.dirname(rows[0][0])), str(folder / name))
    shutil.copytree(str(folder / os.path.dirname(rows[0][0])), str(folder / "red" / name))
    helpers.write_bytes(folder / "red" / "._00.jpg", b"")
    helpers.write_bytes(folder / name / "raw.cr2", b"")
    left, problems = labels.read_labels(str(folder))
    assert sorted(photo.file for photo in left) == sorted(name for name, _ in rows) and problems == []


def test_a_bundle_among_the_photos_is_no_class(photos, tiny_bundle):
    folder, rows = photos
    shutil.copytree(tiny_bundle, str(folder / "models" / "bundle"))
    (folder / "red" / "manifest.json").write_text('{"name": "of the photos"}')
    left, problems = labels.read_labels(str(folder))
    assert sorted(photo.file for photo in left) == sorted(name for name, _ in rows)
    samples = [name for name in os.listdir(os.path.join(tiny_bundle, "sample")) if name.endswith(".png")]
    assert [problem.what for problem in problems] == ["is in a bundle"] * len(samples) and samples


@pytest.mark.parametrize("option", ["--report", "--tensorboard"])
@pytest.mark.parametrize("place", ["bundle", "bundle/logs", "bundle.interrupted/x", "bundle/../bundle/x"])
def test_what_is_written_beside_the_bundle_does_not_go_with_it(option, place, photos, tmp_path, no_long_work):
    with pytest.raises(UsageError, match=f"{option} .*bundle(.interrupted)?.*replaced"):
        train.main([str(photos[0]), "--out", str(tmp_path / "bundle"), option, os.path.join(str(tmp_path), place)])
    assert not (tmp_path / "bundle").exists()


def test_epochs_of_a_fine_tuning_that_is_none_are_said_to_be_without_effect(photos, tmp_path, no_long_work, capsys):
    with pytest.raises(AssertionError, match="training went on"):
        train.main([str(photos[0]), "--out", str(tmp_path / "b"), "--weights", "none", "--fine-tune-epochs", "3"])
    assert "--fine-tune-epochs 3: nothing is fine-tuned, since --fine-tune is 0" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", str(1 << 32), "x"])
def test_a_seed_that_no_generator_takes_exits_with_2(seed, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main(["t.tsv", "--out", str(tmp_path / "bundle"), "--seed", seed])
    assert stopped.value.code == 2 and "--seed" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--report", "--tensorboard"])
def test_a_folder_that_cannot_be_written_is_met_before_any_long_work(option, photos, tmp_path, no_long_work):
    if option == "--tensorboard":
        pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=f"{option} .*file: "):
        train.main([str(photos[0]), "--out", str(tmp_path / "bundle"), option, str(tmp_path / "file")])


# ---- sources


@pytest.mark.parametrize("source", ["table", "folder"])
def test_photos_whose_folder_goes_away_are_not_called_unreadable(photos, tmp_path, monkeypatch, source):
    folder, rows = photos
    helpers.write_table(tmp_path / "train.tsv", rows)
    options = [str(tmp_path / "train.tsv"), "--images", str(folder)] if source == "table" else [str(folder)]
    read_photo = photos_read.read_photo

    def read(path, input_spec):
        if path.endswith("red/01.jpg"):
            os.rename(str(folder), str(folder) + ".away")
        return read_photo(path, input_spec)

    monkeypatch.setattr(checks, "read_photo", read)
    with pytest.raises(StorageLost, match="photos: ") as lost:
        read_options(*options + ["--out", str(tmp_path / "bundle")])
    assert lost.value.exit_code == 4 and not os.path.exists(str(tmp_path / "bundle.problems.tsv"))


def test_a_photo_that_is_missing_alone_is_named_with_the_one_that_was_meant(photos, tmp_path, capsys):
    folder, rows = photos
    missing = [(f"red/0{number}.JPG", "red") for number in range(3)] + [("red/nowhere.jpg", "red")]
    helpers.write_table(tmp_path / "train.tsv", rows + missing)
    listed, _ = labels.read_labels(str(tmp_path / "train.tsv"), str(folder))
    readable, problems = checks.check_photos(listed, {})
    assert len(readable) == len(rows)
    assert [problem.what for problem in problems] == [
        'No such file or directory; did you mean "%s"?' % (folder / "red" / f"0{number}.jpg") for number in range(3)
    ] + ["No such file or directory"]
    checks.report_problems(problems, None, strict=False)
    assert "\n  4: No such file or directory: red/00.JPG (did you mean " in capsys.readouterr().err


def test_photos_in_class_folders_are_those_that_classify_reads(photos, capsys):
    folder, rows = photos
    jpeg = (folder / rows[0][0]).read_bytes()
    for name in ("IMG_1", "b.jpg~", "c.JPG.1"):
        helpers.write_bytes(folder / "red" / name, jpeg)
    for name in ("clip.mp4", "notes.txt", "README", "Thumbs.db", ".hidden.jpg"):
        helpers.write_bytes(folder / "red" / name, b"some text")
    left, problems = labels.read_labels(str(folder))
    assert sorted(photo.file for photo in left) == sorted(item.name for item in registry.open_source(str(folder)))
    assert len(left) == len(rows) + 3 and problems == []
    assert "passed over: 1 without a suffix, 1 .mp4, 1 .txt (" in capsys.readouterr().err


def test_raw_photos_are_named_as_problems_and_heic_is_tried(photos, capsys):
    folder, rows = photos
    helpers.write_bytes(folder / "red" / "a.CR2", b"")
    helpers.write_bytes(folder / "red" / "b.heic", b"")
    left, problems = labels.read_labels(str(folder))
    assert len(left) == len(rows) + 1
    assert problems == [labels.Problem("red/a.CR2", ".cr2 is not a format that can be read; convert it to JPEG or PNG")]
    assert "passed over" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["t.csv", "t.txt", "t.csv.gz", "t.xlsx"])
def test_labels_come_from_tables_of_other_kinds(photos, tmp_path, name):
    folder, rows = photos
    if name == "t.xlsx":
        pandas = pytest.importorskip("pandas")
        pytest.importorskip("openpyxl")
        pandas.DataFrame(rows, columns=["file", "label"]).to_excel(str(tmp_path / name), index=False)
    else:
        text = "file,label\r\n" + "".join('"%s","%s"\r\n' % row for row in rows)
        text = text.encode("utf-16")
        helpers.write_bytes(tmp_path / name, gzip.compress(text) if name.endswith(".gz") else text)
    usable, problems = labels.read_labels(str(tmp_path / name), str(folder))
    assert [(photo.file, photo.label) for photo in usable] == rows and problems == []


@pytest.mark.parametrize("name, says", [("t.zip", "zip archive.*: unzip"), ("t.json", "JSON.*.csv")])
def test_labels_in_what_is_no_table_are_refused_by_its_kind(tmp_path, name, says):
    with pytest.raises(UsageError, match=says):
        labels.read_labels(helpers.write_bytes(tmp_path / name, b""))


def test_an_empty_images_folder_is_refused(tmp_path):
    helpers.write_table(tmp_path / "t.tsv", [("a.jpg", "red")])
    (tmp_path / "card").mkdir()
    with pytest.raises(UsageError, match="card: .*mounted"):
        labels.read_labels(str(tmp_path / "t.tsv"), str(tmp_path / "card"))
