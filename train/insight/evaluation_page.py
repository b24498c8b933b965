"""What evaluation.html shows: values for the template evaluate.html."""

import collections
import json
import os
import shlex
import typing
import unicodedata

import numpy as np

from edge_runtime.engines import selection
from edge_runtime.errors import ImageError, PicnicError
from edge_runtime.machine import libraries
from edge_runtime.photos import read
from edge_runtime.text import printable
from train.insight import heat, pages
from train.model import metrics

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


class Matrix(typing.NamedTuple):
    """A confusion matrix, as it is drawn."""

    labels: list  # the classes that occur, as truth or as answer
    counts: np.ndarray  # int [true, predicted]
    cell: int  # pixels of a cell's side
    margin: int  # pixels for the labels


def values_of(
    bundle, photos, probabilities, engine_name, results, is_validation, augmented, provenance, others, problems
):
    """Returns the values that the template needs.

    Args:
        bundle: open edge_runtime.bundle.reading.Bundle.
        photos: list of train.data.labels.Photo, at least one.
        probabilities: float32 [photos, classes of the bundle].
        engine_name: what gave the answers.
        results: what train.insight.report.figures returned for this bundle, then for others; {"bundle", "error"} for
            one that failed.
        is_validation: the photos are those that training was validated on.
        augmented: rows of uint8 pictures [height, width, 3].
        provenance: (what, value) pairs of text, shown before what is known of the bundle.
        others: (name, Bundle) of those that it is compared with.
        problems: train.data.labels.Problem of each photo that was not scored.
    """
    answers = metrics.answers_of(bundle.class_names, [photo.label for photo in photos], probabilities)
    mistaken: typing.Dict[str, typing.Counter[str]] = collections.defaultdict(collections.Counter)
    for true, predicted in zip(answers.truth, answers.predicted):
        if true != predicted:
            mistaken[true][predicted] += 1
    facts = bundle.manifest.get("metrics") or {}
    losses, heat_note = _top_losses(bundle, photos, probabilities, answers.truth_index)
    return {
        "title": f"Evaluation of {printable(os.path.basename(os.path.abspath(bundle.path)))}",
        "engine_name": engine_name,
        "bundle_id": bundle.id,
        "class_count": len(bundle.class_names),
        "result": results[0],
        "results": results,
        "scored": [one for one in results if "error" not in one],
        "f1_by_class": _f1_by_class(results),
        "is_validation": is_validation,
        "table": sorted(results[0]["per_class"], key=lambda row: row["f1"]),
        "mistaken": {true: row.most_common() for true, row in mistaken.items()},
        "matrix": _matrix(answers),
        "pairs": _confused_pairs(bundle.input_spec, photos, probabilities, answers),
        "losses": losses,
        "heat_note": heat_note,
        "has_heat": any(len(loss["pictures"]) > 1 for loss in losses),
        "reliability": _reliability_plot(metrics.reliability_bins(probabilities, answers.truth_index)),
        "coverage_plot": _coverage_plot(metrics.coverage(probabilities, answers.truth_index)),
        "coverage": metrics.coverage(probabilities, answers.truth_index, _THRESHOLDS),
        "calibration": facts.get("calibration"),
        "curves": _curves(facts.get("history") or {}),
        "augmented": [[pages.picture(variant, _SIDE) for variant in row] for row in augmented],
        "problems": problems[:_PAGE_PROBLEMS],
        "problem_count": len(problems),
        "refitted": (bundle.manifest.get("training") or {}).get("refitted"),
        "provenance": list(provenance) + _provenance(bundle, results[0], others),
        "engine_record": _engine_record(bundle, engine_name),
        "printable": printable,
    }


def _f1_by_class(results):
    """Returns pairs of a class and its F1 by every bundle that was scored, None where the class does not occur."""
    scores = [{row["label"]: row["f1"] for row in one["per_class"]} for one in results if "error" not in one]
    return [(label, [one.get(label) for one in scores]) for label in sorted(set().union(*scores))]


