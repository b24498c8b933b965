"""Glob patterns as sources."""

import glob
import os

import pytest

from edge_runtime.errors import UsageError
from edge_runtime.sources import registry
from tests.edge_runtime.sources.helpers import names_of, problems_of

NO_PHOTOS = ("notes.txt", "photo.jpg.bak")  # of those in folder; the second by its (missing) first bytes


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
