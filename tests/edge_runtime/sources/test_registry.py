"""Sources of every kind: tables, several at once, counting, and what is no source."""

import glob
import os
import shutil
import threading

import pytest

from edge_runtime.errors import UsageError
from edge_runtime.sources import registry
from tests.edge_runtime.sources.helpers import MIXED, MIXED_PASSED_OVER, names_of, problems_of
from tests.helpers import encoded, photo, write_bytes, write_table

# --- table


def test_a_table_s_names_start_at_its_own_folder(folder):
    table = os.path.join(folder, "labels.tsv")
    write_table(table, [("sub/c.webp", "cheese"), ("b.jpg", "bread")])
    assert [(item.name, item.path) for item in registry.open_source(table)] == [
        ("sub/c.webp", os.path.join(folder, "sub/c.webp")),
        ("b.jpg", os.path.join(folder, "b.jpg")),
    ]


def test_a_table_s_names_start_at_the_images_folder_where_one_is_given(folder, tmp_path):
    table = str(tmp_path / "labels.TSV")
    write_table(table, [("b.jpg", "bread")])
    (item,) = registry.open_source(table, folder)
    assert (item.name, item.path) == ("b.jpg", os.path.join(folder, "b.jpg"))


def test_a_table_in_the_working_folder_needs_no_images_folder(folder, monkeypatch):
    write_table(os.path.join(folder, "labels.tsv"), [("b.jpg", "bread")])
    monkeypatch.chdir(folder)
    assert [item.path for item in registry.open_source("labels.tsv")] == ["b.jpg"]


def test_a_row_that_cannot_be_used_is_an_item_with_its_problem(folder):
    table = os.path.join(folder, "labels.tsv")
    write_table(table, [("../b.jpg", "bread"), ("b.jpg", "bread")])
    assert problems_of(table) == {"../b.jpg": "path leaves the images folder (..)"}
    assert names_of(table) == ["../b.jpg", "b.jpg"]


def test_an_images_folder_that_is_not_there_is_wrong_usage(folder):
    table = os.path.join(folder, "labels.tsv")
    write_table(table, [("b.jpg", "bread")])
    with pytest.raises(UsageError, match="--images .*nowhere"):
        registry.open_source(table, os.path.join(folder, "nowhere"))


# --- counting ahead


def links_and_odd_folders(top):
    """A folder with all that gives an item without being a plain photo."""
    write_bytes(os.path.join(top, "shelf.jpg", "a.jpg"), b"")
    write_bytes(os.path.join(top, "shelf.jpg", "deep", "b.jpg"), b"")
    os.symlink("nowhere.jpg", os.path.join(top, "dangling.jpg"))
    os.symlink("y.jpg", os.path.join(top, "x.jpg"))
    os.symlink("x.jpg", os.path.join(top, "y.jpg"))
    os.symlink("..", os.path.join(top, "shelf.jpg", "loop"))
    os.symlink("shelf.jpg", os.path.join(top, "other"))
    return top


@pytest.mark.parametrize("pattern", ["", "*.jpg", "*", "**/*.jpg", "s*/*"])
def test_as_many_are_counted_as_there_are_items(folder, pattern):
    source = os.path.join(links_and_odd_folders(folder), pattern)
    assert registry.count_source(source) == len(names_of(source)) > 0


def test_as_many_are_counted_as_a_large_folder_has(large):
    assert registry.count_source(large) == 120


def test_a_folder_that_cannot_be_listed_counts_as_the_item_that_it_is(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if path.endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert registry.count_source(folder) == len(names_of(folder)) == 4


def test_a_table_s_rows_and_one_image_are_counted(folder):
    table = os.path.join(folder, "labels.tsv")
    write_table(table, [("sub/c.webp", "cheese"), ("b.jpg", "bread"), ("../odd.jpg", "")])
    assert registry.count_source(table) == 3
    assert registry.count_source(os.path.join(folder, "b.jpg")) == 1


def test_what_cannot_be_counted_is_none(tmp_path):
    assert registry.count_source("-") is None
    assert registry.count_source("camera:0") is None
    assert registry.count_source(str(tmp_path / "nowhere")) is None
    assert registry.count_source(write_bytes(tmp_path / "empty.tsv", b"")) is None


def test_counting_ends_when_it_is_told_to_stop(folder):
    stop = threading.Event()
    stop.set()
    assert registry.count_source(folder, stop) is None


def test_more_folders_than_names_are_held_are_not_counted(tmp_path, few_at_once):
    for number in range(8):
        write_bytes(tmp_path / str(number) / "a.jpg", b"")
    assert registry.count_source(str(tmp_path)) is None


# --- what is no source


def test_a_missing_source_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="file or folder"):
        registry.open_source(str(tmp_path / "nowhere.jpg"))


