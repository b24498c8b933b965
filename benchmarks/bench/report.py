"""What a bench found, written down: the files of FILES. All of them are made from the one document, bench.json."""

import csv
import os
import shlex
import typing

import numpy as np

from edge_runtime import files, pages
from edge_runtime.console import say
from edge_runtime.errors import MissingRequirement
from edge_runtime.machine.libraries import require
from edge_runtime.text import plain_json

FILES = ("bench.html", "bench.md", "bench.csv", "bench.json")
SCHEMA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "schema.json")
_TEMPLATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pages", "bench.html")
_COLOURS = ("#3b82d6", "#e07b39", "#2f9e6b", "#9b6ad6", "#d64550", "#2ba5b8", "#b08a2e", "#d463a8")
_STAGE_COLOURS = ("#2ba5b8", "#b08a2e", "#d463a8", "#808890")  # none that the first engines have
_GREY = "#808890"
_PLOT = (4.6, 3.2)  # inches; two stand side by side
_MIB = float(1 << 20)
_BUSY = 0.25  # share of the cores' time from which on a machine is called busy

Column = typing.NamedTuple(
    "Column",
    [
        ("title", str),
        ("key", str),  # of an engine's summary
        ("form", str),  # printf's
        ("factor", float),
        ("optional", bool),  # left out where no engine has it
    ],
)


def columns(batches):
    """Returns the Columns of the table for the batch sizes of a run."""
    found = [
        Column("cold start s", "cold_start_s", "%.2f", 1, False),
        Column("load s", "load_s", "%.2f", 1, False),
        Column("p50 ms", "latency_p50_ms", "%.1f", 1, False),
        Column("p90 ms", "latency_p90_ms", "%.1f", 1, False),
        Column("p99 ms", "latency_p99_ms", "%.1f", 1, False),
        Column("max ms", "latency_max_ms", "%.1f", 1, False),
    ]
    found += [Column(f"images/s b{size}", f"images_per_s_b{size}", "%.1f", 1, False) for size in batches]
    found.append(Column("end to end images/s", "images_per_s_end_to_end", "%.1f", 1, False))
    found += [Column(f"{name} ms", name + "_ms", "%.2f", 1, False) for name in ("decode", "infer", "wait", "write")]
    return found + [
        Column("CPU ms/image", "cpu_s_per_image_end_to_end", "%.1f", 1000, False),
        Column("peak MiB", "peak_rss_bytes", "%.0f", 1 / _MIB, False),
        Column("GPU MiB", "gpu_memory_bytes", "%.0f", 1 / _MIB, True),
        Column("J/image", "joules_per_image_end_to_end", "%.3f", 1, True),
        Column("top-1 %", "top1", "%.2f", 100, True),
        Column("macro-F1 %", "macro_f1", "%.2f", 100, True),
        Column("% of roof", "roof_fraction_of_roof", "%.0f", 100, True),
    ]


def measured(result):
    """Returns the engines of a document that have figures."""
    return [engine for engine in result["engines"] if "skipped" not in engine]


def is_busy(result):
    """Whether other programs were at work when a run began."""
    return (result.get("busy_share") or 0) > _BUSY


def rows(result):
    """Returns the table as (list of Column, [(engine's summary, list of texts)]); "-" stands for no figure."""
    engines = measured(result)
    shown = [
        column
        for column in columns(result["batches"])
        if not column.optional or any(engine.get(column.key) is not None for engine in engines)
    ]
    return shown, [(engine, [_cell(engine, column) for column in shown]) for engine in engines]


def format_table(result):
    """Returns a document as Markdown: a row per engine, and what must be known to read it."""
    shown, found = rows(result)
    lines = []
    if result["partial"]:
        lines += ["**Partial: the run was stopped before its end.**", ""]
    if found:
        table = [["engine"] + [column.title for column in shown], ["---"] + ["--:"] * len(shown)]
        table += [[engine["name"]] + cells for engine, cells in found]
        widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
        for row in table:
            cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    lines += notes(result)
    for one in result["loadgen"]:
        lines.append(loadgen_line(one))
    lines += [rival_line(one) for one in result["rivals"]]
    return "\n".join(lines)


