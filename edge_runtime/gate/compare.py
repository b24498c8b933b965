"""How an engine's answers differ from the original's on photos, as figures. edge_runtime.gate.judge judges them."""

import typing

import numpy as np

from edge_runtime import console

# A photo is a near tie where the original's best label is less than this many times as likely as its second. Measured:
# bf16 changes the logarithm of that ratio by 0.11 (root mean square), so that 1.5 is four times its error.
TIE_RATIO = 1.5

_LABELS = 5  # the original's best and the next four: what a user can be shown
_WORST_COUNT = 5
_MIN_PROBABILITY = 1e-12  # stands for 0 in the divergence
_MIN_ODDS = 1e-5  # smaller probabilities count as this one; half precision cannot tell them apart
_FIGURES = (
    "top1_agreement",
    "max_abs_difference",
    "mean_abs_difference",
    "kl_divergence",
    "log_odds_change",
    "non_finite",
)


class Parity(typing.NamedTuple):
    """An engine beside the original."""

    photos: int
    near_ties: int  # photos where the original prefers no label clearly: see TIE_RATIO
    flips: int  # photos that are no near ties and got another label, at any batch size
    # The worst of all batch sizes:
    top1_agreement: float  # share of all photos with the same best class, 0..1
    max_abs_difference: float  # of a probability
    mean_abs_difference: float
    kl_divergence: float  # of the engine's answers from the original's, mean over the photos, nats
    log_odds_change: float  # see log_odds_change
    non_finite: int  # probabilities that are NaN or infinite
    batches: typing.Dict[str, dict]  # {batch size: the six figures above}
    worst_photos: typing.List[str]  # names of the photos with the largest differences


def batch_sizes(max_batch):
    """Returns the batch sizes that an engine is checked at: 1, 2, 4 and the largest."""
    return sorted({size for size in (1, 2, 4) if size < max_batch} | {max_batch})


def photo_order(count, batch):
    """Returns the order in which photos are run in batches, as indices: int [n], n >= count.

    All photos in full batches, then a batch that is one photo short. Photos come again where that takes more.
    """
    return np.arange(-(-count // batch) * batch + batch - 1) % count


def compare(names, original, answers):
    """Compares an engine's answers with the original's; of a photo's answers the worst counts.

    Args:
        names: of the photos.
        original: float32 [photos, classes], the original's probabilities.
        answers: {batch size: float32 [n, classes], the engine's probabilities in photo_order, NaN and infinity kept}.

    Returns:
        Parity.
    """
    figures, worst, other_label = {}, np.zeros(len(names)), np.zeros(len(names), bool)
    for batch, rows in answers.items():
        order = photo_order(len(names), batch)
        finite = np.isfinite(rows)
        difference = np.abs(np.where(finite, rows, np.inf) - original[order]).max(axis=1)
        by_difference = np.argsort(difference, kind="stable")
        chosen = np.empty(len(names), int)
        chosen[order[by_difference]] = by_difference  # the last one of a photo stays, which is its worst
        figures[str(batch)] = _figures(original, rows[chosen])
        worst = np.maximum(worst, difference[chosen])
        other_label[order[~_same_label(original[order], rows)]] = True
    extreme = {name: max(values[name] for values in figures.values()) for name in _FIGURES}
    extreme["top1_agreement"] = min(values["top1_agreement"] for values in figures.values())
    ranked = np.sort(original, axis=1)
    tie = ranked[:, -1] < TIE_RATIO * ranked[:, -2]
    return Parity(
        photos=len(names),
        near_ties=int(tie.sum()),
        flips=int((other_label & ~tie).sum()),
        batches=figures,
        worst_photos=[names[index] for index in np.argsort(-worst, kind="stable")[:_WORST_COUNT]],
        **extreme,
    )


def log_odds_change(original, answers):
    """Returns how much an engine changes the log-odds of the original's best label against its next four, 0 or more.

    It is the root mean square of the changes divided by that of the log-odds themselves. So it says how far the
    network's own sums are off, whether the model is sure of its answers or not; 0.1 is 10 %.

    Args:
        original, answers: float [photos, classes], probabilities.
    """
    best = np.argsort(-original, axis=1, kind="stable")[:, :_LABELS]
    rows = np.arange(len(original))[:, None]
    ours, theirs = (
        np.log(np.maximum(values[rows, best], _MIN_ODDS).astype(np.float64)) for values in (answers, original)
    )
    odds = theirs[:, :1] - theirs[:, 1:]
    change = ours[:, :1] - ours[:, 1:] - odds
    return float(np.sqrt((change**2).mean() / np.maximum((odds**2).mean(), _MIN_ODDS**2)))


def format_table(engine_name, parity):
    """Returns the figures of a Parity as text for the screen."""
    header = ["batch", "same label", "largest difference", "KL divergence", "log-odds change", "non-finite"]
    rows = [
        [
            size,
            f"{100 * figures['top1_agreement']:.2f} %",
            f"{figures['max_abs_difference']:.1e}",
            f"{figures['kl_divergence']:.1e}",
            f"{100 * figures['log_odds_change']:.3f} %",
            str(figures["non_finite"]),
        ]
        for size, figures in parity.batches.items()
    ]
    return f"{engine_name} beside the original, on {parity.photos} photos\n{console.format_table(header, rows)}"


def _same_label(original, answers):
    """Returns for each photo whether both have the same best class, bool [n]; NaN and infinity agree with nothing."""
    finite = np.isfinite(answers)
    return (np.where(finite, answers, 0).argmax(axis=1) == original.argmax(axis=1)) & finite.all(axis=1)


def _figures(original, answers):
    """Returns the six figures of one batch size. Answers that are not finite count as 0."""
    finite = np.isfinite(answers)
    same = _same_label(original, answers)
    answers = np.where(finite, answers, 0)
    difference = np.abs(answers - original)
    ratio = np.maximum(original, _MIN_PROBABILITY).astype(np.float64) / np.maximum(answers, _MIN_PROBABILITY)
    values = (
        float(same.mean()),
        float(difference.max()),
        float(difference.mean()),
        max(float((original * np.log(ratio)).sum(axis=1).mean()), 0.0),  # rounding can make it negative
        log_odds_change(original, answers),
        int((~finite).sum()),
    )
    return dict(zip(_FIGURES, values))
