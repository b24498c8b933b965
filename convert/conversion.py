"""One conversion: build an engine, check it beside the original, publish it in the bundle or refuse it."""

import contextlib
import datetime
import errno
import os
import shutil
import time
import typing

from convert import labelled, reference
from edge_runtime import files
from edge_runtime.bundle import signing
from edge_runtime.bundle.checksums import list_files
from edge_runtime.bundle.reading import Sample
from edge_runtime.console import say
from edge_runtime.engines import gpu_check
from edge_runtime.engines.check import check, speeds, split_sample
from edge_runtime.engines.kinds import create_engine, module_of
from edge_runtime.engines.record import (
    ENGINE_JSON,
    FORMAT_VERSION,
    SCRATCH,
    EngineInfo,
    engine_name,
    read_engine_info,
)
from edge_runtime.errors import (
    BundleError,
    MissingRequirement,
    OutOfMemory,
    ParityError,
    PicnicError,
    UsageError,
    is_out_of_memory,
)
from edge_runtime.gate import judge
from edge_runtime.machine import cpu, memory

OPTIONS = ("calibration", "labels", "images", "min_agreement", "max_log_odds_change", "max_f1_drop")  # kept, to rebuild
_SPACE_FACTOR = 4  # a conversion may need this many times the model's size on the disk
_FULL_BYTES = 16 << 20  # with less than this free, an error of any kind is taken for a full disk


class Settings(typing.NamedTuple):
    """What a builder makes an engine with."""

    precision: str  # one of the builder's PRECISIONS
    max_batch: int  # the largest batch that the engine must take
    workspace_mib: typing.Optional[int]  # memory that the build may use on the GPU; None: chosen for this machine
    calibration: Sample  # photos for int8, with the original's answers
    gpus: typing.Optional[str] = None  # for tensorrt-rtx: families of GPUs, as convert.tensorrt_rtx.GPUS names them


def convert(bundle, kind, builder, precision, options):
    """Builds, checks and publishes one engine. Several conversions of one bundle may run at the same time.

    Args:
        bundle: an open Bundle.
        kind: a key of convert.cli.TARGETS.
        builder: the module of that kind.
        precision: one of the builder's PRECISIONS.
        options: of convert.cli.parser.

    Returns:
        (the content of engine.json, edge_runtime.gate.compare.Parity, edge_runtime.gate.judge.Verdict).

    Raises:
        ParityError: the gate refused the engine; nothing is kept.
        UsageError: the bundle cannot be written to, the disk is full, the photos cannot be read.
        MissingRequirement, BundleError, ChildError: from the builder.
    """
    name = engine_name(kind, precision, options.max_batch)
    engines = bundle.file("engines")
    _check_writable(bundle, engines)
    builder.check(precision)
    try:
        with files.atomic_folder(os.path.join(engines, name)) as folder, _naming_a_full_disk(engines):
            files.remove_abandoned(engines)
            photos = reference.labelled_photos(bundle, options.labels, options.images) if options.labels else None
            sample = reference.reference_sample(bundle, options.calibration, options.images)
            calibration, checked = split_sample(sample, precision)
            too_few = judge.not_enough(len(checked.names))
            if too_few:
                calibrating = f"; {len(calibration.names)} more calibrate int8" if precision == "int8" else ""
                raise ParityError(f"{name} was not built: {too_few}{calibrating}")
            settings = Settings(precision, options.max_batch, options.workspace_mib, calibration, options.gpus)
            record = _build(bundle, kind, builder, settings, folder)
            for option in OPTIONS:
                record[option] = getattr(options, option)
            info = EngineInfo(name, kind, precision, folder, record)
            stand_ins = _stand_ins(bundle, builder, info, options.max_batch)
            through = f" through {stand_ins[-1].kind}" if stand_ins else ""
            say(f"checking {name}{through} on {len(checked.names)} photos")
            if hasattr(builder, "also_runs_in"):
                _check_model(bundle, info, builder.also_runs_in(precision), checked, options)
            for model in stand_ins[:-1]:
                with _open(bundle, model, 1) as engine:
                    check(engine, checked, options.min_agreement, options.max_log_odds_change)
            running, largest = (stand_ins[-1], 1) if stand_ins else (info, options.max_batch)
            with _open(bundle, running, largest) as engine:
                parity, verdict = check(engine, checked, options.min_agreement, options.max_log_odds_change)
                if stand_ins:
                    record.update(images_per_s=None, images_per_s_b1=None, checked_through=running.kind)
                else:
                    measured = speeds(engine, sample.images)
                    record.update(measured)
                    gpu_check.add(record, parity, verdict, measured)
                answers = labelled.classify(bundle, engine, photos) if photos else None
            scores = None
            if photos:  # one engine in memory at a time
                scores = labelled.compare_labelled(bundle, photos, answers)
                labelled.require_macro_f1(name, parity, scores, options.max_f1_drop)
            if os.path.isdir(os.path.join(folder, SCRATCH)):
                shutil.rmtree(os.path.join(folder, SCRATCH))
            record.update(parity=dict(parity._asdict(), labelled=scores), verdict=dict(verdict._asdict()))
            record["files"] = list_files(folder)
            files.write_json(os.path.join(folder, ENGINE_JSON), signing.signed(record))
    except BaseException:
        with contextlib.suppress(OSError):
            os.rmdir(engines)  # only an empty folder is removed
        raise
    _remove_predecessor(bundle, info)
    return record, parity, verdict


