"""Folders as sources: names and folders that are out to break the walk."""

import errno
import os
import random
import shutil

import pytest

from edge_runtime.sources import listing, registry
from edge_runtime.sources.listing import _entries_after
from tests.edge_runtime.sources.helpers import names_of, problems_of
from tests.helpers import NASTY_NAMES, write_bytes

# --- image, folder


def test_an_image_keeps_the_name_it_was_given(folder):
    path = os.path.join(folder, "b.jpg")
    assert [item[:3] for item in registry.open_source(path)] == [(path, path, "")]


def test_a_file_of_an_unknown_kind_is_tried_when_it_is_named(folder):
    path = write_bytes(os.path.join(folder, "photo.xyz"), b"\x9c\x01\x02")
    assert names_of(path) == [path]


def test_a_folder_is_read_to_the_bottom_in_sorted_order_photos_only(folder):
    assert names_of(folder) == ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.jpeg"]


def test_a_folder_s_items_open_from_anywhere(folder):
    assert [item.path for item in registry.open_source(folder)] == [os.path.join(folder, n) for n in names_of(folder)]


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
    (item,) = registry.open_source(str(tmp_path))
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
    assert len(names_of(folder)) == 5


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_one_item_with_its_problem(folder):
    locked = os.path.join(folder, "sub", "deep")
    os.chmod(locked, 0)
    try:
        assert problems_of(folder) == {"sub/deep": "cannot list this folder (Permission denied)"}
    finally:
        os.chmod(locked, 0o700)


def test_a_folder_whose_listing_is_refused_is_one_item_with_its_problem(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if path.endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert problems_of(folder) == {"sub/deep": "cannot list this folder (Permission denied)"}
    assert names_of(folder) == ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep"]


# --- a folder with more names than are held at once


@pytest.mark.parametrize("at_once", [1, 2, 7, 10, 19, 20, 31, 62, 63, 64, 1000])
def test_a_large_folder_is_in_the_same_order_however_much_is_held(large, monkeypatch, at_once):
    monkeypatch.setattr(listing, "AT_ONCE", at_once)
    names = names_of(large)
    # Folders stand where their own names do: "031" before "031.jpg".
    assert names == sorted(names, key=lambda name: name.split("/")) and len(set(names)) == 120
    assert names_of(os.path.join(large, "*.jpg")) == [os.path.join(large, "%03d.jpg" % n) for n in range(60)]


def test_a_large_folder_is_never_held_whole(large, monkeypatch):
    counts = []
    entries_after = _entries_after

    def watch(last, folder):
        entries, more = entries_after(last, folder)
        counts.append(len(entries))
        return entries, more

    monkeypatch.setattr(listing, "_entries_after", watch)
    assert len(names_of(large)) == 120
    assert sum(counts) == 123 and max(counts) < 14


def test_what_comes_and_goes_while_a_large_folder_is_read_is_never_given_twice_or_out_of_order(large):
    chance = random.Random(1)
    names = ["%03d.jpg" % number for number in range(60)]
    seen, deleted, come = [], set(), 0
    for item in registry.open_source(large):
        seen.append(item.name)
        victim = chance.choice(names)
        if victim not in deleted and victim not in seen:
            os.unlink(os.path.join(large, victim))
            deleted.add(victim)
        newcomer = "%03dx.jpg" % chance.randrange(100)
        come += newcomer > item.name
        write_bytes(os.path.join(large, newcomer), b"")
    assert seen == sorted(set(seen), key=lambda name: name.split("/"))
    assert deleted and come
    assert set(names) - deleted <= set(seen)  # what stayed is never missed
    assert any("x" in name for name in seen)


def test_a_photo_replaced_by_a_folder_on_the_way_is_walked_into(large):
    items = registry.open_source(large)
    next(items)
    os.unlink(os.path.join(large, "059.jpg"))
    write_bytes(os.path.join(large, "059.jpg", "inside.jpg"), b"")
    rest = {item.name: item.problem for item in items}
    assert rest["059.jpg"] == "is a directory" and rest["059.jpg/inside.jpg"] == ""


def test_a_folder_that_cannot_be_looked_at_is_an_item_with_the_reason(tmp_path, monkeypatch):
    for name in ("a/1.jpg", "b/2.jpg", "c/3.jpg"):
        write_bytes(str(tmp_path / name), b"")
    os.symlink("nowhere", str(tmp_path / "dangling"))
    os.symlink("loop", str(tmp_path / "loop"))
    real = os.stat

    def failing(path, *more, **options):
        if os.fspath(path) == str(tmp_path / "b"):
            raise OSError(errno.EACCES, "Permission denied")
        return real(path, *more, **options)

    monkeypatch.setattr(os, "stat", failing)
    items = [(item.name, item.problem) for item in registry.open_source(str(tmp_path))]
    assert items == [("a/1.jpg", ""), ("b", "cannot be looked at (Permission denied)"), ("c/3.jpg", "")]
    assert registry.count_source(str(tmp_path)) == len(items)


def test_a_large_folder_that_goes_away_on_the_way_is_one_item_with_its_problem(large):
    write_bytes(large + "/zz/last.jpg", b"")
    shutil.rmtree(large + "/070")
    os.mkdir(large + "/070")
    for number in range(40):
        write_bytes(large + "/070/%03d.jpg" % number, b"")
    items = registry.open_source(large)
    for item in items:
        if item.name == "070/000.jpg":
            shutil.rmtree(large + "/070")
            break
    rest = [(item.name, item.problem) for item in items]
    assert rest[:6] == [("070/%03d.jpg" % number, "") for number in range(1, 7)]  # had been listed
    assert rest[6:] == [
        ("070", "cannot list the rest of this folder (No such file or directory)"),
        ("zz/last.jpg", ""),
    ]


def test_a_small_folder_that_goes_away_on_the_way_gives_what_had_been_listed(folder):
    items = registry.open_source(folder)
    assert [next(items).name for _ in range(3)][-1] == "sub/c.webp"
    shutil.rmtree(os.path.join(folder, "sub"))
    assert [item[:3] for item in items] == [
        ("sub/deep", os.path.join(folder, "sub/deep"), "went away before it was looked at")
    ]
