"""The verb explore."""

import argparse
import os

from edge_runtime import files
from edge_runtime.bundle.reading import Bundle
from edge_runtime.console import say
from edge_runtime.machine.libraries import require
from edge_runtime.text import plain_json, printable
from train.data import checks
from train.data.labels import Problem
from train.insight import inner, label_errors
from train.insight.explore import check_labels, findings, look_at_all, read_splits, summary, warnings_of, write_page


def parser():
    """Returns the argument parser of `picnic-edge explore`."""
    this = argparse.ArgumentParser(
        prog="picnic-edge explore",
        description="Look at labelled photos before training: classes, sizes, unreadable, dark, blurred and duplicate "
        "photos, photos shared by training and validation and, with --bundle, labels that are likely wrong. Writes "
        "explore.html and explore.json.",
        epilog="example: picnic-edge explore train.tsv --images photos/ --report report/",
    )
    this.add_argument(
        "labels", metavar="TSV", help="table with the columns file and label, or a folder of class folders"
    )
    this.add_argument("--images", metavar="DIR", help="where the TSV's file names start (default: the TSV's folder)")
    this.add_argument("--report", metavar="DIR", required=True, help="write explore.html and explore.json there")
    this.add_argument("--val", metavar="TSV", help="validation photos: a table or a folder of class folders")
    this.add_argument("--val-images", metavar="DIR", help="where --val's file names start (default: --images)")
    this.add_argument("--bundle", metavar="BUNDLE", help="look for wrong labels with this bundle's network")
    return this


def main(argv=None):
    """Writes the report. Raises PicnicError as the exit codes say; a photo that cannot be read is a finding."""
    options = parser().parse_args(argv)
    for module in ("jinja2", "matplotlib", "scipy.sparse.csgraph"):
        require(module)
    listed, problems, warnings = read_splits(options)
    files.claim_folder(options.report, "--report")
    if options.bundle:
        label_errors.load()
        bundle = Bundle.open(options.bundle)
        session = inner.open_session(bundle, [inner.FEATURES])
    seen, unreadable = look_at_all(listed)
    document = findings(seen, listed, problems + unreadable)
    document["warnings"] = warnings + warnings_of(seen, document)
    if options.bundle:
        document["label_check"] = check_labels(seen, session, bundle)
    with files.named(f"--report {options.report}"):
        files.write_json(os.path.join(options.report, "explore.json"), plain_json(document))
        write_page(os.path.join(options.report, "explore.html"), document, seen)
    checks.report_problems([Problem(one["file"], one["problem"]) for one in document["problems"]], None, strict=False)
    for warning in document["warnings"]:
        say("warning: " + printable(warning["text"]))
    print(summary(document))
    say(f"written: {options.report}/explore.html, explore.json")
