"""picnic-edge convert"""

import argparse
import contextlib
import datetime
import errno
import importlib
import os
import shutil
import time

import numpy as np

from convert import parity
from convert.settings import Settings
from edge_runtime import files
from edge_runtime.bundle import signing
from edge_runtime.bundle.listing import list_files
from edge_runtime.bundle.reading import Bundle
from edge_runtime.cli.options import positive, share
from edge_runtime.console import say
from edge_runtime.engines.modules import create_engine
from edge_runtime.engines.record import (
    DEFAULT_BATCH,
    ENGINE_JSON,
    FORMAT_VERSION,
    MAX_BATCH,
    MIN_AGREEMENT,
    MIN_AGREEMENT_INT8,
    EngineInfo,
    default_min_agreement,
)
from edge_runtime.errors import PicnicError, UsageError
from edge_runtime.machine import cpu, memory

# --to -> module with PRECISIONS (the default first), check(precision), which raises MissingRequirement before any work,
# and build(bundle, settings, folder) -> facts for engine.json
TARGETS = {
    "onnxruntime": "convert.onnxruntime",
    "openvino": "convert.openvino",
    "tensorrt": "convert.tensorrt",
    "tf-trt": "convert.tf_trt",
}
_TIMED_S = 2.0
_SPACE = 4  # free space that a conversion may need, in times of the model's size
_FULL_BYTES = 16 << 20  # libraries say a full disk in words of their own: with less than this free, that is the reason


