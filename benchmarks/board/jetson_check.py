"""make jetson-check: on a Jetson, runs all that elsewhere is only simulated, and writes a report to send back.

Every step is a command of its own with a time limit; a step that fails, hangs or is killed is written down, and the
next one runs. The report (JSON) is written anew after each step, so that even a board that dies half way leaves one.
Nothing but Python's own library is imported here: where the product cannot be loaded, the report says why.
"""

import argparse
import contextlib
import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import typing

FORMAT_VERSION = 1
Step = typing.NamedTuple(
    "Step",
    [
        ("name", str),
        ("command", list),
        ("limit_s", int),
        ("must", bool),  # end well, on a board that has everything
    ],
)
_KEPT_CHARACTERS = 20000  # of each stream of a step: its beginning and its end
_BUILD_S = 3600  # building an engine took 10 minutes on newer boards
_RUN_S = 900
_HEARTBEAT_S = 60
# Kept as they are: edge_runtime/machine/jetson.py reads them, and was written without a board
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
_OPENCV = "import cv2; print(cv2.getBuildInformation())"


def main(argv=None):
    """Runs every step. Returns the exit code: 0, 2 (no report can be written) or 3 (a step did not end well)."""
    this = argparse.ArgumentParser(
        prog="python -m benchmarks.board.jetson_check",
        description="Run on a board what elsewhere is only simulated, and write a report to send back.",
        epilog="example: make jetson-check BUNDLE=bundle",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train`; the engines made here are added to it")
    this.add_argument("--images", metavar="DIR", help="photos to classify and to time (default: the bundle's sample)")
    this.add_argument("--out", default="jetson-report.json", metavar="FILE", help="default jetson-report.json")
    options = this.parse_args(argv)
    report = {
        "format_version": FORMAT_VERSION,
        "python": sys.version,
        "files": {name: _read(name) for name in _FILES},
        "steps": [],
    }  # type: typing.Dict[str, typing.Any]
    try:
        _write(options.out, report)
    except OSError as error:
        _say(f"--out {options.out}: cannot be written ({error.strerror})")
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        for step in steps(options.bundle, options.images or os.path.join(options.bundle, "sample"), scratch):
            _say("== " + " ".join(shlex.quote(part) for part in step.command))
            done = dict(run(step.command, step.limit_s), name=step.name, must=step.must)
            report["steps"].append(done)
            report.update(engines=_records(options.bundle), bench=_figures(os.path.join(scratch, "bench.json")))
            _write(options.out, report)
            _say(summary(done))
    _say(f"\nThe report to send back: {options.out}")
    failed = [done["name"] for done in report["steps"] if done["must"] and done["exit_code"] != 0]
    if failed:
        _say(f"These did not end well: {', '.join(failed)}")
    return 3 if failed else 0


def steps(bundle, photos, scratch):
    """Returns the Steps, in the order of running; the bench writes its files into scratch."""
    verb = [sys.executable, "-m", "picnic_edge"]
    found = [Step(" ".join(command), command, 60, False) for command in _COMMANDS]
    found.append(Step("opencv", [sys.executable, "-c", _OPENCV], 60, True))
    found.append(Step("doctor", verb + ["doctor", "--json"], 300, True))
    for kind, precision in (("onnxruntime", "fp32"), ("tensorrt", "fp16"), ("tf-trt", "fp16")):
        name = f"{kind}-{precision}"
        make = verb + ["convert", bundle, "--to", kind, "--precision", precision]
        found.append(Step("convert " + name, make, _BUILD_S, True))
        found.append(Step("classify " + name, verb + ["classify", bundle, photos, "--engine", name], _RUN_S, True))
    # A TX2 has no int8: this must be refused, with the reason.
    int8 = verb + ["convert", bundle, "--to", "tensorrt", "--precision", "int8"]
    found.append(Step("convert tensorrt-int8", int8, _BUILD_S, False))
    found.append(Step("classify auto", verb + ["classify", bundle, photos], _RUN_S, True))
    bench = verb + ["bench", bundle, "--images", photos]
    found.append(Step("bench", bench + ["--report", scratch], _BUILD_S, True))
    # Only a board can tell whether these two settings make it faster.
    for setting in ("PICNIC_EDGE_JPEG=hardware", "PICNIC_EDGE_ZERO_COPY=1"):
        found.append(Step(f"bench {setting}", ["env", setting] + bench, _BUILD_S, False))
    return found


def run(command, limit_s):
    """Runs a command, and ends it with all its children at the limit.

    Returns:
        {"command", "exit_code" (None: it could not start, or was stopped at the limit), "problem", "seconds", "stdout",
        "stderr"}; long streams lose their middle.
    """
    started = time.perf_counter()
    problem, stdout, stderr, code = "", b"", b"", None
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        problem = f"cannot be started: {error}"
    else:
        try:
            stdout, stderr, problem = _wait(process, started, limit_s)
        finally:
            _kill(process)
        code = None if problem else process.returncode
    return {
        "command": command,
        "exit_code": code,
        "problem": problem,
        "seconds": round(time.perf_counter() - started, 2),
        "stdout": _shortened(stdout),
        "stderr": _shortened(stderr),
    }


def summary(step):
    """Returns a step's outcome as one line."""
    if step["exit_code"] == 0:
        return f"ok       {step['name']} ({step['seconds']:.1f} s)"
    said = [line for line in step["stderr"].splitlines() if line.strip()]
    reasons = [line for line in said if line.startswith("picnic-edge: ")] or said or ["it said nothing"]
    outcome = step["problem"] or f"exit code {step['exit_code']}: {reasons[-1]}"
    return f"failed   {step['name']} ({step['seconds']:.1f} s): {outcome}"


def _wait(process, started, limit_s):
    """Returns (stdout, stderr, problem) of a process, ended at the limit. Says now and then that it still runs."""
    while True:
        left_s = started + limit_s - time.perf_counter()
        try:
            return process.communicate(timeout=max(0.0, min(left_s, _HEARTBEAT_S))) + ("",)
        except subprocess.TimeoutExpired:
            if left_s > _HEARTBEAT_S:
                _say(f"   still running ({time.perf_counter() - started:.0f} s)")
                continue
            _kill(process)
            return process.communicate() + (f"stopped after {limit_s:.0f} s",)


def _kill(process):
    """Ends a process and all its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _shortened(stream):
    text = stream.decode("utf-8", "backslashreplace")
    half = _KEPT_CHARACTERS // 2
    if len(text) <= _KEPT_CHARACTERS:
        return text
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def _records(bundle):
    """Returns {engine: text of its engine.json}."""
    folder = os.path.join(bundle, "engines")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return {name: _read(os.path.join(folder, name, "engine.json")) for name in names}


def _figures(path):
    """Returns a bench.json without its windows, which are most of it; None where there is none."""
    try:
        found = json.loads(_read(path) or "null")
        for engine in found["engines"] if found else []:
            engine.pop("windows", None)
        return found
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _read(path):
    """Returns the text of a file, None where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="backslashreplace") as file:
            return file.read()
    except OSError:
        return None


def _write(path, report):
    """Writes the report whole: a crash leaves the older one. Links are followed. Raises OSError."""
    path = os.path.realpath(path)
    if os.path.exists(path) and not os.path.isfile(path):  # as root it would take a device's place
        raise OSError(errno.EINVAL, "is no file")
    with open(path + ".partial", "w", encoding="utf-8", errors="backslashreplace") as file:
        json.dump(report, file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".partial", path)


def _say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