def notes(result):
    """Returns the sentences that belong to the table."""
    place, clocks = result["machine"], result["clocks"]
    set_to = [
        ("%s", clocks["board"]),
        ("power mode %s", clocks["power_mode"]),
        ("governor %s", clocks["governor"]),
        ("%s MHz", clocks["cpu_now_mhz"]),
    ]
    where = [place["cpu"], f"{place['cores']} cores"] + [form % value for form, value in set_to if value]
    found = [
        "%s. Engines measured in turns. Latency at batch 1, model only, every call counted; b8 is batch 8, model only; "
        "end to end: %d photos (%s) to a table, stages per photo, decode over all threads. Bundle %s."
        % (", ".join(where), result["photo_count"], result["photos"], result["bundle_id"])
    ]
    if is_busy(result):
        found.append(
            "Other programs kept %.0f %% of the cores busy before the run: these are figures of a shared machine."
            % (100 * result["busy_share"])
        )
    for engine in measured(result):
        if engine["unstable"]:
            found.append(
                "%s is not stable: in %s the last 3 windows differ by more than 10 %%."
                % (engine["name"], ", ".join(point.replace("_", " ") for point in engine["unstable"]))
            )
        if engine["stopped"]:
            found.append(f"{engine['name']} stopped on the way: {engine['stopped']}")
        for point, reason in sorted(engine["skipped_batches"].items()):
            found.append(f"{engine['name']} {point} skipped: {reason}")
        problems = {point: engine.get("energy_problem_" + point) for point in engine["points"]}
        for problem in sorted(set(problems.values()) - {None}):
            points = ", ".join(point.replace("_", " ") for point, one in problems.items() if one == problem)
            found.append(f"{engine['name']}: no energy in {points}: {problem}")
        if any(engine.get(name) for name in engine if name.startswith("throttled_")):
            found.append(f"{engine['name']} was throttled: the hardware slowed itself down.")
    if result["power"].get("source") == "rapl":
        found.append(
            "Energy is of the CPU and memory only (%s): no GPU, disk or power supply."
            % " + ".join(result["power"]["added"])
        )
    left_out = result.get("rivals_left_out") or {}
    if left_out:
        why = "; ".join(f"{count}: {text}" for text, count in sorted(left_out.items()))
        found.append(
            f"The rivals were given {sum(left_out.values())} photos less, which not all of them can read ({why})."
        )
    for key, what in (("power", "energy"), ("roofline", "roofline")):
        reason = result[key].get("unavailable", result[key].get("skipped"))
        if reason:
            found.append(f"No {what}: {reason}")
    return found + ["%(name)s skipped: %(skipped)s" % engine for engine in result["engines"] if "skipped" in engine]


def loadgen_line(one):
    """Returns a LoadGen result (of benchmarks.loadgen.run) as one line of text."""
    if "skipped" in one:
        return "LoadGen %(scenario)s (%(mode)s) %(engine)s skipped: %(skipped)s" % one
    why = "; ".join(one["why"])
    return "LoadGen %s (%s, unofficial) %s: %s, %s %.2f %s%s" % (
        one["scenario"],
        one["mode"],
        one["engine"],
        "VALID" if one["valid"] else "INVALID",
        one["metric"],
        one["value"],
        one["unit"],
        f" ({why})" if why else "",
    )


def rival_line(one):
    """Returns a rival's result (of benchmarks.rivals.measure, with its name) as one line of text."""
    if "skipped" in one:
        return "rival %(name)s skipped: %(skipped)s" % one
    return "rival %s: %.1f images/s at batch %d, CPU %.1f ms/image, peak %.0f MiB (%s)" % (
        one["name"],
        one["images_per_s"],
        one["batch"],
        1000 * one["cpu_s_per_image"],
        one["peak_rss_bytes"] / _MIB,
        one["note"],
    )


def write_report(folder, result, table):
    """Writes FILES into a folder, each whole or not at all. Without what makes pages, all but the page.

    Args:
        folder: exists.
        result: the document.
        table: of format_table.

    Raises:
        UsageError: the folder cannot be written.
    """
    with files.named(f"--report {folder}"):
        files.write_json(os.path.join(folder, "bench.json"), plain_json(result))
        with files.atomic_file(os.path.join(folder, "bench.md")) as file:
            file.write(table + "\n")
        with files.atomic_file(os.path.join(folder, "bench.csv")) as file:
            write_csv(file, result)
        written = list(FILES)
        try:
            write_page(os.path.join(folder, "bench.html"), result)
        except MissingRequirement as error:
            written.remove("bench.html")
            say("no bench.html: " + str(error))
    say(f"written: {os.path.join(folder, ', '.join(written))}")


