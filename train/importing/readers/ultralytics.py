"""What ultralytics writes into the metadata of an ONNX file: the task, the names of the classes, the size.

Every value is the text of a Python value. It is read as a literal, never evaluated.
"""

import ast

from edge_runtime.errors import UsageError
from edge_runtime.text import printable
from train.importing import labels
from train.importing.original import Declared

_TASKS = {"detect": "a detector", "segment": "a segmentation network", "pose": "a pose network", "obb": "a detector"}


def is_theirs(metadata):
    """Tells whether a file's metadata, {name: text}, is that of ultralytics."""
    return {"task", "names", "imgsz"} <= set(metadata)


def said(path, metadata):
    """Returns (kind, class names or None, Declared) by a file's metadata, {name: text}.

    Raises:
        UsageError: it is no classifier, or the metadata cannot be read.
    """
    task = metadata["task"]
    if task != "classify":
        raise UsageError(
            f"{path}: is {_TASKS.get(task, 'no classifier')} of ultralytics (task {printable(task)}); a classifier is "
            "wanted: one whose name ends in -cls"
        )
    source = f"{path}, its metadata"
    names = labels.names_of_mapping(metadata["names"], source) if metadata["names"] else None
    try:
        height, width = ast.literal_eval(metadata["imgsz"])
        height, width = int(height), int(width)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise UsageError(f"{source}: imgsz: expected [height, width], got {printable(metadata['imgsz'][:80])}")
    # Since 8.1: Pillow, the shorter side to imgsz, centre crop, 0..1. 8.0 cut the centre out first, which is the same
    # part of the photo.
    declared = Declared(
        source="ultralytics' metadata",
        resize="crop",
        shorter_side=max(height, width),
        filter="bilinear",
        channels="RGB",
        mean=(0.0, 0.0, 0.0),
        std=(255.0, 255.0, 255.0),
        height=height,
        width=width,
    )
    return "ultralytics classifier", names, declared
