"""bench compare: what it calls a change, what it does not, and what it says of runs that cannot be compared."""

import copy
import itertools
import json
import math
import time

import numpy as np
import pytest

from benchmarks.bench import cli, compare, permutation, turns
from benchmarks.bench.plan import make_plan
from benchmarks.experiments import compare_trial
from edge_runtime.bundle.reading import Bundle
from edge_runtime.engines.selection import open_engine
from edge_runtime.errors import GotWorse, UsageError
from tests import helpers

ENGINES = {
    "onnxruntime-fp32": 25.0,
    "openvino-fp32": 25.0,
    "openvino-bf16": 12.5,
    "openvino-int8": 6.0,
    "onnxruntime": 26.0,
}
POINTS = {"b1": 1, "b4": 4, "b8": 8, "end_to_end": 1}


def document(
    seed,
    slower=(),
    factor=1.0,
    machine=1.0,
    noise=0.02,
    bursts=0.0,
    windows=10,
    own_noise=None,
    felt=1.0,
    phases=0.0,
):
    """Returns a bench.json of made-up figures: some engines slower by a factor, and the whole machine by another.

    own_noise: of the machine's own work, where not the windows'. felt: how much of the machine's change engines feel.
    phases: noise that the machine's own work and the window after it have in common.
    """
    random = np.random.RandomState(seed)
    engines = []
    for name, photo_ms in ENGINES.items():
        own = []
        for number in range(windows):
            for point in POINTS:
                phase = math.exp(phases * random.randn()) if phases else 1.0
                took_ms = photo_ms * machine**felt * phase * math.exp(noise * random.randn())
                took_ms *= factor if name in slower else 1.0
                if random.rand() < bursts:  # a neighbour takes the cores for this window
                    took_ms *= 1 + random.rand()
                photos = 40
                own.append(
                    {
                        "point": point,
                        "round": number,
                        "photos": photos,
                        "seconds": photos * took_ms / 1000,
                        "images_per_s": 1000 / took_ms,
                        "p50_ms": took_ms * POINTS[point],
                        "cpu_s": photos * 2 * took_ms / 1000,
                        "reference_ms": 3.0 * machine * phase * math.exp((own_noise or noise) * random.randn()),
                    }
                )
        engines.append({"name": name, "windows": own, "peak_rss_bytes": 500 << 20, "top1": None, "cold_start_s": 1.0})
    return {
        "format_version": 2,
        "partial": False,
        "bundle_id": "abc",
        "photos": "val",
        "photo_count": 64,
        "batches": [1, 4, 8],
        "seconds_per_measurement": 3.0,
        "version": "1",
        "machine": {"cpu": "c", "cores": 2, "architecture": "x", "memory_bytes": 1, "system": "s", "python": "3"},
        "clocks": {"governor": "", "power_mode": "", "cpu_max_mhz": None, "gpu_max_mhz": None},
        "load_average": 0.1,
        "busy_share": 0.02,
        "libraries": {"numpy": "1"},
        "engines": engines,
    }


def changes(before, after):
    found = compare.compare(before, after)
    return {(figure.engine, figure.metric): figure for figure in found["figures"] if figure.changed}


def test_the_same_twice_is_no_change():
    """90 % is asked for; what is planted here is noise of every kind, and the numbers of the seeds are fixed."""
    for settings in ({}, {"noise": 0.05}, {"noise": 0.03, "bursts": 0.1}, {"noise": 0.01, "windows": 10}):
        silent = sum(
            not changes(document(2 * seed, **settings), document(2 * seed + 1, **settings)) for seed in range(20)
        )
        assert silent >= 19, settings


def test_a_planted_slowdown_is_always_found_in_its_engine_alone():
    for settings in ({}, {"noise": 0.03}, {"noise": 0.02, "bursts": 0.1}):
        for seed in range(5):
            before = document(2 * seed, **settings)
            after = document(2 * seed + 1, slower=["openvino-bf16"], factor=1.15, **settings)
            found = changes(before, after)
            assert {engine for engine, _ in found} == {"openvino-bf16"}, (settings, seed)
            assert all(figure.worse for figure in found.values())


