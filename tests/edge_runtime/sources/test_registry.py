"""Every kind of SOURCE, and names and folders that are out to break the walk."""

import errno
import glob
import io
import os
import random
import shutil
import socket
import threading
import types

import pytest

from edge_runtime.errors import ImageError, PhotoMissing, StorageLost, UsageError
from edge_runtime.photos.read import read_image
from edge_runtime.sources import listing, near_miss, registry, stdin, storage
from edge_runtime.sources import names as sources_names
from edge_runtime.sources.items import Item
from edge_runtime.sources.listing import _entries_after, names_in
from edge_runtime.sources.names import _start_of, passed_over_text
from tests.helpers import NASTY_NAMES, encoded, photo, write_bytes, write_table


def names_of(source, images_folder=None):
    return [item.name for item in registry.open_source(str(source), images_folder)]


def problems_of(source, images_folder=None):
    """Returns {name: problem} of the items that are not even tried."""
    return {item.name: item.problem for item in registry.open_source(str(source), images_folder) if item.problem}


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


@pytest.fixture
def few_at_once(monkeypatch):
    monkeypatch.setattr(listing, "AT_ONCE", 7)


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
    monkeypatch.setattr(listing, "AT_ONCE", at_once)
    found = names_of(large)
    # Folders stand where their own names do: "031" before "031.jpg".
    assert found == sorted(found, key=lambda name: name.split("/")) and len(set(found)) == 120
    assert names_of(os.path.join(large, "*.jpg")) == [os.path.join(large, "%03d.jpg" % n) for n in range(60)]


def test_a_large_folder_is_never_held_whole(large, monkeypatch):
    held = []
    entries_after = _entries_after

    def watch(last, folder):
        entries, more = entries_after(last, folder)
        held.append(len(entries))
        return entries, more

    monkeypatch.setattr(listing, "_entries_after", watch)
    assert len(names_of(large)) == 120
    assert sum(held) == 123 and max(held) < 14


def test_what_comes_and_goes_while_a_large_folder_is_read_is_never_given_twice_or_out_of_order(large):
    chance = random.Random(1)
    there = ["%03d.jpg" % number for number in range(60)]
    found, gone, come = [], set(), 0
    for item in registry.open_source(large):
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
    found = [(item.name, item.problem) for item in registry.open_source(str(tmp_path))]
    assert found == [("a/1.jpg", ""), ("b", "cannot be looked at (Permission denied)"), ("c/3.jpg", "")]
    assert registry.count_source(str(tmp_path)) == len(found)


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


@pytest.mark.parametrize("name", ["loop", "loop.jpg"])
def test_two_stars_give_the_same_rows_as_the_folder_also_of_links_back(folder, name):
    os.symlink("..", os.path.join(folder, "sub", name))
    pattern = os.path.join(folder, "**")
    expected = {os.path.join(folder, name): problem for name, problem in problems_of(folder).items()}
    assert problems_of(pattern) == expected and len(expected) == 1
    assert len(names_of(pattern)) == len(names_of(folder)) == registry.count_source(pattern) == 5


def test_a_pattern_gives_a_dangling_link_so_that_its_row_is_not_lost(tmp_path):
    os.symlink("nowhere", str(tmp_path / "link.jpg"))
    assert names_of(tmp_path / "*.jpg") == [str(tmp_path / "link.jpg")]


def test_a_pattern_that_matches_nothing_is_wrong_usage(folder):
    with pytest.raises(UsageError, match="no file"):
        registry.open_source(os.path.join(folder, "*.gif"))


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


# --- standard input


@pytest.fixture
def standard_input(monkeypatch, tmp_path):
    """Returns a function: bytes -> they are what standard input holds."""
    opened = []

    def feed(data):
        opened.append(open(write_bytes(tmp_path / "stdin", data)))  # noqa: SIM115
        fake = types.SimpleNamespace(stdin=opened[-1])
        monkeypatch.setattr(registry, "sys", fake)
        monkeypatch.setattr(stdin, "sys", fake)

    yield feed
    for file in opened:
        file.close()


@pytest.fixture
def piped_input(monkeypatch):
    """Returns a file: what is written there comes from standard input at once."""
    read_end, write_end = os.pipe()
    with io.open(read_end, "r") as source, open(write_end, "wb", buffering=0) as sink:
        fake = types.SimpleNamespace(stdin=source)
        monkeypatch.setattr(registry, "sys", fake)
        monkeypatch.setattr(stdin, "sys", fake)
        yield sink


@pytest.mark.parametrize("data", [b"a.jpg\nb c.jpg\n", b"a.jpg\r\nb c.jpg\r\n", b"a.jpg\n\n\nb c.jpg"])
def test_standard_input_is_one_name_per_line(standard_input, data):
    standard_input(data)
    assert names_of("-") == ["a.jpg", "b c.jpg"]


