"""One run of `picnic-edge classify`, from the opened bundle to the summary."""

import argparse
import collections
import contextlib
import hashlib
import itertools
import json
import os
import sys
import threading
import time
import typing

from edge_runtime.annotate import annotator, show
from edge_runtime.classifier import Classifier
from edge_runtime.cli.signals import stop_on_signals
from edge_runtime.console import message, print_json, progress, say, shell_line
from edge_runtime.engines.kinds import LIBRARIES
from edge_runtime.errors import PicnicError, UsageError
from edge_runtime.machine import libraries
from edge_runtime.photos import jpeg_hardware
from edge_runtime.pipeline.latency import Latency
from edge_runtime.results import file_sink, journal, resume, rows, sinks
from edge_runtime.secrets import is_address, shown_address
from edge_runtime.sources import kinds, live
from edge_runtime.sources.names import passed_over_text
from edge_runtime.sources.registry import count_sources, open_sources
from edge_runtime.sources.video import Video

# How long a photo waits for others to fill its batch without --max-delay-ms: a camera's frame, and a photo named on
# standard input whose answer goes to standard output, where somebody may be waiting for it.
LIVE_DELAY_MS = 50
PIPE_DELAY_MS = 200


class _Job(typing.NamedTuple):
    """What a run works with once everything is open."""

    options: argparse.Namespace
    classifier: Classifier
    items: typing.Any  # iterator over the source's items; .counts if it is live, .passed_over if it has photos
    checkpoint: typing.Optional[journal.Checkpoint]  # where the run resumes
    top: int  # how many labels a row has
    latency: typing.Optional[Latency]  # of a camera or stream
    started_s: float


def run(options, arguments):
    """Classifies the source.

    Args:
        options: argparse.Namespace of the command line, with the attributes source, live, timed, suffix and target that
            follow from it.
        arguments: list of str, the command line after the verb.

    Returns:
        (summary, stopped): a dict, with the rows under `results` if they belong into the JSON document; True if a
        signal ended the run, which is how the run of a camera ends.

    Raises:
        KeyboardInterrupt: a run over photos or a video was stopped; its file is unfinished.
    """
    stop, started_s = threading.Event(), time.perf_counter()
    report = _StopReport(options, arguments)
    with contextlib.ExitStack() as resources:
        signals = resources.enter_context(stop_on_signals(stop, report.save, report.text))
        classifier = resources.enter_context(_open_classifier(options))
        top = min(options.top, len(classifier.bundle.class_names))
        columns = rows.columns_of(top, options.timed)
        settings = dict(_settings_of(options, classifier), **{journal.COMMAND: _command_with(arguments, "--resume")})
        checkpoint = resume.find_checkpoint(options.target, settings) if options.resume else None
        if checkpoint and checkpoint.whole:
            say("all rows were already written; finishing the file")
            file_sink.finish_file(options.target, columns, options.suffix)
            return _base_summary(options, classifier, checkpoint, checkpoint, started_s), False
        items = resources.enter_context(_open_items(options, stop))
        names = _skip_finished(options, checkpoint, items, stop)
        first = [] if checkpoint and checkpoint.rows else _first_item(options, items, stop)
        _announce_replacements(options, checkpoint)
        say(f"classifying {_source_name(options)} with {classifier.engine.name}, batch {classifier.batch_size}")
        job = _Job(options, classifier, items, checkpoint, top, Latency() if options.live else None, started_s)
        with report.printed_on_error(), _open_sink(options, columns, settings, checkpoint, names) as sink:
            report.sink = sink
            try:
                # A Video or Live goes in as itself: the classifier knows that its frames need no copy.
                photos = itertools.chain(first, items) if first else items
                _write_predictions(job, photos, stop, sink)
                signals.end_time_limit()
                if stop.is_set() and not options.live:  # by a signal, or because the window was closed
                    raise KeyboardInterrupt
            except (KeyboardInterrupt, PicnicError):
                if isinstance(sink, sinks.ListSink):
                    print_json(dict(_summary(job, sink), interrupted=True))
                raise
            sink.finish()
            report.sink = None
        return _summary(job, sink), bool(signals.received)


