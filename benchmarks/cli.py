"""picnic-edge bench"""

import argparse
import os
import sys
import tempfile
import time
import typing

import cv2

from benchmarks import measure
from edge_runtime import files, machine
from edge_runtime.bundle import Bundle
from edge_runtime.classifier import Classifier
from edge_runtime.command import print_json, say
from edge_runtime.engines import find_engine, here, list_engines, open_engine
from edge_runtime.errors import BundleError, MissingRequirement, UsageError
from edge_runtime.sources import open_source


def parser():
    """Returns the argument parser of `picnic-edge bench`."""
    this = argparse.ArgumentParser(
        prog="picnic-edge bench",
        description="Measure the engines of a bundle on this machine: latency at batch 1, throughput by batch size, "
        "and end to end from photo files to a table.",
        epilog="example: picnic-edge bench bundle --images photos/ --batch 1,8",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train`")
    this.add_argument("--engine", nargs="+", default=["all"], metavar="NAME", help="engines to measure (default all)")
    this.add_argument("--images", metavar="DIR", help="photos for the end-to-end run (default: the bundle's sample)")
    this.add_argument("--batch", type=_batches, default=[1, 4, 8], metavar="1,4,8", help="batch sizes to sweep")
    this.add_argument("--seconds", type=float, default=3.0, metavar="S", help="length of each measurement (default 3)")
    this.add_argument("--report", metavar="DIR", help="also write bench.json and bench.md there")
    this.add_argument("--json", action="store_true", help="one JSON document on stdout instead of the table")
    return this


def main(argv=None):
    """Measures. Raises PicnicError as the exit codes say."""
    arguments = sys.argv[1:] if argv is None else argv
    options = parser().parse_args(arguments)
    bundle = Bundle.open(options.bundle)
    if options.report:
        _make_folder(options.report)
    names = _engine_names(bundle, options.engine)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.images or _write_sample(bundle, os.path.join(scratch, "photos"))
        items = [item for item in open_source(folder) if not item.problem]
        if not items:
            raise UsageError("--images %s: no photo in it" % folder)
        engines = [_bench(bundle, name, items, options, os.path.join(scratch, "out.tsv")) for name in names]
    measured = [engine for engine in engines if "skipped" not in engine]
    if not measured:
        raise MissingRequirement("no engine could be measured:\n" + "\n".join(_skipped(engines)))
    libraries: typing.Dict[str, str] = {}
    for engine in measured:
        libraries.update(here(find_engine(bundle, engine["name"]).kind)["libraries"])
    result = {
        "bundle_id": bundle.id,
        "photos": options.images or "the bundle's sample as 299 x 299 JPEGs",
        "command": ["picnic-edge", "bench"] + list(arguments),
        "machine": machine.describe(),
        "libraries": libraries,
        "seconds_per_measurement": options.seconds,
        "engines": engines,
    }
    table = format_table(result)
    if options.report:
        _write_report(options.report, result, table)
    if options.json:
        print_json(result)
    else:
        print(table)


def format_table(result):
    """Returns the result of a bench run as Markdown: one row per engine."""
    measured = [engine for engine in result["engines"] if "skipped" not in engine]
    batches = [found["batch"] for found in measured[0]["throughput"]]
    head = ["engine", "load s", "p50 ms", "p90 ms", "p99 ms", "max ms"]
    head += ["images/s b%d" % batch for batch in batches]
    head += ["end to end images/s", "decode ms", "infer ms", "wait ms", "write ms"]
    rows = [head, ["---"] + ["--:"] * (len(head) - 1)]
    for engine in measured:
        row = [engine["name"], "%.2f" % engine["load_s"]]
        row += ["%.1f" % engine["latency"][name] for name in ("p50_ms", "p90_ms", "p99_ms", "max_ms")]
        row += ["%.1f" % found["images_per_s"] for found in engine["throughput"]]
        row += ["%.1f" % engine["end_to_end"]["images_per_s"]]
        row += ["%.2f" % engine["end_to_end"][name] for name in ("decode_ms", "infer_ms", "wait_ms", "write_ms")]
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("| %s |" % " | ".join(cells))
    place = result["machine"]
    lines.append("")
    lines.append(
        "%s, %d cores. Latency at batch 1, model only; b8 is batch 8, model only; end to end: %d photos (%s) to a "
        "table, stages per photo, decode over all threads."
        % (place["cpu"], place["cores"], measured[0]["end_to_end"]["photos"], result["photos"])
    )
    return "\n".join(lines + _skipped(result["engines"]))


def _bench(bundle, name, items, options, out):
    say("measuring %s" % name)
    largest = max(options.batch)
    pictures = bundle.sample().images
    started = time.perf_counter()
    try:
        engine = open_engine(bundle, name, largest)
    except (BundleError, MissingRequirement) as error:
        return {"name": name, "skipped": str(error).splitlines()[0]}
    load_s = time.perf_counter() - started
    with Classifier(bundle, engine, largest) as classifier:
        return {
            "name": engine.name,
            "load_s": load_s,
            "latency": measure.latency(engine, pictures, options.seconds),
            "throughput": [measure.throughput(engine, pictures, size, options.seconds) for size in options.batch],
            "end_to_end": measure.end_to_end(classifier, items, out),
        }


def _skipped(engines):
    return ["%(name)s skipped: %(skipped)s" % engine for engine in engines if "skipped" in engine]


def _write_sample(bundle, folder):
    os.makedirs(folder)
    for number, rgb in enumerate(bundle.sample().images):
        cv2.imwrite(os.path.join(folder, "%03d.jpg" % number), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    return folder


def _engine_names(bundle, asked):
    """Returns the names of the engines to measure; an unknown one is met before any time is spent on the others."""
    if asked == ["all"]:
        return [info.name for info in list_engines(bundle)]
    return [name if name == "auto" else find_engine(bundle, name).name for name in asked]


def _make_folder(path):
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UsageError("--report %s: cannot be made (%s)" % (path, error.strerror))


def _write_report(folder, result, table):
    try:
        files.write_json(os.path.join(folder, "bench.json"), result)
        with files.whole_file(os.path.join(folder, "bench.md")) as file:
            file.write(table + "\n")
    except OSError as error:
        raise UsageError("--report %s: cannot be written (%s)" % (folder, error.strerror))
    say("written: %s/bench.json and bench.md" % folder)


def _batches(text):
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise argparse.ArgumentTypeError("expected batch sizes such as 1,4,8, got %s" % text)
    return sizes
