"""picnic-edge bench compare: what changed between two bench.json, apart from noise.

Disturbances make windows slower, never faster. So a figure is the mean of the faster half of its windows
(on logarithms), which moves far less from run to run than the mean of all: a slow phase of a shared machine fills
windows, but seldom more than half of them. (The price: an engine that got slower only in a
minority of its windows is not reported; its percentiles are in the report.)

Both runs timed a fixed piece of work before every window. By how much it took longer in the second run, the machine
itself was slower then, and that much is taken off. Within a run an engine may follow that work from window to window
(correlation 0.95 on one machine) or not at all (0.1 on another). So its value beside each window is used as far as the
windows followed it (a control variate, its coefficient by least squares, 0 to 1), and the run's own for the rest: the
work's own noise is not added to an engine's. Then a figure has changed where all of this holds:

1. By at least 5 %, less the machine's own change: smaller differences come and go with the machine's state.
2. By as much in the same direction as measured: an engine need not feel a phase of the machine as that piece of work
   does, and where it does not, taking it off would make a change of it. Where it does, a slowdown by 15 % shows on a
   machine that is up to 8 % faster.
3. Dividing all windows between the two runs by chance seldom makes the runs differ as much (a permutation test; p as
   in Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9, 2010, 39). As measured or less the machine's own, whichever
   is clearer, at half the level each: the noise of the machine's own work must not hide what the windows show by
   themselves. The mean over all batch sizes is a figure, too: where windows are noisy, it finds what none of its parts
   could show.
4. More seldom than so many comparisons bring about by chance: Holm's correction over all figures of all engines, at 2 %
   together.
"""

import argparse
import json
import math
import sys
import typing

import numpy as np

from benchmarks.bench.document import FORMAT_VERSION, is_busy
from benchmarks.bench.permutation import Part, difference, faster_half, permutation_p, significant
from edge_runtime.cli.options import parsed
from edge_runtime.console import print_json, say
from edge_runtime.errors import GotWorse, UsageError

MIN_CHANGE = 0.05
_MIN_LOG_CHANGE = math.log(1 + MIN_CHANGE)
# key of a window, is it better when higher
_TESTED = (("p50_ms", False), ("images_per_s", True), ("cpu_s_per_image", False))
_NOT_TESTED = (
    *("cold_start_s", "load_s", "joules_per_image_end_to_end"),
    *("peak_rss_bytes", "gpu_memory_bytes", "top1", "macro_f1"),
)


class Figure(typing.NamedTuple):
    """One figure of one engine in both runs."""

    engine: str
    metric: str  # such as "images_per_s b8", "images_per_s all batches"
    before: float  # (geometric) means of the faster half of the windows, as measured
    after: float
    change: float  # after / before - 1, less what the machine itself changed
    as_measured: float  # after / before - 1
    worse: bool  # the direction of the change is the bad one
    p: typing.Optional[float]  # None: the difference is too small to be tested
    changed: bool


def main(argv=None):
    """Compares. Raises PicnicError as the exit codes say; GotWorse (7) past --fail-above."""
    this = argparse.ArgumentParser(
        prog="picnic-edge bench compare",
        description="Show what changed between two runs of `picnic-edge bench --report`, apart from noise.",
        epilog="example: picnic-edge bench compare before/bench.json after/bench.json --fail-above 10",
    )
    this.add_argument("before", metavar="A.json", help="bench.json of the first run")
    this.add_argument("after", metavar="B.json", help="bench.json of the second run")
    this.add_argument(
        "--fail-above",
        type=_percent,
        metavar="PERCENT",
        help="exit with code 7 if a figure got worse, beyond noise, by more than this, or an engine is missing",
    )
    this.add_argument("--json", action="store_true", help="one JSON document on stdout instead of the text")
    options = this.parse_args(argv)
    before, after = read_document(options.before), read_document(options.after)
    comparison = compare(before, after)
    for text in comparison["differences"]:
        say("NOT THE SAME: " + text)
    if options.json:
        print_json(dict(comparison, figures=[dict(figure._asdict()) for figure in comparison["figures"]]))
    else:
        print(format_comparison(comparison))
    if options.fail_above is not None:
        bad = failures(comparison, options.fail_above)
        if bad:
            raise GotWorse(f"worse by more than {options.fail_above:g} %: {'; '.join(bad)}")


def read_document(path):
    """Reads a bench.json.

    Raises:
        UsageError: it cannot be read, or is not a bench.json of this version.
    """
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not JSON ({error}); expected a bench.json of `picnic-edge bench --report`")
    version = document.get("format_version") if isinstance(document, dict) else None
    if version != FORMAT_VERSION or not isinstance(document.get("engines"), list):
        expected = f"expected a bench.json with format_version {FORMAT_VERSION}, got {version}"
        raise UsageError(f"{path}: {expected}; measure again with this version")
    try:
        compare(document, document)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UsageError(f"{path}: a key is missing or has a bad value ({error}); measure again")
    return document


