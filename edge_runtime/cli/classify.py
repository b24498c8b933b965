"""picnic-edge classify: the options, and what each run checks before it begins."""

import argparse
import contextlib
import os
import sys

from edge_runtime import files
from edge_runtime.bundle.manifest import require_outside
from edge_runtime.cli.classify_run import (
    LIVE_DELAY_MS,
    PIPE_DELAY_MS,
    require_permission_to_replace,
    run,
    summary_line,
)
from edge_runtime.cli.options import amount, positive, share
from edge_runtime.console import print_json, say
from edge_runtime.errors import SomeInputsFailed, UsageError
from edge_runtime.results import formats, journal
from edge_runtime.secrets import is_address, shown_address
from edge_runtime.sources import kinds


def parser():
    """Returns the argument parser of `picnic-edge classify`."""
    parser = argparse.ArgumentParser(
        prog="picnic-edge classify",
        description="Label photos with a trained bundle: one row per photo, in order. A photo that cannot be read gets "
        "an empty label and the reason.",
        epilog="example: picnic-edge classify bundle photos/ --out labels.tsv",
    )
    parser.add_argument("bundle", help="folder written by `picnic-edge train` or `import`")
    parser.add_argument(
        "sources",
        metavar="source",
        nargs="+",
        help="photos, folders (recursive), patterns, tables with a column `file` (.tsv, .csv, .txt, .xlsx, .parquet); "
        "or one video file, camera:N, csi:N, a stream (rtsp://... and others), or - (file names on standard input)",
    )
    parser.add_argument("--images", metavar="DIR", help="folder of a table's photos (default: the table's folder)")
    parser.add_argument(
        "-0", "--null", action="store_true", help="names on standard input end with NUL, as `find -print0` writes them"
    )
    parser.add_argument("--out", metavar="FILE", help=f"{formats.suffix_list()} file (default: TSV on standard output)")
    parser.add_argument("--resume", action="store_true", help="resume a stopped run of the same command")
    parser.add_argument("--overwrite", action="store_true", help="replace the rows of a stopped run")
    parser.add_argument("--allow-empty", action="store_true", help="if there are no photos, write a table without rows")
    parser.add_argument("--annotate", metavar="DIR|FILE.mp4", help="save the pictures with their labels drawn on them")
    parser.add_argument("--show", action="store_true", help="show the labelled pictures in a window")
    parser.add_argument(
        "--engine",
        default="auto",
        metavar="NAME",
        help="engine to use (default auto: the one that convert measured as fastest)",
    )
    parser.add_argument(
        "--batch",
        type=positive,
        metavar="N",
        help="photos per batch (default: the engine's own; 1 for a camera or stream)",
    )
    parser.add_argument(
        "--max-delay-ms",
        type=amount,
        metavar="MS",
        help="how long a batch waits for more photos (default: until it is full; "
        f"{LIVE_DELAY_MS} for a camera or stream, {PIPE_DELAY_MS} from standard input to standard output)",
    )
    parser.add_argument("--top", type=positive, default=1, metavar="K", help="write the K best labels (default 1)")
    parser.add_argument("--threshold", type=share, metavar="P", help="answer `unknown` below this confidence (0 to 1)")
    parser.add_argument("--seconds", type=amount, metavar="S", help="camera or stream: stop after S seconds")
    parser.add_argument("--frames", type=positive, metavar="N", help="camera or stream: stop after N frames")
    parser.add_argument(
        "--max-fps", type=amount, metavar="F", help="camera or stream: take at most F frames per second"
    )
    parser.add_argument(
        "--realtime", action="store_true", help="play a video file like a camera, and drop frames that come too fast"
    )
    parser.add_argument("--strict", action="store_true", help="end with exit code 3 if a photo could not be read")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    return parser


