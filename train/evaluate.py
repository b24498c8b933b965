"""picnic-edge evaluate"""

import argparse
import os

from edge_runtime import files, machine, tables
from edge_runtime.classifier import Classifier
from edge_runtime.cli import columns_of, row_of
from edge_runtime.command import print_json, progress, say
from edge_runtime.errors import UsageError
from edge_runtime.sources import Item
from train import data, metrics


def parser():
    """Returns the argument parser of `picnic-edge evaluate`."""
    this = argparse.ArgumentParser(
        prog="picnic-edge evaluate",
        description="Score a bundle on labelled photos: accuracy, macro-F1, and precision, recall and F1 per class.",
        epilog="example: picnic-edge evaluate bundle test.tsv --images photos/",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train`")
    this.add_argument(
        "labels", metavar="TSV", help="table with the columns file and label, or a folder of class folders"
    )
    this.add_argument("--images", metavar="DIR", help="where the TSV's file names start (default: the TSV's folder)")
    this.add_argument("--engine", default="auto", metavar="NAME", help="default auto: the fastest valid here")
    this.add_argument("--report", metavar="DIR", help="write evaluation.json, per_class.tsv and predictions.tsv there")
    this.add_argument("--json", action="store_true", help="one JSON document on stdout instead of the table")
    return this


def main(argv=None):
    """Evaluates a bundle. Raises PicnicError as the exit codes say."""
    options = parser().parse_args(argv)
    photos, problems = data.read_labels(options.labels, options.images)
    with Classifier.open(options.bundle, options.engine) as classifier:
        class_names, engine_name = classifier.bundle.class_names, classifier.engine.name
        photos, unknown = data.drop_unknown_labels(photos, set(class_names))
        data.report_problems(problems + unknown, None, strict=False)
        if not photos:
            raise UsageError("%s: no photo with a label that the bundle knows" % options.labels)
        items = [Item(photo.file, photo.path, "") for photo in photos]
        predictions = list(progress(classifier.classify(items), len(items), "evaluate"))
    unreadable = [data.Problem(found.name, found.error) for found in predictions if found.error]
    data.report_problems(unreadable, None, strict=False)
    scored = [(photo, found) for photo, found in zip(photos, predictions) if not found.error]
    if not scored:
        raise UsageError("%s: none of its %d photos can be read" % (options.labels, len(photos)))
    accuracy, macro_f1, table = metrics.score(
        [photo.label for photo, _ in scored], [found.label for _, found in scored], class_names
    )
    result = {
        "bundle_id": classifier.bundle.id,
        "engine": engine_name,
        "accuracy": accuracy,
        "macro_f1": macro_f1,
        "photos": len(scored),
        "set_aside": len(problems) + len(unknown) + len(unreadable),
        "per_class": [dict(row._asdict()) for row in table],
        "machine": machine.describe(),
    }
    if options.report:
        _write_report(options.report, result, table, scored)
    if options.json:
        print_json(result)
    else:
        print(metrics.format_table(table))
        print("accuracy %.4f, macro-F1 %.4f on %d photos, with %s" % (accuracy, macro_f1, len(scored), engine_name))


def _write_report(folder, result, table, scored):
    try:
        os.makedirs(folder, exist_ok=True)
        files.write_json(os.path.join(folder, "evaluation.json"), result)
        with files.whole_file(os.path.join(folder, "per_class.tsv")) as file:
            write = tables.row_writer(file, metrics.ClassScore._fields, ".tsv")
            for row in table:
                write(row)
        with files.whole_file(os.path.join(folder, "predictions.tsv")) as file:
            write = tables.row_writer(file, ["truth"] + columns_of(3), ".tsv")
            for photo, found in scored:
                write([photo.label] + row_of(found, 3))
    except OSError as error:
        raise UsageError("--report %s: cannot be written (%s)" % (folder, error.strerror))
    say("written: %s/evaluation.json, per_class.tsv, predictions.tsv" % folder)
