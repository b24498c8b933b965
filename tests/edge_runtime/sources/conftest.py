"""Fixtures of the tests of sources."""

import random
import types

import pytest

from edge_runtime.sources import listing, registry, stdin
from tests.edge_runtime.sources.helpers import LEFT_OUT
from tests.edge_runtime.sources.videos import numbered, write_video
from tests.helpers import encoded, photo, write_bytes


@pytest.fixture
def clip(tmp_path):
    return write_video(tmp_path / "clip.avi", [numbered(number) for number in range(40)])


@pytest.fixture
def folder(tmp_path):
    """photos/ with b.jpg, a.PNG, sub/c.webp, sub/deep/d.jpeg, and what is no photo."""
    top = tmp_path / "photos"
    for name in ("b.jpg", "a.PNG", "notes.txt", "sub/c.webp", "sub/deep/d.jpeg", "sub/photo.jpg.bak", ".hidden.jpg"):
        write_bytes(top / name, b"")
    return str(top)


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