@pytest.mark.parametrize("data", [b"a.jpg\0b\nc\r.jpg\0", b"a.jpg\0\0b\nc\r.jpg"])
def test_standard_input_may_end_names_with_nul(standard_input, data):
    standard_input(data)
    assert [item.name for item in registry.open_source("-", null=True)] == ["a.jpg", "b\nc\r.jpg"]


@pytest.mark.parametrize("name", NASTY_NAMES, ids=ascii)
def test_a_name_on_standard_input_opens_the_file(standard_input, tmp_path, name):
    path = write_bytes(os.path.join(str(tmp_path), name), b"")
    standard_input(os.fsencode(path) + b"\0")
    (item,) = registry.open_source("-", null=True)
    assert item[:3] == (path, path, "") and os.path.exists(item.path)
    if "\n" not in name:
        standard_input(os.fsencode(path) + b"\n")
        (item,) = registry.open_source("-")
        assert os.path.exists(item.path)


def test_names_of_any_length_come_whole_from_standard_input(standard_input):
    names = ["%d/" % number + "x" * number * 37 for number in range(200)]  # 700 KB, read in pieces of 64 KB
    standard_input("\n".join(names).encode())
    assert names_of("-") == names


def test_standard_input_is_read_only_as_far_as_items_are_wanted(piped_input):
    items = registry.open_source("-")
    piped_input.write(b"first.jpg\nsec")  # the pipe stays open: waiting for its end would block
    assert next(items).name == "first.jpg"
    piped_input.write(b"ond.jpg\n")
    assert next(items).name == "second.jpg"


def test_waiting_for_standard_input_ends_when_it_is_told_to_stop(piped_input):
    stop = threading.Event()
    items = registry.open_source("-", stop=stop)
    piped_input.write(b"first.jpg\nsecond.jpg\n")
    assert next(items).name == "first.jpg"
    threading.Timer(0.05, stop.set).start()
    assert [item.name for item in items] == ["second.jpg"]


def test_a_closed_standard_input_is_wrong_usage(monkeypatch):
    fake = types.SimpleNamespace(stdin=None)
    monkeypatch.setattr(registry, "sys", fake)
    with pytest.raises(UsageError, match="standard input"):
        registry.open_source("-")


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


# --- what is passed over, and what is left out


LEFT_OUT = ["._a.jpg", ".hidden.jpg", ".DS_Store", "Thumbs.db", "desktop.ini"]
LEFT_OUT += ["out.tsv.partial", "out.tsv.partial.json", "out.tsv.partial.lock"]
LEFT_OUT += [
    folder + "/a.jpg"
    for folder in ("@eaDir", "__MACOSX", ".ipynb_checkpoints", "$RECYCLE.BIN", "lost+found", ".thumbs")
]
LEFT_OUT += ["System Volume Information/a.jpg"]


@pytest.fixture
def mixed(tmp_path):
    """A folder with photos that no suffix tells, files of other kinds, and what systems leave."""
    top, jpeg = tmp_path / "mixed", encoded(photo((200, 30, 30)), "jpg")
    for name in ("a.jpg", "IMG_1", "IMG_2.JPG.1", "b.jpg~", "c.xyz", "in/d.JPG"):
        write_bytes(top / name, jpeg)
    for name in ("clip.mp4", "in/film.MOV", "notes.txt", "raw.dng", "photos.zip", "labels.tsv", "README", "e.weird"):
        write_bytes(top / name, b"some text")
    for folder in ("", "in/"):
        for name in LEFT_OUT:
            write_bytes(top / (folder + name), jpeg)
    return str(top)


MIXED = ["IMG_1", "IMG_2.JPG.1", "a.jpg", "b.jpg~", "c.xyz", "in/d.JPG"]
MIXED_PASSED_OVER = {".mp4": 1, ".mov": 1, ".txt": 1, ".dng": 1, ".zip": 1, ".tsv": 1, "": 1, ".weird": 1}


def test_a_folder_gives_its_photos_by_suffix_or_first_bytes_and_counts_the_rest(mixed):
    items = registry.open_source(mixed)
    assert [item.name for item in items] == MIXED
    assert items.passed_over == MIXED_PASSED_OVER


@pytest.mark.parametrize("pattern", ["**/*", "**"])
def test_a_pattern_gives_the_same_photos_as_the_folder(mixed, pattern):
    items = registry.open_source(os.path.join(mixed, pattern))
    assert [item.name for item in items] == [os.path.join(mixed, name) for name in MIXED]
    assert items.passed_over == MIXED_PASSED_OVER


@pytest.mark.parametrize("pattern", ["", "*", "**", "*.jp*", ".*"])
def test_as_many_are_counted_as_there_are_photos_among_others(mixed, pattern):
    source = os.path.join(mixed, pattern)
    assert registry.count_source(source) == len(names_of(source)) > 0


