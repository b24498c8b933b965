"""Measures one open engine. Warm-up and measurement run the same step; every call counts, no outlier is dropped.

Photos are in memory before the clock starts: a timed call is the engine's infer and nothing else.
"""

import math
import time
import typing

import numpy as np

from edge_runtime.pipeline.latency import MIN_COUNTS
from edge_runtime.results import text_formats
from edge_runtime.results.rows import columns_of, row_of

PERCENTILES = (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99), ("p99_9", 99.9))
_MIN_CALLS = 3
_WARM_UP_CALLS = 3
_MAX_WARM_UP_CALLS = 20
_SETTLED = 0.9  # an engine is warm when three calls in a row are not faster than this times its best


def make_batches(pictures, batch):
    """Returns the photos as a list of contiguous batches, uint8 [batch, height, width, 3] each; too few are repeated.

    Args:
        pictures: uint8 [n, height, width, 3], n >= 1.
        batch: photos in each.
    """
    starts = range(0, max(1, len(pictures) // batch) * batch, batch)
    return [np.ascontiguousarray(pictures[np.arange(start, start + batch) % len(pictures)]) for start in starts]


def warm_up(engine, batches):
    """Calls an engine until it gets no faster. Returns the milliseconds of each call, the first being the cold one."""
    calls_ms: typing.List[float] = []
    best, settled = float("inf"), 0
    while settled < _WARM_UP_CALLS and len(calls_ms) < _MAX_WARM_UP_CALLS:
        calls_ms.append(_step(engine, batches, len(calls_ms)))
        settled = 0 if calls_ms[-1] < _SETTLED * best else settled + 1
        best = min(best, calls_ms[-1])
    return calls_ms


def window(engine, batches, seconds):
    """Times calls of an engine, one after the other, after one that is not timed.

    Args:
        engine: an open Engine.
        batches: of make_batches; used in turn.
        seconds: how long to measure; at least 3 calls are made.

    Returns:
        dict: latencies_ms (one per call), photos, seconds (from the first timed call's start to the last one's end),
        cpu_s (core time of this process meanwhile).
    """
    _step(engine, batches, 0)
    latencies_ms: typing.List[float] = []
    cpu_s, started = time.process_time(), time.perf_counter()
    while time.perf_counter() - started < seconds or len(latencies_ms) < _MIN_CALLS:
        latencies_ms.append(_step(engine, batches, len(latencies_ms)))
    took_s = time.perf_counter() - started
    return {
        "latencies_ms": latencies_ms,
        "photos": len(latencies_ms) * len(batches[0]),
        "seconds": took_s,
        "cpu_s": time.process_time() - cpu_s,
    }


def end_to_end(classifier, items, out, seconds=0.0):
    """Classifies photo files into a table with the code of `picnic-edge classify`, and measures where the time goes.

    Args:
        classifier: an open Classifier.
        items: list of edge_runtime.sources.items.Item.
        out: name of the table to write.
        seconds: all items are classified once, and again until this much time has passed.

    Returns:
        dict: photos, seconds, images_per_s, cpu_s (core time of this process), batch, and per photo in milliseconds
        decode_ms (added up over the decoding threads), infer_ms (the engine has a batch), wait_ms (it has none),
        write_ms.
    """
    cpu_s, started = time.process_time(), time.perf_counter()
    write_s, photos = 0.0, 0
    with open(out, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        write = text_formats.tsv_writer(file, columns_of(1))
        for prediction in classifier.classify(_passes(items, started + seconds)):
            before = time.perf_counter()
            write(row_of(prediction, 1))
            write_s += time.perf_counter() - before
            photos += 1
    took_s = time.perf_counter() - started
    cpu_s = time.process_time() - cpu_s
    stages_s = {
        "decode_ms": classifier.stats.decode_s,
        "infer_ms": classifier.stats.infer_s,
        "wait_ms": took_s - classifier.stats.infer_s,
        "write_ms": write_s,
    }
    per_photo_ms = {name: 1000 * value / photos for name, value in stages_s.items()}
    return dict(
        per_photo_ms,
        photos=photos,
        seconds=took_s,
        images_per_s=photos / took_s,
        cpu_s=cpu_s,
        batch=classifier.batch_size,
    )


def percentiles(latencies_ms):
    """Returns {"p50_ms", "p90_ms", "p95_ms", "p99_ms", "p99_9_ms", "mean_ms", "max_ms", "calls"} of all calls.

    A percentile is a duration that occurred: the smallest one that at least so many calls did not exceed. It is None
    where there are fewer calls than MLPerf's LoadGen needs for it: edge_runtime.pipeline.latency.MIN_COUNTS.
    """
    ordered = sorted(latencies_ms)
    figures = {
        name + "_ms": ordered[max(1, int(math.ceil(len(ordered) * rank / 100 - 1e-9))) - 1]
        if len(ordered) >= MIN_COUNTS[rank]
        else None
        for name, rank in PERCENTILES
    }
    return dict(figures, mean_ms=sum(ordered) / len(ordered), max_ms=ordered[-1], calls=len(ordered))


def _step(engine, batches, number):
    batch = batches[number % len(batches)]
    started = time.perf_counter()
    engine.infer(batch)
    return (time.perf_counter() - started) * 1000


def _passes(items, until):
    while True:
        yield from items
        if time.perf_counter() >= until:
            return