@pytest.mark.slow
def test_noisy_windows_hide_no_slowdown_of_all_batch_sizes():
    for settings, least in (
        ({"noise": 0.09, "own_noise": 0.07, "windows": 11}, 9),
        ({"noise": 0.03, "phases": 0.12}, 10),
    ):
        told = []
        for seed in range(10):
            before = document(2 * seed, **settings)
            after = document(2 * seed + 1, slower=["openvino-fp32"], factor=1.15, **settings)
            found = changes(before, after)
            assert {engine for engine, _ in found} <= {"openvino-fp32"}, (settings, seed)
            told.append(("openvino-fp32", "images_per_s all batches") in found)
        assert sum(told) >= least, settings
        silent = sum(
            not changes(document(2 * seed, **settings), document(2 * seed + 1, **settings)) for seed in range(20, 30)
        )
        assert silent >= 9, settings


def test_the_noise_of_the_machine_s_own_work_hides_nothing_that_the_windows_show():
    settings = {"noise": 0.04, "own_noise": 0.3}
    for seed in range(10):
        before = document(2 * seed, **settings)
        after = document(2 * seed + 1, slower=["openvino-int8"], factor=1.2, **settings)
        assert {engine for engine, _ in changes(before, after)} == {"openvino-int8"}, seed
    silent = sum(
        not changes(document(2 * seed, **settings), document(2 * seed + 1, **settings)) for seed in range(20, 30)
    )
    assert silent >= 9


def test_how_far_an_engine_follows_the_machine_s_own_work_is_measured():
    for settings, least, most in (
        ({"noise": 0.01, "phases": 0.1}, 0.9, 1.0),
        ({"noise": 0.1, "own_noise": 0.1}, 0.0, 0.3),
    ):
        first, second = (document(seed, **settings)["engines"][0] for seed in (0, 1))
        assert least <= compare._how_far_it_follows(first, second) <= most


def test_its_size_and_direction_are_told():
    before, after = document(0, noise=0.01), document(1, slower=["onnxruntime"], factor=1.5, noise=0.01)
    found = changes(before, after)
    assert set(found) == {
        ("onnxruntime", metric)
        for metric in ["p50_ms b1", "images_per_s all batches"]
        + ["%s %s" % (key, point) for key in ("images_per_s", "cpu_s_per_image") for point in POINTS]
    }
    slower, rate = found["onnxruntime", "p50_ms b1"], found["onnxruntime", "images_per_s b8"]
    assert slower.change == pytest.approx(0.5, abs=0.03) and slower.before == pytest.approx(26, rel=0.02)
    assert slower.after == pytest.approx(39, rel=0.03)
    assert rate.change == pytest.approx(-1 / 3, abs=0.03) and rate.worse
    back = changes(after, before)
    assert set(back) == set(found) and not any(figure.worse for figure in back.values())


def test_a_slower_machine_is_no_slower_engine():
    before, after = document(0), document(1, machine=1.2)
    assert not changes(before, after)
    assert compare.compare(before, after)["machine_change"] == pytest.approx(0.2, abs=0.03)
    after = document(1, machine=1.2, slower=["openvino-int8"], factor=1.15)
    assert {engine for engine, _ in changes(before, after)} == {"openvino-int8"}


def test_a_machine_that_got_faster_hides_no_slowdown():
    for machine in (0.92, 0.94, 0.96):
        for seed in range(4):
            before = document(2 * seed, own_noise=0.03)
            after = document(2 * seed + 1, slower=["openvino-bf16"], factor=1.15, machine=machine, own_noise=0.03)
            found = compare.compare(before, after)
            changed = [figure for figure in found["figures"] if figure.changed]
            assert changed and all(figure.engine == "openvino-bf16" and figure.worse for figure in changed)
            assert compare.failures(found, 8)
    figure = changed[0]
    assert abs(figure.change) > abs(figure.as_measured) + 0.02
    size = "%+.1f %% as measured, %+.1f %% less the machine's own change, worse" % (
        100 * figure.as_measured,
        100 * figure.change,
    )
    assert size in compare.format_comparison(found)


