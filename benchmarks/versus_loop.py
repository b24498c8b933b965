"""python -m benchmarks.versus_loop BUNDLE DIR: `classify` beside the loop that one would write in ten lines.

All figures come from one run, on the same photos with the same model: the plain loop (cv2.imread, cv2.resize, ONNX
Runtime, batch 8), classify with the same library, the model alone, decoding alone with and without scaled decoding, and
the bound that decoding and inference allow together when every core always has work.
"""

import argparse
import concurrent.futures
import os
import sys
import tempfile
import time

import cv2
import numpy as np

from benchmarks import measure
from edge_runtime import images, machine
from edge_runtime.bundle import INPUT_NAME, Bundle
from edge_runtime.classifier import Classifier
from edge_runtime.command import run_verb
from edge_runtime.engines import open_engine
from edge_runtime.requirements import require
from edge_runtime.sources import open_source

BATCH = 8


def plain_loop(model, paths):
    """What a user would write: read, resize, collect a batch, run. Returns images per second."""
    session = require("onnxruntime").InferenceSession(model, providers=["CPUExecutionProvider"])
    warm_up = np.zeros([BATCH] + images.INPUT_SPEC["shape"], np.uint8)
    session.run(None, {INPUT_NAME: warm_up})
    started = time.perf_counter()
    for start in range(0, len(paths), BATCH):
        pictures = []
        for path in paths[start : start + BATCH]:
            bgr = cv2.imread(path)
            pictures.append(cv2.resize(bgr, (images.SIDE, images.SIDE))[:, :, ::-1])
        session.run(None, {INPUT_NAME: np.stack(pictures)})
    return len(paths) / (time.perf_counter() - started)


def decode_only(paths, scaled):
    """Decodes all photos on all cores. Returns images per second."""
    started = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(machine.core_count()) as pool:
        for _ in pool.map(lambda path: images.decode_image(images.read_bytes(path), scaled), paths):
            pass
    return len(paths) / (time.perf_counter() - started)


def main(argv=None):
    """Measures and prints the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versus_loop", description=__doc__.split("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("photos", metavar="DIR", help="folder of readable photos")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, the median counts (default 3)")
    options = parser.parse_args(argv)
    bundle = Bundle.open(options.bundle)
    items = list(open_source(options.photos))
    paths = [item.path for item in items]
    model = bundle.file("model.onnx")
    pictures = bundle.sample().images
    rounds = []
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(options.rounds):
            with Classifier(bundle, open_engine(bundle, "onnxruntime", BATCH), BATCH) as classifier:
                model_only = measure.throughput(classifier.engine, pictures, BATCH, 5.0)["images_per_s"]
                classify = measure.end_to_end(classifier, items, os.path.join(scratch, "out.tsv"))["images_per_s"]
            scaled, full = decode_only(paths, True), decode_only(paths, False)
            bound = 1 / (1 / scaled + 1 / model_only)
            loop = plain_loop(model, paths)
            rounds.append([loop, classify, model_only, scaled, full, bound, classify / loop, classify / bound])
    names = ("plain loop", "classify", "model only", "decode only, scaled", "decode only, every pixel", "bound")
    medians = np.median(rounds, axis=0)
    for name, value in zip(names, medians):
        print("%-26s %8.1f images/s" % (name, value))
    print("%-26s %8.2f" % ("classify / plain loop", medians[6]))
    print("%-26s %8.3f" % ("classify / bound", medians[7]))
    print("%-26s %8.0f MiB" % ("peak memory, all of it", machine.peak_memory_bytes() / 2.0**20))
    print(
        "%d photos, median of %d rounds; %s, %d cores"
        % (len(items), options.rounds, machine.describe()["cpu"], machine.core_count())
    )


if __name__ == "__main__":
    sys.exit(run_verb(main, sys.argv[1:]))
