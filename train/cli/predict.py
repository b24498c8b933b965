"""The verb predict: labels photos, and writes them as a submission."""

import argparse
import os

from edge_runtime import files
from edge_runtime.bundle.manifest import require_outside
from edge_runtime.classifier import Classifier
from edge_runtime.console import progress, say
from edge_runtime.errors import UsageError
from edge_runtime.results import formats
from edge_runtime.sources.registry import open_source
from edge_runtime.sources.table import images_folder_of, table_items
from train.data import checks, labels

_COLUMNS = ["file", "label"]


def parser():
    """Returns the argument parser of `picnic-edge predict`."""
    this = argparse.ArgumentParser(
        prog="picnic-edge predict",
        description="Label the photos of a table, in its order, as a submission with the columns file and label.",
        epilog="example: picnic-edge predict bundle test.tsv --images photos --out labels.tsv",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train` or `import`")
    this.add_argument("photos", metavar="TSV", help="table with the column file, or a folder of photos")
    this.add_argument(
        "--images", metavar="DIR", help="where the table's file names start (default: the table's folder)"
    )
    this.add_argument(
        "--out", metavar="FILE", required=True, help=f"submission to write: a {formats.suffix_list()} file"
    )
    this.add_argument(
        "--engine", default="auto", metavar="NAME", help="engine to run (default auto: the fastest valid one)"
    )
    return this


def main(argv=None):
    """Writes a submission. Raises PicnicError as the exit codes say."""
    options = parser().parse_args(argv)
    if os.path.exists(options.out) and os.path.exists(options.photos) and os.path.samefile(options.out, options.photos):
        raise UsageError(f"--out {options.out}: is the table that lists the photos; choose another name")
    if not files.is_stream(options.out):
        require_outside(options.out, options.bundle, "--out")
    suffix = formats.check_output(options.out)
    if os.path.isdir(options.photos):
        items = list(open_source(options.photos))
    else:
        items = list(table_items(options.photos, images_folder_of(options.photos, options.images)))
    if not items:
        raise UsageError(f"{options.photos}: has no {'photos' if os.path.isdir(options.photos) else 'rows'}")
    unreadable = []
    with Classifier.open(options.bundle, options.engine) as classifier:
        with files.named(f"--out {options.out}"), formats.atomic_table(options.out, _COLUMNS, suffix) as write:
            for prediction in progress(classifier.classify(items), len(items), "predict"):
                write([prediction.name, prediction.label])
                if prediction.error:
                    unreadable.append(labels.Problem(prediction.name, prediction.error))
    checks.report_problems(unreadable, None, strict=False)
    say(f"{len(items)} rows, {len(unreadable)} without a label, written to {os.path.normpath(options.out)}")