def parser():
    """Returns the argument parser of `picnic-edge convert`."""
    this = argparse.ArgumentParser(
        prog="picnic-edge convert",
        description="Make an engine for this machine from a bundle, check it against the original on photos, and keep "
        "it in the bundle only if it agrees.",
        epilog="example: picnic-edge convert bundle --to openvino --precision int8",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train`")
    this.add_argument("--to", required=True, choices=list(TARGETS), help="the library that will run the engine")
    this.add_argument(
        "--precision", choices=["fp32", "fp16", "bf16", "int8"], help="default fp32; tensorrt, tf-trt: fp16"
    )
    this.add_argument(
        "--max-batch",
        type=positive,
        default=DEFAULT_BATCH,
        metavar="N",
        help="largest batch it must take (default %(default)s)",
    )
    this.add_argument(
        "--calibration",
        metavar="DIR",
        help="photos to check the engine on, and to quantize by for int8 (default: the sample kept in the bundle)",
    )
    this.add_argument(
        "--labels",
        metavar="TSV",
        help="labelled photos (columns file and label, or a folder of class folders): the engine's macro-F1 on them "
        f"may be at most {100 * parity.MAX_F1_DROP:.1f} points below the original's",
    )
    this.add_argument("--images", metavar="DIR", help="where a TSV's file names start (default: the TSV's folder)")
    this.add_argument(
        "--min-agreement",
        type=share,
        metavar="P",
        help="refuse the engine if fewer photos get the original's label (default %s; int8 %s)"
        % (MIN_AGREEMENT, MIN_AGREEMENT_INT8),
    )
    this.add_argument(
        "--workspace-mib",
        type=positive,
        metavar="N",
        help="memory that building a GPU engine may use (default: by the machine)",
    )
    return this


def main(argv=None):
    """Converts a bundle. Raises PicnicError as the exit codes say."""
    options = parser().parse_args(argv)
    bundle = Bundle.open(options.bundle)
    builder = importlib.import_module(TARGETS[options.to])
    precision = options.precision or builder.PRECISIONS[0]
    if precision not in builder.PRECISIONS:
        raise UsageError(f"--to {options.to} makes {' or '.join(builder.PRECISIONS)}, not {precision}")
    if options.max_batch > MAX_BATCH:
        raise UsageError(f"--max-batch {options.max_batch}: expected 1 to {MAX_BATCH} photos")
    if options.min_agreement is None:
        options.min_agreement = default_min_agreement(precision)
    record, found = convert(bundle, options.to, builder, precision, options)
    print(parity.format_table(f"{options.to}-{precision}", found))
    print(
        "built in %.1f s, %.1f images/s at batch %d; %s"
        % (
            record["build_s"],
            record["images_per_s"],
            record["batch_profile"]["max"],
            f"use it with --engine {options.to}-{precision}, or leave it to --engine auto",
        )
    )


def convert(bundle, kind, builder, precision, options):
    """Builds, checks and publishes one engine. Returns (its record as in engine.json, parity.Parity).

    Other conversions of the same bundle may run at the same time: each has a folder of its own until it is published.

    Raises:
        ParityError: it answers differently; nothing is kept.
        UsageError: the bundle cannot be written to, the disk is full, the photos cannot be read.
        What the builder raises.
    """
    name = f"{kind}-{precision}"
    engines = bundle.file("engines")
    _check_place(bundle, engines)
    builder.check(precision)
    try:
        with files.atomic_folder(os.path.join(engines, name)) as folder, _full_disk_named(engines):
            files.remove_abandoned(engines)
            labelled = parity.labelled_photos(bundle, options.labels, options.images) if options.labels else None
            sample = parity.reference_sample(bundle, options.calibration, options.images)
            settings = Settings(precision, options.max_batch, options.workspace_mib, sample)
            record = _build(bundle, kind, builder, settings, folder)
            chosen = ("calibration", "labels", "images", "min_agreement")
            record.update((option, getattr(options, option)) for option in chosen)
            say(f"checking {name} on {len(sample.names)} photos")
            info = EngineInfo(name, kind, precision, folder, record)
            with create_engine(info, len(bundle.class_names), options.max_batch, None).open() as engine:
                found = parity.compare(engine, sample, parity.batch_sizes(options.max_batch))
                parity.require_agreement(name, found, options.min_agreement)
                record["images_per_s"] = round(_speed(engine, sample.images), 2)
                answers = parity.classify(bundle, engine, labelled) if labelled else None
            if labelled:  # one engine in memory at a time
                found = found._replace(labelled=parity.compare_labelled(bundle, labelled, answers))
                parity.require_macro_f1(name, found)
            record.update(parity=found._asdict(), files=list_files(folder))
            files.write_json(os.path.join(folder, ENGINE_JSON), signing.signed(record))
    except BaseException:
        with contextlib.suppress(OSError):
            os.rmdir(engines)  # only if this made it and nothing else is in it
        raise
    return record, found


def _build(bundle, kind, builder, settings, folder):
    """Writes the engine's files into folder. Returns what engine.json says about their making."""
    say(f"building {kind}-{settings.precision}")
    started = time.perf_counter()
    facts = builder.build(bundle, settings, folder)
    return dict(
        facts,
        format_version=FORMAT_VERSION,
        kind=kind,
        precision=settings.precision,
        batch_profile={"min": 1, "opt": settings.max_batch, "max": settings.max_batch},
        source={"bundle_id": bundle.id, "model_sha256": bundle.sha256("model.onnx")},
        machine=cpu.describe(),
        build_s=round(time.perf_counter() - started, 2),
        peak_memory_bytes=_peak_memory_bytes(),
        built_at=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _check_place(bundle, engines):
    """Raises UsageError when no engine can be written into the bundle: told before the long work."""
    place = engines if os.path.lexists(engines) else bundle.path
    if not os.path.isdir(place) or not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(
            "%s: cannot be written to (no permission, a read-only disk, or no folder); copy the bundle to a place of "
            "your own and convert it there" % place
        )
    needed_bytes = _SPACE * os.path.getsize(bundle.file("model.onnx"))
    free_bytes = shutil.disk_usage(place).free
    if free_bytes < needed_bytes:
        raise UsageError(
            "%s: a conversion may take %d MiB for a while and only %d MiB are free on this disk"
            % (place, needed_bytes >> 20, free_bytes >> 20)
        )


@contextlib.contextmanager
def _full_disk_named(engines):
    """Makes a UsageError of what goes wrong on a full disk, whatever the library at work calls it."""
    try:
        yield
    except PicnicError:
        raise
    except Exception as error:
        free_bytes = shutil.disk_usage(engines).free
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or free_bytes < _FULL_BYTES:
            raise UsageError(
                f"{engines}: the disk is full ({free_bytes >> 20} MiB left); the bundle is as it was"
            ) from error
        raise


def _peak_memory_bytes():
    """Returns the largest resident size that this process, or one of the processes it started, has had."""
    import resource

    return max(memory.peak_memory_bytes(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)


def _speed(engine, pictures):
    """Returns photos per second in the largest batches, over about two seconds: for --engine auto to choose by."""
    batch = pictures[np.arange(engine.max_batch) % len(pictures)]
    engine.infer(batch)
    started, photos = time.perf_counter(), 0
    while time.perf_counter() - started < _TIMED_S:
        engine.infer(batch)
        photos += len(batch)
    return photos / (time.perf_counter() - started)
