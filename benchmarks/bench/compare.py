"""picnic-edge bench compare: what changed between two bench.json beyond noise.

What disturbs a machine makes windows slower, never faster. So a figure is the mean of the faster half of its windows
(on logarithms), which moves far less from run to run than the mean of all: a slow phase of a shared machine fills
windows, but seldom more than half of them. (The price: an engine that got slower in the minority of its windows alone
is not reported; its percentiles stand in the report.)

Both runs timed a fixed piece of work before every window. By how much it took longer in the second run, the machine
itself was slower then, and that much is taken off. Within a run an engine may follow that work from window to window
(correlation 0.95 on one machine) or not at all (0.1 on another). So its value beside each window is used as far as the
windows followed it (a control variate, its coefficient by least squares, 0 to 1), and the run's own for the rest: the
work's own noise is not added to an engine's. Then a figure has changed where all of this holds:

1. By at least 5 % less the machine's own: smaller differences come and go with a machine's state, nobody's doing.
2. By as much in the same direction as measured: an engine need not feel a phase of the machine as that piece of work
   does, and where it does not, taking it off would make a change of it. Where it does, a slowdown by 15 % shows on a
   machine that is up to 8 % faster.
3. Dealing all windows out to the two runs anew, by chance, seldom makes the runs differ as much (a permutation test; p
   as in Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9, 2010, 39). As measured or less the machine's own, whichever
   is clearer, at half the level each: the noise of the machine's own work must not hide what the windows show by
   themselves. The mean over all batch sizes is a figure, too: where windows are noisy, it finds what none of its parts
   could show.
4. More seldom than so many comparisons bring about by chance: Holm's correction over all figures of all engines, at 2 %
   together.
"""

import argparse
import functools
import json
import math
import sys
import typing

import numpy as np

from benchmarks.bench import report
from edge_runtime.cli.options import parsed
from edge_runtime.console import print_json, say
from edge_runtime.errors import GotWorse, UsageError

FORMAT_VERSION = 2  # of bench.json; schema.json describes it
LEAST_CHANGE = 0.05
FAMILY_ALPHA = 0.02
_DEALS = 20000  # enough for Holm's correction over 200 figures
_LEAST = math.log(1 + LEAST_CHANGE)
# key of a window, is it better when higher
_TESTED = (("p50_ms", False), ("images_per_s", True), ("cpu_s_per_image", False), ("joules_per_image", False))
_SHOWN = ("cold_start_s", "load_s", "peak_rss_bytes", "gpu_memory_bytes", "top1", "macro_f1")

Figure = typing.NamedTuple(
    "Figure",
    [
        ("engine", str),
        ("metric", str),  # such as "images_per_s b8", "images_per_s all batches"
        ("before", float),  # (geometric) means of the faster half of the windows, as measured
        ("after", float),
        ("change", float),  # after / before - 1, less what the machine itself changed
        ("as_measured", float),  # after / before - 1
        ("worse", bool),  # the direction of the change is the bad one
        ("p", typing.Optional[float]),  # None: too small a difference to be tested
        ("changed", bool),
    ],
)
# Two samples, whether their faster halves are the higher ones, and what the difference of these counts in a sum.
Part = typing.NamedTuple("Part", [("factor", float), ("higher", bool), ("first", np.ndarray), ("second", np.ndarray)])


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
            raise GotWorse(f"worse by more than {options.fail_above:g} %: {'; '.join(bad)}")


