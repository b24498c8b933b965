"""How good a model is: accuracy and macro-F1, figures per class, and how far its confidences can be trusted."""

import collections
import typing

import numpy as np

from edge_runtime import console
from edge_runtime.machine.libraries import require


class ClassScore(typing.NamedTuple):
    """How well one class is recognised."""

    label: str
    precision: float  # 0..1, like recall and f1
    recall: float
    f1: float
    photos: int  # that are of this class


class ReliabilityBin(typing.NamedTuple):
    """The photos whose confidence is above low, up to and including high."""

    low: float
    high: float
    photos: int
    confidence: float  # mean over the bin's photos, 0..1; 0 where it has none
    accuracy: float  # likewise


class Coverage(typing.NamedTuple):
    """What a threshold of confidence does."""

    threshold: float
    coverage: float  # share of the photos that get an answer, 0..1
    accuracy: typing.Optional[float]  # of those; None where there are none


class Answers(typing.NamedTuple):
    """A model's labels beside the true ones, photo by photo."""

    class_names: list  # the model's, then those that it does not know, sorted
    truth: list  # class name of each photo
    predicted: list  # likewise
    truth_index: np.ndarray  # int [photos], of the true class among the model's, -1 where it does not know it


THRESHOLDS = tuple(percent / 100 for percent in list(range(0, 100, 5)) + [99])  # of `classify --threshold`
_RESAMPLES = 1000
_INTERVAL_PERCENT = 95


def answers_of(class_names, labels, probabilities):
    """Returns the Answers of a model.

    Args:
        class_names: list of the model's classes.
        labels: list of the photos' true classes.
        probabilities: float32 [photos, classes of the model].
    """
    names = class_names + sorted(set(labels) - set(class_names))
    index = {name: position for position, name in enumerate(class_names)}
    truth_index = np.array([index.get(label, -1) for label in labels], int)
    return Answers(names, labels, [names[best] for best in probabilities.argmax(axis=1)], truth_index)


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
    return console.format_table(
        ["class", "precision", "recall", "F1", "photos"],
        [
            [row.label, f"{row.precision:.3f}", f"{row.recall:.3f}", f"{row.f1:.3f}", f"{row.photos}"]
            for row in sorted(table, key=lambda row: row.f1)
        ],
    )


def bootstrap_intervals(truth, predicted, class_names, seed=0):
    """Returns where accuracy and macro-F1 of `score` may lie for other photos like these.

    Percentile bootstrap over photos (Efron 1979, "Bootstrap Methods: Another Look at the Jackknife"): 95 % of 1000
    resamples lie between the two ends. Drawing n photos with replacement is drawing their confusion matrix from a
    multinomial distribution, which is what is done here: its cost does not grow with n.

    Args:
        truth, predicted: sequences of class names, of equal length, not empty; a prediction may be "".
        class_names: all classes.
        seed: same seed, same intervals.

    Returns:
        ((low, high) of the accuracy, (low, high) of macro-F1): each 0..1. In every resample the mean goes over the
        classes that occur in it, as in `score`.
    """
    cells = collections.Counter(zip(truth, predicted))
    pairs = sorted(cells)  # in one order, so that the seed decides
    counts = np.array([cells[pair] for pair in pairs], np.float64)
    draws = np.random.RandomState(seed).multinomial(len(truth), counts / counts.sum(), _RESAMPLES).astype(np.float64)
    index = {name: position for position, name in enumerate(class_names)}
    is_truth, is_predicted = np.zeros((2, len(pairs), len(class_names)))
    for row, pair in enumerate(pairs):
        for marks, name in zip((is_truth, is_predicted), pair):
            if name in index:  # an empty prediction is no class
                marks[row, index[name]] = 1
    right = np.array([true == answer for true, answer in pairs], np.float64)
    accuracy = draws.dot(right) / len(truth)
    true_positives = draws.dot(is_truth * right[:, None])  # [resamples, classes]
    photos = draws.dot(is_truth) + draws.dot(is_predicted)  # 2 tp + fp + fn
    f1 = 2 * true_positives / np.maximum(photos, 1)
    macro_f1 = f1.sum(axis=1) / np.maximum((photos > 0).sum(axis=1), 1)
    return _interval(accuracy), _interval(macro_f1)


def reliability_bins(probabilities, truth, bins=15):
    """Sorts photos into equal-width bins of their confidence (the highest probability).

    Args:
        probabilities: float32 [n, classes], rows that sum to 1.
        truth: int [n], indices of the true classes; -1 for a class that the model does not know.

    Returns:
        [ReliabilityBin], `bins` of them, from confidence 0 to 1. Guo et al. 2017, "On Calibration of Modern Neural
        Networks" (arXiv:1706.04599), section 2.
    """
    confidence, right = _answers(probabilities, truth)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    result = []
    for number in range(bins):
        inside = place == number
        photos = int(inside.sum())
        means = (float(confidence[inside].mean()), float(right[inside].mean())) if photos else (0.0, 0.0)
        result.append(ReliabilityBin(number / bins, (number + 1) / bins, photos, *means))
    return result


def expected_calibration_error(probabilities, truth, bins=15):
    """Returns the mean gap between confidence and accuracy, 0 (none) to 1: over reliability_bins, by their photos.

    Guo et al. 2017 (arXiv:1706.04599), equation 3.

    Args:
        probabilities: float32 [n, classes], rows that sum to 1.
        truth: int [n], indices of the true classes; -1 for a class that the model does not know.
        bins: how many.
    """
    rows = reliability_bins(probabilities, truth, bins)
    gap = sum(row.photos * abs(row.accuracy - row.confidence) for row in rows)
    return gap / max(sum(row.photos for row in rows), 1)


def coverage(probabilities, truth, thresholds=THRESHOLDS):
    """Returns what `classify --threshold P` would do on these photos, as one Coverage per threshold.

    Args:
        probabilities: float32 [n, classes], n >= 1, rows that sum to 1.
        truth: int [n], indices of the true classes; -1 for a class that the model does not know.
        thresholds: photos whose confidence is below it are answered `unknown`.
    """
    confidence, right = _answers(probabilities, truth)
    result = []
    for threshold in thresholds:
        answered = confidence >= threshold
        accuracy = float(right[answered].mean()) if answered.any() else None
        result.append(Coverage(threshold, float(answered.mean()), accuracy))
    return result


def _answers(probabilities, truth):
    """Returns (confidence of each photo's label, whether the label is right)."""
    # In float64, in which edge_runtime.classifier.Prediction.answer compares it with a threshold.
    confidence = probabilities.max(axis=1).astype(np.float64)
    return confidence, probabilities.argmax(axis=1) == np.asarray(truth)


def _interval(values):
    outside = (100 - _INTERVAL_PERCENT) / 2
    low, high = np.percentile(values, [outside, 100 - outside])
    return float(low), float(high)
