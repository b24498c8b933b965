"""Every kind of SOURCE, and names and folders that are out to break the walk."""

import errno
import glob
import io
import os
import random
import shutil
import threading
import types

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


NO_PHOTOS = ("notes.txt", "photo.jpg.bak")  # of those in folder; the second by its (missing) first bytes


# --- image, folder


def test_an_image_keeps_the_name_it_was_given(folder):
    path = os.path.join(folder, "b.jpg")
    assert [item[:3] for item in sources.open_source(path)] == [(path, path, "")]


def test_a_file_of_an_unknown_kind_is_tried_when_it_is_named(folder):
    path = write_bytes(os.path.join(folder, "photo.xyz"), b"\x9c\x01\x02")
    assert names_of(path) == [path]


def test_a_folder_is_read_to_the_bottom_in_sorted_order_photos_only(folder):
    assert names_of(folder) == ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.jpeg"]


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


@pytest.fixture
def few_at_once(monkeypatch):
    monkeypatch.setattr(sources, "_AT_ONCE", 7)


@pytest.fixture
def large(tmp_path, few_at_once):
    """60 photos, among them 3 folders with 20 more each, all made in random order."""
    names = ["%03d.jpg" % number for number in range(60)]
    names += ["%03d/%03d.jpg" % (folder, number) for folder in (0, 31, 70) for number in range(20)]
    for name in random.Random(0).sample(names, len(names)):
        write_bytes(tmp_path / "large" / name, b"")
    return str(tmp_path / "large")


@pytest.mark.parametrize("at_once", [1, 2, 7, 10, 19, 20, 31, 62, 63, 64, 1000])
def test_a_large_folder_is_in_the_same_order_however_much_is_held(large, monkeypatch, at_once):
    monkeypatch.setattr(sources, "_AT_ONCE", at_once)
    found = names_of(large)
    # Folders stand where their own names do: "031" before "031.jpg".
    assert found == sorted(found, key=lambda name: name.split("/")) and len(set(found)) == 120
    assert names_of(os.path.join(large, "*.jpg")) == [os.path.join(large, "%03d.jpg" % n) for n in range(60)]


def test_a_large_folder_is_never_held_whole(large, monkeypatch):
    held = []
    names_after = sources._names_after

    def watch(last, folder):
        names, more = names_after(last, folder)
        held.append(len(names))
        return names, more

    monkeypatch.setattr(sources, "_names_after", watch)
    assert len(names_of(large)) == 120
    assert sum(held) == 123 and max(held) < 14


def test_what_comes_and_goes_while_a_large_folder_is_read_is_never_given_twice_or_out_of_order(large):
    chance = random.Random(1)
    there = ["%03d.jpg" % number for number in range(60)]
    found, gone, come = [], set(), 0
    for item in sources.open_source(large):
        found.append(item.name)
        victim = chance.choice(there)
        if victim not in gone and victim not in found:
            os.unlink(os.path.join(large, victim))
            gone.add(victim)
        newcomer = "%03dx.jpg" % chance.randrange(100)
        come += newcomer > item.name
        write_bytes(os.path.join(large, newcomer), b"")
    assert found == sorted(set(found), key=lambda name: name.split("/"))
    assert gone and come
    assert set(there) - gone <= set(found)  # what stayed is never missed
    assert any("x" in name for name in found)


def test_a_photo_replaced_by_a_folder_on_the_way_is_walked_into(large):
    items = sources.open_source(large)
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

    monkeypatch.setattr(sources.os, "stat", failing)
    found = [(item.name, item.problem) for item in sources.open_source(str(tmp_path))]
    assert found == [("a/1.jpg", ""), ("b", "cannot be looked at (Permission denied)"), ("c/3.jpg", "")]
    assert sources.count_source(str(tmp_path)) == len(found)


def test_a_large_folder_that_goes_away_on_the_way_is_one_item_with_its_problem(large):
    write_bytes(large + "/zz/last.jpg", b"")
    shutil.rmtree(large + "/070")
    os.mkdir(large + "/070")
    for number in range(40):
        write_bytes(large + "/070/%03d.jpg" % number, b"")
    items = sources.open_source(large)
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
    items = sources.open_source(folder)
    assert [next(items).name for _ in range(3)][-1] == "sub/c.webp"
    shutil.rmtree(os.path.join(folder, "sub"))
    assert list(items) == []  # "deep" is no folder any more, and no photo by its name


# --- glob


@pytest.mark.parametrize("pattern", ["*.jpg", "*", "sub/*", "sub/*/*", "[ab].*", "?.jpg"])
def test_a_pattern_gives_the_photos_it_matches_sorted(folder, pattern):
    whole = os.path.join(folder, pattern)
    expected = sorted(path for path in glob.glob(whole) if os.path.isfile(path) and not path.endswith(NO_PHOTOS))
    assert expected and names_of(whole) == expected


@pytest.mark.parametrize(
    "pattern", ["**/*.jp*g", "**", "**/*", "**/deep/*", "sub/**/*.jpeg", "**/sub/**/*", "*/**/*.webp"]
)
def test_two_stars_reach_every_depth_as_python_s_glob_does(folder, pattern):
    whole = os.path.join(folder, pattern)
    matched = {path for path in glob.glob(whole, recursive=True) if os.path.isfile(path)}
    expected = sorted(path for path in matched if not path.endswith(NO_PHOTOS))
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
def standard_input(monkeypatch, tmp_path):
    """Returns a function: bytes -> they are what standard input holds."""
    opened = []

    def feed(data):
        opened.append(open(write_bytes(tmp_path / "stdin", data)))  # noqa: SIM115
        monkeypatch.setattr(sources, "sys", types.SimpleNamespace(stdin=opened[-1]))

    yield feed
    for file in opened:
        file.close()


