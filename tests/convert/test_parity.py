"""The gate: what it measures, at which batch sizes, and what it refuses."""

import os
import types

import numpy as np
import pytest

from convert import gate, parity, reference
from edge_runtime.bundle.reading import Bundle, Sample
from edge_runtime.engines.base import Engine
from edge_runtime.errors import OutOfMemory, ParityError, UsageError
from edge_runtime.sources.items import Item
from tests import helpers

CLASSES = sorted(helpers.COLOURS)  # as indices: blue 0, green 1, red 2


@pytest.fixture(scope="module")
def bundle(pristine_bundle):
    return Bundle.open(pristine_bundle)


@pytest.fixture(scope="module")
def sample(bundle):
    return bundle.sample()


class AnswersOfASample(Engine):
    """Answers with the sample's own probabilities, which a function of one batch may change."""

    def __init__(self, sample, change=lambda rows: rows, max_batch=12):
        super().__init__(types.SimpleNamespace(name="planted"), sample.probabilities.shape[1], max_batch, 1)
        self.known = {picture.tobytes(): row for picture, row in zip(sample.images, sample.probabilities)}
        self.change = change
        self.sizes = []

    def _open(self):
        pass

    def _infer(self, batch):
        self.sizes.append(len(batch))
        return np.array(self.change(np.stack([self.known[picture.tobytes()] for picture in batch])), np.float32)

    def _close(self):
        pass


def reverse(rows):
    """Mixes up the photos of a batch."""
    return rows[::-1]


def test_memory_that_runs_out_is_not_held_against_the_engine(sample):
    def change(rows):
        raise MemoryError()

    with pytest.raises(OutOfMemory, match="planted: .*memory"):
        parity.compare(AnswersOfASample(sample, change), sample, [4])


# ---- batch sizes


@pytest.mark.parametrize(
    "largest, sizes", [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 12])]
)
def test_the_batch_sizes_are_1_2_4_and_the_largest(largest, sizes):
    assert parity.batch_sizes(largest) == sizes


@pytest.mark.parametrize(
    "batch, sizes", [(1, [1] * 12), (4, [4, 4, 4, 1]), (5, [5, 5, 2]), (12, [12, 1]), (20, [20, 1]), (7, [7, 5])]
)
def test_every_batch_size_is_run_full_and_ends_with_a_smaller_batch_and_covers_every_photo(sample, batch, sizes):
    engine = AnswersOfASample(sample, max_batch=20)
    found = parity.compare(engine, sample, [batch])
    assert engine.sizes == sizes
    assert (found.photos, found.top1_agreement, found.max_abs_difference) == (12, 1.0, 0.0)


def test_an_engine_that_is_wrong_only_in_its_largest_batch_is_found(sample):
    """Also where there are fewer photos: some are shown again, and the worst answer to a photo counts."""
    wrong_from = 12

    def change(rows):
        return np.concatenate([rows[:wrong_from], np.roll(rows[wrong_from:], 1, axis=1)])

    found = parity.compare(AnswersOfASample(sample, change, max_batch=20), sample, [8, 20])
    assert found.batches["8"]["top1_agreement"] == 1.0
    assert found.batches["20"]["top1_agreement"] == found.top1_agreement == pytest.approx(4 / 12.0)
    assert set(found.worst_photos) <= set(sample.names[:8])


def test_an_engine_that_keeps_rows_of_the_batch_before_is_found(sample):
    """The classic mistake: a smaller batch is answered from a buffer that still holds the larger one before it."""
    engine = AnswersOfASample(sample)
    held = np.zeros((4, 3), np.float32)

    def stale(rows):
        if len(rows) == 4:
            held[:] = rows
        return held[: len(rows)]

    engine.change = stale
    assert parity.compare(engine, sample, [4]).top1_agreement < 1


def test_the_worst_of_all_batch_sizes_counts(sample):
    engine = AnswersOfASample(sample, reverse)
    assert parity.compare(engine, sample, [1]).top1_agreement == 1.0
    mixed_up = parity.compare(engine, sample, [1, 3])
    assert mixed_up.batches["1"]["top1_agreement"] == 1.0
    assert mixed_up.batches["1"]["kl_divergence"] == 0.0
    assert mixed_up.top1_agreement == mixed_up.batches["3"]["top1_agreement"] < 0.5
    assert mixed_up.max_abs_difference == mixed_up.batches["3"]["max_abs_difference"] > 0.5
    assert mixed_up.kl_divergence == mixed_up.batches["3"]["kl_divergence"] > 1


# ---- figures


