"""Which preprocessing a model expects: every candidate is scored on the same labelled photos, and compared in pairs.

The score is the mean log loss of the true class, in nats, after one temperature was fitted for each candidate: an
overconfident network on the right pictures would else lose against flat answers to wrong ones.
"""

import functools
import hashlib
import itertools
import re
import typing

import numpy as np

from edge_runtime import console
from edge_runtime.console import progress, say
from edge_runtime.errors import ImageError, UsageError
from edge_runtime.gate.interval import CONFIDENCE, share_interval
from edge_runtime.machine.libraries import require
from edge_runtime.text import printable
from train.importing import proof
from train.importing.preprocessing import (
    PRESETS,
    SCALES,
    Preprocessing,
    as_input,
    in_order,
    input_spec,
    of_declared,
    resize_name,
    scale_name,
)
from train.model import calibrate

MIN_PHOTOS = proof.MIN_LABELLED  # labelled ones, to choose by
MAX_PHOTOS = 400  # labelled ones that are used
_FINALISTS = 8  # candidates that are scored on more than MIN_PHOTOS photos, at most
# (photos, candidates that go on at most): most candidates are hopeless, and a network may take long.
_ROUNDS = ((16, 16), (MIN_PHOTOS, _FINALISTS))
_LEAST = 4  # candidates that go on, at least
_CLEARLY = 100  # comparisons by which a 95 % interval is corrected before a candidate is given up
_RESIZES = (("squash", None), ("crop", 0.875), ("crop", 1.0), ("letterbox", None))  # the simplest first
_RESAMPLES = 20000  # of 40 candidates the corrected tail has a dozen of them
_PERMUTATIONS = 2000
_NEGLIGIBLE = 1e-4  # nats: less log loss than that is rounding
_SHOWN_LABELS = 30  # of a suggested order
_KIND_PHOTOS = 64  # that tell logits from probabilities, where none are labelled


class Score(typing.NamedTuple):
    """How well an original answers photos that were prepared in one way.

    Attributes:
        preprocessing: Preprocessing.
        right: bool [photos], whether the label is the true one.
        losses: float64 [photos], log loss of the true class in nats.
        probabilities: float32 [photos, classes], before the temperature.
    """

    preprocessing: Preprocessing
    right: np.ndarray
    losses: np.ndarray
    probabilities: np.ndarray

    @property
    def accuracy(self):
        """0..1."""
        return float(self.right.mean())

    @property
    def loss(self):
        """The mean log loss in nats."""
        return float(self.losses.mean())


class Choice(typing.NamedTuple):
    """The preprocessing that a model is taken to expect, and what its answers are.

    Attributes:
        preprocessing: Preprocessing.
        filter_assumed: neither the files nor the preset nor the options name the filter.
        kind: of the answers, "logits" or "probabilities".
        without_background: the first output is the class "background", which is left out.
        decided_by: "photos"; "declared": the files, the preset or the options; "simplest": neither tells.
        photos: how many labelled ones the candidates were scored on; 0: none was scored.
        used: the file names of the labelled photos that chose.
        scores: list of Score on all of these photos, the best first.
        equal: list of Preprocessing that the photos cannot tell from the chosen one.
        warnings: list of text: the files say otherwise; another order of the labels would be better.
        table: all candidates with their figures, and what decided, as text for people; "" where none was scored.
    """

    preprocessing: Preprocessing
    filter_assumed: bool
    kind: str
    without_background: bool
    decided_by: str
    photos: int
    used: typing.FrozenSet[str]
    scores: typing.List[Score]
    equal: typing.List[Preprocessing]
    warnings: typing.List[str]
    table: str


