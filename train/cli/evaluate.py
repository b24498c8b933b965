"""The verb evaluate."""

import argparse
import contextlib
import os
import shlex
import sys
import typing

from edge_runtime import files
from edge_runtime.bundle.reading import Bundle
from edge_runtime.console import format_table, print_json, say
from edge_runtime.errors import PicnicError, UsageError
from edge_runtime.machine.libraries import require
from edge_runtime.text import printable
from train.data import checks
from train.data.labels import Problem, read_labels
from train.insight import metrics, report
from train.insight.evaluate import rank, run_bundle, short_sum


def parser():
    """Returns the argument parser of `picnic-edge evaluate`."""
    this = argparse.ArgumentParser(
        prog="picnic-edge evaluate",
        description="Score a bundle on labelled photos: accuracy, macro-F1, and precision, recall and F1 per class; or "
        "several bundles side by side.",
        epilog="example: picnic-edge evaluate bundle test.tsv --images photos/ --report report",
    )
    this.add_argument("bundles", metavar="BUNDLE", nargs="+", help="folder written by `picnic-edge train`")
    this.add_argument(
        "labels", metavar="TSV", help="table with the columns file and label, or a folder of class folders"
    )
    this.add_argument("--images", metavar="DIR", help="where the TSV's file names start (default: the TSV's folder)")
    this.add_argument("--engine", default="auto", metavar="NAME", help="default auto: the fastest valid here")
    this.add_argument("--report", metavar="DIR", help="write there: " + ", ".join(report.FILES))
    this.add_argument("--json", action="store_true", help="one JSON document on stdout instead of the table")
    return this


def main(argv=None):
    """Evaluates bundles. Raises PicnicError as the exit codes say."""
    arguments = sys.argv[1:] if argv is None else argv
    options = parser().parse_args(arguments)
    require("sklearn.metrics")  # what is missing is said before the photos are classified
    if options.report:
        report.check_requirements()
        files.claim_folder(options.report, "--report")
    photos, problems = read_labels(options.labels, options.images)
    failures: typing.List[typing.Tuple[str, PicnicError]] = []
    several = len(options.bundles) > 1
    opened, runs = [], []
    for path in options.bundles:
        with _going_on(path, failures, several):
            opened.append((path, Bundle.open(path)))
    # Bundles are compared on the same photos, or the one that knows the fewest classes would win: a photo counts as
    # soon as one of them knows its class, and is wrong for those that do not. A class that none knows says nothing.
    photos, unknown = checks.drop_unknown_labels(photos, {name for _, bundle in opened for name in bundle.class_names})
    checks.report_problems(problems + unknown, None, strict=False)
    if opened and not photos:
        who = "any of the bundles" if several else "the bundle"
        raise UsageError(f"{options.labels}: no photo with a label that {who} knows")
    for path, bundle in opened:
        with _going_on(path, failures, several):
            runs.append(run_bundle(path, bundle, options.engine, photos))
    if not runs:
        raise failures[0][1]
    if failures:  # one that was left out must not decide either which photos count
        known = {name for run in runs for name in run.bundle.class_names}
        kept = [number for number, photo in enumerate(photos) if photo.label in known]
        photos, gone = checks.drop_unknown_labels(photos, known)
        if not photos:
            raise UsageError(f"{options.labels}: no photo with a label that a bundle knows which could be used")
        checks.report_problems(gone, None, strict=False)
        unknown = unknown + gone
        runs = [run._replace(predictions=[run.predictions[number] for number in kept]) for run in runs]
    errors = [next((one.error for one in found if one.error), "") for found in zip(*(run.predictions for run in runs))]
    unreadable = [Problem(photo.file, error) for photo, error in zip(photos, errors) if error]
    checks.report_problems(unreadable, None, strict=False)
    readable = [number for number, error in enumerate(errors) if not error]
    if not readable:
        raise UsageError(f"{options.labels}: none of its {len(photos)} photos can be read")
    problems = problems + unknown + unreadable
    scored = [photos[number] for number in readable]
    sums = {photo.path: short_sum(photo.path) for photo in scored}
    ranked = rank(runs, scored, readable, len(problems), sums)
    results: typing.List[dict] = [result for result, _, _ in ranked]
    results += [{"bundle": path, "error": str(error)} for path, error in failures]
    if options.json:
        print_json({"bundles": results} if several else results[0])
    elif several:
        print(_side_by_side([result for result, _, _ in ranked]))
    else:
        _print_one(results[0])
    if options.report:
        _, best, probabilities = ranked[0]
        report.write_report(
            options.report,
            best.bundle,
            scored,
            probabilities,
            best.engine.name,
            results=results,
            provenance=_provenance(arguments, options.labels, results[0]),
            others=[(run.path, run.bundle) for _, run, _ in ranked[1:]],
            problems=problems,
        )
    if failures:
        raise type(failures[0][1])(f"{len(failures)} of {len(options.bundles)} bundles were left out, see above")


@contextlib.contextmanager
def _going_on(path, failures, several):
    """Where several bundles are evaluated, one that fails is named and the others go on."""
    try:
        yield
    except PicnicError as error:
        if not several:
            raise
        failures.append((path, error))
        say(f"left out: {error}")


def _provenance(arguments, labels, result):
    """Returns (what, value) pairs: which command on which photos."""
    words = ["picnic-edge", "evaluate"] + [printable(word) for word in arguments]
    rows = [("evaluated with", " ".join(shlex.quote(word) for word in words))]
    if os.path.isfile(labels):
        rows.append(("sha256 of the label table", files.sha256_of(labels)))
    rows.append(("identity of the photos and their labels", result["photos_id"]))
    return rows


def _print_one(result):
    print(metrics.format_table([metrics.ClassScore(**row) for row in result["per_class"]]))
    print(
        "95 %% interval: accuracy %.4f to %.4f, macro-F1 %.4f to %.4f; expected calibration error %.3f"
        % (*result["accuracy_interval"], *result["macro_f1_interval"], result["expected_calibration_error"])
    )
    print("accuracy %(accuracy).4f, macro-F1 %(macro_f1).4f on %(photos)d photos, with %(engine)s" % result)


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
