"""How good bundles are on labelled photos: every bundle answers the same photos, then its answers are scored."""

import contextlib
import os
import time
import typing

import numpy as np

from edge_runtime import files
from edge_runtime.bundle.reading import Bundle
from edge_runtime.classifier import Classifier
from edge_runtime.console import progress, say
from edge_runtime.engines import record, selection
from edge_runtime.errors import PicnicError, UsageError
from edge_runtime.machine.libraries import require
from edge_runtime.sources.items import Item
from edge_runtime.text import printable
from train.data import checks, split
from train.data.labels import Problem, read_labels
from train.insight import report
from train.model import metrics

_BATCH = 8  # photos per call of the engine


class Evaluation(typing.NamedTuple):
    """What `evaluate` returns."""

    figures: dict  # the document of `picnic-edge evaluate --json`
    per_class: typing.Any  # pandas.DataFrame, a row per class
    predictions: typing.Any  # pandas.DataFrame, a row per photo


class Run(typing.NamedTuple):
    """One bundle's answers to all photos."""

    path: str  # of the bundle
    bundle: Bundle
    engine: record.EngineInfo
    predictions: list  # edge_runtime.classifier.Prediction, one per photo
    images_per_s: float  # from files to labels, in this run


class Scored(typing.NamedTuple):
    """One bundle's answers to the photos that count, and its figures."""

    run: Run
    probabilities: np.ndarray  # float32 [photos, classes]
    result: dict  # what report.figures returns, and how the bundle compares with others


class Comparison(typing.NamedTuple):
    """Bundles on the same photos."""

    photos: list  # Photo, those that count
    problems: list  # Problem, one for every photo that does not count
    ranked: list  # Scored, best first
    failures: list  # (path of a bundle, PicnicError) of those that could not be evaluated


def evaluate(bundle, labels, images_folder=None, engine="auto"):
    """Scores a bundle on labelled photos, for a notebook.

    Args:
        bundle: folder written by `picnic-edge train` or `import`.
        labels: table with the columns file and label, or a folder of class folders.
        images_folder: where the table's file names start (default: the table's folder).
        engine: name of an engine; "auto" for the fastest valid one.

    Returns:
        Evaluation of
        figures: dict of accuracy, macro_f1, their 95 % intervals, expected_calibration_error, coverage and more;
        per_class: DataFrame with a row per class: label, precision, recall, f1 (each 0..1), photos;
        predictions: DataFrame with a row per photo: truth, file, label, confidence (0..1), error, and label_2,
        confidence_2, label_3, confidence_3 where the bundle has so many classes. Photos that could not be scored are at
        its end: truth and label are "", error says why.

    Raises:
        UsageError: the labels cannot be read, or no photo can be scored. BundleError: the bundle is corrupt.
        MissingRequirement: scikit-learn, pandas or the engine's library is not installed.

    Example:
        >>> from train.insight.evaluate import evaluate
        >>> evaluation = evaluate("bundle", "val.tsv", images_folder="val")
        >>> evaluation.per_class.sort_values("f1").head()
        >>> evaluation.predictions.query("label != truth")
    """
    pandas = require("pandas")
    comparison = compare([bundle], labels, images_folder, engine)
    best = comparison.ranked[0]
    columns, rows = report.prediction_table(best.run.bundle, comparison.photos, best.probabilities, comparison.problems)
    # Not as pandas' own type of text, which refuses the bytes of a name or a label that is not UTF-8.
    predictions = pandas.DataFrame(rows, columns=columns, dtype=object)
    per_class = pandas.DataFrame(best.result["per_class"], columns=metrics.ClassScore._fields, dtype=object)
    return Evaluation(
        best.result,
        per_class.astype({"precision": float, "recall": float, "f1": float, "photos": int}),
        predictions.astype({name: float for name in columns if name.startswith("confidence")}),
    )


def compare(paths, labels, images_folder=None, engine_name="auto"):
    """Evaluates bundles on the same labelled photos.

    A photo counts as soon as one of the bundles knows its class, and is wrong for those that do not: otherwise the
    bundle that knows the fewest classes would win. A photo that cannot be read counts for none.

    Args:
        paths: folders of bundles. Where there are several, one that fails is reported and left out.
        labels: table with the columns file and label, or a folder of class folders.
        images_folder: where the table's file names start (default: the table's folder).
        engine_name: of every bundle; "auto" for the fastest valid one.

    Returns:
        Comparison.

    Raises:
        UsageError: the labels cannot be read, or no photo can be scored. PicnicError: the only bundle failed, or all.
    """
    require("sklearn.metrics")  # missing: said before the photos are classified
    photos, problems = read_labels(labels, images_folder)
    failures: typing.List[typing.Tuple[str, PicnicError]] = []
    who = "any of the bundles" if len(paths) > 1 else "the bundle"
    bundles, runs = [], []
    for path in paths:
        with _reported_failure(path, failures, len(paths)):
            bundles.append((path, Bundle.open(path)))
    photos, unknown = checks.drop_unknown_labels(photos, {name for _, bundle in bundles for name in bundle.class_names})
    checks.report_problems(problems + unknown, None, strict=False)
    if bundles and not photos:
        raise UsageError(f"{labels}: no photo with a label that {who} knows")
    for path, bundle in bundles:
        with _reported_failure(path, failures, len(paths)):
            runs.append(_run(path, bundle, engine_name, photos))
    if not runs:
        raise failures[0][1]
    numbers, more = _readable(photos, runs)
    checks.report_problems(more, None, strict=False)
    if not numbers:
        raise UsageError(f"{labels}: no photo that can be read has a label that {who} knows ({len(photos)} photos)")
    problems = problems + unknown + more
    photos = [photos[number] for number in numbers]
    runs = [run._replace(predictions=[run.predictions[number] for number in numbers]) for run in runs]
    return Comparison(photos, problems, _rank(runs, photos, len(problems)), failures)


