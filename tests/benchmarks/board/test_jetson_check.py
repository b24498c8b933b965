"""make jetson-check: goes on after what fails, hangs or is missing, and leaves a whole report at every moment."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import commands as benchmarks_commands
from benchmarks.bench import cli as bench_cli
from benchmarks.board import jetson_check
from benchmarks.board.jetson_check import Step
from convert import cli as convert_cli
from edge_runtime.cli import classify
from tests.helpers import ROOT, is_running

BUNDLE = os.path.join(ROOT, "tests", "data", "bundle-0.1.0")  # no step of these tests writes into it


def report_of(path):
    with open(str(path), encoding="utf-8") as file:
        return json.load(file)


def python(code):
    return [sys.executable, "-c", code]


@pytest.fixture
def only(monkeypatch):
    """A function: Steps -> they and no others are run."""
    return lambda *steps: monkeypatch.setattr(jetson_check, "steps", lambda bundle, photos, scratch: list(steps))


def test_what_fails_hangs_or_is_missing_is_written_down_and_the_next_step_runs(only, tmp_path, capsys):
    only(
        Step("missing", ["no-such-tool-anywhere"], 9, False),
        Step("fails", python("import sys; print('some'); sys.exit('planted reason')"), 9, True),
        Step("hangs", python("print('begun', flush=True); import time; time.sleep(60)"), 1, True),
        Step("dies", python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), 9, True),
        Step("works", python("print('fine')"), 9, True),
    )
    out = tmp_path / "report.json"
    assert jetson_check.main([BUNDLE, "--out", str(out)]) == 3
    steps = {step["name"]: step for step in report_of(out)["steps"]}
    assert [step["exit_code"] for step in steps.values()] == [None, 1, None, -9, 0]
    assert steps["missing"]["problem"].startswith("cannot be started: ")
    assert steps["fails"]["stdout"] == "some\n" and steps["fails"]["stderr"] == "planted reason\n"
    assert steps["hangs"]["problem"] == "stopped after 1 s" and steps["hangs"]["stdout"] == "begun\n"
    assert steps["works"]["stdout"] == "fine\n"
    said = capsys.readouterr().err
    assert "failed   fails (" in said and "exit code 1: planted reason" in said
    assert "These steps failed: fails, hangs, dies\n" in said
    assert "ok       works (" in said and "The report to send back: %s" % out in said


def test_at_its_limit_a_step_may_write_what_it_has(only, tmp_path):
    """Also where the check runs in a shell's background, whose programs ignore SIGINT."""
    code = "import time\ntry:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    print('kept')"
    only(Step("interrupted", python(code), 1, True))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert jetson_check.main([BUNDLE, "--out", str(tmp_path / "r")]) == 3
    finally:
        signal.signal(signal.SIGINT, before)
    (step,) = report_of(tmp_path / "r")["steps"]
    assert (step["exit_code"], step["problem"], step["stdout"]) == (None, "stopped after 1 s", "kept\n")


def test_a_step_that_ignores_its_interruption_is_killed(only, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks_commands, "GRACE_S", 0.2)
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('on', flush=True); time.sleep(600)"
    only(Step("stubborn", python(code), 1, True))
    assert jetson_check.main([BUNDLE, "--out", str(tmp_path / "r")]) == 3
    (step,) = report_of(tmp_path / "r")["steps"]
    assert step["problem"] == "stopped after 1 s" and step["stdout"] == "on\n" and step["seconds"] < 60


