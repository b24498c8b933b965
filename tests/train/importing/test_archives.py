"""Archives: what a zip claims is checked before anything is written."""

import os
import stat
import zipfile

import pytest

from edge_runtime.errors import UsageError
from train.importing import archives


def write_zip(path, content, **settings):
    """Writes {name: bytes} as a zip, and returns its path."""
    with zipfile.ZipFile(str(path), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = settings.get("mode", 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return str(path)


def names_in(path):
    with archives.unpacked(path) as folder:
        return archives.file_names(folder)


def test_a_zip_is_unpacked_and_removed_again(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"labels.txt": b"a", "model/model.onnx": b"b"})
    with archives.unpacked(path) as folder:
        assert archives.file_names(folder) == archives.file_names(path) == ["labels.txt", "model/model.onnx"]
    assert not os.path.exists(folder)


def test_the_only_folder_in_a_zip_is_opened_and_what_macos_adds_is_left_out(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"my model/labels.txt": b"a", "__MACOSX/._labels.txt": b"b"})
    assert names_in(path) == archives.file_names(path) == ["labels.txt"]


def test_names_of_windows(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"one\\labels.txt": b"a", "model.onnx": b"b"})
    assert names_in(path) == archives.file_names(path) == ["model.onnx", "one/labels.txt"]


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "..\\evil", "C:\\evil"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    path = write_zip(tmp_path / "a.zip", {name: b"x", "good": b"y"})
    with pytest.raises(UsageError, match="leads out of the archive"):
        names_in(path)
    assert os.listdir(str(tmp_path)) == ["a.zip"]


def test_a_link_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"labels.txt": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777)
    with pytest.raises(UsageError, match="is a link"):
        names_in(path)


def test_an_archive_that_grows_like_no_model_is_refused(tmp_path):
    path = str(tmp_path / "bomb.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        piece = bytes(1 << 24)
        with archive.open("model.onnx", "w") as file:
            for _ in range(17):
                file.write(piece)
    with pytest.raises(UsageError, match="would grow from"):
        names_in(path)


def test_a_size_that_is_a_lie_is_noticed(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"model.onnx": bytes(1000)})
    with open(path, "rb") as file:
        data = bytearray(file.read())
    place = data.rindex(b"PK\x01\x02") + 24  # the size in the directory
    data[place : place + 4] = (10).to_bytes(4, "little")
    with open(path, "wb") as file:
        file.write(data)
    with pytest.raises(UsageError, match="cannot be unpacked"):
        names_in(path)


def test_what_is_no_archive(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UsageError, match="expected a folder or a zip"):
        names_in(str(path))
    assert archives.file_names(str(path)) == []


def test_messages_about_what_was_unpacked_name_the_archive(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"labels.txt": b"a"})
    with pytest.raises(UsageError) as caught, archives.unpacked(path) as folder:
        raise UsageError(f"{folder}/labels.txt: is wrong")
    assert str(caught.value) == f"{path}/labels.txt: is wrong"
