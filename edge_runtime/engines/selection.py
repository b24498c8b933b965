"""Which engine runs a bundle on this machine: lists, checks and opens engines."""

import contextlib
import logging
import math
import os
import shlex

from edge_runtime.bundle import checksums, manifest, signing
from edge_runtime.engines import gpu_check
from edge_runtime.engines.kinds import LIBRARIES, create_engine, module_of
from edge_runtime.engines.record import (
    DEFAULT_BATCH,
    MAX_BATCH,
    UNREADABLE,
    EngineInfo,
    best_batch,
    measured_speed,
    mismatch,
    read_engine_info,
    rebuild_command,
    split_engine_name,
)
from edge_runtime.errors import (
    BundleError,
    CorruptFile,
    MissingRequirement,
    OutOfMemory,
    ParityError,
    PicnicError,
    UsageError,
    is_out_of_memory,
)

_BUILT_IN = (("onnxruntime", "model.onnx"), ("tensorflow", "saved_model"))  # (kind, the bundle's own model)

log = logging.getLogger("picnic_edge")


def list_engines(bundle, batch=None):
    """Returns an EngineInfo for each way to run a bundle: converted engines, fastest first, then its own models.

    Args:
        bundle: edge_runtime.bundle.reading.Bundle.
        batch: photos per call. At 1 (a camera) the engines' speed at 1 counts, else that in their largest batches.
    """
    folder = bundle.file("engines")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    kinds = set(LIBRARIES) - {"tensorflow"}  # runs nothing but the bundle's own saved_model
    names = [name for name in names if split_engine_name(name)[0] in kinds]
    converted = [gpu_check.newest(read_engine_info(bundle, name)) for name in names]
    gpu = gpu_check.here() if any("gpu_checks" in info.record for info in converted) else None
    converted.sort(key=lambda info: -measured_speed(info, batch, gpu))
    return converted + [
        EngineInfo(kind, kind, "fp32", bundle.file(path), None, bundle.files)
        for kind, path in _BUILT_IN
        if bundle.lists(path)
    ]


def open_engine(bundle, name="auto", max_batch=DEFAULT_BATCH, threads=None):
    """Opens an engine of a bundle after checking that it belongs to this bundle and this machine.

    Args:
        bundle: edge_runtime.bundle.reading.Bundle.
        name: "auto" for the one valid here that the conversion measured as fastest (at 1 where max_batch is 1, else in
            its largest batches), else the bundle's own; an engine's name; or a kind (the fastest of that kind). Those
            that the GPU here has not run yet are checked and measured before the choice.
        max_batch: the largest batch that infer must take, 1 to MAX_BATCH; None for what the engine was made for.
        threads: for CPU engines; None for all cores.

    Returns:
        an open edge_runtime.engines.base.Engine.

    Raises:
        UsageError: no engine of that name, or max_batch is too large.
        BundleError: the engine is not valid here, or the bundle's own model is needed and corrupt.
        MissingRequirement: its library or its GPU is missing; for "auto": no engine can run here.
        OutOfMemory: there is not enough memory to load it.
        ParityError: it was built without a GPU, and the gate refuses it on the GPU here.
    """
    if max_batch and max_batch > MAX_BATCH:
        raise UsageError(f"a batch of {max_batch}: expected 1 to {MAX_BATCH} photos")
    if name != "auto":
        failures = _check_unmeasured(bundle, name)
        return _open(bundle, find_engine(bundle, name, max_batch, last=failures), max_batch, threads)
    reasons = []
    failures = _check_unmeasured(bundle)
    for info in list_engines(bundle, max_batch):
        if info.name in failures:
            reasons.append(failures[info.name])
            continue
        try:
            return _open(bundle, info, max_batch, threads)
        except (BundleError, MissingRequirement, ParityError) as error:
            if info.record is None and isinstance(error, CorruptFile):
                raise  # a damaged copy of the bundle; a slower engine would hide that
            reasons.append(_skipped(info, error))
    lines = "\n".join(reasons)
    raise MissingRequirement(f"no engine of {bundle.path} can run here:\n{lines}")


def _check_unmeasured(bundle, kind=None):
    """Checks the engines that the GPU here has not run yet: the fastest cannot be chosen before.

    Args:
        kind: None: of all kinds.

    Returns:
        {name: why, one line} of those that cannot be used.
    """
    failures, gpu = {}, None
    for info in list_engines(bundle):
        if kind not in (None, info.kind) or "gpu_checks" not in (info.record or {}):
            continue
        gpu = gpu or gpu_check.here()
        if measured_speed(info, gpu=gpu) == math.inf:
            try:
                _or_newer(bundle, info, lambda info: _gpu_checked(bundle, info))
            except (BundleError, MissingRequirement, ParityError) as error:
                failures[info.name] = _skipped(info, error)
    return failures