def test_what_is_hidden_or_left_by_a_system_is_there_where_it_is_named(mixed):
    assert names_of(os.path.join(mixed, "._a.jpg")) == [os.path.join(mixed, "._a.jpg")]
    assert names_of(os.path.join(mixed, ".thumbs")) == ["a.jpg"]
    assert names_of(os.path.join(mixed, "__MACOSX", "*")) == [os.path.join(mixed, "__MACOSX/a.jpg")]
    assert names_of(os.path.join(mixed, ".h*")) == [os.path.join(mixed, ".hidden.jpg")]


def test_what_the_suffix_tells_is_not_opened(mixed, monkeypatch):
    opened, start_of = [], _start_of
    monkeypatch.setattr(sources_names, "_start_of", lambda path: opened.append(path) or start_of(path))
    names_of(mixed)
    assert sorted(os.path.basename(path) for path in opened) == [
        "IMG_1",
        "IMG_2.JPG.1",
        "README",
        "b.jpg~",
        "c.xyz",
        "e.weird",
    ]


@pytest.mark.parametrize("pattern", ["", "*"])
def test_pipes_and_sockets_are_passed_over_and_do_not_block(mixed, pattern):
    os.mkfifo(os.path.join(mixed, "pipe"))
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.join(mixed, "talk.sock"))
        items = registry.open_source(os.path.join(mixed, pattern))
        assert not {"pipe", "talk.sock"} & {os.path.basename(item.name) for item in items}
    assert items.passed_over[""] == 2 and items.passed_over[".sock"] == 1


