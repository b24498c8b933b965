"""docs/architecture.md: the rooms import in one direction, and the picture shows the imports as they are."""

import os
import re

import pytest

from docs.scripts import architecture
from tests.helpers import ROOT


@pytest.fixture(scope="module")
def rooms():
    return architecture.rooms()


def test_no_room_imports_one_that_imports_it(rooms):
    assert architecture.cycle(rooms) == []


def test_a_ring_of_imports_is_named():
    assert architecture.cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_the_picture_is_of_these_imports(rooms):
    with open(architecture.PICTURE, encoding="utf-8") as file:
        assert file.read() == architecture.draw(rooms), "draw it again: python docs/scripts/architecture.py"


def test_every_room_and_every_file_that_the_page_names_is_there(rooms):
    with open(os.path.join(ROOT, "docs", "architecture.md"), encoding="utf-8") as file:
        text = file.read()
    named = re.findall(r"`((?:edge_runtime|train|convert|benchmarks)/[\w/]*(?:\.py)?)`", text)
    assert [name for name in named if not os.path.exists(os.path.join(ROOT, name))] == []
    folders = {"%s/%s" % tuple(room.split(".")) for room in rooms if "." in room and not room.endswith(".ground")}
    missing = [folder for folder in sorted(folders) if "`%s" % folder not in text]
    assert missing == [], "a room that the page does not explain"
