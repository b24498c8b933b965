"""The status line of classify: rows, rate, time left, bottleneck. In place on a terminal, else a line every 10 s.

edge_runtime.console.progress (tqdm) serves work of known length. A run of classify may have no end, be a service with a
log, and outlive its terminal: this line shows the rate of the last 10 s, writes whole lines to a log, and ignores a
closed stderr.
"""

import collections
import datetime
import os
import sys
import time
import typing

_TERMINAL_EVERY_S = 0.2
_PLAIN_EVERY_S = 10.0
_RECENT_S = 10.0  # the rate and the time left are measured over this time


class Status:
    """Writes the status line to stderr. As a context manager it removes the line at the end, also after an error.

    Example:
        with Status(stats, total=1000) as status:
            for prediction in predictions:
                status.update(failed=bool(prediction.error))
    """

    def __init__(self, stats=None, total=None, done=0, unit="photos", note=None, visible=True):
        """
        Args:
            stats: has a method bottleneck() -> str, as pipeline.stats.Stats has; None: the line names no bottleneck.
            total: number of all rows, None if unknown; the attribute may be set later, from any thread.
            done: number of rows that an earlier run wrote.
            unit: what the rows are, in the plural.
            note: function that returns a text to add to the line, "" for none; called for each line.
            visible: False: writes nothing.
        """
        self.total = total
        self._stats = stats
        self.done = done
        self._unit = unit
        self._note = note
        self._failed = 0
        # Of the rows since the last line; bounded, because an invisible line never clears it.
        self._latencies_s: typing.Deque[float] = collections.deque(maxlen=1000)
        self._terminal = _is_terminal(sys.stderr)
        self._every_s = _TERMINAL_EVERY_S if self._terminal else _PLAIN_EVERY_S
        now_s = time.perf_counter()
        self._past: typing.Deque[typing.Tuple[float, int]] = collections.deque([(now_s, done)])  # (when, done)
        self._due_s = now_s + self._every_s if visible else float("inf")
        self._width = 0  # of the line on the terminal

    def update(self, failed=False, latency_s=None):
        """Counts one row, and writes the line if it is due.

        Args:
            failed: the row has an error.
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
        """Removes the line from the terminal."""
        if self._width:
            _put(f"\r{' ' * self._width}\r")
        self._width, self._due_s = 0, float("inf")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _line(self, now_s):
        start_s, start_done = self._past[0]
        rate = (self.done - start_done) / max(now_s - start_s, 1e-9)
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
        line = line[: max(_columns() - 1, 0)]  # after the last column a terminal begins a new line
        _put("\r" + line.ljust(self._width))
        self._width = len(line)


def _is_terminal(file):
    try:
        return file.isatty()
    except (AttributeError, ValueError):  # stderr is None or closed
        return False


def _columns():
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, AttributeError, ValueError):
        return 80


def _put(text):
    """Writes to stderr. If that fails (it is closed, its reader went away) the run continues."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, AttributeError, ValueError):
        pass
