"""Permutation tests: whether two samples differ by more than chance, and Holm's correction for many tests."""

import functools
import typing

import numpy as np

FAMILY_ALPHA = 0.02  # for all tests together
_ORDERS = 20000  # enough for Holm's correction over 200 figures


class Part(typing.NamedTuple):
    """Two samples, whose difference is a part of a sum."""

    factor: float  # of the difference in the sum
    higher: bool  # the faster half of a sample is the half with the higher values
    first: np.ndarray
    second: np.ndarray


def difference(parts):
    """Returns by how much the second samples' faster halves lie above the first ones', summed over Parts."""
    return float(
        sum(
            part.factor * (faster_half(part.second, part.higher) - faster_half(part.first, part.higher))
            for part in parts
        )
    )


def permutation_p(parts, offset=0.0):
    """Tests whether the difference of the parts plus an offset is larger than chance makes it.

    Args:
        parts: list of Part.
        offset: added to the difference that was observed.

    Returns:
        two-sided p, 0..1: how often each part's values, divided by chance into two samples, differ as much.
    """
    observed, by_chance = abs(difference(parts) + offset), np.zeros(_ORDERS)
    for place, part in enumerate(parts):
        count = len(part.first)
        both = np.concatenate([part.first, part.second])[_random_orders(count + len(part.second), place)]
        halves = [faster_half(both[:, :count], part.higher), faster_half(both[:, count:], part.higher)]
        by_chance += part.factor * (halves[1] - halves[0])
    as_much = np.abs(by_chance) >= observed * (1 - 1e-9)  # sums of the same numbers may differ in their last bits
    return float((1 + np.count_nonzero(as_much)) / (1 + _ORDERS))


@functools.lru_cache(maxsize=64)
def _random_orders(count, seed):
    """Returns uint16 [_ORDERS, count]: orders of count values, always the same ones."""
    return np.argsort(np.random.RandomState(seed).rand(_ORDERS, count), axis=1).astype(np.uint16)


def faster_half(values, higher):
    """Returns the mean of the higher or lower half along the last axis, the middle value included."""
    ordered = np.sort(values, axis=-1)
    count = (ordered.shape[-1] + 1) // 2
    return (ordered[..., -count:] if higher else ordered[..., :count]).mean(axis=-1)


def significant(ps):
    """Returns for each p whether it is significant, at FAMILY_ALPHA for all (S. Holm, Scand. J. Statist. 6, 1979)."""
    flags = [False] * len(ps)
    for place, number in enumerate(sorted(range(len(ps)), key=lambda number: ps[number])):
        if ps[number] > FAMILY_ALPHA / (len(ps) - place):
            break
        flags[number] = True
    return flags
