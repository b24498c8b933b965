"""picnic-edge bench compare: what changed between two bench.json beyond noise.

Both runs timed a fixed piece of work before every window. By how much it took longer in the second run, the machine
itself was slower then, and that much is taken off. Within a run an engine may follow that work from window to window
(correlation 0.95 on one machine) or not at all (0.1 on another). So its value beside each window is used as far as the
windows followed it (a control variate, its coefficient by least squares, 0 to 1), and the run's mean for the rest: the
phases of a shared machine then cancel out, within a run and between two, and the work's own noise is not added to an
engine's. Then a figure has changed where all of this holds:

1. Its windows differ: Yuen's test on the logarithms of the windows' values (Welch's t test with 20 % trimmed means, so
   that one disturbed window decides nothing; K. K. Yuen, Biometrika 61, 1974), two-sided. As measured or less the
   machine's own, whichever is clearer, at half the level each: the noise of the machine's own work must not hide what
   the windows show by themselves. The mean over all batch sizes is a figure, too: where windows are noisy, it finds
   what none of its parts could show.
2. They differ beyond what so many comparisons bring about by chance: Holm's correction over all figures of all engines,
   at 2 % together. Where nothing changed at all, one comparison of two runs in fifty reports something by this alone.
3. By at least 5 %: smaller differences come and go with a machine's state and are nobody's doing.
4. By as much, in the same direction, with only a third of that taken off: an engine need not feel a phase of the
   machine as that piece of work does. Where it does, a slowdown by 15 % shows on a machine that is up to 12 % faster;
   where it does not feel it at all, some 7 % bring forth no change.
"""

import argparse
import json
import math
import sys
import typing

import numpy as np

from benchmarks import report
from edge_runtime.cli import parsed
from edge_runtime.command import print_json, say
from edge_runtime.errors import GotWorse, UsageError

FORMAT_VERSION = 2  # of bench.json; schema.json describes it
LEAST_CHANGE = 0.05
FAMILY_ALPHA = 0.02
_TRIM = 0.2
_LEAST = math.log(1 + LEAST_CHANGE)
_SURE = 1 / 3.0  # of the correction: with only so much of it, a figure must have changed, too
# key of a window, is it better when higher
_TESTED = (("p50_ms", False), ("images_per_s", True), ("cpu_s_per_image", False), ("joules_per_image", False))
_SHOWN = ("cold_start_s", "load_s", "peak_rss_bytes", "gpu_memory_bytes", "top1", "macro_f1")

Figure = typing.NamedTuple(
    "Figure",
    [
        ("engine", str),
        ("metric", str),  # such as "images_per_s b8", "images_per_s all batches"
        ("before", float),  # trimmed (geometric) means of the windows, as measured
        ("after", float),
        ("change", float),  # after / before - 1, less what the machine itself changed
        ("as_measured", float),  # after / before - 1
        ("worse", bool),  # the direction of the change is the bad one
        ("p", float),
        ("changed", bool),
    ],
)


def main(argv=None):
    """Compares. Raises PicnicError as the exit codes say; GotWorse (7) past --fail-above."""
    this = argparse.ArgumentParser(
        prog="picnic-edge bench compare",
        description="Show what changed between two runs of `picnic-edge bench --report` beyond noise.",
        epilog="example: picnic-edge bench compare before/bench.json after/bench.json --fail-above 10",
    )
    this.add_argument("before", metavar="A.json")
    this.add_argument("after", metavar="B.json")
    this.add_argument(
        "--fail-above",
        type=_percent,
        metavar="PERCENT",
        help="exit with 7 where a figure got worse, beyond noise, by more than this, or an engine got lost",
    )
    this.add_argument("--json", action="store_true", help="one JSON document on stdout instead of the text")
    options = this.parse_args(argv)
    before, after = read_document(options.before), read_document(options.after)
    found = compare(before, after)
    for difference in found["differences"]:
        say("NOT THE SAME: " + difference)
    if options.json:
        print_json(dict(found, figures=[dict(figure._asdict()) for figure in found["figures"]]))
    else:
        print(format_comparison(found))
    if options.fail_above is not None:
        bad = failures(found, options.fail_above)
        if bad:
            raise GotWorse("worse by more than %g %%: %s" % (options.fail_above, "; ".join(bad)))