def require_permission_to_replace(options, arguments):
    """Raises UsageError if the run would replace the rows of a stopped run without --overwrite."""
    if not options.target or options.resume or options.overwrite or options.live:
        return
    stopped, partial = journal.read_journal(options.target), journal.partial_of(options.target)
    if stopped and stopped.checkpoint.rows and os.path.exists(partial):
        command = stopped.settings.get(journal.COMMAND, _command_with(arguments, "--resume"))
        raise UsageError(
            f"--out {options.out}: {partial} holds {stopped.checkpoint.rows} rows of a stopped run. "
            "To resume it, as it was started, or to replace its rows:\n"
            f"  {command}\n  {_command_with(arguments, '--overwrite')}"
        )


def summary_line(summary, unit):
    """Returns a summary as one line of text; unit: "photos" or "frames"."""
    text = f"{summary['photos']} {unit} in {summary['seconds']:.1f} s"
    if "resumed_at" in summary:
        text += " and the runs before"
    if summary["unreadable"]:
        text += f", {summary['unreadable']} unreadable (see the column error)"
    if summary.get("passed_over"):
        text += f"; {passed_over_text(summary['passed_over'])}"
    if "latency" in summary:
        latency, frames = summary["latency"], summary["frames"]
        names = [name for name in ("p50", "p90", "p99", "max") if latency[f"{name}_ms"] is not None]
        text += "; capture to label " + ", ".join(f"{name} {latency[f'{name}_ms']:.0f}" for name in names)
        text += f" ms; {frames['captured']} captured, {frames['dropped']} dropped, {frames['reconnects']} reconnects"
        if frames["damaged"]:
            text += f", {frames['damaged']} that could not be decoded"
    return text + (f", written to {summary['out']}" if summary["out"] else "")


class _StopReport:
    """What a run that is stopped saves and prints."""

    def __init__(self, options, arguments):
        self.sink = None  # set while rows are written
        self._options = options
        self._command = _command_with(arguments, "--resume")

    def save(self):
        if self.sink:
            self.sink.save()

    def text(self):
        """Returns how many rows there are, where, and the command that resumes; whole lines."""
        if not self.sink or not self.sink.kept_rows:
            return ""
        text = f"stopped after {self.sink.kept_rows} rows"
        if self._options.target:
            text += f"; they are in {journal.partial_of(self._options.target)}"
            if not self._options.live:
                names = " (with the same names on standard input)" if self._options.source == "-" else ""
                text += f"\nto continue: {self._command}{names}"
        return f"{text}\n"

    @contextlib.contextmanager
    def printed_on_error(self):
        try:
            yield
        except BrokenPipeError:  # a shell says nothing then either
            raise
        except BaseException:
            sys.stderr.write(message(self.text()))
            raise


def _command_with(arguments, option):
    """Returns the shell command of the arguments with one of --resume and --overwrite, in place of the other."""
    # argparse accepts abbreviations of --overwrite too, down to --ov
    words = [word for word in arguments if len(word) <= len("--o") or not "--overwrite".startswith(word)]
    if option not in words:
        words.insert(words.index("--") if "--" in words else len(words), option)
    hidden = [shown_address(word) if is_address(word) else word for word in words]
    line = shell_line(["picnic-edge", "classify"] + hidden)
    return line + ("   (replace *** by the passwords)" if hidden != words else "")


@contextlib.contextmanager
def _open_classifier(options):
    batch = options.batch or (1 if options.live else None)  # a camera's frame does not wait for others
    with Classifier.open(options.bundle, options.engine, batch) as classifier:
        for name in filter(rows.is_unknown, classifier.bundle.class_names):
            if options.threshold is not None:
                say(f"warning: --threshold: the bundle has a class {name!r}, which reads like the answer `unknown`")
        yield classifier


