"""Did you mean: names like the one that is missing."""

import os

import pytest

from edge_runtime.errors import ImageError, UsageError
from edge_runtime.sources import near_miss, registry, storage
from edge_runtime.sources.items import Item
from edge_runtime.sources.listing import names_in
from tests.edge_runtime.sources.helpers import missing_reason
from tests.helpers import write_bytes

NFD, NFC = "a\u0308pfel", "\u00e4pfel"


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("Apple.JPG", "apple.jpg"),
        (NFD + ".jpg", NFC + ".jpg"),
        (NFC + ".jpg", NFD + ".JPG"),
        ("apple.jpg", "apple"),
        ("Fruit/Apple.jpg", "fruit/apple.jpg"),
        (NFD + "/1.jpg", NFC + "/1.jpg"),
        ("Fruit/apple.jpg", "fruit\\apple.jpg"),
        ("A/b/C/d/E.jpg", "a/B/c/D/e"),
    ],
)
def test_a_missing_name_is_answered_with_the_one_that_was_meant(tmp_path, monkeypatch, name, wrong):
    name, wrong = (os.fsdecode(text.encode()) for text in (name, wrong))
    write_bytes(tmp_path / name, b"")
    hint = '; did you mean "%s"?' % (tmp_path / name)
    assert near_miss.near_miss(str(tmp_path / wrong)).startswith(hint)
    monkeypatch.chdir(tmp_path)
    assert near_miss.near_miss(wrong).startswith('; did you mean "%s"?' % name)
    with pytest.raises(UsageError, match="did you mean"):
        registry.open_source(wrong)


def test_another_unicode_form_is_called_that(tmp_path):
    write_bytes(tmp_path / os.fsdecode((NFD + ".jpg").encode()), b"")
    wrong = os.path.join(str(tmp_path), os.fsdecode((NFC + ".jpg").encode()))
    assert near_miss.near_miss(wrong).endswith('.jpg"? (the same letters in another Unicode form)')


@pytest.mark.parametrize(
    "wrong", ["nothing.jpg", "no/where/at/all.jpg", "b.jpg", "/".join("x" * 2000), "..", "a" * 5000]
)
def test_a_name_like_no_other_gets_no_hint(folder, wrong):
    assert near_miss.near_miss(os.path.join(folder, wrong)) == ""


def test_a_folder_is_listed_once_for_all_names_that_are_missing_in_it(folder, monkeypatch):
    folders, names = [], names_in
    monkeypatch.setattr(near_miss, "names_in", lambda path: folders.append(path) or names(path))
    hints = [near_miss.near_miss(os.path.join(folder, "B.JPG")) for _ in range(100)]
    hints += [near_miss.near_miss(os.path.join(folder, "%d.jpg" % number)) for number in range(1000)]
    assert folders == [folder] and all(hints[:100]) and not any(hints[100:])


def test_a_huge_folder_is_not_searched_for_what_was_meant(folder, monkeypatch):
    monkeypatch.setattr(near_miss, "MAX_NAMES", 3)
    near_miss._similar_names_at.cache_clear()
    assert near_miss.near_miss(os.path.join(folder, "B.JPG")) == ""
    near_miss._similar_names_at.cache_clear()


def test_the_hint_is_in_the_reason_of_a_missing_photo_alone(folder):
    path = os.path.join(folder, "B.jpg")
    item = Item(path, path, "")
    assert missing_reason(item) == 'No such file or directory; did you mean "%s"?' % os.path.join(folder, "b.jpg")
    assert storage.reason_of(item, ImageError("is truncated")) == "is truncated"
