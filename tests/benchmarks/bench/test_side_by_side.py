"""bench compare: the ratios of two runs, what was not the same in them, and what it refuses."""

import copy
import json

import numpy as np
import pytest

from benchmarks.bench import cli, side_by_side
from edge_runtime.errors import UsageError
from tests import helpers

ENGINES = {"onnxruntime-fp32": 25.0, "openvino-bf16": 12.5, "onnxruntime": 26.0}  # ms per photo
POINTS = {"b1": 1, "b8": 8, "end_to_end": 1}


def document(seed, slower=(), factor=1.0, machine_ms=3.0):
    """Returns a bench.json of made-up figures, some engines slower by a factor."""
    random = np.random.RandomState(seed)
    engines = []
    for name, photo_ms in ENGINES.items():
        windows = []
        for number in range(10):
            for point in POINTS:
                took_ms = photo_ms * np.exp(0.02 * random.randn()) * (factor if name in slower else 1.0)
                windows.append(
                    {
                        "point": point,
                        "round": number,
                        "photos": 40,
                        "seconds": 40 * took_ms / 1000,
                        "images_per_s": 1000 / took_ms,
                        "p50_ms": took_ms * POINTS[point],
                        "cpu_s": 40 * 2 * took_ms / 1000,
                        "reference_ms": machine_ms,
                    }
                )
        engines.append({"name": name, "windows": windows, "peak_rss_bytes": 500 << 20, "top1": None})
    return {
        "format_version": 2,
        "partial": False,
        "bundle_id": "abc",
        "photos": "val",
        "photo_count": 64,
        "batches": [1, 8],
        "seconds_per_measurement": 3.0,
        "version": "1",
        "machine": {"cpu": "c", "cores": 2, "architecture": "x", "memory_bytes": 1, "system": "s", "python": "3"},
        "clocks": {"governor": "", "power_mode": "", "cpu_max_mhz": None, "gpu_max_mhz": None},
        "load_average": 0.1,
        "busy_share": 0.02,
        "libraries": {"numpy": "1"},
        "engines": engines,
    }


def write(tmp_path, name, value):
    return helpers.write_bytes(tmp_path / name, json.dumps(value).encode())


def test_ratios_and_how_the_windows_spread(tmp_path, capsys):
    before, after = document(0), document(1, slower=["openvino-bf16"], factor=1.5)
    comparison = side_by_side.compare(before, after)
    figures = {(one["engine"], one["figure"]): one for one in comparison["figures"]}
    assert set(figures) == {
        (engine, figure)
        for engine in ENGINES
        for figure in ["p50_ms b1"]
        + [f"{key} {point}" for key in ("images_per_s", "cpu_s_per_image") for point in POINTS]
    }
    assert all(one["low"] < one["ratio"] < one["high"] for one in figures.values())
    slower, rate = figures["openvino-bf16", "p50_ms b1"], figures["openvino-bf16", "images_per_s b8"]
    assert slower["ratio"] == pytest.approx(1.5, rel=0.03) and slower["before"] == pytest.approx(12.5, rel=0.02)
    assert rate["ratio"] == pytest.approx(1 / 1.5, rel=0.03)
    assert figures["onnxruntime", "p50_ms b1"]["ratio"] == pytest.approx(1, rel=0.03)
    mirrored = {(one["engine"], one["figure"]): one for one in side_by_side.compare(after, before)["figures"]}
    for name, one in figures.items():
        assert mirrored[name]["low"] == pytest.approx(1 / one["high"])
    paths = [write(tmp_path, "a.json", before), write(tmp_path, "b.json", after)]
    cli.main(["compare"] + paths)
    text = capsys.readouterr()
    (line,) = [line for line in text.out.splitlines() if line.startswith("openvino-bf16 p50_ms b1 ")]
    assert f"{slower['ratio']:.3f}" in line and f"{slower['low']:.3f} to {slower['high']:.3f}" in line
    assert "onnxruntime peak_rss_bytes" in text.out and "--against OTHER" in text.out and text.err == ""
    cli.main(["compare", "--json"] + paths)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(comparison))


