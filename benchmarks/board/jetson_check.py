"""make jetson-check: runs on a Jetson everything that is only simulated elsewhere, and writes a report to send back.

Every step is a command of its own with a time limit, at which it is interrupted as by Ctrl-C (bench then writes what it
has) and a minute later killed. A step that fails, hangs or is killed is reported, and the next one runs that does not
need it. Ctrl-C ends the step and the check, with a report of what there is. TensorRT, what the board is for, comes
first. The report (JSON) is rewritten after each step, so that a board that crashes half way
leaves one, too.
Nothing but Python's own library is imported here: where the product cannot be loaded, the report says why.
"""

import argparse
import errno
import importlib.util
import json
import os
import shlex
import sys
import tempfile
import typing

from benchmarks.commands import Interrupted, run_command, say

FORMAT_VERSION = 2
_BUILD_S = 3600  # time limit; building an engine took 10 minutes on newer boards
_RUN_S = 900
_CAMERA_S = 10
# Copied into the report: edge_runtime/machine/jetson.py reads them, and was written without a board
_FILES = (
    "/proc/device-tree/model",
    "/proc/device-tree/compatible",
    "/proc/device-tree/nvidia,dtsfilename",
    "/etc/nv_tegra_release",
    "/etc/nvpmodel.conf",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/swaps",
    "/usr/local/cuda/version.txt",
    "/usr/local/cuda/version.json",
)

_SETTINGS = ("PICNIC_EDGE_ZERO_COPY=1", "PICNIC_EDGE_JPEG=hardware")  # only a board can tell what they gain
_CAMERAS = ("csi:0", "camera:0")
# Of an engine in bench.json: what the benches are compared by
_COMPARED = (
    ("latency_p50_ms", "p50 ms at batch 1", 1),
    ("images_per_s_b1", "images/s b1", 1),
    ("images_per_s_b8", "b8", 1),
    ("images_per_s_end_to_end", "end to end", 1),
    ("joules_per_image_end_to_end", "J/image", 3),
)
_COMMANDS = (
    ["uname", "-srm"],
    ["nvpmodel", "-q"],
    ["jetson_clocks", "--show"],
    ["sudo", "-n", "jetson_clocks", "--show"],
    ["dpkg-query", "--show", "nvidia-l4t-core", "nvidia-jetpack", "libnvinfer8", "python3-libnvinfer", "libcudnn8"],
    [sys.executable, "-m", "pip", "list", "--format=freeze"],
    ["df", "-h", "."],
    ["ls", "/sys/class/devfreq", "/dev"],
    # It never ends by itself, and a few lines are enough.
    ["timeout", "--preserve-status", "--signal=INT", "5", "tegrastats", "--interval", "1000"],
)

_LEFT_OUT = "left out, "  # so begins the problem of a step that was not run
_OPENCV = "import cv2; print(cv2.getBuildInformation())"


class Step(typing.NamedTuple):
    """One command of the check."""

    name: str
    command: typing.List[str]
    limit_s: int
    must: bool  # it must succeed on a board that has everything
    needs: str = ""  # name of the step without which this one has nothing to try


