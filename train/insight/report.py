"""What an evaluation found, gathered and written: the files of FILES, evaluation.html above all."""

import collections
import json
import os
import shlex
import typing
import unicodedata

import numpy as np

from edge_runtime import files
from edge_runtime.classifier import Prediction
from edge_runtime.console import say
from edge_runtime.engines import selection
from edge_runtime.errors import ImageError, PicnicError
from edge_runtime.machine import cpu, libraries
from edge_runtime.machine.libraries import require
from edge_runtime.photos import read, spec
from edge_runtime.results import text_formats
from edge_runtime.results.rows import columns_of, row_of
from edge_runtime.text import plain_json, printable
from train.insight import heat, metrics, pages

FILES = ("evaluation.json", "per_class.tsv", "predictions.tsv", "evaluation.html")

_PAIRS, _EXAMPLES = 12, 3  # of confused classes on the page, and of photos of each
_LOSSES = 12  # photos with heat maps
_PAGE_PROBLEMS = 200  # photos that were not scored
_SIDE = 200  # pixels of a small picture
_THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # in the page's table
_PLOT = (4.0, 3.2)  # inches; two stand beside the table of thresholds
_GREY, _BLUE, _ORANGE, _GREEN = "#808890", "#3b82d6", "#e07b39", "#2f9e6b"  # read on light and on dark
_CURVES = (
    ("loss", (("loss", "training", _BLUE), ("val_loss", "validation", _ORANGE))),
    (
        "accuracy, macro-F1",
        (
            ("accuracy", "accuracy, training", _BLUE),
            ("val_accuracy", "accuracy, validation", _ORANGE),
            ("val_macro_f1", "macro-F1, validation", _GREEN),
        ),
    ),
)

Matrix = typing.NamedTuple(
    "Matrix",
    [
        ("labels", list),  # the classes that occur, as truth or as answer
        ("counts", np.ndarray),  # int [true, predicted]
        ("cell", int),  # pixels of a cell's side
        ("margin", int),  # pixels for the labels
    ],
)


def check_requirements():
    """Raises MissingRequirement when what the page is made with is not installed."""
    require("jinja2")
    require("matplotlib")