def candidates(original, declared, fixed=()):
    """Returns all Preprocessings that fit a graph and what the user fixed, the simplest first.

    Args:
        original: train.importing.original.Original.
        declared: result of train.importing.preprocessing.from_options; what it says is one candidate among others.
        fixed: names of the options that the user gave, of "scale", "channels" and "resize": there only what is declared
            is left.
    """
    resizes = [input_spec(declared, *one) for one in _RESIZES]
    if declared.resize:
        stated = input_spec(declared, declared.resize)
        resizes = [stated] if "resize" in fixed else resizes + [stated]
    channels = [declared.channels] if "channels" in fixed else ["RGB", "BGR"]
    result = []
    for spec, order in itertools.product(resizes, channels):
        for mean, std in _scales(original, declared, fixed, order):
            one = Preprocessing(spec, order, mean, std)
            if one not in result:
                result.append(one)
    return result


def _scales(original, declared, fixed, channels):
    """Returns the (mean, std) that fit, each in the order of the channels."""
    if original.dtype == "uint8":
        return [SCALES["0..255"][1:]]
    result = []
    if declared.mean:
        result.append(in_order(declared.mean, declared.std, (declared.channels or "RGB") == channels))
    if "scale" in fixed:
        return result
    stated = scale_name(channels, *result[0]) if result else None
    known = [(name, in_order(mean, std, order == channels)) for name, (order, mean, std) in SCALES.items()]
    return result + [scale for name, scale in known if name != stated]


def choose(original, photos, declared, options):
    """Finds the preprocessing that an original expects.

    Args:
        original: train.importing.original.Original with class_names.
        photos: list of (path, index of the true class among class_names or None), or None.
        declared: result of train.importing.preprocessing.from_options.
        options: as for from_options; what is given there is fixed, except preset.

    Returns:
        Choice. Nothing of it is printed yet.

    Raises:
        UsageError: there are too few labelled photos to choose by, and too little is declared; no candidate is better
            than chance; the original is no classifier; its labels are too many, too few or in another order than its
            outputs.
    """
    stated, lacking = of_declared(original, declared)
    labelled = [(path, index) for path, index in photos or [] if index is not None]
    if len(labelled) < MIN_PHOTOS:
        if stated is None:
            raise UsageError(_too_little_known(original, lacking, len(labelled)))
        if labelled:
            say(f"{len(labelled)} labelled photos are too few to choose the preprocessing by ({MIN_PHOTOS} or more)")
        kind = proof.logits_or_probabilities(original, _some_answers(original, photos or [], stated))
        without_background = proof.background(original)
        assumed = declared.filter is None
        return Choice(stated, assumed, kind, without_background, "declared", 0, frozenset(), [], [], [], "")
    turns = proof.class_turns(np.array([index for _, index in labelled]))[:MAX_PHOTOS]
    ordered = [labelled[index] for index in turns]
    fixed = [name for name in ("scale", "channels", "resize") if getattr(options, name) is not None]
    tried = candidates(original, declared, fixed)
    facts = _stated_facts(original, declared)

    scores, earlier, answers, truth = _tournament(original, tried, ordered, facts)
    if len(truth) < MIN_PHOTOS:
        raise UsageError(
            f"--check: {len(truth)} of its {len(labelled)} labelled photos can be read; {MIN_PHOTOS} are needed"
        )
    best = scores[0]
    if _is_chance(scores, truth):
        _require_no_better_order(original, scores, truth)
        say(_table(scores, earlier, None, [], facts))
        raise UsageError(
            f"{original.path}: no way to prepare the photos labels them better than chance: the best one "
            f"{_percent(best)} on {len(truth)} photos. Do the photos and labels belong to this model? "
            "Are the labels in the order of its outputs?"
        )
    # All that were tried could have won by luck; on square photos some have the same pictures, and count as one.
    distinct = {score.losses.tobytes() for score in scores + earlier}
    equal = [score for score in scores if not is_better(best, score, len(distinct) - 1)]
    chosen, decided_by = _among_equals(equal, tried, facts)
    order_warnings = _require_no_better_order(original, [chosen], truth)
    kind = proof.logits_or_probabilities(original, answers[chosen.preprocessing])
    without_background = proof.background(original, answers[chosen.preprocessing])
    warnings = _contradiction(scores, chosen, facts, declared) + order_warnings
    others = [score.preprocessing for score in equal if score is not chosen]
    table = _table(scores, earlier, chosen.preprocessing, others, facts)
    table += "\n" + _decision(chosen, decided_by, others, len(scores), len(tried))
    return Choice(
        preprocessing=chosen.preprocessing,
        filter_assumed=declared.filter is None,
        kind=kind,
        without_background=without_background,
        decided_by=decided_by,
        photos=len(truth),
        used=frozenset(path for path, _ in ordered if len(tried) > 1),
        scores=scores,
        equal=others,
        warnings=warnings,
        table=table,
    )


