"""picnic-edge classify"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import sys
import threading
import time

from edge_runtime import files
from edge_runtime.annotate import annotator
from edge_runtime.classifier import Classifier
from edge_runtime.cli.options import amount, positive, share
from edge_runtime.cli.signals import draining
from edge_runtime.cli.status import Status
from edge_runtime.console import message, print_json, say, shell_line
from edge_runtime.engines import modules
from edge_runtime.errors import PicnicError, SomeInputsFailed, UsageError
from edge_runtime.machine import libraries
from edge_runtime.photos import jpeg_hardware
from edge_runtime.pipeline.latency import Latency
from edge_runtime.results import file_sink, formats, journal, rows, sinks
from edge_runtime.secrets import is_address, shown_address
from edge_runtime.sources import kinds, live
from edge_runtime.sources.names import passed_over_text
from edge_runtime.sources.registry import count_sources, open_sources
from edge_runtime.sources.video import Video

# How long a photo waits for others to fill its batch, unless --max-delay-ms says otherwise: a camera's frame, and one
# named on standard input whose answer goes to standard output, where somebody may be waiting for it.
_LIVE_DELAY_MS = 50

_PIPE_DELAY_MS = 200


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
        "sources",
        metavar="source",
        nargs="+",
        help="images, folders (recursive), globs, tables with a column `file` (.tsv, .csv, .txt, .xlsx, .parquet); or "
        "one video file, camera:N, csi:N, rtsp://... or another stream, or - (file names on standard input)",
    )
    this.add_argument("--images", metavar="DIR", help="where a table's file names start (default: the table's folder)")
    this.add_argument("-0", "--null", action="store_true", help="the names on standard input end with NUL")
    this.add_argument("--out", metavar="FILE", help=".tsv, .csv, .jsonl or .parquet (default: TSV on stdout)")
    this.add_argument("--resume", action="store_true", help="continue where the same command with --out was stopped")
    this.add_argument("--overwrite", action="store_true", help="replace the rows of a run with --out that was stopped")
    this.add_argument("--allow-empty", action="store_true", help="write a table without rows if there are no photos")
    this.add_argument("--annotate", metavar="DIR|FILE.mp4", help="write the pictures with their labels on them")
    this.add_argument("--show", action="store_true", help="show them in a window")
    this.add_argument("--engine", default="auto", metavar="NAME", help="default auto: the fastest valid here")
    this.add_argument(
        "--batch",
        type=positive,
        metavar="N",
        help="photos per engine call (default: the engine's own; 1 for a camera or stream)",
    )
    this.add_argument(
        "--max-delay-ms",
        type=amount,
        metavar="MS",
        help="a batch waits so long for more photos (default: until it is full; %d for a camera or stream, %d from "
        "standard input to standard output)" % (_LIVE_DELAY_MS, _PIPE_DELAY_MS),
    )
    this.add_argument("--top", type=positive, default=1, metavar="K", help="write the K best labels (default 1)")
    this.add_argument("--threshold", type=share, metavar="P", help="answer `unknown` below this confidence, 0..1")
    this.add_argument("--seconds", type=amount, metavar="S", help="of a camera or stream: stop after so long")
    this.add_argument("--frames", type=positive, metavar="N", help="... after so many frames")
    this.add_argument("--max-fps", type=amount, metavar="F", help="... take no more frames per second than that")
    this.add_argument("--realtime", action="store_true", help="play a video file as if it were a camera")
    this.add_argument("--strict", action="store_true", help="exit with 3 if any photo could not be read")
    this.add_argument("--json", action="store_true", help="one JSON document on stdout instead of a table")
    return this


def main(argv=None):
    """Classifies a source. Raises PicnicError as the exit codes say."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = parser().parse_args(arguments)
    options.source = options.sources[0]
    _check(options)
    with journal.locked(options.target) if options.target else contextlib.ExitStack():
        _keep_stopped_rows(options, arguments)
        if options.resume and _is_done(options.target):
            say(f"{options.out} is there, and no run of it is unfinished: nothing to do")
            say("(of what it was made is no longer known; to make it anew, leave --resume out)")
            if options.json:
                print_json({"out": options.out})
            return
        summary, stopped = _run(options, arguments)
    if options.json:
        print_json(summary)
    unit = "frames" if _is_timed(options) else "photos"
    say(_told(summary, unit))
    if stopped:
        raise KeyboardInterrupt
    failures = summary["unreadable"] + summary.get("frames", {}).get("damaged", 0)
    if options.strict and failures:
        raise SomeInputsFailed(f"{failures} of {summary['photos']} {unit} could not be read")


