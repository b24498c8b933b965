"""bench --against: what it reports of two that differ and of two that do not, and what it refuses."""

import json
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.bench import against, cli, machine_state, plan, turns, verdict
from benchmarks.experiments import compare_trial
from edge_runtime.errors import GotWorse, MissingRequirement, UsageError
from tests import helpers
from tests.benchmarks.bench import stub_engines

QUICK = ["--seconds", "0.02", "--batch", "1"]
ALL = ["images_per_s b1", "images_per_s b8", "images_per_s end_to_end", "images_per_s all", "p50_ms b1"]
ALL += ["cpu_s_per_image end_to_end", "cpu_s_per_image all"]


@pytest.fixture
def one_round(monkeypatch):
    monkeypatch.setattr(against, "MIN_ROUNDS", 1)
    monkeypatch.setattr(against, "MAX_ROUNDS", 1)


@pytest.fixture
def made_up(monkeypatch):
    """made_up({engine: ms per photo}): windows are made up, no process is started, and opened engines are counted."""
    opened = []

    def use(speeds_ms):
        chance = np.random.RandomState(0)

        def open_subject(bundle, subject, plan, scratch, code=""):
            name = "onnxruntime" if subject.name == "auto" else subject.name
            opened.append(name)
            subject.batches = plan.batches if name != "onnxruntime-int8" else [1]
            subject.skipped_batches = {"b8": "made for 1"} if name == "onnxruntime-int8" else {}
            subject.facts.update(name=name)

        def measure_window(subject, point, seconds, state):
            took_ms = speeds_ms[subject.name] * np.exp(0.02 * chance.randn())
            window = {"point": point, "images_per_s": 1000 / took_ms, "p50_ms": took_ms}
            subject.windows.append(dict(window, cpu_s=took_ms / 500, photos=1, **state))

        def measure_energy(subject, point, seconds, power):
            joules = speeds_ms[subject.name] * np.exp(0.02 * chance.randn())
            subject.energy[point] = {"joules": 100 * joules, "photos": 100}

        monkeypatch.setattr(turns, "open_subject", open_subject)
        monkeypatch.setattr(turns, "measure_window", measure_window)
        monkeypatch.setattr(turns, "measure_energy", measure_energy)
        monkeypatch.setattr(against, "check_engine", lambda bundle, info: info)
        return opened

    return use


@pytest.fixture
def two_engines(tiny_bundle):
    for name in ("onnxruntime-fp32", "onnxruntime-int8"):
        os.makedirs(os.path.join(tiny_bundle, "engines", name))
    return tiny_bundle


def against_json(capsys, *arguments):
    cli.main(list(arguments) + ["--json"])
    return json.loads(capsys.readouterr().out)


def pairs(ratio, noise=0.01, count=20):
    chance = np.random.RandomState(0)
    return [(ratio * np.exp(noise * chance.randn()), 1.0) for _ in range(count)]


def test_a_change_has_a_size_a_direction_and_an_interval():
    slower, faster, same, small = verdict.judge(
        [
            ("p50_ms b1", False, pairs(1.15)),
            ("images_per_s b1", True, pairs(1.15)),
            ("images_per_s b8", True, pairs(1.0)),
            ("images_per_s end_to_end", True, pairs(0.97)),
        ]
    )
    assert slower.changed and slower.worse and faster.changed and not faster.worse
    assert slower.low < slower.ratio < slower.high and slower.ratio == pytest.approx(1.15, rel=0.01)
    assert slower.this == pytest.approx(1.15, rel=0.01) and slower.other == 1.0 and len(slower.ratios) == 20
    assert not same.changed
    assert small.p < 1e-4 and not small.worse and not small.changed  # real, and too small to matter
    assert [one.verdict for one in (slower, faster, same)] == ["worse", "better", "no change beyond noise"]
    (asked,) = verdict.judge([("images_per_s b1", True, pairs(0.97))], least_change=0.02)
    assert asked.changed and asked.worse