def test_the_figures_are_those_of_their_formulas():
    original = np.array([[0.5, 0.5, 0.0], [0.9, 0.1, 0.0]], np.float32)
    answers = np.array([[0.25, 0.75, 0.0], [0.9, 0.05, 0.05]], np.float32)
    sample = Sample(["one", "two"], np.arange(2 * 299 * 299 * 3).astype(np.uint8).reshape(2, 299, 299, 3), [], original)
    assert sample.images[0].tobytes() != sample.images[1].tobytes()
    found = parity.compare(AnswersOfASample(sample._replace(probabilities=answers)), sample, [1])
    divergence = (0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75) + 0.1 * np.log(0.1 / 0.05)) / 2
    assert found.kl_divergence == pytest.approx(divergence, rel=1e-5)
    assert found.max_abs_difference == pytest.approx(0.25)
    assert found.mean_abs_difference == pytest.approx((0.25 + 0.25 + 0.05 + 0.05) / 6)
    assert found.top1_agreement == 0.5
    assert found.worst_photos == ["one", "two"]
    assert found.non_finite == 0


def test_a_probability_of_0_that_was_not_0_gives_a_finite_divergence(sample):
    certain = parity.compare(AnswersOfASample(sample, np.round), sample, [1])
    assert certain.top1_agreement == 1.0
    assert 0 < certain.kl_divergence < 10


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_their_photos_named(sample, value):
    bad = sample.probabilities[7]

    def change(rows):
        return np.where((rows == bad).all(axis=1)[:, None], value, rows)

    found = parity.compare(AnswersOfASample(sample, change), sample, [1, 4])
    assert found.non_finite == 3
    assert found.top1_agreement == pytest.approx(11 / 12.0)
    assert found.worst_photos[0] == sample.names[7]
    assert np.isfinite([found.max_abs_difference, found.mean_abs_difference, found.kl_divergence]).all()
    with pytest.raises(ParityError, match="3 of .*NaN(.|\n)*" + sample.names[7]):
        gate.require_agreement("planted", found, 0.0)


def test_an_engine_that_fails_is_refused(sample):
    with pytest.raises(ParityError, match=r"planted .*float32 \(1, 2\)"):
        parity.compare(AnswersOfASample(sample, lambda rows: rows[:, :2]), sample, [1])


def test_worst_photos_with_odd_names_are_spelled_out(sample):
    odd = sample._replace(names=[name + "\n\x1b[2J\udcff" for name in sample.names])
    found = parity.compare(AnswersOfASample(odd, lambda rows: rows[:, ::-1]), odd, [1])
    with pytest.raises(ParityError) as refused:
        gate.require_agreement("planted", found, 1.0)
    last = str(refused.value).split("\n")[-1]
    assert last.startswith("Most different: ") and "\\n\\x1b[2J\\xff" in last


# ---- labelled photos


def test_macro_f1_is_scikit_learn_s():
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.RandomState(0)
    for classes in (2, 5, 40):
        truth, predicted = random.randint(0, classes, (2, 60))
        truth[truth == 1] = 0  # a class that is only predicted
        expected = metrics.f1_score(truth, predicted, average="macro")
        assert parity.macro_f1(truth, predicted) == pytest.approx(expected)


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
    return parity.compare_labelled(bundle, labelled, answers)


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
        answers = parity.classify(bundle, engine, labelled)
    assert [answer is None for answer in answers] == [False] * 3 + [True] * 2
    found = parity.compare_labelled(bundle, labelled, answers)
    assert (found["photos"], found["macro_f1_drop"]) == (3, 0.0)
    assert "2 of 5 labelled photos cannot be read" in capsys.readouterr().err
    with pytest.raises(UsageError, match="2 photos"):
        parity.compare_labelled(bundle, labelled[3:], answers[3:])


@pytest.mark.parametrize("drop, refused", [(-0.1, False), (0.0, False), (0.0049, False), (0.0051, True)])
def test_half_a_point_of_macro_f1_is_the_limit(sample, drop, refused):
    found = parity.compare(AnswersOfASample(sample), sample, [1])
    labelled = {"photos": 500, "top1_original": 0.8, "top1_engine": 0.8}
    labelled.update(macro_f1_original=0.7, macro_f1_engine=0.7 - drop, macro_f1_drop=drop)
    found = found._replace(labelled=labelled)
    if not refused:
        gate.require_macro_f1("planted", found)
        return
    with pytest.raises(ParityError) as error:
        gate.require_macro_f1("planted", found)
    said = str(error.value)
    assert "macro-F1 is 0.51 points below the original's, 0.5 are allowed" in said
    assert "on 500 labelled photos" in said and "Most different: " in said


def test_the_table_shows_a_line_per_batch_size(sample):
    found = parity.compare(AnswersOfASample(sample, reverse), sample, [1, 3])
    lines = parity.format_table("planted", found).split("\n")
    assert lines[0] == "planted beside the original, on 12 photos"
    assert [line.split()[0] for line in lines[2:]] == ["1", "3"]
    assert lines[2].split()[1:] == ["100.00", "%", "0.0e+00", "0.0e+00", "0.0e+00", "0"]
    assert len({len(line) for line in lines[1:]}) == 1


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
        parity.classify(bundle, Failing(sample, lost), labelled)