def _is_live(options):
    return kinds.is_live(options.source) or options.realtime


def _is_timed(options):
    return _is_live(options) or (kinds.is_video(options.source) and os.path.isfile(options.source))


def _check(options):
    """Raises UsageError for options that cannot be, or do not go together.

    Adds suffix and target to the options: the format of --out, and the file that it leads to; None: no file is written.
    """
    for source in options.sources:
        kinds.check_name(source)
    for source in options.sources if len(options.sources) > 1 else []:
        # What a shell puts in the place of a pattern: its videos are not mixed up with photos either.
        if source == "-" or kinds.is_live(source) or kinds.is_video(source):
            raise UsageError(
                "%s: a video, a camera, a stream and - must be the only source; for the photos that a pattern means, "
                "give the pattern in quotes" % kinds.shown_name(source)
            )
    for option, path in (("--out", options.out), ("--annotate", options.annotate)):
        if path == "" or is_address(path or ""):
            raise UsageError("%s %s: expected the name of a file" % (option, shown_address(path) if path else "''"))
    options.suffix = formats.check_output(options.out) if options.out else ""  # before the work, not after it
    options.target = files.target_of(options.out) if options.out and not files.is_stream(options.out) else None
    for option, path in (("--out", options.out), ("--annotate", options.annotate)):
        for source in options.sources:
            if path and os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
                raise UsageError(f"{option} {path}: is the source, which would be replaced; give another name")
    if options.realtime and not kinds.is_video(options.source):
        raise UsageError(f"--realtime: expected a video file, got {options.source}")
    if options.resume and not options.out:
        raise UsageError("--resume: there is no file to continue; give --out FILE")
    if options.resume and not options.target:
        raise UsageError(f"--resume: --out {options.out} keeps nothing that could be continued; give a file")
    if options.resume and options.overwrite:
        raise UsageError("--resume and --overwrite: one continues a run that was stopped, the other replaces its rows")
    if options.resume and _is_live(options):
        raise UsageError(f"--resume: {kinds.shown_name(options.source)} is live, what it showed is gone; leave it out")
    if options.resume and options.annotate and kinds.is_video(options.annotate):
        raise UsageError(f"--annotate {options.annotate}: a video cannot be resumed; give a folder")
    for source in options.sources if options.annotate else []:
        if os.path.isdir(source) and files.is_inside(options.annotate, source):
            raise UsageError(
                f"--annotate {options.annotate}: is in the source, whose photos would become more and more"
            )
    if options.null and options.source != "-":
        raise UsageError(f"--null: is for file names on standard input, got the source {options.source}")
    for name in ("seconds", "frames", "max_fps"):
        if getattr(options, name) is not None and not _is_live(options):
            raise UsageError(
                "--%s: is for a camera or stream, got %s (a video file with --realtime)"
                % (name.replace("_", "-"), options.source)
            )
    if options.json and options.out and files.descriptor_of(options.out) == 1:
        raise UsageError("--json: its document and the rows cannot both go to standard output; give another --out")
    if options.json and not options.out and _is_live(options) and not (options.seconds or options.frames):
        shown = kinds.shown_name(options.source)
        raise UsageError(f"--json: {shown} has no end, and all its rows would be kept; give --out FILE")


def _is_done(path):
    unfinished = (journal.partial_of(path), journal.journal_of(path))
    return os.path.exists(path) and not any(os.path.lexists(name) for name in unfinished)


def _keep_stopped_rows(options, arguments):
    """Raises UsageError where the rows of a stopped run would be lost, and nobody said so."""
    if not options.target or options.resume or options.overwrite or _is_live(options):
        return
    found, partial = journal.read_journal(options.target), journal.partial_of(options.target)
    if found and found.checkpoint.rows and os.path.exists(partial):
        raise UsageError(
            "--out %s: %s holds %d rows of a run that was stopped. To continue it, or to replace its rows:\n  %s\n  %s"
            % (
                options.out,
                partial,
                found.checkpoint.rows,
                _command(arguments, "--resume"),
                _command(arguments, "--overwrite"),
            )
        )


