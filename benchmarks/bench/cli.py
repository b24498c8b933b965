"""picnic-edge bench: the command line, and the order of a whole run."""

import argparse
import collections
import contextlib
import shlex
import sys
import tempfile
import time

from benchmarks import loadgen, rivals
from benchmarks.bench import against, machine_state, report, roofline, side_by_side, summary, turns
from benchmarks.bench.document import is_busy, new_document
from benchmarks.bench.plan import make_plan
from benchmarks.bench.subject import Subject
from convert.child import ChildError
from edge_runtime import files
from edge_runtime.bundle.manifest import require_outside
from edge_runtime.bundle.reading import Bundle
from edge_runtime.cli.options import amount, parsed
from edge_runtime.console import print_json, say
from edge_runtime.engines.record import MAX_BATCH, local_facts
from edge_runtime.engines.selection import find_engine, list_engines
from edge_runtime.errors import BundleError, EngineLost, MissingRequirement, PicnicError, UsageError
from edge_runtime.machine.libraries import require


def parser():
    """Returns the argument parser of `picnic-edge bench`."""
    this = argparse.ArgumentParser(
        prog="picnic-edge bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure the engines of a bundle on this machine, in turns: cold start, latency at batch 1,\n"
        "throughput by batch size, speed from photo files to a table, memory, energy.\n"
        "With --against, is it slower than another? A verdict that noise does not make.\n"
        "picnic-edge bench compare A.json B.json shows two runs side by side\n"
        "(for a bundle named compare write ./compare).",
        epilog="example: picnic-edge bench bundle --images photos/ --batch 1,8",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train` or `import`")
    this.add_argument("--engine", nargs="+", default=["all"], metavar="NAME", help="engines to measure (default all)")
    this.add_argument("--images", metavar="DIR", help="photos for the end-to-end run (default: the bundle's sample)")
    this.add_argument(
        "--labels",
        metavar="TSV",
        help="also measure top-1 and macro-F1 on these labelled photos, found in --images or beside the table",
    )
    this.add_argument(
        "--batch",
        type=_batches,
        default=[1, 4, 8],
        metavar="1,4,8",
        help="batch sizes to measure; 1 is always added (default 1,4,8)",
    )
    this.add_argument("--seconds", type=amount, default=3.0, metavar="S", help="length of each measurement (default 3)")
    this.add_argument("--loadgen", choices=loadgen.MODES, help="also run MLPerf LoadGen's scenarios (unofficial)")
    this.add_argument("--rivals", action="store_true", help="also measure other programs on the same photos")
    this.add_argument(
        "--against",
        metavar="OTHER",
        help="measure one engine (default: the fastest) in turns with another engine, the same engine of another "
        "bundle, or the code in a checkout of Picnic Edge, and say which figures differ beyond noise",
    )
    this.add_argument(
        "--fail-above",
        type=_percent,
        metavar="PERCENT",
        help="with --against: exit with code 7 if a figure is worse, beyond noise, by more than this; below 5, "
        "changes from this size on get a verdict, too",
    )
    this.add_argument("--report", metavar="DIR", help=f"also write {', '.join(report.FILES)} to this folder")
    this.add_argument("--json", action="store_true", help="one JSON document on stdout instead of the table")
    return this


def main(argv=None):
    """Measures, or compares. Raises PicnicError as the exit codes say."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["compare"]:
        side_by_side.main(arguments[1:])
        return
    options = parser().parse_args(arguments)
    for name in ("against", "images", "labels", "report"):
        if getattr(options, name) == "":  # as of a shell's variable that is not set
            raise UsageError(f"--{name} '': expected a name, got an empty one; give one, or leave the option out")
    if options.fail_above is not None and not options.against:
        line = f"picnic-edge bench {shlex.quote(options.bundle)} --against OTHER --fail-above {options.fail_above:g}"
        raise UsageError(f"--fail-above needs something to compare with: {line}")
    bundle = Bundle.open(options.bundle)
    if options.against:
        against.run(bundle, options, arguments)
        return
    names = _engine_names(bundle, options.engine)
    if options.report:
        require_outside(options.report, options.bundle, "--report")
        files.claim_folder(options.report, "--report")
    if options.loadgen:
        require("mlperf_loadgen")
    with tempfile.TemporaryDirectory() as scratch:
        plan = make_plan(bundle, options, scratch)
        result = new_document(bundle, plan, ["picnic-edge", "bench"] + arguments, options.images or options.labels)
        try:
            subjects = measure_all(result, bundle, names, plan, options.rivals)
        except BaseException:
            say("stopped: what was measured is reported, as partial")
            try:
                _finish(result, options)
            except Exception as error:  # the first error is the one to raise
                say(f"the report failed, too: {error}")
            raise
    if all("skipped" in engine for engine in result["engines"]):
        reasons = [f"{subject.name} skipped: {subject.reason}" for subject in subjects]
        refusal = BundleError if all(subject.invalid for subject in subjects) else MissingRequirement
        raise refusal("no engine could be measured:\n" + "\n".join(reasons))
    _finish(result, options)
    lost = [f"{engine['name']}: {engine['stopped']}" for engine in result["engines"] if engine.get("stopped")]
    if lost:
        raise EngineLost("stopped before its end:\n" + "\n".join(lost))


def measure_all(result, bundle, names, plan, with_rivals=False):
    """Measures engines and fills a document. After an interruption it holds what was measured; "partial" stays True.

    It also stays True where an engine was lost after its first figures.

    Args:
        result: what new_document returned.
        bundle: an open Bundle.
        names: of the engines.
        plan: a Plan.
        with_rivals: also run benchmarks.rivals.

    Returns:
        list of Subject.
    """
    started = time.perf_counter()
    subjects = [Subject(name) for name in dict.fromkeys(names)]
    try:
        result["busy_share"], idle = machine_state.measure_idle()
        result["power"] = idle
        if is_busy(result):
            share = 100 * result["busy_share"]
            say(f"other programs keep {share:.0f} % of the cores busy: the figures are of a shared machine")
        turns.run(bundle, subjects, plan, idle)
        _collect_figures(result, subjects)
        if any("skipped" not in engine for engine in result["engines"]):
            result["roofline"] = _place_below_roof(bundle, result["engines"], plan.seconds)
            if with_rivals:
                _run_rivals(result, bundle, plan)
        result["partial"] = any(engine.get("stopped") for engine in result["engines"])
    finally:
        _collect_figures(result, subjects)
        _add_libraries(result, bundle)
        result["seconds"] = time.perf_counter() - started
    return subjects


def _collect_figures(result, subjects):
    roofs = {engine["name"]: engine for engine in result["engines"]}
    result["engines"] = []
    for subject in subjects:
        figures = summary.summarize(subject, result["power"])
        roof = roofs.get(subject.name, {})
        figures.update({name: value for name, value in roof.items() if name.startswith("roof_")})
        result["engines"].append(figures)
    result["loadgen"] = [one for subject in subjects for one in subject.loadgen]


def _add_libraries(result, bundle):
    for engine in result["engines"]:
        if "skipped" not in engine:
            with contextlib.suppress(PicnicError):
                result["libraries"].update(local_facts(find_engine(bundle, engine["name"]).kind)["libraries"])


def _place_below_roof(bundle, engines, seconds):
    """Adds roof_... to the engines. Returns the measured peaks and the network's work, or why there are none."""
    say("measuring the peak speed of the cores and of the memory")
    try:
        work = roofline.count_work(bundle.checked("model.onnx"))
        peaks = roofline.measure_peaks(min(1.0, seconds))
    except PicnicError as error:
        return {"skipped": " ".join(str(error).splitlines())}
    except ChildError as error:  # a traceback, whose last line names the cause
        return {"skipped": str(error).strip().splitlines()[-1]}
    for engine in engines:
        best = summary.best_model_rate(engine) if "skipped" not in engine else None
        if best:
            roof = roofline.place(work, peaks, engine["kind"], engine["precision"], best[0], best[1])
            engine.update({"roof_" + name: value for name, value in roof.items()}, roof_batch=best[0])
    return dict(work, **peaks)


def _run_rivals(result, bundle, plan):
    paths, left_out = rivals.common_photos([item.path for item in plan.items])
    result["rivals_left_out"] = dict(collections.Counter(reason for _, reason in left_out))
    if left_out:
        say(f"{len(left_out)} of {len(plan.items)} photos are left out, which not every rival can read")
    if not paths:
        say("no rival is measured: none of the photos can be read by all of them")
        return
    for name, figures in rivals.measure(bundle, paths, seconds=plan.seconds, batch=max(plan.batches)):
        say(report.rival_line(dict(figures, name=name)))
        figures.pop("labels", None)
        result["rivals"].append(dict(figures, name=name))


def _finish(result, options):
    table = report.format_table(result)
    try:
        if options.json:
            print_json(result)
        else:
            print(table)
    finally:  # after a closed pipe the report is written all the same
        if options.report:
            report.write_report(options.report, result, table)


def _engine_names(bundle, names):
    """Returns the names of the engines to measure. Raises UsageError for an unknown one, before any measurement."""
    if names == ["all"]:
        return [info.name for info in list_engines(bundle)]
    return [name if name == "auto" else find_engine(bundle, name).name for name in names]


def _percent(text):
    return parsed(float, text, lambda value: 0 <= value < float("inf"), "0 or more")


def _batches(text):
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1 or sizes[-1] > MAX_BATCH:
        raise argparse.ArgumentTypeError(f"expected batch sizes such as 1,4,8, {MAX_BATCH} at most, got {text}")
    return sizes