def _run(path, bundle, engine_name, photos):
    """Classifies the photos with one bundle. Returns its Run."""
    items = [Item(photo.file, photo.path, "", photo.root) for photo in photos]
    with Classifier(bundle, selection.open_engine(bundle, engine_name, _BATCH), _BATCH) as classifier:
        started = time.perf_counter()
        predictions = list(progress(classifier.classify(items), len(items), "evaluate"))
        seconds = time.perf_counter() - started
        return Run(path, bundle, classifier.engine.info, predictions, len(items) / seconds)


def _rank(runs, photos, set_aside):
    """Scores the answers of several bundles and sorts the bundles, best first.

    Args:
        runs: list of Run, with answers to all of the photos.
        photos: list of train.data.labels.Photo, at least one.
        set_aside: how many photos could not be scored.

    Returns:
        list of Scored.
    """
    sums = {photo.path: _short_sum(photo.path) for photo in photos}
    ranked = [_score(run, photos, set_aside, sums) for run in runs]
    ranked.sort(key=lambda one: (-one.result["macro_f1"], -one.result["accuracy"]))
    # Even where two intervals overlap one bundle can be the better, because the photos are the same: where they differ,
    # photo by photo, tells more.
    right = [_is_right(one, photos) for one in ranked]
    for one, own in zip(ranked, right):
        one.result["only_it_is_right"] = int((own & ~right[0]).sum())
        one.result["only_first_is_right"] = int((right[0] & ~own).sum())
    return ranked


def _score(run, photos, set_aside, sums):
    known = set(run.bundle.class_names)
    unknown = [photo.label for photo in photos if photo.label not in known]
    if unknown:
        names = ", ".join(printable(name) for name in sorted(set(unknown)))
        say(f"{run.path}: does not know {names}: {len(unknown)} photos count as wrong for it")
    trained_on = None
    training_sums = (run.bundle.manifest.get("training") or {}).get("photos_sha256")
    if training_sums is not None:  # older bundles do not say
        training_sums = set(training_sums)
        trained_on = sum(sums[photo.path] in training_sums for photo in photos)
    if trained_on:
        say(
            f"{run.path}: {trained_on} of {len(photos)} photos were among the training photos: these figures say "
            "little about new photos"
        )
    probabilities = np.stack([prediction.probabilities for prediction in run.predictions])
    result = report.figures(run.bundle, photos, probabilities, run.engine.name, set_aside, trained_on)
    result.update(
        bundle=run.path,
        photos_id=split.dataset_id(photos, [], sums),
        images_per_s=round(run.images_per_s, 2),
        model_bytes=_model_bytes(run.bundle, run.engine),
        photos_unknown_label=len(unknown),
    )
    return Scored(run, probabilities, result)


def _is_right(scored, photos):
    """Returns bool [photos]: whether the most probable class is the photo's."""
    names = scored.run.bundle.class_names
    best = scored.probabilities.argmax(axis=1)
    return np.array([names[index] == photo.label for photo, index in zip(photos, best)])


def _readable(photos, runs):
    """Returns (numbers of the photos that count for these runs, Problems of the others)."""
    # Again, because a bundle may have failed since: it must not decide which photos count.
    known = {name for run in runs for name in run.bundle.class_names}
    _, problems = checks.drop_unknown_labels(photos, known)
    numbers = []
    for number, photo in enumerate(photos):
        errors = [run.predictions[number].error for run in runs if run.predictions[number].error]
        if photo.label not in known:
            continue
        if errors:
            problems.append(Problem(photo.file, errors[0]))
        else:
            numbers.append(number)
    return numbers, problems


@contextlib.contextmanager
def _reported_failure(path, failures, bundle_count):
    """Where several bundles are evaluated, one that fails is reported and the others are evaluated."""
    try:
        yield
    except PicnicError as error:
        if bundle_count == 1:
            raise
        failures.append((path, error))
        say(f"left out: {error}")


def _short_sum(path):
    """Returns the first 16 digits of the sha256 of a photo, as a manifest's photos_sha256 has it; "" without a file."""
    try:
        return files.sha256_of(path)[:16]
    except OSError:
        return ""


def _model_bytes(bundle, engine):
    """Returns the size of what an engine loads."""
    if engine.record:
        loaded = engine.record["files"]
    else:
        own = os.path.relpath(engine.path, bundle.path)
        all_files = bundle.manifest["files"]
        loaded = {name: facts for name, facts in all_files.items() if name == own or name.startswith(own + "/")}
    return sum(facts["size_bytes"] for facts in loaded.values())
