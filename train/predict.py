"""picnic-edge predict"""

import argparse
import os

from edge_runtime import files, tables
from edge_runtime.classifier import Classifier
from edge_runtime.command import progress, say
from edge_runtime.errors import UsageError
from edge_runtime.sources import images_folder_of, open_source, table_items
from train import data


def parser():
    """Returns the argument parser of `picnic-edge predict`."""
    this = argparse.ArgumentParser(
        prog="picnic-edge predict",
        description="Label the photos of a TSV, in its order, as a submission with the columns file and label.",
        epilog="example: picnic-edge predict bundle test.tsv --images photos --out labels.tsv",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train`")
    this.add_argument("photos", metavar="TSV", help="table with the column file, or a folder")
    this.add_argument("--images", metavar="DIR", help="where its file names start (default: the table's folder)")
    this.add_argument("--out", metavar="FILE", required=True, help="the submission to write")
    this.add_argument("--engine", default="auto", metavar="NAME", help="default auto: the fastest valid here")
    return this


def main(argv=None):
    """Writes a submission. Raises PicnicError as the exit codes say."""
    options = parser().parse_args(argv)
    if os.path.exists(options.out) and os.path.exists(options.photos) and os.path.samefile(options.out, options.photos):
        raise UsageError("--out %s: is the table that the photos are read from; give another name" % options.out)
    if os.path.isdir(options.out):
        raise UsageError("--out %s: cannot be written (is a folder)" % options.out)
    if os.path.isdir(options.photos):
        items = list(open_source(options.photos))
    else:
        items = list(table_items(options.photos, images_folder_of(options.photos, options.images)))
    if not items:
        raise UsageError("%s: has no rows" % options.photos)
    unreadable = []
    with Classifier.open(options.bundle, options.engine) as classifier:
        try:
            with files.whole_file(options.out) as file:
                write = tables.row_writer(file, ["file", "label"], ".tsv")
                for found in progress(classifier.classify(items), len(items), "predict"):
                    write([found.name, found.label])
                    if found.error:
                        unreadable.append(data.Problem(found.name, found.error))
        except OSError as error:
            raise UsageError("--out %s: cannot be written (%s)" % (options.out, error.strerror))
    data.report_problems(unreadable, None, strict=False)
    say("%d rows, %d without a label, written to %s" % (len(items), len(unreadable), os.path.normpath(options.out)))
