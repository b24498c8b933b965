"""The live line: how far, how fast, how long still, what holds it up; in place on a terminal, else one every 10 s."""

import collections
import datetime
import os
import sys
import time
import typing

_TERMINAL_EVERY_S = 0.2
_PLAIN_EVERY_S = 10.0
_RECENT_S = 10.0  # what speed and time left are measured over


class Status:
    """Writes to stderr while rows are done; a context manager, so that the line is taken away also after an error.

    Example:
        with Status(stats, total=1000) as status:
            for prediction in predictions:
                status.update(failed=bool(prediction.error))
    """

    def __init__(self, stats=None, total=None, done=0, unit="photos", note=None, shown=True):
        """
        Args:
            stats: with a method bottleneck() -> str, as pipeline.Stats; None: no bottleneck is shown.
            total: rows in all, None where that is not known; may be set later, from any thread.
            done: rows that an earlier run had done.
            unit: what a row is, in the plural.
            note: function without arguments -> text that is added to the line, "" for none; called per line.
            shown: False: nothing is ever written.
        """
        self.total = total
        self._stats = stats
        self.done = done
        self._unit = unit
        self._note = note
        self._failed = 0
        # Of the newest rows since the last line; bounded, for a line that is never shown.
        self._latencies_s: typing.Deque[float] = collections.deque(maxlen=1000)
        self._terminal = _is_terminal(sys.stderr)
        self._every_s = _TERMINAL_EVERY_S if self._terminal else _PLAIN_EVERY_S
        now_s = time.perf_counter()
        self._past: typing.Deque[typing.Tuple[float, int]] = collections.deque([(now_s, done)])  # (when, done)
        self._due_s = now_s + self._every_s if shown else float("inf")
        self._width = 0  # of the line that stands on the terminal

    def update(self, failed=False, latency_s=None):
        """Counts one row; shows the line where it is time.

        Args:
            failed: it has an error.
            latency_s: from the capture of a frame to its label, None for a photo.
        """
        self.done += 1
        self._failed += failed
        if latency_s is not None:
            self._latencies_s.append(latency_s)
        now_s = time.perf_counter()
        if now_s < self._due_s:
            return
        self._due_s = now_s + self._every_s
        while len(self._past) > 1 and self._past[1][0] <= now_s - _RECENT_S:
            self._past.popleft()
        line = self._line(now_s)
        self._past.append((now_s, self.done))
        self._latencies_s.clear()
        self._write(line)

    def close(self):
        """Takes the line off the terminal; what follows begins on an empty one."""
        if self._width:
            _put(f"\r{' ' * self._width}\r")
        self._width, self._due_s = 0, float("inf")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _line(self, now_s):
        since_s, done_then = self._past[0]
        rate = (self.done - done_then) / max(now_s - since_s, 1e-9)
        total = self.total
        parts = [f"{self.done}/{total}" if total else f"{self.done}", self._unit, f"{rate:.1f}/s"]
        if total and rate and total >= self.done:
            parts.append(f"{datetime.timedelta(seconds=round((total - self.done) / rate))} left")
        if self._latencies_s:
            parts.append(f"latency {1000 * sum(self._latencies_s) / len(self._latencies_s):.0f} ms")
        if self._stats is not None:
            parts.append(f"bottleneck {self._stats.bottleneck()}")
        if self._failed:
            parts.append(f"{self._failed} failed")
        note = self._note() if self._note else ""
        return "  ".join([f"{parts[0]} {parts[1]}"] + parts[2:] + ([note] if note else []))

    def _write(self, line):
        if not self._terminal:
            _put(line + "\n")
            return
        line = line[: max(_columns() - 1, 0)]  # in the last column a terminal begins the next line
        _put("\r" + line.ljust(self._width))
        self._width = len(line)


def _is_terminal(file):
    try:
        return file.isatty()
    except (AttributeError, ValueError):  # no stderr at all, or a closed one
        return False


def _columns():
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, AttributeError, ValueError):
        return 80


def _put(text):
    """A line that nobody can read any more (stderr closed, its reader gone) ends no run."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, AttributeError, ValueError):
        pass
