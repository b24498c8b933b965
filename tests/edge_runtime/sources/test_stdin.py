"""File names on standard input."""

import errno
import io
import os
import threading
import types

import pytest

from edge_runtime.errors import StorageLost, UsageError
from edge_runtime.sources import registry, stdin
from tests.edge_runtime.sources.helpers import names_of
from tests.helpers import NASTY_NAMES, write_bytes, write_table

# --- standard input


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
    monkeypatch.setattr(stdin, "READ_BYTES", piece)
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
