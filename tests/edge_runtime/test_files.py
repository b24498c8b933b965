"""Writing: where links lead, what is no file, and what a file that is replaced was allowed."""

import errno
import os
import stat
import threading

import pytest

from edge_runtime import files


class Reader:
    """Reads a FIFO to its end, in a thread."""

    def __init__(self, path):
        os.mkfifo(path)
        self.data = b""
        self._thread = threading.Thread(target=self._read, args=(path,), daemon=True)
        self._thread.start()

    def _read(self, path):
        with open(path, "rb") as file:
            self.data = file.read()

    def read(self):
        self._thread.join(60)
        return self.data


def read(path):
    with open(str(path), "rb") as file:
        return file.read()


def write(path, content="new"):
    with files.atomic_file(str(path)) as file:
        file.write(content)


def beside(path):
    return sorted(os.listdir(os.path.dirname(str(path))))


@pytest.mark.parametrize("older", [True, False], ids=["there", "dangling"])
def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path, older):
    (tmp_path / "disk").mkdir()
    target = tmp_path / "disk" / "target.tsv"
    if older:
        target.write_text("older")
    (tmp_path / "disk" / "second").symlink_to("target.tsv")  # relative to its own folder
    (tmp_path / "link.tsv").symlink_to(os.path.join("disk", "second"))
    write(tmp_path / "link.tsv")
    assert read(target) == b"new" and beside(target) == ["second", "target.tsv"]
    assert os.readlink(str(tmp_path / "link.tsv")) == os.path.join("disk", "second")
    assert os.readlink(str(tmp_path / "disk" / "second")) == "target.tsv"


def test_the_temporary_file_lies_beside_the_target(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.tsv").symlink_to(os.path.join("disk", "target.tsv"))
    with files.atomic_file(str(tmp_path / "link.tsv")):
        assert len(os.listdir(str(tmp_path / "disk"))) == 1 and sorted(os.listdir(str(tmp_path))) == [
            "disk",
            "link.tsv",
        ]


def test_links_in_a_circle_are_an_error_and_stay(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError) as raised:
        write(tmp_path / "a")
    assert raised.value.errno == errno.ELOOP and beside(tmp_path / "a") == ["a", "b"]


def test_a_fifo_is_written_to(tmp_path):
    path = tmp_path / "fifo.tsv"
    reader = Reader(str(path))
    assert files.is_stream(str(path))
    write(path, "rows\n")
    assert reader.read() == b"rows\n"
    assert stat.S_ISFIFO(os.stat(str(path)).st_mode) and beside(path) == ["fifo.tsv"]


def test_a_device_stays_one_and_nothing_is_made_beside_it(null_device):
    before = os.stat(null_device)
    write(null_device)
    after = os.stat(null_device)
    assert stat.S_ISCHR(after.st_mode) and (after.st_ino, after.st_rdev) == (before.st_ino, before.st_rdev)
    assert beside(null_device) == ["null.tsv"]


def test_a_link_to_a_device_is_written_through(tmp_path):
    (tmp_path / "null.tsv").symlink_to(os.devnull)
    write(tmp_path / "null.tsv")
    assert os.readlink(str(tmp_path / "null.tsv")) == os.devnull
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode) and beside(tmp_path / "null.tsv") == ["null.tsv"]


@pytest.mark.parametrize("name", ["/dev/fd/%d", "/proc/self/fd/%d"])
def test_what_is_open_already_is_written_to_where_it_stands(tmp_path, name):
    path = tmp_path / "out.txt"
    with open(str(path), "wb") as file:
        file.write(b"before\n")
        file.flush()
        assert files.is_stream(name % file.fileno())
        write(name % file.fileno(), "rows\n")
        file.write(b"after\n")
    assert read(path) == b"before\nrows\nafter\n" and beside(path) == ["out.txt"]


def test_files_folders_and_what_is_not_there_are_no_streams(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file", "nothing", "."):
        assert not files.is_stream(str(tmp_path / name))


def test_a_replaced_file_keeps_its_mode_and_a_new_one_has_the_user_s(tmp_path):
    mask = os.umask(0o027)
    try:
        (tmp_path / "old").write_text("older")
        os.chmod(str(tmp_path / "old"), 0o604)
        for name, mode in (("old", 0o604), ("new", 0o640)):
            write(tmp_path / name)
            assert stat.S_IMODE(os.stat(str(tmp_path / name)).st_mode) == mode
    finally:
        os.umask(mask)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to give a file away")
def test_a_replaced_file_keeps_its_owner(tmp_path):
    (tmp_path / "old").write_text("older")
    os.chown(str(tmp_path / "old"), 12345, 23456)
    write(tmp_path / "old")
    found = os.stat(str(tmp_path / "old"))
    assert read(tmp_path / "old") == b"new" and (found.st_uid, found.st_gid) == (12345, 23456)


def test_a_file_system_without_modes_takes_a_file_too(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(files.os, "chmod", refused)
    write(tmp_path / "new")
    assert read(tmp_path / "new") == b"new"


def test_a_folder_takes_the_place_of_no_device_or_fifo(tmp_path):
    os.mkfifo(str(tmp_path / "fifo"))
    with pytest.raises(NotADirectoryError):
        with files.atomic_folder(str(tmp_path / "fifo")):
            pytest.fail("this was work for nothing")
    assert stat.S_ISFIFO(os.stat(str(tmp_path / "fifo")).st_mode) and beside(tmp_path / "fifo") == ["fifo"]


def test_an_older_output_is_removed_where_its_link_leads(tmp_path):
    (tmp_path / "target").write_text("older")
    (tmp_path / "link").symlink_to("target")
    os.mkfifo(str(tmp_path / "fifo"))
    files.remove(str(tmp_path / "link"))
    files.remove(str(tmp_path / "fifo"))
    assert beside(tmp_path / "link") == ["fifo", "link"]
