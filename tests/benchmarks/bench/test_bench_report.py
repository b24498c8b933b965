"""The page of a bench: what stands on it, that it is one file, and that odd names and missing figures do it no harm."""

import json
import os
import re
import sys

import numpy as np
import pytest

from benchmarks.bench import plots, report, summary
from benchmarks.bench.subject import Subject
from edge_runtime.machine import cpu
from tests.benchmarks.bench.test_bench import faults

PHOTO_MS = {
    "openvino-int8": 5.6,
    "openvino-bf16": 12.5,
    "openvino-fp32": 24.9,
    "onnxruntime-fp32": 25.2,
    "tensorflow": 39.0,
}
POINTS = {"b1": (1, 1.0), "b4": (4, 0.94), "b8": (8, 0.92), "end_to_end": (8, 1.0)}


def subject(name, photo_ms, metered, seed=0):
    """Returns a Subject with made-up windows."""
    random = np.random.RandomState(seed)
    found = Subject(name)
    found.batches = [1, 4, 8]
    found.facts.update(
        name=name,
        kind=name.partition("-")[0],
        precision=name.partition("-")[2] or "fp32",
        cold_starts_s=[0.9, 1.1, 1.0],
        load_s=0.2,
        first_call_ms=3 * photo_ms,
        warm_up_s=0.4,
        peak_rss_bytes=400 << 20,
        gpu_memory_bytes=None,
        labelled_photos=296,
        top1=0.7365,
        macro_f1=0.6373,
    )
    for number in range(6):
        for point, (batch, factor) in POINTS.items():
            call_ms = photo_ms * factor * batch * (1 + 0.02 * random.rand())
            calls = max(3, int(500 / call_ms))
            window = {
                "point": point,
                "round": number,
                "photos": calls * batch,
                "seconds": calls * call_ms / 1000,
                "images_per_s": 1000 * batch / call_ms,
                "p50_ms": call_ms if point != "end_to_end" else call_ms / batch,
                "cpu_s": 1.9 * calls * call_ms / 1000,
                "reference_ms": 3.0 + 0.1 * random.rand(),
            }
            if metered:
                found.energy[point] = {
                    "source": "sysfs",
                    "added": ["VDD_IN"],
                    "joules": 10 * (9 + random.rand()),
                    "seconds": 10.0,
                    "photos": 20 * window["photos"],
                    "mean_w": 9.5,
                    "peak_w": 11.0,
                    "samples": 90,
                    "warning": "",
                    "throttled": False,
                    "rails": {"VDD_IN": {"mean_w": 9.5}, "VDD_SYS_GPU": {"mean_w": 4.25}},
                    "clocks": {"gpu_min_mhz": 1122.0, "gpu_mean_mhz": 1290.0},
                    "temperature_c": {"GPU-therm": 61.0, "CPU-therm": 55.0},
                }
            if point == "b1":
                window["latencies_ms"] = list(call_ms * (0.98 + random.gamma(1.2, 0.03, calls)))
            if point == "end_to_end":
                window.update(decode_ms=1.9, infer_ms=call_ms / batch - 0.05, wait_ms=0.05, write_ms=0.02)
            found.windows.append(window)
    return found