def test_a_file_that_may_be_a_photo_and_cannot_be_opened_is_an_item_with_the_reason(mixed, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(sources_names, "_start_of", refuse)
    expected = dict.fromkeys(("IMG_1", "README", "e.weird", "c.xyz"), "cannot be looked at (Permission denied)")
    assert expected.items() <= problems_of(mixed).items()
    assert registry.count_source(mixed) == len(names_of(mixed)) == 8
    assert len(problems_of(os.path.join(mixed, "*"))) == 6


def test_a_million_suffixes_do_not_take_memory(tmp_path):
    for number in range(300):
        write_bytes(tmp_path / ("log.%05d" % number), b"")
    write_bytes(tmp_path / ("log." + "x" * 100), b"")
    items = registry.open_source(str(tmp_path))
    assert list(items) == [] and sum(items.passed_over.values()) == 301 and len(items.passed_over) < 110


def test_what_was_passed_over_is_said_with_the_most_first():
    text = passed_over_text({".txt": 2, ".mp4": 3, "": 1, ".\x1b[1m": 1})
    assert text.startswith("passed over: 3 .mp4, 2 .txt, 1 without a suffix, 1 .\\x1b[1m (a video is ")
    assert passed_over_text({".txt": 2}) == "passed over: 2 .txt" and passed_over_text({}) == ""


def test_a_pattern_that_matches_no_photo_says_what_it_matches(mixed):
    with pytest.raises(UsageError, match="1 .txt"):
        registry.open_source(os.path.join(mixed, "*.txt"))


# --- storage that goes away


def missing_reason(item):
    """What the row of an Item says whose file is not there."""
    with pytest.raises(PhotoMissing) as missing:
        read_image(item.path)
    return storage.reason_of(item, missing.value)


def items_of(kind, folder, standard_input):
    """Opens the photos of a flat folder a.jpg, b.jpg ... as a source of a kind."""
    names = sorted(os.listdir(folder))
    if kind == "stdin":
        standard_input("".join(os.path.join(folder, name) + "\n" for name in names).encode())
        return registry.open_source("-")
    if kind == "table":
        write_table(folder + ".tsv", [(name, "") for name in names])
        return registry.open_source(folder + ".tsv", folder)
    if kind == "several":
        return registry.open_sources([os.path.join(folder, name) for name in names])
    return registry.open_source(folder if kind == "folder" else os.path.join(folder, "*"))


@pytest.fixture
def flat(tmp_path):
    for letter in "abcdef":
        write_bytes(tmp_path / "flat" / (letter + ".jpg"), b"")
    return str(tmp_path / "flat")


KINDS = ["folder", "glob", "table", "stdin", "several"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("instead", ["nothing", "another folder"])
def test_a_folder_that_went_away_is_no_photo_s_fault(kind, instead, flat, standard_input):
    items = items_of(kind, flat, standard_input)
    next(items)
    os.rename(flat, flat + ".away")
    if instead == "another folder":  # as an empty mount point is
        os.mkdir(flat)
    with pytest.raises(StorageLost, match="flat: "):  # from the walk, or when it is read
        missing_reason(next(items))


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_photo_that_went_away_is_a_row(kind, flat, standard_input):
    items = items_of(kind, flat, standard_input)
    next(items)
    os.unlink(os.path.join(flat, "b.jpg"))
    assert missing_reason(next(items)) == "No such file or directory"
    assert len(list(items)) == 4


def test_a_folder_inside_that_went_away_is_rows(folder):
    items = {item.name: item for item in registry.open_source(folder)}
    shutil.rmtree(os.path.join(folder, "sub"))
    assert missing_reason(items["sub/c.webp"]) == "No such file or directory"


@pytest.fixture
def shelves(tmp_path):
    """A folder with the folders a, b, c of two photos each."""
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg", "c/1.jpg", "c/2.jpg"):
        write_bytes(tmp_path / "shelves" / name, b"")
    return str(tmp_path / "shelves")


SHELVES = ["%s/%d.jpg" % (letter, number) for letter in "abc" for number in (1, 2)]


@pytest.mark.parametrize("instead", ["nothing", "an empty folder"])
@pytest.mark.parametrize("kind", ["table", "glob", "stdin"])
def test_a_folder_inside_that_went_away_after_one_of_its_names_is_no_photo_s_fault(
    kind, instead, shelves, standard_input
):
    paths = [os.path.join(shelves, name) for name in SHELVES]
    if kind == "table":
        write_table(shelves + ".tsv", [(name, "") for name in SHELVES])
        items = registry.open_source(shelves + ".tsv", shelves)
    elif kind == "glob":
        items = registry.open_source(os.path.join(shelves, "*", "*"))
    else:
        standard_input("\n".join(paths).encode())
        items = registry.open_source("-")
    assert [next(items).path for _ in range(3)] == paths[:3]
    os.rename(os.path.join(shelves, "b"), shelves + ".away")
    if instead == "an empty folder":
        os.mkdir(os.path.join(shelves, "b"))
    with pytest.raises(StorageLost, match="shelves/b: "):
        missing_reason(next(items))
    assert all(os.path.exists(item.path) for item in items)


def test_a_table_s_folder_is_looked_at_too_where_one_inside_is_there_again(shelves):
    write_table(shelves + ".tsv", [("b/1.jpg", ""), ("b/2.jpg", "")])
    items = registry.open_source(shelves + ".tsv", shelves)
    next(items)
    os.rename(shelves, shelves + ".away")
    write_bytes(os.path.join(shelves, "b", "other.jpg"), b"")
    with pytest.raises(StorageLost, match="shelves: "):
        missing_reason(next(items))


def test_a_table_that_names_folders_that_were_never_there_gives_rows(shelves):
    names = ["nowhere/1.jpg", "a/1.jpg", "nowhere/2.jpg", "a/none/3.jpg"]
    write_table(shelves + ".tsv", [(name, "") for name in names])
    items = list(registry.open_source(shelves + ".tsv", shelves))
    assert [item.path for item in items if os.path.exists(item.path)] == [os.path.join(shelves, "a/1.jpg")]
    for item in items[:1] + items[2:]:
        assert missing_reason(item) == "No such file or directory"


def test_a_folder_inside_that_went_away_before_the_walk_reached_it_is_an_item(shelves):
    write_bytes(os.path.join(shelves, "aa.tmp"), b"")
    write_bytes(os.path.join(shelves, "no suffix"), b"")
    write_bytes(os.path.join(shelves, "d.2024", "1.jpg"), b"")
    items = registry.open_source(shelves)
    assert next(items).name == "a/1.jpg"
    os.rename(os.path.join(shelves, "b"), shelves + ".away")
    shutil.rmtree(os.path.join(shelves, "d.2024"))
    for name in ("aa.tmp", "no suffix"):
        os.unlink(os.path.join(shelves, name))
    gone = "went away before it was looked at"
    assert [(item.name, item.problem) for item in items] == [
        ("a/2.jpg", ""),
        ("b", gone),
        ("c/1.jpg", ""),
        ("c/2.jpg", ""),
        ("d.2024", gone),
    ]
    assert not items.passed_over


def test_names_on_standard_input_below_a_folder_that_went_away_are_no_photos_faults(flat, tmp_path, standard_input):
    """Also where names of two folders alternate, and where the folder was not there when it was named first."""
    other = write_bytes(tmp_path / "other" / "x.jpg", b"")
    names = [other, flat + "/a.jpg", other, flat + "/b.jpg", flat + "/deeper/c.jpg"]
    standard_input("\n".join(names).encode() + b"\n")
    items = registry.open_source("-")
    first = [next(items) for _ in range(3)]
    os.rename(flat, flat + ".away")
    rest = first[1:2] + list(items)
    for item in rest:
        with pytest.raises(StorageLost):
            missing_reason(item)
    os.mkdir(flat)
    for item in rest:
        with pytest.raises(StorageLost):
            missing_reason(item)


@pytest.mark.parametrize("kind", ["stdin", "table"])
def test_an_address_in_a_list_is_no_file_and_its_password_is_not_shown(kind, tmp_path, standard_input):
    address = "rtsp://eva:Secret1@camera/x"
    if kind == "stdin":
        standard_input(address.encode() + b"\n")
        (item,) = registry.open_source("-")
    else:
        write_table(tmp_path / "list.tsv", [(address, "")])
        (item,) = registry.open_source(str(tmp_path / "list.tsv"))
    assert item.name == "rtsp://eva:***@camera/x" and "address" in item.problem


def test_a_folder_that_is_made_anew_between_names_is_no_lost_disk(flat, standard_input):
    """As a spool is, which somebody empties."""
    standard_input("".join("%s/%s.jpg\n" % (flat, letter) for letter in "abc").encode())
    items = registry.open_source("-")
    next(items)
    shutil.rmtree(flat)
    write_bytes(os.path.join(flat, "c.jpg"), b"")
    assert missing_reason(next(items)) == "No such file or directory"


def test_a_large_folder_that_goes_away_ends_the_walk(large):
    items = registry.open_source(large)
    next(items)
    os.rename(large, large + ".away")
    with pytest.raises(StorageLost, match="large: "):
        list(items)


def test_a_large_folder_that_goes_away_ends_a_pattern_too(large):
    items = registry.open_source(os.path.join(large, "*.jpg"))
    next(items)
    os.rename(large, large + ".away")
    with pytest.raises(StorageLost, match="large: "):
        list(items)


def test_a_folder_that_went_away_before_its_turn_came_ends_the_run(flat, folder):
    items = registry.open_sources([folder, flat])
    next(items)
    os.rename(flat, flat + ".away")
    os.mkdir(flat)
    with pytest.raises(StorageLost):
        list(items)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTCONN, errno.EMFILE, errno.ENOMEM])
