"""The scores, against numbers worked out by hand."""

import numpy as np
import pytest

from edge_runtime.classifier import Prediction
from edge_runtime.results.rows import UNKNOWN, row_of
from train.model import metrics

NAMES = ["apples", "bread", "cheese", "dill"]


def test_score_of_a_worked_example():
    # apples: 3 photos, 2 found, 1 wrongly claimed  -> precision 2/3, recall 2/3, F1 2/3
    # bread:  2 photos, 1 predicted, none claimed wrong -> precision 1,   recall 1/2, F1 2/3
    # cheese: 1 photo,  predicted, 1 wrongly claimed    -> precision 1/2, recall 1,   F1 2/3
    # dill:   1 photo,  missed, 1 wrongly claimed   -> all 0
    truth = ["apples", "apples", "apples", "bread", "bread", "cheese", "dill"]
    predicted = ["apples", "apples", "dill", "bread", "cheese", "cheese", "apples"]
    accuracy, macro_f1, table = metrics.score(truth, predicted, NAMES)
    assert accuracy == pytest.approx(4 / 7.0)
    assert macro_f1 == pytest.approx(0.5)  # (2/3 + 2/3 + 2/3 + 0) / 4
    assert [row.label for row in table] == NAMES
    assert [row.precision for row in table] == pytest.approx([2 / 3.0, 1, 0.5, 0])
    assert [row.recall for row in table] == pytest.approx([2 / 3.0, 0.5, 1, 0])
    assert [row.f1 for row in table] == pytest.approx([2 / 3.0, 2 / 3.0, 2 / 3.0, 0])
    assert [row.photos for row in table] == [3, 2, 1, 1]


def test_an_empty_prediction_is_wrong_like_any_other():
    accuracy, macro_f1, table = metrics.score(["apples", "apples", "bread"], ["apples", "", "bread"], NAMES)
    assert accuracy == pytest.approx(2 / 3.0)
    assert [row.label for row in table] == ["apples", "bread"]  # "" is no class
    assert [row.recall for row in table] == pytest.approx([0.5, 1])
    assert macro_f1 == pytest.approx((2 / 3.0 + 1) / 2)


def test_nothing_but_empty_predictions_scores_zero():
    accuracy, macro_f1, table = metrics.score(["apples", "bread"], ["", ""], NAMES)
    assert (accuracy, macro_f1) == (0, 0)
    assert [(row.precision, row.recall, row.f1) for row in table] == [(0, 0, 0)] * 2


def test_classes_that_never_occur_do_not_weigh():
    accuracy, macro_f1, table = metrics.score(["bread", "bread"], ["bread", "bread"], NAMES)
    assert (accuracy, macro_f1) == (1, 1)
    assert [row.label for row in table] == ["bread"]


def test_a_class_that_is_only_predicted_weighs_with_zero():
    _, macro_f1, table = metrics.score(["bread", "bread"], ["bread", "dill"], NAMES)
    assert [(row.label, row.photos) for row in table] == [("bread", 2), ("dill", 0)]
    assert macro_f1 == pytest.approx((2 / 3.0 + 0) / 2)


def test_scores_are_plain_values():
    accuracy, macro_f1, table = metrics.score(["bread"], ["bread"], NAMES)
    kinds = [type(value) for value in [accuracy, macro_f1] + list(table[0])]
    assert kinds == [float, float, str, float, float, float, int]


def test_table_shows_the_worst_class_first_and_fits_long_names():
    long = "Asparagus, string beans & brussels sprouts"
    rows = [metrics.ClassScore(long, 1.0, 0.9, 0.95, 12), metrics.ClassScore("Fish", 0.5, 0.25, 1 / 3.0, 4)]
    lines = metrics.format_table(rows).splitlines()
    assert lines[0].split() == ["class", "precision", "recall", "F1", "photos"]
    assert lines[1].split() == ["Fish", "0.500", "0.250", "0.333", "4"]
    assert lines[2].startswith(long + "  ")
    assert len({len(line) for line in lines}) == 1


def random_answers(photos=400, classes=6, seed=0):
    """Returns (names, truth, predicted), by name, of a classifier that is often wrong and never sees the last class."""
    random = np.random.RandomState(seed)
    names = [f"class {number}" for number in range(classes)]
    truth = random.randint(0, classes - 1, photos)
    predicted = np.where(random.rand(photos) < 0.6, truth, random.randint(0, classes, photos))
    return names, [names[index] for index in truth], [names[index] for index in predicted]


def test_bootstrap_agrees_with_resampling_photo_by_photo():
    names, truth, predicted = random_answers()
    random, accuracies, macro_f1s = np.random.RandomState(1), [], []
    for _ in range(300):
        drawn = random.randint(0, len(truth), len(truth))
        some = [truth[place] for place in drawn], [predicted[place] for place in drawn]
        accuracy, macro_f1, _ = metrics.score(some[0], some[1], names)
        accuracies.append(accuracy)
        macro_f1s.append(macro_f1)
    intervals = metrics.bootstrap_intervals(truth, predicted, names)
    for interval, resampled in zip(intervals, (accuracies, macro_f1s)):
        assert interval == pytest.approx(np.percentile(resampled, [2.5, 97.5]), abs=0.015)