def document(metered=True, names=tuple(PHOTO_MS)):
    """Returns a whole document of made-up figures."""
    idle = {"source": "sysfs", "added": ["VDD_IN"], "mean_w": 2.1} if metered else {"unavailable": "no meter here"}
    engines = [summary.summarize(subject(name, PHOTO_MS[name], metered, seed), idle) for seed, name in enumerate(names)]
    peaks = {"fp32": 3.2e11, "bf16": 7e11, "int8": 1.5e12}
    for engine in engines:
        batch, rate = summary.best_model_rate(engine)
        precision = engine["precision"]
        moved = 1e8 / {"fp32": 1, "bf16": 2, "int8": 4}[precision]
        engine.update(
            roof_batch=batch,
            roof_flops_per_image=int(1.14e10),
            roof_bytes_per_image=moved,
            roof_flops_per_byte=1.14e10 / moved,
            roof_flops_per_s=rate * 1.14e10,
            roof_peak_flops_per_s=peaks[precision],
            roof_peak_measured_by="openvino",
            roof_fraction_of_peak=rate * 1.14e10 / peaks[precision],
            roof_compute_roof_images_per_s=peaks[precision] / 1.14e10,
            roof_memory_roof_images_per_s=1.5e10 / moved,
            roof_bound="compute",
            roof_fraction_of_roof=rate * 1.14e10 / peaks[precision],
        )
    engines.append({"name": "tensorrt-fp16", "skipped": "was made for aarch64, this machine is x86_64"})
    loadgen = [
        {
            "engine": "openvino-int8",
            "scenario": scenario,
            "mode": "quick",
            "valid": scenario != "Server",
            "why": ["too many answers came later than the bound"] if scenario == "Server" else [],
            "metric": "photos per second",
            "value": 171.3,
            "unit": "samples/s",
        }
        for scenario in ("SingleStream", "Offline", "Server")
    ]
    loadgen.append({"engine": "tensorflow", "scenario": "Offline", "mode": "quick", "skipped": "it failed"})
    rivals = [
        {
            "name": "hackathon",
            "images_per_s": 11.9,
            "batch": 32,
            "cpu_s_per_image": 0.16,
            "peak_rss_bytes": 1300 << 20,
            "note": "the hackathon's script in TensorFlow 2 calls; 299 x 299 pixels",
        },
        {"name": "ultralytics", "skipped": "ultralytics is needed here and cannot be imported"},
    ]
    return {
        "format_version": 2,
        "partial": False,
        "bundle": "/somewhere/grocery",
        "bundle_id": "175bddeec12c",
        "command": ["picnic-edge", "bench", "grocery", "--images", "a b"],
        "started": "2026-11-24T14:00:00Z",
        "seconds": 187.0,
        "photos": "val",
        "photo_count": 64,
        "batches": [1, 4, 8],
        "seconds_per_measurement": 3.0,
        "version": "0.1.0",
        "machine": cpu.describe(),
        "clocks": {
            "governor": "performance",
            "cpu_min_mhz": None,
            "cpu_now_mhz": 2596,
            "cpu_max_mhz": None,
            "board": "",
            "l4t": "",
            "power_mode": "",
            "gpu_min_mhz": None,
            "gpu_max_mhz": None,
        },
        "load_average": 0.1,
        "busy_share": 0.02,
        "libraries": {"openvino": "2026.4.0", "onnxruntime": "1.32.0"},
        "power": idle,
        "roofline": {
            "flops_per_image": int(1.14e10),
            "weight_values": 21800000,
            "copy_bytes_per_s": 1.5e10,
            "numpy_fp32_flops_per_s": 1.6e11,
            "openvino_fp32_flops_per_s": 3.2e11,
            "openvino_bf16_flops_per_s": 7e11,
            "openvino_int8_flops_per_s": 1.5e12,
        },
        "engines": engines,
        "loadgen": loadgen,
        "rivals": rivals,
        "rivals_left_out": {"is WEBP (RGB), which not every rival reads": 2},
    }


@pytest.fixture
def page(tmp_path):
    """Writes a document's page and returns its text: page(document)."""
    for module in ("jinja2", "matplotlib"):
        pytest.importorskip(module)

    def write(result):
        path = str(tmp_path / "bench.html")
        report.write_page(path, result)
        with open(path, encoding="utf-8") as file:
            return file.read()

    return write


def headings(text):
    return [re.sub("<[^>]+>", "", found).strip() for found in re.findall(r"<h[123][^>]*>(.*?)</h[123]>", text)]


def test_made_up_documents_are_as_the_schema_says():
    for metered in (True, False):
        assert faults(json.loads(json.dumps(document(metered)))) == []


def test_everything_stands_on_the_page_and_it_fetches_nothing(page):
    text = page(document())
    assert headings(text) == [
        "Benchmark of grocery",
        "Plots",
        "Latency at batch 1",
        "Share of the calls that took no longer",
        "Throughput by batch size, model only",
        "End to end: milliseconds per photo",
        "Window by window",
        "Energy per image",
        "Roofline",
        "Latency at batch 1",
        "What was measured, by batch",
        "Power by rail, and the clocks meanwhile",
        "The limit of this machine",
        "LoadGen scenarios, unofficial",
        "Rivals",
        "How it was measured",
    ]
    assert text.count("<svg") == 7
    assert re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', text) == []
    assert not re.findall(r"url\((?!#)[^)]*\)", text) and "@import" not in text
    for name in list(PHOTO_MS) + ["hackathon", "175bddeec12c", "picnic-edge bench grocery --images &#39;a b&#39;"]:
        assert name in text, name
    assert "tensorrt-fp16 skipped: was made for aarch64" in text
    assert "INVALID" in text and "too many answers came later than the bound" in text
    assert "p99.9 ms" in text and "governor performance" in text and "idle 2.10 W" in text
    assert "VDD_IN 9.50, VDD_SYS_GPU 4.25" in text and "gpu 1122, 1290" in text
    assert '<td class="number">61</td><td>no</td>' in text and "2 % of the cores busy" in text
    assert "The rivals were measured without 2 photos" in text and "at least ten, at most fourteen" in text