def test_children_of_a_step_that_hangs_are_ended_too(only, tmp_path):
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True)\n"
    only(Step("hangs", python(code + "import time; time.sleep(600)"), 2, True))
    assert jetson_check.main([BUNDLE, "--out", str(tmp_path / "r")]) == 3
    (step,) = report_of(tmp_path / "r")["steps"]
    deadline = time.monotonic() + 60  # the system may take its time to end a process
    while is_running(step["stdout"].strip()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(step["stdout"].strip())


def test_the_report_is_whole_after_every_step(only, tmp_path):
    out = str(tmp_path / "report.json")
    look = "import json; print(len(json.load(open(%r))['steps']))" % out
    only(*[Step(str(number), python(look), 9, True) for number in range(3)])
    assert jetson_check.main([BUNDLE, "--out", out]) == 0
    assert [step["stdout"] for step in report_of(out)["steps"]] == ["0\n", "1\n", "2\n"]


def test_the_report_keeps_the_engines_records(only, tmp_path):
    os.makedirs(str(tmp_path / "b" / "engines" / "tensorrt-fp16"))
    os.makedirs(str(tmp_path / "b" / "engines" / "half"))
    (tmp_path / "b" / "engines" / "tensorrt-fp16" / "engine.json").write_text('{"kind": "tensorrt"}')
    (tmp_path / "b" / "manifest.json").write_text("{}")
    only(Step("works", python("pass"), 9, True))
    jetson_check.main([str(tmp_path / "b"), "--out", str(tmp_path / "r")])
    assert report_of(tmp_path / "r")["engines"] == {"tensorrt-fp16": '{"kind": "tensorrt"}', "half": None}


def test_the_report_keeps_the_figures_of_the_bench_whole_but_for_its_windows(tmp_path, monkeypatch, capsys):
    code = (
        "import json, sys\n"
        "engines = [{'name': str(n), 'latency_p50_ms': 26.3, 'windows': [0.1] * 9000} for n in range(9)]\n"
        "json.dump({'engines': engines, 'power': {'mean_w': 2.1}}, open(sys.argv[1], 'w'))"
    )

    def steps(bundle, photos, scratch):
        os.mkdir(os.path.join(scratch, "bench"))
        return [Step("bench", python(code) + [os.path.join(scratch, "bench", "bench.json")], 9, True)]

    monkeypatch.setattr(jetson_check, "steps", steps)
    assert jetson_check.main([BUNDLE, "--out", str(tmp_path / "r")]) == 0
    assert "bench: 8: p50 ms at batch 1 26.3\n" in capsys.readouterr().err
    kept = report_of(tmp_path / "r")["bench"]
    assert [engine["name"] for engine in kept["engines"]] == list("012345678")
    assert kept["engines"][8] == {"name": "8", "latency_p50_ms": 26.3} and kept["power"] == {"mean_w": 2.1}
    for text in ("[1, 2]", "{", '{"engines": [7]}'):
        (tmp_path / "odd.json").write_text(text)
        assert jetson_check._bench_figures(str(tmp_path / "odd.json")) is None
    assert jetson_check._bench_figures(str(tmp_path / "gone.json")) is None


def test_the_outcome_is_the_reason_that_the_product_gave():
    step = {
        "name": "convert",
        "exit_code": 4,
        "seconds": 1,
        "problem": "",
        "stderr": "W x\npicnic-edge: no y\nTo get it: z\n",
    }
    assert jetson_check.summary(step) == "failed   convert (1.0 s): exit code 4: picnic-edge: no y"
    assert jetson_check.summary(dict(step, stderr="")).endswith("exit code 4: no message")


def test_a_long_stream_loses_its_middle(only, tmp_path):
    only(Step("talks", python("print('a' * 50000 + 'end')"), 9, True))
    jetson_check.main([BUNDLE, "--out", str(tmp_path / "r")])
    kept = report_of(tmp_path / "r")["steps"][0]["stdout"]
    assert len(kept) < 21000 and kept.startswith("aaa") and kept.endswith("end\n") and "characters left out" in kept


def test_a_long_step_gives_signs_of_life(only, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks_commands, "HEARTBEAT_S", 0.1)
    only(Step("slow", python("import time; time.sleep(0.5)"), 9, True))
    jetson_check.main([BUNDLE, "--out", str(tmp_path / "r")])
    assert "still running (" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_told_before_the_work(only, tmp_path, capsys):
    only(Step("never", python("raise SystemExit(9)"), 9, True))
    assert jetson_check.main([BUNDLE, "--out", str(tmp_path / "no" / "folder" / "r")]) == 2
    said = capsys.readouterr().err
    assert "cannot be written (No such file or directory)" in said and "==" not in said


def test_the_steps_are_what_could_only_be_simulated():
    names = [step.name for step in jetson_check.steps("b", "p", "s")]
    for kind in ("tensorrt-fp16", "tensorrt-fp16-b1", "tf-trt-fp16"):
        assert names.index("convert " + kind) < names.index("classify " + kind) < names.index("bench")
    assert names.index("bench tensorrt-fp16") < names.index("convert onnxruntime-fp32"), "TensorRT alone comes first"
    assert {"doctor", "opencv", "nvpmodel -q", "convert tensorrt-int8", "bench tensorrt-fp16-b1"} <= set(names)
    settings = {"bench tensorrt-fp16 PICNIC_EDGE_JPEG=hardware", "bench tensorrt-fp16 PICNIC_EDGE_ZERO_COPY=1"}
    assert settings <= set(names)
    steps = {step.name: step for step in jetson_check.steps("b", "p", "s")}
    assert len(steps) == len(names), "a step's name is its key in the report"
    assert not steps["classify csi:0"].must and not steps["classify camera:0"].must
    commands = [" ".join(step.command[3:]) for step in steps.values()]
    assert "convert b --to tf-trt --precision fp16" in commands
    assert "convert b --to tensorrt --precision fp16 --max-batch 1" in commands
    assert "bench b --images p --report " + os.path.join("s", "bench") in commands


def test_every_step_is_a_command_that_the_product_knows():
    """Its options are read; nothing is run."""
    for step in jetson_check.steps("b", "p", "s"):
        words = step.command[2:] if step.command[0] == "env" else step.command
        if words[1:3] == ["-m", "picnic_edge"]:
            verb = {"convert": convert_cli, "classify": classify, "bench": bench_cli}.get(words[3])
            if verb:
                verb.parser().parse_args(words[4:])


def test_it_runs_where_nothing_of_the_product_can_be_imported(tmp_path):
    out = str(tmp_path / "r")
    os.symlink(os.path.join(ROOT, "benchmarks"), str(tmp_path / "benchmarks"))
    (tmp_path / "picnic_edge.py").write_text("import no_such_module")
    done = subprocess.run(
        [
            sys.executable,
            "-S",
            "-E",
            "-m",
            "benchmarks.board.jetson_check",
            BUNDLE,
            "--out",
            out,
        ],  # -S: no installed packages
        cwd=str(tmp_path),
        env={"PATH": "/nowhere", "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=300,
    )
    assert done.returncode == 3, done.stderr.decode()
    steps = {step["name"]: step for step in report_of(out)["steps"]}
    assert len(steps) == len(jetson_check.steps("b", "p", "s"))
    assert steps["classify tensorrt-fp16"]["problem"] == "left out, because convert tensorrt-fp16 failed"
    assert steps["doctor"]["exit_code"] == 1 and "No module named" in steps["doctor"]["stderr"]


@pytest.mark.slow
def test_a_machine_that_lacks_everything_gets_a_report_that_says_so(tmp_path):
    out, bundle = tmp_path / "report.json", tmp_path / "bundle"
    shutil.copytree(BUNDLE, str(bundle))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.board.jetson_check", str(bundle), "--out", str(out)],
        env=dict(os.environ, PYTHONPATH=ROOT, PATH="/nowhere"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=600,
    )
    assert done.returncode == 3, done.stderr.decode()
    report = report_of(out)
    steps = {step["name"]: step for step in report["steps"]}
    assert steps["doctor"]["exit_code"] == 0
    assert steps["nvpmodel -q"]["problem"].startswith("cannot be started")
    assert steps["convert tensorrt-fp16"]["exit_code"] == 4
    assert json.loads(steps["doctor"]["stdout"])["checks"]


def test_ctrl_c_keeps_the_running_step_and_its_figures(tmp_path):
    """The signal goes to the check alone, as from a terminal: the step is in a session of its own."""
    (tmp_path / "step.py").write_text(
        "import json, os, signal, sys, time\n"
        "try:\n    os.kill(os.getppid(), signal.SIGINT); time.sleep(600)\n"
        "except KeyboardInterrupt:\n"
        "    json.dump({'engines': [{'name': 'e', 'latency_p50_ms': 26.3}]}, open(sys.argv[1], 'w'))\n"
    )
    script = tmp_path / "run.py"
    script.write_text(
        "import os, sys\n"
        "from benchmarks.board import jetson_check as check\n"
        "def steps(bundle, photos, scratch):\n"
        "    os.mkdir(os.path.join(scratch, 'bench'))\n"
        "    command = [sys.executable, %r, os.path.join(scratch, 'bench', 'bench.json')]\n"
        "    return [check.Step('bench', command, 60, True), check.Step('never', ['true'], 9, True)]\n"
        "check.steps = steps\n"
        "sys.exit(check.main(sys.argv[1:]))\n" % str(tmp_path / "step.py")
    )
    done = subprocess.run(
        [sys.executable, str(script), BUNDLE, "--out", str(tmp_path / "r")],
        env=dict(os.environ, PYTHONPATH=ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=120,
    )
    said = done.stderr.decode()
    assert done.returncode == 130 and "Traceback" not in said, said
    (step,) = report_of(tmp_path / "r")["steps"]
    assert (step["name"], step["exit_code"], step["problem"]) == ("bench", None, "interrupted")
    assert report_of(tmp_path / "r")["bench"]["engines"][0]["latency_p50_ms"] == 26.3
    assert "bench: e: p50 ms at batch 1 26.3\n" in said and "The report to send back" in said


def test_what_needs_a_step_that_failed_is_left_out(only, tmp_path, capsys):
    only(
        Step("convert x", python("raise SystemExit(4)"), 9, False),
        Step("classify x", python("print('ran')"), 9, True, "convert x"),
        Step("works", python("pass"), 9, True),
    )
    assert jetson_check.main([BUNDLE, "--out", str(tmp_path / "r")]) == 0
    steps = {step["name"]: step for step in report_of(tmp_path / "r")["steps"]}
    assert steps["classify x"]["problem"] == "left out, because convert x failed" and not steps["classify x"]["stdout"]
    assert "left out classify x: because convert x failed" in capsys.readouterr().err


@pytest.mark.parametrize("is_there", [True, False])
def test_tf_trt_must_work_only_where_tensorflow_is(monkeypatch, is_there):
    monkeypatch.setattr(jetson_check.importlib.util, "find_spec", lambda name: is_there or None)
    steps = {step.name: step for step in jetson_check.steps("b", "p", "s")}
    assert steps["convert tf-trt-fp16"].must is steps["classify tf-trt-fp16"].must is is_there


@pytest.mark.parametrize("content", [None, "no JSON"])
def test_a_bundle_that_cannot_be_opened_is_refused_at_once(only, tmp_path, capsys, content):
    only(Step("never", python("raise SystemExit(9)"), 9, True))
    if content:
        (tmp_path / "manifest.json").write_text(content)
    assert jetson_check.main([str(tmp_path), "--out", str(tmp_path / "r")]) == 2
    assert "is no bundle" in capsys.readouterr().err and not os.path.exists(str(tmp_path / "r"))


def test_a_report_replaces_no_device_and_no_link(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jetson_check, "steps", lambda *_: [])
    os.mkfifo(str(tmp_path / "fifo"))
    assert jetson_check.main([BUNDLE, "--out", str(tmp_path / "fifo")]) == 2
    assert "fifo: cannot be written (is not a file)" in capsys.readouterr().err
    (tmp_path / "link.json").symlink_to("target.json")
    assert jetson_check.main([BUNDLE, "--out", str(tmp_path / "link.json")]) == 0
    assert os.readlink(str(tmp_path / "link.json")) == "target.json"
    assert sorted(os.listdir(str(tmp_path))) == ["fifo", "link.json", "target.json"]
