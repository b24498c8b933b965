"""Rows come out in the order of the source: what was read waits here for what was read before it."""

import collections
import typing

from edge_runtime.pipeline.load_item import Failure


class Entry:
    """An item between the source and its batch."""

    __slots__ = ("item", "read_s", "outcome")

    def __init__(self, item, read_s, outcome=None):
        self.item = item
        self.read_s = read_s  # time.perf_counter()
        self.outcome = outcome  # None until it is loaded; then the picture, an ImageError, or a Failure

    @property
    def failure(self):
        """The exception that ends the run at this entry, None where the run goes on."""
        return self.outcome.error if isinstance(self.outcome, Failure) else None


class Window:
    """The entries that are in no batch yet, in the order of the source, and how far the source was read.

    Whoever uses it holds the lock of its Flow.
    """

    def __init__(self):
        self.loading = 0  # entries without an outcome
        self.in_source = False  # the feeder waits for the source
        self.ended = False  # nothing more is taken from the source
        self.cut_short = False  # ... though it may have more
        self.failure: typing.Optional[BaseException] = None  # of the source or of loading
        self._entries: typing.Deque[Entry] = collections.deque()
        self._to_load: typing.Deque[Entry] = collections.deque()

    def __len__(self):
        return len(self._entries)

    def add(self, entry):
        """Appends an entry; one without an outcome is to be loaded."""
        self._entries.append(entry)
        if entry.outcome is None:
            self._to_load.append(entry)
            self.loading += 1

    def has_to_load(self):
        """Whether an entry waits for a decode thread."""
        return bool(self._to_load)

    def next_to_load(self):
        """Returns the first entry that no decode thread has."""
        return self._to_load.popleft()

    def set_outcome(self, entry, outcome):
        """Completes an entry that next_to_load returned."""
        entry.outcome = outcome
        self.loading -= 1

    def pop_loaded(self):
        """Returns the first entry if it is loaded, None otherwise."""
        return self._entries.popleft() if self._entries and self._entries[0].outcome is not None else None

    def end(self, cut_short):
        """Takes nothing more from the source."""
        self.ended = True
        self.cut_short = cut_short

    def fail(self, failure):
        """Ends the run at this place in the order; what was read after it is dropped."""
        self.failure = failure
        self.end(cut_short=True)
        self._entries.clear()
        self._to_load.clear()
