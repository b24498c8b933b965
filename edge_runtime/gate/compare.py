"""How an engine's answers differ from the original's on photos, as figures. edge_runtime.gate.judge judges them."""

import typing

import numpy as np

from edge_runtime import console

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


def batch_sizes(max_batch):
    """Returns the batch sizes that an engine is checked at: 1, 2, 4 and the largest."""
    return sorted({size for size in (1, 2, 4) if size < max_batch} | {max_batch})


def photo_order(count, batch):
    """Returns the order in which photos are run in batches, as indices: int [n], n >= count.

    All photos, at least one full batch, and a smaller last one; with fewer photos than that takes, some come again.
    """
    total = max(count, batch)
    if batch > 1 and total % batch == 0:
        total += 1
    return np.arange(total) % count


def compare(names, original, answers):
    """Compares an engine's answers with the original's; of a photo's answers the worst counts.

    Args:
        names: of the photos.
        original: float32 [photos, classes], the original's probabilities.
        answers: {batch size: float32 [n, classes], the engine's probabilities in photo_order, NaN and infinity kept}.

    Returns:
        Parity.
    """
    figures, worst = {}, np.zeros(len(names))
    for batch, rows in answers.items():
        order = photo_order(len(names), batch)
        difference = np.abs(np.where(np.isfinite(rows), rows, np.inf) - original[order]).max(axis=1)
        by_difference = np.argsort(difference, kind="stable")
        chosen = np.empty(len(names), int)
        chosen[order[by_difference]] = by_difference  # the last one of a photo stays, which is its worst
        figures[str(batch)] = _figures(original, rows[chosen])
        worst = np.maximum(worst, difference[chosen])
    extreme = {name: max(values[name] for values in figures.values()) for name in _FIGURES}
    extreme["top1_agreement"] = min(values["top1_agreement"] for values in figures.values())
    worst_photos = [names[index] for index in np.argsort(-worst, kind="stable")[:_WORST_COUNT]]
    return Parity(photos=len(names), batches=figures, worst_photos=worst_photos, **extreme)


def format_table(engine_name, parity):
    """Returns the figures of a Parity as text for the screen."""
    header = ["batch", "same label", "largest difference", "mean difference", "KL divergence", "non-finite"]
    rows = []
    for size, figures in parity.batches.items():
        differences = [f"{figures[name]:.1e}" for name in _FIGURES[1:4]]
        rows.append([size, f"{100 * figures['top1_agreement']:.2f} %"] + differences + [str(figures["non_finite"])])
    return f"{engine_name} beside the original, on {parity.photos} photos\n{console.format_table(header, rows)}"


def _figures(original, answers):
    """Returns the five figures of one batch size. Answers that are not finite agree with nothing and count as 0."""
    finite = np.isfinite(answers)
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
