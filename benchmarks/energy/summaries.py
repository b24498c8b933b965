"""Sums over the samples of a block: watts, joules, clocks, temperatures."""


def watts_summary(series, seconds):
    """Summarizes power readings, integrated by the trapezoid rule.

    Args:
        series: [(time in s, watts)], at least one.
        seconds: length of the block; the mean of the readings stands for all of it.

    Returns:
        {"mean_w", "peak_w", "joules"}.
    """
    watts = [value for _, value in series]
    span_s = series[-1][0] - series[0][0]
    if span_s > 0:
        mean_w = sum((t - t0) * (w + w0) / 2 for (t0, w0), (t, w) in zip(series, series[1:])) / span_s
    else:
        mean_w = sum(watts) / len(watts)
    return {"mean_w": mean_w, "peak_w": max(watts), "joules": mean_w * seconds}


def joules_summary(series, seconds, interval_s):
    """Summarizes readings of an energy counter.

    Args:
        series: [(time in s, joules since some earlier moment)], at least two.
        seconds: length of the block.
        interval_s: pause between two readings.

    Returns:
        {"mean_w", "peak_w" (the highest mean of one interval), "joules"}.
    """
    steps = [(t - t0, joules - joules0) for (t0, joules0), (t, joules) in zip(series, series[1:])]
    whole = (series[-1][0] - series[0][0], series[-1][1] - series[0][1])
    # The counters move about once in a millisecond: a short last step would give any figure.
    means_w = [joules / step_s for step_s, joules in [whole] + steps if step_s > interval_s / 2]
    mean_w = whole[1] / max(whole[0], 1e-9)
    return {"mean_w": mean_w, "peak_w": max(means_w or [mean_w]), "joules": mean_w * seconds}


def clock_summary(clocks_mhz):
    """Returns {"cpu_min_mhz", "cpu_mean_mhz", "cpu_max_mhz", "gpu_...", "emc_..."} of a list of Sample.clocks_mhz."""
    summary = {}
    for name in ("cpu", "gpu", "emc"):
        speeds = [clocks[name] for clocks in clocks_mhz if name in clocks]
        if speeds:
            summary[f"{name}_min_mhz"] = min(speeds)
            summary[f"{name}_mean_mhz"] = sum(speeds) / len(speeds)
            summary[f"{name}_max_mhz"] = max(speeds)
    return summary


def highest(readings):
    """Returns {name: its highest value} of a list of dicts."""
    names = {name for values in readings for name in values}
    return {name: max(values[name] for values in readings if name in values) for name in sorted(names)}
