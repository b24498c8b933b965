"""What sources yield, and what the folder `mixed` (a fixture in conftest.py) holds."""

import pytest

from edge_runtime.errors import PhotoMissing
from edge_runtime.photos.read import read_image
from edge_runtime.photos.spec import INCEPTION_V3
from edge_runtime.sources import registry, storage

LEFT_OUT = ["._a.jpg", ".hidden.jpg", ".DS_Store", "Thumbs.db", "desktop.ini"]
LEFT_OUT += ["out.tsv.partial", "out.tsv.partial.json", "out.tsv.partial.lock", "out.parquet.partial.parquet"]
LEFT_OUT += ["@eaDir/a.jpg", "__MACOSX/a.jpg", ".ipynb_checkpoints/a.jpg", "$RECYCLE.BIN/a.jpg", "lost+found/a.jpg"]
LEFT_OUT += [".thumbs/a.jpg", "System Volume Information/a.jpg"]

MIXED = ["IMG_1", "IMG_2.JPG.1", "a.jpg", "b.jpg~", "c.xyz", "in/d.JPG"]
MIXED_PASSED_OVER = {".mp4": 1, ".mov": 1, ".txt": 1, ".dng": 1, ".zip": 1, ".tsv": 1, "": 1, ".weird": 1}


def names_of(source, images_folder=None):
    return [item.name for item in registry.open_source(str(source), images_folder)]


def problems_of(source, images_folder=None):
    """Returns {name: problem} of the items that are not even tried."""
    return {item.name: item.problem for item in registry.open_source(str(source), images_folder) if item.problem}


def missing_reason(item):
    """What the row of an Item says whose file is not there."""
    with pytest.raises(PhotoMissing) as missing:
        read_image(item.path, INCEPTION_V3)
    return storage.reason_of(item, missing.value)