@pytest.mark.parametrize("pattern", ["", "sub/*", "**/*"])
def test_a_folder_whose_disk_fails_ends_the_run(folder, monkeypatch, code, pattern):
    real = {name: getattr(os, name) for name in ("scandir", "listdir")}

    def failing(name):
        def call(path):
            if os.fspath(path).endswith("sub"):
                raise OSError(code, os.strerror(code), path)
            return real[name](path)

        return call

    for name in real:
        monkeypatch.setattr(os, name, failing(name))
    with pytest.raises(StorageLost, match="(?s)photos.*%s" % os.strerror(code)):
        list(registry.open_source(os.path.join(folder, pattern)))


def test_a_file_whose_disk_fails_when_it_is_looked_at_ends_the_run(mixed, monkeypatch):
    def failing(path):
        raise OSError(errno.EIO, "Input/output error", path)

    monkeypatch.setattr(sources_names, "_start_of", failing)
    for source in (mixed, os.path.join(mixed, "*")):
        with pytest.raises(StorageLost, match="Input/output error"):
            list(registry.open_source(source))


def test_a_disk_that_is_mounted_inside_a_folder_and_goes_away_is_no_photo_s_fault(tmp_path, mount):
    with mount(tmp_path / "media" / "card") as unmount:
        write_bytes(tmp_path / "media" / "card" / "DCIM" / "1.jpg", b"")
        write_bytes(tmp_path / "media" / "0.jpg", b"")
        write_table(tmp_path / "list.tsv", [("card/DCIM/1.jpg", "")])
        every = [
            list(registry.open_source(source, images_folder))[0]
            for source, images_folder in [
                (str(tmp_path / "media"), None),
                (str(tmp_path / "media/*/DCIM/*.jpg"), None),
                (str(tmp_path / "list.tsv"), str(tmp_path / "media")),
            ]
        ]
        every[0] = list(registry.open_source(str(tmp_path / "media")))[1]
        unmount()
        for item in every:
            assert item.path.endswith("card/DCIM/1.jpg")
            with pytest.raises(StorageLost, match="card"):
                missing_reason(item)


SOURCES_OF_DISKS = ["table", "folder", "*/*", "**", "several"]


def open_disks(kind, top, names):
    if kind == "table":
        write_table(top + ".tsv", [(name, "") for name in names])
        return registry.open_source(top + ".tsv", top)
    if kind == "several":
        return registry.open_sources([os.path.join(top, name) for name in sorted(os.listdir(top))])
    return registry.open_source(top if kind == "folder" else os.path.join(top, kind))


def all_read(items):
    """Reads the items as a run does; returns their problems."""
    return [item.problem or (os.path.exists(item.path) or missing_reason(item)) for item in items]


