"""Labelled photos: read from a table or a folder of class folders."""

import collections
import os
import typing

from edge_runtime.bundle import manifest
from edge_runtime.console import say
from edge_runtime.errors import UsageError
from edge_runtime.files import suffix_of
from edge_runtime.photos import formats
from edge_runtime.sources import listing, registry, table
from edge_runtime.sources.items import Root
from edge_runtime.sources.names import passed_over_text
from edge_runtime.text import printable
from train.data.warnings import is_undecoded, of_encoding


class Photo(typing.NamedTuple):
    """A labelled photo."""

    file: str
    path: str
    label: str
    root: typing.Optional[Root] = None  # what it is read from; edge_runtime.sources.storage.reason_of checks it


class Problem(typing.NamedTuple):
    """Why a photo, or a row of a table, cannot be used."""

    file: str
    what: str


# Pictures from phones, cameras and scanners that nothing here decodes.
_OTHER_SUFFIXES = formats.RAW_SUFFIXES + (".jp2", ".jxl")


def read_labels(source, images_folder=None, warnings=None):
    """Reads labelled photos and sets aside rows that cannot be used.

    Args:
        source: table with the columns `file` and `label`, or a folder of class folders (the label is the folder's
            name relative to source, which distinguishes nested classes).
        images_folder: where a table's file names start (default: the table's folder).
        warnings: list that a warning about a table that is not UTF-8 is added to (train/data/warnings.py), or None.

    Returns:
        (photos, problems): lists of Photo and Problem. No photo was opened yet.

    Raises:
        UsageError: the source cannot be read, or a table lacks a column. StorageLost: it disappeared meanwhile.
    """
    if os.path.isdir(source):
        rows, reasons = _rows_of_folder(source)
    elif os.path.lexists(source):
        rows, reasons, encoding_warnings = _rows_of_table(source, images_folder)
        if warnings is not None:
            warnings += encoding_warnings
    else:
        raise UsageError(f"{source}: no such table or folder")
    photos, problems = partition(rows, reasons)
    photos, repeated = partition(photos, repeats(photos))
    return photos, problems + repeated


def _rows_of_folder(source):
    """Returns (Photos, the reason against each or "") of a folder of class folders."""
    photos, reasons = [], []
    label_problems: typing.Dict[str, str] = {}
    items = registry.open_source(source)
    for item in items:
        label = os.path.dirname(item.name)
        photos.append(Photo(item.name, item.path, label, item.root))
        if label not in label_problems:
            label_problems[label] = _label_problem(source, label)
        reasons.append(item.problem or label_problems[label])
    others = _other_pictures(source)
    for name in others:
        photos.append(Photo(name, os.path.join(source, name), os.path.dirname(name)))
        reasons.append(f"{suffix_of(name)} is not a format that can be read; convert it to JPEG or PNG")
    ignored = items.passed_over - collections.Counter(suffix_of(name) for name in others)
    if ignored:
        say(f"{source}: {passed_over_text(ignored)}")
    return photos, reasons


def _label_problem(source, label):
    """Returns why photos in the folder source/label have no label; "" where they have: the folder's name."""
    if not label:
        return "is not in a class folder"
    parts = label.split("/")
    folders = (os.path.join(source, *parts[: depth + 1]) for depth in range(len(parts)))
    return "is in a bundle" if any(map(manifest.is_bundle, folders)) else ""


def _other_pictures(folder):
    """Returns the names of pictures below a folder in formats that are not read, relative to it and sorted."""
    files = (path for path, kind, _ in listing.walk(folder) if kind == listing.FILE)
    return sorted(os.path.relpath(path, folder) for path in files if path.lower().endswith(_OTHER_SUFFIXES))


def _rows_of_table(source, images_folder):
    """Returns (Photos, the reason against each or "", warnings about the table's encoding)."""
    photos, reasons = [], []
    warnings: typing.List[dict] = []
    folder = table.images_folder_of(source, images_folder)
    for row, path, root in table.table_rows(source, folder, need_label=True):
        photos.append(Photo(row.file or f"line {row.line}", path, row.label, root))
        reasons.append(row.problem)
        if not warnings and is_undecoded(row.label, row.file, path):
            warnings.append(of_encoding(source, row))
    return photos, reasons, warnings


def labels_as_text(labels):
    """Returns labels as text, sorted, for a message."""
    return ", ".join(printable(label) for label in sorted(labels))


def partition(photos, reasons):
    """Returns (photos without a reason against them, Problems of the others)."""
    good: typing.List[Photo] = []
    problems: typing.List[Problem] = []
    for photo, reason in zip(photos, reasons):
        if reason:
            problems.append(Problem(photo.file, reason))
        else:
            good.append(photo)
    return good, problems


def repeats(photos):
    """Yields a reason for each photo: one listed twice counts once, one under two labels is not used at all."""
    labels = collections.defaultdict(set)
    for photo in photos:
        labels[os.path.normpath(photo.path)].add(photo.label)
    seen = set()
    for photo in photos:
        path = os.path.normpath(photo.path)
        if len(labels[path]) > 1:
            yield f"is listed under several labels: {labels_as_text(labels[path])}"
        else:
            yield "is listed more than once: counted once" if path in seen else ""
        seen.add(path)
