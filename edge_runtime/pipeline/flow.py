"""The threads of the pipeline and how they wait for each other."""

import contextlib
import threading
import time
import typing

import numpy as np

from edge_runtime.errors import ImageError, OutOfMemory
from edge_runtime.pipeline.batch import Batch, Batches
from edge_runtime.pipeline.in_order import Entry, Window
from edge_runtime.pipeline.load_item import Failure, load
from edge_runtime.pipeline.stats import Stats

_MAX_FINISHED = 2  # while this many batches wait for the caller, the engine gets no more
_STOP_EVERY_S = 0.1  # a waiting engine thread looks at stop this often
_FILL_S = 0.2  # an engine that could take one more batch waits this long for it before the oldest is collected
_SOURCE_GRACE_S = 0.5  # when a run ends, its source has this long to hand over the item that it is reading


class Settings(typing.NamedTuple):
    """What a run is given; the arguments of classify_items."""

    items: typing.Iterable
    read: typing.Callable
    input_spec: typing.Any
    engine: typing.Any
    batch_size: int
    decode_threads: int
    max_delay_s: typing.Optional[float]
    stop: typing.Optional[threading.Event]
    stats: Stats
    live: bool


class Flow:
    """The threads of one run. The window, the batches and _closing are used under the lock."""

    def __init__(self, settings):
        self._settings = settings
        self._stats = settings.stats
        # Photos that are read and not given to the engine
        self._max_waiting = settings.batch_size
        if not settings.live:
            self._max_waiting += settings.batch_size + settings.decode_threads
        self._window = Window()
        self._batches = Batches(settings.batch_size)
        self._closing = False
        self._lock = threading.Lock()
        self._may_read, self._may_load, self._may_run, self._may_answer = (
            threading.Condition(self._lock) for _ in range(4)
        )
        self._threads: typing.List[threading.Thread] = []

    # --- the caller's side

    def start(self):
        """Starts the threads: the feeder, the decoders and the engine's."""
        self._stats.set_bottleneck("reading")
        works = [(self._feed, "feeder"), (self._run_engine, "engine")]
        works += [(self._decode, "decode")] * self._settings.decode_threads
        for work, name in works:
            # Daemons: a generator that nobody closed does not keep the process from ending.
            thread = threading.Thread(target=work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def next_finished(self):
        """Returns the next finished Batch, None after the last; raises what stopped the run."""
        with self._lock:
            while not self._batches.finished:
                self._may_answer.wait()
            batch = self._batches.finished.popleft()
            self._may_run.notify()
            self._update_bottleneck()
        if isinstance(batch, BaseException):
            raise batch
        return batch

    def close(self):
        """Ends the threads; each finishes the one photo or batch that it is at."""
        with self._lock:
            self._closing = True
            for condition in (self._may_read, self._may_load, self._may_run):
                condition.notify_all()
            in_source = self._window.in_source
            self._stats.set_bottleneck("")
        for thread in self._threads:
            thread.join(_SOURCE_GRACE_S if in_source and thread.name == "feeder" else None)

    # --- the feeder

    def _feed(self):
        source = None
        while self._may_go_on_reading():
            entry = None
            try:
                source = iter(self._settings.items) if source is None else source
                entry = Entry(next(source), time.perf_counter())
            except StopIteration:
                pass
            except BaseException as error:
                entry = Entry(None, time.perf_counter(), Failure(error))
            with self._lock:
                self._window.in_source = False
                if self._closing or self._window.ended:
                    return
                if entry is not None:
                    self._window.add(entry)
                if entry is None or entry.outcome is not None:
                    self._end_reading(cut_short=entry is not None or self._stopped())
                    return
                self._stats.add(read=1)
                self._may_load.notify()
                self._update_bottleneck()

    def _may_go_on_reading(self):
        """Waits for room. Returns whether to take one more item from the source."""
        with self._lock:
            while not (self._closing or self._window.ended or self._stopped() or self._has_room()):
                self._may_read.wait()
            if self._closing or self._window.ended:
                return False
            if self._stopped():
                self._end_reading(cut_short=True)
                return False
            self._window.in_source = True
            return True

    def _stopped(self):
        return self._settings.stop is not None and self._settings.stop.is_set()

    def _has_room(self):
        waiting = len(self._window) + self._batches.waiting_pictures()
        # Batches of nothing but unreadable items hold no picture, and must not pile up either.
        return waiting < self._max_waiting and len(self._batches.ready) <= self._max_waiting

    def _end_reading(self, cut_short):
        self._window.end(cut_short)
        self._may_load.notify_all()
        self._advance()

    # --- the decode threads

    def _decode(self):
        while True:
            with self._lock:
                while not (self._closing or self._window.has_to_load() or self._window.ended):
                    self._may_load.wait()
                if self._closing or not self._window.has_to_load():
                    return
                entry = self._window.next_to_load()
            started_s = time.perf_counter()
            outcome = load(entry.item, self._settings.read, self._settings.input_spec)
            self._stats.add(
                decode_s=time.perf_counter() - started_s,
                decoded=isinstance(outcome, np.ndarray),
                unreadable=isinstance(outcome, ImageError),
            )
            with self._lock:
                self._window.set_outcome(entry, outcome)
                self._advance()

    def _advance(self):
        """Moves what is loaded, in order, into batches; and what is left over, once nothing more comes."""
        for entry in iter(self._window.pop_loaded, None):
            failure = entry.failure
            if failure is None:
                try:
                    self._batches.add(entry)
                except MemoryError:
                    failure = OutOfMemory(
                        f"not enough memory for batches of {self._settings.batch_size}; use a smaller --batch"
                    )
            if failure is not None:
                self._window.fail(failure)
                self._may_load.notify_all()
        if self._window.ended and not self._window:
            # With a deadline batches are cut anywhere: then this one is as good as any other.
            self._batches.close_forming(self._window.cut_short and self._settings.max_delay_s is None)
        if self._has_room() or self._stopped():
            self._may_read.notify()
        if self._batches.ready or self._window.ended or self._settings.max_delay_s is not None:
            self._may_run.notify()
        self._update_bottleneck()

    # --- the engine thread

    def _run_engine(self):
        engine = self._settings.engine
        slots = 1 if self._settings.live else engine.slots
        # With a deadline, no time is spent waiting for one more batch: nothing would end the wait early.
        patience_s = _FILL_S if self._settings.max_delay_s is None else 0.0
        running: typing.List[Batch] = []
        end: typing.Optional[BaseException] = None
        try:
            while True:
                batch = None
                if len(running) < slots:
                    batch = self._next_batch(patience_s if running else float("inf"))
                if batch is not None:
                    running.append(batch)
                    batch.submit(engine)
                elif running:
                    self._finish(running)
                else:
                    break
        except BaseException as error:
            end = error
        for batch in running:
            with contextlib.suppress(Exception):  # the run has ended for another reason
                batch.collect(engine)
        with self._lock:
            self._batches.finished.append(end if end is not None else self._window.failure)
            self._may_answer.notify()

    def _next_batch(self, patience_s):
        """Returns the next batch for the engine. None: there was none for so long, or there will be none."""
        stopped_s = None
        until_s = time.perf_counter() + patience_s
        window, batches = self._window, self._batches
        with self._lock:
            while not self._closing:
                now_s = time.perf_counter()
                caller_is_behind = len(batches.finished) >= _MAX_FINISHED
                due_s = None  # seconds to the deadline of the batch that is being filled
                if self._settings.max_delay_s is not None and batches.forming is not None and not caller_is_behind:
                    due_s = batches.forming.read_s + self._settings.max_delay_s - now_s
                    if due_s <= 0 and not batches.ready:
                        batches.close_forming()
                if batches.ready and not caller_is_behind:
                    batch = batches.next_ready()
                    self._may_read.notify()
                    self._update_bottleneck()
                    return batch
                if now_s >= until_s or (window.ended and not window and not batches.ready):
                    return None
                if self._stopped() and window.in_source and not window.ended:
                    stopped_s = now_s if stopped_s is None else stopped_s
                    if now_s - stopped_s > _SOURCE_GRACE_S:
                        self._end_reading(cut_short=True)  # without what the source may still give
                        continue
                waits_s = [due_s] if due_s is not None else []
                waits_s += [until_s - now_s] if patience_s < float("inf") else []
                waits_s += [_STOP_EVERY_S] if self._settings.stop is not None and not window.ended else []
                self._may_run.wait(min(waits_s) if waits_s else None)
        return None

    def _finish(self, running):
        """Takes the oldest batch off the engine and hands its answers to the caller."""
        engine, batch = self._settings.engine, running[0]
        batch.collect(engine)
        if batch.failure is not None:
            for other in running:
                other.collect(engine)
            batch.repair(engine)
        del running[0]
        self._stats.add(failed=sum(isinstance(result, str) for result in batch.results))
        with self._lock:
            self._batches.finish(batch)
            self._may_answer.notify()
            self._update_bottleneck()

    def _update_bottleneck(self):
        """Tells the stats what the run waits for now."""
        if self._closing:
            return
        if self._batches.running:
            stage = "engine"
        elif len(self._batches.finished) >= _MAX_FINISHED:
            stage = "writing"
        elif self._window.loading:
            stage = "decode"
        else:
            stage = "reading"
        self._stats.set_bottleneck(stage)
