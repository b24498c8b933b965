"""Photos in, answers out, in order: source -> decode (threads) -> batches -> engine (a thread) -> the caller.

    feeder thread     reads the source, which may be slow, only as far as a bounded window allows
    decode threads    load photos; whoever completes the next one in order copies it into its batch
    engine thread     keeps up to engine.slots batches on their way, collects them in order
    the caller        pulls the answers; one that is slow stops the engine, and by that the reading

Whatever fails anywhere is raised where the caller pulls, after the answers to all that was read before it. When the
generator ends or is closed, its threads have ended; only a feeder that waits inside the source (a standard input on
which nothing comes) cannot be ended from here: as a daemon thread it ends with the process or when the source answers,
and what it then gets is dropped.
"""

import collections
import contextlib
import os
import threading
import time
import typing

import numpy as np

from edge_runtime.engines.base import EngineError
from edge_runtime.errors import (
    EngineLost,
    ImageError,
    OutOfMemory,
    PicnicError,
    StorageLost,
    is_out_of_memory,
)
from edge_runtime.photos import images

STAGES = ("reading", "decode", "engine", "writing")

Answer = typing.NamedTuple(
    "Answer",
    [
        ("item", typing.Any),
        ("probabilities", typing.Optional[np.ndarray]),  # float32 [classes], None where error says why
        ("error", str),  # "" or why the photo could not be read, or why the engine fails on it
        # A run that starts anew after an answer with True makes the same batches as one that was never interrupted
        # (max_delay_s None). Under False more of its batch follows, or its batch was cut short by stop or a failure.
        ("ends_batch", bool),
    ],
)

_RECENT_S = 5.0  # what Stats.bottleneck looks back on
_FINISHED = 2  # batches that wait for the caller before the engine is given no more
_MOST_UNREADABLE = 256  # in one batch: answers are not held back, and memory not taken, without end
_STOP_EVERY_S = 0.1  # how often a waiting engine thread looks at stop
_FILL_S = 0.2  # how long an engine that could take one more batch waits for it before the oldest is collected
_SOURCE_GRACE_S = 0.5  # how long an end waits for a source to hand over what it is at
_ENGINE_FAILURES = (EngineError, PicnicError)


