"""How good the labels are: accuracy, macro-F1, per class."""

import typing

import numpy as np

from edge_runtime.requirements import require

ClassScore = typing.NamedTuple(
    "ClassScore",
    [("label", str), ("precision", float), ("recall", float), ("f1", float), ("photos", int)],
)


def score(truth, predicted, class_names):
    """Scores labels against the truth.

    Args:
        truth, predicted: sequences of class names, of equal length; a prediction may be "" (unreadable photo), which
            is wrong like any other wrong label.
        class_names: all classes, in the order of the table.

    Returns:
        (accuracy, macro-F1, [ClassScore]): each 0..1. Macro-F1 is the mean F1 of the classes that have true photos
        or were predicted, as scikit-learn's f1_score(average="macro") computes it. The table has those classes.
    """
    sklearn = require("sklearn.metrics")
    truth, predicted = np.asarray(truth, object), np.asarray(predicted, object)
    occurring = set(truth) | set(predicted)
    labels = [name for name in class_names if name in occurring]
    precision, recall, f1, photos = sklearn.precision_recall_fscore_support(
        truth, predicted, labels=labels, average=None, zero_division=0
    )
    table = [
        ClassScore(*row)
        for row in zip(labels, map(float, precision), map(float, recall), map(float, f1), photos.tolist())
    ]
    return float(np.mean(truth == predicted)), float(np.mean(f1)) if labels else 0.0, table


def format_table(table):
    """Returns the per-class table as text, worst F1 first."""
    width = max([len(row.label) for row in table] + [5])
    lines = ["%-*s  precision  recall     F1  photos" % (width, "class")]
    for row in sorted(table, key=lambda row: row.f1):
        lines.append(
            "%-*s  %9.3f  %6.3f  %5.3f  %6d" % (width, row.label, row.precision, row.recall, row.f1, row.photos)
        )
    return "\n".join(lines)
