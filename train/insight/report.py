"""The figures of an evaluation, and the files of FILES that hold them."""

import os

from edge_runtime import files
from edge_runtime.classifier import Prediction
from edge_runtime.console import say
from edge_runtime.machine import cpu
from edge_runtime.machine.libraries import require
from edge_runtime.results import text_formats
from edge_runtime.results.rows import columns_of, row_of
from edge_runtime.text import plain_json
from train.insight import evaluation_page, pages
from train.model import metrics

FILES = ("evaluation.json", "per_class.tsv", "predictions.tsv", "evaluation.html")
_TOP = 3  # best labels of a photo in predictions.tsv


def check_requirements():
    """Raises MissingRequirement when what the page is made with is not installed."""
    require("jinja2")
    require("matplotlib")


def figures(bundle, photos, probabilities, engine_name, set_aside=0, trained_on=None):
    """Scores a bundle's answers.

    Args:
        bundle: open edge_runtime.bundle.reading.Bundle.
        photos: list of train.data.labels.Photo, at least one. A label that the bundle does not know counts as a wrong
            answer.
        probabilities: float32 [photos, classes of the bundle].
        engine_name: what gave the answers.
        set_aside: how many photos could not be scored.
        trained_on: how many of the photos the bundle was trained on; None where that is not known.

    Returns:
        a dict of plain values, the document of `evaluate --json`.
    """
    answers = metrics.answers_of(bundle.class_names, [photo.label for photo in photos], probabilities)
    accuracy, macro_f1, table = metrics.score(answers.truth, answers.predicted, answers.class_names)
    intervals = metrics.bootstrap_intervals(answers.truth, answers.predicted, answers.class_names)
    return {
        "bundle_id": bundle.id,
        "engine": engine_name,
        "accuracy": accuracy,
        "accuracy_interval": list(intervals[0]),
        "macro_f1": macro_f1,
        "macro_f1_interval": list(intervals[1]),
        "expected_calibration_error": metrics.expected_calibration_error(probabilities, answers.truth_index),
        "coverage": [dict(row._asdict()) for row in metrics.coverage(probabilities, answers.truth_index)],
        "photos": len(photos),
        "photos_trained_on": trained_on,
        "set_aside": set_aside,
        "per_class": [dict(row._asdict()) for row in table],
        "machine": cpu.describe(),
    }


def prediction_table(bundle, photos, probabilities, problems=()):
    """Returns what predictions.tsv holds, as (names of the columns, rows): the photos in order, then the problems.

    Args:
        bundle: edge_runtime.bundle.reading.Bundle.
        photos: list of train.data.labels.Photo.
        probabilities: float32 [photos, classes of the bundle].
        problems: list of train.data.labels.Problem, photos that were not scored.
    """
    top = min(_TOP, len(bundle.class_names))
    rows = [
        [photo.label] + row_of(Prediction(photo.file, bundle.class_names, own), top)
        for photo, own in zip(photos, probabilities)
    ]
    rows += [
        [""] + row_of(Prediction(problem.file, bundle.class_names, None, problem.what), top) for problem in problems
    ]
    return ["truth"] + columns_of(top), rows


def write_report(
    folder,
    bundle,
    photos,
    probabilities,
    engine_name,
    augmented=None,
    results=None,
    provenance=(),
    others=(),
    problems=(),
):
    """Writes FILES into a folder, each whole or not at all.

    Args:
        folder: made where it is not there.
        bundle: open edge_runtime.bundle.reading.Bundle.
        photos: list of train.data.labels.Photo, at least one. A label that the bundle does not know counts as a wrong
            answer.
        probabilities: float32 [photos, classes of the bundle].
        engine_name: what gave the answers.
        augmented: rows of uint8 pictures [height, width, 3] to show as augmented training photos; None for none.
        results: what `figures` returned for this bundle, and after it for others on the same photos, with what
            train.insight.evaluate.compare adds; {"bundle", "error"} for one that failed. None in training: the figures
            are then those of its own validation.
        provenance: (what, value) pairs of text, shown where the page says how to reproduce it.
        others: (name, Bundle) of those that it is compared with.
        problems: train.data.labels.Problem of each photo that was not scored; predictions.tsv has them at its end.

    Raises:
        MissingRequirement: see check_requirements. UsageError: the folder cannot be written.
    """
    is_validation = results is None
    results = results or [figures(bundle, photos, probabilities, engine_name)]
    values = evaluation_page.values_of(
        bundle,
        photos,
        probabilities,
        engine_name,
        results,
        is_validation=is_validation,
        augmented=augmented or [],
        provenance=provenance,
        others=others,
        problems=problems,
    )
    scores = [[row[name] for name in metrics.ClassScore._fields] for row in results[0]["per_class"]]
    predictions = prediction_table(bundle, photos, probabilities, problems)
    with files.named(f"--report {folder}"):
        os.makedirs(folder, exist_ok=True)
        document = results[0] if len(results) == 1 else {"bundles": results}
        files.write_json(os.path.join(folder, "evaluation.json"), plain_json(document))
        _write_table(os.path.join(folder, "per_class.tsv"), metrics.ClassScore._fields, scores)
        _write_table(os.path.join(folder, "predictions.tsv"), *predictions)
        pages.write_page(os.path.join(folder, "evaluation.html"), "evaluate.html", **values)
    say(f"written: {os.path.join(folder, ', '.join(FILES))}")


def _write_table(path, columns, rows):
    with files.atomic_file(path) as file:
        write = text_formats.tsv_writer(file, columns)
        for row in rows:
            write(row)