def test_without_a_meter_roofs_and_extras_they_are_left_out_and_said(page):
    result = document(metered=False)
    result.update(loadgen=[], rivals=[], roofline={"skipped": "onnx is needed here"})
    for engine in result["engines"]:
        for name in [name for name in engine if name.startswith("roof_")]:
            del engine[name]
    text = page(result)
    assert "Energy per image" not in headings(text) and "Roofline" not in headings(text)
    assert "Power by rail, and the clocks meanwhile" not in headings(text)
    assert "Rivals" not in headings(text) and "The limit of this machine" not in headings(text)
    assert "No energy: no meter here" in text and "No roofline: onnx is needed here" in text
    assert "J/image</th>" in text  # the column by batch stays, with dashes
    assert "J/image" not in report.format_table(result)


def test_a_partial_run_is_marked_and_has_a_page(page):
    result = document()
    result["partial"] = True
    cut = Subject("openvino-int8")
    cut.batches = [1, 4, 8]
    whole = subject("openvino-int8", 5.6, False)
    cut.facts, cut.windows = whole.facts, whole.windows[:1]
    result["engines"] = [summary.summarize(cut, None)]
    text = page(result)
    assert "Partial:" in text and "was stopped before its end" in text
    assert report.format_table(result).startswith("**Partial")
    result["engines"][0]["latency_calls"] = 3
    assert "No p99 of fewer" in report.format_table(result) and "--seconds" not in report.format_table(result)
    result["partial"] = False
    assert "--seconds" in report.format_table(result)
    result["partial"] = True
    result["engines"] = [{"name": "openvino-int8", "skipped": "the run was stopped before it was measured"}]
    assert "openvino-int8 skipped: the run was stopped" in page(result)


def test_names_are_data_and_no_markup(page):
    result = document(names=("openvino-fp32",))
    evil = '<script>alert("x")</script>&\udcff'
    result["engines"][1]["skipped"] = result["photos"] = evil
    result["bundle"] = "/x/" + evil.replace("/", "")
    result["command"].append(evil)
    result["rivals"][0]["note"] = evil
    text = page(result)
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text


def test_one_figure_of_a_kind_and_equal_ones_are_drawn(page):
    """A single engine, calls that all took the same time, and times far apart."""
    result = document(names=("tensorflow",))
    for window in result["engines"][0]["windows"]:
        if "latencies_ms" in window:
            window["latencies_ms"] = [5.0] * 3
    assert page(result).count("<svg") == 7
    for number, window in enumerate(result["engines"][0]["windows"]):
        if "latencies_ms" in window:
            window["latencies_ms"] = [0.0, 0.001, 10.0**number]
    assert page(result).count("<svg") == 7


def test_the_axis_has_numbers_people_write():
    assert plots._round_ticks(5.0, 40.0) == pytest.approx([5, 7, 10, 20, 30])
    for low, high in ((5.0, 40.0), (0.9, 1.1), (24.0, 26.0), (0.001, 3000.0), (1.0, 1.0)):
        ticks = plots._round_ticks(low, high)
        assert len(ticks) > 1 and ticks == sorted(ticks)
        assert all(re.match(r"^0*[1-9]0*$", ("%g" % tick).replace(".", "")) for tick in ticks)


def test_without_jinja_the_rest_of_the_report_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    result = document()
    report.write_report(str(tmp_path), result, report.format_table(result))
    assert sorted(os.listdir(str(tmp_path))) == ["bench.csv", "bench.json", "bench.md"]
    said = capsys.readouterr().err
    assert "no bench.html: jinja2 is needed here" in said and "written: " in said


def test_the_csv_has_a_row_per_engine_and_no_nested_values(tmp_path):
    from tests import helpers

    with open(str(tmp_path / "x.csv"), "w", newline="", encoding="utf-8") as file:
        report.write_csv(file, document())
    rows = helpers.read_rows_of((tmp_path / "x.csv").read_bytes(), "excel")
    assert [row["name"] for row in rows] == list(PHOTO_MS) + ["tensorrt-fp16"]
    assert rows[-1]["skipped"].startswith("was made for") and rows[-1]["latency_p50_ms"] == ""
    assert float(rows[0]["joules_per_image_b8"]) > 0 and rows[0]["throttled_b8"] == "False"
    assert not any(value.startswith(("[", "{")) for row in rows for value in row.values())


if __name__ == "__main__":  # a page to look at: python -m tests.benchmarks.bench.test_bench_report FILE.html
    report.write_page(sys.argv[1], document())