@pytest.mark.parametrize("kind", list(compare_trial.NOISES))
def test_simulated_noise_makes_no_verdict_and_hides_none(kind):
    assert compare_trial.count_reports(kind, 20, 0.0, in_turns=True) <= 1
    assert compare_trial.count_reports(kind, 20, compare_trial.SLOWER, in_turns=True) >= 19


def test_runs_one_after_the_other_would_report_the_machine():
    steps = next(kind for kind in compare_trial.NOISES if kind.startswith("steps"))
    assert compare_trial.count_reports(steps, 20, 0.0, in_turns=False) > 10


def test_fail_above_less_than_the_least_change_finds_smaller_ones(two_engines, made_up, capsys):
    made_up({"onnxruntime": 20.8, "onnxruntime-fp32": 20.0})
    random.seed(0)
    words = [two_engines, "--engine", "onnxruntime", "--against", "onnxruntime-fp32", "--batch", "8", "--fail-above"]
    with pytest.raises(GotWorse, match="more than 2 %"):
        cli.main(words + ["2"])
    assert "and 2 % or more" in capsys.readouterr().out
    cli.main(words + ["5"])
    assert "worse |" not in capsys.readouterr().out


def test_figures_that_one_side_lacks_are_left_out():
    def windows(points, **changes):
        window = {"images_per_s": 50.0, "p50_ms": 20.0, "cpu_s": 0.4, "photos": 10, **changes}
        ends = {"end_to_end": dict(window, joules_per_image=0.5)} if not changes else {}
        return [dict(ends.get(point, window), point=point) for point in points for _ in range(3)]

    both = verdict.rounds_of(windows(["b1", "b8", "end_to_end"]), windows(["b1", "end_to_end"]))
    names = ["p50_ms b1", "images_per_s b1", "images_per_s end_to_end", "images_per_s all"]
    names += ["cpu_s_per_image end_to_end", "cpu_s_per_image all", "joules_per_image end_to_end"]
    assert [name for name, _, _ in both] == names
    assert [higher for _, higher, _ in both] == [False, True, True, True, False, False, False]
    assert both[0][2] == [(20.0, 20.0)] * 3 and both[3][2] == [pytest.approx((50.0, 50.0))] * 3
    unmetered = windows(["b1", "end_to_end"], joules_per_image=None)
    assert [name for name, _, _ in verdict.rounds_of(unmetered, unmetered)] == names[:-1]
    assert verdict.rounds_of([], []) == []


def test_a_slower_engine_is_worse_and_the_faster_one_better(two_engines, made_up, capsys):
    opened = made_up({"onnxruntime": 23.0, "onnxruntime-fp32": 20.0})
    words = [two_engines, "--engine", "onnxruntime", "--against", "onnxruntime-fp32", "--batch", "8", "--fail-above"]
    with pytest.raises(GotWorse, match=r"more than 10 %: .*images_per_s b1 4"):
        cli.main(words + ["10"])
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines[2:9]}
    assert set(rows) == set(ALL)
    for this, other, ratio, interval, rounds, judged in rows.values():
        low, high = map(float, interval.split(" to "))
        assert judged == "worse" and rounds == "24" and low <= float(ratio) <= high
        assert float(ratio) == pytest.approx(float(this) / float(other), rel=0.05)
    assert "This: %s, onnxruntime. Other: %s, onnxruntime-fp32." % (two_engines, two_engines) in lines[-1]
    # Both once before the rounds; then both anew in each round, the one or the other first.
    assert len(opened) == 50 and len({tuple(opened[place : place + 2]) for place in range(2, 50, 2)}) == 2
    cli.main(words + ["20"])
    cli.main([two_engines, "--engine", "onnxruntime-fp32", "--against", "onnxruntime", "--fail-above", "0"])
    assert capsys.readouterr().out.count(" better |") == 8


