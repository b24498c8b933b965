"""Where an engine is accepted or refused, by how it answered beside the original (edge_runtime.gate.compare).

With `convert --labels` there is a second limit, on the macro-F1: convert/labelled.py.
"""

import typing

from edge_runtime.errors import ParityError
from edge_runtime.gate.compare import TIE_RATIO, format_table
from edge_runtime.gate.interval import share_interval
from edge_runtime.text import printable

MAX_PHOTOS = 1000  # that `picnic-edge convert` checks on and calibrates with: 256 MiB of pictures

# With fewer photos an engine that labels every second one wrongly passes more often than once in 32.
MIN_PHOTOS = 5

# Default of `picnic-edge convert --max-log-odds-change`, by precision. Measured on real photos (docs, and the trial
# benchmarks/experiments/gate_trial.py): fp32 0.000002, bf16 0.03, int8 0.10; one layer of the network 5 % too strong,
# computed in fp32: 0.006 or more. fp16 was not run on hardware: 0.002 through ONNX Runtime, with every rounding of a
# GPU written into the model, and one layer 5 % too strong there 0.02 or more.
MAX_LOG_ODDS_CHANGE = {"fp32": 0.001, "fp16": 0.01, "bf16": 0.06, "int8": 0.2}

# Below this change of the log-odds no photo but a near tie can get another label: that takes a hundred times as much.
NEGLIGIBLE_CHANGE = 0.001


class Verdict(typing.NamedTuple):
    """Whether an engine may be used, and what that rests on."""

    refused: str  # why, "" where it may be used
    photos: int  # without the near ties
    near_ties: int
    flips: int  # photos with another label, of those that are no near ties
    low: float  # 95 % interval of the share of flips among all photos that are no near ties, 0..1
    high: float
    limit: float  # of that share, 0..1
    decided: bool  # the interval is on one side of the limit, or the change of the log-odds too small for a flip
    photos_to_decide: typing.Optional[int]  # near ties included; None: decided, refused, or > MAX_PHOTOS
    log_odds_change: float
    max_log_odds_change: float


def judge(parity, min_agreement, max_log_odds_change):
    """Returns the Verdict on an engine.

    It is refused where it answered NaN or infinity, where its share of flips is above the limit even at the lower end
    of the interval, where it changes the log-odds by more than rounding explains, or where the photos decide nothing:
    fewer than MIN_PHOTOS that are no near ties, unless the log-odds change too little for another label.

    Args:
        parity: edge_runtime.gate.compare.Parity.
        min_agreement: share of the photos that must get the original's label, 0..1.
        max_log_odds_change: the largest Parity.log_odds_change; that of a precision is in MAX_LOG_ODDS_CHANGE.
    """
    count, limit = parity.photos - parity.near_ties, 1 - min_agreement
    low, high = share_interval(parity.flips, count)
    negligible = parity.log_odds_change <= NEGLIGIBLE_CHANGE
    too_few = not_enough(parity.photos) or ("" if negligible else not_enough(count, parity.near_ties))
    decided = low > limit or high <= limit or negligible
    refused = ""
    if parity.non_finite:
        refused = f"{parity.non_finite} of its probabilities are NaN or infinite"
    elif too_few:
        refused = too_few
    elif low > limit:
        refused = (
            f"another label than the original's on {parity.flips} of {count} photos; even the lower end of the 95 % "
            f"interval, {100 * low:.3g} %, is more than the {100 * limit:.3g} % of --min-agreement"
        )
    elif parity.log_odds_change > max_log_odds_change:
        refused = (
            f"it changes the log-odds of the best labels by {100 * parity.log_odds_change:.3g} %, more than the "
            f"{100 * max_log_odds_change:.3g} % of --max-log-odds-change"
        )
    return Verdict(
        refused=refused,
        photos=count,
        near_ties=parity.near_ties,
        flips=parity.flips,
        low=low,
        high=high,
        limit=limit,
        decided=decided,
        photos_to_decide=None if decided or refused else _photos_to_decide(parity, limit),
        log_odds_change=parity.log_odds_change,
        max_log_odds_change=max_log_odds_change,
    )


def require(engine_name, parity, verdict):
    """Raises ParityError when the verdict is to refuse the engine."""
    if verdict.refused:
        raise refusal(engine_name, verdict.refused, parity)


def not_enough(photos, near_ties=0):
    """Returns why nothing can be decided on so few photos, "" where something can.

    Args:
        photos: whose label is compared.
        near_ties: further photos, whose label is not compared.
    """
    if photos >= MIN_PHOTOS:
        return ""
    here = f"{photos}, and {_near_ties(near_ties)}, whose label is not compared" if near_ties else photos
    return f"nothing can be decided on fewer than {MIN_PHOTOS} photos (here {here}): give more with --calibration DIR"


def describe(verdict, halves):
    """Returns a Verdict on an engine that may be used as one or two lines of text.

    Args:
        verdict: Verdict that is not refused.
        halves: whether half of the photos of --calibration calibrate the engine, as for int8, and are no check.
    """
    same, ties = verdict.photos - verdict.flips, verdict.near_ties
    left_out = f" ({_near_ties(ties)} left out)" if ties else ""
    text = f"same label on {same} of {verdict.photos} photos{left_out}"
    if not verdict.photos:
        text = f"no label was compared, since all {ties} photos are near ties"
    if verdict.log_odds_change <= NEGLIGIBLE_CHANGE:
        return f"{text}; the log-odds change too little for another label"
    text += f"; at most {100 * verdict.high:.1f} % can differ (95 %)"
    if verdict.decided:
        return text
    photos = (verdict.photos_to_decide or MAX_PHOTOS + 1) * (2 if halves else 1)
    if not verdict.limit:
        more = "no number of photos can show that no label at all differs"
    elif photos > MAX_PHOTOS:
        more = f"that takes more photos than the {MAX_PHOTOS} that convert uses at most"
    else:
        more = f"about {photos} photos could tell (--calibration DIR{'; half of them calibrate' if halves else ''})"
    return f"{text}\nnot decided: whether it is at most {100 * verdict.limit:.2f} % (--min-agreement); {more}"


def refusal(engine_name, reason, parity):
    """Returns the ParityError to raise for an engine that is refused, with all figures."""
    worst = ", ".join(map(printable, parity.worst_photos))
    table = format_table(engine_name, parity)
    if parity.near_ties:
        table += (
            f"\n{parity.near_ties} of the {parity.photos} photos are near ties, whose label is not compared: the "
            f"original's best label is less than {TIE_RATIO} times as likely as its second"
        )
    return ParityError(f"{engine_name} is refused and was not kept: {reason}.\n{table}\nMost different: {worst}")


def _near_ties(count):
    return f"{count} near {'tie' if count == 1 else 'ties'}"


def _photos_to_decide(parity, limit):
    """Returns about how many photos put the interval on one side of the limit, if all shares stay; None: too many."""

    def decided(total):
        compared = total * (parity.photos - parity.near_ties) // parity.photos
        low, high = share_interval(int(round(parity.flips * float(total) / parity.photos)), compared)
        return low > limit or high <= limit

    few, enough = parity.photos, MAX_PHOTOS
    if few >= enough or not decided(enough):
        return None
    while few < enough - 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if decided(middle) else (middle, enough)
    return enough
