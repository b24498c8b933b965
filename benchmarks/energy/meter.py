"""The meter: samples the best source of power in a thread while a block of code runs.

    with Meter.open() as meter:
        ...
    meter.result()

Sources, the best first: the board's own sensors (ina3221), NVIDIA's tegrastats, the CPU's energy counters (rapl).
"""

import threading
import time
import typing

from benchmarks.energy.ina3221 import Ina3221
from benchmarks.energy.rapl import Rapl
from benchmarks.energy.source import Sample
from benchmarks.energy.summaries import clock_summary, highest, joules_summary, watts_summary
from benchmarks.energy.sysfs import HEAT, throttle_counts
from benchmarks.energy.tegrastats import Tegrastats
from edge_runtime.machine import jetson

INTERVAL_S = 0.1
TRUSTED_VALUES = 10  # of the sensor, which may be read more often than it renews them; fewer give a warning
_SLOW_EVERY = 10  # clocks and temperatures: reading them costs more, and they change more slowly
_PINNED = "the pinned GPU clock"


def per_image(idle, loaded, images):
    """Returns the energy per image of two results of one source.

    Args:
        idle: result of a Meter while the machine did nothing, or None.
        loaded: result while it worked.
        images: how many images it worked through, > 0.

    Returns:
        {"joules_per_image", "joules_above_idle_per_image" (None without an idle result of the same source), "idle_w"},
        or {"unavailable": reason}.
    """
    if "unavailable" in loaded:
        return {"unavailable": loaded["unavailable"]}
    energy = {"joules_per_image": loaded["joules"] / images, "joules_above_idle_per_image": None, "idle_w": None}
    if idle and "unavailable" not in idle and (idle["source"], idle["added"]) == (loaded["source"], loaded["added"]):
        above = loaded["joules"] - idle["mean_w"] * loaded["seconds"]
        energy.update(joules_above_idle_per_image=above / images, idle_w=idle["mean_w"])
    return energy