def test_nothing_changed(two_engines, made_up, capsys):
    made_up({"onnxruntime": 20.0, "onnxruntime-fp32": 20.0})
    random.seed(0)  # one run in fifty may report a change
    words = [two_engines, "--against", "onnxruntime-fp32", "--batch", "8", "--fail-above"]
    result = against_json(capsys, *words + ["0"])
    assert [side["engine"] for side in result["sides"]] == ["onnxruntime", "onnxruntime-fp32"]
    for figure in result["figures"]:
        assert not figure["changed"] and figure["ratio"] == pytest.approx(1.0, abs=0.04)
        assert len(figure["ratios"]) == result["rounds"] == result["rounds_done"] == 24
    assert result["interrupted"] is False
    assert against_json(capsys, *words + ["0", "--seconds", "5"])["rounds"] == 40


def test_a_checkout_s_own_code_runs_in_its_worker(tiny_bundle, tmp_path, one_round, capsys):
    """Each call of the copy sleeps: it cannot be faster than that."""
    copy = str(tmp_path / "copy")
    compare_trial.write_checkout(copy)
    with open(os.path.join(copy, "edge_runtime", "engines", "onnxruntime.py"), "a") as file:
        file.write(
            "\n\n_infer = create._infer\n\n\ndef _slower(self, batch):\n    import time\n\n    time.sleep(0.01)\n"
        )
        file.write("    return _infer(self, batch)\n\n\ncreate._infer = _slower\n")
    result = against_json(capsys, tiny_bundle, "--against", copy, *QUICK)
    assert result["sides"][1] == dict(result["sides"][0], title="the code in " + copy, code=copy)
    figures = {figure["name"]: figure for figure in result["figures"]}
    assert figures["p50_ms b1"]["other"] >= 10 and result["notes"] == []
    assert not any(figure["changed"] for figure in figures.values())  # of one round


def test_measuring_code_that_differs_is_said(tiny_bundle, tmp_path, made_up, capsys):
    made_up({"onnxruntime": 20.0})
    compare_trial.write_checkout(str(tmp_path / "copy"))
    with open(str(tmp_path / "copy" / "benchmarks" / "bench" / "measure.py"), "a") as file:
        file.write("\n")
    cli.main([tiny_bundle, "--against", str(tmp_path / "copy")])
    assert "measure.py is not the same" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["import nonsense", "Task = None"])
def test_a_checkout_that_does_not_fit_is_named(tiny_bundle, tmp_path, text):
    helpers.write_bytes(tmp_path / "odd" / "setup.py", b"")
    for name in ("__init__.py", "bench/__init__.py", "bench/worker.py"):
        helpers.write_bytes(tmp_path / "odd" / "benchmarks" / name, text.encode() if "worker" in name else b"")
    helpers.write_bytes(tmp_path / "odd" / "benchmarks" / "bench" / "measure.py", b"")
    with pytest.raises(MissingRequirement, match="the code in .*odd"):
        cli.main([tiny_bundle, "--against", str(tmp_path / "odd")] + QUICK)


def test_a_checkout_without_the_timing_code_is_named_and_not_a_traceback(tiny_bundle, tmp_path):
    compare_trial.write_checkout(str(tmp_path / "copy"))
    os.unlink(str(tmp_path / "copy" / "benchmarks" / "bench" / "measure.py"))
    with pytest.raises(MissingRequirement, match="the code in .*measure"):
        cli.main([tiny_bundle, "--against", str(tmp_path / "copy")] + QUICK)


@pytest.mark.parametrize("package", ["benchmarks", "edge_runtime"])
def test_a_folder_in_whose_place_other_code_would_run_is_refused(tiny_bundle, tmp_path, package):
    compare_trial.write_checkout(str(tmp_path / "copy"))
    os.unlink(str(tmp_path / "copy" / package / "__init__.py"))
    with pytest.raises(MissingRequirement, match="does not find %s in it" % package):
        cli.main([tiny_bundle, "--against", str(tmp_path / "copy")] + QUICK)