def figures(bundle, photos, probabilities, engine_name, set_aside=0, trained_on=None):
    """Scores a bundle's answers.

    Args:
        bundle: open edge_runtime.bundle.reading.Bundle.
        photos: list of train.data.labels.Photo, at least one. A label that the bundle does not know counts as a wrong
        answer. probabilities: float32 [photos, classes of the bundle].
        engine_name: what gave the answers.
        set_aside: how many photos could not be scored.
        trained_on: how many of the photos the bundle was trained on; None where that is not known.

    Returns:
        a dict of plain values, the document of `evaluate --json`.
    """
    names, truth, predicted = _names_of(bundle, photos, probabilities)
    accuracy, macro_f1, table = metrics.score(truth, predicted, names)
    accuracy_interval, macro_f1_interval = metrics.bootstrap_intervals(truth, predicted, names)
    indices = _indices(bundle, photos)
    return {
        "bundle_id": bundle.id,
        "engine": engine_name,
        "accuracy": accuracy,
        "accuracy_interval": list(accuracy_interval),
        "macro_f1": macro_f1,
        "macro_f1_interval": list(macro_f1_interval),
        "expected_calibration_error": metrics.expected_calibration_error(probabilities, indices),
        "coverage": [dict(row._asdict()) for row in metrics.coverage(probabilities, indices)],
        "photos": len(photos),
        "photos_trained_on": trained_on,
        "set_aside": set_aside,
        "per_class": [dict(row._asdict()) for row in table],
        "machine": cpu.describe(),
    }


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
        bundle, photos, probabilities, engine_name: as `figures` takes them.
        augmented: rows of uint8 pictures [299, 299, 3] to show as augmented training photos; None for none.
        results: what `figures` returned for this bundle, and after it for others on the same photos, with the keys that
            train.insight.evaluate adds; {"bundle", "error"} for one that failed. None where training asks: the figures
            are then those of its own validation.
        provenance: (what, value) pairs of text, shown where the page says how to reproduce it.
        others: (name, Bundle) of those that it is compared with.
        problems: train.data.labels.Problem of each photo that was not scored; predictions.tsv has them at its end.

    Raises:
        MissingRequirement: see check_requirements. UsageError: the folder cannot be written.
    """
    validated = results is None
    results = results or [figures(bundle, photos, probabilities, engine_name)]
    table = [metrics.ClassScore(**row) for row in results[0]["per_class"]]
    page = dict(
        _page(bundle, photos, probabilities, engine_name, table),
        result=results[0],
        results=results,
        scored=[one for one in results if "error" not in one],
        f1_by_class=_f1_by_class(results),
        validated=validated,
        augmented=[[pages.picture(variant, _SIDE) for variant in row] for row in augmented or []],
        provenance=list(provenance) + _provenance(bundle, results[0], others),
        problems=problems[:_PAGE_PROBLEMS],
        problem_count=len(problems),
    )
    top = min(3, len(bundle.class_names))
    with files.named(f"--report {folder}"):
        os.makedirs(folder, exist_ok=True)
        document = results[0] if len(results) == 1 else {"bundles": results}
        files.write_json(os.path.join(folder, "evaluation.json"), plain_json(document))
        with files.atomic_file(os.path.join(folder, "per_class.tsv")) as file:
            write = text_formats.row_writer(file, metrics.ClassScore._fields, ".tsv")
            for row in table:
                write(row)
        with files.atomic_file(os.path.join(folder, "predictions.tsv")) as file:
            write = text_formats.row_writer(file, ["truth"] + columns_of(top), ".tsv")
            for photo, own in zip(photos, probabilities):
                write([photo.label] + row_of(Prediction(photo.file, bundle.class_names, own), top))
            for problem in problems:
                write([""] + row_of(Prediction(problem.file, bundle.class_names, None, problem.what), top))
        pages.write_page(os.path.join(folder, "evaluation.html"), "evaluate.html", **page)
    say(f"written: {os.path.join(folder, ', '.join(FILES))}")


def _names_of(bundle, photos, probabilities):
    """Returns (all classes, the photos' true ones, the predicted ones), by name."""
    truth = [photo.label for photo in photos]
    names = bundle.class_names + sorted(set(truth) - set(bundle.class_names))
    return names, truth, [names[best] for best in probabilities.argmax(axis=1)]


def _indices(bundle, photos):
    """Returns int [photos]: where the labels stand in the bundle's outputs, -1 for one that it does not know."""
    index = {name: position for position, name in enumerate(bundle.class_names)}
    return np.array([index.get(photo.label, -1) for photo in photos], int)


def _page(bundle, photos, probabilities, engine_name, table):
    """Returns what the page shows of one bundle's answers."""
    names, truth, predicted = _names_of(bundle, photos, probabilities)
    indices = _indices(bundle, photos)
    mistaken: typing.Dict[str, typing.Counter[str]] = collections.defaultdict(collections.Counter)
    for true, found in zip(truth, predicted):
        if true != found:
            mistaken[true][found] += 1
    facts = bundle.manifest.get("metrics") or {}
    losses, no_heat = _top_losses(bundle, photos, probabilities, indices)
    coverage = metrics.coverage(probabilities, indices)
    return {
        "title": f"Evaluation of {printable(os.path.basename(os.path.abspath(bundle.path)))}",
        "engine_name": engine_name,
        "bundle_id": bundle.id,
        "class_count": len(bundle.class_names),
        "table": sorted(table, key=lambda row: row.f1),
        "mistaken": {true: row.most_common() for true, row in mistaken.items()},
        "matrix": _matrix(truth, predicted, names),
        "pairs": _confused_pairs(photos, probabilities, truth, predicted, mistaken),
        "losses": losses,
        "no_heat": no_heat,
        "reliability": _reliability_plot(metrics.reliability_bins(probabilities, indices)),
        "coverage_plot": _coverage_plot(coverage),
        "coverage": metrics.coverage(probabilities, indices, _THRESHOLDS),
        "calibration": facts.get("calibration"),
        "curves": _curves(facts.get("history") or {}),
        "refitted": (bundle.manifest.get("training") or {}).get("refitted"),
        "engine_record": _engine_record(bundle, engine_name),
        "printable": printable,
    }


def _f1_by_class(results):
    """Returns (class, [F1 of every bundle that was scored, None where the class does not occur]) pairs."""
    scores = [{row["label"]: row["f1"] for row in one["per_class"]} for one in results if "error" not in one]
    return [(label, [one.get(label) for one in scores]) for label in sorted(set().union(*scores))]


def _matrix(truth, predicted, names):
    occurring = set(truth) | set(predicted)
    labels = [name for name in names if name in occurring]
    index = {name: position for position, name in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), int)
    np.add.at(counts, ([index[name] for name in truth], [index[name] for name in predicted]), 1)
    longest = max(sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in name) for name in labels)
    # Cells as large as the page is wide, and never too small for a number; from there on it scrolls.
    return Matrix(labels, counts, int(np.clip(900 // len(labels), 13, 44)), 12 + 13 * min(longest, 40) // 2)


def _confused_pairs(photos, probabilities, truth, predicted, mistaken):
    """Returns the pairs of classes that are confused most, as dicts with pictures of both."""
    counts = {(true, found): count for true, row in mistaken.items() for found, count in row.items()}
    confidence = probabilities.max(axis=1)
    numbers = np.arange(len(photos))[np.argsort(-confidence, kind="stable")]  # the surest first
    result = []
    for true, found in sorted(counts, key=lambda pair: (-counts[pair], pair))[:_PAIRS]:
        wrong = [number for number in numbers if truth[number] == true and predicted[number] == found]
        typical = [number for number in numbers if truth[number] == predicted[number] == found][:1]
        result.append(
            {
                "truth": true,
                "predicted": found,
                "count": counts[true, found],
                "photos": truth.count(true),
                "wrong": [_small(photos[number], confidence[number]) for number in wrong[:_EXAMPLES]],
                "typical": [_small(photos[number], confidence[number]) for number in typical],
            }
        )
    return result


def _top_losses(bundle, photos, probabilities, indices):
    """Returns (the photos whose true class got the least, as dicts; why they have no heat maps, "" if they have)."""
    known = np.flatnonzero(indices >= 0)
    own = probabilities[known, indices[known]].astype(np.float64)
    order = np.argsort(own, kind="stable")[:_LOSSES]
    if not len(order):
        return [], ""
    numbers, own = known[order], own[order]
    predicted = probabilities[numbers].argmax(axis=1)
    pixels = np.stack([_read(photos[number].path) for number in numbers])
    try:
        # Both at once: what spoke for the answer, and what spoke for the truth.
        maps = heat.heat_maps(bundle, np.concatenate([pixels, pixels]), np.concatenate([predicted, indices[numbers]]))
        no_heat = ""
    except PicnicError as error:
        maps, no_heat = None, str(error)
    result = []
    for place, number in enumerate(numbers):
        pictures = [("the photo", pixels[place])]
        if maps is not None:
            pictures.append(("for the answer", heat.overlay(pixels[place], maps[place])))
            if predicted[place] != indices[number]:
                pictures.append(("for the truth", heat.overlay(pixels[place], maps[len(numbers) + place])))
        result.append(
            {
                "file": photos[number].file,
                "truth": photos[number].label,
                "predicted": bundle.class_names[predicted[place]],
                "confidence": float(probabilities[number].max()),
                "probability": own[place],
                "loss": float(-np.log(max(own[place], np.finfo(np.float32).tiny))),
                "pictures": [(what, pages.picture(picture, _SIDE)) for what, picture in pictures],
            }
        )
    return result, no_heat


def _small(photo, confidence):
    return {"file": photo.file, "picture": pages.picture(_read(photo.path), _SIDE), "confidence": float(confidence)}


def _read(path):
    """Returns a photo as the network sees it; grey where it can no longer be read."""
    try:
        return read.read_image(path)
    except ImageError:
        return np.full(spec.INPUT_SPEC["shape"], 128, np.uint8)


def _reliability_plot(bins):
    figure = pages.new_figure(*_PLOT)
    axes = figure.axes[0]
    centres = [(row.low + row.high) / 2 for row in bins]
    photos = sum(row.photos for row in bins)
    width = 0.9 / len(bins)
    axes.bar(centres, [row.photos / photos for row in bins], width, color=_GREY, alpha=0.3, label="share of photos")
    axes.plot([0, 1], [0, 1], "--", color=_GREY, label="as sure as right")
    filled = [row for row in bins if row.photos]
    axes.plot([row.confidence for row in filled], [row.accuracy for row in filled], "o-", color=_BLUE, label="measured")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
    axes.legend(loc="upper left", frameon=False, labelcolor=_GREY, fontsize=9)
    return pages.svg(figure)


def _coverage_plot(rows):
    figure = pages.new_figure(*_PLOT)
    axes = figure.axes[0]
    answered = [row for row in rows if row.accuracy is not None]
    axes.plot([row.coverage for row in answered], [row.accuracy for row in answered], "o-", ms=4, color=_BLUE)
    for row in answered:
        if round(100 * row.threshold) in (0, 30, 50, 70, 90):
            place = (row.coverage, row.accuracy)
            axes.annotate(f"{row.threshold:.1f}", place, (4, 5), textcoords="offset points", color=_GREY, fontsize=9)
    axes.set(xlim=(0, 1.03), xlabel="share of photos answered", ylabel="accuracy of the answers")
    axes.margins(y=0.15)
    return pages.svg(figure)


def _curves(history):
    """Returns (stage, [svg]) for every stage of a training that left curves."""
    result = []
    stages = (("The head", history), ("Fine-tuning", history.get("fine_tune")), ("Refit", history.get("refit")))
    for stage, values in stages:
        plots = [_curve(values or {}, name, series) for name, series in _CURVES]
        if any(plots):
            result.append((stage, [plot for plot in plots if plot]))
    return result


def _curve(values, name, series):
    drawn = [(values[key], label, colour) for key, label, colour in series if values.get(key)]
    if not drawn:
        return None
    epochs = len(values.get("loss") or drawn[0][0])
    figure = pages.new_figure(*_PLOT)
    axes = figure.axes[0]
    for numbers, label, colour in drawn:
        first = 1 + epochs - len(numbers)  # 0 where there is a value from before the first epoch
        axes.plot(
            range(first, first + len(numbers)),
            numbers,
            "o-" if len(numbers) < 12 else "-",
            color=colour,
            label=label,
            ms=4,
        )
    axes.set(xlabel="epoch", ylabel=name)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, labelcolor=_GREY, fontsize=9)
    return pages.svg(figure)


def _engine_record(bundle, engine_name):
    """Returns an engine's engine.json as text, "" for what was not made by `convert`."""
    records = [info.record for info in selection.list_engines(bundle) if info.name == engine_name and info.record]
    return json.dumps(records[0], indent=2, sort_keys=True) if records else ""


def _how_it_was_trained(bundle):
    training = bundle.manifest.get("training") or {}
    rows = [("bundle id", bundle.id), ("bundle made", bundle.manifest.get("created"))]
    if training.get("command"):
        rows.append(("trained with", " ".join(shlex.quote(word) for word in training["command"])))
    rows += [
        (what, training.get(key))
        for what, key in (
            ("weights", "weights"),
            ("seed", "seed"),
            ("training photos", "photos"),
            ("identity of photos and split", "photos_id"),
        )
    ]
    rows.append(("versions in training", _listed(training.get("versions") or {})))
    rows.append(("machine of the training", _machine(training.get("machine") or {})))
    return [(what, str(value)) for what, value in rows if value not in (None, "")]


def _provenance(bundle, result, others):
    """Returns (what, value) pairs of text: how a bundle came to be, where it was evaluated, how others came to be."""
    versions = (bundle.manifest.get("training") or {}).get("versions") or {}
    here = {name: libraries.library_version(name) for name in sorted(set(versions) | {"picnic-edge"})}
    rows = [("versions here", _listed(here)), ("machine here", _machine(result["machine"]))]
    rows = _how_it_was_trained(bundle) + [(what, value) for what, value in rows if value]
    return rows + [(f"{name}: {what}", value) for name, own in others for what, value in _how_it_was_trained(own)]


def _listed(versions):
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()) if version)


def _machine(facts):
    """Returns a machine of edge_runtime.machine.cpu.describe in a line."""
    parts = [facts.get("cpu"), f"{facts['cores']} cores" if facts.get("cores") else ""]
    parts += [facts.get("system"), f"Python {facts['python']}" if facts.get("python") else ""]
    return ", ".join(part for part in parts if part)
