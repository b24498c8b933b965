"""The measurements. Warm-up and measurement run the same step; nothing is clipped or averaged away."""

import time
import typing

import numpy as np

from edge_runtime import tables
from edge_runtime.cli import columns_of, row_of
from edge_runtime.pipeline import StageTimes

PERCENTILES = (50, 90, 99)
_WARM_UP_CALLS = 3


def latencies_ms(engine, pictures, batch, seconds):
    """Times calls of an engine, one after the other.

    Args:
        engine: an open Engine.
        pictures: uint8 [n, 299, 299, 3]; used in turn.
        batch: photos per call.
        seconds: how long to measure; at least 10 calls are made.

    Returns:
        (list of milliseconds, one per call; seconds that all of them took).
    """
    batches = [_take(pictures, number * batch, batch) for number in range(max(1, len(pictures) // batch))]

    def step(number):
        started = time.perf_counter()
        engine.infer(batches[number % len(batches)])
        return (time.perf_counter() - started) * 1000

    for number in range(_WARM_UP_CALLS):
        step(number)
    measured: typing.List[float] = []
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or len(measured) < 10:
        measured.append(step(len(measured)))
    return measured, time.perf_counter() - started


def latency(engine, pictures, seconds):
    """Returns the latency at batch 1: {"p50_ms", "p90_ms", "p99_ms", "max_ms", "calls"}."""
    measured, _ = latencies_ms(engine, pictures, 1, seconds)
    found = {"p%d_ms" % rank: float(np.percentile(measured, rank)) for rank in PERCENTILES}
    return dict(found, max_ms=max(measured), calls=len(measured))


def throughput(engine, pictures, batch, seconds):
    """Returns {"batch", "images_per_s", "calls"}: model only, pictures ready in memory."""
    measured, took_s = latencies_ms(engine, pictures, batch, seconds)
    return {"batch": batch, "images_per_s": len(measured) * batch / took_s, "calls": len(measured)}


def end_to_end(classifier, items, out):
    """Classifies photo files into a table, as `picnic-edge classify` does, and returns where the time went.

    Args:
        classifier: an open Classifier.
        items: list of edge_runtime.sources.Item.
        out: name of the table to write.

    Returns:
        dict: photos, images_per_s, and per photo in milliseconds decode_ms (core time of the decoding threads),
        infer_ms (of the engine), wait_ms (the engine without a batch), write_ms.
    """
    classifier.times = StageTimes()
    started = time.perf_counter()
    write_s, photos = 0.0, 0
    with open(out, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        write = tables.row_writer(file, columns_of(1), ".tsv")
        for prediction in classifier.classify(items):
            before = time.perf_counter()
            write(row_of(prediction, 1))
            write_s += time.perf_counter() - before
            photos += 1
    took_s = time.perf_counter() - started
    stages_s = {
        "decode_ms": classifier.times.decode_s,
        "infer_ms": classifier.times.infer_s,
        "wait_ms": took_s - classifier.times.infer_s,
        "write_ms": write_s,
    }
    found = {name: 1000 * value / photos for name, value in stages_s.items()}
    return dict(found, photos=photos, images_per_s=photos / took_s, batch=classifier.batch_size)


def _take(pictures, start, count):
    return np.ascontiguousarray(pictures[np.arange(start, start + count) % len(pictures)])