@pytest.mark.parametrize("source", ["rtsp://camera/1", "camera:0", "csi:0"])
def test_a_live_source_is_no_source_of_files(source):
    with pytest.raises(UsageError, match="live"):
        registry.open_source(source)


def test_a_dangling_link_given_as_the_source_is_one_item(tmp_path):
    os.symlink("nowhere", str(tmp_path / "link.jpg"))
    assert names_of(tmp_path / "link.jpg") == [str(tmp_path / "link.jpg")]


def test_names_with_nul_between_them_are_not_taken_for_one_name(standard_input):
    standard_input(b"a.jpg\0b.jpg\0")
    with pytest.raises(UsageError, match="--null"):
        list(registry.open_source("-"))


@pytest.mark.parametrize("suffix, what", [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_a_photo_on_standard_input_is_called_one(standard_input, suffix, what):
    standard_input(encoded(photo((200, 30, 30)), suffix))
    with pytest.raises(UsageError, match="standard input: .*%s" % what) as raised:
        list(registry.open_source("-"))
    assert "--null" not in str(raised.value)


# --- several sources


def test_several_sources_are_read_in_their_order_with_distinct_names(folder, tmp_path):
    other = write_bytes(tmp_path / "other" / "b.jpg", b"")
    table = str(tmp_path / "list.tsv")
    write_table(table, [("other/b.jpg", "")])
    sources = [os.path.join(folder, "sub"), other, table, os.path.join(folder, "*.jpg"), str(tmp_path / "other") + "/"]
    items = list(registry.open_sources(sources))
    assert [item.name for item in items] == [
        os.path.join(folder, "sub/c.webp"),
        os.path.join(folder, "sub/deep/d.jpeg"),
        other,
        "other/b.jpg",
        os.path.join(folder, "b.jpg"),
        str(tmp_path / "other/b.jpg"),
    ]
    assert all(os.path.exists(item.path) for item in items)
    assert registry.count_sources(sources) == len(items)


def test_of_one_source_the_names_are_as_ever(folder):
    assert [item.name for item in registry.open_sources([folder])] == names_of(folder)


def test_what_a_shell_puts_in_the_place_of_a_star_is_read_as_the_pattern_is(mixed):
    for name in ("labels.tsv", "clip.mp4"):
        os.unlink(os.path.join(mixed, name))
    sources = sorted(glob.glob(os.path.join(mixed, "*")))
    assert any("Thumbs.db" in name for name in sources)
    shutil.rmtree(os.path.join(mixed, "in", "lost+found"))
    items = registry.open_sources(sources)
    assert [item.name for item in items] == [os.path.join(mixed, name) for name in MIXED]
    passed_over = dict(MIXED_PASSED_OVER)
    del passed_over[".tsv"], passed_over[".mp4"]
    assert items.passed_over == passed_over and registry.count_sources(sources) == len(MIXED)


@pytest.mark.parametrize(
    "name, start, says",
    [
        ("labels.tsv", b"image\tlabel\n", "column.*file"),
        ("labels.txt", b"photos/1.jpg\nphotos/2.jpg\n", "column.*file"),
        ("clip.mp4", b"\0\0\0\x18ftypmp42", "a video"),
        ("clip", b"\0\0\0\x18ftypmp42", "a video"),
    ],
)
def test_of_several_sources_too_a_list_that_cannot_be_used_and_a_video_are_refused(folder, tmp_path, name, start, says):
    with pytest.raises(UsageError, match="(?s)%s.*%s" % (name, says)):
        registry.open_sources([folder, write_bytes(tmp_path / name, start)])


def test_of_several_sources_a_table_in_text_is_read(folder, tmp_path):
    table = write_bytes(tmp_path / "list.txt", b"file\nphotos/b.jpg\n")
    items = registry.open_sources([os.path.join(folder, "sub"), table])
    assert [item.name for item in items][-1] == "photos/b.jpg"


@pytest.mark.parametrize("odd", ["-", "nowhere.jpg", "camera:0"])
def test_each_of_several_sources_is_looked_at_first(folder, odd):
    with pytest.raises(UsageError, match=odd):
        registry.open_sources([folder, odd])
