"""Warnings about labelled photos: each kind once, and sound labels that none is about."""

import collections
import os

import pytest

from edge_runtime.sources.table_reader import Row
from tests import helpers
from train.data import warnings as data_warnings
from train.data.labels import Photo, read_labels
from train.data.warnings import is_undecoded, of_conflicts, of_counts, of_leak, of_sources, of_val_split, of_views


def photos(*labels):
    return [Photo(f"{number}.jpg", f"{number}.jpg", label) for number, label in enumerate(labels)]


def of_labels(*labels, **settings):
    return {one["kind"]: one for one in data_warnings.of_labels([(settings.get("source", "t.tsv"), photos(*labels))])}


@pytest.mark.parametrize(
    "names", [("train", "val"), ("Train", "TEST"), ("training", "valid"), ("testing", "validation")]
)
def test_folders_of_a_split_are_no_classes_and_what_to_give_is_said(tmp_path, names):
    for name in names:
        for label in ("apple", "pear"):
            (tmp_path / name / label).mkdir(parents=True)
    labels = [name + "/" + label for name in names for label in ("apple", "pear")]
    (warning,) = data_warnings.of_labels([(str(tmp_path), photos(*labels))])
    assert (warning["kind"], warning["names"]) == ("split_folders", sorted(names))
    train, val = sorted(names, key=lambda name: not name.lower().startswith("train"))
    if train.lower().startswith("train"):
        assert f"picnic-edge train {tmp_path / train} --val {tmp_path / val}" in warning["text"]
    assert of_labels(*names)["split_folders"]["names"] == sorted(names)


@pytest.mark.parametrize(
    "labels", [("apple/train", "apple/val"), ("train\\apple", "val\\apple"), ("apple", "pear", "test")]
)
def test_splits_elsewhere_in_names_are_seen_too(labels):
    assert "give a table for each split" in of_labels(*labels)["split_folders"]["text"]


@pytest.mark.parametrize(
    "labels",
    [("train", "car", "plane"), ("trainers", "tests"), ("a/b", "c"), ("valley", "Vine-Tomato"), ("No Name", "1")],
)
def test_sound_labels_give_no_warning(labels):
    assert of_labels(*labels) == {}


@pytest.mark.parametrize(
    "one, other",
    [
        ("Apple", "apple"),
        ("green apple", "green  apple"),
        ("green apple", "greenapple"),
        ("apple", "apple\u200b"),
        ("a pple", "a\xa0pple"),
        ("K\xe4se", "Ka\u0308se"),
        ("Stra\xdfe", "STRASSE"),
        ("caf\xe9 1", "Cafe\u0301 \uff11"),
    ],
)
def test_labels_equal_but_for_case_spaces_and_unicode_form_are_named(one, other):
    by_kind = of_labels(one, one, other, "pear")
    assert list(by_kind) == ["similar_labels"]
    assert by_kind["similar_labels"]["groups"] == [
        sorted([{"label": one, "photos": 2}, {"label": other, "photos": 1}], key=lambda row: row["label"])
    ]
    names = by_kind["similar_labels"]["text"].split("different classes: ")[1].split("; ")[0].split(" and ")
    assert names[0].rpartition(" (")[0] != names[1].rpartition(" (")[0]  # for the eye, too


def test_many_similar_labels_are_one_line():
    by_kind = of_labels(*([str(number) + "x" for number in range(9)] + [str(number) + "X" for number in range(9)]))
    assert len(by_kind["similar_labels"]["groups"]) == 9
    assert "; and 4 more" in by_kind["similar_labels"]["text"] and "\n" not in by_kind["similar_labels"]["text"]


def test_labels_of_both_splits_are_compared():
    (warning,) = data_warnings.of_labels([("t.tsv", photos("Apple", "pear")), ("v.tsv", photos("apple"))])
    assert warning["kind"] == "similar_labels"


@pytest.mark.parametrize("label", ["unknown", "Unknown", "UNKNOWN"])
def test_a_class_like_the_answer_below_the_threshold(label):
    by_kind = of_labels(label, "milk")
    assert list(by_kind) == ["unknown_class"] and "--threshold" in by_kind["unknown_class"]["text"]


@pytest.mark.parametrize(
    "kind, labels, named",
    [
        ("broken_labels", ["milk", "K\xc3\xa4se", "gr\ufffdn"], ["K\xc3\xa4se", "gr\ufffdn"]),
        ("number_labels", ["1.0", "2.0", "10"], ["1.0", "10", "2.0"]),
        ("file_labels", ["a.jpg", "b.PNG"], ["a.jpg", "b.PNG"]),
        ("missing_labels", ["milk", "nan", "N/A"], ["N/A", "nan"]),
    ],
)
def test_labels_that_are_something_else(kind, labels, named):
    by_kind = of_labels(*labels)
    assert list(by_kind) == [kind] and by_kind[kind]["labels"] == named


