"""picnic-edge bench"""

import argparse
import collections
import contextlib
import datetime
import math
import os
import sys
import tempfile
import time

import cv2
import numpy as np

from benchmarks import loadgen, rivals
from benchmarks.bench import bench, compare, report, roofline
from convert import parity
from convert.child import ChildError
from edge_runtime import files
from edge_runtime.bundle.reading import Bundle
from edge_runtime.cli.options import amount
from edge_runtime.console import print_json, say
from edge_runtime.engines.record import MAX_BATCH, local_facts
from edge_runtime.engines.selection import find_engine, list_engines, open_engine
from edge_runtime.errors import BundleError, ImageError, MissingRequirement, PicnicError, UsageError
from edge_runtime.machine import jetson, libraries
from edge_runtime.machine.cpu import cpu_info, describe
from edge_runtime.machine.libraries import require
from edge_runtime.photos import read
from edge_runtime.sources.registry import open_source

# Of an end-to-end window, which goes over them once or more often. Four batches: where a photo takes a tenth of a
# second, ten windows of four engines take two minutes with so few.
MOST_PHOTOS = 32


def parser():
    """Returns the argument parser of `picnic-edge bench`."""
    this = argparse.ArgumentParser(
        prog="picnic-edge bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure the engines of a bundle on this machine, in turns: cold start, latency at batch 1,\n"
        "throughput by batch size, end to end from photo files to a table, memory, energy.\n"
        "picnic-edge bench compare A.json B.json: what changed between two runs (a bundle named compare: ./compare).",
        epilog="example: picnic-edge bench bundle --images photos/ --batch 1,8",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train`")
    this.add_argument("--engine", nargs="+", default=["all"], metavar="NAME", help="engines to measure (default all)")
    this.add_argument("--images", metavar="DIR", help="photos for the end-to-end run (default: the bundle's sample)")
    this.add_argument(
        "--labels",
        metavar="TSV",
        help="photos with labels, their names below --images or else beside the table: top-1 and macro-F1 on them",
    )
    this.add_argument(
        "--batch", type=_batches, default=[1, 4, 8], metavar="1,4,8", help="batch sizes (default 1,4,8); 1 always is"
    )
    this.add_argument("--seconds", type=amount, default=3.0, metavar="S", help="length of each measurement (default 3)")
    this.add_argument("--loadgen", choices=loadgen.MODES, help="also MLPerf LoadGen's scenarios, unofficially")
    this.add_argument("--rivals", action="store_true", help="also what others would run on the same photos")
    this.add_argument("--report", metavar="DIR", help=f"also write {', '.join(report.FILES)} there")
    this.add_argument("--json", action="store_true", help="one JSON document on stdout instead of the table")
    return this


def main(argv=None):
    """Measures, or compares. Raises PicnicError as the exit codes say."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["compare"]:
        compare.main(arguments[1:])
        return
    options = parser().parse_args(arguments)
    bundle = Bundle.open(options.bundle)
    names = _engine_names(bundle, options.engine)
    if options.report:
        files.claim_folder(options.report, "--report")
    if options.loadgen:
        require("mlperf_loadgen")
    with tempfile.TemporaryDirectory() as scratch:
        plan = make_plan(bundle, options, scratch)
        result = document(bundle, plan, ["picnic-edge", "bench"] + arguments, options.images or options.labels)
        try:
            subjects = measure_all(result, bundle, names, plan, options.rivals)
        except BaseException:
            say("stopped: what was measured is reported, as partial")
            try:
                _finish(result, options)
            except Exception as error:  # what stopped the run is what counts
                say(f"the report failed, too: {error}")
            raise
    if all("skipped" in engine for engine in result["engines"]):
        reasons = [f"{subject.name} skipped: {subject.reason}" for subject in subjects]
        refusal = BundleError if all(subject.invalid for subject in subjects) else MissingRequirement
        raise refusal("no engine could be measured:\n" + "\n".join(reasons))
    _finish(result, options)


def make_plan(bundle, options, scratch):
    """Returns the bench.Plan of the options of `parser`, after meeting what is wrong with the photos.

    Args:
        scratch: an existing folder, kept until the run is over.

    Raises:
        UsageError: no photo, none that can be read, or no usable label.
    """
    labelled = parity.labelled_photos(bundle, options.labels, options.images) if options.labels else []
    if options.images:
        items = [item for item in open_source(options.images) if not item.problem]
        origin = f"--images {options.images}"
    elif labelled:
        items, origin = [item for item, _ in labelled], f"--labels {options.labels}"
    else:
        items, origin = list(open_source(_write_sample(bundle, os.path.join(scratch, "photos")))), "the sample"
    items = readable(_spread(items), origin)
    return bench.Plan(
        batches=sorted({1} | set(options.batch)),
        seconds=options.seconds,
        items=items,
        photo=os.path.abspath(items[0].path),
        labelled=labelled,
        loadgen=options.loadgen or "",
        loadgen_logs=os.path.join(options.report or scratch, "loadgen"),
        opener=open_engine,
    )


def readable(items, origin):
    """Returns those of the items (of edge_runtime.sources.registry) whose photos can be read; how many cannot is said.

    Raises:
        UsageError: there is none; origin tells where.
    """
    if not items:
        raise UsageError(f"{origin}: no photo in it")
    found = [item for item in items if not item.problem and _is_readable(item.path)]
    if not found:
        raise UsageError(f"{origin}: none of the {len(items)} photos can be read")
    if len(found) < len(items):
        say(f"{origin}: {len(items) - len(found)} of {len(items)} photos cannot be read and are left out")
    return found


def document(bundle, plan, command, photos):
    """Returns the result of a run before anything is measured: what and where."""
    return {
        "format_version": compare.FORMAT_VERSION,
        "partial": True,
        "bundle": bundle.path,
        "bundle_id": bundle.id,
        "command": command,
        "started": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": 0.0,
        "photos": photos or "the bundle's sample as 299 x 299 JPEGs",
        "photo_count": len(plan.items),
        "batches": plan.batches,
        "seconds_per_measurement": plan.seconds,
        "version": libraries.library_version("picnic-edge"),
        "machine": describe(),
        "clocks": clocks(),
        "load_average": os.getloadavg()[0],
        "busy_share": None,
        "libraries": {"numpy": np.__version__, "opencv": cv2.__version__},
        "power": {"unavailable": "not reached"},
        "roofline": {"skipped": "not reached"},
        "engines": [],
        "loadgen": [],
        "rivals": [],
        "rivals_left_out": {},
    }


def measure_all(result, bundle, names, plan, with_rivals=False):
    """Fills a document; at an interruption with what there is, and then "partial" stays True.

    Args:
        result: of document.
        bundle: an open Bundle.
        names: of the engines.
        plan: a bench.Plan.
        with_rivals: also run benchmarks.rivals.

    Returns:
        list of bench.Subject.
    """
    started = time.perf_counter()
    subjects = [bench.Subject(name) for name in dict.fromkeys(names)]
    try:
        result["busy_share"], idle = bench.measure_idle()
        result["power"] = idle
        if report.is_busy(result):
            share = 100 * result["busy_share"]
            say(f"other programs keep {share:.0f} % of the cores busy: the figures are of a shared machine")
        bench.run(bundle, subjects, plan, idle)
        _gather(result, subjects)
        if any("skipped" not in engine for engine in result["engines"]):
            result["roofline"] = _place_below_roof(bundle, result["engines"], plan.seconds)
            if with_rivals:
                _run_rivals(result, bundle, plan)
        result["partial"] = False
    finally:
        _gather(result, subjects)
        _name_libraries(result, bundle)
        result["seconds"] = time.perf_counter() - started
    return subjects


def clocks(root="/"):
    """Returns what decides how fast the machine runs: flat dict of plain values, "" and None where nothing tells.

    Args:
        root: folder that stands for /.
    """
    cpu = "sys/devices/system/cpu/cpu0/cpufreq/"
    mhz = {
        name: int(text) // 1000 if text.isdigit() else None
        for name, text in (
            (name, jetson.read(root, cpu + name))
            for name in ("scaling_min_freq", "scaling_cur_freq", "scaling_max_freq")
        )
    }
    gpu = jetson.gpu_clock(root)
    now = cpu_info(os.path.join(root, "proc/cpuinfo")).get("cpu MHz", "")
    if mhz["scaling_cur_freq"] is None and now:
        mhz["scaling_cur_freq"] = int(float(now))
    return {
        "governor": jetson.read(root, cpu + "scaling_governor"),
        "cpu_min_mhz": mhz["scaling_min_freq"],
        "cpu_now_mhz": mhz["scaling_cur_freq"],
        "cpu_max_mhz": mhz["scaling_max_freq"],
        "board": jetson.model(root),
        "l4t": jetson.l4t(root) if jetson.chip(root) else "",
        "power_mode": jetson.power_mode(jetson.output_of("nvpmodel", "-q")) if jetson.chip(root) else "",
        "gpu_min_mhz": gpu[0] if gpu else None,
        "gpu_max_mhz": gpu[1] if gpu else None,
    }


def _gather(result, subjects):
    roofs = {engine["name"]: engine for engine in result["engines"]}
    result["engines"] = []
    for subject in subjects:
        found = bench.summarize(subject, result["power"])
        placed = roofs.get(subject.name, {})
        found.update({name: value for name, value in placed.items() if name.startswith("roof_")})
        result["engines"].append(found)
    result["loadgen"] = [one for subject in subjects for one in subject.loadgen]


def _name_libraries(result, bundle):
    for engine in result["engines"]:
        if "skipped" not in engine:
            with contextlib.suppress(PicnicError):
                result["libraries"].update(local_facts(find_engine(bundle, engine["name"]).kind)["libraries"])


def _place_below_roof(bundle, engines, seconds):
    """Adds roof_... to the engines; returns the measured roofs and the network's work, or why there are none."""
    say("measuring what the cores and the memory can do at most")
    try:
        work = roofline.count_work(bundle.checked("model.onnx"))
        peaks = roofline.measure_peaks(min(1.0, seconds))
    except PicnicError as error:
        return {"skipped": str(error).splitlines()[0]}
    except ChildError as error:  # a traceback, whose last line names the cause
        return {"skipped": str(error).strip().splitlines()[-1]}
    for engine in engines:
        best = bench.best_model_rate(engine) if "skipped" not in engine else None
        if best:
            placed = roofline.place(work, peaks, engine["kind"], engine["precision"], best[0], best[1])
            engine.update({"roof_" + name: value for name, value in placed.items()}, roof_batch=best[0])
    return dict(work, **peaks)


def _run_rivals(result, bundle, plan):
    paths, left_out = rivals.common_photos([item.path for item in plan.items])
    result["rivals_left_out"] = dict(collections.Counter(reason for _, reason in left_out))
    if left_out:
        say(f"{len(left_out)} of {len(plan.items)} photos are left out, which not every rival can read")
    if not paths:
        say("no rival is measured: none of the photos can be read by all of them")
        return
    for name, found in rivals.measure(bundle, paths, seconds=plan.seconds, batch=max(plan.batches)):
        say(f"rival {name}: {found.get('skipped') or '%.1f images/s' % found['images_per_s']}")
        found.pop("labels", None)
        result["rivals"].append(dict(found, name=name))


def _finish(result, options):
    table = report.format_table(result)
    try:
        if options.json:
            print_json(result)
        else:
            print(table)
    finally:  # neither a full disk nor a closed pipe costs the other's result
        if options.report:
            report.write_report(options.report, result, table)


def _spread(items):
    """Returns at most MOST_PHOTOS of the items, evenly spread, the same ones every time."""
    step = max(1.0, len(items) / float(MOST_PHOTOS))
    return [items[int(math.floor(number * step))] for number in range(min(len(items), MOST_PHOTOS))]


def _is_readable(path):
    try:
        read.read_image(path)
        return True
    except ImageError:
        return False


def _write_sample(bundle, folder):
    os.makedirs(folder)
    for number, rgb in enumerate(bundle.sample().images):
        cv2.imwrite(os.path.join(folder, f"{number:03d}.jpg"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    return folder


def _engine_names(bundle, asked):
    """Returns the names of the engines to measure; an unknown one is met before any time is spent on the others."""
    if asked == ["all"]:
        return [info.name for info in list_engines(bundle)]
    return [name if name == "auto" else find_engine(bundle, name).name for name in asked]


def _batches(text):
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1 or sizes[-1] > MAX_BATCH:
        raise argparse.ArgumentTypeError(f"expected batch sizes such as 1,4,8, {MAX_BATCH} at most, got {text}")
    return sizes
