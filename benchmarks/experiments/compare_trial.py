"""python -m benchmarks.experiments.compare_trial: tries `bench --against` on known answers, simulated and real.

--simulated N   N runs of each kind of noise, with and without a slowdown by 15 %.
BUNDLE          real runs of this code against copies of it: one is the same, one 15 % slower in every call.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile

import numpy as np

from benchmarks.bench import against, other_code, verdict
from edge_runtime.cli.options import positive
from edge_runtime.cli.run import run_verb
from edge_runtime.console import say
from edge_runtime.errors import GotWorse, MissingRequirement, UsageError

SLOWER = 0.15
_POINTS = ("b1", "b4", "b8", "end_to_end")
# Added to the edge_runtime/engines/selection.py of the slower copy: a busy core, as in an engine that is really slower.
_PLANTED = f"""

def _slowed(call):
    def work(argument):
        started = time.perf_counter()
        result = call(argument)
        until = time.perf_counter() + {SLOWER} * (time.perf_counter() - started)
        while time.perf_counter() < until:
            pass
        return result

    return work


def open_engine(*arguments, open_plain=open_engine, **settings):
    engine = open_plain(*arguments, **settings)
    engine.infer, engine.collect = _slowed(engine.infer), _slowed(engine.collect)
    return engine


import time
"""


def main(argv=None):
    """Runs the trial and prints the results. Raises PicnicError as the exit codes say."""
    this = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.compare_trial",
        description=__doc__.split("\n")[0],
        epilog="example: python -m benchmarks.experiments.compare_trial bundle --engine openvino-bf16 --tries 10",
    )
    this.add_argument("bundle", nargs="?", help="folder written by `picnic-edge train`, for real runs")
    this.add_argument("--engine", default="auto", metavar="NAME", help="of the bundle (default: the fastest)")
    this.add_argument("--tries", type=positive, default=10, metavar="N", help="real runs of each kind (default 10)")
    this.add_argument("--batch", default="1,4,8", metavar="1,4,8", help="batch sizes (default 1,4,8)")
    this.add_argument("--simulated", type=positive, metavar="N", help="simulated runs of each kind")
    options = this.parse_args(argv)
    if not options.bundle and not options.simulated:
        raise UsageError("nothing to try: expected a bundle, --simulated N, or both")
    if options.simulated:
        print("| noise | false reports | 15 % slower, reported | false reports if one ran after the other |")
        print("| --- | --: | --: | --: |")
        for kind in NOISES:
            counts = [count_reports(kind, options.simulated, *case) for case in ((0, True), (SLOWER, True), (0, False))]
            shares = [f"{count} of {options.simulated}" for count in counts]
            print(f"| {kind} | {' | '.join(shares)} |", flush=True)
    if options.bundle:
        with tempfile.TemporaryDirectory() as folder:
            try_real(options, folder)


def count_reports(kind, runs, slower, in_turns):
    """Simulates runs and returns how many of them report a change.

    Args:
        kind: one of NOISES.
        runs: how many.
        slower: by how much this side is slower, 0 for nothing.
        in_turns: whether they are measured in turns, or all of this side before all of the other.
    """
    reports = 0
    for seed in range(runs):
        chance = np.random.RandomState(seed)
        slots = NOISES[kind](chance, 2 * against.MIN_ROUNDS * len(_POINTS))
        slots = slots + 0.02 * chance.randn(len(slots))
        if in_turns:
            slots = slots.reshape(against.MIN_ROUNDS, len(_POINTS), 2)
            turned = chance.randint(0, 2, against.MIN_ROUNDS) == 1
            slots[turned] = slots[turned][:, :, ::-1]
            slots += 0.03 * chance.randn(against.MIN_ROUNDS, 1, 2)
        else:
            slots = np.moveaxis(slots.reshape(2, against.MIN_ROUNDS, len(_POINTS)), 0, 2)
            slots += 0.03 * chance.randn(2)
        slots[:, :, 0] += math.log(1 + slower)
        times_s = {point: np.exp(slots[:, place]) for place, point in enumerate(_POINTS)}
        cpu_s = {point: pairs * np.exp(0.02 * chance.randn(*pairs.shape)) for point, pairs in times_s.items()}
        rates = {point: 1 / pairs for point, pairs in times_s.items()}
        figures = verdict.judge(
            [(f"images_per_s {point}", True, pairs) for point, pairs in rates.items()]
            + [
                ("images_per_s all", True, verdict.overall(list(rates.values()))),
                ("p50_ms b1", False, times_s["b1"] * np.exp(0.01 * chance.randn(against.MIN_ROUNDS, 2))),
                ("cpu_s_per_image end_to_end", False, cpu_s["end_to_end"]),
                ("cpu_s_per_image all", False, verdict.overall(list(cpu_s.values()))),
            ]
        )
        reports += any(figure.changed for figure in figures)
    return reports


def _phases(chance, count, follows=0.99):
    """Each window follows the one before it: phases of about 1 / (1 - follows) windows."""
    values = 0.1 * chance.randn(count)
    for place in range(1, count):
        values[place] = follows * values[place - 1] + math.sqrt(1 - follows**2) * values[place]
    return values


def _steps(chance, count):
    """The machine becomes slower or faster three times, by 30 % each, and stays so."""
    values = np.zeros(count)
    for place in chance.randint(0, count, 3):
        values[place:] += math.log(1.3) * chance.choice([-1, 1])
    return values


def _bursts(chance, count):
    """Another program takes one of two cores, a third of the time, for ten windows on average."""
    values, busy = np.zeros(count), False
    for place in range(count):
        busy = chance.rand() < (0.9 if busy else 0.05)
        values[place] = math.log(1 + chance.rand()) if busy else 0.0
    return values


# name -> function of a RandomState and the number of windows; returns logarithms of how much longer each takes. All
# windows have 2 % of noise of their own besides, and each process 3 % as long as it lives.
NOISES = {
    "phases: 10 %, AR(1) with 0.99 per window": _phases,
    "short phases: 10 %, AR(1) with 0.9 per window": lambda chance, count: _phases(chance, count, 0.9),
    "independent: 10 % per window": lambda chance, count: 0.1 * chance.randn(count),
    "steps: 30 %, three times": _steps,
    "bursts: one core of two taken, a third of the time": _bursts,
    "drift: 50 % slower from begin to end": lambda chance, count: np.linspace(0, math.log(1.5), count),
}


def try_real(options, folder):
    """Runs the command on copies of this code against this code, and prints what it reports.

    Args:
        options: of main.
        folder: an empty folder for the copies.
    """
    copies = {name: os.path.join(folder, name) for name in ("same", "slower")}
    for name, copy in copies.items():
        write_checkout(copy, slower=name == "slower")
    silent = reported = 0
    for number in range(options.tries):
        code, result = _run(options, copies["same"])
        silent += not any(figure["changed"] for figure in result["figures"])
        print(f"try {number + 1}, nothing changed: {_summary(code, result)}", flush=True)
        code, result = _run(options, copies["slower"])
        reported += code == GotWorse.exit_code
        print(f"try {number + 1}, {100 * SLOWER:.0f} % planted: {_summary(code, result)}", flush=True)
    print(f"nothing changed: no change reported in {silent} of {options.tries} tries")
    print(f"{100 * SLOWER:.0f} % planted: exit code {GotWorse.exit_code} in {reported} of {options.tries} tries")


def write_checkout(folder, slower=False):
    """Writes a copy of this code, a checkout that `bench --against` takes; with slower engines, where asked for."""
    for name in ("edge_runtime", "convert", "benchmarks"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(os.path.join(other_code.ROOT, name), os.path.join(folder, name), ignore=ignored)
    for name in ("picnic_edge.py", "setup.py"):
        shutil.copy(os.path.join(other_code.ROOT, name), folder)
    if slower:
        with open(os.path.join(folder, "edge_runtime", "engines", "selection.py"), "a") as file:
            file.write(_PLANTED)


def _run(options, checkout):
    say(f"-- {os.path.basename(checkout)}")
    command = [sys.executable, "-m", "picnic_edge", "bench", os.path.abspath(options.bundle), "--engine"]
    command += [options.engine if options.engine != "auto" else "all", "--batch", options.batch]
    command += ["--against", other_code.ROOT, "--fail-above", "5", "--json"]
    done = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=checkout, env=dict(os.environ, PYTHONPATH=checkout))
    output = done.communicate()[0]
    if done.returncode not in (0, GotWorse.exit_code):
        raise MissingRequirement(f"the command ended with exit code {done.returncode}; its messages are above")
    return done.returncode, json.loads(output.decode("utf-8"))


def _summary(code, result):
    texts = [
        f"{figure['name']} {figure['ratio']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"
        f"{' CHANGED' if figure['changed'] else ''}"
        for figure in result["figures"]
    ]
    return f"exit code {code}; {'; '.join(texts)}"


if __name__ == "__main__":
    sys.exit(run_verb(main, sys.argv[1:]))
