"""Percentiles in bounded memory, beside numpy's on all the values."""

import sys

import numpy as np
import pytest

from edge_runtime.pipeline.latency import MIN_COUNTS, Latency


def latency_of(values):
    latency = Latency()
    for value in values:
        latency.add(value)
    return latency


@pytest.mark.parametrize("percent", [0, 1, 50, 90, 99, 99.9, 100])
@pytest.mark.parametrize("scale_ms", [0.5, 20, 2e4])
def test_percentiles_are_within_one_percent_of_the_exact_ones(percent, scale_ms):
    values = np.sort(np.random.RandomState(0).lognormal(0, 1.5, 5000) * scale_ms)
    exact = values[max(0, int(np.ceil(len(values) * percent / 100.0)) - 1)]
    assert latency_of(values).percentile_ms(percent) == pytest.approx(exact, rel=0.011)


def test_count_mean_and_max_are_exact():
    latency = latency_of([3.0, 1.0, 1234.5678, 0.25])
    assert (latency.count, latency.max_ms, latency.mean_ms) == (4, 1234.5678, (3.0 + 1.0 + 1234.5678 + 0.25) / 4)


def test_a_percentile_is_never_above_the_longest():
    assert latency_of([7.0] * 662).summary() == {
        "count": 662, "mean_ms": 7.0, "p50_ms": 7.0, "p90_ms": 7.0, "p99_ms": 7.0, "max_ms": 7.0,
    }  # fmt: skip


@pytest.mark.parametrize("count, known", [(0, ""), (1, "p50"), (63, "p50"), (64, "p50 p90"), (661, "p50 p90")])
def test_a_high_percentile_of_few_is_not_given(count, known):
    summary = latency_of([7.0] * count).summary()
    assert [name for name in ("p50", "p90", "p99") if summary[name + "_ms"] is not None] == known.split()
    assert summary["count"] == count and summary["max_ms"] == (7.0 if count else 0)


def test_the_least_counts_are_those_of_loadgen_s_early_stopping():
    """With so many, and not with one fewer, the chance of at most one that is longer is no more than 1 %."""
    for percent, least in MIN_COUNTS.items():
        if percent > 50:
            share = percent / 100.0
            for count, enough in ((least, True), (least - 1, False)):
                chance = share**count + count * share ** (count - 1) * (1 - share)
                assert (chance <= 0.01) == enough


@pytest.mark.parametrize("value", [0.0, -5.0, 1e-9])
def test_what_is_no_time_at_all_is_counted(value):
    latency = latency_of([value, 10.0])
    assert latency.count == 2
    assert latency.percentile_ms(50) == pytest.approx(0.001, rel=0.02)


def test_what_takes_longer_than_the_last_bucket_keeps_its_maximum():
    latency = latency_of([1.0] * 99 + [1e12])
    assert latency.max_ms == 1e12
    assert latency.percentile_ms(99) == pytest.approx(1.0, rel=0.011)


def test_memory_does_not_grow():
    latency = latency_of([1.0])
    before = sys.getsizeof(latency._counts)
    for number in range(20000):
        latency.add(number * 0.77)
    assert sys.getsizeof(latency._counts) == before < 20000