class Meter:
    """Measures in a with block; result() afterwards. Can be used once."""

    def __init__(self, source, reason, root, interval_s, settle_s=0.0):
        self._source, self._reason = source, reason
        self._root, self._interval_s, self._settle_s = root, interval_s, settle_s
        self._samples: typing.List[typing.Tuple[float, Sample]] = []  # (time in s, sample)
        self._skipped = 0
        self._stop = threading.Event()
        self._thread: typing.Optional[threading.Thread] = None
        self._started = self._ended = 0.0
        self._counts_before: typing.Dict[typing.Tuple[str, str], float] = {}  # of throttling
        self._counts_after: typing.Dict[typing.Tuple[str, str], float] = {}

    @classmethod
    def open(cls, root="/", interval_s=INTERVAL_S, settle_s=None):
        """Returns a Meter of the best source here; where there is none, its result says why.

        Args:
            root: folder that stands for /, so that recorded files can be read.
            interval_s: pause between two samples.
            settle_s: the block's first seconds, which are not counted; None for what the source needs (1 s for sensors,
                which show means, 0 for energy counters).
        """
        reasons = []
        for kind in (Ina3221, Tegrastats, Rapl):
            source = kind(root, interval_s)
            if not source.problem:
                return cls(source, "", root, interval_s, source.settle_s if settle_s is None else settle_s)
            reasons.append(source.problem)
        return cls(None, "; ".join(reasons), root, interval_s)

    def __enter__(self):
        if self._source is None:
            return self
        self._source.start()
        self._counts_before = throttle_counts(self._root)
        self._started = time.perf_counter()
        if not self._source.waits:
            self._add_sample(slow=True)
        self._thread = threading.Thread(target=self._run, name="power", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        if self._thread is None:
            return
        self._ended = time.perf_counter()
        self._stop.set()
        self._thread.join()
        if not self._source.waits:
            self._add_sample(slow=True)
        self._counts_after = throttle_counts(self._root)
        self._source.stop()

    def result(self):
        """Returns what was measured, after the block.

        Returns:
            {"unavailable": reason}, or a dict: source, added (the rails that are added up), seconds (of the block
            without its first settle_s), joules (in these seconds), mean_w, peak_w, samples, interval_ms (the mean),
            skipped (samples that could not be read), warning
            ("" or why not to trust it), rails {name: {"mean_w", "peak_w", "joules"}}, throttled (None: unknown here),
            throttling_told_by (list of the signs that were checked), clocks {"cpu_min_mhz", "cpu_mean_mhz",
            "cpu_max_mhz", gpu_..., emc_...: where they can be read}, temperature_c {zone: the highest}.

            Watts are integrated by the trapezoid rule between the first and the last sample, and their mean stands
            for all these seconds. RAPL counts joules itself; there peak_w is the highest mean of one interval.
        """
        if self._source is None:
            return {"unavailable": self._reason}
        seconds = self._ended - self._started - self._settle_s
        samples = [(t, sample) for t, sample in self._samples if t >= self._started + self._settle_s]
        added = self._source.added
        if len(samples) < (2 if self._source.counts_joules else 1):
            block = f"no sample in the {self._ended - self._started:.2f} s of the block"
            needed = f" after its first {self._settle_s:.0f} s" if self._settle_s else ""
            return {"unavailable": self._source.failure() or block + needed}
        whole = self._summary([(t, sum(sample.rails[name] for name in added)) for t, sample in samples], seconds)
        rails = {}
        for name in sorted({name for _, sample in samples for name in sample.rails}):
            series = [(t, sample.rails[name]) for t, sample in samples if name in sample.rails]
            rails[name] = self._summary(series, seconds)
        throttled, signs = self._throttled()
        span_s = samples[-1][0] - samples[0][0]
        return {
            "source": self._source.name,
            "added": list(added),
            "seconds": seconds,
            "joules": whole["joules"],
            "mean_w": whole["mean_w"],
            "peak_w": whole["peak_w"],
            "samples": len(samples),
            "interval_ms": 1000 * span_s / max(1, len(samples) - 1),
            "skipped": self._skipped,
            "warning": self._warning(min(len(samples), 1 + int(span_s / self._source.renews_s))),
            "rails": rails,
            "throttled": throttled,
            "throttling_told_by": signs,
            "clocks": clock_summary([sample.clocks_mhz for _, sample in samples]),
            "temperature_c": highest([sample.temperatures_c for _, sample in samples]),
        }

    def _run(self):
        """Samples until the block's end; its very beginning and end are sampled by its own thread."""
        number = 0
        while not self._stop.is_set():
            number += 1
            if not self._source.waits and self._stop.wait(self._interval_s):
                return
            self._add_sample(number % _SLOW_EVERY == 0)

    def _add_sample(self, slow):
        sample = self._source.read(slow)
        now = time.perf_counter()
        if self._source.waits and self._stop.is_set():  # it came after the block
            return
        if sample is not None and self._source.added and set(self._source.added) <= set(sample.rails):
            self._samples.append((now, sample))
        else:
            self._skipped += 1

    def _summary(self, series, seconds):
        if self._source.counts_joules:
            return joules_summary(series, seconds, self._interval_s)
        return watts_summary(series, seconds)

    def _throttled(self):
        """Returns (True, False or None, [what would have shown it])."""
        signs: typing.Dict[str, bool] = {}
        for what, path in set(self._counts_before) & set(self._counts_after):
            increased = self._counts_after[what, path] > self._counts_before[what, path]
            signs[what] = signs.get(what, False) or increased
        pinned = jetson.gpu_clock(self._root)
        # An Orin shows 0 where the GPU sleeps. A clock that may vary also falls when there is no work.
        speeds = [sample.clocks_mhz["gpu"] for _, sample in self._samples if sample.clocks_mhz.get("gpu")]
        if pinned and pinned[0] == pinned[1] and speeds:
            signs[_PINNED] = min(speeds) < 0.98 * pinned[1]
        if any(signs.values()):
            return True, sorted(signs)
        # The over-current counters alone say nothing about heat.
        return (False if HEAT in signs or _PINNED in signs else None), sorted(signs)

    def _warning(self, values):
        """values: how many values the sensor can have given in that time, samples at most."""
        count = len(self._samples)
        if values < TRUSTED_VALUES:
            return f"too few values of the sensor ({values}): measure for longer"
        if self._skipped > count:
            return f"{self._skipped} of {self._skipped + count} samples could not be read"
        return ""