def test_a_machine_s_change_alone_is_silent_though_its_own_work_is_noisy_or_overstates_it():
    for machine in (0.8, 0.9, 0.95, 1.05, 1.1, 1.2):
        for felt, least in ((1.0, 9), (0.5, 10)):
            silent = sum(
                not changes(
                    document(2 * seed, own_noise=0.03),
                    document(2 * seed + 1, machine=machine, own_noise=0.03, felt=felt),
                )
                for seed in range(10)
            )
            assert silent >= least, (machine, felt)
    for machine in (0.8, 0.9, 1.1, 1.2):  # felt by no engine at all
        assert not changes(document(0), document(1, machine=machine, felt=0.0))


def test_small_differences_are_nobody_s_doing():
    assert not changes(document(0, noise=0.002), document(1, noise=0.002, slower=list(ENGINES), factor=1.04))
    assert changes(document(0, noise=0.002), document(1, noise=0.002, slower=list(ENGINES), factor=1.07))


def p_of(first, second, **options):
    return permutation.permutation_p([permutation.Part(1.0, True, np.array(first), np.array(second))], **options)


def test_a_permutation_tells_chance_from_a_difference():
    first, second = np.arange(10.0), np.arange(10.0) + 20
    assert p_of(first, second) < 2e-4  # 2 of 184756 ways to deal them make as much of one
    assert p_of(first, first) == 1.0 and p_of([1.0], [5.0]) == 1.0
    assert p_of(first, first, offset=20.0) < 2e-4 and p_of(first, second, offset=-20.0) == 1.0
    # Of the 20 ways to deal out 3 and 3, two put all that is high on one side.
    assert p_of(first[:3], second[:3]) == pytest.approx(0.1, abs=0.01)
    # All ways gone through, not by chance.
    values = np.array([1.0, 2, 3, 4, 5, 9])
    ways = list(itertools.combinations(range(6), 3))
    gaps = [np.sort(values[list(way)])[1:].mean() - np.sort(np.delete(values, way))[1:].mean() for way in ways]
    assert p_of(values[:3], values[3:]) == pytest.approx(np.mean(np.abs(gaps) >= 4.5), abs=0.01)


def test_a_permutation_s_level_is_kept():
    random = np.random.RandomState(0)
    ps = [
        permutation.permutation_p([permutation.Part(0.5, False, random.randn(10), random.randn(13)) for _ in range(2)])
        for _ in range(100)
    ]
    assert 0.4 < np.mean(ps) < 0.6 and np.mean(np.array(ps) < 0.05) < 0.12


def test_disturbed_windows_of_one_run_alone_are_no_change():
    before, after = document(0), document(1)
    for engine in after["engines"]:
        for window in engine["windows"]:
            if window["round"] in (2, 3, 6, 9):  # a neighbour's phases
                window["images_per_s"] /= 1.4
                window["p50_ms"] *= 1.4
                window["cpu_s"] *= 1.4
    assert not changes(before, after)


def test_holm_goes_on_as_long_as_it_may():
    assert permutation.significant([0.001, 0.018, 0.006, 0.009]) == [True, True, True, True]
    assert permutation.significant([0.008, 0.008, 0.008, 0.008]) == [False] * 4
    assert permutation.significant([0.001, 0.012, 0.012]) == [True, False, False]
    assert permutation.significant([]) == []


def write(tmp_path, name, value):
    return helpers.write_bytes(tmp_path / name, json.dumps(value).encode())