def write_csv(file, result):
    """Writes a row per engine: every single figure of its summary, and what it was measured on.

    Args:
        file: open text file (newline="").
        result: the document.
    """
    place = {
        "bundle_id": result["bundle_id"],
        "partial": result["partial"],
        "started": result["started"],
        "cpu": result["machine"]["cpu"],
        "cores": result["machine"]["cores"],
    }
    flat = [
        {name: value for name, value in engine.items() if not isinstance(value, (list, dict))}
        for engine in result["engines"]
    ]
    names = ["name"] + sorted({name for engine in flat for name in engine} - {"name"})
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names + list(place))
    for engine in flat:
        values = [engine.get(name) for name in names] + list(place.values())
        writer.writerow(["" if value is None else value for value in values])


def write_page(path, result):
    """Writes the page. Raises MissingRequirement: Jinja2 or matplotlib is not there. OSError: it cannot be written."""
    shown, found = rows(result)
    engines = measured(result)
    colours = {engine["name"]: _COLOURS[place % len(_COLOURS)] for place, engine in enumerate(engines)}
    plots = [
        ("Latency at batch 1", _histogram(engines, colours)),
        ("Share of the calls that took no longer", _distribution(engines, colours)),
        ("Throughput by batch size, model only", _sweep(engines, colours, result["batches"])),
        ("End to end: milliseconds per photo", _stages(engines)),
        ("Window by window", _steadiness(engines, colours)),
        ("Energy per image", _energy(engines)),
        ("Roofline", _roofline(engines, colours, result["roofline"])),
    ]
    name = os.path.basename(os.path.abspath(result["bundle"]))
    pages.write_page(
        path,
        _TEMPLATE,
        title=f"Benchmark of {name.encode('ascii', 'backslashreplace').decode('ascii')}",
        result=result,
        columns=shown,
        rows=found,
        engines=engines,
        colours=colours,
        notes=notes(result),
        plots=[(title, plot) for title, plot in plots if plot],
        best=_best(engines),
        command=" ".join(shlex.quote(word) for word in result["command"]),
        loadgen_line=loadgen_line,
    )


def _cell(engine, column):
    value = engine.get(column.key)
    return "-" if value is None else column.form % (value * column.factor)


def _best(engines):
    """Returns [(what, figure, whose)] for the head of the page."""
    kinds = (
        ("ms at batch 1 (p50)", "latency_p50_ms", min, "%.1f"),
        ("images/s end to end", "images_per_s_end_to_end", max, "%.1f"),
        ("s from start to the first label", "cold_start_s", min, "%.2f"),
        ("joules per image", "joules_per_image_end_to_end", min, "%.3f"),
    )
    found = []
    for what, key, choose, form in kinds:
        having = [engine for engine in engines if engine.get(key) is not None]
        if having:
            best = choose(having, key=lambda engine: engine[key])
            found.append((what, form % best[key], best["name"]))
    return found


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
    """Labels a logarithmic axis as people write numbers."""
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


def _histogram(engines, colours):
    found = [(engine, _latencies(engine)) for engine in engines]
    found = [(engine, values) for engine, values in found if values]
    if not found:
        return None
    every = [value for _, values in found for value in values]
    low, high = max(min(every), 1e-3) * 0.95, max(every) * 1.05
    edges = np.geomspace(low, high, 70)
    figure, axes = _axes("milliseconds of a call", "share of the calls")
    for engine, values in found:
        counts, _ = np.histogram(np.maximum(values, 1e-3), edges)
        shares = counts / float(len(values))
        axes.bar(edges[:-1], shares, np.diff(edges), align="edge", color=colours[engine["name"]], alpha=0.75)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    _plain_numbers(axes.xaxis, _round_ticks(low, high))
    return pages.svg(figure)


