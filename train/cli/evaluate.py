"""The verb evaluate: its options, and what it prints."""

import argparse
import os
import shlex
import sys

from edge_runtime import files
from edge_runtime.bundle.manifest import require_outside
from edge_runtime.console import format_table, print_json
from edge_runtime.text import printable
from train.insight import report
from train.insight.evaluate import compare
from train.model import metrics


def parser():
    """Returns the argument parser of `picnic-edge evaluate`."""
    this = argparse.ArgumentParser(
        prog="picnic-edge evaluate",
        description="Score a bundle on labelled photos: accuracy, macro-F1, and precision, recall and F1 per class. "
        "Several bundles are compared on the same photos, best first.",
        epilog="example: picnic-edge evaluate bundle test.tsv --images photos/ --report report",
    )
    this.add_argument("bundles", metavar="BUNDLE", nargs="+", help="folder written by `picnic-edge train` or `import`")
    this.add_argument(
        "labels", metavar="TSV", help="table with the columns file and label, or a folder of class folders"
    )
    this.add_argument("--images", metavar="DIR", help="where the TSV's file names start (default: the TSV's folder)")
    this.add_argument(
        "--engine",
        default="auto",
        metavar="NAME",
        help="engine to run (default auto: the fastest valid one)",
    )
    this.add_argument("--report", metavar="DIR", help=f"folder to write {', '.join(report.FILES)} to")
    this.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    return this


def main(argv=None):
    """Prints the figures, and writes the report. Raises PicnicError as the exit codes say."""
    arguments = sys.argv[1:] if argv is None else argv
    options = parser().parse_args(arguments)
    if options.report:
        report.check_requirements()
        for bundle in options.bundles:
            require_outside(options.report, bundle, "--report")
        files.claim_folder(options.report, "--report")
    photos, problems, ranked, failures = compare(options.bundles, options.labels, options.images, options.engine)
    results = [one.result for one in ranked] + [{"bundle": path, "error": str(error)} for path, error in failures]
    several = len(options.bundles) > 1
    if options.json:
        print_json({"bundles": results} if several else results[0])
    elif several:
        print(_side_by_side([one.result for one in ranked]))
    else:
        print(_figures(results[0]))
    if options.report:
        best = ranked[0]
        report.write_report(
            options.report,
            best.run.bundle,
            photos,
            best.probabilities,
            best.run.engine.name,
            results=results,
            provenance=_provenance(arguments, options.labels, results[0]),
            others=[(one.run.path, one.run.bundle) for one in ranked[1:]],
            problems=problems,
        )
    if failures:
        raise type(failures[0][1])(f"{len(failures)} of {len(options.bundles)} bundles were left out, see above")


def _provenance(arguments, labels, result):
    """Returns (what, value) pairs of text: the command, and the identity of the photos."""
    words = ["picnic-edge", "evaluate"] + [printable(word) for word in arguments]
    rows = [("evaluated with", " ".join(shlex.quote(word) for word in words))]
    if os.path.isfile(labels):
        rows.append(("sha256 of the label table", files.sha256_of(labels)))
    rows.append(("identity of the photos and their labels", result["photos_id"]))
    return rows


def _figures(result):
    """Returns one bundle's table of classes and its figures."""
    accuracy, macro_f1 = (
        "{:.4f} to {:.4f}".format(*result[name]) for name in ("accuracy_interval", "macro_f1_interval")
    )
    return (
        f"{metrics.format_table([metrics.ClassScore(**row) for row in result['per_class']])}\n"
        f"95 % interval: accuracy {accuracy}, macro-F1 {macro_f1}; expected calibration error "
        f"{result['expected_calibration_error']:.3f}\n"
        f"accuracy {result['accuracy']:.4f}, macro-F1 {result['macro_f1']:.4f} on {result['photos']} photos, with "
        f"{result['engine']}"
    )


def _side_by_side(results):
    """Returns the figures of several bundles as a table, in the order of results."""
    header = ["bundle", "id", "engine", "accuracy", "macro-F1", "95 % interval", "against first"]
    rows = [
        [
            result["bundle"],
            result["bundle_id"],
            result["engine"],
            f"{result['accuracy']:.4f}",
            f"{result['macro_f1']:.4f}",
            "{:.3f} to {:.3f}".format(*result["macro_f1_interval"]),
            f"+{result['only_it_is_right']} -{result['only_first_is_right']}",
            f"{result['expected_calibration_error']:.3f}",
            f"{result['model_bytes'] / 1e6:.1f}",
            f"{result['images_per_s']:.1f}",
        ]
        for result in results
    ]
    table = format_table(header + ["ECE", "MB", "images/s"], rows)
    return (
        f"{table}\n{results[0]['photos']} photos; against first: photos that only this bundle gets right (+) and that "
        "only the first gets right (-)"
    )