@pytest.mark.parametrize("after", ["an empty folder", "nothing", "another disk"])
@pytest.mark.parametrize("kind", SOURCES_OF_DISKS)
def test_a_disk_in_the_source_that_goes_away_before_its_turn_is_no_photo_s_fault(shelves, mount, kind, after):
    card = os.path.join(shelves, "card 1")  # with a space, which the system's list of mounts writes as \\040
    with mount(card) as unmount:
        write_bytes(os.path.join(card, "1.jpg"), b"")
        items = open_disks(kind, shelves, SHELVES[:2] + ["card 1/1.jpg"] + SHELVES[2:])
        assert next(items).path.endswith("a/1.jpg")
        unmount()
        if after == "nothing":
            os.rmdir(card)
    if after != "another disk":
        with pytest.raises(StorageLost, match="card 1"):
            all_read(items)
        return
    os.rmdir(card)
    with mount(os.path.dirname(card) + ".other"), mount(card):  # the first takes the device number that is free again
        with pytest.raises(StorageLost, match="card 1"):
            all_read(items)


def test_a_disk_whose_folder_is_gone_before_it_was_listed_ends_the_walk(shelves, mount):
    card = os.path.join(shelves, "b", "media", "card")
    with mount(card) as unmount:
        write_bytes(os.path.join(card, "1.jpg"), b"")
        items = registry.open_source(shelves)
        next(items)
        unmount()
        os.rmdir(card)  # as desktops do
        with pytest.raises(StorageLost, match="b/media/card: "):
            all_read(items)


def test_a_large_disk_that_goes_away_while_it_is_listed_ends_the_walk(shelves, mount, few_at_once):
    with mount(os.path.join(shelves, "b0")) as unmount:
        for number in range(40):
            write_bytes(os.path.join(shelves, "b0", "%02d.jpg" % number), b"")
        items = registry.open_source(shelves)
        assert [next(items).name for _ in range(11)][-1] == "b0/06.jpg"  # the last of those that are kept
        unmount()
        with pytest.raises(StorageLost, match="b0"):
            list(items)


@pytest.mark.parametrize("kind", SOURCES_OF_DISKS)
def test_a_disk_that_was_read_to_its_end_may_be_taken_out(shelves, mount, kind):
    with mount(os.path.join(shelves, "a0")) as unmount:
        write_bytes(os.path.join(shelves, "a0", "1.jpg"), b"")
        items = open_disks(kind, shelves, SHELVES[:2] + ["a0/1.jpg"] + SHELVES[2:])
        assert [next(items).path for _ in range(4)][-1].endswith("b/1.jpg")
        unmount()
        os.unlink(os.path.join(shelves, "b", "2.jpg"))
        assert all_read(items) == ["No such file or directory", True, True]


def test_disks_elsewhere_hidden_ones_and_those_that_are_mounted_on_use_do_not_count(tmp_path, monkeypatch):
    line = "36 35 98:%d / %s rw,noatime master:1 - %s /dev/sdx rw\n"
    points = ["/", "/a b", "/x\\y", "/.gvfs", "/auto", "/auto/nas"]
    kinds = ["ext4", "vfat", "vfat", "fuse", "autofs", "nfs"]
    written = [point.replace("\\", "\\134").replace(" ", "\\040") for point in points]
    top = os.path.realpath(str(tmp_path / "media"))
    os.mkdir(top)
    text = "".join(line % (number, top + point, kind) for number, (point, kind) in enumerate(zip(written, kinds)))
    text += line % (9, top + "2/card", "vfat")
    monkeypatch.setattr(storage, "_MOUNTS", write_bytes(tmp_path / "mountinfo", text.encode()))
    monkeypatch.chdir(tmp_path)
    expected = {(top + "/", "98:0"), (top + "/a b", "98:1"), (top + "/x\\y", "98:2")}
    assert set(storage._mounts_below("media")) == expected
    monkeypatch.setattr(storage, "_MOUNTS", str(tmp_path / "nowhere"))
    assert storage._mounts_below("media") == ()


def test_an_images_folder_that_is_empty_is_refused_as_a_disk_that_is_not_mounted(tmp_path):
    write_table(tmp_path / "list.tsv", [("a.jpg", "")])
    os.mkdir(str(tmp_path / "card"))
    with pytest.raises(UsageError, match="card: .*mounted"):
        registry.open_source(str(tmp_path / "list.tsv"), str(tmp_path / "card"))


# --- standard input of any length and from any system


def test_standard_input_without_an_end_of_a_name_is_refused_after_a_little(monkeypatch, standard_input):
    standard_input(b"x" * 30000000)
    sizes, read = [], os.read

    def counting(file, size):
        sizes.append(len(read(file, size)))
        return b"x" * sizes[-1]

    monkeypatch.setattr(os, "read", counting)
    with pytest.raises(UsageError, match="standard input: .*1048576 bytes"):
        list(registry.open_source("-"))
    assert sum(sizes) < 2000000
    sizes.clear()
    with pytest.raises(UsageError, match="standard input"):
        list(registry.open_source("-", null=True))
    assert sum(sizes) < 2000000


