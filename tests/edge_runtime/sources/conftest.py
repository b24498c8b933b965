"""Fixtures of the tests of sources."""

import pytest

from tests.edge_runtime.sources.videos import numbered, write_video


@pytest.fixture
def clip(tmp_path):
    return write_video(tmp_path / "clip.avi", [numbered(number) for number in range(40)])
