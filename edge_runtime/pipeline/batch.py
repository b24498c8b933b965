"""Items on their way through the pipeline: one, a batch of them, and their answers."""

import typing

import numpy as np

from edge_runtime.errors import ImageError
from edge_runtime.pipeline.recovery import ENGINE_FAILURES, rows_in_parts

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

Failure = typing.NamedTuple("Failure", [("error", BaseException)])  # what ends the run at its place in the order


class Entry:
    """An item between the source and its batch."""

    __slots__ = ("item", "read_s", "outcome")

    def __init__(self, item, read_s, outcome=None):
        self.item = item
        self.read_s = read_s
        self.outcome = outcome  # None while it is loaded; then the picture, an ImageError, or a Failure


class Batch:
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
        """Hands the pictures to the engine."""
        if self.count:
            try:
                self._pending = engine.submit(self.pictures[: self.count])
            except ENGINE_FAILURES as error:
                self.failure = error

    def settle(self, engine):
        """Takes it off the engine, with its rows or its failure. May be called again."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            try:
                self.rows = list(engine.collect(pending))
            except ENGINE_FAILURES as error:
                self.failure = error

    def repair(self, engine):
        """Answers what can be answered after a failure; nothing of this run may be on its way in the engine."""
        items = [item for item, error in zip(self.items, self.errors) if not error]
        self.rows = rows_in_parts(engine, self.pictures[: self.count], items, self.failure)

    def answers(self):
        """Yields an Answer for each item, in order."""
        rows = iter(self.rows)
        for number, (item, error) in enumerate(zip(self.items, self.errors), 1):
            ends = self.count == 0 or (number == len(self.items) and not self.cut_short)
            row = error or next(rows)
            yield Answer(item, None, row, ends) if isinstance(row, str) else Answer(item, row, "", ends)