def test_two_files_give_no_verdict(tmp_path):
    paths = [write(tmp_path, "a.json", document(0)), write(tmp_path, "b.json", document(1))]
    with pytest.raises(UsageError, match="picnic-edge bench BUNDLE --against OTHER --fail-above"):
        cli.main(["compare"] + paths + ["--fail-above", "10"])
    done = helpers.picnic_edge("bench", "compare", *paths)
    assert done.returncode == 0 and "Traceback" not in done.stderr


def test_what_only_one_of_them_measured_is_said():
    before, after = document(0), document(1)
    first, second, third = after["engines"]
    first["windows"] = [window for window in first["windows"] if window["point"] != "end_to_end"]
    second["stopped"] = "its process crashed"
    after["engines"][2] = {"name": "onnxruntime", "skipped": "why"}
    after["engines"].append(dict(copy.deepcopy(third), name="tensorrt-fp16"))
    comparison = side_by_side.compare(before, after)
    assert comparison["lost"] == ["onnxruntime", "onnxruntime-fp32 end_to_end"]
    assert comparison["stopped"] == [("openvino-bf16", "its process crashed")]
    assert comparison["new"] == ["tensorrt-fp16"]
    text = side_by_side.format_comparison(comparison)
    assert "onnxruntime: was measured before, not now" in text and "tensorrt-fp16: was not measured before" in text
    assert "openvino-bf16: stopped before its end in the second run: its process crashed" in text
    assert "openvino-bf16: was measured before" not in text
    before["engines"] = []
    assert side_by_side.compare(before, after)["figures"] == []
    assert "range" in side_by_side.format_comparison(side_by_side.compare(before, after))


def test_conditions_that_differ_are_said_loudly(tmp_path, capsys):
    before, after = document(0), document(1, machine_ms=3.4)
    after.update(bundle_id="other", batches=[1, 16], partial=True, busy_share=0.5, load_average=0.1, photos="train")
    before["load_average"] = 3.0  # of what the user ran before: nobody's disturbance
    after["machine"] = dict(after["machine"], cpu="another")
    after["libraries"] = {"numpy": "2"}
    after["clocks"] = dict(after["clocks"], power_mode="MAXN")
    cli.main(["compare", write(tmp_path, "a.json", before), write(tmp_path, "b.json", after)])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("NOT THE SAME: ")]
    for what in (
        "the machine: cpu c",
        "the bundle: abc; other",
        "--batch: 1,8; 1,16",
        "the libraries",
        "the clocks",
        "the machine's speed: its fixed piece of work took 3.00 ms; 3.40 ms",
        "the second run, or an engine in it, was stopped before its end",
        "other programs kept 50 % of the cores busy before the second run",
    ):
        assert any(what in line for line in said), what
    assert len(said) == 9


@pytest.mark.parametrize(
    "data, why",
    [
        (b"", "JSON"),
        (b"[" * 100000, "JSON"),
        (b"[]", "format_version 2.* None"),
        (b'{"format_version": 1, "engines": []}', "format_version 2.* 1; measure again"),
        (b'{"format_version": 3, "engines": []}', "format_version 2.* 3; a newer .* update"),
        (b'{"format_version": 2, "engines": [{"name": "x"}]}', "b.json: "),
        (b'{"format_version": 2, "engines": [7]}', "b.json: "),
    ],
)
def test_what_is_no_document_exits_with_2(tmp_path, data, why):
    good = write(tmp_path, "a.json", document(0))
    with pytest.raises(UsageError, match=why):
        cli.main(["compare", good, helpers.write_bytes(tmp_path / "b.json", data)])


def test_a_missing_and_a_garbled_document_are_named(tmp_path):
    good, bad = write(tmp_path, "a.json", document(0)), document(1)
    with pytest.raises(UsageError, match="gone.json: "):
        cli.main(["compare", good, str(tmp_path / "gone.json")])
    bad["engines"][0]["windows"][0]["photos"] = 0
    with pytest.raises(UsageError, match="b.json: "):
        cli.main(["compare", good, write(tmp_path, "b.json", bad)])
