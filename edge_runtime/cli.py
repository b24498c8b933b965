"""picnic-edge classify"""

import argparse
import contextlib
import io
import os
import sys
import threading
import time

from edge_runtime import tables
from edge_runtime.classifier import Classifier
from edge_runtime.command import print_json, progress, say
from edge_runtime.errors import SomeInputsFailed, UsageError
from edge_runtime.sources import open_source

SUFFIXES = (".tsv", ".csv", ".jsonl")
UNKNOWN = "unknown"


def parser():
    """Returns the argument parser of `picnic-edge classify`."""
    this = argparse.ArgumentParser(
        prog="picnic-edge classify",
        description="Label photos with a trained bundle: one row per photo, in order; a photo that cannot be read "
        "gets an empty label and the reason.",
        epilog="example: picnic-edge classify bundle photos/ --out labels.tsv",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train`")
    this.add_argument(
        "source", help="an image, a folder (recursive), a glob in quotes, a .tsv with a column `file`, or -"
    )
    this.add_argument("--images", metavar="DIR", help="where a TSV's file names start (default: the TSV's folder)")
    this.add_argument("--out", metavar="FILE", help=".tsv, .csv or .jsonl (default: TSV on stdout)")
    this.add_argument("--engine", default="auto", metavar="NAME", help="default auto: the fastest valid here")
    this.add_argument("--batch", type=positive, default=8, metavar="N", help="photos per engine call (default 8)")
    this.add_argument("--top", type=positive, default=1, metavar="K", help="write the K best labels (default 1)")
    this.add_argument("--threshold", type=share, metavar="P", help="answer `unknown` below this confidence, 0..1")
    this.add_argument("--strict", action="store_true", help="exit with 3 if any photo could not be read")
    this.add_argument("--json", action="store_true", help="one JSON document on stdout instead of a table")
    return this


def main(argv=None):
    """Classifies a source. Raises PicnicError as the exit codes say."""
    options = parser().parse_args(argv)
    suffix = os.path.splitext(options.out)[1].lower() if options.out else ".tsv"
    if suffix not in SUFFIXES:
        raise UsageError("--out %s: expected a name that ends in %s" % (options.out, ", ".join(SUFFIXES)))
    if options.out and not os.path.isdir(os.path.dirname(os.path.abspath(options.out))):
        raise UsageError("--out %s: its folder does not exist" % options.out)
    if options.out and os.path.isdir(options.out):
        raise UsageError("--out %s: is a folder" % options.out)
    items = open_source(options.source, options.images)
    started = time.perf_counter()
    with Classifier.open(options.bundle, options.engine, options.batch) as classifier:
        say("classifying %s with %s, batch %d" % (options.source, classifier.engine.name, options.batch))
        columns = columns_of(min(options.top, len(classifier.bundle.class_names)))
        counts = {"photos": 0, "unreadable": 0}
        # Stopped half way, the pipeline ends before the engine that it uses is closed.
        with contextlib.closing(_rows(classifier, items, options, columns, counts)) as rows:
            listed = _write(rows, options, columns, suffix)
        summary = dict(
            counts,
            seconds=round(time.perf_counter() - started, 3),
            engine=classifier.engine.name,
            bundle_id=classifier.bundle.id,
            out=options.out,
        )
    if options.json:
        print_json(dict(summary, results=listed) if listed is not None else summary)
    say(
        "%(photos)d photos in %(seconds).1f s" % summary
        + (", %(unreadable)d unreadable (named in the column error)" % summary if counts["unreadable"] else "")
        + (", written to %s" % options.out if options.out else "")
    )
    if options.strict and counts["unreadable"]:
        raise SomeInputsFailed("%(unreadable)d of %(photos)d photos could not be read" % counts)


def columns_of(top):
    """Returns the columns of a result table with the top best labels."""
    more = ["%s_%d" % (name, rank) for rank in range(2, top + 1) for name in ("label", "confidence")]
    return ["file", "label", "confidence", "error"] + more


def row_of(prediction, top, threshold=None):
    """Returns the values of a Prediction's row, in the order of columns_of(top)."""
    if prediction.error:
        return [prediction.name, "", "", prediction.error] + [""] * (2 * top - 2)
    best = prediction.top(top)
    cells = [cell for label, confidence in best for cell in (label, round(confidence, 6))]
    if threshold is not None and best[0][1] < threshold:
        cells[0] = UNKNOWN
    return [prediction.name] + cells[:2] + [""] + cells[2:]


def positive(text):
    """argparse type: a whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("expected 1 or more, got %s" % text)
    return value


def share(text):
    """argparse type: a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("expected 0 to 1, got %s" % text)
    return value


def _rows(classifier, items, options, columns, counts):
    top = (len(columns) - 2) // 2
    shown = not (sys.stdout.isatty() and sys.stderr.isatty() and not options.out)  # or it runs through the rows
    with progress(what="classify", shown=shown) as bar:
        _count_ahead(bar, options)
        for prediction in classifier.classify(items):
            counts["photos"] += 1
            counts["unreadable"] += bool(prediction.error)
            yield row_of(prediction, top, options.threshold)
            bar.update()


def _count_ahead(bar, options):
    """Counts the source beside the work, so that a large folder starts at once and still gets its ETA."""
    if options.source == "-":
        return

    def count():
        with contextlib.suppress(UsageError):  # the main thread meets the same error and reports it
            bar.total = sum(1 for _ in open_source(options.source, options.images))

    threading.Thread(target=count, daemon=True).start()


def _write(rows, options, columns, suffix):
    """Writes the rows where the options say; returns them as a list of dicts where they go into the JSON document."""
    if options.out:
        _write_file(rows, options.out, columns, suffix)
    elif options.json:
        return [dict(zip(columns, row)) for row in rows]
    else:
        # A file name may hold bytes that are no UTF-8: they are written as they are.
        stdout = io.TextIOWrapper(
            sys.stdout.buffer, encoding="utf-8", errors="surrogateescape", newline="", write_through=True
        )
        try:
            write = tables.row_writer(stdout, columns, suffix)
            for row in rows:
                write(row)
        finally:
            stdout.detach()
    return None


def _write_file(rows, path, columns, suffix):
    """Writes to FILE.partial, which gets its name when it is whole; what was done before a failure stays there."""
    partial = path + ".partial"
    try:
        with open(partial, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            write = tables.row_writer(file, columns, suffix)
            for row in rows:
                write(row)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise UsageError("--out %s: cannot be written (%s)" % (path, error.strerror))
    except BaseException:
        say("stopped half way: the rows that were done are in %s" % partial)
        raise