def _command(arguments, option):
    """Returns the command of the arguments with one of --resume and --overwrite, in place of the other."""
    # argparse takes --over for --overwrite, too
    words = [word for word in arguments if len(word) <= len("--o") or not "--overwrite".startswith(word)]
    if option not in words:
        words.insert(words.index("--") if "--" in words else len(words), option)
    shown = [shown_address(word) if is_address(word) else word for word in words]
    line = shell_line(["picnic-edge", "classify"] + shown)
    return line + ("   (with the passwords in place of ***)" if shown != words else "")


def _run(options, arguments):
    """Classifies the source.

    Returns:
        the summary, with the rows under `results` where they go into the document; whether a signal ended it, which is
        how a camera's run ends.

    Raises:
        KeyboardInterrupt: a run over photos or a video was stopped; its file is unfinished.
    """
    stop, started_s = threading.Event(), time.perf_counter()
    progress = _Progress(options, arguments)
    with contextlib.ExitStack() as held:
        signals = held.enter_context(draining(stop, progress.save, progress.last_words))
        batch = options.batch or (1 if _is_live(options) else None)  # a camera's frames are not held back for others
        classifier = held.enter_context(Classifier.open(options.bundle, options.engine, batch))
        for name in filter(rows.is_unknown, classifier.bundle.class_names):
            if options.threshold is not None:
                say(
                    "warning: --threshold: the bundle has a class %r: it cannot be told from the answer `unknown`"
                    % name
                )
        top = min(options.top, len(classifier.bundle.class_names))
        columns = rows.columns_of(top, _is_timed(options))
        run = _run_facts(options, classifier)
        checkpoint = file_sink.find_checkpoint(options.target, run) if options.resume else None
        if checkpoint and checkpoint.whole:
            say("all rows were done, only the end was missing")
            formats.place(options.target, columns, options.suffix)
            return _summary(options, classifier, checkpoint, started_s, resumed_at=checkpoint.rows), False
        items = held.enter_context(_open_items(options, stop))
        names = _go_on(options, checkpoint, items, stop)
        first = [] if checkpoint and checkpoint.rows else _first_of(options, items, stop)
        _say_what_is_replaced(options, checkpoint)
        say(f"classifying {_source_name(options)} with {classifier.engine.name}, batch {classifier.batch_size}")
        latency = Latency() if _is_live(options) else None

        def summarize(**more):
            resumed_at = checkpoint.rows if checkpoint else None
            summary = dict(_summary(options, classifier, sink, started_s, resumed_at), **more)
            if latency:
                summary.update(latency=latency.summary(), frames=vars(items.counts))
            if not _is_timed(options):
                summary["passed_over"] = dict(items.passed_over)
            if isinstance(sink, sinks.ListSink):
                summary["results"] = sink.listed
            return summary

        with progress.told(), _open_sink(options, columns, run, checkpoint, names) as sink:
            progress.sink = sink
            try:
                _label(options, classifier, items, first, stop, sink, top, latency)
                signals.drained()
                if stop.is_set() and not _is_live(options):  # by a signal, or the window was closed
                    raise KeyboardInterrupt
            except (KeyboardInterrupt, PicnicError):
                if isinstance(sink, sinks.ListSink):
                    print_json(summarize(interrupted=True))
                raise
            sink.finish()
            progress.sink = None
        return summarize(), bool(signals.received)


class _Progress:
    """What the run can say and save when it ends before its time."""

    def __init__(self, options, arguments):
        self.sink = None
        self._options = options
        self._command = _command(arguments, "--resume")

    def save(self):
        if self.sink:
            self.sink.save()

    def last_words(self):
        """How many rows there are, where, and how to go on; whole lines."""
        if not self.sink or not self.sink.kept_rows:
            return ""
        text = f"stopped after {self.sink.kept_rows} rows"
        if self._options.target:
            text += f"; they are in {journal.partial_of(self._options.target)}"
            if not _is_live(self._options):
                names = " (with the same names on standard input)" if self._options.source == "-" else ""
                text += f"\nto continue: {self._command}{names}"
        return text + "\n"

    @contextlib.contextmanager
    def told(self):
        try:
            yield
        except BrokenPipeError:  # as a shell shows it: without a word
            raise
        except BaseException:
            sys.stderr.write(message(self.last_words()))
            raise


