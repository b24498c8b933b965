"""An engine under measurement."""

import typing

from benchmarks.bench.worker import END_TO_END, Worker
from edge_runtime.console import say


class Subject:
    """An engine and what was measured of it so far."""

    def __init__(self, name):
        self.name = name
        self.facts: typing.Dict[str, typing.Any] = {"cold_starts_s": []}
        self.windows: typing.List[typing.Dict[str, typing.Any]] = []
        self.energy: typing.Dict[str, typing.Any] = {}  # point -> what a Meter measured, and the photos meanwhile
        self.skipped_batches: typing.Dict[str, str] = {}  # point, such as "b8" -> reason
        self.loadgen: typing.List[typing.Dict[str, typing.Any]] = []
        self.problem = ""  # why it is not measured (any further), in one line
        self.reason = ""  # the same in full, with how to fix it
        self.invalid = False  # the reason is that it is corrupt or was built for another machine
        self.batches: typing.List[int] = []
        # One worker; or two where an engine opened for one photo at a time works differently: that one comes first.
        self.workers: typing.List[Worker] = []

    def worker_for(self, point):
        """Returns the Worker that measures a point."""
        return self.workers[0 if point == "b1" else -1]

    def points(self):
        """Returns the names of its measuring points: "b1", "b8", ..., "end_to_end"."""
        return [f"b{size}" for size in self.batches] + [END_TO_END]

    def fail(self, reason, invalid=False):
        """Stops measuring the engine, for a reason of one or more lines."""
        self.problem, self.reason, self.invalid = reason.splitlines()[0], reason, invalid
        say(f"{self.name}: {self.problem}")
        self.close()

    def close(self):
        """Ends its processes. May be called any number of times."""
        while self.workers:
            self.workers.pop().close()