def _matrix(answers):
    occurring = set(answers.truth) | set(answers.predicted)
    labels = [name for name in answers.class_names if name in occurring]
    index = {name: position for position, name in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), int)
    np.add.at(counts, tuple([index[name] for name in column] for column in (answers.truth, answers.predicted)), 1)
    longest = max(sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in name) for name in labels)
    # Cells as large as the page is wide, and never too small for a number; from there on it scrolls.
    return Matrix(labels, counts, int(np.clip(900 // len(labels), 13, 44)), 12 + 13 * min(longest, 40) // 2)


def _confused_pairs(input_spec, photos, probabilities, answers):
    """Returns the pairs of classes that are confused most, as dicts with pictures of both."""
    confidence = probabilities.max(axis=1)
    by_pair = collections.defaultdict(list)  # {(true, predicted): numbers of photos, most confident first}
    for number in np.argsort(-confidence, kind="stable"):
        by_pair[answers.truth[number], answers.predicted[number]].append(number)
    confused = sorted((pair for pair in by_pair if pair[0] != pair[1]), key=lambda pair: (-len(by_pair[pair]), pair))
    return [
        {
            "truth": true,
            "predicted": predicted,
            "count": len(by_pair[true, predicted]),
            "photos": answers.truth.count(true),
            "wrong": [
                _small(input_spec, photos[number], confidence[number])
                for number in by_pair[true, predicted][:_EXAMPLES]
            ],
            "typical": [
                _small(input_spec, photos[number], confidence[number])
                for number in by_pair.get((predicted, predicted), [])[:1]
            ],
        }
        for true, predicted in confused[:_PAIRS]
    ]


def _top_losses(bundle, photos, probabilities, indices):
    """Returns the photos whose true class got the lowest probability, and what must be said of their heat maps.

    Args:
        indices: int [photos], of the true classes; photos with -1 are left out.

    Returns:
        (list of dict, text): the text says why they have none, or how they were made if not computed; else "".
    """
    known = np.flatnonzero(indices >= 0)
    own = probabilities[known, indices[known]].astype(np.float64)
    order = np.argsort(own, kind="stable")[:_LOSSES]
    if not len(order):
        return [], ""
    numbers, own = known[order], own[order]
    predicted = probabilities[numbers].argmax(axis=1)
    pixels = np.stack([_read(photos[number].path, bundle.input_spec) for number in numbers])
    try:
        # Both at once: what spoke for the answer, and what spoke for the truth.
        maps, places = heat.heat_maps(bundle, pixels, np.stack([predicted, indices[numbers]], axis=1))
        note = "" if places else f"The heat maps were measured by covering parts of the photo, {heat.RUNS} for each."
    except PicnicError as error:
        maps, note = None, f"Without heat maps: {error}"
    result = []
    for place, number in enumerate(numbers):
        pictures = [("the photo", pixels[place])]
        if maps is not None:
            pictures.append(("for the predicted class", heat.overlay(pixels[place], maps[place][0])))
            if predicted[place] != indices[number]:
                pictures.append(("for the true class", heat.overlay(pixels[place], maps[place][1])))
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
    return result, note


def _small(input_spec, photo, confidence):
    picture = pages.picture(_read(photo.path, input_spec), _SIDE)
    return {"file": photo.file, "picture": picture, "confidence": float(confidence)}


def _read(path, input_spec):
    """Returns a photo as the network sees it; grey where it can no longer be read."""
    try:
        return read.read_image(path, input_spec)
    except ImageError:
        return np.full(input_spec.shape, 128, np.uint8)


def _reliability_plot(bins):
    figure = pages.new_figure(*_PLOT)
    axes = figure.axes[0]
    centres = [(row.low + row.high) / 2 for row in bins]
    photos = sum(row.photos for row in bins)
    width = 0.9 / len(bins)
    axes.bar(centres, [row.photos / photos for row in bins], width, color=_GREY, alpha=0.3, label="share of photos")
    axes.plot([0, 1], [0, 1], "--", color=_GREY, label="perfectly calibrated")
    filled = [row for row in bins if row.photos]
    axes.plot(
        [row.confidence for row in filled], [row.accuracy for row in filled], "o-", color=_BLUE, label="this bundle"
    )
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
    axes.set(xlim=(0, 1.03), xlabel="share of photos labelled", ylabel="accuracy of these")
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


def _training(bundle):
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
    rows.append(("versions in training", _versions(training.get("versions") or {})))
    rows.append(("machine of the training", _machine(training.get("machine") or {})))
    return [(what, str(value)) for what, value in rows if value not in (None, "")]


def _provenance(bundle, result, others):
    """Returns (what, value) pairs of text: how a bundle came to be, where it was evaluated, how others came to be."""
    versions = (bundle.manifest.get("training") or {}).get("versions") or {}
    own = {name: libraries.library_version(name) for name in sorted(set(versions) | {"picnic-edge"})}
    rows = [
        ("versions in this evaluation", _versions(own)),
        ("machine of this evaluation", _machine(result["machine"])),
    ]
    rows = _training(bundle) + [(what, value) for what, value in rows if value]
    return rows + [(f"{name}: {what}", value) for name, one in others for what, value in _training(one)]


def _versions(versions):
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()) if version)


def _machine(facts):
    """Returns a machine of edge_runtime.machine.cpu.describe in a line."""
    parts = [facts.get("cpu"), f"{facts['cores']} cores" if facts.get("cores") else ""]
    parts += [facts.get("system"), f"Python {facts['python']}" if facts.get("python") else ""]
    return ", ".join(part for part in parts if part)