def test_another_bundle_is_opened_with_the_same_engine(two_engines, made_up, tmp_path, capsys):
    made_up({"onnxruntime-fp32": 20.0})
    other = shutil.copytree(two_engines, str(tmp_path / "other"))
    result = against_json(capsys, two_engines, "--engine", "onnxruntime-fp32", "--against", other)
    assert [side["engine"] for side in result["sides"]] == ["onnxruntime-fp32"] * 2
    assert [side["title"] for side in result["sides"]] == [two_engines, other]
    os.rmdir(os.path.join(other, "engines", "onnxruntime-fp32"))
    with pytest.raises(UsageError, match="has no engine onnxruntime-fp32"):
        cli.main([two_engines, "--engine", "onnxruntime-fp32", "--against", other])


def test_what_was_measured_before_ctrl_c_is_printed(two_engines, made_up, monkeypatch, capsys):
    made_up({"onnxruntime": 40.0, "onnxruntime-fp32": 20.0})
    measure, calls = turns.measure_window, []

    def measure_window(*arguments):
        calls.append(1)
        if len(calls) == 20:  # in the fourth round of six windows
            raise KeyboardInterrupt
        measure(*arguments)

    monkeypatch.setattr(turns, "measure_window", measure_window)
    with pytest.raises(KeyboardInterrupt):
        cli.main([two_engines, "--engine", "onnxruntime", "--against", "onnxruntime-fp32", "--batch", "8"])
    text = capsys.readouterr().out
    assert "Stopped after 3 of 24 rounds." in text and "So few rounds cannot show a change." in text
    assert "worse" not in text and "0.5" in text
    assert "cannot be told" in text and "no change beyond noise" not in text
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        against_json(capsys, two_engines, "--against", "onnxruntime-fp32", "--batch", "8")
    result = json.loads(capsys.readouterr().out)
    assert result["interrupted"] is True and (result["rounds_done"], result["rounds"]) == (3, 24)
    assert {figure["verdict"] for figure in result["figures"]} == {"cannot be told"}
    assert not any(figure["worse"] for figure in result["figures"])


def test_an_engine_that_fails_on_the_way_is_named(tiny_bundle, one_round, monkeypatch):
    monkeypatch.setattr(plan, "open_engine", stub_engines.open_failing)
    words = [tiny_bundle, "--engine", "onnxruntime", "--against", "onnxruntime", "--batch", "1", "--seconds", "3"]
    with pytest.raises(MissingRequirement, match="onnxruntime cannot be measured: .*planted"):
        cli.main(words)


def test_a_batch_that_one_of_them_cannot_take_is_left_out_and_said(two_engines, made_up, capsys):
    made_up({"onnxruntime": 20.0, "onnxruntime-int8": 20.0})
    cli.main([two_engines, "--engine", "onnxruntime", "--against", "onnxruntime-int8", "--batch", "8"])
    text = capsys.readouterr().out
    assert "images_per_s b1 " in text and "images_per_s b8" not in text
    assert "onnxruntime-int8 b8 skipped: made for 1" in text


def test_energy_is_a_figure_where_it_is_metered(two_engines, made_up, monkeypatch, capsys):
    made_up({"onnxruntime": 23.0, "onnxruntime-fp32": 20.0})
    monkeypatch.setattr(machine_state, "measure_idle", lambda: (0.0, {"source": "ina3221"}))
    words = [two_engines, "--engine", "onnxruntime", "--against", "onnxruntime-fp32"]
    (figure,) = [one for one in against_json(capsys, *words)["figures"] if one["name"].startswith("joules")]
    assert figure["name"] == "joules_per_image end_to_end" and figure["changed"] and figure["worse"]
    assert figure["this"] == pytest.approx(23, rel=0.05) and len(figure["ratios"]) == 24


def test_a_busy_machine_and_noise_that_hides_much_are_said(tiny_bundle, made_up, one_round, monkeypatch, capsys):
    made_up({"onnxruntime": 20.0})
    monkeypatch.setattr(machine_state, "measure_idle", lambda: (0.6, {"unavailable": "none"}))
    cli.main([tiny_bundle, "--against", "onnxruntime", "--fail-above", "5"])
    said = capsys.readouterr().err
    assert "other programs keep 60 %" in said and "worse is possible" in said


