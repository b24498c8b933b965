"""Exact 95 % intervals of a share: Clopper and Pearson, Biometrika 26 (1934)."""

import numpy as np

CONFIDENCE = 0.95  # two-sided: 2.5 % on each side
_STEPS = 60  # of a bisection of 0..1, to the last digit of a double


def share_interval(count, total):
    """Returns the 95 % interval (low, high) of a share of which count of total were seen, both 0..1.

    Args:
        count: int, 0..total.
        total: int, 0 or more; with 0 the share may be anything.
    """
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if count == 0 else _solve(lambda share: 1 - _at_most(count - 1, total, share) < tail)
    high = 1.0 if count == total else _solve(lambda share: _at_most(count, total, share) > tail)
    return low, high


def _solve(below):
    """Returns where in 0..1 a condition that holds at first ends."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return low


def _at_most(count, total, share):
    """Returns the probability that of total photos at most count are of a kind that has this share, 0 < share < 1."""
    hits = np.arange(count + 1)
    choose = np.concatenate([[0.0], np.cumsum(np.log((total - hits[:-1]) / (hits[:-1] + 1.0)))])
    return float(np.exp(choose + hits * np.log(share) + (total - hits) * np.log1p(-share)).sum())
