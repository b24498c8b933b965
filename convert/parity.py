"""The gate: an engine's answers beside the original's, on photos, before the engine may be used."""

import concurrent.futures
import os
import typing

import numpy as np

from edge_runtime.bundle.reading import Sample
from edge_runtime.classifier import Classifier
from edge_runtime.console import progress, say
from edge_runtime.engines.base import EngineError
from edge_runtime.engines.selection import open_engine
from edge_runtime.errors import (
    EngineLost,
    ImageError,
    MissingRequirement,
    OutOfMemory,
    ParityError,
    UsageError,
    is_out_of_memory,
)
from edge_runtime.machine import cpu
from edge_runtime.photos import read
from edge_runtime.sources import registry, storage, table
from edge_runtime.sources.items import Item
from edge_runtime.text import printable

Parity = typing.NamedTuple(
    "Parity",
    [
        ("photos", int),
        # The worst of all batch sizes:
        ("top1_agreement", float),  # share of the photos with the same best class, 0..1
        ("max_abs_difference", float),  # of a probability
        ("mean_abs_difference", float),
        ("kl_divergence", float),  # of the engine's answers from the original's, mean over the photos, nats
        ("non_finite", int),  # probabilities that are NaN or infinite
        ("batches", dict),  # {batch size: the five figures above}
        ("worst_photos", list),  # names of the photos with the largest differences
        ("labelled", typing.Optional[dict]),  # what compare_labelled found, None without --labels
    ],
)
MAX_PHOTOS = 1000  # 256 MiB of pictures
ENOUGH_PHOTOS = 100
MAX_F1_DROP = 0.005
_WORST = 5
_SMALLEST = 1e-12  # what a probability of 0 counts as in a logarithm
_FIGURES = ("top1_agreement", "max_abs_difference", "mean_abs_difference", "kl_divergence", "non_finite")


