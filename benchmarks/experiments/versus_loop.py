"""python -m benchmarks.experiments.versus_loop BUNDLE DIR: `classify` beside its bound and the usual loops.

All in one run, on the same photos and cores, in turns: decoding alone; for each engine the model alone, `classify`, and
the bound that decoding and the model allow together when every core always has work, 1 / (1 / decode + 1 / model); the
loop of ten lines (cv2.imread, cv2.resize, ONNX Runtime) and the pipeline this project grew from (tf.data one photo at a
time, Keras predict). Where classify is below its bound, the share of the cores' time that was used says why: idle
cores mean that the pipeline is at fault; busy ones mean that decoding and the model disturb each other.
"""

import argparse
import collections
import concurrent.futures
import functools
import os
import sys
import tempfile
import time

import numpy as np

from benchmarks import rivals
from benchmarks.bench import measure, plan
from edge_runtime.bundle.reading import Bundle
from edge_runtime.classifier import Classifier
from edge_runtime.cli.run import run_verb
from edge_runtime.console import format_table, say
from edge_runtime.engines.selection import open_engine
from edge_runtime.machine import cpu, memory
from edge_runtime.photos import decode, read, spec
from edge_runtime.sources.registry import open_source

_LOOPS = {"opencv-onnxruntime": "loop of cv2 and ONNX Runtime", "hackathon": "tf.data one by one, Keras predict"}
_COLUMNS = ["classify / bound", "classify images/s", "bound", "model only", "cores used by classify", "by the model"]


def model_only(engine, pictures, batch, seconds=5.0):
    """Returns images per second of an engine that always works on as many batches at a time as it can."""
    batches = measure.make_batches(pictures, batch)
    measure.warm_up(engine, batches)
    pending: collections.deque = collections.deque()
    photos, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        pending.append(engine.submit(batches[photos // batch % len(batches)]))
        if len(pending) == engine.slots:
            photos += len(engine.collect(pending.popleft()))
    while pending:
        photos += len(engine.collect(pending.popleft()))
    return photos / (time.perf_counter() - started)


def decode_only(paths, scaled):
    """Decodes all photos on all cores. Returns images per second."""
    started = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(cpu.core_count()) as pool:
        for _ in pool.map(lambda path: decode.decode_image(read.read_bytes(path), spec.INCEPTION_V3, scaled), paths):
            pass
    return len(paths) / (time.perf_counter() - started)


def with_core_share(call):
    """Returns (the result of call, the share of all cores' time that this process used meanwhile)."""
    started, cpu_started = time.perf_counter(), time.process_time()
    result = call()
    seconds = (time.perf_counter() - started) * cpu.core_count()
    return result, (time.process_time() - cpu_started) / seconds


def compare(bundle, name, items, decoded_per_s):
    """Returns [model only, classify, bound (images per second), shares of the cores' time of the first two]."""
    with tempfile.TemporaryDirectory() as scratch:
        with Classifier(bundle, open_engine(bundle, name, rivals.BATCH), rivals.BATCH) as classifier:
            pictures = bundle.sample().images
            alone, alone_share = with_core_share(
                functools.partial(model_only, classifier.engine, pictures, classifier.batch_size)
            )
            out = os.path.join(scratch, "out.tsv")
            classified, classify_share = with_core_share(functools.partial(measure.end_to_end, classifier, items, out))
    bound = 1 / (1 / decoded_per_s + 1 / alone)
    return [alone, classified["images_per_s"], bound, alone_share, classify_share]


def main(argv=None):
    """Measures and prints the comparison."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.versus_loop", description=__doc__.split("\n")[0]
    )
    parser.add_argument("bundle", help="folder written by `picnic-edge train` or `import`")
    parser.add_argument("photos", metavar="DIR", help="folder of readable photos")
    parser.add_argument("--engine", nargs="+", default=["onnxruntime"], metavar="NAME", help="(default onnxruntime)")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, the median counts (default 3)")
    parser.add_argument("--loop-photos", type=int, default=200, metavar="N", help="for the usual loops (default 200)")
    options = parser.parse_args(argv)
    bundle = Bundle.open(options.bundle)
    items = plan.readable(list(open_source(options.photos)), options.photos, spec.INCEPTION_V3)
    paths = [item.path for item in items]
    decoded, every_pixel, engines = [], [], collections.defaultdict(list)
    for number in range(options.rounds):
        say(f"round {number + 1} of {options.rounds}")
        decoded.append(decode_only(paths, True))
        every_pixel.append(decode_only(paths[: options.loop_photos], False))
        for name in options.engine:
            engines[name].append(compare(bundle, name, items, decoded[-1]))
    best = max(np.median(rounds, axis=0)[1] for rounds in engines.values())
    table = []
    for name, rounds in engines.items():
        alone, classify, bound, alone_share, classify_share = np.median(rounds, axis=0)
        ratio = np.median([row[1] / row[2] for row in rounds])
        table.append(
            [name, f"{ratio:.3f}", f"{classify:.1f}", f"{bound:.1f}", f"{alone:.1f}", f"{classify_share:.3f}"]
            + [f"{alone_share:.3f}"]
        )
    print(format_table(["engine"] + _COLUMNS, table))
    for job in rivals.jobs(bundle, paths[: options.loop_photos]):
        if job.get("rival") in _LOOPS:
            result = rivals.run_job(job)
            if "skipped" in result:
                print(f"{_LOOPS[job['rival']]}: skipped: {result['skipped']}")
            else:
                speed = result["images_per_s"]
                factor = f"the fastest engine here: {best / speed:.1f} times"
                print(f"{_LOOPS[job['rival']]}: {speed:.1f} images/s; {factor}")
    print(f"decoding alone {np.median(decoded):.1f} photos/s, without scaled decoding {np.median(every_pixel):.1f}")
    photos = f"{len(items)} photos (the usual loops: {min(len(items), options.loop_photos)})"
    peak_mib = memory.peak_memory_bytes() >> 20
    machine = f"{cpu.describe()['cpu']}, {cpu.core_count()} cores"
    print(f"{photos}, median of {options.rounds} rounds; peak memory {peak_mib} MiB; {machine}")


if __name__ == "__main__":
    sys.exit(run_verb(main, sys.argv[1:]))
