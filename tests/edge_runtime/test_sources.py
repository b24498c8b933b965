"""Every kind of SOURCE, and names and folders that are out to break the walk."""

import glob
import io
import os
import sys

import pytest

from edge_runtime import sources
from edge_runtime.errors import UsageError
from tests.helpers import NASTY_NAMES, write_bytes, write_table


def names_of(source, images_folder=None):
    return [item.name for item in sources.open_source(str(source), images_folder)]


def problems_of(source, images_folder=None):
    """Returns {name: problem} of the items that are not even tried."""
    return {item.name: item.problem for item in sources.open_source(str(source), images_folder) if item.problem}


@pytest.fixture
def folder(tmp_path):
    """photos/ with b.jpg, a.PNG, sub/c.webp, sub/deep/d.jpeg, and what is no photo."""
    top = tmp_path / "photos"
    for name in ("b.jpg", "a.PNG", "notes.txt", "sub/c.webp", "sub/deep/d.jpeg", "sub/photo.jpg.bak", ".hidden.jpg"):
        write_bytes(top / name, b"")
    return str(top)


# --- image, folder


def test_an_image_keeps_the_name_it_was_given(folder):
    path = os.path.join(folder, "b.jpg")
    assert list(sources.open_source(path)) == [sources.Item(path, path, "")]


def test_a_file_with_any_suffix_is_tried_when_it_is_named(folder):
    path = os.path.join(folder, "notes.txt")
    assert names_of(path) == [path]


def test_a_folder_is_read_to_the_bottom_in_sorted_order_photos_only(folder):
    assert names_of(folder) == [".hidden.jpg", "a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.jpeg"]


def test_a_folder_s_items_open_from_anywhere(folder):
    assert [item.path for item in sources.open_source(folder)] == [os.path.join(folder, n) for n in names_of(folder)]


def test_a_folder_named_with_a_slash_at_its_end_gives_the_same_names(folder):
    assert names_of(folder + "/") == names_of(folder)


def test_an_empty_folder_gives_nothing(tmp_path):
    assert names_of(tmp_path) == []


def test_a_folder_s_name_may_look_like_a_pattern(tmp_path):
    write_bytes(tmp_path / "shelf [1] *" / "a.jpg", b"")
    assert names_of(tmp_path / "shelf [1] *") == ["a.jpg"]


def test_a_photo_s_name_may_look_like_a_pattern(tmp_path):
    path = write_bytes(tmp_path / "a[1]*.jpg", b"")
    assert names_of(path) == [path]


@pytest.fixture
def deep_photo(tmp_path, monkeypatch):
    """The name, relative to tmp_path, of a photo 1200 folders down."""
    monkeypatch.chdir(tmp_path)
    for _ in range(1200):
        os.mkdir("d")
        os.chdir("d")
    write_bytes("bottom.jpg", b"")
    os.chdir(str(tmp_path))
    yield "d/" * 1200 + "bottom.jpg"
    os.unlink("d/" * 1200 + "bottom.jpg")  # pytest's own clean-up would recurse
    for depth in range(1200, 0, -1):
        os.rmdir("d/" * depth)


def test_a_folder_deeper_than_python_recurses_is_read_to_the_bottom(tmp_path, deep_photo):
    assert names_of(tmp_path) == [deep_photo]


def test_two_stars_reach_a_folder_deeper_than_python_recurses(tmp_path, deep_photo):
    assert names_of("**/*.jpg") == [deep_photo]


@pytest.mark.parametrize("name", NASTY_NAMES, ids=ascii)
def test_a_folder_s_item_opens_the_file_whatever_its_name(tmp_path, name):
    with open(os.path.join(str(tmp_path), name), "wb") as file:
        file.write(b"content")
    (item,) = sources.open_source(str(tmp_path))
    assert item.name == name and not item.problem
    with open(item.path, "rb") as file:
        assert file.read() == b"content"


# --- what stands in a folder beside photos


