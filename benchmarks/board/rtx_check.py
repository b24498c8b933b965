"""On a PC with an NVIDIA GPU: builds, checks and times engines of TensorRT for RTX, and writes a report to send back.

    pip install '.[tensorrt-rtx]' pycuda onnxruntime-ep-nv-tensorrt-rtx-cu12
    python -m benchmarks.board.rtx_check bundle

Every precision is built and checked on the GPU (`picnic-edge convert`), opened by another process and timed
(`picnic-edge bench`); ONNX Runtime's plugin for the same library runs the unconverted model beside them. A step that
fails is reported, and the next one runs: on a GPU that NVIDIA does not name (compute capability 9.0, say) the report
holds what the library answered.

Not run on hardware: no machine with an NVIDIA GPU was at hand.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import typing

import numpy as np

from benchmarks.board.jetson_check import summary
from benchmarks.commands import Interrupted, run_command, say
from edge_runtime import files
from edge_runtime.bundle.manifest import INPUT_NAME
from edge_runtime.bundle.reading import Bundle
from edge_runtime.machine.libraries import require

PRECISIONS = ("fp32", "fp16", "int8")
_LIMIT_S = 900
_TIMED_S = 3.0
_BATCH = 8


def main(argv=None):
    """Runs every step. Returns the exit code: 0, 3 where one of them failed, or 130 after Ctrl-C."""
    this = argparse.ArgumentParser(
        prog="python -m benchmarks.board.rtx_check",
        description="Build, check and time engines of TensorRT for RTX on this GPU, and write a report to send back.",
        epilog="example: python -m benchmarks.board.rtx_check bundle",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train` or `import`; it does not change")
    this.add_argument("--out", default="rtx-report.json", metavar="FILE", help="report (default rtx-report.json)")
    options = this.parse_args(argv)
    report: typing.Dict[str, typing.Any] = {"python": sys.version, "steps": [], "engines": {}, "benches": {}}
    with tempfile.TemporaryDirectory() as scratch:
        bundle = shutil.copytree(options.bundle, os.path.join(scratch, "bundle"))
        for name, command in commands(bundle, scratch):
            interrupted = False
            try:
                outcome = run_command(command, _LIMIT_S)
            except Interrupted as stopped:
                interrupted, outcome = True, stopped.outcome
            report["steps"].append(dict(outcome, name=name))
            say(summary(report["steps"][-1]))
            _collect(report, bundle, scratch)
            files.write_json(options.out, report)
            if interrupted:
                break
    say(f"The report to send back: {options.out}")
    if interrupted:
        return 130
    return 3 if any(step["exit_code"] != 0 for step in report["steps"]) else 0


def commands(bundle, scratch):
    """Returns [(name, command)] in the order of running; the benches write into scratch."""
    verb = [sys.executable, "-m", "picnic_edge"]
    steps = [
        ("nvidia-smi", ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv"]),
        ("doctor", verb + ["doctor", "--json"]),
    ]
    for precision in PRECISIONS:
        engine = "tensorrt-rtx-" + precision
        out = os.path.join(scratch, engine + ".tsv")
        steps += [
            ("convert " + engine, verb + ["convert", bundle, "--to", "tensorrt-rtx", "--precision", precision]),
            ("classify " + engine, verb + ["classify", bundle, bundle + "/sample", "--engine", engine, "--out", out]),
            (
                "bench " + engine,
                verb + ["bench", bundle, "--engine", engine, "--report", os.path.join(scratch, engine)],
            ),
        ]
    return steps + [
        ("plugin", [sys.executable, "-c", f"from benchmarks.board.rtx_check import plugin; plugin({bundle!r})"])
    ]


def plugin(path):
    """Runs a bundle's model.onnx through ONNX Runtime's plugin for TensorRT for RTX, and prints figures as JSON.

    Raises:
        MissingRequirement: ONNX Runtime or the plugin is not installed. RuntimeError: it has no device here.
    """
    onnxruntime, provider = require("onnxruntime"), require("onnxruntime_ep_nv_tensorrt_rtx")
    bundle = Bundle.open(path)
    sample = bundle.sample()
    onnxruntime.register_execution_provider_library(provider.get_ep_name(), provider.get_library_path())
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider.get_ep_name()]
    if not devices:
        raise RuntimeError(f"{provider.get_ep_name()} has no device here")
    options = onnxruntime.SessionOptions()
    options.add_provider_for_devices(devices[:1], {})
    started = time.perf_counter()
    session = onnxruntime.InferenceSession(bundle.checked("model.onnx"), sess_options=options)
    batch = sample.images[np.arange(_BATCH) % len(sample.images)]
    session.run(None, {INPUT_NAME: batch})
    first_s, photos, started = time.perf_counter() - started, 0, time.perf_counter()
    while time.perf_counter() - started < _TIMED_S:
        session.run(None, {INPUT_NAME: batch})
        photos += len(batch)
    images_per_s = photos / (time.perf_counter() - started)
    answers = [session.run(None, {INPUT_NAME: picture[None]})[0][0] for picture in sample.images]
    same = float(np.mean(np.argmax(answers, axis=1) == sample.probabilities.argmax(axis=1)))
    print(json.dumps({"first_answer_s": first_s, "images_per_s": images_per_s, "top1_agreement": same}))


def _collect(report, bundle, scratch):
    """Puts the engines' records and benches that are there into the report."""
    for precision in PRECISIONS:
        engine = "tensorrt-rtx-" + precision
        for part, path in (
            ("engines", os.path.join(bundle, "engines", engine, "engine.json")),
            ("benches", os.path.join(scratch, engine, "bench.json")),
        ):
            if os.path.exists(path):
                with open(path, encoding="utf-8") as file:
                    report[part][engine] = json.load(file)


if __name__ == "__main__":
    sys.exit(main())