@pytest.mark.parametrize(
    "labels", [["1", "2"], ["1.5 l", "2.0 l"], ["K\xe4se", "\u0152uf", "\u8336"], ["Nan bread", "none"]]
)
def test_odd_but_sound_labels(labels):
    assert of_labels(*labels) == {}


def test_a_table_that_is_not_utf_8_is_named_with_its_first_line(tmp_path):
    helpers.write_photo(os.path.join(str(tmp_path), os.fsdecode(b"\xfc.jpg")), helpers.photo((9, 9, 9)))
    rows = [b"file\tlabel", b"\xfc.jpg\tmilk", b"a.jpg\tK\xe4se", b"b.jpg\tK\xe4se"]
    helpers.write_bytes(tmp_path / "t.tsv", b"\n".join(rows))
    warnings = []
    read_labels(str(tmp_path / "t.tsv"), warnings=warnings)
    (warning,) = warnings  # not about line 2: a photo has that name
    assert (warning["kind"], warning["file"], warning["line"]) == ("encoding", str(tmp_path / "t.tsv"), 3)
    assert f"iconv -f WINDOWS-1252 -t UTF-8 {tmp_path / 't.tsv'}" in warning["text"]
    (tmp_path / "t.tsv").write_bytes(b"\n".join(rows).decode("latin-1").encode("utf-8"))
    del warnings[:]
    read_labels(str(tmp_path / "t.tsv"), warnings=warnings)
    assert warnings == []


def test_a_name_that_is_not_utf_8_counts_where_no_photo_has_it(tmp_path):
    row = Row(2, os.fsdecode(b"\xe4.jpg"), "milk", "")
    assert is_undecoded(row.label, row.file, str(tmp_path / "nowhere"))
    assert not is_undecoded(row.label, row.file, str(tmp_path))


# ---- counts


def kinds(warnings):
    return {one["kind"]: one for one in warnings}


def test_counts_of_classes():
    assert of_counts({"a": 10, "b": 40}, {"a", "b"}) == []
    assert kinds(of_counts({"a": 181, "b": 19}))["one_class"]["share"] == 0.905
    assert of_counts({"a": 181}) == []
    assert kinds(of_counts({"a": 9, "b": 10}))["few_photos"]["classes"] == {"a": 9}
    assert kinds(of_counts({"a": 10, "b": 10, "c": 10}, {"b"}))["unvalidated"]["labels"] == ["a", "c"]


def test_classes_from_another_camera_or_program():
    every = [("a", (640, 480), "PNG")] * 10 + [("b", (320, 240), "JPEG")] * 5 + [("b", (300, 240), "JPEG")] * 5
    every += [("c", (320, 240), "JPEG")] * 12
    by_kind = kinds(of_sources(every))
    assert by_kind["one_size"]["classes"] == {"a": "640 x 480"} and by_kind["one_format"]["classes"] == {"a": "PNG"}
    assert of_sources(every[1:]) == []  # too few to say
    assert of_sources([(label, (640, 480), "JPEG") for label in "ab" * 20]) == []
    assert of_sources(every[:10]) == []  # nothing to compare with


def test_classes_whose_photos_all_look_alike():
    labels = ["a"] * 6 + ["b"] * 6
    assert of_views(labels, [[0, 1], [6, 7, 8]]) == of_views(labels, []) == []
    assert kinds(of_views(labels, [[0, 1, 2, 3, 4, 5], [6, 7]]))["one_view"]["labels"] == ["a"]


def test_every_warning_is_one_line():
    labels = ["train/a", "val/a", "a ", "A", "unknown", "nan", "x.png", "\xc3\xa4\n"] + [f"{n}/{n}" for n in range(99)]
    counts = collections.Counter(dict(dict.fromkeys(labels, 3), most=10000))
    warnings = data_warnings.of_labels([("t.tsv", photos(*labels))]) + of_counts(counts, {"most"})
    warnings += (
        of_leak(3, 9, "give others") + of_conflicts([photos("a", "b")], "see below") + of_val_split(0.2, 3, 3, 12)
    )
    assert len({one["kind"] for one in warnings}) == len(warnings) == 12
    assert all("\n" not in one["text"] and len(one["text"]) < 500 for one in warnings)