def _some_answers(original, photos, stated):
    """Returns an original's answers, float [n, outputs], to some of all photos."""
    turns = proof.class_turns(np.array([-1 if index is None else index for _, index in photos], int))
    some = [(photos[turn][0], -1) for turn in turns[:_KIND_PHOTOS]]
    answers, read = _run(original, [stated], some, "answers")
    if not len(read):
        raise proof.too_few(0, len(photos))
    return answers[stated]


def is_better(best, other, comparisons=1):
    """Tells whether one Score's log loss is lower than another's, beyond a 95 % interval.

    It is a paired bootstrap: photos are drawn with both of their losses, because most are hard or easy for both. The
    same photos always give the same answer.

    Args:
        best, other: Scores on the same photos.
        comparisons: how many are made with the same photos; they hold with 95 % all together (Bonferroni).
    """
    differences = other.losses - best.losses
    if differences.mean() <= _NEGLIGIBLE:
        return False
    tail = 100 * (1 - CONFIDENCE) / 2 / max(comparisons, 1)
    return bool(np.percentile(_resamples(len(differences)).dot(differences), tail) > _NEGLIGIBLE)


def _tournament(original, tried, photos, facts):
    """Scores all candidates on a few photos, and ever fewer of them on more.

    Args:
        tried: list of Preprocessing.
        photos: list of (path, index of the true class), the classes in turn.
        facts: result of _stated_facts.

    Returns:
        (Scores of those that are left, on all photos, the best first; Scores of the others, on fewer photos; the
        original's answers to those that are left; int [n], the true classes of the photos that can be read).
    """
    left = tried
    earlier: typing.List[Score] = []
    answers: typing.Dict[Preprocessing, list] = {one: [] for one in tried}
    truth, start, kind = np.zeros(0, int), 0, None
    for stop, most in _ROUNDS + ((len(photos), 0),):
        more, more_truth = _run(original, left, photos[start:stop], f"{len(left)} preprocessings")
        start = stop
        if not len(more_truth):
            continue
        truth = np.concatenate([truth, more_truth])
        kind = kind or _kind(original, more)
        rows = {one: np.concatenate([*answers[one], more[one]]) for one in left}
        answers = {one: [row] for one, row in rows.items()}
        scores = _scores(rows, truth, *kind)
        if most:
            left = _remaining(scores, truth, facts, most)
        earlier = [score for score in scores if score.preprocessing not in left] + earlier
    if kind is None:
        return [], [], {}, truth
    scores = [score for score in scores if score.preprocessing in left]
    return scores, earlier, rows, truth


@functools.lru_cache(maxsize=len(_ROUNDS) + 1)
def _resamples(photos):
    """Returns the weight of each photo in each resample, float64 [resamples, photos]."""
    draws = np.random.RandomState(0).multinomial(photos, np.full(photos, 1.0 / photos), _RESAMPLES)
    return draws / float(photos)


def _too_little_known(original, lacking, count):
    given = f"{count} labelled photos are too few" if count else "there are no labelled photos"
    return (
        f"{original.path}: how its makers prepare photos is not known. Its files do not say {', '.join(lacking)}, and "
        f"{given} to find it by ({MIN_PHOTOS} or more with --check).\n"
        f"Give such photos, or these options, or --preset, one of {', '.join(PRESETS)}"
    )