def test_a_folder_named_like_a_photo_is_one_item_with_its_problem(tmp_path):
    write_bytes(tmp_path / "shelf.jpg" / "a.jpg", b"")
    assert names_of(tmp_path) == ["shelf.jpg", "shelf.jpg/a.jpg"]
    assert problems_of(tmp_path) == {"shelf.jpg": "is a directory"}


def test_a_dangling_link_is_an_item_so_that_its_row_is_not_lost(tmp_path):
    os.symlink("nowhere.jpg", str(tmp_path / "link.jpg"))
    assert names_of(tmp_path) == ["link.jpg"]


def test_links_that_point_to_each_other_are_items(tmp_path):
    os.symlink("b.jpg", str(tmp_path / "a.jpg"))
    os.symlink("a.jpg", str(tmp_path / "b.jpg"))
    assert names_of(tmp_path) == ["a.jpg", "b.jpg"]


def test_a_pipe_named_like_a_photo_is_an_item_and_does_not_block(tmp_path):
    os.mkfifo(str(tmp_path / "pipe.jpg"))
    assert names_of(tmp_path) == ["pipe.jpg"]


def test_a_link_to_another_folder_is_followed(tmp_path, folder):
    write_bytes(tmp_path / "elsewhere" / "z.jpg", b"")
    os.symlink(str(tmp_path / "elsewhere"), os.path.join(folder, "link"))
    assert "link/z.jpg" in names_of(folder)
    assert problems_of(folder) == {}


@pytest.mark.parametrize("name", ["loop", "loop.jpg"])
def test_a_link_back_to_its_own_folder_is_one_item_and_not_followed(folder, name):
    os.symlink("..", os.path.join(folder, "sub", name))
    loop = os.path.join("sub", name)
    assert problems_of(folder) == {loop: "is a link back to a folder that contains it: not followed"}
    assert names_of(folder).count(loop) == 1
    assert len(names_of(folder)) == 6


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_one_item_with_its_problem(folder):
    locked = os.path.join(folder, "sub", "deep")
    os.chmod(locked, 0)
    try:
        assert problems_of(folder) == {"sub/deep": "cannot list this folder (Permission denied)"}
    finally:
        os.chmod(locked, 0o700)


def test_a_folder_whose_listing_is_refused_is_one_item_with_its_problem(folder, monkeypatch):
    listdir = os.listdir

    def refuse(path):
        if path.endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert problems_of(folder) == {"sub/deep": "cannot list this folder (Permission denied)"}
    assert names_of(folder) == [".hidden.jpg", "a.PNG", "b.jpg", "sub/c.webp", "sub/deep"]


# --- glob


@pytest.mark.parametrize("pattern", ["*.jpg", "*", "sub/*", "sub/*/*", "[ab].*", "?.jpg"])
def test_a_pattern_gives_the_files_it_matches_sorted(folder, pattern):
    whole = os.path.join(folder, pattern)
    expected = sorted(path for path in glob.glob(whole) if os.path.isfile(path))
    assert expected and names_of(whole) == expected


@pytest.mark.parametrize(
    "pattern", ["**/*.jp*g", "**", "**/*", "**/deep/*", "sub/**/*.jpeg", "**/sub/**/*", "*/**/*.webp"]
)
def test_two_stars_reach_every_depth_as_python_s_glob_does(folder, pattern):
    whole = os.path.join(folder, pattern)
    expected = sorted({path for path in glob.glob(whole, recursive=True) if os.path.isfile(path)})
    assert expected and names_of(whole) == expected