def compare(before, after):
    """Compares two documents.

    Returns:
        dict: differences (texts: conditions that were not the same, and may explain different figures),
        machine_change (how much longer the machine's own work took, after / before - 1; None where it is unknown),
        figures (list of Figure), shown ([(engine, what, before, after)] of figures that are not tested), lost (what
        only the first run measured, and engines that stopped in the second), new (engine names).
    """
    old, new = (
        {engine["name"]: engine for engine in one["engines"] if "skipped" not in engine} for one in (before, after)
    )
    machine = [_machine_work(engines) for engines in (old, new)]
    shift, noise = None, []
    if all(map(len, machine)):
        works = [np.concatenate(rounds) for rounds in machine]
        shift = float(faster_half(works[1], False) - faster_half(works[0], False))
        # Rounds, not windows, are permuted: all of a round's work was done in one phase of the machine.
        medians = [np.array([np.median(values) for values in rounds]) for rounds in machine]
        noise = [values - faster_half(values, False) for values in medians]
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
    flags = significant([1.0 if test[-1] is None else test[-1] for test in tests])
    figures = []
    for (name, metric, higher, start, end, own, p), changed in zip(tests, flags):
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
            for what in _NOT_TESTED
            if old[name].get(what) is not None or new[name].get(what) is not None
        ],
        "lost": [name for name in old if name not in new] + lost,
        "new": [name for name in new if name not in old],
    }


def format_comparison(comparison):
    """Returns the result of `compare` as text."""
    lines = []
    changed = [figure for figure in comparison["figures"] if figure.changed]
    for figure in changed:
        raw, own = (f"{100 * size:+.1f} %" for size in (figure.as_measured, figure.change))
        size = own if own == raw else f"{raw} as measured, {own} less the machine's own change"
        direction = "worse" if figure.worse else "better"
        ends = f"{figure.before:.4g} -> {figure.after:.4g}"
        lines.append(f"{figure.engine}  {figure.metric}  {ends}  ({size}, {direction})")
    lines += [f"{name}  was measured before, not now" for name in comparison["lost"]]
    lines += [f"{name}  was not measured before" for name in comparison["new"]]
    if not changed:
        lines.append(f"no change beyond noise in {len(comparison['figures'])} figures")
    if comparison["machine_change"] is not None:
        direction = "longer" if comparison["machine_change"] >= 0 else "less long"
        lines.append(f"the machine itself took {100 * abs(comparison['machine_change']):.1f} % {direction}")
    for engine, what, old, new in comparison["shown"]:
        lines.append(f"{engine}  {what}  {_text(old)} -> {_text(new)}  (not tested)")
    return "\n".join(lines)


def failures(comparison, percent):
    """Returns texts: each figure that got worse by more than this percentage, and each engine that is missing."""
    bad = [
        f"{figure.engine} {figure.metric} {100 * figure.change:+.1f} %"
        for figure in comparison["figures"]
        if figure.changed and figure.worse and _worsening(figure) > percent / 100
    ]
    return bad + [f"{name} is not measured any more" for name in comparison["lost"]]


def _tests(old, new, shift, noise):
    """Returns [(metric, higher is better, before, after, change less the machine's own, p)] of an engine; logarithms.

    shift: by how much the machine's own work took longer in the new run. noise: its rounds' values about 0, [old, new].
    """
    tests = []
    follows = _how_far_it_follows(old, new)
    for key, higher in _TESTED:
        # A slower machine's durations grow by what its own work took longer, and rates shrink.
        sign = 1 if higher else -1
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
            start = float(np.mean([faster_half(part.first, higher) for part in raw_parts]))
            p = None
            if min(abs(own), abs(raw)) >= _MIN_LOG_CHANGE and raw * own > 0:
                own_parts.append(Part(rest, False, *noise))
                p = min(1.0, 2 * min(permutation_p(raw_parts), permutation_p(own_parts, rest * shift)))
            tests.append((metric, higher, start, start + raw, own, p))
    return tests


def _how_far_it_follows(*runs):
    """Returns how far an engine's windows follow the machine's own work, 0 (not at all) to 1."""
    together = spread = 0.0
    for one in runs:
        for point in _points(one):
            work, rates = _reference(one, point), np.log(_values(one, point, "images_per_s"))
            if len(rates):
                together -= float(np.sum((work - work.mean()) * (rates - rates.mean())))
                spread += float(np.sum((work - work.mean()) ** 2))
    return min(1.0, max(0.0, together / spread)) if spread else 0.0


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
    rounds: typing.Dict[int, typing.List[float]] = {}
    for engine in engines.values():
        for window in engine["windows"]:
            rounds.setdefault(window["round"], []).append(math.log(window["reference_ms"]))
            if not math.isfinite(window["reference_ms"]):
                raise ValueError(f"reference_ms is {window['reference_ms']}")
    return list(rounds.values())


def _differences(before, after):
    """Returns the conditions that differ between two documents, as texts."""
    texts = []
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
            texts.append(f"{what}: {old}; {new}")
    for which, one in (("first", before), ("second", after)):
        if one["partial"]:
            texts.append(f"the {which} run was stopped before its end")
        if is_busy(one):
            share = 100 * one["busy_share"]
            texts.append(f"other programs kept {share:.0f} % of the cores busy before the {which} run")
    return texts


def _facts(facts, names):
    return ", ".join(f"{name} {facts[name]}" for name in names if facts.get(name) not in (None, ""))


def _worsening(figure):
    """Returns by how much a worse figure is worse: a rate that halved is as bad as a duration that doubled."""
    return max(figure.change, 1 / (1 + figure.change) - 1)


def _text(value):
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _percent(text):
    return parsed(float, text, lambda value: 0 <= value < float("inf"), "0 or more")


if __name__ == "__main__":
    from edge_runtime.cli.run import run_verb

    sys.exit(run_verb(main, sys.argv[1:]))
