"""Which engine runs a bundle here: listed, checked, opened."""

import logging
import os
import shlex

from edge_runtime.bundle import checksums, manifest, signing
from edge_runtime.engines.modules import LIBRARIES, create_engine, module_of
from edge_runtime.engines.record import (
    DEFAULT_BATCH,
    GARBLED,
    MAX_BATCH,
    EngineInfo,
    best_batch,
    mismatch,
    read_engine_info,
    rebuild_command,
)
from edge_runtime.errors import (
    BundleError,
    CorruptFile,
    MissingRequirement,
    OutOfMemory,
    PicnicError,
    UsageError,
    is_out_of_memory,
)

_BUILT_IN = (("onnxruntime", "model.onnx"), ("tensorflow", "saved_model"))


log = logging.getLogger("picnic_edge")


def list_engines(bundle):
    """Returns an EngineInfo for each way to run a bundle: the converted, fastest first, then the built-in ones."""
    folder = bundle.file("engines")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    kinds = set(LIBRARIES) - {"tensorflow"}  # that one runs nothing but the bundle's own saved_model
    converted = [read_engine_info(bundle, name) for name in names if name.rpartition("-")[0] in kinds]
    converted.sort(key=lambda info: -(info.record or {}).get("images_per_s", 0))
    return converted + [
        EngineInfo(kind, kind, "fp32", bundle.file(path), None, bundle.files)
        for kind, path in _BUILT_IN
        if bundle.lists(path)
    ]


def open_engine(bundle, name="auto", max_batch=DEFAULT_BATCH, threads=None):
    """Opens an engine of a bundle after checking that it belongs to this bundle and this machine.

    Args:
        bundle: edge_runtime.bundle.reading.Bundle.
        name: "auto" for the fastest that is valid here, an engine's name, or a kind (the fastest of that kind).
        max_batch: the largest batch that infer will be given; None for best_batch of the engine that is opened.
        threads: for CPU engines; None for all cores.

    Returns:
        An open Engine.

    Raises:
        UsageError: no engine of that name. BundleError: it is not valid here, or a model of the bundle's own that would
            be used is corrupt. MissingRequirement: no library for it.
    """
    if max_batch and max_batch > MAX_BATCH:
        raise UsageError(f"a batch of {max_batch}: expected 1 to {MAX_BATCH} photos")
    if name != "auto":
        return _open(bundle, find_engine(bundle, name), max_batch, threads)
    reasons = []
    for info in list_engines(bundle):
        try:
            return _open(bundle, info, max_batch, threads)
        except (BundleError, MissingRequirement) as error:
            if info.record is None and isinstance(error, CorruptFile):
                raise  # a damaged copy of the bundle; a slower engine would hide that
            reasons.append(f"{info.name}: {str(error).splitlines()[0]}")
            log.warning("engine %s", reasons[-1] + " - skipped")
    raise MissingRequirement("no engine of %s can run here:\n%s" % (bundle.path, "\n".join(reasons)))


def find_engine(bundle, name):
    """Returns the EngineInfo of an engine's name, or of a kind's fastest engine. Raises UsageError: there is none."""
    known = list_engines(bundle)
    named = [info for info in known if info.name == name] or [info for info in known if info.kind == name]
    if not named:
        raise UsageError(
            "%s: has no engine %s, only %s; `picnic-edge convert %s --to ...` makes more"
            % (bundle.path, name, ", ".join(info.name for info in known), shlex.quote(bundle.path))
        )
    return named[0]


def check_engine(bundle, info):
    """Checks that a converted engine is whole, of this bundle, and made for this machine; nothing of it is loaded.

    Returns:
        the EngineInfo; a newer one where another conversion has replaced the engine since it was listed.

    Raises:
        BundleError: it is not; with the command that makes it again.
        MissingRequirement: the library or the GPU that it needs is not here.
    """

    def check(info):
        _check(bundle, info)
        for name in module_of(info.kind).FILES if info.record is not None else ():
            with checksums.advising(_advice(bundle, info)):
                checksums.checked_path(info.path, name, info.files)
        return info

    return _or_newer(bundle, info, check)


def _or_newer(bundle, info, use):
    """Returns use(info); where another conversion has replaced the engine since it was listed, use(the newer one)."""
    try:
        return use(info)
    except BundleError:
        newer = None if info.record is None else read_engine_info(bundle, info.name)
        if newer is None or newer.record == info.record:
            raise
        return use(newer)


def _check(bundle, info):
    """Checks all of a converted engine but the content of its files, which is checked when they are opened."""
    if info.record is None:
        return
    advice = _advice(bundle, info)
    if info.record is not GARBLED:
        signing.require_signature(info.path, info.record)
    problem = mismatch(bundle, info.kind, info.record)
    if problem:
        raise BundleError(f"{info.path}: {problem}; {advice}")
    with checksums.advising(advice):
        checksums.check_files(info.path, info.files)


def _advice(bundle, info):
    return manifest.ADVICE if info.record is None else "make it again: " + rebuild_command(bundle, info)


def _open(bundle, info, max_batch, threads):
    return _or_newer(bundle, info, lambda info: _open_checked(bundle, info, max_batch, threads))


def _open_checked(bundle, info, max_batch, threads):
    _check(bundle, info)
    try:
        with checksums.advising(_advice(bundle, info)):
            return create_engine(info, len(bundle.class_names), max_batch or best_batch(info), threads).open()
    except PicnicError:
        raise
    except Exception as error:  # each library has exceptions of its own
        if is_out_of_memory(error):
            raise OutOfMemory(f"{info.path}: there is not enough memory to load it ({error})") from error
        mend = "\nMake it again: " + rebuild_command(bundle, info) if info.record else ""
        raise BundleError(f"{info.path}: cannot be loaded: {error}{mend}") from error
