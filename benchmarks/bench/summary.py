"""The figures of one engine, computed from its windows.

A figure is stable when in its last 3 windows the fastest is at most 10 % above the slowest, in throughput and in
latency (perf_analyzer's rule).
"""

import numpy as np

from benchmarks.bench import measure
from benchmarks.bench.worker import END_TO_END
from benchmarks.energy.meter import per_image

STABLE_WINDOWS = 3
STABLE_WITHIN = 0.10
METRICS = ("p50_ms", "images_per_s", "cpu_s_per_image")  # of a window


def summarize(subject, idle=None):
    """Returns an engine's figures as one flat dict, or {"name", "skipped"}. schema.json says what each key means.

    Args:
        subject: a Subject.
        idle: result of a Meter while the machine did nothing, None without one.
    """
    if not subject.windows:
        return {"name": subject.name, "skipped": subject.problem or "the run was stopped before it was measured"}
    figures = dict({"labelled_photos": 0, "top1": None, "macro_f1": None}, **subject.facts)
    figures["cold_start_s"] = float(np.median(figures["cold_starts_s"])) if figures["cold_starts_s"] else None
    figures["stopped"] = subject.problem
    points = subject.points()
    figures["batches"] = subject.batches
    figures["points"] = points
    figures["skipped_batches"] = subject.skipped_batches
    figures["unstable"] = [point for point in points if not is_stable(subject.windows, point)]
    figures["stable"] = not figures["unstable"]
    for point in points:
        own = [window for window in subject.windows if window["point"] == point]
        photos = sum(window["photos"] for window in own)
        seconds = sum(window["seconds"] for window in own)
        figures["images_per_s_" + point] = photos / seconds if own else None
        figures["cpu_s_per_image_" + point] = sum(window["cpu_s"] for window in own) / photos if own else None
        figures["windows_" + point] = len(own)
        figures.update(_energy(subject.energy.get(point), point, idle))
    latencies_ms = [value for window in subject.windows for value in window.get("latencies_ms", [])]
    if latencies_ms:
        percentiles = measure.percentiles(latencies_ms)
        figures.update({"latency_" + name: value for name, value in percentiles.items()})
    own = [window for window in subject.windows if window["point"] == END_TO_END]
    for stage in ("decode_ms", "infer_ms", "wait_ms", "write_ms"):
        total = sum(window[stage] * window["photos"] for window in own)
        figures[stage] = total / sum(window["photos"] for window in own) if own else None
    figures["windows"] = subject.windows
    return figures


def best_model_rate(engine):
    """Returns (photos per call, images per second) of the fastest batch size of a summary, None where there is none."""
    rates = [(engine.get(f"images_per_s_b{size}"), size) for size in engine["batches"]]
    rates = [(rate, size) for rate, size in rates if rate]
    return (max(rates)[1], max(rates)[0]) if rates else None


def is_stable(windows, point):
    """Whether the last windows of a point are close enough to each other."""
    last = [window for window in windows if window["point"] == point][-STABLE_WINDOWS:]
    if len(last) < STABLE_WINDOWS:
        return False
    return all(
        max(window[name] for window in last) <= (1 + STABLE_WITHIN) * min(window[name] for window in last)
        for name in ("images_per_s", "p50_ms")
    )


def points_of(windows):
    """Returns the measuring points of windows in their order, such as ["b1", "b8", "end_to_end"]."""
    return list(dict.fromkeys(window["point"] for window in windows))


def values_of(windows, point, metric):
    """Returns a metric of each window of a point; [] where one has no value above 0.

    Args:
        windows: list of dict, as in bench.json.
        point: one of points_of(windows).
        metric: one of METRICS, or another key of windows.
    """
    own = [window for window in windows if window["point"] == point]
    if metric == "cpu_s_per_image":
        values = [window["cpu_s"] / window["photos"] for window in own]
    else:
        values = [window.get(metric) for window in own]
    return [] if any(not value or value <= 0 for value in values) else values


def _energy(metered, point, idle):
    """Returns a point's energy as fields of its summary; none where nothing was metered.

    Args:
        metered: what a Meter measured in a window of the point, and "photos"; None where nothing was.
    """
    if not metered:
        return {}
    if "unavailable" in metered:
        return {"energy_problem_" + point: metered["unavailable"]}
    energy = per_image(idle, metered, metered["photos"])
    temperatures_c = metered["temperature_c"].values()
    fields = {
        "joules_per_image_" + point: energy["joules_per_image"],
        "joules_above_idle_per_image_" + point: energy["joules_above_idle_per_image"],
        "mean_w_" + point: metered["mean_w"],
        "peak_w_" + point: metered["peak_w"],
        "rails_mean_w_" + point: {name: rail["mean_w"] for name, rail in metered["rails"].items()},
        "power_samples_" + point: metered["samples"],
        "power_seconds_" + point: metered["seconds"],
        "throttled_" + point: metered["throttled"],
        "hottest_c_" + point: max(temperatures_c) if temperatures_c else None,
    }
    if metered["warning"]:
        fields["energy_warning_" + point] = metered["warning"]
    for clock in ("cpu", "gpu", "emc"):
        for what in ("min", "mean"):
            if f"{clock}_{what}_mhz" in metered["clocks"]:
                fields[f"{clock}_{what}_mhz_{point}"] = metered["clocks"][f"{clock}_{what}_mhz"]
    return fields
