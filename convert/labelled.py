"""How an engine labels photos whose true labels are known, beside the original (convert --labels)."""

import numpy as np

from convert.reference import open_original
from edge_runtime import console
from edge_runtime.classifier import Classifier
from edge_runtime.console import progress, say
from edge_runtime.errors import EngineLost, ParityError, UsageError
from edge_runtime.gate import judge
from edge_runtime.gate.interval import share_interval

_RESAMPLES = 2000


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
        {"photos", "top1_original", "top1_engine", "macro_f1_original", "macro_f1_engine", "macro_f1_drop",
        "macro_f1_drop_low", "macro_f1_drop_high", "labels_changed"}; the first and the last are counts, the others
        shares, "low" and "high" the 95 % interval of the drop. Photos that cannot be read are left out.

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
    low, high = drop_interval(truth, original, predicted)
    return {
        "photos": len(rows),
        "top1_original": float(np.mean(original == truth)),
        "top1_engine": float(np.mean(predicted == truth)),
        "macro_f1_original": f1_original,
        "macro_f1_engine": f1_engine,
        "macro_f1_drop": f1_original - f1_engine,
        "macro_f1_drop_low": low,
        "macro_f1_drop_high": high,
        "labels_changed": int(np.sum(original != predicted)),
    }


def drop_interval(truth, original, predicted):
    """Returns the 95 % interval (low, high) of how far macro-F1 falls from the original's labels to an engine's.

    It is a paired bootstrap: photos are drawn again and again, each with both of its labels, because most photos are
    hard or easy for both. The same photos always give the same interval. Where no label changed, a bootstrap has
    nothing to draw, on however few photos; the interval is then the share of labels that may change all the same (95 %,
    exact).
    That limits the fall of top-1, and that of macro-F1 where the changes fall on all classes alike.

    Args:
        truth, original, predicted: int [n], indices of classes, n >= 1.
    """
    if np.array_equal(original, predicted):
        _, share = share_interval(0, len(truth))
        return -share, share
    random, drops = np.random.RandomState(0), np.empty(_RESAMPLES)
    for number in range(_RESAMPLES):
        chosen = random.randint(len(truth), size=len(truth))
        drops[number] = macro_f1(truth[chosen], original[chosen]) - macro_f1(truth[chosen], predicted[chosen])
    low, high = np.percentile(drops, [2.5, 97.5])
    return float(low), float(high)


def macro_f1(truth, predicted):
    """Returns the mean F1 of the classes that have true photos or were predicted, 0..1.

    Args:
        truth, predicted: int [n], n >= 1.
    """
    classes = max(truth.max(), predicted.max()) + 1
    both = np.bincount(truth, minlength=classes) + np.bincount(predicted, minlength=classes)
    right = np.bincount(truth[truth == predicted], minlength=classes)
    return float(np.mean(2.0 * right[both > 0] / both[both > 0]))


def require_macro_f1(engine_name, parity, scores, max_drop):
    """Raises ParityError when the engine's macro-F1 is, with 95 % certainty, too far below the original's.

    Args:
        engine_name: for the message.
        parity: edge_runtime.gate.compare.Parity, for the message.
        scores: result of compare_labelled.
        max_drop: of macro-F1, 0..1; the lower end of the drop's interval must not be more.
    """
    if scores["macro_f1_drop_low"] > max_drop:
        drop, low = 100 * scores["macro_f1_drop"], 100 * scores["macro_f1_drop_low"]
        reason = (
            f"macro-F1 is {drop:.4g} points below the original's; even the lower end of the 95 % interval, {low:.4g}, "
            f"is more than the {100 * max_drop:.3g} of --max-f1-drop\n{format_table(scores)}"
        )
        raise judge.refusal(engine_name, reason, parity)


def describe(scores, max_drop, log_odds_change):
    """Returns how sure the comparison of macro-F1 is, as one or two lines of text.

    Args:
        scores, max_drop: as require_macro_f1.
        log_odds_change: of edge_runtime.gate.compare.Parity.
    """
    if scores["labels_changed"] == 0 and log_odds_change <= judge.NEGLIGIBLE_CHANGE:
        return "macro-F1 is the same; the log-odds change too little for another label"
    # As changes: a drop below 0 is a rise.
    change, low, high = (0 - 100 * scores["macro_f1_drop" + end] for end in ("", "_high", "_low"))
    verb = "rises" if change > 0 else "falls"
    text = f"macro-F1 {verb} by {abs(change):.2f} points; 95 % interval of the change: {low:+.2f} to {high:+.2f}"
    if scores["macro_f1_drop_high"] <= max_drop:
        return text
    if scores["labels_changed"] == 0:  # the interval's width falls with the photos
        photos = scores["photos"] * scores["macro_f1_drop_high"] / max_drop if max_drop else 1e9
        return f"{text}\n{_undecided(photos, max_drop)}"
    # The interval's width falls with the square root of the photos; its end that is nearer to the limit has to pass it.
    drop = scores["macro_f1_drop"]
    end = scores["macro_f1_drop_high" if drop <= max_drop else "macro_f1_drop_low"]
    photos = scores["photos"] * ((end - drop) / (max_drop - drop)) ** 2 if drop != max_drop else 1e9
    return f"{text}\n{_undecided(photos, max_drop)}"


def _undecided(photos, max_drop):
    more = f"about {photos:.0f} labelled photos could tell" if photos < 1e5 else "that takes more than 100000 photos"
    return f"not decided: whether it falls by at most {100 * max_drop:.3g} points (--max-f1-drop); {more}"


def format_table(scores):
    """Returns the result of compare_labelled as text for the screen."""
    rows = [
        [title] + [f"{100 * scores[name + who]:.2f}" for who in ("_original", "_engine")]
        for title, name in (("top-1", "top1"), ("macro-F1", "macro_f1"))
    ]
    return console.format_table([f"on {scores['photos']} labelled photos", "original", "engine"], rows)
