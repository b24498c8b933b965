"""The verb explore: its options, and what it prints."""

import argparse
import collections
import os

from edge_runtime import files
from edge_runtime.bundle.manifest import require_outside
from edge_runtime.bundle.reading import Bundle
from edge_runtime.console import say
from edge_runtime.errors import UsageError
from edge_runtime.machine.libraries import require
from edge_runtime.text import plain_json, printable
from train.data import checks
from train.data.labels import Problem
from train.insight import explore, explore_page, inner, label_errors


def parser():
    """Returns the argument parser of `picnic-edge explore`."""
    this = argparse.ArgumentParser(
        prog="picnic-edge explore",
        description="Look at labelled photos before training: classes, sizes, unreadable, dark, blurred and duplicate "
        "photos, and photos that are in training and validation both. With --bundle: labels that are likely wrong. "
        "Writes explore.html and explore.json.",
        epilog="example: picnic-edge explore train.tsv --images photos/ --report report/",
    )
    this.add_argument(
        "labels", metavar="TSV", help="table with the columns file and label, or a folder of class folders"
    )
    this.add_argument("--images", metavar="DIR", help="where the TSV's file names start (default: the TSV's folder)")
    this.add_argument("--report", metavar="DIR", required=True, help="folder to write explore.html and explore.json to")
    this.add_argument("--val", metavar="TSV", help="validation photos: a table or a folder of class folders")
    this.add_argument("--val-images", metavar="DIR", help="where --val's file names start (default: --images)")
    this.add_argument(
        "--bundle",
        metavar="BUNDLE",
        help="look for wrong labels with this bundle; use one trained with --fine-tune 0",
    )
    return this


def main(argv=None):
    """Writes the report. Raises PicnicError as the exit codes say; a photo that cannot be read is no error."""
    options = parser().parse_args(argv)
    for module in ("jinja2", "matplotlib", "scipy.sparse.csgraph"):
        require(module)
    if options.bundle:
        require_outside(options.report, options.bundle, "--report")
    splits, problems, warnings = explore.read_splits(_sources(options))
    files.claim_folder(options.report, "--report")
    if options.bundle:  # before the photos are opened, which takes longer
        label_errors.load()
        bundle = Bundle.open(options.bundle)
        session = inner.open_session(bundle, [inner.FEATURES])
    readable, unreadable = explore.look_at_photos(splits)
    document = explore.document_of(readable, splits, problems + unreadable, warnings)
    if options.bundle:
        document["label_check"] = explore.check_labels(readable, session, bundle)
    with files.named(f"--report {options.report}"):
        files.write_json(os.path.join(options.report, "explore.json"), plain_json(document))
        explore_page.write_page(os.path.join(options.report, "explore.html"), document, readable)
    checks.report_problems([Problem(one["file"], one["problem"]) for one in document["problems"]], None, strict=False)
    for warning in document["warnings"]:
        say("warning: " + printable(warning["text"]))
    print(_summary(document))
    say(f"written: {options.report}/explore.html, explore.json")


def _sources(options):
    """Returns [(split, table or folder, images folder)]."""
    sources = [(explore.TRAIN, options.labels, options.images)]
    if options.val:
        sources.append((explore.VAL, options.val, options.images if options.val_images is None else options.val_images))
    elif options.val_images is not None:
        raise UsageError(f"--val-images {options.val_images}: needs --val, the table of these photos")
    return sources


def _summary(document):
    """Returns a few lines about what was found."""
    lines = []
    for split in document["splits"]:
        text = f"{split['name']}: {split['readable']} of {split['listed']} photos usable, {split['classes']} classes"
        if split["imbalance"]:
            text += f", the largest {split['imbalance']:.1f} times the smallest"
        if split["missing_classes"]:
            text += f", {len(split['missing_classes'])} more only in the other split"
        lines.append(text)
    groups = document["duplicates"]
    leaking = document["leaking_val_photos"]
    if len(document["splits"]) > 1:
        lines.append(f"val photos that are in train too, or look the same: {leaking}")
        if leaking * 2 > document["splits"][1]["readable"]:
            lines.append("  more than half: is --val-images missing?")
    kinds = collections.Counter(group["kind"] for group in groups)
    lines.append(
        f"duplicates: {kinds['exact']} groups of the same bytes, {kinds['alike']} of photos that look the same; "
        f"{sum(group['several_labels'] for group in groups)} groups under several labels"
    )
    counts = [f"{len(document[flaw])} {flaw}" for flaw in explore.FLAWS]
    lines.append(", ".join(counts + [f"{len(document['wrong_suffixes'])} with a wrong suffix"]))
    check = document["label_check"]
    if check:
        lines.append(f"labels that are likely wrong: {len(check['issues'])}")
        if check["fine_tuned_on"]:
            lines.append(
                f"  (the bundle was fine-tuned on {check['fine_tuned_on']} of the {check['judged']} photos judged, so "
                "it has learned their labels, wrong ones included: a bundle trained with --fine-tune 0 finds more)"
            )
    return "\n".join(lines)