class Stats:
    """What the pipeline has done, and what holds it up. Any thread may read it; one run at a time adds to it.

    read, decoded, unreadable, failed (the engine fails on them) and answered are photos; decode_s is added up over the
    decode threads; held_up_s says for each of STAGES how long it was what the run waited for. That is the engine while
    it has work; else the caller ("writing") while answers pile up; else decoding while there is a photo to decode; else
    the source.
    """

    def __init__(self, clock=time.perf_counter):
        self.read = self.decoded = self.unreadable = self.failed = self.answered = 0
        self.decode_s = 0.0
        self.held_up_s = dict.fromkeys(STAGES, 0.0)
        self._clock = clock
        self._lock = threading.Lock()
        self._stage = ""  # what holds the run up since _since_s
        self._since_s = 0.0
        self._recent: typing.Deque[tuple] = collections.deque()  # (stage, from, to)

    @property
    def infer_s(self):
        """Seconds in which the engine had work."""
        return self.held_up_s["engine"]

    def add(self, **amounts):
        """Adds to counters: add(read=1)."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def wait_for(self, stage):
        """Says what holds the run up from now on: one of STAGES, "" for nothing."""
        with self._lock:
            if stage == self._stage:
                return
            now = self._clock()
            if self._stage:
                self.held_up_s[self._stage] += now - self._since_s
                self._recent.append((self._stage, self._since_s, now))
            while self._recent and self._recent[0][2] < now - _RECENT_S:
                self._recent.popleft()
            self._stage, self._since_s = stage, now

    def bottleneck(self):
        """Returns which of STAGES held the run up longest in the last seconds."""
        with self._lock:
            now = self._clock()
            seconds = dict.fromkeys(STAGES, 0.0)
            for stage, start, end in list(self._recent) + [(self._stage, self._since_s, now)] * bool(self._stage):
                seconds[stage] += max(0.0, end - max(start, now - _RECENT_S))
            return max(STAGES, key=lambda stage: seconds[stage])


def classify_items(
    items, load, engine, batch_size, decode_threads, max_delay_s=None, stop=None, stats=None, live=False
):
    """Runs items through an engine.

    Without max_delay_s the batches depend on the items alone: each holds batch_size readable photos, and the last one
    what is left. (One with more than 256 unreadable items behind its first photo is closed early.)

    Args:
        items: iterable; read by a thread of its own, and only as far as the windows allow.
        load: item -> uint8 [299, 299, 3]; raises ImageError where the item is no usable photo. Called in the pool.
        engine: an open Engine; others may use it meanwhile.
        batch_size: photos per call of the engine, at most engine.max_batch.
        decode_threads: size of the decoding pool.
        max_delay_s: a batch goes to the engine, full or not, this long after its first photo was read, or as soon
            after that as the engine is free; None for full batches only.
        stop: threading.Event; once it is set no more is read, what was read is answered, and the answers end.
        stats: a Stats to add to, of this run alone.
        live: the items get old, as a camera's frames do: while the engine works on one batch no more than the next
            one is read, where two and a photo per thread would be, and one batch is on its way, not engine.slots.

    Yields:
        one Answer per item, in the order of items. If the engine fails on a batch, the photo at fault is found and
        gets an error; the others are answered.

    Raises:
        EngineLost: the engine fails on a plain grey picture too. Anything that items raise, and PicnicErrors of load.
        RuntimeError: load raised what is no ImageError, a bug; with the item's name, from what was raised.
    """
    if not 1 <= batch_size <= engine.max_batch:
        raise ValueError("a batch of %d; %s takes 1 to %d" % (batch_size, engine.name, engine.max_batch))
    stats = stats if stats is not None else Stats()
    flow = _Flow(items, load, engine, batch_size, max_delay_s, stop, stats, live)
    try:
        flow.start(1 if live else engine.slots, decode_threads)
        for batch in iter(flow.next_finished, None):
            for answer in batch.answers():
                stats.add(answered=1)
                yield answer
    finally:
        flow.close()


_Failure = typing.NamedTuple("_Failure", [("error", BaseException)])  # what ends the run at its place in the order


class _Entry:
    """An item between the source and its batch."""

    __slots__ = ("item", "read_s", "outcome")

    def __init__(self, item, read_s, outcome=None):
        self.item = item
        self.read_s = read_s
        self.outcome = outcome  # None while it is loaded; then the picture, an ImageError, or a _Failure


class _Batch:
    """Items that are answered together: nothing but unreadable ones, or such as begin with a readable one."""

    def __init__(self, read_s):
        self.read_s = read_s
        self.items: typing.List[typing.Any] = []
        self.errors: typing.List[str] = []  # "" for a picture
        self.pictures: typing.Any = None  # uint8 [batch size, 299, 299, 3]
        self.count = 0  # pictures
        self.cut_short = False
        self.rows: list = []  # per picture float32 [classes], or the reason (str) why there is none
        self.failure: typing.Any = None  # the engine's
        self._pending: typing.Any = None

    def add(self, entry, batch_size, spare):
        """Takes over a loaded entry; its picture goes into one of the spare arrays, or a new one."""
        if isinstance(entry.outcome, ImageError):
            self.items.append(entry.item)
            self.errors.append(str(entry.outcome))
            return
        if self.pictures is None:
            self.pictures = spare.pop() if spare else np.empty((batch_size,) + entry.outcome.shape, np.uint8)
        self.items.append(entry.item)
        self.errors.append("")
        self.pictures[self.count] = entry.outcome
        self.count += 1

    def start(self, engine):
        if self.count:
            try:
                self._pending = engine.submit(self.pictures[: self.count])
            except _ENGINE_FAILURES as error:
                self.failure = error

    def settle(self, engine):
        """Takes it off the engine, with its rows or its failure. May be called again."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            try:
                self.rows = list(engine.collect(pending))
            except _ENGINE_FAILURES as error:
                self.failure = error

    def repair(self, engine):
        """Answers what can be answered after a failure; nothing of this run may be on its way in the engine."""
        items = [item for item, error in zip(self.items, self.errors) if not error]
        self.rows = _rows_in_parts(engine, self.pictures[: self.count], items, self.failure)

    def answers(self):
        rows = iter(self.rows)
        for number, (item, error) in enumerate(zip(self.items, self.errors), 1):
            ends = self.count == 0 or (number == len(self.items) and not self.cut_short)
            row = error or next(rows)
            yield Answer(item, None, row, ends) if isinstance(row, str) else Answer(item, row, "", ends)


