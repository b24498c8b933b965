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
    root: typing.Optional[Root] = None  # what it is read from, see edge_runtime.sources.storage.reason_of


Problem = typing.NamedTuple("Problem", [("file", str), ("what", str)])


# Pictures that phones, cameras and scanners make and that nothing here decodes.
_OTHER_SUFFIXES = formats.RAW_SUFFIXES + (".jp2", ".jxl")


def read_labels(source, images_folder=None, warnings=None):
    """Reads labelled photos and sets aside rows that cannot be used.

    Args:
        source: table with the columns `file` and `label`, or a folder of class folders (the label is the folder's
            name relative to source, so that nested classes are told apart).
        images_folder: where a table's file names start (default: the table's folder).
        warnings: list that one about a TSV that is not UTF-8 is added to (train/data/warnings.py), or None.

    Returns:
        (photos, problems): lists of Photo and Problem. No photo was opened yet.

    Raises:
        UsageError: the source cannot be read, or a table lacks a column. StorageLost: it went away on the way.
    """
    rows, reasons = [], []
    if os.path.isdir(source):
        why_no_class: typing.Dict[str, str] = {}
        items = registry.open_source(source)
        for item in items:
            label = os.path.dirname(item.name)
            rows.append(Photo(item.name, item.path, label, item.root))
            if label not in why_no_class:
                why_no_class[label] = _why_no_class(source, label)
            reasons.append(item.problem or why_no_class[label])
        others = _other_pictures(source)
        for name in others:
            rows.append(Photo(name, os.path.join(source, name), os.path.dirname(name)))
            reasons.append(f"{os.path.splitext(name)[1]} is no format that can be read; convert it to JPEG or PNG")
        unnamed = items.passed_over - collections.Counter(suffix_of(name) for name in others)
        if unnamed:
            say(f"{source}: {passed_over_text(unnamed)}")
    elif not os.path.lexists(source):
        raise UsageError(f"{source}: no such table or folder")
    else:
        folder = table.images_folder_of(source, images_folder)
        undecoded = None
        for row, path, root in table.table_rows(source, folder, need_label=True):
            rows.append(Photo(row.file or f"line {row.line}", path, row.label, root))
            reasons.append(row.problem)
            if undecoded is None and is_undecoded(row.label, row.file, rows[-1].path):
                undecoded = row
        if undecoded and warnings is not None:
            warnings.append(of_encoding(source, undecoded))
    listed, problems = partition(rows, reasons)
    photos, repeated = partition(listed, repeats(listed))
    return photos, problems + repeated


def _why_no_class(source, label):
    """Returns why photos in the folder source/label have no label, "" where they have: the folder's name."""
    parts = label.split("/")
    if not label:
        return "lies in no class folder"
    places = (os.path.join(source, *parts[: depth + 1]) for depth in range(len(parts)))
    return "lies in a bundle" if any(map(manifest.is_bundle, places)) else ""


def labels_as_text(labels):
    """Returns labels as text, sorted, for a message."""
    return ", ".join(printable(label) for label in sorted(labels))


def _other_pictures(folder):
    """Returns the names of pictures below a folder in formats that are not read, relative to it and sorted."""
    files = (path for path, kind, _ in listing.walk(folder) if kind == listing.FILE)
    return sorted(os.path.relpath(path, folder) for path in files if path.lower().endswith(_OTHER_SUFFIXES))


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
    """Yields a reason per photo: one listed twice counts once, one under two labels is not to be trusted at all."""
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