@pytest.mark.parametrize(
    "words, why",
    [
        (["--fail-above", "10"], "--against OTHER --fail-above 10"),
        (["--against", "nosuch"], "engines of .* are onnxruntime"),
        (["--against", "."], "neither a bundle nor a checkout"),
        (["--against", "onnxruntime", "--engine", "onnxruntime", "auto"], "one engine at a time"),
        (["--against", "onnxruntime", "--engine", "nosuch"], "has no engine nosuch"),
        (["--against", "onnxruntime", "--report", "x"], "--report does not go with --against"),
        (["--against", "onnxruntime", "--rivals"], "--rivals does not go with --against"),
    ],
)
def test_what_cannot_be_compared_exits_with_2(tiny_bundle, tmp_path, monkeypatch, words, why):
    monkeypatch.chdir(tmp_path)
    os.makedirs("empty")
    monkeypatch.chdir("empty")
    with pytest.raises(UsageError, match=why):
        cli.main([tiny_bundle] + words)


@pytest.mark.parametrize("percent", ["-1", "nan", "x"])
def test_senseless_percents_exit_with_2(tiny_bundle, percent):
    with pytest.raises(SystemExit) as stopped:
        cli.main([tiny_bundle, "--against", "onnxruntime", "--fail-above=" + percent])
    assert stopped.value.code == 2


def test_the_trial_counts_what_the_command_says(tiny_bundle, tmp_path, monkeypatch, capsys):
    """The command is a stand-in: of two tries, one of each kind goes wrong."""
    program = "import json, os, sys; n = len(os.listdir(%r)); open(os.path.join(%r, str(n)), 'w').close()\n"
    program += "changed = n in (1, 2)\n"
    program += "print(json.dumps({'figures': [{'name': 'f', 'ratio': 1, 'low': 1, 'high': 1, 'changed': changed}]}))\n"
    program += "sys.exit(7 if changed else 0)\n"
    helpers.write_bytes(tmp_path / "command" / "picnic_edge.py", (program % ((str(tmp_path / "runs"),) * 2)).encode())
    os.makedirs(str(tmp_path / "runs"))
    stand_in = str(tmp_path / "command")
    monkeypatch.setattr(compare_trial, "write_checkout", lambda folder, slower: shutil.copytree(stand_in, folder))
    compare_trial.main([tiny_bundle, "--tries", "2"])
    last = capsys.readouterr().out.splitlines()[-2:]
    assert last == [
        "nothing changed: no change reported in 1 of 2 tries",
        "15 % planted: exit code 7 in 1 of 2 tries",
    ]


def test_the_trial_s_slower_copy_takes_longer_and_answers_the_same(tiny_bundle, tmp_path):
    """Six times as long, in place of 15 %: a busy machine cannot hide it."""
    copy = str(tmp_path / "copy")
    compare_trial.write_checkout(copy, slower=True)
    path = os.path.join(copy, "edge_runtime", "engines", "selection.py")
    with open(path) as file:
        text = file.read().replace("+ 0.15 *", "+ 5 *")
    helpers.write_bytes(path, text.encode())
    program = """
import sys, time
from edge_runtime.bundle.reading import Bundle
from edge_runtime.engines import selection
bundle = Bundle.open(sys.argv[1])
pictures = bundle.sample().images[:4]
plain = selection.open_engine.__kwdefaults__["open_plain"](bundle, "onnxruntime", 4)
slower = selection.open_engine(bundle, "onnxruntime", 4)
assert (plain.infer(pictures) == slower.infer(pictures)).all()
assert (plain.infer(pictures) == slower.collect(slower.submit(pictures))).all()
def fastest_s(engine):
    taken_s = []
    for _ in range(3):
        started = time.perf_counter()
        engine.infer(pictures)
        taken_s.append(time.perf_counter() - started)
    return min(taken_s)
assert fastest_s(slower) > 2 * fastest_s(plain)
"""
    subprocess.check_call([sys.executable, "-c", program, tiny_bundle], cwd=copy, env=dict(os.environ, PYTHONPATH=copy))


def test_a_trial_of_nothing_exits_with_2():
    with pytest.raises(UsageError, match="--simulated"):
        compare_trial.main([])
