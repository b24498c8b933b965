"""The scores, against numbers worked out by hand."""

import pytest

from train import metrics

NAMES = ["apples", "bread", "cheese", "dill"]


def test_score_of_a_worked_example():
    # apples: 3 photos, 2 found, 1 wrongly claimed  -> precision 2/3, recall 2/3, F1 2/3
    # bread:  2 photos, 1 found, none claimed wrong -> precision 1,   recall 1/2, F1 2/3
    # cheese: 1 photo,  found, 1 wrongly claimed    -> precision 1/2, recall 1,   F1 2/3
    # dill:   1 photo,  missed, 1 wrongly claimed   -> all 0
    truth = ["apples", "apples", "apples", "bread", "bread", "cheese", "dill"]
    found = ["apples", "apples", "dill", "bread", "cheese", "cheese", "apples"]
    accuracy, macro_f1, table = metrics.score(truth, found, NAMES)
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
