"""python -m benchmarks.experiments.overhead BUNDLE: what the bench itself costs, beside OpenVINO's benchmark_app.

Both run the bundle's OpenVINO engines one photo at a time, the bench with its own windows, the app with random pixels;
in turns, so that the machine's phases affect both, in reversed order every second round. Goal: within 3 %.
"""

import argparse
import sys
import tempfile
import typing

import numpy as np

from benchmarks import rivals
from benchmarks.bench.worker import EngineFailed, Task, Worker
from edge_runtime.bundle.reading import Bundle
from edge_runtime.cli.options import positive
from edge_runtime.cli.run import run_verb
from edge_runtime.engines.selection import open_engine
from edge_runtime.errors import MissingRequirement

SECONDS = 3  # of a turn; the app takes whole seconds only


def main(argv=None):
    """Runs both in turns and prints the ratios. Raises PicnicError as the exit codes say."""
    this = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.overhead",
        description=__doc__.split("\n")[0],
        epilog="example: python -m benchmarks.experiments.overhead bundle --rounds 10",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train` or `import`")
    this.add_argument("--rounds", type=positive, default=10, metavar="N", help="turns of each (default 10)")
    options = this.parse_args(argv)
    bundle = Bundle.open(options.bundle)
    jobs = [
        job
        for job in rivals.jobs(bundle, [], seconds=SECONDS, batch=1)
        if job["name"].startswith("benchmark_app openvino-") and job["name"].endswith(" latency")
    ]
    if not jobs:
        raise MissingRequirement(
            f"{bundle.path} has no OpenVINO engine; to make one: picnic-edge convert {bundle.path} --to openvino"
        )
    print("| engine | bench / app, median | least | most | bench images/s | app images/s |")
    print("| --- | --: | --: | --: | --: | --: |", flush=True)
    for job in jobs:
        name = job["name"].split()[1]
        rates = compare(bundle, name, job, options.rounds)
        ratios = [own / app for own, app in rates]
        own, app = np.median(rates, axis=0)
        print(
            f"| {name} | {np.median(ratios):.3f} | {min(ratios):.3f} | {max(ratios):.3f} | {own:.1f} | {app:.1f} |",
            flush=True,
        )


def compare(bundle, name, job, rounds):
    """Returns [(images/s of the bench's model-only windows at batch 1, images/s of the app)], one per round.

    Args:
        bundle: edge_runtime.bundle.reading.Bundle.
        name: of an engine.
        job: the app on the same engine, from benchmarks.rivals.jobs.
        rounds: how many.

    Raises:
        MissingRequirement: one of the two does not run here.
    """
    rates: typing.List[tuple] = []
    with tempfile.TemporaryDirectory() as scratch:
        try:
            worker = Worker(Task(bundle.path, name, [1], [], scratch, open_engine))
        except EngineFailed as error:
            raise MissingRequirement(f"{name}: {error}") from error
        try:
            for number in range(rounds):
                turn = {}
                for who in ("bench", "app") if number % 2 == 0 else ("app", "bench"):
                    if who == "bench":
                        window = worker.ask("model", 1, SECONDS)
                        turn[who] = window["photos"] / window["seconds"]
                    else:
                        result = rivals.run_job(job)
                        if "skipped" in result:
                            raise MissingRequirement(f"{job['name']}: {result['skipped']}")
                        turn[who] = result["images_per_s"]
                rates.append((turn["bench"], turn["app"]))
        finally:
            worker.close()
    return rates


if __name__ == "__main__":
    sys.exit(run_verb(main, sys.argv[1:]))