def main(argv=None):
    """Runs the verb. argv: list of arguments, None for those of the process. Raises PicnicError."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = parser().parse_args(arguments)
    _complete(options)
    _check(options)
    with journal.lock_output(options.target) if options.target else contextlib.ExitStack():
        require_permission_to_replace(options, arguments)
        if options.resume and _is_complete(options.target):
            say(f"{options.out} is already complete: nothing to do (to write it again, run without --resume)")
            if options.json:
                print_json({"out": options.out})
            return
        summary, stopped = run(options, arguments)
    if options.json:
        print_json(summary)
    unit = "frames" if options.timed else "photos"
    say(summary_line(summary, unit))
    if stopped:
        raise KeyboardInterrupt
    failures = summary["unreadable"] + summary.get("frames", {}).get("damaged", 0)
    if options.strict and failures:
        raise SomeInputsFailed(f"{failures} of {summary['photos']} {unit} could not be read")


def _complete(options):
    """Adds to the options what follows from them.

    source: the first source. live: it is a camera, a stream or a video played like one. timed: it has frames instead of
    photos.
    """
    options.source = options.sources[0]
    options.live = kinds.is_live(options.source) or options.realtime
    options.timed = options.live or (kinds.is_video(options.source) and os.path.isfile(options.source))


def _check(options):
    """Raises UsageError for options that are wrong or do not go together.

    Adds to the options suffix (the format of --out) and target (the file that --out leads to, None for no file).
    """
    for source in options.sources:
        kinds.check_name(source)
    for source in options.sources if len(options.sources) > 1 else []:
        # What a shell puts in the place of a pattern: its videos are not mixed up with photos either.
        if source == "-" or kinds.is_live(source) or kinds.is_video(source):
            raise UsageError(
                f"{kinds.shown_name(source)}: a video, a camera, a stream and - must be the only source; "
                "to classify only the photos of a pattern, put the pattern in quotes"
            )
    for option, path in (("--out", options.out), ("--annotate", options.annotate)):
        if path == "" or is_address(path or ""):
            text = shown_address(path) if path else "''"
            raise UsageError(f"{option} {text}: expected the name of a file")
        if path and not files.is_stream(path):
            require_outside(path, options.bundle, option)
    options.suffix = formats.check_output(options.out) if options.out else ""  # before the work, not after it
    options.target = files.target_of(options.out) if options.out and not files.is_stream(options.out) else None
    for option, path in (("--out", options.out), ("--annotate", options.annotate)):
        for source in options.sources:
            if path and os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
                raise UsageError(f"{option} {path}: is the source, which would be replaced; give another name")
    if options.realtime and not kinds.is_video(options.source):
        raise UsageError(f"--realtime: expected a video file, got {options.source}")
    if options.resume and not options.out:
        raise UsageError("--resume: there is no file to resume; give --out FILE")
    if options.resume and not options.target:
        raise UsageError(f"--resume: --out {options.out} is a stream, which cannot be resumed; give a file")
    if options.resume and options.overwrite:
        raise UsageError(
            "--resume and --overwrite: one resumes a stopped run, the other replaces its rows; give only one"
        )
    if options.resume and options.live:
        raise UsageError(
            f"--resume: {kinds.shown_name(options.source)} is live and cannot be resumed; leave --resume out"
        )
    if options.resume and options.annotate and kinds.is_video(options.annotate):
        raise UsageError(f"--annotate {options.annotate}: an annotated video cannot be resumed; give a folder")
    for source in options.sources if options.annotate else []:
        if os.path.isdir(source) and files.is_inside(options.annotate, source):
            raise UsageError(
                f"--annotate {options.annotate}: is inside the source {source}: the annotated pictures would become "
                "photos of the source; give another folder"
            )
    if options.null and options.source != "-":
        raise UsageError(f"--null: is for file names on standard input, got the source {options.source}")
    for name in ("seconds", "frames", "max_fps"):
        if getattr(options, name) is not None and not options.live:
            raise UsageError(
                f"--{name.replace('_', '-')}: is for a camera or stream, got {options.source} "
                "(a video file needs --realtime)"
            )
    if options.json and options.out and files.descriptor_of(options.out) == 1:
        raise UsageError("--json: the JSON document and the rows cannot both go to standard output; give another --out")
    if options.json and not options.out and options.live and not (options.seconds or options.frames):
        raise UsageError(
            f"--json: {kinds.shown_name(options.source)} has no end, and the document holds all rows; "
            "give --out FILE, --seconds or --frames"
        )


def _is_complete(path):
    unfinished = (journal.partial_of(path), journal.journal_of(path))
    return os.path.exists(path) and not any(os.path.lexists(name) for name in unfinished)