def _run(original, preprocessings, photos, what):
    """Runs an original on photos prepared in several ways; each photo is decoded once per resize.

    Args:
        photos: list of (path, index of the true class).

    Returns:
        ({preprocessing: its answers, float [n, outputs]}, int [n], the true classes), of the photos that can be read.
    """
    answers: typing.Dict[Preprocessing, list] = {one: [] for one in preprocessings}
    specs = list(dict.fromkeys(one.input_spec for one in preprocessings))
    truth: typing.List[int] = []
    for start in progress(range(0, len(photos), proof.BATCH), what=what, unit=" batches") if photos else ():
        part = photos[start : start + proof.BATCH]
        loaded = []
        for (path, index), pictures in zip(part, proof.read_pictures([path for path, _ in part], specs)):
            if isinstance(pictures, ImageError):
                say(f"{printable(path)}: {pictures} (left out)")
            else:
                loaded.append(pictures)
                truth.append(index)
        if not loaded:
            continue
        batches = {spec: np.stack(pictures) for spec, pictures in zip(specs, zip(*loaded))}
        sums = {spec: hashlib.sha1(batch.tobytes()).digest() for spec, batch in batches.items()}
        done: typing.Dict[tuple, np.ndarray] = {}  # square photos look the same squashed and cut: run once
        for one in preprocessings:
            same = sums[one.input_spec], one.channels, one.mean, one.std
            if same not in done:
                done[same] = np.asarray(original.run(as_input(original, one, batches[one.input_spec])))
            answers[one].append(done[same])
    return {one: np.concatenate(parts) for one, parts in answers.items() if parts}, np.array(truth, int)


def _kind(original, answers):
    """Returns ("logits" or "probabilities", whether the first output is to be left out)."""
    if not answers:
        raise UsageError("--check: none of the labelled photos can be read")
    rows = np.concatenate(list(answers.values()))
    if rows.ndim == 2 and np.isfinite(rows).all(axis=1).any():  # wrong pixels may give NaN; right ones must not
        rows = rows[np.isfinite(rows).all(axis=1)]
    kind = proof.logits_or_probabilities(original, rows)
    if original.outputs == len(original.class_names) + 1:
        return kind, True  # background checks it with the answers to the right pixels
    return kind, proof.background(original)


def _scores(answers, truth, kind, has_background):
    """Returns the Scores of {Preprocessing: answers}, the lowest log loss first."""
    result = []
    for one, rows in answers.items():
        finite = np.isfinite(rows).all(axis=1)
        probabilities = proof.as_probabilities(np.where(finite[:, None], rows, 0), kind, has_background)
        probabilities[~finite] = 1.0 / probabilities.shape[1]
        temperature = calibrate.fit_temperature(probabilities, truth)
        calibrated = calibrate.apply_temperature(probabilities, temperature)[np.arange(len(truth)), truth]
        losses = -np.log(np.maximum(calibrated.astype(np.float64), 1e-12))
        right = finite & (probabilities.argmax(axis=1) == truth)
        result.append(Score(one, right, losses, probabilities))
    return sorted(result, key=lambda score: score.loss)


def _is_chance(scores, truth):
    """Whether the best Score may label photos no better than the answers to others of these photos would (95 %).

    The true classes are permuted, and the best of all Scores counts each time. Unlike a comparison with the share of
    the most frequent class, this holds for photos that are nearly all of one class, too.
    """
    random, predicted = np.random.RandomState(0), np.stack([score.probabilities.argmax(axis=1) for score in scores])
    most = [(predicted == random.permutation(truth)).sum(axis=1).max() for _ in range(_PERMUTATIONS)]
    return scores[0].right.sum() <= np.percentile(most, 100 * (1 + CONFIDENCE) / 2)


def _information(score):
    """Returns how much labels tell of the photos, in nats, whatever their order: most where the pixels are right."""

    def entropy(rows):
        return -(rows * np.log(np.maximum(rows, 1e-12))).sum(axis=-1)

    probabilities = score.probabilities.astype(np.float64)
    return float(entropy(probabilities.mean(axis=0)) - entropy(probabilities).mean())