def _stand_ins(bundle, builder, info, max_batch):
    """Returns what to check in the place of an engine that cannot be opened here, [] where it can be opened.

    Raises:
        BundleError, MissingRequirement: it cannot, and its builder has nothing in its place.
    """
    if not hasattr(builder, "stand_ins"):
        return []
    try:
        create_engine(info, bundle.input_spec.shape, len(bundle.class_names), max_batch, None).open().close()
        return []
    except (BundleError, MissingRequirement) as error:
        say(f"{info.name} cannot run here: {str(error).splitlines()[0]}")
        return builder.stand_ins(info)


def _open(bundle, info, max_batch):
    """Opens an engine that was just made. Raises BundleError: its library cannot."""
    engine = create_engine(info, bundle.input_spec.shape, len(bundle.class_names), max_batch, None)
    try:
        with _naming_a_full_disk(bundle.file("engines")):
            return engine.open()
    except PicnicError:
        raise
    except Exception as error:  # each library has exceptions of its own
        if is_out_of_memory(error):
            raise OutOfMemory(f"{info.name}: not enough memory to load it ({error})") from error
        folder, names = os.path.join(bundle.file("engines"), info.name), ", ".join(module_of(info.kind).FILES)
        raise BundleError(
            f"{folder}: {info.kind} cannot load its new {names} ({error}); the bundle was not changed. "
            "Where the file came with the bundle, copy the bundle here again"
        ) from error


def _remove_predecessor(bundle, info):
    """Removes the engine of version 0.2 that an engine takes the place of: version 0.2 wrote no batch into the name."""
    older = read_engine_info(bundle, engine_name(info.kind, info.precision))
    if older.name == info.name or older.record.get("batch_profile") != info.record["batch_profile"]:
        return
    with contextlib.suppress(FileNotFoundError):  # another conversion was sooner
        files.remove_folder(older.path)
    say(f"{older.name}, an engine for the same batch, is removed: {info.name} takes its place")


def _check_model(bundle, info, precision, sample, options):
    """Runs an engine's files in a precision that rounds less, and judges them as that. Raises ParityError: see check.

    A fault of the model that the engine's own rounding hides shows there.
    """
    if precision == info.precision:
        return
    exact = info._replace(name=f"{info.name}, computed in {precision},", precision=precision)
    with _open(bundle, exact, 1) as engine:  # batches are the engine's own matter
        limit = options.max_log_odds_change  # the user's own is for both, else each precision has its own
        if limit == judge.MAX_LOG_ODDS_CHANGE[info.precision]:
            limit = judge.MAX_LOG_ODDS_CHANGE[precision]
        check(engine, sample, options.min_agreement, limit)


def _build(bundle, kind, builder, settings, folder):
    """Writes the engine's files into folder. Returns the part of engine.json that describes the build."""
    say(f"building {engine_name(kind, settings.precision, settings.max_batch)}")
    started = time.perf_counter()
    facts = builder.build(bundle, settings, folder)
    return dict(
        facts,
        format_version=FORMAT_VERSION,
        kind=kind,
        precision=settings.precision,
        batch_profile={"min": 1, "opt": settings.max_batch, "max": settings.max_batch},
        source={"bundle_id": bundle.id, "model_sha256": bundle.sha256("model.onnx")},
        machine=facts.get("machine") or cpu.describe(),
        build_s=round(time.perf_counter() - started, 2),
        peak_memory_bytes=_peak_memory_bytes(),
        built_at=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _check_writable(bundle, engines):
    """Raises UsageError when no engine can be written into the bundle, before the long work."""
    folder = engines if os.path.lexists(engines) else bundle.path
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(
            f"{folder}: cannot be written to (no permission, a read-only disk, or no folder); copy the bundle to a "
            "folder of your own and convert it there"
        )
    needed_bytes = _SPACE_FACTOR * os.path.getsize(bundle.file("model.onnx"))
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise UsageError(
            f"{folder}: a conversion needs up to {needed_bytes >> 20} MiB while it runs, but this disk has only "
            f"{free_bytes >> 20} MiB free"
        )


@contextlib.contextmanager
def _naming_a_full_disk(engines):
    """Raises UsageError for an error that a full disk caused, whatever the library calls it."""
    try:
        yield
    except PicnicError:
        raise
    except Exception as error:
        free_bytes = shutil.disk_usage(engines).free
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or free_bytes < _FULL_BYTES:
            raise UsageError(
                f"{engines}: the disk is full ({free_bytes >> 20} MiB left); the bundle was not changed"
            ) from error
        raise


def _peak_memory_bytes():
    """Returns the largest resident size of this process and of the processes it started."""
    import resource

    return max(memory.peak_memory_bytes(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