def reference_sample(bundle, calibration=None, images_folder=None):
    """Returns the photos to compare on and the original's answers to them (edge_runtime.bundle.reading.Sample).

    Args:
        bundle: the bundle whose model is the original.
        calibration: folder of photos (or glob, TSV), answered by the bundle's unconverted model; of more than
            MAX_PHOTOS that many are used, evenly spread. None for the sample in the bundle.
        images_folder: where the file names of a TSV start (default: the TSV's folder).

    Raises:
        UsageError: there is no readable photo. MissingRequirement: no library runs the unconverted model.
    """
    if calibration is None:
        return _told_if_small(bundle.sample())
    items = list(registry.open_source(calibration, images_folder))
    if len(items) > MAX_PHOTOS:
        say(f"--calibration {calibration}: {MAX_PHOTOS} of its {len(items)} photos are used, evenly spread")
        items = [items[index * len(items) // MAX_PHOTOS] for index in range(MAX_PHOTOS)]
    with concurrent.futures.ThreadPoolExecutor(cpu.core_count()) as pool:
        loaded = list(zip(items, pool.map(_load, items)))
    for item, picture in loaded:
        if isinstance(picture, ImageError):
            say(f"{printable(item.name)}: {picture} (left out)")
    usable = [(item.name, picture) for item, picture in loaded if not isinstance(picture, ImageError)]
    if not usable:
        raise UsageError(f"--calibration {calibration}: no readable photo in it")
    names = [name for name, _ in usable]
    pictures = np.stack([picture for _, picture in usable])
    with _unconverted(bundle) as engine:
        starts = progress(range(0, len(pictures), engine.max_batch), what="original", unit=" batches")
        answers = np.concatenate([engine.infer(pictures[start : start + engine.max_batch]) for start in starts])
    return _told_if_small(Sample(names, pictures, [""] * len(names), answers))


def labelled_photos(bundle, source, images_folder=None):
    """Reads labelled photos for compare_labelled; those of classes that the bundle does not know are left out.

    Args:
        bundle: knows the classes.
        source: TSV with the columns `file` and `label`, or a folder of class folders.
        images_folder: where a TSV's file names start (default: the TSV's folder).

    Returns:
        [(edge_runtime.sources.items.Item, index of its class)]. No photo was opened yet.

    Raises:
        UsageError: the source cannot be read, or no row can be used.
    """
    if os.path.isdir(source):
        rows = [(item, os.path.dirname(item.name)) for item in registry.open_source(source)]
    else:
        folder = table.images_folder_of(source, images_folder)
        rows = [
            (Item(row.file, path, row.problem, root), row.label)
            for row, path, root in table.table_rows(source, folder, need_label=True)
        ]
    known = {name: index for index, name in enumerate(bundle.class_names)}
    usable = [(item, known[label]) for item, label in rows if label in known and not item.problem]
    if not usable:
        raise UsageError(f"--labels {source}: no photo with a label that the bundle knows")
    if len(usable) < len(rows):
        say(f"--labels {source}: {len(rows) - len(usable)} of {len(rows)} rows have no usable name or label")
    return usable


def batch_sizes(max_batch):
    """Returns the batch sizes that an engine is checked at: 1, 2, 4 and the largest."""
    return sorted({size for size in (1, 2, 4) if size < max_batch} | {max_batch})


def compare(engine, sample, batches):
    """Compares an engine with the original at several batch sizes, each with a full batch and a last smaller one.

    Where that takes more photos than there are, some are shown again; of a photo's answers the worst counts.

    Args:
        engine: an open Engine.
        sample: edge_runtime.bundle.reading.Sample.
        batches: batch sizes to run the sample at.

    Returns:
        Parity; labelled is None.

    Raises:
        ParityError: the engine failed.
    """
    figures, worst = {}, np.zeros(len(sample.names))
    for batch in batches:
        shown = _shown(len(sample.names), batch)
        answers = _run(engine, sample.images, shown, batch)
        difference = np.abs(np.where(np.isfinite(answers), answers, np.inf) - sample.probabilities[shown]).max(axis=1)
        by_difference = np.argsort(difference, kind="stable")
        chosen = np.empty(len(sample.names), int)
        chosen[shown[by_difference]] = by_difference  # the last one of a photo stays, which is its worst
        answers = answers[chosen]
        figures[str(batch)] = _figures(sample.probabilities, answers, np.isfinite(answers))
        worst = np.maximum(worst, difference[chosen])
    extreme = {name: max(found[name] for found in figures.values()) for name in _FIGURES}
    extreme["top1_agreement"] = min(found["top1_agreement"] for found in figures.values())
    names = [sample.names[index] for index in np.argsort(-worst, kind="stable")[:_WORST]]
    return Parity(photos=len(sample.names), batches=figures, worst_photos=names, labelled=None, **extreme)


def classify(bundle, engine, labelled):
    """Returns an open engine's answer to each of the labelled photos: float32 [classes], None for an unreadable one.

    Raises:
        ParityError: the engine failed, on a photo or for good.
    """
    classifier = Classifier(bundle, engine, engine.max_batch)
    found = classifier.classify(item for item, _ in labelled)
    try:
        answers = [answer.probabilities for answer in progress(found, len(labelled), engine.name)]
    except EngineLost as error:
        raise ParityError(f"{engine.name} is refused and was not kept: {error}") from error
    if classifier.stats.failed:
        raise ParityError(
            "%s is refused and was not kept: it fails on %d of %d photos"
            % (engine.name, classifier.stats.failed, len(labelled))
        )
    return answers


def compare_labelled(bundle, labelled, answers):
    """Scores an engine's and the original's labels against the true ones.

    Args:
        bundle: the original.
        labelled: what labelled_photos returned.
        answers: what classify returned for the engine.

    Returns:
        {"photos", "top1_original", "top1_engine", "macro_f1_original", "macro_f1_engine", "macro_f1_drop"}; all but
        the first 0..1. Photos that cannot be read are left out.

    Raises:
        UsageError: none of the photos can be read.
    """
    with _unconverted(bundle) as engine:
        originals = classify(bundle, engine, labelled)
    rows = [
        (label, original.argmax(), answer.argmax())
        for (_, label), original, answer in zip(labelled, originals, answers)
        if original is not None and answer is not None
    ]
    if len(rows) < len(labelled):
        say(f"{len(labelled) - len(rows)} of {len(labelled)} labelled photos cannot be read (left out)")
    if not rows:
        raise UsageError(f"--labels: none of the {len(labelled)} photos can be read")
    truth, original, found = np.array(rows).T
    f1_original, f1_engine = macro_f1(truth, original), macro_f1(truth, found)
    return {
        "photos": len(rows),
        "top1_original": float(np.mean(original == truth)),
        "top1_engine": float(np.mean(found == truth)),
        "macro_f1_original": f1_original,
        "macro_f1_engine": f1_engine,
        "macro_f1_drop": f1_original - f1_engine,
    }


def macro_f1(truth, predicted):
    """Returns the mean F1 of the classes that have true photos or were predicted, 0..1, as `picnic-edge evaluate` does.

    Args:
        truth, predicted: int [n], n >= 1.
    """
    scores = [
        2.0 * np.sum((truth == name) & (predicted == name)) / (np.sum(truth == name) + np.sum(predicted == name))
        for name in np.union1d(truth, predicted)
    ]
    return float(np.mean(scores))


def require_agreement(engine_name, parity, least):
    """Raises ParityError when the engine answered NaN or infinity, or too few photos get the original's label."""
    reason = ""
    if parity.non_finite:
        reason = f"{parity.non_finite} of its probabilities are NaN or infinite"
    elif parity.top1_agreement < least:
        reason = "same label as the original for %.2f %% of %d photos, %.2f %% are needed (--min-agreement)" % (
            100 * parity.top1_agreement,
            parity.photos,
            100 * least,
        )
    if reason:
        raise ParityError(_refusal(engine_name, reason, parity))


def require_macro_f1(engine_name, parity):
    """Raises ParityError when the engine's macro-F1 on the labelled photos lies too far below the original's."""
    if parity.labelled["macro_f1_drop"] > MAX_F1_DROP:
        reason = "macro-F1 is %.2f points below the original's, %.1f are allowed" % (
            100 * parity.labelled["macro_f1_drop"],
            100 * MAX_F1_DROP,
        )
        raise ParityError(_refusal(engine_name, reason, parity))


def format_table(engine_name, parity):
    """Returns the figures of a Parity as text for the screen."""
    lines = [
        f"{engine_name} beside the original, on {parity.photos} photos",
        "batch  same label  largest difference  mean difference  KL divergence  non-finite",
    ]
    for size, found in parity.batches.items():
        values = [found[name] for name in _FIGURES]
        lines.append("%5s  %8.2f %%  %18.1e  %15.1e  %13.1e  %10d" % tuple([size, 100 * values[0]] + values[1:]))
    if parity.labelled:
        shown = {name: 100 * value for name, value in parity.labelled.items()}
        lines += [
            f"on {parity.labelled['photos']} labelled photos  original  engine",
            "top-1                  %(top1_original)8.2f  %(top1_engine)6.2f" % shown,
            "macro-F1               %(macro_f1_original)8.2f  %(macro_f1_engine)6.2f" % shown,
        ]
    return "\n".join(lines)


def _figures(original, answers, finite):
    """Returns the five figures of one batch size. Answers that are not finite agree with nothing and count as 0."""
    answers = np.where(finite, answers, 0)
    difference = np.abs(answers - original)
    same = (answers.argmax(axis=1) == original.argmax(axis=1)) & finite.all(axis=1)
    ratio = np.maximum(original, _SMALLEST).astype(np.float64) / np.maximum(answers, _SMALLEST)
    values = (
        float(same.mean()),
        float(difference.max()),
        float(difference.mean()),
        max(float((original * np.log(ratio)).sum(axis=1).mean()), 0.0),  # rounding can make it negative
        int((~finite).sum()),
    )
    return dict(zip(_FIGURES, values))


def _shown(count, batch):
    """Returns which of count photos are run in batches, in this order: all, at least one full batch, a last smaller."""
    total = max(count, batch)
    if batch > 1 and total % batch == 0:
        total += 1
    return np.arange(total) % count


def _run(engine, pictures, shown, batch):
    """Returns an engine's answers to the pictures of these indices, float32 [n, classes], NaN and infinity kept."""
    answers = []
    for start in range(0, len(shown), batch):
        try:
            answers.append(engine.infer(pictures[shown[start : start + batch]]))
        except EngineError as error:
            if is_out_of_memory(error.__cause__):
                raise OutOfMemory(f"{engine.name}: not enough memory to check it; stop other programs") from error
            if error.answers is None:
                raise ParityError(f"{engine.name} is refused and was not kept: {error}") from error
            answers.append(error.answers)
    return np.concatenate(answers)


def _refusal(engine_name, reason, parity):
    return "%s is refused and was not kept: %s.\n%s\nMost different: %s" % (
        engine_name,
        reason,
        format_table(engine_name, parity),
        ", ".join(map(printable, parity.worst_photos)),
    )


def _told_if_small(sample):
    if len(sample.names) < ENOUGH_PHOTOS:
        say(
            "only %d photos to check the engine on: give %d or more with --calibration for a surer answer"
            % (len(sample.names), ENOUGH_PHOTOS)
        )
    return sample


def _load(item):
    try:
        if item.problem:
            return ImageError(item.problem)
        return read.read_image(item.path)
    except ImageError as error:
        return ImageError(storage.reason_of(item, error))


def _unconverted(bundle):
    """Opens the bundle's own model with whichever library is here."""
    try:
        return open_engine(bundle, "onnxruntime")
    except MissingRequirement:
        return open_engine(bundle, "tensorflow")
