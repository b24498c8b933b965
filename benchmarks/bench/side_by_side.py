"""picnic-edge bench compare: two bench.json side by side, as ratios, without a verdict.

Two runs lie in different phases of the machine, and nothing in the files tells a phase from a change. What does:
picnic-edge bench BUNDLE --against OTHER (benchmarks.bench.against).
"""

import argparse
import json
import sys

import numpy as np

from benchmarks.bench.document import FORMAT_VERSION, is_busy, measured_engines
from benchmarks.bench.summary import METRICS, points_of, values_of
from edge_runtime.console import format_table, print_json, say
from edge_runtime.errors import UsageError

_OTHERS = (  # one value per run
    *("cold_start_s", "load_s", "joules_per_image_end_to_end"),
    *("peak_rss_bytes", "gpu_memory_bytes", "top1", "macro_f1"),
)
_VERDICT = "For a verdict measure both in one run: picnic-edge bench BUNDLE --against OTHER"


def main(argv=None):
    """Compares. Raises PicnicError as the exit codes say."""
    this = argparse.ArgumentParser(
        prog="picnic-edge bench compare",
        description="Show two runs of `picnic-edge bench --report` side by side, without a verdict.",
        epilog="example: picnic-edge bench compare before/bench.json after/bench.json",
    )
    this.add_argument("before", metavar="A.json", help="bench.json of the first run")
    this.add_argument("after", metavar="B.json", help="bench.json of the second run")
    this.add_argument("--json", action="store_true", help="one JSON document on stdout instead of the text")
    this.add_argument("--fail-above", metavar="PERCENT", help=argparse.SUPPRESS)  # an option of 0.2
    options = this.parse_args(argv)
    if options.fail_above is not None:
        raise UsageError(f"--fail-above: two files cannot tell a change from noise. {_VERDICT} --fail-above PERCENT")
    comparison = compare(read_document(options.before), read_document(options.after))
    for text in comparison["differences"]:
        say("NOT THE SAME: " + text)
    if options.json:
        print_json(comparison)
    else:
        print(format_comparison(comparison))


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
        newer = isinstance(version, int) and version > FORMAT_VERSION
        advice = "a newer Picnic Edge wrote it: update this one" if newer else "measure again with this version"
        raise UsageError(f"{path}: {expected}; {advice}")
    try:
        compare(document, document)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UsageError(f"{path}: a key is missing or has a bad value ({error}); measure again")
    return document


def compare(before, after):
    """Compares two documents.

    Returns:
        dict: differences (texts: conditions that were not the same, and may explain different figures), figures (list
        of {"engine", "figure", such as "images_per_s b8", "before", "after": medians of the windows, "ratio", "low",
        "high": ratios of the quartiles that lie nearest to and farthest from each other}), others ([(engine, what,
        before, after)] of figures without windows), lost (what only the first run measured), stopped ([(name,
        reason)] of engines that stopped in the second run only), new (engine names).
    """
    old, new = ({engine["name"]: engine for engine in measured_engines(one)} for one in (before, after))
    figures, others, stopped, lost = [], [], [], [name for name in old if name not in new]
    for name in [name for name in old if name in new]:
        first, second = old[name]["windows"], new[name]["windows"]
        figures += [
            _figure(name, f"{metric} {point}", values_of(first, point, metric), values_of(second, point, metric))
            for metric in METRICS
            for point in points_of(first)
            if (metric != "p50_ms" or point == "b1")  # elsewhere it is the throughput's other side
            and values_of(first, point, metric)
            and values_of(second, point, metric)
        ]
        values = [(name, what, old[name].get(what), new[name].get(what)) for what in _OTHERS]
        others += [one for one in values if one[2:] != (None, None)]
        lost += [f"{name} {point}" for point in points_of(first) if point not in points_of(second)]
        if new[name].get("stopped") and not old[name].get("stopped"):
            stopped.append((name, new[name]["stopped"]))
    return {
        "differences": _differences(before, after),
        "figures": figures,
        "others": others,
        "lost": lost,
        "stopped": stopped,
        "new": [name for name in new if name not in old],
    }


def format_comparison(comparison):
    """Returns the result of `compare` as text."""
    rows = []
    for one in comparison["figures"]:
        texts = [
            _text(one["before"]),
            _text(one["after"]),
            f"{one['ratio']:.3f}",
            f"{one['low']:.3f} to {one['high']:.3f}",
        ]
        rows.append([f"{one['engine']} {one['figure']}"] + texts)
    rows += [[f"{engine} {what}", _text(old), _text(new), "", ""] for engine, what, old, new in comparison["others"]]
    lines = [format_table(["figure", "before", "after", "after / before", "range"], rows)] if rows else []
    lines += [f"{name}: was measured before, not now" for name in comparison["lost"]]
    lines += [f"{name}: stopped before its end in the second run: {why}" for name, why in comparison["stopped"]]
    lines += [f"{name}: was not measured before" for name in comparison["new"]]
    return "\n".join(lines + ["The range is that of the windows' quartiles. " + _VERDICT])


def _figure(engine, figure, first, second):
    low, before, high = np.percentile(first, [25, 50, 75]).tolist()
    least, after, most = np.percentile(second, [25, 50, 75]).tolist()
    ends = {"before": before, "after": after, "ratio": after / before, "low": least / high, "high": most / low}
    return dict(ends, engine=engine, figure=figure)


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
    old_ms, new_ms = _machine_work_ms(before), _machine_work_ms(after)
    if old_ms and new_ms and not 0.95 <= new_ms / old_ms <= 1.05:
        texts.append(f"the machine's speed: its fixed piece of work took {old_ms:.2f} ms; {new_ms:.2f} ms")
    for which, one in (("first", before), ("second", after)):
        if one["partial"]:
            texts.append(f"the {which} run, or an engine in it, was stopped before its end")
        if is_busy(one):
            share = 100 * one["busy_share"]
            texts.append(f"other programs kept {share:.0f} % of the cores busy before the {which} run")
    return texts


def _machine_work_ms(document):
    times_ms = [window["reference_ms"] for engine in measured_engines(document) for window in engine["windows"]]
    return float(np.median(times_ms)) if times_ms else None


def _facts(facts, names):
    return ", ".join(f"{name} {facts[name]}" for name in names if facts.get(name) not in (None, ""))


def _text(value):
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    from edge_runtime.cli.run import run_verb

    sys.exit(run_verb(main, sys.argv[1:]))