class _Flow:
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
        self._window: typing.Deque[_Entry] = collections.deque()  # read and not in a batch, in order
        self._to_load: typing.Deque[_Entry] = collections.deque()
        self._loading = 0  # entries without an outcome
        self._forming: typing.Optional[_Batch] = None
        self._ready: typing.Deque[_Batch] = collections.deque()
        self._spare: typing.List[np.ndarray] = []  # of finished batches; fresh memory costs more than copying
        self._running = 0  # batches that the engine thread has taken and not finished
        self._finished: typing.Deque[typing.Any] = collections.deque()  # batches; at the end an exception or None

    # --- the caller's side

    def start(self, slots, decode_threads):
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
                entry = _Entry(next(source), time.perf_counter())
            except StopIteration:
                entry = None
            except BaseException as error:
                entry = failure = _Entry(None, time.perf_counter(), _Failure(error))
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
            failure = entry.outcome.error if isinstance(entry.outcome, _Failure) else None
            if failure is None:
                try:
                    self._put(entry)
                except MemoryError:
                    failure = OutOfMemory(
                        "not enough memory for batches of %d; use a smaller --batch" % self._batch_size
                    )
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
            self._forming = _Batch(entry.read_s)
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
        running: typing.Deque[_Batch] = collections.deque()
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
        if picture.dtype != np.uint8 or picture.shape != tuple(images.INPUT_SPEC["shape"]):
            raise ValueError("load returned %s %s" % (picture.dtype, picture.shape))
        return picture
    except ImageError as error:
        return error
    except StorageLost as error:  # names the file itself
        return _Failure(error)
    except BaseException as error:
        if is_out_of_memory(error):
            return _Failure(_out_of_memory(item, error))
        if isinstance(error, PicnicError):
            explained: Exception = type(error)("%s: %s" % (_name_of(item), error))
        else:
            explained = RuntimeError("%s: loading it failed: %s: %s" % (_name_of(item), type(error).__name__, error))
        explained.__cause__ = error
        return _Failure(explained)


def _out_of_memory(item, error):
    explained = OutOfMemory(
        "%s: not enough memory to decode it, also with no other photo beside it (%s).\n"
        "Stop other programs, or use a smaller --batch" % (_name_of(item), error or "out of memory")
    )
    explained.__cause__ = error
    return explained


def _rows(engine, pictures, items):
    """Returns the engine's answer to each picture, or the reason (str) why there is none. Raises EngineLost."""
    try:
        return list(engine.infer(pictures))
    except _ENGINE_FAILURES as error:
        return _rows_in_parts(engine, pictures, items, error)


def _rows_in_parts(engine, pictures, items, failure):
    """Returns what _rows does for pictures on which the engine has just failed."""
    if len(pictures) == 1:
        _check_alive(engine, items[0], failure)
        try:
            return list(engine.infer(pictures))  # the failure may have been a passing one
        except _ENGINE_FAILURES as error:
            if is_out_of_memory(error) or is_out_of_memory(error.__cause__):
                raise OutOfMemory("%s: not enough memory to run it (%s)" % (_name_of(items[0]), error)) from error
            return ["the engine fails on it: " + " ".join(str(error).split())]
    answers = getattr(failure, "answers", None)
    if answers is None:
        answers = np.full((len(pictures), 1), np.nan)
    good = np.isfinite(answers).all(axis=1)
    if not good.any():
        half = len(pictures) // 2
        return _rows(engine, pictures[:half], items[:half]) + _rows(engine, pictures[half:], items[half:])
    again = iter(_rows(engine, pictures[~good], [item for item, fine in zip(items, good) if not fine]))
    return [row if fine else next(again) for row, fine in zip(answers, good)]


def _check_alive(engine, item, failure):
    """Raises EngineLost where the engine fails on a plain grey picture as well."""
    try:
        engine.infer(np.full([1] + images.INPUT_SPEC["shape"], 128, np.uint8))
    except _ENGINE_FAILURES as error:
        raise EngineLost(
            "%s stopped working at %s: %s\nIt fails on a plain grey picture too. What was answered before is kept. Try "
            "again, with another --engine if it stays so; `picnic-edge doctor` says what this machine can run"
            % (engine.name, _name_of(item), failure)
        ) from error


def _name_of(item):
    if isinstance(item, (str, bytes, os.PathLike)):
        return os.fsdecode(item)
    return "a frame" if isinstance(item, np.ndarray) else getattr(item, "name", str(item))
