"""picnic-edge convert"""

import argparse
import contextlib
import datetime
import importlib
import os
import time

from convert import parity
from edge_runtime import files, machine
from edge_runtime.bundle import Bundle, list_files
from edge_runtime.cli import positive, share
from edge_runtime.command import say
from edge_runtime.engines import ENGINE_JSON, FORMAT_VERSION, LIBRARIES, EngineInfo, create_engine
from edge_runtime.errors import UsageError
from edge_runtime.sources import open_source

# --to -> module with PRECISIONS (the default first) and build(bundle, precision, max_batch, folder)
TARGETS = {
    "onnxruntime": "convert.onnxruntime",
    "openvino": "convert.openvino",
    "tensorrt": "convert.tensorrt",
    "tf-trt": "convert.tf_trt",
}
_TIMED_S = 2.0


def parser():
    """Returns the argument parser of `picnic-edge convert`."""
    this = argparse.ArgumentParser(
        prog="picnic-edge convert",
        description="Make an engine for this machine from a bundle, check it against the original on photos, and keep "
        "it in the bundle only if it agrees.",
        epilog="example: picnic-edge convert bundle --to openvino --precision bf16",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train`")
    this.add_argument("--to", required=True, choices=list(TARGETS), help="the library that will run the engine")
    this.add_argument("--precision", choices=["fp32", "fp16", "bf16", "int8"], help="default: the library's first")
    this.add_argument(
        "--max-batch", type=positive, default=8, metavar="N", help="largest batch it must take (default 8)"
    )
    this.add_argument(
        "--calibration",
        metavar="DIR",
        help="photos to check the engine on (default: the sample kept in the bundle)",
    )
    this.add_argument(
        "--min-agreement",
        type=share,
        default=0.995,
        metavar="P",
        help="refuse the engine if fewer photos get the original's label (default 0.995)",
    )
    return this


def main(argv=None):
    """Converts a bundle. Raises PicnicError as the exit codes say."""
    options = parser().parse_args(argv)
    bundle = Bundle.open(options.bundle)
    builder = importlib.import_module(TARGETS[options.to])
    precision = options.precision or builder.PRECISIONS[0]
    if precision not in builder.PRECISIONS:
        raise UsageError("--to %s makes %s, not %s" % (options.to, " or ".join(builder.PRECISIONS), precision))
    if options.calibration:
        open_source(options.calibration)  # a wrong name is told before the long work
    record = convert(bundle, options.to, builder, precision, options)
    found = record["parity"]
    print(
        "%s-%s: same label as the original for %.2f %% of %d photos, largest difference of a probability %.1e"
        % (options.to, precision, 100 * found["top1_agreement"], found["photos"], found["max_abs_difference"])
    )
    print(
        "built in %.1f s, %.1f images/s at batch %d; %s"
        % (
            record["build_s"],
            record["images_per_s"],
            record["max_batch"],
            "use it with --engine %s-%s, or leave it to --engine auto" % (options.to, precision),
        )
    )


def convert(bundle, kind, builder, precision, options):
    """Builds, checks and publishes one engine. Returns its record (engine.json).

    Raises:
        ParityError: it answers differently; nothing is kept. What the builder raises.
    """
    name = "%s-%s" % (kind, precision)
    engines = bundle.file("engines")
    try:
        with files.whole_folder(os.path.join(engines, name)) as folder:
            say("building %s" % name)
            started = time.perf_counter()
            builder.build(bundle, precision, options.max_batch, folder)
            build_s = time.perf_counter() - started
            sample = parity.reference_sample(bundle, options.calibration)
            say("checking %s on %d photos" % (name, len(sample.names)))
            info = EngineInfo(name, kind, precision, folder, {})
            with create_engine(info, len(bundle.class_names), options.max_batch, None).open() as engine:
                found = parity.compare(engine, sample, sorted({1, options.max_batch}))
                parity.require_agreement(name, found, options.min_agreement)
                images_per_s = _speed(engine, sample.images[: options.max_batch])
            record = {
                "format_version": FORMAT_VERSION,
                "kind": kind,
                "precision": precision,
                "max_batch": options.max_batch,
                "source": {"bundle_id": bundle.id, "model_sha256": bundle.sha256("model.onnx")},
                "libraries": {LIBRARIES[kind]: machine.library_version(LIBRARIES[kind])},
                "machine": machine.describe(),
                "parity": found._asdict(),
                "min_agreement": options.min_agreement,
                "build_s": round(build_s, 2),
                "images_per_s": round(images_per_s, 2),
                "built_at": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "files": list_files(folder),
            }
            files.write_json(os.path.join(folder, ENGINE_JSON), record)
    except BaseException:
        with contextlib.suppress(OSError):
            os.rmdir(engines)  # only if this made it and nothing else is in it
        raise
    return record


def _speed(engine, batch):
    """Returns photos per second over about two seconds: a rough figure, for --engine auto to choose by."""
    engine.infer(batch)
    started, photos = time.perf_counter(), 0
    while time.perf_counter() - started < _TIMED_S:
        engine.infer(batch)
        photos += len(batch)
    return photos / (time.perf_counter() - started)
