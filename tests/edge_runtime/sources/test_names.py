"""What the name and the first bytes of a file say about it."""

import os
import socket

import pytest

from edge_runtime.errors import UsageError
from edge_runtime.sources import registry
from edge_runtime.sources.names import passed_over_text
from tests.edge_runtime.sources.helpers import MIXED, MIXED_PASSED_OVER, names_of, problems_of
from tests.helpers import encoded, photo, write_bytes

# --- what is passed over, and what is left out


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
    opened, open_file = [], os.open
    monkeypatch.setattr(os, "open", lambda path, *how: opened.append(path) or open_file(path, *how))
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
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)
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
    assert text.startswith("passed over: 3 .mp4, 2 .txt, 1 without a suffix, 1 .\\x1b[1m (to classify a video")
    assert passed_over_text({".txt": 2}) == "passed over: 2 .txt" and passed_over_text({}) == ""


def test_a_pattern_that_matches_no_photo_says_what_it_matches(mixed):
    with pytest.raises(UsageError, match="1 .txt"):
        registry.open_source(os.path.join(mixed, "*.txt"))


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
