"""The plots of the page: each function returns SVG text, or None where there is nothing to draw.

engines are the summaries of measured engines; colours is {engine name: colour}.
"""

import typing

import numpy as np

from edge_runtime import pages
from edge_runtime.machine.libraries import require

COLOURS = ("#3b82d6", "#e07b39", "#2f9e6b", "#9b6ad6", "#d64550", "#2ba5b8", "#b08a2e", "#d463a8")
_STAGE_COLOURS = ("#2ba5b8", "#b08a2e", "#d463a8", "#808890")  # not the first engines' colours
_GREY = "#808890"
_PLOT = (4.6, 3.2)  # inches; two stand side by side


def histogram(engines, colours):
    """Draws how long the calls at batch 1 took."""
    series = [(engine, _latencies(engine)) for engine in engines]
    series = [(engine, values) for engine, values in series if values]
    if not series:
        return None
    every = [value for _, values in series for value in values]
    low, high = max(min(every), 1e-3) * 0.95, max(every) * 1.05
    edges = np.geomspace(low, high, 70)
    figure, axes = _axes("milliseconds of a call", "share of the calls")
    for engine, values in series:
        counts, _ = np.histogram(np.maximum(values, 1e-3), edges)
        shares = counts / len(values)
        axes.bar(edges[:-1], shares, np.diff(edges), align="edge", color=colours[engine["name"]], alpha=0.75)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    _plain_numbers(axes.xaxis, _round_ticks(low, high))
    return pages.svg(figure)


def distribution(engines, colours):
    """Draws the share of the calls at batch 1 that took no longer than so many milliseconds."""
    figure, axes = _axes("milliseconds of a call", "%")
    every: typing.List[float] = []
    for engine in engines:
        values = sorted(max(value, 1e-3) for value in _latencies(engine))
        if values:
            shares = 100 * np.arange(1, len(values) + 1) / len(values)
            axes.step(values, shares, where="post", color=colours[engine["name"]], lw=1.3)
            every += values
    if not every:
        return None
    axes.set_xscale("log")
    axes.set_ylim(0, 102)
    _plain_numbers(axes.xaxis, _round_ticks(min(every) * 0.95, max(every) * 1.05))
    return pages.svg(figure)


def sweep(engines, colours, batches):
    """Draws images/s by batch size."""
    figure, axes = _axes("photos per call", "images/s")
    drawn = 0
    for engine in engines:
        sizes = [size for size in batches if engine.get(f"images_per_s_b{size}")]
        rates = [engine[f"images_per_s_b{size}"] for size in sizes]
        drawn += len(sizes)
        axes.plot(sizes, rates, "o-", ms=4, color=colours[engine["name"]])
    if drawn < 2:
        return None
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.08)
    _plain_numbers(axes.xaxis, batches)
    return pages.svg(figure)


def stages(engines):
    """Draws how long a photo takes in each stage, end to end."""
    drawable = [engine for engine in engines if engine["decode_ms"] is not None]
    if not drawable:
        return None
    stages = (("decode, all threads", "decode_ms"), ("infer", "infer_ms"), ("wait", "wait_ms"), ("write", "write_ms"))
    figure, axes = _axes("", "", 0.9 + 0.62 * len(drawable))
    places = np.arange(len(drawable))
    for number, (label, key) in enumerate(stages):
        values = [engine[key] for engine in drawable]
        axes.barh(places + 0.19 * (number - 1.5), values, 0.17, color=_STAGE_COLOURS[number], label=label)
    axes.set_yticks(places)
    axes.set_yticklabels([engine["name"] for engine in drawable])
    axes.invert_yaxis()
    axes.grid(axis="y", alpha=0)
    _legend(axes, above=True)
    return pages.svg(figure)


