"""Sign-flip test, estimate and interval for paired differences, and Holm's correction for many tests.

Where nothing differs between the two of a pair and a coin decides which one comes first, a difference is as likely as
its negative, whatever the noise and however it lasts from pair to pair. So the test is exact: of all 2^n ways to give
n differences their signs, it counts those that are as one-sided as the observed ones. The statistic is the sum of the
ranks of the positive differences (F. Wilcoxon, Biometrics Bulletin 1, 1945), so that one disturbed pair counts no more
than its rank.
"""

import functools
import typing

import numpy as np

FAMILY_ALPHA = 0.02  # for all tests together
CONFIDENCE = 0.95


class Estimate(typing.NamedTuple):
    """What paired differences show."""

    middle: float  # median of the means of all pairs of differences (Hodges and Lehmann)
    low: typing.Optional[float]  # interval of CONFIDENCE by inversion of the test; None: fewer than 6 differences
    high: typing.Optional[float]
    p: float  # two-sided, 2 / 2^n at least


def estimate(differences):
    """Tests whether differences lie about 0, and estimates where they lie.

    Args:
        differences: list of finite float, one or more.

    Returns:
        Estimate.
    """
    values = np.asarray(differences, np.float64)
    ranks = _doubled_ranks(np.abs(values))
    ways = _ways_to_sum(tuple(sorted(ranks.tolist())))
    positive = int(ranks[values > 0].sum())
    share = min(ways[: positive + 1].sum(), ways[positive:].sum()) / ways.sum()
    means = np.sort(((values[:, None] + values[None, :]) / 2)[np.triu_indices(len(values))])
    # The interval holds each shift of the differences that the test would not reject.
    chances = np.cumsum(_ways_to_sum(tuple(range(1, len(values) + 1)))) / 2.0 ** len(values)
    cut = int(np.searchsorted(chances, (1 - CONFIDENCE) / 2, side="right"))
    low, high = (float(means[cut - 1]), float(means[-cut])) if cut else (None, None)
    return Estimate(float(np.median(means)), low, high, min(1.0, 2 * float(share)))


def smallest_p(count):
    """Returns the smallest p that so many differences can have."""
    return 2.0 ** (1 - count)


def significant(ps):
    """Returns for each p whether it is significant, at FAMILY_ALPHA for all (S. Holm, Scand. J. Statist. 6, 1979)."""
    flags = [False] * len(ps)
    for place, number in enumerate(sorted(range(len(ps)), key=lambda number: ps[number])):
        if ps[number] > FAMILY_ALPHA / (len(ps) - place):
            break
        flags[number] = True
    return flags


def _doubled_ranks(sizes):
    """Returns twice the rank of each size, int: 2 for the smallest; equal sizes share theirs, a size of 0 has none."""
    ranks = (sizes[None, :] < sizes[:, None]).sum(axis=1) + (sizes[None, :] <= sizes[:, None]).sum(axis=1) + 1
    return np.where(sizes > 0, ranks, 0)


@functools.lru_cache(maxsize=256)
def _ways_to_sum(ranks):
    """Returns for each sum how many subsets of the ranks, a tuple of int, have it."""
    ways = np.ones(1)
    for rank in ranks:
        shifted = np.concatenate([np.zeros(rank), ways])
        shifted[: len(ways)] += ways
        ways = shifted
    return ways
