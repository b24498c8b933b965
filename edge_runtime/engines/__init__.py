"""One interface to everything that can run the network, one file per kind of engine.

A bundle runs as it is by `onnxruntime` (its model.onnx) and by `tensorflow` (its saved_model). `picnic-edge convert`
adds faster ones under BUNDLE/engines/<kind>-<precision>/, each with an engine.json that says what it was made of and
for which machine; it is checked before the engine is loaded. An engine opens only its module's FILES, through
bundle.checked_path and bundle.checked_bytes, which want them listed and unchanged.
"""

import importlib
import logging
import os
import shlex
import typing

from edge_runtime.bundle import bundle as bundles
from edge_runtime.bundle import signing
from edge_runtime.errors import (
    BundleError,
    CorruptFile,
    MissingRequirement,
    OutOfMemory,
    PicnicError,
    UsageError,
    is_out_of_memory,
)
from edge_runtime.machine import machine

ENGINE_JSON = "engine.json"
FORMAT_VERSION = 1
LIBRARIES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorflow": "tensorflow",
    "tensorrt": "tensorrt",
    "tf-trt": "tensorflow",
}  # kind -> distribution
DEFAULT_BATCH = 8  # of the bundle's own models, and the largest of an engine where the converter is not told
MIN_AGREEMENT = 0.995  # share of the photos with the original's label that the converter asks for where it is not told
MIN_AGREEMENT_INT8 = 0.98
MOST_BATCH = 1024  # photos; larger ones take memory and gain nothing
_BUILT_IN = (("onnxruntime", "model.onnx"), ("tensorflow", "saved_model"))


class EngineInfo(typing.NamedTuple):
    """One way to run a bundle."""

    name: str
    kind: str
    precision: str
    path: str  # what the engine loads
    record: typing.Optional[dict]  # engine.json, None for the bundle's own models
    files: typing.Optional[dict] = None  # of the folder, with their sums; None: they were just made, nothing is checked


log = logging.getLogger("picnic_edge")


def list_engines(bundle):
    """Returns an EngineInfo for each way to run a bundle: the converted, fastest first, then the built-in ones."""
    folder = bundle.file("engines")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    kinds = set(LIBRARIES) - {"tensorflow"}  # that one runs nothing but the bundle's own saved_model
    converted = [_read_info(bundle, name) for name in names if name.rpartition("-")[0] in kinds]
    converted.sort(key=lambda info: -(info.record or {}).get("images_per_s", 0))
    return converted + [
        EngineInfo(kind, kind, "fp32", bundle.file(path), None, bundle.files)
        for kind, path in _BUILT_IN
        if bundle.lists(path)
    ]


def open_engine(bundle, name="auto", max_batch=DEFAULT_BATCH, threads=None):
    """Opens an engine of a bundle after checking that it belongs to this bundle and this machine.

    Args:
        bundle: edge_runtime.bundle.bundle.Bundle.
        name: "auto" for the fastest that is valid here, an engine's name, or a kind (the fastest of that kind).
        max_batch: the largest batch that infer will be given; None for best_batch of the engine that is opened.
        threads: for CPU engines; None for all cores.

    Returns:
        An open Engine.

    Raises:
        UsageError: no engine of that name. BundleError: it is not valid here, or a model of the bundle's own that would
            be used is corrupt. MissingRequirement: no library for it.
    """
    if max_batch and max_batch > MOST_BATCH:
        raise UsageError("a batch of %d: expected 1 to %d photos" % (max_batch, MOST_BATCH))
    if name != "auto":
        return _open(bundle, find_engine(bundle, name), max_batch, threads)
    reasons = []
    for info in list_engines(bundle):
        try:
            return _open(bundle, info, max_batch, threads)
        except (BundleError, MissingRequirement) as error:
            if info.record is None and isinstance(error, CorruptFile):
                raise  # a damaged copy of the bundle; a slower engine would hide that
            reasons.append("%s: %s" % (info.name, str(error).splitlines()[0]))
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


def best_batch(info):
    """Returns the batch size that an engine was made for (what the converter timed it at)."""
    record = info.record or {}
    profile = record.get("batch_profile")
    best = profile.get("opt") if isinstance(profile, dict) else record.get("max_batch")  # older engines have no profile
    return best if isinstance(best, int) and 0 < best <= MOST_BATCH else DEFAULT_BATCH


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
        for name in _module(info.kind).FILES if info.record is not None else ():
            with bundles.advising(_advice(bundle, info)):
                bundles.checked_path(info.path, name, info.files)
        return info

    return _or_newer(bundle, info, check)


def _or_newer(bundle, info, use):
    """Returns use(info); where another conversion has replaced the engine since it was listed, use(the newer one)."""
    try:
        return use(info)
    except BundleError:
        newer = None if info.record is None else _read_info(bundle, info.name)
        if newer is None or newer.record == info.record:
            raise
        return use(newer)


def _check(bundle, info):
    """Checks all of a converted engine but the content of its files, which is checked when they are opened."""
    if info.record is None:
        return
    advice = _advice(bundle, info)
    if info.record is not _GARBLED:
        signing.require_signature(info.path, info.record)
    problem = _foreign(bundle, info.kind, info.record)
    if problem:
        raise BundleError("%s: %s; %s" % (info.path, problem, advice))
    with bundles.advising(advice):
        bundles.check_files(info.path, info.files)


def _advice(bundle, info):
    return bundles.ADVICE if info.record is None else "make it again: " + rebuild_command(bundle, info)


