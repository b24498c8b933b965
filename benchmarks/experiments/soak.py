"""An hour of a camera: does anything grow, does anything get lost?

    python -m benchmarks.experiments.soak BUNDLE rtsp://... --minutes 60
    python -m benchmarks.experiments.soak BUNDLE clip.mp4 --minutes 60      # played in real time, again and again

Prints a JSON line per minute (frames, drops, latency, resident memory, threads, open files), and a verdict. Exit code 0
if memory, threads and files stayed flat after the first quarter and each captured frame got a row, else 3.
"""

import argparse
import json
import os
import sys
import threading
import time

from edge_runtime.classifier import Classifier
from edge_runtime.cli.run import run_verb
from edge_runtime.console import say
from edge_runtime.errors import SomeInputsFailed
from edge_runtime.pipeline.latency import Latency
from edge_runtime.sources import kinds, live, newest

MAX_GROWTH_BYTES = 16 << 20  # of resident memory
MAX_GROWTH = 2  # threads or files: one may be opened or closed at the moment of counting
_MAX_DELAY_S = 0.05


def parser():
    """Returns the argument parser."""
    this = argparse.ArgumentParser(prog="python -m benchmarks.experiments.soak", description=__doc__.split("\n\n")[0])
    this.add_argument("bundle", help="folder written by `picnic-edge train` or `import`")
    this.add_argument("source", help="rtsp://..., camera:N, csi:N, or a video file, which is played in real time")
    this.add_argument("--minutes", type=float, default=60, metavar="N", help="how long (default 60)")
    this.add_argument("--every", type=float, default=60, metavar="S", help="seconds between two lines (default 60)")
    this.add_argument("--engine", default="auto", metavar="NAME", help="(default auto)")
    this.add_argument("--batch", type=int, default=1, metavar="N", help="frames per engine call (default 1)")
    return this


def main(argv=None):
    """Runs the soak. Raises SomeInputsFailed where something grew, PicnicError as the exit codes say."""
    options = parser().parse_args(argv)
    lines = []
    with Classifier.open(options.bundle, options.engine, options.batch) as classifier:
        say(f"{classifier.engine.name} on {kinds.shown_name(options.source)} for {options.minutes:g} minutes")
        for line in soak(classifier, options.source, 60 * options.minutes, options.every):
            lines.append(line)
            print(json.dumps(line, sort_keys=True), flush=True)
    verdict = judge(lines)
    print(json.dumps(verdict, sort_keys=True), flush=True)
    if not verdict["flat"]:
        raise SomeInputsFailed(f"grew: {json.dumps(verdict['growth'], sort_keys=True)}")


def soak(classifier, source, seconds, every_s):
    """Classifies live frames.

    Yields:
        after every every_s seconds and at the end: {"seconds", "rows", "rss_bytes", "threads", "open_files", "latency",
        and newest.Counts}, each since the start, latency since the line before.
    """
    started_s = time.perf_counter()
    totals, rows, latency = dict(vars(newest.Counts())), 0, Latency()
    lines = 0
    while time.perf_counter() - started_s < seconds:  # a video file ends; it is played again
        remaining_s = seconds - (time.perf_counter() - started_s)
        with live.open_live(source, threading.Event(), seconds=remaining_s) as frames:
            predictions = classifier.classify(frames, _MAX_DELAY_S, live=True)
            for prediction in predictions:
                rows += 1
                latency.add(1000 * (time.perf_counter() - prediction.item.captured_s))
                if time.perf_counter() - started_s >= (lines + 1) * every_s:
                    lines += 1
                    yield _line(started_s, rows, latency, _sum(totals, frames.counts))
                    latency = Latency()
        totals = _sum(totals, frames.counts)
    yield _line(started_s, rows, latency, totals)


def judge(lines):
    """Returns {"flat", "growth": {name: largest of the last quarter less largest of the second}, "lost"}.

    The first quarter fills caches. lost: captured frames without a row.
    """
    quarter = max(1, len(lines) // 4)
    growth = {
        name: max(line[name] for line in lines[-quarter:])
        - max(line[name] for line in lines[quarter : 2 * quarter] or lines)
        for name in ("rss_bytes", "threads", "open_files")
    }
    limits = {"rss_bytes": MAX_GROWTH_BYTES, "threads": MAX_GROWTH, "open_files": MAX_GROWTH}
    lost = lines[-1]["taken"] - lines[-1]["rows"]
    flat = all(growth[name] <= limit for name, limit in limits.items()) and not lost
    return {"flat": flat, "growth": growth, "lost": lost, "lines": len(lines)}


def _sum(totals, counts):
    return {name: totals[name] + value for name, value in vars(counts).items()}


def _line(started_s, rows, latency, counts):
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    return dict(
        counts,
        seconds=round(time.perf_counter() - started_s, 1),
        rows=rows,
        rss_bytes=pages * os.sysconf("SC_PAGE_SIZE"),
        threads=len(os.listdir("/proc/self/task")),
        open_files=len(os.listdir("/proc/self/fd")),
        latency=latency.summary(),
    )


if __name__ == "__main__":
    sys.exit(run_verb(main, sys.argv[1:]))