def _remaining(scores, truth, facts, most):
    """Returns the Preprocessings that go on: those that are not clearly worse, and the best that is as declared."""
    left = [score for score in scores if not is_better(scores[0], score, _CLEARLY)]
    left = (left if len(left) >= _LEAST else scores[:_LEAST])[:most]
    if _is_chance(scores, truth):  # perhaps the order of the labels is wrong: ways to judge that do not need it
        for merit in (_information, lambda score: best_order(score.probabilities, truth)[1].mean()):
            left += sorted(scores, key=merit, reverse=True)[:_FINALISTS]
    left += [score for score in scores if _agreement(score.preprocessing, facts) == len(facts)][:1]
    return list(dict.fromkeys(score.preprocessing for score in left))


def _stated_facts(original, declared):
    """Returns what is declared, as _facts has it."""
    facts = {}
    if declared.resize:
        facts["resize"] = input_spec(declared, declared.resize)
    if declared.channels:
        facts["channels"] = declared.channels
    if declared.mean and original.dtype != "uint8":
        facts["scale"] = in_order(declared.mean, declared.std, (declared.channels or "RGB") == "RGB")
    return facts


def _facts(preprocessing):
    return {
        "resize": preprocessing.input_spec,
        "channels": preprocessing.channels,
        "scale": in_order(preprocessing.mean, preprocessing.std, preprocessing.channels == "RGB"),
    }


def _agreement(preprocessing, facts):
    """Returns how many of the declared facts a Preprocessing agrees with."""
    own = _facts(preprocessing)
    return sum(own[name] == value for name, value in facts.items())


def _among_equals(equal, tried, facts):
    """Returns (the Score to take, what decided) of those that the photos cannot tell apart, the best first."""
    if len(equal) == 1:
        return equal[0], "photos" if len(tried) > 1 else "declared"
    resizes = list(dict.fromkeys(one.input_spec for one in tried))  # the simplest first
    agreements = [_agreement(score.preprocessing, facts) for score in equal]
    agreeing = [score for score, agreement in zip(equal, agreements) if agreement == max(agreements)]
    chosen = min(agreeing, key=lambda score: resizes.index(score.preprocessing.input_spec))
    return chosen, "declared" if len(agreeing) == 1 else "simplest"


def _contradiction(scores, chosen, facts, declared):
    """Returns a warning, as a list, where the files say otherwise than the photos."""
    if _agreement(chosen.preprocessing, facts) == len(facts):
        return []
    stated = next(score for score in scores if _agreement(score.preprocessing, facts) == len(facts))
    own = _facts(chosen.preprocessing)
    differing = ", ".join(name for name, value in facts.items() if own[name] != value)
    return [
        f"{declared.source or 'the files'}: says otherwise than the photos ({differing}). Accuracy on the same "
        f"{len(chosen.right)} photos with {_name(stated.preprocessing)}: {_percent(stated)}; with "
        f"{_name(chosen.preprocessing)}: {_percent(chosen)}. The photos are followed. To fix it otherwise: --scale, "
        "--channels, --resize"
    ]


def _name(one):
    return f"{resize_name(one.input_spec)}, {one.channels}, {scale_name(one.channels, one.mean, one.std)}"


def _percent(score):
    low, high = share_interval(int(score.right.sum()), len(score.right))
    return f"{100 * score.accuracy:.1f} % (95 %: {100 * low:.1f} to {100 * high:.1f})"


def _decision(chosen, decided_by, others, left, tried):
    start = f"taken: {_name(chosen.preprocessing)}"
    if tried == 1:
        return f"{start}; what is given leaves no other way"
    if decided_by == "photos":
        return (
            f"{start}; it is better than each other one still compared on all {len(chosen.right)} photos ({left} of "
            f"{tried}) beyond a 95 % interval"
        )
    reason = "what is declared decides" if decided_by == "declared" else "the simplest is taken"
    return f"{start}; the photos cannot tell it from {'; '.join(map(_name, others))}: {reason}"