def read_document(path):
    """Reads a bench.json.

    Raises:
        UsageError: it cannot be read, is no document of a bench, or one of another version's.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no JSON ({error}); expected a bench.json of `picnic-edge bench --report`")
    version = found.get("format_version") if isinstance(found, dict) else None
    if version != FORMAT_VERSION or not isinstance(found.get("engines"), list):
        raise UsageError(
            "%s: expected a bench.json with format_version %d, got %s; measure again with this version"
            % (path, FORMAT_VERSION, version)
        )
    try:
        compare(found, found)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UsageError(f"{path}: lacks or garbles something ({error}); measure again")
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
    machine = [_machine_work(engines) for engines in (old, new)]
    shift, noise = None, []
    if all(map(len, machine)):
        works = [np.concatenate(rounds) for rounds in machine]
        shift = float(_faster_half(works[1], False) - _faster_half(works[0], False))
        # Rounds, not windows, are dealt out: the work beside all engines of a round was in one phase of the machine.
        medians = [np.array([np.median(values) for values in rounds]) for rounds in machine]
        noise = [values - _faster_half(values, False) for values in medians]
    tests = []
    for name in old:
        if name in new:
            tests += [(name,) + test for test in _tests(old[name], new[name], shift, noise)]
    lost = []
    for name in old:
        if name in new:
            lost += [f"{name} {point}" for point in _points(old[name]) if point not in _points(new[name])]
            if new[name].get("stopped") and not old[name].get("stopped"):
                lost.append(f"{name} (stopped: {new[name]['stopped']})")
    significant = _holm([1.0 if test[-1] is None else test[-1] for test in tests])
    figures = []
    for (name, metric, higher, start, end, own, p), changed in zip(tests, significant):
        worse = own != 0 and (own > 0) != higher
        ends = (math.exp(start), math.exp(end), math.exp(own) - 1, math.exp(end - start) - 1)
        figures.append(Figure(name, metric, *ends, worse, p, changed))
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
        raw, own = (f"{100 * size:+.1f} %" for size in (figure.as_measured, figure.change))
        size = own if own == raw else f"{raw} as measured, {own} less the machine's own change"
        direction = "worse" if figure.worse else "better"
        ends = (figure.before, figure.after)
        lines.append("%s  %s  %.4g -> %.4g  (%s, %s)" % ((figure.engine, figure.metric) + ends + (size, direction)))
    lines += [f"{name}  was measured before, not now" for name in found["lost"]]
    lines += [f"{name}  was not measured before" for name in found["new"]]
    if not changed:
        lines.append(f"no change beyond noise in {len(found['figures'])} figures")
    if found["machine_change"] is not None:
        direction = "longer" if found["machine_change"] >= 0 else "less long"
        lines.append(f"the machine itself took {100 * abs(found['machine_change']):.1f} % {direction}")
    for engine, what, old, new in found["shown"]:
        lines.append(f"{engine}  {what}  {_shown(old)} -> {_shown(new)}  (not tested)")
    return "\n".join(lines)


def failures(found, percent):
    """Returns the texts of what got worse by more than so many percent, and of the engines that got lost."""
    bad = [
        f"{figure.engine} {figure.metric} {100 * figure.change:+.1f} %"
        for figure in found["figures"]
        if figure.changed and figure.worse and _worsening(figure) > percent / 100.0
    ]
    return bad + [f"{name} is not measured any more" for name in found["lost"]]


def _tests(old, new, shift, noise):
    """Returns (metric, higher is better, before, after, change less the machine's own, p) of an engine; logarithms.

    shift: by how much the machine's own work took longer in the new run. noise: its rounds' values about 0, [old, new].
    """
    found = []
    follows = _how_far_it_follows(old, new)
    for key, higher in _TESTED:
        # A slower machine's durations grow by what its own work took longer, and rates shrink. Joules have no such
        # yardstick.
        sign = 0 if key == "joules_per_image" else 1 if higher else -1
        rest = sign * (1 - follows)
        measured, less_work = {}, {}
        for point in _points(old):
            if key == "p50_ms" and point != "b1":
                continue  # elsewhere it is the throughput's other side
            values = [np.log(_values(one, point, key)) for one in (old, new)]
            if all(map(len, values)):
                measured[point] = values
                less_work[point] = [
                    value + sign * follows * _reference(one, point) for value, one in zip(values, (old, new))
                ]
        batches = [point for point in measured if point != "end_to_end"]
        groups = {f"{key} {point}": [point] for point in measured}
        if key == "images_per_s" and len(batches) > 1:
            groups["images_per_s all batches"] = batches
        for metric, points in groups.items():
            raw_parts, own_parts = (
                [Part(1.0 / len(points), higher, *kind[point]) for point in points] for kind in (measured, less_work)
            )
            raw, own = difference(raw_parts), difference(own_parts) + rest * shift
            start = float(np.mean([_faster_half(part.first, higher) for part in raw_parts]))
            p = None
            if min(abs(own), abs(raw)) >= _LEAST and raw * own > 0:
                own_parts.append(Part(rest, False, *noise))
                p = min(1.0, 2 * min(permutation_p(raw_parts), permutation_p(own_parts, rest * shift)))
            found.append((metric, higher, start, start + raw, own, p))
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


def difference(parts):
    """Returns by how much the second samples' faster halves lie above the first ones', summed over Parts."""
    return float(
        sum(
            part.factor * (_faster_half(part.second, part.higher) - _faster_half(part.first, part.higher))
            for part in parts
        )
    )


def permutation_p(parts, offset=0.0):
    """Tests whether the difference of the parts and an offset together are more than chance makes.

    Args:
        parts: list of Part.
        offset: added to the difference that was observed.

    Returns:
        two-sided p, 0..1: how often dealing out each part's values by chance makes as much of a difference.
    """
    observed, dealt = abs(difference(parts) + offset), np.zeros(_DEALS)
    for place, part in enumerate(parts):
        count = len(part.first)
        both = np.concatenate([part.first, part.second])[_deals(count + len(part.second), place)]
        halves = [_faster_half(both[:, :count], part.higher), _faster_half(both[:, count:], part.higher)]
        dealt += part.factor * (halves[1] - halves[0])
    as_much = np.abs(dealt) >= observed * (1 - 1e-9)  # sums of the same numbers may differ in their last bits
    return float((1 + np.count_nonzero(as_much)) / (1 + _DEALS))


@functools.lru_cache(maxsize=64)
def _deals(count, seed):
    """Returns uint16 [_DEALS, count]: orders of so many values, always the same."""
    return np.argsort(np.random.RandomState(seed).rand(_DEALS, count), axis=1).astype(np.uint16)


def _faster_half(values, higher):
    """Returns the mean of the higher or lower half along the last axis, the middle one included."""
    ordered = np.sort(values, axis=-1)
    count = (ordered.shape[-1] + 1) // 2
    return (ordered[..., -count:] if higher else ordered[..., :count]).mean(axis=-1)


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


def _machine_work(engines):
    """Returns the logarithms of how long the machine's own work took, a list per round."""
    rounds = {}  # type: typing.Dict[int, typing.List[float]]
    for engine in engines.values():
        for window in engine["windows"]:
            rounds.setdefault(window["round"], []).append(math.log(window["reference_ms"]))
            if not math.isfinite(window["reference_ms"]):
                raise ValueError(f"reference_ms is {window['reference_ms']}")
    return list(rounds.values())


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
        ("the photos", lambda one: f"{one['photos']} ({one['photo_count']})"),
        ("--batch", lambda one: ",".join(map(str, one["batches"]))),
        ("--seconds", lambda one: one["seconds_per_measurement"]),
    ):
        old, new = get(before), get(after)
        if old != new:
            found.append(f"{what}: {old}; {new}")
    for which, one in (("first", before), ("second", after)):
        if one["partial"]:
            found.append(f"the {which} run was stopped before its end")
        if report.is_busy(one):
            share = 100 * one["busy_share"]
            found.append(f"other programs kept {share:.0f} % of the cores busy before the {which} run")
    return found


def _facts(facts, names):
    return ", ".join(f"{name} {facts[name]}" for name in names if facts.get(name) not in (None, ""))


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


def _shown(value):
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _percent(text):
    return parsed(float, text, lambda value: 0 <= value < float("inf"), "0 or more")


if __name__ == "__main__":
    from edge_runtime.cli.run import run_verb

    sys.exit(run_verb(main, sys.argv[1:]))