def test_the_verb_prints_and_fails_as_asked(tmp_path, capsys):
    before = write(tmp_path, "a.json", document(0))
    after = write(tmp_path, "b.json", document(1, slower=["openvino-bf16"], factor=1.3))
    cli.main(["compare", before, after])
    text = capsys.readouterr()
    assert "openvino-bf16  p50_ms b1  12." in text.out and "worse)" in text.out
    assert "onnxruntime-fp32  p50_ms" not in text.out and "NOT THE SAME" not in text.err
    cli.main(["compare", before, after, "--fail-above", "60"])
    with pytest.raises(GotWorse, match=r"10 %.*openvino-bf16 p50_ms b1 \+"):
        cli.main(["compare", before, after, "--fail-above", "10"])
    cli.main(["compare", after, before, "--fail-above", "10"])  # better is no failure
    capsys.readouterr()
    cli.main(["compare", before, before, "--fail-above", "0"])
    assert "no change beyond noise in 50 figures" in capsys.readouterr().out
    cli.main(["compare", before, after, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert len(found["figures"]) == 50 and found["lost"] == []
    done = helpers.picnic_edge("bench", "compare", before, after, "--fail-above", "10")
    assert done.returncode == 7 and "picnic-edge: worse by more than 10 %" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_rate_that_halves_is_a_hundred_percent_worse():
    found = compare.compare(document(0, noise=0.005), document(1, slower=["onnxruntime"], factor=2.0, noise=0.005))
    assert any("images_per_s b8 -50" in text for text in compare.failures(found, 90))
    assert compare.failures(found, 110) == []


def test_an_engine_that_is_lost_fails_and_a_new_one_is_told(tmp_path, capsys):
    before, after = document(0), document(1)
    after["engines"][2] = {"name": "openvino-bf16", "skipped": "why"}
    after["engines"].append(dict(copy.deepcopy(after["engines"][0]), name="tensorrt-fp16"))
    paths = [write(tmp_path, "a.json", before), write(tmp_path, "b.json", after)]
    with pytest.raises(GotWorse, match="openvino-bf16"):
        cli.main(["compare"] + paths + ["--fail-above", "50"])
    text = capsys.readouterr().out
    assert "openvino-bf16  was measured before, not now" in text
    assert "tensorrt-fp16  was not measured before" in text


def test_runs_that_cannot_be_compared_are_said_loudly(tmp_path, capsys):
    before, after = document(0), document(1)
    after.update(bundle_id="other", batches=[1, 16], partial=True, busy_share=0.5, load_average=0.1, photos="train")
    before["load_average"] = 3.0  # of what the user ran before: nobody's disturbance
    after["machine"] = dict(after["machine"], cpu="another")
    after["libraries"] = {"numpy": "2"}
    after["clocks"] = dict(after["clocks"], power_mode="MAXN")
    cli.main(["compare", write(tmp_path, "a.json", before), write(tmp_path, "b.json", after)])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("NOT THE SAME: ")]
    for what in ("the machine: cpu c", "the bundle: abc; other", "--batch: 1,4,8; 1,16", "the libraries", "the clocks"):
        assert any(what in line for line in said), what
    assert any("the second run was stopped before its end" in line for line in said)
    assert any("other programs kept 50 % of the cores busy before the second run" in line for line in said)
    assert len(said) == 8


@pytest.mark.parametrize(
    "data, why",
    [
        (b"", "JSON"),
        (b"[" * 100000, "JSON"),
        (b"[]", "format_version 2.* None"),
        (b'{"format_version": 1, "engines": []}', "format_version 2.* 1"),
        (b'{"format_version": 2, "engines": [{"name": "x"}]}', "b.json: "),
        (b'{"format_version": 2, "engines": [7]}', "b.json: "),
    ],
)
def test_what_is_no_document_exits_with_2(tmp_path, data, why):
    good = write(tmp_path, "a.json", document(0))
    with pytest.raises(UsageError, match=why):
        cli.main(["compare", good, helpers.write_bytes(tmp_path / "b.json", data)])


def test_a_missing_document_and_senseless_percents_exit_with_2(tmp_path, capsys):
    with pytest.raises(UsageError, match="gone.json: "):
        cli.main(["compare", str(tmp_path / "gone.json"), str(tmp_path / "gone.json")])
    for percent in ("-1", "nan", "x"):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["compare", "a", "b", "--fail-above=" + percent])
        assert stopped.value.code == 2