def _table(scores, earlier, chosen, others, facts):
    """Returns all candidates as text: those that were left on all photos, the others on fewer."""
    rows = []
    for number, score in enumerate(scores + earlier):
        one = score.preprocessing
        notes = ["taken"] if one == chosen else ["not told apart"] if one in others else []
        if facts and _agreement(one, facts) == len(facts):
            notes.append("declared")
        resize, channels, scale = _name(one).split(", ")
        accuracy = _percent(score) if number < len(scores) else f"{100 * score.accuracy:.1f} %"
        photos, loss = str(len(score.right)), f"{score.loss:.3f}"
        rows.append([resize, channels, scale, photos, accuracy, loss, ", ".join(notes)])
    return console.format_table(["resize", "channels", "scale", "photos", "accuracy", "log loss", ""], rows)


def _require_no_better_order(original, scores, truth):
    """Raises UsageError where the labels in another order are at least twice as often right.

    Returns:
        a warning, as a list, where they are more often right beyond a 95 % interval.
    """
    orders = [(score, best_order(score.probabilities, truth)) for score in scores]
    score, (order, held_out) = max(orders, key=lambda one: one[1][1].mean())
    gained, lost = (int(np.sum(marks)) for marks in (held_out & ~score.right, score.right & ~held_out))
    if gained <= lost:
        return []
    # McNemar's exact test, of the best of so many orders.
    if require("scipy.special").bdtrc(gained - 1, gained + lost, 0.5) > (1 - CONFIDENCE) / 2 / len(orders):
        return []
    names = original.class_names
    predicted = score.probabilities.argmax(axis=1)
    sorted_orders = {
        how: np.array([names.index(name) for name in sorted(names, key=key)])
        for how, key in (
            ("sorted as strings", None),
            ("sorted without regard to capitals", str.lower),
            ("sorted with their numbers as numbers", _natural),
        )
    }
    how, best = max(sorted_orders.items(), key=lambda one: np.mean(one[1][predicted] == truth))
    right = int(np.sum(best[predicted] == truth))
    if share_interval(right, len(truth))[1] >= held_out.mean():
        suggestion = f"{how}, accuracy would be {right / float(len(truth)):.2f}"
    else:
        start = ", ".join(printable(names[index]) for index in order[:_SHOWN_LABELS])
        more = f" and {len(order) - _SHOWN_LABELS} more" if len(order) > _SHOWN_LABELS else ""
        suggestion = (
            f"in this order, accuracy would be {held_out.mean():.2f} (on photos that did not choose it): {start}{more}"
        )
    text = f"the labels may be in the wrong order: accuracy is {_percent(score)}; with the labels {suggestion}"
    if score.accuracy <= held_out.mean() / 2:
        raise UsageError(f"{original.path}: {text}.\nPut the lines of --labels into the order of the outputs")
    return [text]


def _natural(name):
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.split("([0-9]+)", name) if part]


def best_order(probabilities, truth):
    """Finds the order of the labels that fits labelled photos best.

    Args:
        probabilities: float32 [photos, classes].
        truth: int [photos].

    Returns:
        (int [classes]: the class of each output, bool [photos]: whether the order that the other half of the photos
        gives labels this one right).
    """
    seen = np.zeros(probabilities.shape[1], int)
    half = np.zeros(len(truth), int)  # every other photo of each class
    for photo, label in enumerate(truth):
        half[photo] = seen[label] % 2
        seen[label] += 1
    predicted, right = probabilities.argmax(axis=1), np.zeros(len(truth), bool)
    for number in (0, 1):
        order = _assigned(probabilities[half != number], truth[half != number])
        right[half == number] = (order[predicted] == truth)[half == number]
    return _assigned(probabilities, truth), right


def _assigned(probabilities, truth):
    """Returns the class of each output, int [classes], by the largest sum of probabilities (Hungarian method)."""
    some = np.unique(np.concatenate([truth, probabilities.argmax(axis=1)]))  # of what may be thousands
    sums = np.zeros((len(some), len(some)))  # [true class, output]
    np.add.at(sums, np.searchsorted(some, truth), probabilities[:, some])
    sums += 1e-3 * np.eye(len(some))  # what has no photos keeps its place
    classes_of, outputs = require("scipy.optimize").linear_sum_assignment(-sums)
    order = np.arange(probabilities.shape[1])
    order[some[outputs]] = some[classes_of]
    return order
