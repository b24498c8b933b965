"""95 % intervals of a share, against published and scipy's values."""

import numpy as np
import pytest

from edge_runtime.gate.interval import share_interval


@pytest.mark.parametrize(
    "count, total, low, high",
    [
        (0, 128, 0.0, 0.0284080534),  # 1 - 0.025 ** (1 / 128)
        (1, 128, 0.0001977758, 0.0427590319),
        (4, 128, 0.0085789355, 0.0780795255),
        (5, 64, 0.0258538402, 0.1729783290),
        (500, 1000, 0.4685491730, 0.5314508270),
        (10, 10, 0.6915028921, 1.0),
        (1, 1, 0.025, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_the_interval_is_clopper_s_and_pearson_s(count, total, low, high):
    assert share_interval(count, total) == pytest.approx((low, high), abs=1e-9)


def test_it_agrees_with_scipy():
    beta = pytest.importorskip("scipy.stats").beta
    for count, total in ((3, 64), (17, 90), (999, 1000)):
        expected = beta.ppf(0.025, count, total - count + 1), beta.ppf(0.975, count + 1, total - count)
        assert share_interval(count, total) == pytest.approx(expected, abs=1e-9)


def test_it_contains_the_true_share_in_95_of_100_trials_or_more():
    for share in (0.005, 0.1):
        counts, trials = np.unique(np.random.RandomState(0).binomial(128, share, 2000), return_counts=True)
        intervals = [share_interval(int(count), 128) for count in counts]
        inside = sum(number for (low, high), number in zip(intervals, trials) if low <= share <= high)
        assert inside / 2000.0 >= 0.95
