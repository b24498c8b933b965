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
METRICS = ("p50_ms", "images_per_s", "cpu_s_per_image", "joules_per_image")  # of a window


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
        figures.update(_energy(own, point, photos, idle))
    latencies_ms = [value for window in subject.windows for value in window.get("latencies_ms", [])]
    if latencies_ms:
        percentiles = measure.percentiles(latencies_ms)
        figures.update({"latency_" + name: value for name, value in percentiles.items()})
    own = [window for window in subject.windows if window["point"] == END_TO_END]
    for stage in ("decode_ms", "infer_ms", "wait_ms", "write_ms"):
        total = sum(window[stage] * window["photos"] for window in own)
        figures[stage] = total / sum(window["photos"] for window in own) if own else None
    figures["windows"] = [
        {name: value for name, value in window.items() if name != "energy"} for window in subject.windows
    ]
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
        metric: one of METRICS.
    """
    own = [window for window in windows if window["point"] == point]
    if metric == "cpu_s_per_image":
        values = [window["cpu_s"] / window["photos"] for window in own]
    else:
        values = [window[metric] for window in own]
    return [] if any(not value or value <= 0 for value in values) else values


def _energy(windows, point, photos, idle):
    """Returns a point's energy as fields of its summary; none where nothing was metered."""
    metered = [window["energy"] for window in windows if "joules" in window["energy"]]
    reasons = [window["energy"]["unavailable"] for window in windows if window["energy"].get("unavailable")]
    if reasons:
        return {"energy_problem_" + point: reasons[0]}
    if not metered or len(metered) < len(windows):
        return {}
    totals = {
        "source": metered[0]["source"],
        "added": metered[0]["added"],
        "joules": sum(one["joules"] for one in metered),
        "seconds": sum(one["seconds"] for one in metered),
    }
    energy = per_image(idle, totals, photos)
    throttled = [one["throttled"] for one in metered]
    temperatures_c = [value for one in metered for value in one["temperature_c"].values()]
    rails_w = {}
    for name in sorted({name for one in metered for name in one["rails"]}):
        with_rail = [one for one in metered if name in one["rails"]]
        means_w = [one["rails"][name]["mean_w"] for one in with_rail]
        rails_w[name] = float(np.average(means_w, weights=[one["seconds"] for one in with_rail]))
    summary = {
        "joules_per_image_" + point: energy["joules_per_image"],
        "joules_above_idle_per_image_" + point: energy["joules_above_idle_per_image"],
        "mean_w_" + point: totals["joules"] / totals["seconds"],
        "peak_w_" + point: max(one["peak_w"] for one in metered),
        "rails_mean_w_" + point: rails_w,
        "power_samples_" + point: sum(one["samples"] for one in metered),
        "throttled_" + point: True if True in throttled else (None if None in throttled else False),
        "hottest_c_" + point: max(temperatures_c) if temperatures_c else None,
    }
    for clock in ("cpu", "gpu", "emc"):
        own = [one["clocks"] for one in metered if clock + "_min_mhz" in one["clocks"]]
        if own:
            summary[f"{clock}_min_mhz_{point}"] = min(one[clock + "_min_mhz"] for one in own)
            summary[f"{clock}_mean_mhz_{point}"] = float(np.mean([one[clock + "_mean_mhz"] for one in own]))
    return summary