def main(argv=None):
    """Runs every step. Returns the exit code.

    0; 2: the bundle cannot be opened, or the report not be written; 3: a needed step failed; 130: Ctrl-C.
    """
    this = argparse.ArgumentParser(
        prog="python -m benchmarks.board.jetson_check",
        description="Run on a board everything that is only simulated elsewhere, and write a report to send back.",
        epilog="example: make jetson-check BUNDLE=bundle",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train` or `import`; new engines are added")
    this.add_argument("--images", metavar="DIR", help="photos to classify and to time (default: the bundle's sample)")
    this.add_argument(
        "--out", default="jetson-report.json", metavar="FILE", help="report to write (default jetson-report.json)"
    )
    options = this.parse_args(argv)
    problem = _problem_of(options.bundle)
    if problem:
        say(f"{options.bundle}: {problem}")
        return 2
    report: typing.Dict[str, typing.Any] = {
        "format_version": FORMAT_VERSION,
        "python": sys.version,
        "files": {name: _read_text(name) for name in _FILES},
        "steps": [],
    }
    try:
        _write(options.out, report)
    except OSError as error:
        say(f"--out {options.out}: cannot be written ({error.strerror})")
        return 2
    outcome: typing.Dict[str, typing.Any] = {}
    interrupted, lacking = False, set()  # lacking: the names of the steps that failed
    with tempfile.TemporaryDirectory() as scratch:
        for step in steps(options.bundle, options.images or os.path.join(options.bundle, "sample"), scratch):
            say("== " + " ".join(shlex.quote(part) for part in step.command))
            if step.needs in lacking:
                outcome = _left_out(step)
            else:
                try:
                    outcome = run_command(step.command, step.limit_s)
                except Interrupted as stopped:
                    interrupted, outcome = True, stopped.outcome
            outcome = dict(outcome, name=step.name, must=step.must and step.needs not in lacking)
            if outcome["exit_code"] != 0:
                lacking.add(step.name)
            report["steps"].append(outcome)
            report["engines"] = _engine_records(options.bundle)
            if step.name.startswith("bench"):
                report[step.name] = _bench_figures(os.path.join(scratch, step.name, "bench.json"))
            _write(options.out, report)
            say(summary(outcome))
            if interrupted:
                break
    for line in comparison(report):
        say(line)
    say(f"\nThe report to send back: {options.out}")
    failed = [outcome["name"] for outcome in report["steps"] if outcome["must"] and outcome["exit_code"] != 0]
    if failed:
        say(f"These steps failed: {', '.join(failed)}")
    if interrupted:
        return 130
    return 3 if failed else 0


def steps(bundle, photos, scratch):
    """Returns the Steps, in the order of running; the benches write their files into scratch."""
    verb = [sys.executable, "-m", "picnic_edge"]
    all_steps = [Step(" ".join(command), command, 60, False) for command in _COMMANDS]
    all_steps.append(Step("opencv", [sys.executable, "-c", _OPENCV], 60, True))
    all_steps.append(Step("doctor", verb + ["doctor", "--json"], 300, True))

    def make(name, kind, precision, *options, must=True):
        convert = "convert " + name
        command = verb + ["convert", bundle, "--to", kind, "--precision", precision] + list(options)
        classify = verb + ["classify", bundle, photos, "--engine", name]
        return [Step(convert, command, _BUILD_S, must), Step("classify " + name, classify, _RUN_S, must, convert)]

    def bench(engines, setting=""):
        name = " ".join(part for part in ("bench", engines, setting) if part)
        command = verb + ["bench", bundle, "--images", photos, "--report", os.path.join(scratch, name)]
        command += ["--engine", engines] if engines else []
        command = ["env", setting] + command if setting else command
        return Step(name, command, _BUILD_S, not setting, "convert " + engines if engines else "")

    all_steps += make("tensorrt-fp16", "tensorrt", "fp16")
    all_steps.append(bench("tensorrt-fp16"))
    all_steps += make("tensorrt-fp16-b1", "tensorrt", "fp16", "--max-batch", "1")
    all_steps.append(bench("tensorrt-fp16-b1"))
    all_steps += [bench("tensorrt-fp16", setting) for setting in _SETTINGS]
    for camera in _CAMERAS:  # a board need not have one
        command = verb + ["classify", bundle, camera, "--engine", "tensorrt", "--seconds", str(_CAMERA_S)]
        command += ["--out", os.path.join(scratch, camera + ".tsv"), "--json"]
        all_steps.append(Step("classify " + camera, command, _RUN_S, False, "convert tensorrt-fp16"))
    # A TX2 has no int8: the command must refuse it and say why.
    all_steps.append(Step("convert tensorrt-int8", make("", "tensorrt", "int8")[0].command, _BUILD_S, False))
    all_steps += make("onnxruntime-fp32", "onnxruntime", "fp32")
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None  # a board need not have it
    all_steps += make("tf-trt-fp16", "tf-trt", "fp16", must=has_tensorflow)
    all_steps.append(Step("classify auto", verb + ["classify", bundle, photos], _RUN_S, True))
    all_steps.append(bench(""))
    return all_steps


def summary(step):
    """Returns a step's outcome as one line."""
    if step["exit_code"] == 0:
        return f"ok       {step['name']} ({step['seconds']:.1f} s)"
    if step["problem"].startswith(_LEFT_OUT):
        return f"left out {step['name']}: {step['problem'][len(_LEFT_OUT) :]}"
    lines = [line for line in step["stderr"].splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith("picnic-edge: ")] or lines or ["no message"]
    outcome = step["problem"] or f"exit code {step['exit_code']}: {reasons[-1]}"
    return f"failed   {step['name']} ({step['seconds']:.1f} s): {outcome}"


def _left_out(step):
    """Returns the outcome of a step that is not run, because another one failed."""
    problem = f"{_LEFT_OUT}because {step.needs} failed"
    return {"command": step.command, "exit_code": None, "problem": problem, "seconds": 0.0, "stdout": "", "stderr": ""}


def comparison(report):
    """Returns the benches' figures as lines of text, a line for each engine of each bench."""
    lines = []
    for name in sorted(name for name in report if name.startswith("bench")):
        for engine in (report[name] or {}).get("engines", []):
            figures = [
                f"{title} {engine[key]:.{max(1, digits)}f}"
                for key, title, digits in _COMPARED
                if isinstance(engine.get(key), (int, float))
            ]
            lines.append(f"{name}: {engine.get('name')}: {', '.join(figures) or engine.get('skipped', 'no figures')}")
    return lines


def _problem_of(bundle):
    """Returns why a folder is no bundle, "" where it may be one: doctor and convert look closer."""
    try:
        with open(os.path.join(bundle, "manifest.json"), encoding="utf-8") as file:
            json.load(file)
    except (OSError, ValueError) as error:
        return f"is no bundle ({error}); give one that train or import wrote: make jetson-check BUNDLE=FOLDER"
    return ""


def _engine_records(bundle):
    """Returns {engine: text of its engine.json}."""
    folder = os.path.join(bundle, "engines")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return {name: _read_text(os.path.join(folder, name, "engine.json")) for name in names}


def _bench_figures(path):
    """Returns a bench.json without its windows, which are most of it; None where there is none."""
    try:
        document = json.loads(_read_text(path) or "null")
        for engine in document["engines"] if document else []:
            engine.pop("windows", None)
        return document
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _read_text(path):
    """Returns the text of a file, None where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="backslashreplace") as file:
            return file.read()
    except OSError:
        return None


def _write(path, report):
    """Writes the report atomically: a crash leaves the older one. Links are followed. Raises OSError."""
    path = os.path.realpath(path)
    if os.path.exists(path) and not os.path.isfile(path):  # root could replace a device
        raise OSError(errno.EINVAL, "is not a file")
    with open(path + ".partial", "w", encoding="utf-8", errors="backslashreplace") as file:
        json.dump(report, file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".partial", path)


if __name__ == "__main__":
    sys.exit(main())