def here(kind):
    """Returns what this machine has of what an engine of a kind is bound to, without loading an engine.

    Returns:
        {"libraries": {name: version, None where it is not installed}, "gpu": None or {"name", "compute_capability"}}.

    Raises:
        MissingRequirement: a kind that runs on a GPU finds no library or GPU.
    """
    module = _module(kind)
    if hasattr(module, "here"):
        return module.here()
    return {"libraries": {LIBRARIES[kind]: machine.library_version(LIBRARIES[kind])}, "gpu": None}


def _foreign(bundle, kind, record):
    """Returns why an engine with this record is not for this bundle and this machine, "" where it is."""
    made_for, this = record["machine"], machine.describe()
    lacking = sorted(set(made_for["cpu_features"]) - set(this["cpu_features"]))
    if record["source"]["bundle_id"] != bundle.id:
        return "was made from bundle %s, this is %s" % (record["source"]["bundle_id"], bundle.id)
    if made_for["architecture"] != this["architecture"]:
        return "was made for %s, this machine is %s" % (made_for["architecture"], this["architecture"])
    if lacking:
        return "was made for a CPU with %s, which this one lacks" % ", ".join(lacking)
    # ONNX Runtime saves the weights in blocks of the building CPU's size, 16 with AVX-512 and 8 without, and reads
    # blocks of the other size as they are: wrong answers, no error.
    if kind == "onnxruntime" and "avx512f" in set(this["cpu_features"]) - set(made_for["cpu_features"]):
        return "was made for a CPU without avx512f, which this one has"
    found = here(kind)
    for library, version in sorted(found["libraries"].items()):
        if version not in (None, record["libraries"].get(library)):  # None: opening it says what is missing
            made_with = record["libraries"].get(library)
            return "was made and checked with %s %s, here is %s" % (library, made_with, version)
    if found["gpu"] != record.get("gpu"):
        return "was made for %s, here is %s" % (_gpu_text(record.get("gpu")), _gpu_text(found["gpu"]))
    return ""


def _gpu_text(gpu):
    if not gpu:
        return "no GPU"
    return "the GPU %s (compute capability %s)" % (gpu.get("name"), gpu.get("compute_capability"))


def rebuild_command(bundle, info):
    """Returns the command line that makes a converted engine again, with the options that it was made with."""
    record, profile = info.record, info.record.get("batch_profile")
    options = (
        ("--max-batch", profile.get("max") if isinstance(profile, dict) else None, DEFAULT_BATCH),
        ("--calibration", record.get("calibration"), None),
        ("--labels", record.get("labels"), None),
        ("--images", record.get("images"), None),
        ("--min-agreement", record.get("min_agreement"), default_min_agreement(info.precision)),
    )
    words = ["picnic-edge", "convert", bundle.path, "--to", info.kind, "--precision", info.precision]
    for option, value, default in options:
        if isinstance(value, (int, float, str)) and value != default:  # engine.json may be garbled
            words += [option, str(value)]
    return " ".join(map(shlex.quote, words))


def default_min_agreement(precision):
    """Returns the --min-agreement of `picnic-edge convert` where none is given."""
    return MIN_AGREEMENT_INT8 if precision == "int8" else MIN_AGREEMENT


def create_engine(info, class_count, max_batch, threads):
    """Returns the Engine object for an EngineInfo, not open yet and not checked."""
    return _module(info.kind).create(info, class_count, max_batch, threads or machine.core_count())


def _module(kind):
    name = "tensorrt.tensorrt" if kind == "tensorrt" else kind.replace("-", "_")
    return importlib.import_module("edge_runtime.engines." + name)


def _open(bundle, info, max_batch, threads):
    return _or_newer(bundle, info, lambda info: _open_checked(bundle, info, max_batch, threads))


def _open_checked(bundle, info, max_batch, threads):
    _check(bundle, info)
    try:
        with bundles.advising(_advice(bundle, info)):
            return create_engine(info, len(bundle.class_names), max_batch or best_batch(info), threads).open()
    except PicnicError:
        raise
    except Exception as error:  # each library has exceptions of its own
        if is_out_of_memory(error):
            raise OutOfMemory("%s: there is not enough memory to load it (%s)" % (info.path, error)) from error
        mend = "\nMake it again: " + rebuild_command(bundle, info) if info.record else ""
        raise BundleError("%s: cannot be loaded: %s%s" % (info.path, error, mend)) from error


def _read_info(bundle, name):
    folder = os.path.join(bundle.file("engines"), name)
    kind, _, precision = name.rpartition("-")
    try:
        record = bundles.read_json(os.path.join(folder, ENGINE_JSON))
        whole = (
            record["format_version"] == FORMAT_VERSION
            and "%s-%s" % (record["kind"], record["precision"]) == name
            and isinstance(record["machine"]["architecture"], str)
            and all(isinstance(feature, str) for feature in record["machine"]["cpu_features"])
            and isinstance(record["source"]["bundle_id"], str)
            and isinstance(record["libraries"], dict)
            and isinstance(record.get("gpu") or {}, dict)
            and isinstance(record["files"], dict)
            and len(record["files"]) > 0
            and isinstance(record["images_per_s"], (int, float))
            and 0 <= record["images_per_s"] < float("inf")
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:  # kept in the list: check_engine then names the command that makes it again
        record = _GARBLED
    return EngineInfo(name, kind, precision, folder, record, record["files"])


# What an unreadable engine.json counts as: of no bundle, slower than all.
_GARBLED = {
    "source": {"bundle_id": "unknown (engine.json is missing or garbled)"},
    "machine": {"architecture": "unknown", "cpu_features": []},
    "libraries": {},
    "files": {},
    "images_per_s": 0,
}  # type: dict
