"""The report of a run: the table on the screen and FILES, all made from the document (benchmarks.bench.document)."""

import csv
import math
import os
import shlex
import typing

from benchmarks import loadgen
from benchmarks.bench import plots
from benchmarks.bench.document import is_busy, measured_engines
from edge_runtime import console, files, pages
from edge_runtime.console import say
from edge_runtime.errors import MissingRequirement
from edge_runtime.pipeline.latency import MIN_COUNTS
from edge_runtime.text import plain_json

FILES = ("bench.html", "bench.md", "bench.csv", "bench.json")
_TEMPLATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pages", "bench.html")
_MIB = 1 << 20


class Column(typing.NamedTuple):
    """A column of the table."""

    title: str
    key: str  # of an engine's summary
    spec: str  # format specification of a figure
    factor: float = 1  # the figure is multiplied by it
    optional: bool = False  # left out where no engine has a figure


def columns(batches):
    """Returns the Columns of the table for the batch sizes of a run."""
    table_columns = [
        Column("cold start s", "cold_start_s", ".2f"),
        Column("load s", "load_s", ".2f"),
        Column("calls", "latency_calls", "d"),
        Column("p50 ms", "latency_p50_ms", ".1f"),
        Column("p90 ms", "latency_p90_ms", ".1f"),
        Column("p99 ms", "latency_p99_ms", ".1f"),
        Column("max ms", "latency_max_ms", ".1f"),
    ]
    table_columns += [Column(f"images/s b{size}", f"images_per_s_b{size}", ".1f") for size in batches]
    table_columns.append(Column("end to end images/s", "images_per_s_end_to_end", ".1f"))
    table_columns += [Column(f"{name} ms", name + "_ms", ".2f") for name in ("decode", "infer", "wait", "write")]
    return table_columns + [
        Column("CPU ms/image", "cpu_s_per_image_end_to_end", ".1f", 1000),
        Column("peak MiB", "peak_rss_bytes", ".0f", 1 / _MIB),
        Column("GPU MiB", "gpu_memory_bytes", ".0f", 1 / _MIB, True),
        Column("J/image", "joules_per_image_end_to_end", ".3f", optional=True),
        Column("top-1 %", "top1", ".2f", 100, True),
        Column("macro-F1 %", "macro_f1", ".2f", 100, True),
        Column("% of roof", "roof_fraction_of_roof", ".0f", 100, True),
    ]


def rows(result):
    """Returns the table as (list of Column, [(engine's summary, list of texts)]); "-" where there is no figure."""
    engines = measured_engines(result)
    table_columns = [
        column
        for column in columns(result["batches"])
        if not column.optional or any(engine.get(column.key) is not None for engine in engines)
    ]
    return table_columns, [(engine, [_cell(engine, column) for column in table_columns]) for engine in engines]


def format_table(result):
    """Returns a document as Markdown: a row per engine, and notes that explain the figures."""
    table_columns, table_rows = rows(result)
    lines = []
    if result["partial"]:
        lines += ["**Partial: the run, or an engine in it, was stopped before its end.**", ""]
    if table_rows:
        header = ["engine"] + [column.title for column in table_columns]
        cells = [[engine["name"]] + cells for engine, cells in table_rows]
        lines += [console.format_table(header, cells, markdown=True), ""]
    lines += notes(result)
    lines += [loadgen_line(one) for one in result["loadgen"]]
    lines += [rival_line(one) for one in result["rivals"]]
    return "\n".join(lines)


def notes(result):
    """Returns the sentences below the table, a list of text."""
    place, clocks = result["machine"], result["clocks"]
    settings = [
        clocks["board"],
        clocks["power_mode"] and f"power mode {clocks['power_mode']}",
        clocks["governor"] and f"governor {clocks['governor']}",
        clocks["cpu_now_mhz"] and f"{clocks['cpu_now_mhz']} MHz",
    ]
    where = ", ".join([place["cpu"], f"{place['cores']} cores"] + [text for text in settings if text])
    lines = [
        f"{where}. Engines measured in turns. Latency at batch 1, model only, every call counted; b8 is batch 8, model "
        f"only; end to end: {result['photo_count']} photos ({result['photos']}) to a table, stages per photo, decode "
        f"over all threads. Bundle {result['bundle_id']}."
    ]
    if is_busy(result):
        share = 100 * result["busy_share"]
        lines.append(
            f"Other programs kept {share:.0f} % of the cores busy before the run: the figures are of a shared machine."
        )
    few = min([engine["latency_calls"] for engine in measured_engines(result) if engine.get("latency_calls")] or [0])
    needed = MIN_COUNTS[99]
    if 0 < few < needed:
        seconds = math.ceil(result["seconds_per_measurement"] * needed / few)
        advice = "" if result["partial"] else f"; --seconds {seconds} would give all engines one"
        lines.append(
            f"No p99 of fewer than {needed} calls, the least that MLPerf's LoadGen estimates one from (p90: "
            f"{MIN_COUNTS[90]}){advice}."
        )
    for engine in measured_engines(result):
        if engine["unstable"]:
            points = ", ".join(point.replace("_", " ") for point in engine["unstable"])
            lines.append(f"{engine['name']} is not stable: in {points} the last 3 windows differ by more than 10 %.")
        if engine["stopped"]:
            lines.append(f"{engine['name']} stopped before its end: {engine['stopped']}")
        for point, reason in sorted(engine["skipped_batches"].items()):
            lines.append(f"{engine['name']} {point} skipped: {reason}")
        for key, what in (("energy_problem_", "no energy in"), ("energy_warning_", "do not trust the energy in")):
            reasons = {point: engine.get(key + point) for point in engine["points"]}
            for reason in sorted(set(reasons.values()) - {None}):
                points = ", ".join(point.replace("_", " ") for point, one in reasons.items() if one == reason)
                lines.append(f"{engine['name']}: {what} {points}: {reason}")
        if any(engine.get(name) for name in engine if name.startswith("throttled_")):
            lines.append(f"{engine['name']} was throttled: the hardware slowed itself down.")
    if result["power"].get("source") == "rapl":
        added = " + ".join(result["power"]["added"])
        lines.append(f"Energy is of the CPU and memory only ({added}): no GPU, disk or power supply.")
    left_out = result.get("rivals_left_out") or {}
    if left_out:
        why = "; ".join(f"{count}: {text}" for text, count in sorted(left_out.items()))
        lines.append(
            f"The rivals were measured without {sum(left_out.values())} photos that not all of them can read ({why})."
        )
    if result["power"].get("warning"):
        lines.append(f"Do not trust the power at rest: {result['power']['warning']}")
    for key, what in (("power", "energy"), ("roofline", "roofline")):
        reason = result[key].get("unavailable", result[key].get("skipped"))
        if reason:
            lines.append(f"No {what}: {reason}")
    skipped = [engine for engine in result["engines"] if "skipped" in engine]
    return lines + [f"{engine['name']} skipped: {engine['skipped']}" for engine in skipped]