def test_a_pattern_may_be_relative(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert names_of("**/*.jp*g") == ["b.jpg", "sub/deep/d.jpeg"]


def test_links_back_do_not_multiply_what_two_stars_match(folder):
    for name in ("one", "two", "three"):  # with more than one, Python's own glob does not come to an end
        os.symlink("..", os.path.join(folder, "sub", name))
    assert names_of(os.path.join(folder, "**", "*.jp*g")) == [
        os.path.join(folder, name) for name in ("b.jpg", "sub/deep/d.jpeg")
    ]


def test_a_pattern_gives_a_dangling_link_so_that_its_row_is_not_lost(tmp_path):
    os.symlink("nowhere", str(tmp_path / "link.jpg"))
    assert names_of(tmp_path / "*.jpg") == [str(tmp_path / "link.jpg")]


def test_a_pattern_that_matches_nothing_is_wrong_usage(folder):
    with pytest.raises(UsageError, match="matches no file"):
        sources.open_source(os.path.join(folder, "*.gif"))


# --- table


def test_a_table_s_names_start_at_its_own_folder(folder):
    table = os.path.join(folder, "labels.tsv")
    write_table(table, [("sub/c.webp", "cheese"), ("b.jpg", "bread")])
    assert [(item.name, item.path) for item in sources.open_source(table)] == [
        ("sub/c.webp", os.path.join(folder, "sub/c.webp")),
        ("b.jpg", os.path.join(folder, "b.jpg")),
    ]


def test_a_table_s_names_start_at_the_images_folder_where_one_is_given(folder, tmp_path):
    table = str(tmp_path / "labels.TSV")
    write_table(table, [("b.jpg", "bread")])
    (item,) = sources.open_source(table, folder)
    assert (item.name, item.path) == ("b.jpg", os.path.join(folder, "b.jpg"))


def test_a_table_in_the_working_folder_needs_no_images_folder(folder, monkeypatch):
    write_table(os.path.join(folder, "labels.tsv"), [("b.jpg", "bread")])
    monkeypatch.chdir(folder)
    assert [item.path for item in sources.open_source("labels.tsv")] == ["b.jpg"]


def test_a_row_that_cannot_be_used_is_an_item_with_its_problem(folder):
    table = os.path.join(folder, "labels.tsv")
    write_table(table, [("../b.jpg", "bread"), ("b.jpg", "bread")])
    assert problems_of(table) == {"../b.jpg": "path leaves the images folder (..)"}
    assert names_of(table) == ["../b.jpg", "b.jpg"]


def test_an_images_folder_that_is_not_there_is_wrong_usage(folder):
    table = os.path.join(folder, "labels.tsv")
    write_table(table, [("b.jpg", "bread")])
    with pytest.raises(UsageError, match="--images .*nowhere: no such folder"):
        sources.open_source(table, os.path.join(folder, "nowhere"))


# --- standard input


@pytest.fixture
def standard_input(monkeypatch):
    def feed(data):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return feed


@pytest.mark.parametrize("data", [b"a.jpg\nb c.jpg\n", b"a.jpg\r\nb c.jpg\r\n", b"a.jpg\n\n\nb c.jpg"])
def test_standard_input_is_one_name_per_line(standard_input, data):
    standard_input(data)
    assert names_of("-") == ["a.jpg", "b c.jpg"]


@pytest.mark.parametrize("name", [name for name in NASTY_NAMES if "\n" not in name], ids=ascii)
def test_a_name_on_standard_input_opens_the_file(standard_input, tmp_path, name):
    path = os.path.join(str(tmp_path), name)
    write_bytes(path, b"")
    standard_input(os.fsencode(path) + b"\n")
    (item,) = sources.open_source("-")
    assert os.path.exists(item.path)


def test_standard_input_is_read_only_as_far_as_items_are_wanted(monkeypatch):
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as source, open(write_end, "wb", buffering=0) as sink:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(source))
        items = sources.open_source("-")
        sink.write(b"first.jpg\n")  # the sink stays open: waiting for its end would block
        assert next(items).name == "first.jpg"
        sys.stdin.detach()


# --- what is no source


def test_a_missing_source_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        sources.open_source(str(tmp_path / "nowhere.jpg"))


@pytest.mark.parametrize("source", ["rtsp://camera/1", "camera:0", "csi:0"])
def test_a_live_source_is_refused_by_this_version(source):
    with pytest.raises(UsageError, match="reads no live source"):
        sources.open_source(source)


def test_a_dangling_link_given_as_the_source_is_one_item(tmp_path):
    os.symlink("nowhere", str(tmp_path / "link.jpg"))
    assert names_of(tmp_path / "link.jpg") == [str(tmp_path / "link.jpg")]