def test_runs_without_an_engine_in_common_are_compared_without_a_crash():
    before, after = document(0), document(1)
    before["engines"] = []
    found = compare.compare(before, after)
    assert found["figures"] == [] and len(found["new"]) == 5 and found["machine_change"] is None


def test_the_trial_counts_what_was_reported_and_what_was_not(tiny_bundle, monkeypatch, capsys):
    runs = []

    def run(bundle, engine, plan):
        planted = plan.opener is compare_trial.open_slower
        runs.append(planted)
        return document(len(runs), slower=list(ENGINES) if planted else [], factor=1.15)

    monkeypatch.setattr(compare_trial, "_run", run)
    compare_trial.main([tiny_bundle, "--engine", "onnxruntime", "--tries", "2"])
    assert runs == [False, True, False, True, False]
    last = capsys.readouterr().out.splitlines()[-2:]
    assert last == [
        "nothing changed: no change reported in 2 of 2 tries",
        "15 % planted: reported in 2 of 2 tries",
    ]


def test_a_planted_engine_takes_longer_and_answers_the_same(tiny_bundle, monkeypatch):
    monkeypatch.setattr(compare_trial, "SLOWER", 30.0)
    bundle = Bundle.open(tiny_bundle)
    pictures = bundle.sample().images[:4]
    with open_engine(bundle, "onnxruntime", 4) as plain, compare_trial.open_slower(bundle, "onnxruntime", 4) as slower:
        assert np.array_equal(plain.infer(pictures), slower.infer(pictures))
        assert np.array_equal(plain.infer(pictures), slower.collect(slower.submit(pictures)))

        def fastest_s(engine):
            taken = []
            for _ in range(5):
                started = time.perf_counter()
                engine.infer(pictures)
                taken.append(time.perf_counter() - started)
            return min(taken)

        assert fastest_s(slower) > 3 * fastest_s(plain)


def test_a_real_run_of_the_trial(tiny_bundle, monkeypatch):
    monkeypatch.setattr(turns, "COLD_STARTS", 0)
    monkeypatch.setattr(turns, "MIN_WINDOWS", 3)
    monkeypatch.setattr(turns, "MAX_WINDOWS", 3)
    bundle = Bundle.open(tiny_bundle)
    options = cli.parser().parse_args([tiny_bundle, "--seconds", "0.03", "--batch", "2"])
    plan = make_plan(bundle, options, tiny_bundle)
    result = compare_trial._run(bundle, "onnxruntime", plan._replace(opener=compare_trial.open_slower))
    assert len(result["engines"][0]["windows"]) == 9
    assert len(compare.compare(result, result)["figures"]) == 8


def test_measurements_that_are_gone_and_engines_that_stopped_are_lost():
    before, after = document(0), document(1)
    first, second = after["engines"][:2]
    first["windows"] = [window for window in first["windows"] if window["point"] != "end_to_end"]
    second["stopped"] = "its process crashed"
    found = compare.compare(before, after)
    lost = ["onnxruntime-fp32 end_to_end", "openvino-fp32 (stopped: its process crashed)"]
    assert found["lost"] == lost
    assert compare.failures(found, 50) == [name + " is not measured any more" for name in lost]
    before["engines"][1]["stopped"] = "its process crashed then, too"
    assert compare.compare(before, after)["lost"] == lost[:1]
    assert compare.compare(after, after)["lost"] == []


def test_the_document_that_is_garbled_is_named(tmp_path):
    before, after = document(0), document(1)
    after["engines"][0]["windows"][0]["photos"] = 0
    with pytest.raises(UsageError, match="b.json: "):
        cli.main(["compare", write(tmp_path, "a.json", before), write(tmp_path, "b.json", after)])
    after["engines"][0]["windows"][0].update(photos=40, reference_ms=float("inf"))
    with pytest.raises(UsageError, match="b.json: .*reference_ms"):
        cli.main(["compare", write(tmp_path, "a.json", before), write(tmp_path, "b.json", after)])