def loadgen_line(one):
    """Returns a LoadGen result (of benchmarks.loadgen.run) as one line of text."""
    if "skipped" in one:
        return f"LoadGen {one['scenario']} ({one['mode']}) {one['engine']} skipped: {one['skipped']}"
    verdict = "VALID" if one["valid"] else "INVALID"
    why = f" ({'; '.join(one['why'])})" if one["why"] else ""
    figure = f"{one['metric']} {loadgen.value_text(one)}"
    return f"LoadGen {one['scenario']} ({one['mode']}, unofficial) {one['engine']}: {verdict}, {figure}{why}"


def rival_line(one):
    """Returns a rival's result (of benchmarks.rivals.measure, with its name) as one line of text."""
    if "skipped" in one:
        return f"rival {one['name']} skipped: {one['skipped']}"
    cost = f"CPU {1000 * one['cpu_s_per_image']:.1f} ms/image, peak {one['peak_rss_bytes'] / _MIB:.0f} MiB"
    return f"rival {one['name']}: {one['images_per_s']:.1f} images/s at batch {one['batch']}, {cost} ({one['note']})"


def write_report(folder, result, table):
    """Writes FILES into a folder, each atomically. Without Jinja2 or matplotlib, all but the page.

    Args:
        folder: exists.
        result: the document.
        table: its text, from format_table.

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
    """Writes a row per engine: every single figure of its summary, and where and when it was measured.

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
    writer = csv.DictWriter(file, names + list(place), lineterminator="\n")
    writer.writeheader()
    writer.writerows(dict(engine, **place) for engine in flat)


def write_page(path, result):
    """Writes the page. Raises MissingRequirement: no Jinja2 or matplotlib. OSError: it cannot be written."""
    page_columns, page_rows = rows(result)
    engines = measured_engines(result)
    colours = {engine["name"]: plots.COLOURS[place % len(plots.COLOURS)] for place, engine in enumerate(engines)}
    drawings = [
        ("Latency at batch 1", plots.histogram(engines, colours)),
        ("Share of the calls that took no longer", plots.distribution(engines, colours)),
        ("Throughput by batch size, model only", plots.sweep(engines, colours, result["batches"])),
        ("End to end: milliseconds per photo", plots.stages(engines)),
        ("Window by window", plots.steadiness(engines, colours)),
        ("Energy per image", plots.energy(engines)),
        ("Roofline", plots.roofline(engines, colours, result["roofline"])),
    ]
    name = os.path.basename(os.path.abspath(result["bundle"]))
    pages.write_page(
        path,
        _TEMPLATE,
        title=f"Benchmark of {name.encode('ascii', 'backslashreplace').decode('ascii')}",
        result=result,
        columns=page_columns,
        rows=page_rows,
        engines=engines,
        colours=colours,
        notes=notes(result),
        plots=[(title, plot) for title, plot in drawings if plot],
        best=_best(engines),
        command=" ".join(shlex.quote(word) for word in result["command"]),
        loadgen_line=loadgen_line,
    )


def _cell(engine, column):
    value = engine.get(column.key)
    return "-" if value is None else format(value * column.factor, column.spec)


def _best(engines):
    """Returns [(what, figure, engine name)] for the top of the page."""
    kinds = (
        ("ms at batch 1 (p50)", "latency_p50_ms", min, ".1f"),
        ("images/s end to end", "images_per_s_end_to_end", max, ".1f"),
        ("s from start to the first label", "cold_start_s", min, ".2f"),
        ("joules per image", "joules_per_image_end_to_end", min, ".3f"),
    )
    lines = []
    for what, key, choose, spec in kinds:
        candidates = [engine for engine in engines if engine.get(key) is not None]
        if candidates:
            best = choose(candidates, key=lambda engine: engine[key])
            lines.append((what, format(best[key], spec), best["name"]))
    return lines
