"""The sign-flip test against all ways gone through, its interval against the test, and Holm's correction."""

import itertools

import numpy as np
import pytest

from benchmarks.bench import sign_flip


def p_by_hand(differences):
    """Goes through all signs; ranks with equal sizes shared, none for 0."""
    sizes = np.abs(differences)
    ranks = np.array([np.mean(np.nonzero(np.sort(sizes) == size)[0] + 1) if size else 0.0 for size in sizes])
    sums = [np.dot(ranks, signs) for signs in itertools.product((0, 1), repeat=len(sizes))]
    positive = ranks[np.array(differences) > 0].sum()
    return min(1.0, 2 * min(np.mean(np.array(sums) <= positive), np.mean(np.array(sums) >= positive)))


@pytest.mark.parametrize(
    "differences",
    [[3.0], [1.0, 2.0, 3.0, 4.0, 5.0], [0.5, -0.2, 0.9, 1.4, -0.1, 0.3, 0.7], [1.0, 1.0, -1.0, 2.0, 0.0], [0.0, 0.0]],
)
def test_p_is_that_of_all_signs_gone_through(differences):
    assert sign_flip.estimate(differences).p == pytest.approx(p_by_hand(differences))
    assert sign_flip.estimate(differences).p >= sign_flip.smallest_p(len(differences))


def test_the_interval_holds_what_the_test_does_not_reject():
    differences = np.random.RandomState(3).randn(12) + 0.4
    one = sign_flip.estimate(differences)
    assert one.low < one.middle < one.high
    for end, inside in ((one.low, 1e-9), (one.high, -1e-9)):
        assert sign_flip.estimate(differences - end - inside).p > 0.05
        assert sign_flip.estimate(differences - end + inside).p <= 0.05


def test_a_wild_pair_moves_the_estimate_little():
    values = [0.10, 0.11, 0.09, 0.10, 0.12, 0.08, 0.10, 0.11, 0.09, 0.10]
    calm, wild = sign_flip.estimate(values), sign_flip.estimate(values[:-1] + [5.0])
    assert wild.middle == pytest.approx(calm.middle, abs=0.02) and wild.p == calm.p


def test_few_pairs_have_no_interval_and_no_small_p():
    five = sign_flip.estimate([1.0, 1.1, 1.2, 1.3, 1.4])
    assert (five.low, five.high) == (None, None) and five.p == 2 / 32 == sign_flip.smallest_p(5)
    assert sign_flip.estimate([1.0, 1.1, 1.2, 1.3, 1.4, 1.5]).low == 1.0


def test_holm_goes_on_as_long_as_it_may():
    assert sign_flip.significant([0.001, 0.018, 0.006, 0.009]) == [True, True, True, True]
    assert sign_flip.significant([0.008, 0.008, 0.008, 0.008]) == [False] * 4
    assert sign_flip.significant([0.001, 0.012, 0.012]) == [True, False, False]
    assert sign_flip.significant([]) == []
