"""How an engine's answers differ from the original's on photos, as figures. convert.gate judges the figures.

An engine that fails on photos has no figures: it is refused here, with a ParityError.
"""

import typing

import numpy as np

from convert.reference import open_original
from edge_runtime import console
from edge_runtime.classifier import Classifier
from edge_runtime.console import progress, say
from edge_runtime.engines.base import EngineError
from edge_runtime.errors import EngineLost, OutOfMemory, ParityError, UsageError, is_out_of_memory

_WORST_COUNT = 5
_MIN_PROBABILITY = 1e-12  # stands for 0 in a logarithm
_FIGURES = ("top1_agreement", "max_abs_difference", "mean_abs_difference", "kl_divergence", "non_finite")


class Parity(typing.NamedTuple):
    """An engine beside the original."""

    photos: int
    # The worst of all batch sizes:
    top1_agreement: float  # share of the photos with the same best class, 0..1
    max_abs_difference: float  # of a probability
    mean_abs_difference: float
    kl_divergence: float  # of the engine's answers from the original's, mean over the photos, nats
    non_finite: int  # probabilities that are NaN or infinite
    batches: typing.Dict[str, dict]  # {batch size: the five figures above}
    worst_photos: typing.List[str]  # names of the photos with the largest differences
    labelled: typing.Optional[dict]  # result of compare_labelled, None without --labels


def batch_sizes(max_batch):
    """Returns the batch sizes that an engine is checked at: 1, 2, 4 and the largest."""
    return sorted({size for size in (1, 2, 4) if size < max_batch} | {max_batch})


def compare(engine, sample, batches):
    """Compares an engine with the original at several batch sizes, each with a full batch and a last smaller one.

    With fewer photos than that takes, some are run again; of a photo's answers the worst counts.

    Args:
        engine: an open Engine.
        sample: edge_runtime.bundle.reading.Sample.
        batches: batch sizes to run the sample at.

    Returns:
        Parity; labelled is None.

    Raises:
        ParityError: the engine failed. OutOfMemory: there is not enough memory to run it.
        MissingRequirement: its GPU is gone.
    """
    figures, worst = {}, np.zeros(len(sample.names))
    for batch in batches:
        order = _order(len(sample.names), batch)
        answers = _run(engine, sample.images, order, batch)
        difference = np.abs(np.where(np.isfinite(answers), answers, np.inf) - sample.probabilities[order]).max(axis=1)
        by_difference = np.argsort(difference, kind="stable")
        chosen = np.empty(len(sample.names), int)
        chosen[order[by_difference]] = by_difference  # the last one of a photo stays, which is its worst
        answers = answers[chosen]
        figures[str(batch)] = _figures(sample.probabilities, answers, np.isfinite(answers))
        worst = np.maximum(worst, difference[chosen])
    extreme = {name: max(values[name] for values in figures.values()) for name in _FIGURES}
    extreme["top1_agreement"] = min(values["top1_agreement"] for values in figures.values())
    names = [sample.names[index] for index in np.argsort(-worst, kind="stable")[:_WORST_COUNT]]
    return Parity(photos=len(sample.names), batches=figures, worst_photos=names, labelled=None, **extreme)


def classify(bundle, engine, labelled):
    """Returns an open engine's answer to each of the labelled photos: float32 [classes], None for an unreadable one.

    Raises:
        ParityError: the engine failed, on a photo or for good.
    """
    classifier = Classifier(bundle, engine, engine.max_batch)
    predictions = classifier.classify(item for item, _ in labelled)
    try:
        answers = [answer.probabilities for answer in progress(predictions, len(labelled), engine.name)]
    except EngineLost as error:
        raise ParityError(f"{engine.name} is refused and was not kept: {error}") from error
    if classifier.stats.failed:
        failed = f"it fails on {classifier.stats.failed} of {len(labelled)} photos"
        raise ParityError(f"{engine.name} is refused and was not kept: {failed}")
    return answers


