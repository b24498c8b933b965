"""Counts what a run of the pipeline has done, and measures what it waits for."""

import collections
import threading
import time
import typing

STAGES = ("reading", "decode", "engine", "writing")
_RECENT_S = 5.0  # how far back Stats.bottleneck looks


class Stats:
    """What a run has done, and which stage it waits for. Any thread may read it; one run at a time adds to it.

    Attributes:
        read, decoded, unreadable, failed, answered: photos; failed: the engine fails on them.
        decode_s: seconds of decoding, added up over the decode threads.
        blocked_s: {stage of STAGES: seconds in which the run waited for it}. The run waits for the engine while it has
            work; else for the caller ("writing") while answers pile up; else for decoding while there is a photo to
            decode; else for the source.
    """

    def __init__(self, clock=time.perf_counter):
        self.read = self.decoded = self.unreadable = self.failed = self.answered = 0
        self.decode_s = 0.0
        self.blocked_s = dict.fromkeys(STAGES, 0.0)
        self._clock = clock
        self._lock = threading.Lock()
        self._stage = ""  # what the run waits for since _since_s
        self._since_s = 0.0
        self._recent: typing.Deque[tuple] = collections.deque()  # (stage, from, to)

    @property
    def infer_s(self):
        """Seconds in which the engine had work."""
        return self.blocked_s["engine"]

    def add(self, **amounts):
        """Adds to counters: add(read=1)."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def set_bottleneck(self, stage):
        """Sets what the run waits for from now on: one of STAGES, "" for nothing."""
        with self._lock:
            if stage == self._stage:
                return
            now = self._clock()
            if self._stage:
                self.blocked_s[self._stage] += now - self._since_s
                self._recent.append((self._stage, self._since_s, now))
            while self._recent and self._recent[0][2] < now - _RECENT_S:
                self._recent.popleft()
            self._stage, self._since_s = stage, now

    def bottleneck(self):
        """Returns which of STAGES the run waited for longest in the last seconds."""
        with self._lock:
            now = self._clock()
            seconds = dict.fromkeys(STAGES, 0.0)
            for stage, start, end in list(self._recent) + [(self._stage, self._since_s, now)] * bool(self._stage):
                seconds[stage] += max(0.0, end - max(start, now - _RECENT_S))
            return max(STAGES, key=lambda stage: seconds[stage])