def _run_facts(options, classifier):
    """Returns all that the rows depend on, as plain values: a resumed run must have the same."""
    info = classifier.engine.info
    library = modules.LIBRARIES.get(info.kind)
    video = os.stat(options.source) if _is_timed(options) and not _is_live(options) else None
    made_of = {name: (info.record or {}).get(name) for name in ("source", "files")}
    return {
        "source": _source_name(options),
        "source_path": _source_path(options),
        "video": f"{video.st_size} bytes, changed at {video.st_mtime:.6f}" if video else None,
        "images": os.path.realpath(options.images) if options.images else None,
        "null": options.null,
        "bundle": classifier.bundle.id,
        "engine": classifier.engine.name,
        "engine_files": hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12],
        "engine_library": libraries.library_version(library) if library else None,
        "jpeg_decoder": "hardware" if os.environ.get(jpeg_hardware.SWITCH) == "hardware" else None,
        "batch": classifier.batch_size,
        "max_delay_ms": options.max_delay_ms,
        "top": options.top,
        "threshold": options.threshold,
        "format": options.suffix,
    }


def _source_name(options):
    """Returns the source as messages name it."""
    more = len(options.sources) - 1
    return kinds.shown_name(options.source) + (f" and {more} more" if more else "")


def _source_path(options):
    """Returns what tells one source, or several of them in their order, from others."""
    if kinds.is_live(options.source):
        return None
    paths = [os.path.realpath(source) for source in options.sources]
    if len(paths) == 1:
        return paths[0]
    return "sha256 %s" % hashlib.sha256("\0".join(paths).encode("utf-8", "surrogateescape")).hexdigest()


@contextlib.contextmanager
def _open_items(options, stop):
    """The source's items: an iterator, with .counts if it is live."""
    if _is_live(options):
        with live.open_live(options.source, stop, options.max_fps, options.seconds, options.frames) as frames:
            yield frames
    elif _is_timed(options):
        with Video(options.source) as frames:
            yield frames
    else:
        yield open_sources(options.sources, options.images, options.null, stop)


def _go_on(options, checkpoint, items, stop):
    """Reads past what was done; returns the hashlib object of its names, None where nothing was."""
    if checkpoint:
        names = file_sink.skip(items, checkpoint, _source_name(options), stop)
        say(f"continuing after the {checkpoint.rows} rows that are in {journal.partial_of(options.target)}")
        return names
    if options.resume and not os.path.lexists(journal.partial_of(options.target)):
        say("there is nothing to continue: starting anew")
    return None


def _first_of(options, items, stop):
    """Returns a list of the first item, so that a source that has none is refused before anything is replaced.

    The list is empty where that would wait for what comes later: of a camera or stream, and of names whose answers
    somebody waits for; and of a video, which is refused where it has no frame.
    """
    if _is_timed(options) or (options.source == "-" and not options.out):
        return []
    first = list(itertools.islice(items, 1))
    if stop.is_set():
        raise KeyboardInterrupt
    if not first and not options.allow_empty:
        passed = getattr(items, "passed_over", None) or {}
        more = f" ({passed_over_text(passed)})" if passed else ""
        raise UsageError(
            "nothing to classify in %s%s; is a disk missing? --allow-empty writes a table without rows"
            % (_source_name(options), more)
        )
    return first


def _say_what_is_replaced(options, checkpoint):
    """Says what becomes of what earlier runs left."""
    if not options.target or checkpoint:
        return
    partial = journal.partial_of(options.target)
    if os.path.lexists(partial):
        kept = None if options.overwrite or not _is_live(options) else formats.set_aside(options.target, options.suffix)
        if kept:
            say(f"the {kept[1]} rows of a run that was stopped are kept in {kept[0]}")
        else:
            say(f"{partial}, of a run that was stopped, is overwritten")
    if os.path.exists(options.target):
        say(f"{options.out} is there already, and is replaced when the rows are done")