def steadiness(engines, colours):
    """The speed of each engine, and of the machine's own reference work, round by round about the median."""
    figure, axes = _axes("round", "speed, % of the median")
    machine_ms: typing.Dict[int, typing.List[float]] = {}
    for engine in engines:
        own = [window for window in engine["windows"] if window["point"] == "b1"]
        for window in engine["windows"]:
            machine_ms.setdefault(window["round"] + 1, []).append(window["reference_ms"])
        if own:
            rates = np.array([window["images_per_s"] for window in own])
            numbers = [window["round"] + 1 for window in own]
            axes.plot(numbers, 100 * rates / np.median(rates), "o-", ms=3, lw=1.2, color=colours[engine["name"]])
    if not machine_ms:
        return None
    numbers = sorted(machine_ms)
    speeds = np.array([1 / np.median(machine_ms[number]) for number in numbers])
    axes.plot(numbers, 100 * speeds / np.median(speeds), "--", color=_GREY, label="the machine itself")
    axes.set_xticks(numbers)
    _legend(axes)
    return pages.svg(figure)


def energy(engines):
    """Draws joules per image, and how many of them are above the idle machine's."""
    drawable = [engine for engine in engines if engine.get("joules_per_image_end_to_end") is not None]
    if not drawable:
        return None
    figure, axes = _axes("joules per image, end to end", "", 0.9 + 0.4 * len(drawable))
    values = [engine["joules_per_image_end_to_end"] for engine in drawable]
    above = [engine["joules_above_idle_per_image_end_to_end"] for engine in drawable]
    places = np.arange(len(drawable))
    axes.barh(places, values, 0.6, color=_GREY, alpha=0.5, label="all")
    if None not in above:
        axes.barh(places, above, 0.6, color=COLOURS[0], label="above idle")
    axes.set_yticks(places)
    axes.set_yticklabels([engine["name"] for engine in drawable])
    axes.invert_yaxis()
    axes.grid(axis="y", alpha=0)
    _legend(axes, above=True)
    return pages.svg(figure)


def roofline(engines, colours, roofs):
    """Draws the engines below the machine's peaks. roofs: the document's "roofline"."""
    drawable = [engine for engine in engines if engine.get("roof_flops_per_byte")]
    if not drawable:
        return None
    figure, axes = _axes("FLOP per byte moved", "GFLOP/s")
    intensities = [engine["roof_flops_per_byte"] for engine in drawable]
    span = np.geomspace(min(intensities) / 8, max(intensities) * 8, 100)
    peaks = sorted({(engine["roof_peak_flops_per_s"], engine["precision"]) for engine in drawable})
    peaks_drawn: typing.Set[float] = set()
    for peak, precision in peaks:
        if peak in peaks_drawn:
            continue
        peaks_drawn.add(peak)
        roof = np.minimum(peak, span * roofs["copy_bytes_per_s"]) / 1e9
        axes.plot(span, roof, color=_GREY, lw=1.2)
        axes.annotate(
            precision, (span[-1], roof[-1]), (0, 3), textcoords="offset points", ha="right", color=_GREY, fontsize=8
        )
    for engine in drawable:
        place = (engine["roof_flops_per_byte"], engine["roof_flops_per_s"] / 1e9)
        axes.plot(*place, marker="o", ms=7, color=colours[engine["name"]])
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        _plain_numbers(axis, _round_ticks(*axis.get_view_interval()))
    return pages.svg(figure)


def _latencies(engine):
    return [value for window in engine["windows"] for value in window.get("latencies_ms", [])]


def _axes(xlabel, ylabel, height=_PLOT[1]):
    figure = pages.new_figure(_PLOT[0], height)
    figure.axes[0].set(xlabel=xlabel, ylabel=ylabel)
    return figure, figure.axes[0]


def _legend(axes, above=False):
    where = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncol": 4} if above else {"loc": "best"}
    axes.legend(frameon=False, labelcolor=_GREY, fontsize=8, **where)


def _plain_numbers(axis, ticks):
    """Labels a logarithmic axis with plain numbers."""
    ticker = require("matplotlib.ticker")
    axis.set_major_locator(ticker.FixedLocator(ticks))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))


def _round_ticks(low, high):
    """Returns few enough round numbers between two for an axis, at least those around them."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for factors in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2, 5), (1,)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        inner = [tick for tick in ticks if low <= tick <= high]
        if len(inner) <= 8:
            return inner if len(inner) > 1 else ticks
    return inner