def test_bootstrap_lies_around_the_figure_and_shrinks_with_photos():
    widths = []
    for photos in (100, 10000):
        names, truth, predicted = random_answers(photos)
        accuracy, macro_f1, _ = metrics.score(truth, predicted, names)
        for value, (low, high) in zip((accuracy, macro_f1), metrics.bootstrap_intervals(truth, predicted, names)):
            assert 0 <= low < value < high <= 1
            widths.append(high - low)
    assert widths[2] < widths[0] / 5
    assert widths[3] < widths[1] / 5


def test_bootstrap_is_repeatable_and_depends_on_the_seed():
    names, truth, predicted = random_answers()
    order = np.random.RandomState(3).permutation(len(truth))
    first = metrics.bootstrap_intervals(truth, predicted, names)
    assert metrics.bootstrap_intervals([truth[i] for i in order], [predicted[i] for i in order], names) == first
    assert metrics.bootstrap_intervals(truth, predicted, names, seed=1) != first


def test_bootstrap_of_what_cannot_vary():
    assert metrics.bootstrap_intervals(["bread"], ["bread"], NAMES) == ((1, 1), (1, 1))
    assert metrics.bootstrap_intervals(["bread", "dill"], ["dill", ""], NAMES) == ((0, 0), (0, 0))


# Two classes: confidences 0.9, 0.9, 0.6, 0.8; right, right, right, wrong.
PROBABILITIES = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.8, 0.2]], np.float32)
TRUTH = np.array([0, 1, 0, 1])


def test_calibration_error_of_a_worked_example():
    # bins of 0.25: (0.5, 0.75] has 1 photo, 0.6 sure, all right; (0.75, 1] has 3, 2.6 / 3 sure, 2 / 3 right
    bins = metrics.reliability_bins(PROBABILITIES, TRUTH, bins=4)
    assert [(row.low, row.high, row.photos) for row in bins] == [
        (0, 0.25, 0),
        (0.25, 0.5, 0),
        (0.5, 0.75, 1),
        (0.75, 1, 3),
    ]
    assert [row.confidence for row in bins] == pytest.approx([0, 0, 0.6, 2.6 / 3])
    assert [row.accuracy for row in bins] == pytest.approx([0, 0, 1, 2 / 3.0])
    error = metrics.expected_calibration_error(PROBABILITIES, TRUTH, bins=4)
    assert error == pytest.approx(0.25 * 0.4 + 0.75 * 0.2)
    assert type(error) is float


def test_calibration_error_has_its_ends():
    sure = np.eye(2, dtype=np.float32)
    assert metrics.expected_calibration_error(sure, [0, 1]) == 0
    assert metrics.expected_calibration_error(sure, [1, 0]) == 1
    assert metrics.expected_calibration_error(sure, [-1, -1]) == 1  # classes that the model does not know


def test_calibration_error_agrees_with_scikit_learn():
    sklearn_calibration = pytest.importorskip("sklearn.calibration")
    random = np.random.RandomState(0)
    probabilities = random.dirichlet(np.ones(5) * 0.5, 500).astype(np.float32)
    truth = random.randint(0, 5, 500)
    right = probabilities.argmax(axis=1) == truth
    accuracies, confidences = sklearn_calibration.calibration_curve(right, probabilities.max(axis=1), n_bins=15)
    filled = [row for row in metrics.reliability_bins(probabilities, truth) if row.photos]
    assert [row.accuracy for row in filled] == pytest.approx(accuracies)
    assert [row.confidence for row in filled] == pytest.approx(confidences)
    expected = np.average(np.abs(accuracies - confidences), weights=[row.photos for row in filled])
    assert metrics.expected_calibration_error(probabilities, truth) == pytest.approx(expected)


def test_coverage_of_a_worked_example():
    rows = metrics.coverage(PROBABILITIES, TRUTH, (0, 0.7, 0.85, 0.95))
    assert [row.threshold for row in rows] == [0, 0.7, 0.85, 0.95]
    assert [row.coverage for row in rows] == [1, 0.75, 0.5, 0]
    assert [row.accuracy for row in rows] == [0.75, pytest.approx(2 / 3.0), 1, None]


def test_coverage_answers_what_classify_answers():
    random = np.random.RandomState(0)
    probabilities = random.dirichlet(np.ones(4), 50).astype(np.float32)
    thresholds = [0.5] + [float(value) for value in probabilities.max(axis=1)[:5]]  # on the edge: answered
    names = ["a", "b", "c", "d"]
    rows = [Prediction("x.jpg", names, one) for one in probabilities]
    for row_at in metrics.coverage(probabilities, np.zeros(50, int), thresholds):
        answered = [row for row in rows if row_of(row, 1, row_at.threshold)[1] != UNKNOWN]
        assert row_at.coverage == pytest.approx(len(answered) / 50.0)
        assert row_at.accuracy == pytest.approx(np.mean([row.label == "a" for row in answered]))


def test_the_table_shows_names_that_no_terminal_shows():
    lines = metrics.format_table([metrics.ClassScore("a\n\x1b[31m", 0.5, 0.5, 0.5, 2)]).splitlines()
    assert len(lines) == 2 and lines[1].startswith("a\\n\\x1b[31m")