def _settings_of(options, classifier):
    """Returns all that the rows depend on, as a dict of plain values: a resumed run must have the same."""
    info = classifier.engine.info
    library = LIBRARIES.get(info.kind)
    video = os.stat(options.source) if options.timed and not options.live else None
    built_from = {name: (info.record or {}).get(name) for name in ("source", "files")}
    return {
        "source": _source_name(options),
        "source_path": _source_path(options),
        "video": f"{video.st_size} bytes, changed at {video.st_mtime:.6f}" if video else None,
        "images": os.path.realpath(options.images) if options.images else None,
        "null": options.null,
        "bundle": classifier.bundle.id,
        "engine": classifier.engine.name,
        "engine_files": hashlib.sha256(json.dumps(built_from, sort_keys=True).encode()).hexdigest()[:12],
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
    """Returns a text that identifies the source, or several sources in their order; None for a camera or stream."""
    if kinds.is_live(options.source):
        return None
    paths = [os.path.realpath(source) for source in options.sources]
    if len(paths) == 1:
        return paths[0]
    digest = hashlib.sha256("\0".join(paths).encode("utf-8", "surrogateescape"))
    return f"sha256 {digest.hexdigest()}"


@contextlib.contextmanager
def _open_items(options, stop):
    """The source's items: an iterator, with .counts if it is live."""
    if options.live:
        with live.open_live(options.source, stop, options.max_fps, options.seconds, options.frames) as frames:
            yield frames
    elif options.timed:
        with Video(options.source) as frames:
            yield frames
    else:
        yield open_sources(options.sources, options.images, options.null, stop)


def _skip_finished(options, checkpoint, items, stop):
    """Reads past the items that have rows. Returns the hashlib object of their names, None if there are none."""
    if checkpoint:
        names = resume.skip_finished(items, checkpoint, _source_name(options), stop)
        say(f"continuing after the {checkpoint.rows} rows in {journal.partial_of(options.target)}")
        return names
    if options.resume and not os.path.lexists(journal.partial_of(options.target)):
        say("there is nothing to resume: starting from the beginning")
    return None


def _first_item(options, items, stop):
    """Returns a list of the first item, so that an empty source is refused before anything is replaced.

    The list is empty where reading an item could wait for long (a camera or stream, and names whose answers somebody
    waits for), and for a video, which fails by itself if it has no frame.
    """
    if options.timed or (options.source == "-" and not options.out):
        return []
    first = list(itertools.islice(items, 1))
    if stop.is_set():
        raise KeyboardInterrupt
    if not first and not options.allow_empty:
        passed_over = getattr(items, "passed_over", None) or {}
        more = f" ({passed_over_text(passed_over)})" if passed_over else ""
        raise UsageError(
            f"nothing to classify in {_source_name(options)}{more}; is a disk missing? "
            "--allow-empty writes a table without rows"
        )
    return first


def _announce_replacements(options, checkpoint):
    """Says what happens to the output of earlier runs. The rows of a stopped camera run are kept under another name."""
    if not options.target or checkpoint:
        return
    partial = journal.partial_of(options.target)
    if os.path.lexists(partial):
        kept = None
        if options.live and not options.overwrite:
            kept = resume.keep_stopped_rows(options.target, options.suffix)
        if kept:
            say(f"the {kept[1]} rows of a stopped run are kept in {kept[0]}")
        else:
            say(f"{partial}, from a stopped run, is overwritten")
    if os.path.exists(options.target):
        say(f"{options.out} exists and will be replaced when all rows are written")


def _open_sink(options, columns, settings, checkpoint, names):
    if options.target:
        return file_sink.FileSink(options.target, columns, settings, checkpoint, names, options.suffix)
    if options.out:
        return sinks.StreamSink(columns, options.out, options.suffix)
    return sinks.ListSink(columns) if options.json else sinks.StreamSink(columns)


def _write_predictions(job, photos, stop, sink):
    """Classifies the photos. Each prediction goes to the annotated pictures, the sink and the progress bar."""
    options, latency = job.options, job.latency
    delay_ms = options.max_delay_ms
    if delay_ms is None and (latency or (options.source == "-" and not options.out)):
        delay_ms = LIVE_DELAY_MS if latency else PIPE_DELAY_MS
    recent_ms: typing.Deque[float] = collections.deque(maxlen=100)  # latency of the newest frames
    predictions = job.classifier.classify(photos, delay_ms and delay_ms / 1000, stop, live=bool(latency))
    with contextlib.ExitStack() as resources:
        bar = progress(
            unit=" frames" if options.timed else " photos",
            note=lambda: _progress_note(job, sink, recent_ms),
            initial=sink.rows,
            leave=False,
            # Rows and the bar on one terminal would run into each other.
            disable=sys.stdout.isatty() and sys.stderr.isatty() and not options.out,
        )
        viewers = _open_viewers(options, job.items, stop, resources)
        resources.enter_context(bar)
        # After an error the pipeline ends before the engine that it uses is closed.
        resources.enter_context(contextlib.closing(predictions))
        for number, prediction in enumerate(predictions):
            if number == 0 and not options.timed:
                _count_in_background(bar, options, resources)  # earlier it would delay the first answer
            for viewer in viewers:  # before the row, which says that this photo is done
                viewer.write(prediction, options.threshold)
            sink.write(rows.row_of(prediction, job.top, options.threshold, options.timed), prediction.ends_batch)
            if latency:
                recent_ms.append(1000 * (time.perf_counter() - prediction.item.captured_s))
                latency.add(recent_ms[-1])
            bar.update()


def _progress_note(job, sink, recent_ms):
    """Returns what the progress bar says beside count, rate and time left."""
    parts = [f"latency {sum(recent_ms) / len(recent_ms):.0f} ms"] if recent_ms else []
    if sink.unreadable:
        parts.append(f"{sink.unreadable} unreadable")
    if job.latency:
        parts.append(f"{job.items.counts.dropped} dropped")
    return ", ".join(parts + [f"bottleneck {job.classifier.stats.bottleneck()}"])


def _open_viewers(options, items, stop, resources):
    """Returns the Annotators for --annotate and --show; resources closes them."""
    viewers = []
    if options.annotate:
        rate = None if options.live else getattr(items, "frames_per_second", None)
        viewers.append(resources.enter_context(annotator.open_annotator(options.annotate, rate)))
    if options.show:
        viewers.append(resources.enter_context(show.WindowAnnotator(stop)))
    return viewers


def _count_in_background(bar, options, resources):
    """Counts the source in a thread, so that a large folder starts at once and its time left is known later."""
    cancelled = threading.Event()
    resources.callback(cancelled.set)

    def count():
        bar.total = count_sources(options.sources, cancelled)

    threading.Thread(target=count, daemon=True).start()


def _summary(job, sink):
    """Returns the summary of a run, or of what a stopped run has done, as a dict."""
    summary = _base_summary(job.options, job.classifier, sink, job.checkpoint, job.started_s)
    if job.latency:
        summary.update(latency=job.latency.summary(), frames=vars(job.items.counts))
    if not job.options.timed:
        summary["passed_over"] = dict(job.items.passed_over)
    if isinstance(sink, sinks.ListSink):
        summary["results"] = sink.row_dicts
    return summary


def _base_summary(options, classifier, counts, checkpoint, started_s):
    """Returns the part of the summary that every run has. counts: a sink or checkpoint, with rows and unreadable."""
    summary = {
        "photos": counts.rows,
        "unreadable": counts.unreadable,
        "seconds": round(time.perf_counter() - started_s, 3),
        "engine": classifier.engine.name,
        "bundle_id": classifier.bundle.id,
        "out": options.out,
    }
    return dict(summary, resumed_at=checkpoint.rows) if checkpoint else summary
