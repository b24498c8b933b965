"""Photos in, predictions out, in order: decode (thread pool) -> batch -> engine (its own thread) -> in-order results.

The caller pulls: nothing is read ahead of what the bounded windows below hold, a failure of any stage is raised where
the caller pulls, and stopping half way (an error, Ctrl-C, closing the generator) leaves nothing running.
"""

import collections
import concurrent.futures
import os
import time
import typing

import numpy as np

from edge_runtime.engines.base import EngineError
from edge_runtime.errors import ImageError

Answer = typing.NamedTuple(
    "Answer",
    [
        ("item", typing.Any),
        ("probabilities", typing.Optional[np.ndarray]),  # float32 [classes], None for an unreadable photo
        ("error", str),  # "" or why the photo could not be read
    ],
)

_BATCHES_IN_FLIGHT = 2  # one in the engine, one ready for it


class StageTimes:
    """Seconds that the stages worked, added up over their threads."""

    def __init__(self):
        self.decode_s = self.infer_s = 0.0


def classify_items(items, load, engine, batch_size, decode_threads, times=None):
    """Runs items through an engine.

    Args:
        items: iterable, read only as far as the windows allow.
        load: item -> uint8 [299, 299, 3]; raises ImageError where the item is no usable photo. Called in the pool.
        engine: an open Engine.
        batch_size: photos per call of the engine; the last batch may be smaller.
        decode_threads: size of the decoding pool.
        times: a StageTimes to add to.

    Yields:
        one Answer per item, in the order of items.

    Raises:
        EngineError: from the engine, with the names of the photos of its batch. Anything that items or load raise.
    """
    times = times if times is not None else StageTimes()
    pool = concurrent.futures.ThreadPoolExecutor(decode_threads, "decode")
    engine_thread = concurrent.futures.ThreadPoolExecutor(1, "engine")
    loading: collections.deque = collections.deque()  # (item, future of picture or ImageError), in order
    running: collections.deque = collections.deque()  # (items, errors, future of probabilities or None), in order
    window = _BATCHES_IN_FLIGHT * batch_size + decode_threads

    def start_batch():
        taken, errors, pictures = [], [], []  # type: list, list, list
        while loading and len(pictures) < batch_size:
            item, future = loading.popleft()
            picture, seconds = future.result()
            times.decode_s += seconds
            unreadable = isinstance(picture, ImageError)
            taken.append(item)
            errors.append(str(picture) if unreadable else "")
            if not unreadable:
                pictures.append(picture)
        running.append((taken, errors, engine_thread.submit(_infer, engine, pictures, taken) if pictures else None))

    def finish_batch():
        taken, errors, future = running.popleft()
        rows, seconds = future.result() if future else ((), 0.0)
        times.infer_s += seconds
        remaining = iter(rows)
        for item, error in zip(taken, errors):
            yield Answer(item, None, error) if error else Answer(item, next(remaining), "")

    try:
        for item in items:
            loading.append((item, pool.submit(_load, load, item)))
            if len(loading) >= window:
                start_batch()
                if len(running) > _BATCHES_IN_FLIGHT:
                    yield from finish_batch()
        while loading:
            start_batch()
            if len(running) > _BATCHES_IN_FLIGHT:
                yield from finish_batch()
        while running:
            yield from finish_batch()
    finally:
        for futures in (loading, running):
            for entry in futures:
                if entry[-1]:
                    entry[-1].cancel()
        pool.shutdown()
        engine_thread.shutdown()


def _load(load, item):
    """Returns (picture or ImageError, seconds)."""
    started = time.perf_counter()
    try:
        picture = load(item)
    except ImageError as error:
        picture = error
    return picture, time.perf_counter() - started


def _infer(engine, pictures, items):
    """Returns (probabilities, seconds)."""
    started = time.perf_counter()
    try:
        return engine.infer(np.stack(pictures)), time.perf_counter() - started
    except Exception as error:
        names = ", ".join(_name_of(item) for item in items)
        raise EngineError("%s; while classifying %s" % (error, names)) from error


def _name_of(item):
    return os.fspath(item) if isinstance(item, (str, os.PathLike)) else getattr(item, "name", "a frame")
