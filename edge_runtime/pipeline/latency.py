"""Percentiles of durations in bounded memory, however long a run lasts; and how many durations a percentile needs.

Of few durations a high percentile is the longest or the second longest, which chance decides. MIN_COUNTS are the
smallest counts from which MLPerf's LoadGen estimates one ("early stopping": loadgen/early_stopping.cc and
loadgen/results.cc of github.com/mlcommons/inference): the chance that at most one of n is longer than the percentile,
p^n + n p^(n-1) (1-p), is 1 % at most. Its log asks for 64 queries for the 90th, 662 for the 99th.
"""

import math

# Each bucket is 2 % wider than the one before, and stands for its middle: a percentile is off by at most 1 %.
_WIDTH = math.log(1.02)
_SMALLEST_MS = 1e-3
_BUCKETS = 1 + int(math.log(1e10) / _WIDTH)  # up to 10,000 s; longer ones share the last bucket, max_ms knows them

# percentile -> how many durations it takes
MIN_COUNTS = {50: 1, 90: 64, 95: 130, 97: 219, 99: 662, 99.9: 6636}


class Latency:
    """A histogram of milliseconds; 10 KB. count, mean_ms and max_ms are exact. Only one thread may add."""

    def __init__(self):
        self.count = 0
        self.max_ms = 0.0
        self._sum_ms = 0.0
        self._counts = [0] * _BUCKETS

    def add(self, duration_ms):
        """Adds a duration in milliseconds; one below zero counts as zero."""
        duration_ms = max(0.0, duration_ms)
        place = int(math.log(max(duration_ms, _SMALLEST_MS) / _SMALLEST_MS) / _WIDTH)
        self._counts[min(place, _BUCKETS - 1)] += 1
        self.count += 1
        self.max_ms = max(self.max_ms, duration_ms)
        self._sum_ms += duration_ms

    @property
    def mean_ms(self):
        """The mean, 0 where nothing was added."""
        return self._sum_ms / self.count if self.count else 0.0

    def percentile_ms(self, percent):
        """Returns the smallest duration (within 1 %) that percent (0..100) of all are no longer than; 0 for none."""
        rank = max(1, math.ceil(self.count * percent / 100))
        seen = 0
        for place, count in enumerate(self._counts):
            seen += count
            if seen >= rank:
                return min(_SMALLEST_MS * math.exp((place + 0.5) * _WIDTH), self.max_ms)
        return 0.0

    def summary(self):
        """Returns {"count", "mean_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms"}, milliseconds to 3 digits.

        A percentile is None where fewer than MIN_COUNTS were added; the mean and the maximum are 0 where none was.
        """
        percentiles = {
            f"p{percent}_ms": round(self.percentile_ms(percent), 3) if self.count >= MIN_COUNTS[percent] else None
            for percent in (50, 90, 99)
        }
        return dict(percentiles, count=self.count, mean_ms=round(self.mean_ms, 3), max_ms=round(self.max_ms, 3))
