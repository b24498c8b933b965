"""convert --labels: an engine's labels beside the true ones."""

import os

import numpy as np
import pytest

from convert import reference
from convert.labelled import classify, compare_labelled, describe, drop_interval, macro_f1, require_macro_f1
from edge_runtime.bundle.reading import Bundle
from edge_runtime.errors import ParityError, UsageError
from edge_runtime.sources.items import Item
from tests import helpers
from tests.planted import AnswersOfASample, measure

CLASSES = sorted(helpers.COLOURS)  # as indices: blue 0, green 1, red 2


@pytest.fixture(scope="module")
def bundle(pristine_bundle):
    return Bundle.open(pristine_bundle)


@pytest.fixture(scope="module")
def sample(bundle):
    return bundle.sample()


def test_macro_f1_is_scikit_learn_s():
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.RandomState(0)
    for classes in (2, 5, 40):
        truth, predicted = random.randint(0, classes, (2, 60))
        truth[truth == 1] = 0  # a class that is only predicted
        expected = metrics.f1_score(truth, predicted, average="macro")
        assert macro_f1(truth, predicted) == pytest.approx(expected)


def test_labels_are_read_from_a_table_and_from_class_folders(bundle, tmp_path, capsys):
    rows = helpers.write_photos(tmp_path / "photos", per_class=2)
    more = [("red/00.jpg", "purple"), ("../x.jpg", "red"), ("red/01.jpg", "")]
    helpers.write_table(str(tmp_path / "labels.tsv"), rows + more)
    found = reference.labelled_photos(bundle, str(tmp_path / "labels.tsv"), str(tmp_path / "photos"))
    assert [(item.name, CLASSES[label]) for item, label in found] == rows
    assert all(os.path.isfile(item.path) for item, _ in found)
    assert "3 of 9 rows have no usable name or label" in capsys.readouterr().err
    folders = reference.labelled_photos(bundle, str(tmp_path / "photos"))
    assert sorted((item.name, CLASSES[label]) for item, label in folders) == sorted(rows)


@pytest.mark.parametrize(
    "content, images, said",
    [
        ("file\tlabel\nred/00.jpg\tpurple\n", None, "no photo.*label"),
        ("file\tlabel\n", None, "no photo.*label"),
        ("file\tclass\nred/00.jpg\tred\n", None, "column.*label"),
        ("file\tlabel\nred/00.jpg\tred\n", "nosuch", "--images nosuch: "),
        (None, None, "No such file"),
    ],
)
def test_labels_that_cannot_be_used_are_wrong_usage(bundle, tmp_path, content, images, said):
    table = tmp_path / "labels.tsv"
    if content is not None:
        table.write_text(content)
    with pytest.raises(UsageError, match=said):
        reference.labelled_photos(bundle, str(table), images)


def scores(bundle, folder, rows, wrong):
    """Returns what compare_labelled says of an engine that answers class 0 for the first `wrong` photos."""
    helpers.write_table(str(folder / "labels.tsv"), rows)
    labelled = reference.labelled_photos(bundle, str(folder / "labels.tsv"))
    answers = [np.eye(3)[0 if place < wrong else label] for place, (_, label) in enumerate(labelled)]
    return compare_labelled(bundle, labelled, answers)


def test_the_drop_is_measured_against_the_original_s_own_labels(bundle, tmp_path):
    rows = sorted(helpers.write_photos(tmp_path, per_class=4), key=lambda row: row[1] != "red")
    found = scores(bundle, tmp_path, rows, wrong=1)
    assert found["photos"] == 12
    assert (found["top1_original"], found["top1_engine"]) == (1.0, pytest.approx(11 / 12.0))
    expected = (1 + 8 / 9.0 + 6 / 7.0) / 3  # a red one was taken for blue
    assert found["macro_f1_engine"] == pytest.approx(expected)
    assert found["macro_f1_drop"] == pytest.approx(1 - expected)


def test_unreadable_labelled_photos_are_left_out(bundle, tmp_path, capsys):
    rows = helpers.write_photos(tmp_path, per_class=1)
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    helpers.write_table(str(tmp_path / "labels.tsv"), rows + [("broken.jpg", "red"), ("nosuch.jpg", "red")])
    labelled = reference.labelled_photos(bundle, str(tmp_path / "labels.tsv"))
    with reference.open_original(bundle) as engine:
        answers = classify(bundle, engine, labelled)
    assert [answer is None for answer in answers] == [False] * 3 + [True] * 2
    found = compare_labelled(bundle, labelled, answers)
    assert (found["photos"], found["labels_changed"], found["macro_f1_drop"]) == (3, 0, 0.0)
    assert "2 of 5 labelled photos cannot be read" in capsys.readouterr().err
    with pytest.raises(UsageError, match="2 photos"):
        compare_labelled(bundle, labelled[3:], answers[3:])


