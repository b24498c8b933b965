"""The threads of the pipeline and what they hand each other."""

import collections
import contextlib
import threading
import time
import typing

import numpy as np

from edge_runtime.errors import (
    ImageError,
    OutOfMemory,
    PicnicError,
    StorageLost,
    is_out_of_memory,
)
from edge_runtime.photos import spec
from edge_runtime.pipeline.batch import Batch, Entry, Failure
from edge_runtime.pipeline.recovery import name_of, out_of_memory

_FINISHED = 2  # batches that wait for the caller before the engine is given no more

_MOST_UNREADABLE = 256  # in one batch: answers are not held back, and memory not taken, without end

_STOP_EVERY_S = 0.1  # how often a waiting engine thread looks at stop

_FILL_S = 0.2  # how long an engine that could take one more batch waits for it before the oldest is collected

_SOURCE_GRACE_S = 0.5  # how long an end waits for a source to hand over what it is at


class Flow:
    """The threads and what they hand each other. All attributes but the settings are used under the lock."""

    def __init__(self, items, load, engine, batch_size, max_delay_s, stop, stats, live):
        self._items = items
        self._load = load
        self._engine = engine
        self._batch_size = batch_size
        self._max_delay_s = max_delay_s
        self._stop = stop
        self._stats = stats
        self._live = live
        self._most_waiting = batch_size  # photos that are read and not given to the engine
        self._threads: typing.List[threading.Thread] = []

        lock = threading.Lock()
        self._may_read, self._may_load, self._may_run, self._may_answer = (threading.Condition(lock) for _ in range(4))
        self._lock = lock
        self._in_source = False  # the feeder waits for the source
        self._read_all = False  # nothing more is taken from the source
        self._cut_short = False  # ... though it may have more
        self._closing = False
        self._failure: typing.Optional[BaseException] = None  # of the source or of loading
        self._window: typing.Deque[Entry] = collections.deque()  # read and not in a batch, in order
        self._to_load: typing.Deque[Entry] = collections.deque()
        self._loading = 0  # entries without an outcome
        self._forming: typing.Optional[Batch] = None
        self._ready: typing.Deque[Batch] = collections.deque()
        self._spare: typing.List[np.ndarray] = []  # of finished batches; fresh memory costs more than copying
        self._running = 0  # batches that the engine thread has taken and not finished
        self._finished: typing.Deque[typing.Any] = collections.deque()  # batches; at the end an exception or None

    # --- the caller's side

    def start(self, slots, decode_threads):
        """Starts the threads: the feeder, decode_threads decoders, and the engine's with slots batches on their way."""
        if not self._live:
            self._most_waiting += self._batch_size + decode_threads
        self._stats.wait_for("reading")
        works = [(self._feed, "feeder"), (lambda: self._run_engine(slots), "engine")]
        works += [(self._decode, "decode")] * decode_threads
        for work, name in works:
            # Daemons: a generator that nobody closed does not keep the process from ending.
            thread = threading.Thread(target=work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def next_finished(self):
        """Returns the next finished _Batch, None after the last; raises what stopped the run."""
        with self._lock:
            while not self._finished:
                self._may_answer.wait()
            batch = self._finished.popleft()
            self._may_run.notify()
            self._note()
        if isinstance(batch, BaseException):
            raise batch
        return batch

    def close(self):
        """Ends the threads; each finishes the one photo or batch that it is at."""
        with self._lock:
            self._closing = True
            for condition in (self._may_read, self._may_load, self._may_run):
                condition.notify_all()
            in_source = self._in_source
            self._stats.wait_for("")
        for thread in self._threads:
            thread.join(_SOURCE_GRACE_S if in_source and thread.name == "feeder" else None)

    # --- the feeder

    def _feed(self):
        source = failure = None
        while True:
            with self._lock:
                while not self._closing and not self._read_all and not self._stopped() and not self._has_room():
                    self._may_read.wait()
                if self._closing or self._read_all:
                    return
                if self._stopped():
                    self._end_reading(cut_short=True)
                    return
                self._in_source = True
            try:
                source = iter(self._items) if source is None else source
                entry = Entry(next(source), time.perf_counter())
            except StopIteration:
                entry = None
            except BaseException as error:
                entry = failure = Entry(None, time.perf_counter(), Failure(error))
            with self._lock:
                self._in_source = False
                if self._closing or self._read_all:
                    return
                if entry is not None:
                    self._window.append(entry)
                if entry is None or failure is not None:
                    self._end_reading(cut_short=failure is not None or self._stopped())
                    return
                self._stats.add(read=1)
                self._to_load.append(entry)
                self._loading += 1
                self._may_load.notify()
                self._note()

    def _stopped(self):
        return self._stop is not None and self._stop.is_set()

    def _has_room(self):
        waiting = len(self._window) + sum(batch.count for batch in self._ready)
        waiting += self._forming.count if self._forming else 0
        # Batches of nothing but unreadable items hold no picture, and must not pile up either.
        return waiting < self._most_waiting and len(self._ready) <= self._most_waiting

    def _end_reading(self, cut_short):
        self._read_all = True
        self._cut_short = cut_short
        self._may_load.notify_all()
        self._advance()

    # --- the decode threads

    def _decode(self):
        while True:
            with self._lock:
                while not self._closing and not self._to_load and not self._read_all:
                    self._may_load.wait()
                if self._closing or not self._to_load:
                    return
                entry = self._to_load.popleft()
            started = time.perf_counter()
            outcome = _load(self._load, entry.item)
            self._stats.add(
                decode_s=time.perf_counter() - started,
                decoded=isinstance(outcome, np.ndarray),
                unreadable=isinstance(outcome, ImageError),
            )
            with self._lock:
                entry.outcome = outcome
                self._loading -= 1
                self._advance()

    def _advance(self):
        """Moves what is loaded, in order, into batches; and what is left over, once nothing more comes."""
        while self._window and self._window[0].outcome is not None:
            entry = self._window.popleft()
            failure = entry.outcome.error if isinstance(entry.outcome, Failure) else None
            if failure is None:
                try:
                    self._put(entry)
                except MemoryError:
                    failure = OutOfMemory(f"not enough memory for batches of {self._batch_size}; use a smaller --batch")
            if failure is not None:
                self._failure = failure
                self._read_all = self._cut_short = True
                self._window.clear()
                self._to_load.clear()
                self._may_load.notify_all()
        if self._read_all and not self._window:
            self._close_batch(self._cut_short)
        if self._has_room() or self._stopped():
            self._may_read.notify()
        if self._ready or self._read_all or self._max_delay_s is not None:
            self._may_run.notify()
        self._note()

    def _put(self, entry):
        readable = isinstance(entry.outcome, np.ndarray)
        if readable and self._forming and not self._forming.count:
            self._close_batch()
        if self._forming is None:
            self._forming = Batch(entry.read_s)
        batch = self._forming
        batch.add(entry, self._batch_size, self._spare)
        if batch.count == self._batch_size or len(batch.items) - batch.count >= _MOST_UNREADABLE:
            self._close_batch()

    def _close_batch(self, cut_short=False):
        if self._forming is not None:
            # With a deadline batches are cut anywhere: then this one is as good as any other.
            self._forming.cut_short = cut_short and self._max_delay_s is None
            self._ready.append(self._forming)
            self._forming = None

    # --- the engine thread

    def _run_engine(self, slots):
        running: typing.Deque[Batch] = collections.deque()
        end: typing.Optional[BaseException] = None
        try:
            while True:
                patience_s = _FILL_S if self._max_delay_s is None else 0.0  # collecting waits, and wakes for no batch
                batch = None
                if len(running) < slots:
                    batch = self._next_batch(patience_s if running else float("inf"))
                if batch is not None:
                    running.append(batch)
                    batch.start(self._engine)
                elif running:
                    self._finish(running)
                else:
                    break
        except BaseException as error:
            end = error
        for batch in running:
            with contextlib.suppress(Exception):  # the run has ended for another reason
                batch.settle(self._engine)
        with self._lock:
            self._finished.append(end if end is not None else self._failure)
            self._may_answer.notify()

    def _next_batch(self, patience_s):
        """Returns the next batch for the engine. None: there was none for so long, or there will be none."""
        stopped_s = None
        until_s = time.perf_counter() + patience_s
        with self._lock:
            while not self._closing:
                now = time.perf_counter()
                answers_wait = len(self._finished) >= _FINISHED
                due_s = None
                if self._max_delay_s is not None and self._forming is not None and not answers_wait:
                    due_s = self._forming.read_s + self._max_delay_s - now
                    if due_s <= 0 and not self._ready:
                        self._close_batch()
                if self._ready and not answers_wait:
                    self._running += 1
                    self._may_read.notify()
                    batch = self._ready.popleft()
                    self._note()
                    return batch
                if now >= until_s or (self._read_all and not self._window and not self._ready):
                    return None
                if self._stopped() and self._in_source and not self._read_all:
                    stopped_s = now if stopped_s is None else stopped_s
                    if now - stopped_s > _SOURCE_GRACE_S:
                        self._end_reading(cut_short=True)  # without what the source may still give
                        continue
                waits = [due_s] if due_s is not None else []
                waits += [until_s - now] if patience_s < float("inf") else []
                waits += [_STOP_EVERY_S] if self._stop is not None and not self._read_all else []
                self._may_run.wait(min(waits) if waits else None)
        return None

    def _finish(self, running):
        """Takes the oldest batch off the engine and hands its answers to the caller."""
        batch = running[0]
        batch.settle(self._engine)
        if batch.failure is not None:
            for other in running:
                other.settle(self._engine)
            batch.repair(self._engine)
        running.popleft()
        self._stats.add(failed=sum(isinstance(row, str) for row in batch.rows))
        with self._lock:
            self._running -= 1
            if batch.count:
                self._spare.append(batch.pictures)
                batch.pictures = None
            self._finished.append(batch)
            self._may_answer.notify()
            self._note()

    def _note(self):
        """Tells the stats what holds the run up now."""
        if self._closing:
            return
        if self._running:
            stage = "engine"
        elif len(self._finished) >= _FINISHED:
            stage = "writing"
        elif self._loading:
            stage = "decode"
        else:
            stage = "reading"
        self._stats.wait_for(stage)


def _load(load, item):
    """Returns the picture, an ImageError, or a _Failure."""
    try:
        picture = load(item)
        if picture.dtype != np.uint8 or picture.shape != tuple(spec.INPUT_SPEC["shape"]):
            raise ValueError(f"load returned {picture.dtype} {picture.shape}")
        return picture
    except ImageError as error:
        return error
    except StorageLost as error:  # names the file itself
        return Failure(error)
    except BaseException as error:
        if is_out_of_memory(error):
            return Failure(out_of_memory(item, error))
        if isinstance(error, PicnicError):
            explained: Exception = type(error)(f"{name_of(item)}: {error}")
        else:
            explained = RuntimeError(f"{name_of(item)}: loading it failed: {type(error).__name__}: {error}")
        explained.__cause__ = error
        return Failure(explained)
