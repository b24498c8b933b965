"""Photos that are answered together: a batch, its answers, and all batches of a run."""

import collections
import typing

import numpy as np

from edge_runtime.errors import ImageError
from edge_runtime.pipeline.recovery import ENGINE_FAILURES, results_after_failure

_MAX_UNREADABLE = 256  # in one batch: answers are not held back, and memory not taken, without end


class Answer(typing.NamedTuple):
    """What became of one item."""

    item: typing.Any
    probabilities: typing.Optional[np.ndarray]  # float32 [classes], None where error says why
    error: str  # "" or why the photo could not be read, or why the engine fails on it
    # A run that starts after an answer with True makes the same batches as one that was never interrupted (max_delay_s
    # None). Under False more of its batch follows, or its batch was cut short by stop or a failure.
    ends_batch: bool


class Batch:
    """Items that are answered together: only unreadable ones, or readable and unreadable ones, a readable one first."""

    def __init__(self, read_s):
        self.read_s = read_s
        self.items: typing.List[typing.Any] = []
        self.errors: typing.List[str] = []  # "" for a picture
        self.pictures: typing.Any = None  # uint8 [batch size, height, width, 3]
        self.count = 0  # pictures
        self.cut_short = False
        self.results: list = []  # per picture the probabilities, float32 [classes], or why there are none (str)
        self.failure: typing.Any = None  # the engine's
        self._pending: typing.Any = None

    @property
    def unreadable(self):
        """How many items have no picture."""
        return len(self.items) - self.count

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

    def submit(self, engine):
        """Hands the pictures to the engine."""
        if self.count:
            try:
                self._pending = engine.submit(self.pictures[: self.count])
            except ENGINE_FAILURES as error:
                self.failure = error

    def collect(self, engine):
        """Waits for the engine's results, or its failure. May be called again."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            try:
                self.results = list(engine.collect(pending))
            except ENGINE_FAILURES as error:
                self.failure = error

    def repair(self, engine):
        """Answers what can be answered after a failure; nothing of this run may be on its way in the engine."""
        items = [item for item, error in zip(self.items, self.errors) if not error]
        self.results = results_after_failure(engine, self.pictures[: self.count], items, self.failure)

    def answers(self):
        """Yields an Answer for each item, in order."""
        results = iter(self.results)
        for number, (item, error) in enumerate(zip(self.items, self.errors), 1):
            ends = self.count == 0 or (number == len(self.items) and not self.cut_short)
            result = error or next(results)
            yield Answer(item, None, result, ends) if isinstance(result, str) else Answer(item, result, "", ends)


class Batches:
    """The batches of a run, from the one that is being filled to those that wait for the caller.

    Whoever uses it holds the lock of its Flow.
    """

    def __init__(self, batch_size):
        self.forming: typing.Optional[Batch] = None
        self.ready: typing.Deque[Batch] = collections.deque()
        self.running = 0  # batches that the engine thread has taken and not finished
        self.finished: typing.Deque[typing.Any] = collections.deque()  # batches; at the end an exception or None
        self._batch_size = batch_size
        self._spare: typing.List[np.ndarray] = []  # of finished batches; fresh memory costs more than copying

    def waiting_pictures(self):
        """Returns how many pictures are in batches that the engine thread has not taken."""
        return sum(batch.count for batch in self.ready) + (self.forming.count if self.forming else 0)

    def add(self, entry):
        """Puts a loaded entry into the batch that is being filled. Raises MemoryError: there is none for a new one."""
        if self.forming and not self.forming.count and isinstance(entry.outcome, np.ndarray):
            self.close_forming()
        if self.forming is None:
            self.forming = Batch(entry.read_s)
        self.forming.add(entry, self._batch_size, self._spare)
        if self.forming.count == self._batch_size or self.forming.unreadable >= _MAX_UNREADABLE:
            self.close_forming()

    def close_forming(self, cut_short=False):
        """Makes the batch that is being filled, if there is one, ready for the engine."""
        if self.forming is not None:
            self.forming.cut_short = cut_short
            self.ready.append(self.forming)
            self.forming = None

    def next_ready(self):
        """Returns the oldest ready batch, for the engine thread."""
        self.running += 1
        return self.ready.popleft()

    def finish(self, batch):
        """Hands a batch with its answers to the caller."""
        self.running -= 1
        if batch.count:
            self._spare.append(batch.pictures)
            batch.pictures = None
        self.finished.append(batch)
