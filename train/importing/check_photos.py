"""The photos of --check: with a true class, or without."""

import collections
import os
import typing

from edge_runtime.console import say
from edge_runtime.errors import UsageError
from edge_runtime.sources import registry, table
from edge_runtime.text import printable
from train.data.labels import Problem, labels_as_text

_SHOWN = 10


def read_check(source, images_folder, class_names):
    """Returns the photos that an import is checked on.

    Args:
        source: a table with the column `file` and perhaps `label`, a folder of class folders, or a folder of photos.
        images_folder: where a table's file names start (default: the table's folder).
        class_names: of the model.

    Returns:
        (photos, problems): a list of (path, index of the true class or None where it has no label), and a list of
        train.data.labels.Problem of those that are left out: rows without a file, labels that the model does not have.

    Raises:
        UsageError: the source cannot be read, has no photos, or has labels of which the model has none.
    """
    if not os.path.lexists(source):
        raise UsageError(f"--check {source}: no such table or folder")
    rows = _rows_of_folder(source) if os.path.isdir(source) else _rows_of_table(source, images_folder)
    index_of = {name: index for index, name in enumerate(class_names)}
    labels = collections.Counter(label for _, _, label, problem in rows if label and not problem)
    unknown = sorted(label for label in labels if label not in index_of)
    if labels and len(unknown) == len(labels):
        if os.path.isdir(source):
            say(
                f"--check {source}: its folders are not named like classes of the model: its photos count as unlabelled"
            )
            rows = [(name, path, "", problem) for name, path, _, problem in rows]
        else:
            more = " and more" if len(class_names) > _SHOWN else ""
            raise UsageError(
                f"--check {source}: none of its labels is a class of the model. It has "
                f"{labels_as_text(unknown[:_SHOWN])}; the model has {labels_as_text(class_names[:_SHOWN])}{more}. "
                "Give the names with --labels as the table has them"
            )
    photos: typing.List[typing.Tuple[str, typing.Optional[int]]] = []
    problems = []
    for name, path, label, problem in rows:
        if not problem and label and label not in index_of:
            problem = f"label {printable(label)!r} is no class of the model"
        if problem:
            problems.append(Problem(name, problem))
        else:
            photos.append((path, index_of.get(label)))
    if not photos:
        raise UsageError(
            f"--check {source}: no photo in it can be used" + (f": {problems[0].what}" if problems else "")
        )
    return photos, problems


def _rows_of_folder(source):
    """Returns (name, path, label or "", problem or "") of each photo; the label is the name of its folder."""
    return [(item.name, item.path, os.path.dirname(item.name), item.problem) for item in registry.open_source(source)]


def _rows_of_table(source, images_folder):
    folder = table.images_folder_of(source, images_folder)
    return [
        (row.file or f"line {row.line}", path, row.label, row.problem)
        for row, path, _ in table.table_rows(source, folder)
    ]