def read_document(path):
    """Reads a bench.json.

    Raises:
        UsageError: it cannot be read, is no document of a bench, or one of another version's.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except OSError as error:
        raise UsageError("%s: cannot be read (%s)" % (path, error.strerror))
    except (ValueError, RecursionError) as error:
        raise UsageError("%s: is no JSON (%s); expected a bench.json of `picnic-edge bench --report`" % (path, error))
    version = found.get("format_version") if isinstance(found, dict) else None
    if version != FORMAT_VERSION or not isinstance(found.get("engines"), list):
        raise UsageError(
            "%s: expected a bench.json with format_version %d, got %s; measure again with this version"
            % (path, FORMAT_VERSION, version)
        )
    try:
        compare(found, found)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UsageError("%s: lacks or garbles something (%s); measure again" % (path, error))
    return found


def compare(before, after):
    """Compares two documents.

    Returns:
        dict: differences (texts: what was not the same, so that the figures may differ for that reason),
        machine_change (how much longer the machine's own work took, after / before - 1; None where it cannot be told),
        figures (list of Figure), shown ([(engine, what, before, after)]: without a test), lost (what only the first
        measured, and engines that stopped in the second), new (engine names).
    """
    old, new = (
        {engine["name"]: engine for engine in one["engines"] if "skipped" not in engine} for one in (before, after)
    )
    machine = [_machine_rounds(engines) for engines in (old, new)]
    tests = []
    for name in old:
        if name in new:
            tests += [(name,) + test for test in _tests(old[name], new[name], machine)]
    lost = []
    for name in old:
        if name in new:
            lost += ["%s %s" % (name, point) for point in _points(old[name]) if point not in _points(new[name])]
            if new[name].get("stopped") and not old[name].get("stopped"):
                lost.append("%s (stopped: %s)" % (name, new[name]["stopped"]))
    significant = _holm([test[-1] for test in tests])
    figures = []
    for (name, metric, higher, start, end, own, p), passed in zip(tests, significant):
        raw = end - start
        doubted = raw + _SURE * (own - raw)
        changed = passed and min(abs(own), abs(doubted)) >= _LEAST and doubted * own > 0
        worse = own != 0 and (own > 0) != higher
        ends = (math.exp(start), math.exp(end), math.exp(own) - 1, math.exp(raw) - 1)
        figures.append(Figure(name, metric, *ends, worse, p, changed))
    shift = _trimmed(machine[1])[0] - _trimmed(machine[0])[0] if all(machine) else None
    return {
        "differences": _differences(before, after),
        "machine_change": None if shift is None else math.exp(shift) - 1,
        "figures": figures,
        "shown": [
            (name, what, old[name].get(what), new[name].get(what))
            for name in old
            if name in new
            for what in _SHOWN
            if old[name].get(what) is not None or new[name].get(what) is not None
        ],
        "lost": [name for name in old if name not in new] + lost,
        "new": [name for name in new if name not in old],
    }


def format_comparison(found):
    """Returns what `compare` found as text."""
    lines = []
    changed = [figure for figure in found["figures"] if figure.changed]
    for figure in changed:
        raw, own = ("%+.1f %%" % (100 * size) for size in (figure.as_measured, figure.change))
        size = own if own == raw else "%s as measured, %s less the machine's own change" % (raw, own)
        direction = "worse" if figure.worse else "better"
        ends = (figure.before, figure.after)
        lines.append("%s  %s  %.4g -> %.4g  (%s, %s)" % ((figure.engine, figure.metric) + ends + (size, direction)))
    lines += ["%s  was measured before, not now" % name for name in found["lost"]]
    lines += ["%s  was not measured before" % name for name in found["new"]]
    if not changed:
        lines.append("no change beyond noise in %d figures" % len(found["figures"]))
    if found["machine_change"] is not None:
        direction = "longer" if found["machine_change"] >= 0 else "less long"
        lines.append("the machine itself took %.1f %% %s" % (100 * abs(found["machine_change"]), direction))
    for engine, what, old, new in found["shown"]:
        lines.append("%s  %s  %s -> %s  (not tested)" % (engine, what, _shown(old), _shown(new)))
    return "\n".join(lines)


def failures(found, percent):
    """Returns the texts of what got worse by more than so many percent, and of the engines that got lost."""
    bad = [
        "%s %s %+.1f %%" % (figure.engine, figure.metric, 100 * figure.change)
        for figure in found["figures"]
        if figure.changed and figure.worse and _worsening(figure) > percent / 100.0
    ]
    return bad + ["%s is not measured any more" % name for name in found["lost"]]


def _tests(old, new, machine):
    """Returns (metric, higher is better, before, after, change less the machine's own, p) of an engine; logarithms."""
    found = []
    runs = ((-1, 1, old), (1, 2, new))
    follows = _how_far_it_follows(old, new)
    for key, higher in _TESTED:
        # A slower machine's durations grow by what its own work took longer, and rates shrink. Joules have no such
        # yardstick.
        sign = 0 if key == "joules_per_image" else 1 if higher else -1
        pairs = {}
        for point in _points(old):
            if key == "p50_ms" and point != "b1":
                continue  # elsewhere it is the throughput's other side
            first, second = (np.log(_values(one, point, key)) for one in (old, new))
            if len(first) and len(second):
                pairs["%s %s" % (key, point)] = (point, first, second)
        batches = [pair for pair in pairs.values() if pair[0] != "end_to_end"]
        groups = {metric: [pair] for metric, pair in pairs.items()}
        if key == "images_per_s" and len(batches) > 1:
            groups["images_per_s all batches"] = batches
        for metric, group in groups.items():
            start, end = (float(np.mean([_trimmed(pair[place])[0] for pair in group])) for place in (1, 2))
            sides = [(side / len(group), pair, place, one) for pair in group for side, place, one in runs]
            measured = [(factor, pair[place]) for factor, pair, place, _ in sides]
            less_own = [
                (factor, pair[place] + sign * follows * _reference(one, pair[0])) for factor, pair, place, one in sides
            ]
            if sign and follows < 1:
                less_own += [(side * sign * (1 - follows), rounds) for side, rounds in zip((-1, 1), machine)]
            own, p = yuen(less_own)
            found.append((metric, higher, start, end, own, min(1.0, 2 * min(p, yuen(measured)[1]))))
    return found


def _how_far_it_follows(*runs):
    """Returns by how much of what the machine's own work takes longer an engine does, window by window, 0 to 1."""
    together = spread = 0.0
    for one in runs:
        for point in _points(one):
            work, rates = _reference(one, point), np.log(_values(one, point, "images_per_s"))
            if len(rates):
                together -= float(np.sum((work - work.mean()) * (rates - rates.mean())))
                spread += float(np.sum((work - work.mean()) ** 2))
    return min(1.0, max(0.0, together / spread)) if spread else 0.0


def yuen(parts):
    """Yuen's test of whether a sum of trimmed means is zero: of two samples with the parts (-1, first) and (1, second).

    Args:
        parts: (factor, list of numbers) of each sample.

    Returns:
        (the sum of factor * trimmed mean; two-sided p, 1 for samples too small to tell).
    """
    found = [(factor,) + _trimmed(values) for factor, values in parts]
    difference = sum(factor * mean for factor, mean, _, _ in found)
    variances = [factor**2 * variance for factor, _, variance, _ in found]
    kept = [count for _, _, _, count in found]
    total = sum(variances)
    if min(kept) < 2:
        return difference, 1.0
    if total <= 0:
        return difference, 1.0 if difference == 0 else 0.0
    freedom = total**2 / sum(variance**2 / (count - 1) for variance, count in zip(variances, kept))
    return difference, _two_sided_p(abs(difference) / math.sqrt(total), freedom)


def _points(engine):
    return list(dict.fromkeys(window["point"] for window in engine["windows"]))


def _values(engine, point, key):
    own = [window for window in engine["windows"] if window["point"] == point]
    if key == "cpu_s_per_image":
        values = [window["cpu_s"] / window["photos"] for window in own]
    else:
        values = [window[key] for window in own]
    return [] if any(not value or value <= 0 for value in values) else values


def _reference(engine, point):
    return np.log(_values(engine, point, "reference_ms"))


def _machine_rounds(engines):
    """Returns the logarithm of how long the machine's own work took, a median per round."""
    rounds = {}  # type: typing.Dict[int, typing.List[float]]
    for engine in engines.values():
        for window in engine["windows"]:
            rounds.setdefault(window["round"], []).append(math.log(window["reference_ms"]))
            if not math.isfinite(window["reference_ms"]):
                raise ValueError("reference_ms is %s" % window["reference_ms"])
    return [float(np.median(values)) for values in rounds.values()]


def _differences(before, after):
    """Returns why two documents cannot be compared as they stand."""
    found = []
    for what, get in (
        ("the machine", lambda one: _facts(one["machine"], ("cpu", "cores", "architecture", "memory_bytes"))),
        ("the system", lambda one: _facts(one["machine"], ("system", "python"))),
        ("the clocks", lambda one: _facts(one["clocks"], ("governor", "power_mode", "cpu_max_mhz", "gpu_max_mhz"))),
        ("the libraries", lambda one: _facts(one["libraries"], sorted(one["libraries"]))),
        ("picnic-edge", lambda one: one["version"]),
        ("the bundle", lambda one: one["bundle_id"]),
        ("the photos", lambda one: "%s (%d)" % (one["photos"], one["photo_count"])),
        ("--batch", lambda one: ",".join(map(str, one["batches"]))),
        ("--seconds", lambda one: one["seconds_per_measurement"]),
    ):
        old, new = get(before), get(after)
        if old != new:
            found.append("%s: %s; %s" % (what, old, new))
    for which, one in (("first", before), ("second", after)):
        if one["partial"]:
            found.append("the %s run was stopped before its end" % which)
        if report.is_busy(one):
            share = 100 * one["busy_share"]
            found.append("other programs kept %.0f %% of the cores busy before the %s run" % (share, which))
    return found


def _facts(facts, names):
    return ", ".join("%s %s" % (name, facts[name]) for name in names if facts.get(name) not in (None, ""))


def _worsening(figure):
    """Returns by how much a worse figure is worse: a rate that halved is as bad as a duration that doubled."""
    return max(figure.change, 1 / (1 + figure.change) - 1)


def _holm(ps):
    """Returns for each p whether it is significant at FAMILY_ALPHA together (S. Holm, Scand. J. Statist. 6, 1979)."""
    found = [False] * len(ps)
    for place, number in enumerate(sorted(range(len(ps)), key=lambda number: ps[number])):
        if ps[number] > FAMILY_ALPHA / (len(ps) - place):
            break
        found[number] = True
    return found


def _trimmed(values):
    """Returns (trimmed mean, its variance by winsorizing, how many values were kept)."""
    ordered = np.sort(np.asarray(values, np.float64))
    cut = int(_TRIM * len(ordered))
    kept = len(ordered) - 2 * cut
    winsorized = np.clip(ordered, ordered[cut], ordered[len(ordered) - cut - 1])
    spread = float(np.sum((winsorized - winsorized.mean()) ** 2))
    return float(ordered[cut : cut + kept].mean()), spread / max(1, kept * (kept - 1)), kept


def _two_sided_p(t, freedom):
    """Returns the probability of a value beyond +-t under Student's distribution."""
    # With x = sqrt(freedom) * tan(angle) the density becomes cos(angle) ** (freedom - 1), which has no long tail.
    angles = np.linspace(math.atan(t / math.sqrt(freedom)), math.pi / 2, 4001)
    heights = np.maximum(np.cos(angles), 0.0) ** (freedom - 1)
    area = float(np.sum((heights[1:] + heights[:-1]) / 2) * (angles[1] - angles[0]))
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return min(1.0, 2 * scale * area)


def _shown(value):
    return "-" if value is None else "%.4g" % value if isinstance(value, float) else str(value)


def _percent(text):
    return parsed(float, text, lambda value: 0 <= value < float("inf"), "0 or more")


if __name__ == "__main__":
    from edge_runtime.command import run_verb

    sys.exit(run_verb(main, sys.argv[1:]))