def compare_labelled(bundle, labelled, answers):
    """Scores an engine's and the original's labels against the true ones.

    Args:
        bundle: the original.
        labelled: result of convert.reference.labelled_photos.
        answers: result of classify for the engine.

    Returns:
        {"photos", "top1_original", "top1_engine", "macro_f1_original", "macro_f1_engine", "macro_f1_drop"}; all but
        the first 0..1. Photos that cannot be read are left out.

    Raises:
        UsageError: none of the photos can be read.
    """
    with open_original(bundle) as engine:
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
    truth, original, predicted = np.array(rows).T
    f1_original, f1_engine = macro_f1(truth, original), macro_f1(truth, predicted)
    return {
        "photos": len(rows),
        "top1_original": float(np.mean(original == truth)),
        "top1_engine": float(np.mean(predicted == truth)),
        "macro_f1_original": f1_original,
        "macro_f1_engine": f1_engine,
        "macro_f1_drop": f1_original - f1_engine,
    }


def macro_f1(truth, predicted):
    """Returns the mean F1 of the classes that have true photos or were predicted, 0..1.

    Args:
        truth, predicted: int [n], n >= 1.
    """
    scores = [
        2.0 * np.sum((truth == name) & (predicted == name)) / (np.sum(truth == name) + np.sum(predicted == name))
        for name in np.union1d(truth, predicted)
    ]
    return float(np.mean(scores))


def format_table(engine_name, parity):
    """Returns the figures of a Parity as text for the screen."""
    header = ["batch", "same label", "largest difference", "mean difference", "KL divergence", "non-finite"]
    rows = []
    for size, figures in parity.batches.items():
        differences = [f"{figures[name]:.1e}" for name in _FIGURES[1:4]]
        rows.append([size, f"{100 * figures['top1_agreement']:.2f} %"] + differences + [str(figures["non_finite"])])
    text = f"{engine_name} beside the original, on {parity.photos} photos\n{console.format_table(header, rows)}"
    if not parity.labelled:
        return text
    labelled = [
        [title] + [f"{100 * parity.labelled[name + who]:.2f}" for who in ("_original", "_engine")]
        for title, name in (("top-1", "top1"), ("macro-F1", "macro_f1"))
    ]
    header = [f"on {parity.labelled['photos']} labelled photos", "original", "engine"]
    return f"{text}\n{console.format_table(header, labelled)}"


def _figures(original, answers, finite):
    """Returns the five figures of one batch size. Answers that are not finite agree with nothing and count as 0."""
    answers = np.where(finite, answers, 0)
    difference = np.abs(answers - original)
    same = (answers.argmax(axis=1) == original.argmax(axis=1)) & finite.all(axis=1)
    ratio = np.maximum(original, _MIN_PROBABILITY).astype(np.float64) / np.maximum(answers, _MIN_PROBABILITY)
    values = (
        float(same.mean()),
        float(difference.max()),
        float(difference.mean()),
        max(float((original * np.log(ratio)).sum(axis=1).mean()), 0.0),  # rounding can make it negative
        int((~finite).sum()),
    )
    return dict(zip(_FIGURES, values))


def _order(count, batch):
    """Returns the order in which photos are run, as indices: all, at least one full batch, and a smaller last one."""
    total = max(count, batch)
    if batch > 1 and total % batch == 0:
        total += 1
    return np.arange(total) % count


def _run(engine, pictures, order, batch):
    """Returns an engine's answers to the pictures of these indices, float32 [n, classes], NaN and infinity kept."""
    answers = []
    for start in range(0, len(order), batch):
        try:
            answers.append(engine.infer(pictures[order[start : start + batch]]))
        except EngineError as error:
            if is_out_of_memory(error.__cause__):
                raise OutOfMemory(f"{engine.name}: not enough memory to check it; stop other programs") from error
            if error.answers is None:
                raise ParityError(f"{engine.name} is refused and was not kept: {error}") from error
            answers.append(error.answers)
    return np.concatenate(answers)