def _open_sink(options, columns, run, checkpoint, names):
    if options.target:
        return file_sink.FileSink(options.target, columns, run, checkpoint, names, options.suffix)
    if options.out:
        return sinks.StreamSink(columns, options.out, options.suffix)
    return sinks.ListSink(columns) if options.json else sinks.StreamSink(columns)


def _label(options, classifier, items, first, stop, sink, top, latency):
    """Takes the predictions to the sink, the status line, and where else the pictures go."""
    timed = _is_timed(options)
    delay_ms = options.max_delay_ms
    if delay_ms is None and (latency or (options.source == "-" and not options.out)):
        delay_ms = _LIVE_DELAY_MS if latency else _PIPE_DELAY_MS
    shown = not (sys.stdout.isatty() and sys.stderr.isatty() and not options.out)  # or it runs through the rows
    photos = itertools.chain(first, items) if first else items
    predictions = classifier.classify(photos, delay_ms and delay_ms / 1000.0, stop, live=bool(latency))
    with contextlib.ExitStack() as held:
        status = Status(
            classifier.stats,
            done=sink.rows,
            unit="frames" if timed else "photos",
            note=(lambda: f"{items.counts.dropped} dropped") if latency else None,
            shown=shown,
        )
        viewers = _open_viewers(options, items, stop, held)
        held.enter_context(status)
        # Stopped half way, the pipeline ends before the engine that it uses is closed.
        held.enter_context(contextlib.closing(predictions))
        for number, prediction in enumerate(predictions):
            if number == 0 and not timed:
                _count_ahead(status, options, held)  # not before: on a huge folder it would delay the first answer
            for viewer in viewers:  # before the row, which says that this photo is done
                viewer.write(prediction)
            values = rows.row_of(prediction, top, options.threshold)
            if timed:
                values.append(round(prediction.item.time_s, 3))
            sink.write(values, prediction.ends_batch)
            latency_s = None
            if latency:
                latency_s = time.perf_counter() - prediction.item.captured_s
                latency.add(1000 * latency_s)
            status.update(bool(prediction.error), latency_s)


def _open_viewers(options, items, stop, held):
    """Returns what else takes the predictions: each has write(prediction), and ends with the ExitStack held."""
    viewers = []
    if options.annotate:
        rate = None if _is_live(options) else getattr(items, "frames_per_second", None)
        viewers.append(held.enter_context(annotator.open_annotator(options.annotate, rate)))
    if options.show:
        viewers.append(held.enter_context(annotator.open_window(stop)))
    return viewers


def _count_ahead(status, options, held):
    """Counts the source beside the work, so that a large folder starts at once and still gets its ETA."""
    over = threading.Event()
    held.callback(over.set)

    def count():
        status.total = count_sources(options.sources, over)

    threading.Thread(target=count, daemon=True).start()


def _summary(options, classifier, counts, started_s, resumed_at):
    """counts: what has .rows and .unreadable."""
    summary = {
        "photos": counts.rows,
        "unreadable": counts.unreadable,
        "seconds": round(time.perf_counter() - started_s, 3),
        "engine": classifier.engine.name,
        "bundle_id": classifier.bundle.id,
        "out": options.out,
    }
    return summary if resumed_at is None else dict(summary, resumed_at=resumed_at)


def _told(summary, unit):
    """Returns the summary as one line."""
    text = f"{summary['photos']} {unit} in {summary['seconds']:.1f} s"
    if "resumed_at" in summary:
        text += " and the runs before"
    if summary["unreadable"]:
        text += ", %(unreadable)d unreadable (named in the column error)" % summary
    if summary.get("passed_over"):
        text += "; " + passed_over_text(summary["passed_over"])
    if "latency" in summary:
        text += (
            "; capture to label p50 %(p50_ms).0f, p90 %(p90_ms).0f, p99 %(p99_ms).0f, max %(max_ms).0f ms"
            % (summary["latency"])
        )
        text += "; %(captured)d captured, %(dropped)d dropped, %(reconnects)d reconnects" % summary["frames"]
        if summary["frames"]["damaged"]:
            text += ", %(damaged)d that could not be decoded" % summary["frames"]
    return text + (f", written to {summary['out']}" if summary["out"] else "")
