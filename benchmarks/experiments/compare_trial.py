"""python -m benchmarks.experiments.compare_trial BUNDLE --engine NAME: tries `bench compare` on known answers.

Measures one engine again and again. Each run is compared with the one before it, where nothing changed, and with a run
of the same engine made 15 % slower in every call.
"""

import argparse
import sys
import tempfile
import time

from benchmarks.bench import cli, compare, document, summary, turns
from benchmarks.bench.plan import make_plan
from benchmarks.bench.subject import Subject
from edge_runtime.bundle.reading import Bundle
from edge_runtime.cli.options import positive
from edge_runtime.cli.run import run_verb
from edge_runtime.console import say
from edge_runtime.engines.selection import open_engine
from edge_runtime.errors import MissingRequirement

SLOWER = 0.15


def main(argv=None):
    """Runs the trial and prints the results. Raises PicnicError as the exit codes say."""
    this = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.compare_trial",
        description=__doc__.split("\n")[0],
        epilog="example: python -m benchmarks.experiments.compare_trial bundle --engine openvino-bf16 --images photos",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train`")
    this.add_argument("--engine", required=True, metavar="NAME")
    this.add_argument("--images", metavar="DIR", help="photos (default: the bundle's sample)")
    this.add_argument("--tries", type=positive, default=10, metavar="N", help="of each kind (default 10)")
    own = this.parse_args(argv)
    bundle = Bundle.open(own.bundle)
    options = cli.parser().parse_args([own.bundle] + (["--images", own.images] if own.images else []))
    silent = detected = 0
    with tempfile.TemporaryDirectory() as scratch:
        plan = make_plan(bundle, options, scratch)
        before = _run(bundle, own.engine, plan)
        for number in range(own.tries):
            planted = _run(bundle, own.engine, plan._replace(opener=open_slower))
            after = _run(bundle, own.engine, plan)
            same, slower = compare.compare(before, after), compare.compare(before, planted)
            silent += not any(figure.changed for figure in same["figures"])
            detected += any(figure.changed and figure.worse for figure in slower["figures"])
            print(f"try {number + 1}, nothing changed:\n{compare.format_comparison(same)}")
            print(f"try {number + 1}, {100 * SLOWER:.0f} % planted:\n{compare.format_comparison(slower)}\n")
            sys.stdout.flush()
            before = after
    print(f"nothing changed: no change reported in {silent} of {own.tries} tries")
    print(f"{100 * SLOWER:.0f} % planted: reported in {detected} of {own.tries} tries")


def open_slower(bundle, name, max_batch):
    """Opens an engine whose calls take SLOWER longer, with a busy core, as in a really slower engine."""
    engine = open_engine(bundle, name, max_batch)

    def slowed(call):
        def work(argument):
            started = time.perf_counter()
            result = call(argument)
            until = time.perf_counter() + SLOWER * (time.perf_counter() - started)
            while time.perf_counter() < until:
                pass
            return result

        return work

    engine.infer, engine.collect = slowed(engine.infer), slowed(engine.collect)
    return engine


def _run(bundle, engine, plan):
    say(f"-- a run of {engine}{', planted' if plan.opener is open_slower else ''}")
    result = document.new_document(bundle, plan, ["compare_trial"], bundle.path)
    subject = Subject(engine)
    turns.run(bundle, [subject], plan)
    result.update(engines=[summary.summarize(subject)], partial=False)
    if "skipped" in result["engines"][0] or subject.problem:
        raise MissingRequirement(f"{engine}: {subject.problem}")
    return result


if __name__ == "__main__":
    sys.exit(run_verb(main, sys.argv[1:]))
