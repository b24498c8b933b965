"""The gate: what it measures, at which batch sizes, and what it refuses."""

import numpy as np
import pytest

from edge_runtime.bundle.reading import Bundle, Sample
from edge_runtime.engines.check import check
from edge_runtime.errors import OutOfMemory, ParityError
from edge_runtime.gate import compare, judge
from tests.planted import AnswersOfASample, measure


@pytest.fixture(scope="module")
def bundle(pristine_bundle):
    return Bundle.open(pristine_bundle)


@pytest.fixture(scope="module")
def sample(bundle):
    return bundle.sample()


def reverse(rows):
    """Mixes up the photos of a batch."""
    return rows[::-1]


def test_memory_that_runs_out_is_not_held_against_the_engine(sample):
    def change(rows):
        raise MemoryError()

    with pytest.raises(OutOfMemory, match="planted: .*memory"):
        measure(AnswersOfASample(sample, change), sample, [4])


# ---- batch sizes


@pytest.mark.parametrize(
    "largest, sizes", [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 12])]
)
def test_the_batch_sizes_are_1_2_4_and_the_largest(largest, sizes):
    assert compare.batch_sizes(largest) == sizes


@pytest.mark.parametrize(
    "batch, sizes",
    [(1, [1] * 12), (4, [4, 4, 4, 3]), (5, [5, 5, 5, 4]), (12, [12, 11]), (20, [20, 19]), (7, [7, 7, 6])],
)
def test_every_batch_size_is_run_full_and_ends_with_a_smaller_batch_and_covers_every_photo(sample, batch, sizes):
    engine = AnswersOfASample(sample, max_batch=20)
    found = measure(engine, sample, [batch])
    assert engine.sizes == sizes
    assert (found.photos, found.top1_agreement, found.max_abs_difference) == (12, 1.0, 0.0)


def test_an_engine_that_is_wrong_only_in_its_largest_batch_is_found(sample):
    """Also where there are fewer photos: some are shown again, and the worst answer to a photo counts."""

    def change(rows):
        wrong_from = 12 if len(rows) == 20 else len(rows)
        return np.concatenate([rows[:wrong_from], np.roll(rows[wrong_from:], 1, axis=1)])

    found = measure(AnswersOfASample(sample, change, max_batch=20), sample, [8, 20])
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
    assert measure(engine, sample, [4]).top1_agreement < 1


def test_the_worst_of_all_batch_sizes_counts(sample):
    engine = AnswersOfASample(sample, reverse)
    assert measure(engine, sample, [1]).top1_agreement == 1.0
    mixed_up = measure(engine, sample, [1, 3])
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
    found = measure(AnswersOfASample(sample._replace(probabilities=answers)), sample, [1])
    divergence = (0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75) + 0.1 * np.log(0.1 / 0.05)) / 2
    assert found.kl_divergence == pytest.approx(divergence, rel=1e-5)
    assert found.max_abs_difference == pytest.approx(0.25)
    assert found.mean_abs_difference == pytest.approx((0.25 + 0.25 + 0.05 + 0.05) / 6)
    assert found.top1_agreement == 0.5
    assert found.worst_photos == ["one", "two"]
    assert found.non_finite == 0


def test_a_probability_of_0_that_was_not_0_gives_a_finite_divergence(sample):
    certain = measure(AnswersOfASample(sample, np.round), sample, [1])
    assert certain.top1_agreement == 1.0
    assert 0 < certain.kl_divergence < 10


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_their_photos_named(sample, value):
    bad = sample.probabilities[7]

    def change(rows):
        return np.where((rows == bad).all(axis=1)[:, None], value, rows)

    found = measure(AnswersOfASample(sample, change), sample, [1, 4])
    assert found.non_finite == 3
    assert found.top1_agreement == pytest.approx(11 / 12.0)
    assert found.worst_photos[0] == sample.names[7]
    assert np.isfinite([found.max_abs_difference, found.mean_abs_difference, found.kl_divergence]).all()
    with pytest.raises(ParityError, match="3 of .*NaN(.|\n)*" + sample.names[7]):
        judge.require("planted", found, judge.judge(found, 0.0, 1.0))


def test_an_engine_that_fails_is_refused(sample):
    with pytest.raises(ParityError, match=r"planted .*float32 \(1, 2\)"):
        check(AnswersOfASample(sample, lambda rows: rows[:, :2]), sample, 0.995, 0.06)


def test_worst_photos_with_odd_names_are_spelled_out(sample):
    odd = sample._replace(names=[name + "\n\x1b[2J\udcff" for name in sample.names])
    found = measure(AnswersOfASample(odd, lambda rows: rows[:, ::-1]), odd, [1])
    with pytest.raises(ParityError) as refused:
        judge.require("planted", found, judge.judge(found, 1.0, 1.0))
    last = str(refused.value).split("\n")[-1]
    assert last.startswith("Most different: ") and "\\n\\x1b[2J\\xff" in last


def test_the_table_shows_a_line_per_batch_size(sample):
    found = measure(AnswersOfASample(sample, reverse), sample, [1, 3])
    lines = compare.format_table("planted", found).split("\n")
    assert lines[0] == "planted beside the original, on 12 photos"
    assert [line.split()[0] for line in lines[2:]] == ["1", "3"]
    assert lines[2].split()[1:] == ["100.00", "%", "0.0e+00", "0.0e+00", "0.000", "%", "0"]
    assert len({len(line) for line in lines[1:]}) == 1