def _distribution(engines, colours):
    figure, axes = _axes("milliseconds of a call", "%")
    every = []  # type: typing.List[float]
    for engine in engines:
        values = sorted(max(value, 1e-3) for value in _latencies(engine))
        if values:
            shares = 100 * np.arange(1, len(values) + 1) / float(len(values))
            axes.step(values, shares, where="post", color=colours[engine["name"]], lw=1.3)
            every += values
    if not every:
        return None
    axes.set_xscale("log")
    axes.set_ylim(0, 102)
    _plain_numbers(axes.xaxis, _round_ticks(min(every) * 0.95, max(every) * 1.05))
    return pages.svg(figure)


def _sweep(engines, colours, batches):
    figure, axes = _axes("photos per call", "images/s")
    drawn = 0
    for engine in engines:
        having = [size for size in batches if engine.get(f"images_per_s_b{size}")]
        rates = [engine[f"images_per_s_b{size}"] for size in having]
        drawn += len(having)
        axes.plot(having, rates, "o-", ms=4, color=colours[engine["name"]])
    if drawn < 2:
        return None
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.08)
    _plain_numbers(axes.xaxis, batches)
    return pages.svg(figure)


def _stages(engines):
    having = [engine for engine in engines if engine["decode_ms"] is not None]
    if not having:
        return None
    stages = (("decode, all threads", "decode_ms"), ("infer", "infer_ms"), ("wait", "wait_ms"), ("write", "write_ms"))
    figure, axes = _axes("", "", 0.9 + 0.62 * len(having))
    places = np.arange(len(having))
    for number, (label, key) in enumerate(stages):
        values = [engine[key] for engine in having]
        axes.barh(places + 0.19 * (number - 1.5), values, 0.17, color=_STAGE_COLOURS[number], label=label)
    axes.set_yticks(places)
    axes.set_yticklabels([engine["name"] for engine in having])
    axes.invert_yaxis()
    axes.grid(axis="y", alpha=0)
    _legend(axes, above=True)
    return pages.svg(figure)


def _steadiness(engines, colours):
    """How each engine's windows, and the machine's own reference work in them, lie about their median."""
    figure, axes = _axes("round", "speed, % of the median")
    machine_ms = {}  # type: typing.Dict[int, typing.List[float]]
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


def _energy(engines):
    having = [engine for engine in engines if engine.get("joules_per_image_end_to_end") is not None]
    if not having:
        return None
    figure, axes = _axes("joules per image, end to end", "", 0.9 + 0.4 * len(having))
    values = [engine["joules_per_image_end_to_end"] for engine in having]
    above = [engine["joules_above_idle_per_image_end_to_end"] for engine in having]
    places = np.arange(len(having))
    axes.barh(places, values, 0.6, color=_GREY, alpha=0.5, label="all")
    if None not in above:
        axes.barh(places, above, 0.6, color=_COLOURS[0], label="above idle")
    axes.set_yticks(places)
    axes.set_yticklabels([engine["name"] for engine in having])
    axes.invert_yaxis()
    axes.grid(axis="y", alpha=0)
    _legend(axes, above=True)
    return pages.svg(figure)


def _roofline(engines, colours, roofs):
    placed = [engine for engine in engines if engine.get("roof_flops_per_byte")]
    if not placed:
        return None
    figure, axes = _axes("FLOP per byte moved", "GFLOP/s")
    intensities = [engine["roof_flops_per_byte"] for engine in placed]
    span = np.geomspace(min(intensities) / 8, max(intensities) * 8, 100)
    peaks = sorted({(engine["roof_peak_flops_per_s"], engine["precision"]) for engine in placed})
    drawn = set()  # type: typing.Set[float]
    for peak, precision in peaks:
        if peak in drawn:
            continue
        drawn.add(peak)
        roof = np.minimum(peak, span * roofs["copy_bytes_per_s"]) / 1e9
        axes.plot(span, roof, color=_GREY, lw=1.2)
        axes.annotate(
            precision, (span[-1], roof[-1]), (0, 3), textcoords="offset points", ha="right", color=_GREY, fontsize=8
        )
    for engine in placed:
        place = (engine["roof_flops_per_byte"], engine["roof_flops_per_s"] / 1e9)
        axes.plot(*place, marker="o", ms=7, color=colours[engine["name"]])
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        _plain_numbers(axis, _round_ticks(*axis.get_view_interval()))
    return pages.svg(figure)