@pytest.fixture
def piped_input(monkeypatch):
    """Returns a file: what is written there comes from standard input at once."""
    read_end, write_end = os.pipe()
    with io.open(read_end, "r") as source, open(write_end, "wb", buffering=0) as sink:
        monkeypatch.setattr(sources, "sys", types.SimpleNamespace(stdin=source))
        yield sink


@pytest.mark.parametrize("data", [b"a.jpg\nb c.jpg\n", b"a.jpg\r\nb c.jpg\r\n", b"a.jpg\n\n\nb c.jpg"])
def test_standard_input_is_one_name_per_line(standard_input, data):
    standard_input(data)
    assert names_of("-") == ["a.jpg", "b c.jpg"]


@pytest.mark.parametrize("data", [b"a.jpg\0b\nc\r.jpg\0", b"a.jpg\0\0b\nc\r.jpg"])
def test_standard_input_may_end_names_with_nul(standard_input, data):
    standard_input(data)
    assert [item.name for item in sources.open_source("-", null=True)] == ["a.jpg", "b\nc\r.jpg"]


@pytest.mark.parametrize("name", NASTY_NAMES, ids=ascii)
def test_a_name_on_standard_input_opens_the_file(standard_input, tmp_path, name):
    path = write_bytes(os.path.join(str(tmp_path), name), b"")
    standard_input(os.fsencode(path) + b"\0")
    (item,) = sources.open_source("-", null=True)
    assert item[:3] == (path, path, "") and os.path.exists(item.path)
    if "\n" not in name:
        standard_input(os.fsencode(path) + b"\n")
        (item,) = sources.open_source("-")
        assert os.path.exists(item.path)


def test_names_of_any_length_come_whole_from_standard_input(standard_input):
    names = ["%d/" % number + "x" * number * 37 for number in range(200)]  # 700 KB, read in pieces of 64 KB
    standard_input("\n".join(names).encode())
    assert names_of("-") == names


def test_standard_input_is_read_only_as_far_as_items_are_wanted(piped_input):
    items = sources.open_source("-")
    piped_input.write(b"first.jpg\nsec")  # the pipe stays open: waiting for its end would block
    assert next(items).name == "first.jpg"
    piped_input.write(b"ond.jpg\n")
    assert next(items).name == "second.jpg"


def test_waiting_for_standard_input_ends_when_it_is_told_to_stop(piped_input):
    stop = threading.Event()
    items = sources.open_source("-", stop=stop)
    piped_input.write(b"first.jpg\nsecond.jpg\n")
    assert next(items).name == "first.jpg"
    threading.Timer(0.05, stop.set).start()
    assert [item.name for item in items] == ["second.jpg"]


def test_a_closed_standard_input_is_wrong_usage(monkeypatch):
    monkeypatch.setattr(sources, "sys", types.SimpleNamespace(stdin=None))
    with pytest.raises(UsageError, match="standard input is closed"):
        sources.open_source("-")


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
    assert sources.count_source(source) == len(names_of(source)) > 0


def test_as_many_are_counted_as_a_large_folder_has(large):
    assert sources.count_source(large) == 120


def test_a_folder_that_cannot_be_listed_counts_as_the_item_that_it_is(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if path.endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert sources.count_source(folder) == len(names_of(folder)) == 4


def test_a_table_s_rows_and_one_image_are_counted(folder):
    table = os.path.join(folder, "labels.tsv")
    write_table(table, [("sub/c.webp", "cheese"), ("b.jpg", "bread"), ("../odd.jpg", "")])
    assert sources.count_source(table) == 3
    assert sources.count_source(os.path.join(folder, "b.jpg")) == 1


def test_what_cannot_be_counted_is_none(tmp_path):
    assert sources.count_source("-") is None
    assert sources.count_source("camera:0") is None
    assert sources.count_source(str(tmp_path / "nowhere")) is None
    assert sources.count_source(write_bytes(tmp_path / "empty.tsv", b"")) is None


def test_counting_ends_when_it_is_told_to_stop(folder):
    stop = threading.Event()
    stop.set()
    assert sources.count_source(folder, stop) is None


def test_more_folders_than_names_are_held_are_not_counted(tmp_path, few_at_once):
    for number in range(8):
        write_bytes(tmp_path / str(number) / "a.jpg", b"")
    assert sources.count_source(str(tmp_path)) is None


# --- what is no source


def test_a_missing_source_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        sources.open_source(str(tmp_path / "nowhere.jpg"))


@pytest.mark.parametrize("source", ["rtsp://camera/1", "camera:0", "csi:0"])
def test_a_live_source_is_no_source_of_files(source):
    with pytest.raises(UsageError, match="a live source cannot be used here"):
        sources.open_source(source)


def test_a_dangling_link_given_as_the_source_is_one_item(tmp_path):
    os.symlink("nowhere", str(tmp_path / "link.jpg"))
    assert names_of(tmp_path / "link.jpg") == [str(tmp_path / "link.jpg")]


def test_names_with_nul_between_them_are_not_taken_for_one_name(standard_input):
    standard_input(b"a.jpg\0b.jpg\0")
    with pytest.raises(UsageError, match=r"has NUL bytes; .* need --null \(-0\)"):
        list(sources.open_source("-"))
