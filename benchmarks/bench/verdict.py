"""Is it really slower? The verdict of `bench --against`, from the rounds in which both were measured."""

import math
import typing

import numpy as np

from benchmarks.bench import sign_flip
from benchmarks.bench.summary import METRICS, points_of, values_of
from benchmarks.bench.worker import END_TO_END

MIN_CHANGE = 0.05  # smaller ones do not matter, however sure
NO_CHANGE, TOO_FEW = "no change beyond noise", "cannot be told"


class Figure(typing.NamedTuple):
    """One figure of both sides. Ratios are this side's figure over the other one's."""

    name: str  # such as "images_per_s b8"
    higher: bool  # it is better when it is higher
    this: float  # median of the windows
    other: float
    ratio: float
    low: typing.Optional[float]  # 95 % interval of the ratio; None: too few rounds
    high: typing.Optional[float]
    p: float
    changed: bool  # beyond noise, and by MIN_CHANGE or more
    worse: bool  # changed, to the bad side
    verdict: str  # "worse", "better", NO_CHANGE or TOO_FEW
    ratios: typing.List[float]  # one per round


def rounds_of(these, others):
    """Returns [(name of a figure, is it better when higher, [(this, other) of each round])].

    Args:
        these, others: the windows of both, as in bench.json. A figure that either lacks is left out.
    """
    figures = []
    for key in METRICS + ("joules_per_image",):
        pairs = {
            point: list(zip(values_of(these, point, key), values_of(others, point, key)))
            for point in (["b1"] if key == "p50_ms" else points_of(these))
        }
        pairs = {point: values for point, values in pairs.items() if values}
        if len(pairs) > 1:
            pairs["all"] = overall(list(pairs.values()))
        for point, values in pairs.items():
            if key != "cpu_s_per_image" or point in (
                END_TO_END,
                "all",
            ):  # at the others it follows the time of the calls
                figures.append((f"{key} {point}", key == "images_per_s", values))
    return figures


def overall(pairs_of_points):
    """Returns the pairs of the geometric means over all points: what the points have in common shows in them first.

    Args:
        pairs_of_points: a list of pairs for each point, as in rounds_of.
    """
    return [tuple(np.exp(np.mean(np.log(one), axis=0)).tolist()) for one in zip(*pairs_of_points)]


def judge(rounds, least_change=MIN_CHANGE):
    """Returns a list of Figure.

    Args:
        rounds: what rounds_of returns; each pair was measured in the order that a coin gave.
        least_change: smaller changes do not count, however sure; a share.
    """
    logs = [[math.log(this / other) for this, other in pairs] for _, _, pairs in rounds]
    estimates = [sign_flip.estimate(values) for values in logs]
    flags = sign_flip.significant([one.p for one in estimates])
    figures = []
    for (name, higher, pairs), values, one, significant in zip(rounds, logs, estimates, flags):
        this, other = np.median(pairs, axis=0)
        low, high = (None if one.low is None else math.exp(end) for end in (one.low, one.high))
        changed = significant and abs(one.middle) >= math.log(1 + least_change)
        worse = changed and (one.middle > 0) != higher
        few = sign_flip.smallest_p(len(values)) > sign_flip.FAMILY_ALPHA / len(rounds)
        verdict = ("worse" if worse else "better") if changed else TOO_FEW if few else NO_CHANGE
        ratios = [math.exp(value) for value in values]
        ends = (float(this), float(other), math.exp(one.middle), low, high)
        figures.append(Figure(name, higher, *ends, one.p, changed, worse, verdict, ratios))
    return figures