@pytest.mark.parametrize("low, refused", [(-0.1, False), (0.0049, False), (0.0051, True)])
def test_macro_f1_may_fall_by_no_more_than_the_limit_surely(sample, low, refused):
    found = measure(AnswersOfASample(sample), sample, [1])
    scores = {"photos": 500, "top1_original": 0.8, "top1_engine": 0.8, "macro_f1_original": 0.7}
    scores.update(
        labels_changed=30, macro_f1_engine=0.68, macro_f1_drop=0.02, macro_f1_drop_low=low, macro_f1_drop_high=0.04
    )
    if not refused:
        require_macro_f1("planted", found, scores, 0.005)
        text = describe(scores, 0.005, 0.03)
        assert "falls by 2.00 points; 95 %% interval of the change: -4.00 to %+.2f" % (-100 * low) in text
        assert "not decided: whether it falls by at most 0.5 points" in text
        return
    with pytest.raises(ParityError) as error:
        require_macro_f1("planted", found, scores, 0.005)
    said = str(error.value)
    assert "macro-F1 is 2 points below the original's" in said and "0.51, is more than the 0.5 of --max-f1-drop" in said
    assert "on 500 labelled photos" in said and "Most different: " in said


def test_the_interval_of_the_drop_is_paired_and_covers_what_it_should():
    """Of 100 trials about 95 contain the true drop."""
    random, inside = np.random.RandomState(0), 0
    truth = random.randint(0, 4, 200000)

    def answers(photos, wrong):
        return np.where(random.rand(len(photos)) < wrong, (photos + 1) % 4, photos)

    original, predicted = answers(truth, 0.1), answers(truth, 0.15)
    true_drop = macro_f1(truth, original) - macro_f1(truth, predicted)
    for trial in range(20):
        part = slice(200 * trial, 200 * trial + 200)
        low, high = drop_interval(truth[part], original[part], predicted[part])
        inside += low <= true_drop <= high
    assert inside >= 17


@pytest.mark.parametrize("photos, high", [(1, 0.975), (50, 0.0711), (736, 0.005)])
def test_that_no_label_changed_is_no_certainty(photos, high):
    truth = np.arange(photos) % 4
    low, top = drop_interval(truth, truth, truth)
    assert (low, top) == (-top, pytest.approx(high, rel=0.01))
    scores = {"photos": photos, "macro_f1_drop": 0.0, "macro_f1_drop_low": low, "macro_f1_drop_high": top}
    scores.update(labels_changed=0)
    text = describe(scores, 0.005, 0.03)
    assert text.startswith("macro-F1 falls by 0.00 points; 95 %% interval of the change: -%.2f to " % (100 * top))
    assert ("not decided" in text) == (photos < 736)
    if photos == 50:
        assert "about 711 labelled photos could tell" in text
    assert describe(scores, 0.005, 1e-6).startswith("macro-F1 is the same")


def test_how_many_labelled_photos_could_tell():
    scores = {
        "photos": 300,
        "labels_changed": 20,
        "macro_f1_drop": 0.001,
        "macro_f1_drop_low": -0.015,
        "macro_f1_drop_high": 0.017,
    }
    assert "about 4800 labelled photos could tell" in describe(scores, 0.005, 0.03)  # 4 times as narrow
    assert "not decided" not in describe(scores, 0.02, 0.03)
    larger = dict(scores, macro_f1_drop=0.008, macro_f1_drop_low=-0.01, macro_f1_drop_high=0.016)
    assert "about 10800 labelled photos could tell" in describe(larger, 0.005, 0.03)  # 6 times as narrow: too large
    assert "more than 100000" in describe(dict(scores, macro_f1_drop=0.005), 0.005, 0.03)


def test_a_macro_f1_that_rises_is_said_so():
    scores = {"photos": 300, "labels_changed": 9, "macro_f1_drop": -0.0043}
    scores.update(macro_f1_drop_low=-0.012, macro_f1_drop_high=0.003)
    text = describe(scores, 0.005, 0.03)
    assert text == "macro-F1 rises by 0.43 points; 95 % interval of the change: -0.30 to +1.20"


# ---- engines that fail on labelled photos


class Failing(AnswersOfASample):
    """Knows no photo but the plain grey one that it is tried with, and that only if it is told to."""

    def __init__(self, sample, lost):
        super().__init__(sample)
        self.lost = lost

    def _infer(self, batch):
        if self.lost or batch.min() != batch.max():
            raise RuntimeError("no such kernel")
        return np.full((len(batch), len(CLASSES)), 1 / 3.0, np.float32)


@pytest.mark.parametrize("lost, reason", [(False, "2 of 3 photos"), (True, "no such kernel")])
def test_an_engine_that_fails_on_labelled_photos_is_refused(bundle, sample, tmp_path, lost, reason):
    labelled = []
    for name in ("a.jpg", "gone.jpg", "b.jpg"):
        labelled.append((Item(name, str(tmp_path / name), ""), 0))
        if name != "gone.jpg":
            helpers.write_photo(tmp_path / name, helpers.photo(helpers.COLOURS["red"]))
    with pytest.raises(ParityError, match="planted (.|\n)*" + reason):
        classify(bundle, Failing(sample, lost), labelled)
