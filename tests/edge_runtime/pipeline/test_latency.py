"""Percentiles in bounded memory, beside numpy's on all the values."""

import sys

import numpy as np
import pytest

from edge_runtime.pipeline.latency import Latency


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
    assert latency_of([7.0]).summary() == {
        "count": 1, "mean_ms": 7.0, "p50_ms": 7.0, "p90_ms": 7.0, "p99_ms": 7.0, "max_ms": 7.0,
    }  # fmt: skip


def test_nothing_added_is_all_zero():
    assert set(Latency().summary().values()) == {0}


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
