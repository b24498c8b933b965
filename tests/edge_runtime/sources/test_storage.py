"""Storage that goes away while a source is read."""

import errno
import os
import shutil

import pytest

from edge_runtime.errors import StorageLost, UsageError
from edge_runtime.sources import registry, storage
from tests.edge_runtime.sources.helpers import missing_reason
from tests.helpers import write_bytes, write_table


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
    def failing(path, *_):
        raise OSError(errno.EIO, "Input/output error", path)

    monkeypatch.setattr(os, "open", failing)
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
    table = write_bytes(tmp_path / "mountinfo", text.encode())
    monkeypatch.chdir(tmp_path)
    expected = {(top + "/", "98:0"), (top + "/a b", "98:1"), (top + "/x\\y", "98:2")}
    assert set(storage.mounts_below("media", table)) == expected
    assert storage.mounts_below("media", str(tmp_path / "nowhere")) == ()


def test_an_images_folder_that_is_empty_is_refused_as_a_disk_that_is_not_mounted(tmp_path):
    write_table(tmp_path / "list.tsv", [("a.jpg", "")])
    os.mkdir(str(tmp_path / "card"))
    with pytest.raises(UsageError, match="card: .*mounted"):
        registry.open_source(str(tmp_path / "list.tsv"), str(tmp_path / "card"))