def _skipped(info, error):
    """Logs that an engine cannot be used, and returns that as one line."""
    reason = f"{info.name}: {str(error).splitlines()[0]}"
    log.warning("engine %s - skipped", reason)
    return reason


def find_engine(bundle, name, batch=None, last=()):
    """Returns the EngineInfo of an engine by its name, or of a kind's fastest. Raises UsageError: there is none.

    Args:
        bundle: edge_runtime.bundle.reading.Bundle.
        name: of an engine, or a kind.
        batch: photos per call, as in list_engines.
        last: names to return only where the kind has no others.
    """
    known = list_engines(bundle, batch)
    of_kind = sorted((info for info in known if info.kind == name), key=lambda info: info.name in last)
    named = [info for info in known if info.name == name] or of_kind
    if not named:
        names = ", ".join(info.name for info in known)
        more = f"`picnic-edge convert {shlex.quote(bundle.path)} --to ...` makes more"
        if name == "tensorflow":
            more = "it runs the saved_model of a bundle of `picnic-edge train`, and this bundle has none"
        raise UsageError(f"{bundle.path}: has no engine {name}, only {names}; {more}")
    return named[0]


def check_engine(bundle, info):
    """Checks that a converted engine is complete, of this bundle, and made for this machine, without loading it.

    Returns:
        the EngineInfo; a newer one where another conversion has replaced the engine since info was read.

    Raises:
        BundleError: it is not; the message names the command that makes it again.
        MissingRequirement: the library or the GPU that it needs is missing.
    """

    def check(info):
        _check(bundle, info)
        for name in module_of(info.kind).FILES if info.record is not None else ():
            with checksums.advising(_advice(bundle, info)):
                checksums.checked_path(info.path, name, info.files)
        return info

    return _or_newer(bundle, info, check)


def _or_newer(bundle, info, use):
    """Returns use(info); where another conversion has replaced the engine since then, use(the newer one)."""
    try:
        return use(info)
    except BundleError:
        newer = None if info.record is None else read_engine_info(bundle, info.name)
        if newer is None or newer.record == info.record:
            raise
        return use(newer)


def _check(bundle, info):
    """Checks all of a converted engine except the content of its files, which is checked when they are opened."""
    if info.record is None:
        return
    advice = _advice(bundle, info)
    if info.record is not UNREADABLE:
        signing.require_signature(info.path, info.record)
    try:
        problem = mismatch(bundle, info.kind, info.record)
    except MissingRequirement as error:
        status = gpu_check.status(info)
        raise MissingRequirement(f"{status}; {error}" if status else str(error)) from error
    if problem:
        raise BundleError(f"{info.path}: {problem}; {advice}")
    with checksums.advising(advice):
        checksums.check_files(info.path, info.files)


def _advice(bundle, info):
    return manifest.ADVICE if info.record is None else "make it again: " + rebuild_command(bundle, info)


def _open(bundle, info, max_batch, threads):
    return _or_newer(bundle, info, lambda info: _open_checked(bundle, info, max_batch, threads))


def _open_checked(bundle, info, max_batch, threads):
    info = _gpu_checked(bundle, info)
    with _explained(bundle, info):
        return create_engine(
            info, bundle.input_spec.shape, len(bundle.class_names), max_batch or best_batch(info), threads
        ).open()


def _gpu_checked(bundle, info):
    """Returns the EngineInfo of an engine that may be opened here, with its newest record."""
    _check(bundle, info)
    with _explained(bundle, info):
        return gpu_check.require_checked(bundle, info)


@contextlib.contextmanager
def _explained(bundle, info):
    """Turns what a library raises while it loads an engine into a PicnicError with advice."""
    try:
        with checksums.advising(_advice(bundle, info)):
            yield
    except PicnicError:
        raise
    except Exception as error:  # each library has exceptions of its own
        if is_out_of_memory(error):
            raise OutOfMemory(f"{info.path}: not enough memory to load it ({error})") from error
        advice = "\nMake it again: " + rebuild_command(bundle, info) if info.record else ""
        raise BundleError(f"{info.path}: cannot be loaded: {error}{advice}") from error