@pytest.mark.parametrize(
    "start, encoding", [("\ufeff", "utf-8"), ("\ufeff", "utf-16-le"), ("\ufeff", "utf-16-be"), ("", "utf-8")]
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("piece", [1, 3, 1 << 16])
def test_a_list_from_windows_is_read_from_standard_input(standard_input, monkeypatch, start, encoding, newline, piece):
    monkeypatch.setattr(stdin, "_READ_BYTES", piece)
    names = ["a b.jpg", "\u00c4pfel/\u82f9\u679c.jpg", "c.jpg"]
    standard_input((start + newline.join(names) + newline).encode(encoding))
    assert names_of("-") == [os.fsdecode(name.encode()) for name in names]


def test_a_name_that_begins_as_utf_16_does_stays_one(standard_input):
    standard_input(b"\xff\xfe.jpg\nb.jpg\n")
    assert names_of("-") == [os.fsdecode(b"\xff\xfe.jpg"), "b.jpg"]


def test_a_folder_as_standard_input_is_wrong_usage(monkeypatch, tmp_path):
    file = os.open(str(tmp_path), os.O_RDONLY)
    fake = types.SimpleNamespace(stdin=types.SimpleNamespace(fileno=lambda: file))
    monkeypatch.setattr(registry, "sys", fake)
    monkeypatch.setattr(stdin, "sys", fake)
    try:
        with pytest.raises(UsageError, match="standard input: .*Is a directory"):
            list(registry.open_source("-"))
    finally:
        os.close(file)


def test_a_standard_input_that_fails_is_storage_that_is_lost(standard_input, monkeypatch):
    def failing(*_):
        raise OSError(errno.EIO, "Input/output error")

    standard_input(b"a.jpg\n")
    monkeypatch.setattr(os, "read", failing)
    with pytest.raises(StorageLost, match="standard input"):
        list(registry.open_source("-"))


@pytest.mark.parametrize("kind", ["stdin", "table"])
def test_backslashes_mean_folders_where_no_file_has_them_in_its_name(kind, folder, standard_input, monkeypatch):
    monkeypatch.chdir(folder)
    write_bytes("own\\slash.jpg", b"")
    write_bytes("own/slash.jpg", b"")
    names = ["sub\\deep\\d.jpeg", "own\\slash.jpg", "no\\where.jpg"]
    if kind == "stdin":
        standard_input("\r\n".join(names).encode())
        items = list(registry.open_source("-"))
    else:
        write_table("list.tsv", [(name, "") for name in names])
        items = list(registry.open_source("list.tsv"))
    assert [item.name for item in items] == names
    assert [item.path for item in items] == ["sub/deep/d.jpeg", "own\\slash.jpg", "no\\where.jpg"]


@pytest.mark.parametrize("name", ["..\\b.jpg", "\\etc\\passwd", "sub\\..\\..\\x.jpg"])
def test_backslashes_lead_to_no_file_outside_the_images_folder(folder, name):
    write_table(os.path.join(folder, "sub", "list.tsv"), [(name, "")])
    (item,) = registry.open_source(os.path.join(folder, "sub", "list.tsv"))
    assert not os.path.exists(item.path)


# --- names that were meant


NFD, NFC = "a\u0308pfel", "\u00e4pfel"


@pytest.mark.parametrize(
    "there, given",
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
def test_a_missing_name_is_answered_with_the_one_that_was_meant(tmp_path, monkeypatch, there, given):
    there, given = (os.fsdecode(name.encode()) for name in (there, given))
    write_bytes(tmp_path / there, b"")
    hint = '; did you mean "%s"?' % (tmp_path / there)
    assert near_miss.near_miss(str(tmp_path / given)).startswith(hint)
    monkeypatch.chdir(tmp_path)
    assert near_miss.near_miss(given).startswith('; did you mean "%s"?' % there)
    with pytest.raises(UsageError, match="did you mean"):
        registry.open_source(given)


def test_another_unicode_form_is_called_that(tmp_path):
    write_bytes(tmp_path / os.fsdecode((NFD + ".jpg").encode()), b"")
    given = os.path.join(str(tmp_path), os.fsdecode((NFC + ".jpg").encode()))
    assert near_miss.near_miss(given).endswith('.jpg"? (the same letters in another Unicode form)')


@pytest.mark.parametrize(
    "given", ["nothing.jpg", "no/where/at/all.jpg", "b.jpg", "/".join("x" * 2000), "..", "a" * 5000]
)
def test_a_name_like_no_other_gets_no_hint(folder, given):
    assert near_miss.near_miss(os.path.join(folder, given)) == ""


def test_a_folder_is_listed_once_for_all_names_that_are_missing_in_it(folder, monkeypatch):
    listed, names = [], names_in
    monkeypatch.setattr(near_miss, "names_in", lambda path: listed.append(path) or names(path))
    hints = [near_miss.near_miss(os.path.join(folder, "B.JPG")) for _ in range(100)]
    hints += [near_miss.near_miss(os.path.join(folder, "%d.jpg" % number)) for number in range(1000)]
    assert listed == [folder] and all(hints[:100]) and not any(hints[100:])


def test_a_huge_folder_is_not_searched_for_what_was_meant(folder, monkeypatch):
    monkeypatch.setattr(near_miss, "_MAX_NAMES", 3)
    near_miss._similar_names_at.cache_clear()
    assert near_miss.near_miss(os.path.join(folder, "B.JPG")) == ""
    near_miss._similar_names_at.cache_clear()


def test_the_hint_is_in_the_reason_of_a_missing_photo_alone(folder):
    path = os.path.join(folder, "B.jpg")
    item = Item(path, path, "")
    assert missing_reason(item) == 'No such file or directory; did you mean "%s"?' % os.path.join(folder, "b.jpg")
    assert storage.reason_of(item, ImageError("is truncated")) == "is truncated"


# --- several sources


def test_several_sources_are_read_in_their_order_with_distinct_names(folder, tmp_path):
    other = write_bytes(tmp_path / "other" / "b.jpg", b"")
    table = str(tmp_path / "list.tsv")
    write_table(table, [("other/b.jpg", "")])
    given = [os.path.join(folder, "sub"), other, table, os.path.join(folder, "*.jpg"), str(tmp_path / "other") + "/"]
    items = list(registry.open_sources(given))
    assert [item.name for item in items] == [
        os.path.join(folder, "sub/c.webp"),
        os.path.join(folder, "sub/deep/d.jpeg"),
        other,
        "other/b.jpg",
        os.path.join(folder, "b.jpg"),
        str(tmp_path / "other/b.jpg"),
    ]
    assert all(os.path.exists(item.path) for item in items)
    assert registry.count_sources(given) == len(items)


def test_of_one_source_the_names_are_as_ever(folder):
    assert [item.name for item in registry.open_sources([folder])] == names_of(folder)


def test_what_a_shell_puts_in_the_place_of_a_star_is_read_as_the_pattern_is(mixed):
    for name in ("labels.tsv", "clip.mp4"):
        os.unlink(os.path.join(mixed, name))
    given = sorted(glob.glob(os.path.join(mixed, "*")))
    assert any("Thumbs.db" in name for name in given)
    shutil.rmtree(os.path.join(mixed, "in", "lost+found"))
    items = registry.open_sources(given)
    assert [item.name for item in items] == [os.path.join(mixed, name) for name in MIXED]
    passed_over = dict(MIXED_PASSED_OVER)
    del passed_over[".tsv"], passed_over[".mp4"]
    assert items.passed_over == passed_over and registry.count_sources(given) == len(MIXED)


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


# --- what is given as a source and is none


@pytest.mark.parametrize(
    "name, start, says",
    [
        ("photos.zip", b"PK\x03\x04", "zip archive.*: unzip"),
        ("photos.tar.gz", b"\x1f\x8b\x08", "tar archive.*: tar -xf"),
        ("photos.tgz", b"\x1f\x8b\x08", "tar archive.*: tar -xf"),
        ("photos", b"\0" * 257 + b"ustar", "tar archive.*: tar -xf"),
        ("photos", b"PK\x03\x04", "a zip archive"),
        ("photo.jpg.gz", b"\x1f\x8b\x08", "gzip data"),
        ("list.json", b"[]", "JSON.*.csv"),
        ("list.jsonl", b"{}", "JSON.*.csv"),
        ("list.xls", b"\xd0\xcf\x11\xe0", "spreadsheet.*.csv"),
        ("list.ods", b"PK\x03\x04", "spreadsheet.*.csv"),
        ("list.docx", b"PK\x03\x04", "a document"),
        ("list.pdf", b"%PDF-1.4", "a PDF document"),
        ("list", b"a.jpg\nb.jpg\n", "text; .* picnic-edge classify BUNDLE - < "),
        ("clip.mp4", b"\0\0\0\x18ftypmp42", "a video"),
        ("clip", b"\0\0\0\x18ftypmp42", "a video"),
        ("raw.nef", b"MM\0*", "raw.*JPEG"),
        ("sound.mp3", b"\x80\x81", "suffix .mp3"),
    ],
)
def test_what_is_neither_photos_nor_a_table_is_refused_by_its_kind(tmp_path, name, start, says):
    path = write_bytes(tmp_path / name, start)
    with pytest.raises(UsageError, match="(?s)%s.*%s" % (name, says)):
        registry.open_source(path)


def test_a_photo_is_one_whatever_it_is_called(tmp_path):
    path = write_bytes(tmp_path / "photo.pdf", encoded(photo((200, 30, 30)), "jpg"))
    assert names_of(path) == [path]


def test_a_table_without_its_column_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UsageError, match="column.*file"):
        registry.open_source(write_bytes(tmp_path / "notes.txt", b"remember the milk\n"))
