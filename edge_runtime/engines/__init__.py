"""One interface to everything that can run the network, one file per kind of engine.

A bundle runs as it is by `onnxruntime` (its model.onnx) and by `tensorflow` (its saved_model). `picnic-edge convert`
adds faster ones under BUNDLE/engines/<kind>-<precision>/, each with an engine.json that says what it was made of and
for which machine; it is checked before the engine is loaded.
"""

import importlib
import json
import logging
import os
import typing

from edge_runtime import machine
from edge_runtime.bundle import verify_files
from edge_runtime.errors import BundleError, MissingRequirement, PicnicError, UsageError

ENGINE_JSON = "engine.json"
FORMAT_VERSION = 1
LIBRARIES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorflow": "tensorflow",
}  # kind -> distribution
_BUILT_IN = (("onnxruntime", "model.onnx"), ("tensorflow", "saved_model"))

EngineInfo = typing.NamedTuple(
    "EngineInfo",
    [
        ("name", str),
        ("kind", str),
        ("precision", str),
        ("path", str),  # what the engine loads
        ("record", typing.Optional[dict]),  # engine.json, None for the bundle's own models
    ],
)

log = logging.getLogger("picnic_edge")


def list_engines(bundle):
    """Returns an EngineInfo for each way to run a bundle: the converted, fastest first, then the built-in ones."""
    folder = bundle.file("engines")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    converted = [_read_info(bundle, name) for name in names if name.rpartition("-")[0] in LIBRARIES]
    converted.sort(key=lambda info: -(info.record or {}).get("images_per_s", 0))
    built_in = [EngineInfo(kind, kind, "fp32", bundle.file(path), None) for kind, path in _BUILT_IN]
    return converted + [info for info in built_in if os.path.exists(info.path)]


def open_engine(bundle, name="auto", max_batch=8, threads=None):
    """Opens an engine of a bundle after checking that it belongs to this bundle and this machine.

    Args:
        bundle: edge_runtime.bundle.Bundle.
        name: "auto" for the fastest that is valid here, an engine's name, or a kind (the fastest of that kind).
        max_batch: the largest batch that infer will be given.
        threads: for CPU engines; None for all cores.

    Returns:
        An open Engine.

    Raises:
        UsageError: no engine of that name. BundleError: it is not valid here. MissingRequirement: no library for it.
    """
    if name != "auto":
        return _open(bundle, find_engine(bundle, name), max_batch, threads)
    reasons = []
    for info in list_engines(bundle):
        try:
            return _open(bundle, info, max_batch, threads)
        except (BundleError, MissingRequirement) as error:
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
            % (bundle.path, name, ", ".join(info.name for info in known), bundle.path)
        )
    return named[0]


def check_engine(bundle, info):
    """Raises BundleError when a converted engine is not whole, not of this bundle, or not made for this machine."""
    record = info.record
    if record is None:
        return
    kind, folder = info.kind, info.path
    mend = rebuild_command(bundle, kind, info.precision)
    here = machine.describe()
    library = LIBRARIES.get(kind)
    version = record["libraries"].get(library)
    lacking = sorted(set(record["machine"]["cpu_features"]) - set(here["cpu_features"]))
    if record["source"]["bundle_id"] != bundle.id:
        problem = "was made from bundle %s, this is %s" % (record["source"]["bundle_id"], bundle.id)
    elif record["machine"]["architecture"] != here["architecture"]:
        problem = "was made for %s, this machine is %s" % (
            record["machine"]["architecture"],
            here["architecture"],
        )
    elif lacking:
        problem = "was made for a CPU with %s, which this one lacks" % ", ".join(lacking)
    elif machine.library_version(library) not in (None, version):  # None: opening it says what is missing
        problem = "was made and checked with %s %s, here is %s" % (
            library,
            version,
            machine.library_version(library),
        )
    else:
        verify_files(folder, record["files"], "make it again: " + mend)
        return
    raise BundleError("%s: %s; make it again: %s" % (folder, problem, mend))


def rebuild_command(bundle, kind, precision):
    """Returns the command line that makes an engine again."""
    return "picnic-edge convert %s --to %s --precision %s" % (bundle.path, kind, precision)


def create_engine(info, class_count, max_batch, threads):
    """Returns the Engine object for an EngineInfo, not open yet and not checked."""
    module = importlib.import_module("edge_runtime.engines." + info.kind)
    return module.create(info, class_count, max_batch, threads or machine.core_count())


def _open(bundle, info, max_batch, threads):
    check_engine(bundle, info)
    try:
        return create_engine(info, len(bundle.class_names), max_batch, threads).open()
    except PicnicError:
        raise
    except Exception as error:  # each library has exceptions of its own
        raise BundleError("%s: cannot be loaded: %s" % (info.path, error)) from error


def _read_info(bundle, name):
    folder = os.path.join(bundle.file("engines"), name)
    kind, _, precision = name.rpartition("-")
    try:
        with open(os.path.join(folder, ENGINE_JSON), encoding="utf-8") as file:
            record = json.load(file)
        whole = (
            record["format_version"] == FORMAT_VERSION
            and "%s-%s" % (record["kind"], record["precision"]) == name
            and isinstance(record["machine"]["architecture"], str)
            and isinstance(record["machine"]["cpu_features"], list)
            and isinstance(record["source"]["bundle_id"], str)
            and isinstance(record["libraries"], dict)
            and isinstance(record["files"], dict)
            and len(record["files"]) > 0
            and isinstance(record["images_per_s"], (int, float))
        )
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:  # kept in the list: check_engine then names the command that makes it again
        record = _GARBLED
    return EngineInfo(name, kind, precision, folder, record)


# What an unreadable engine.json counts as: of no bundle, slower than all.
_GARBLED = {
    "source": {"bundle_id": "unknown (engine.json is missing or garbled)"},
    "machine": {"architecture": "unknown", "cpu_features": []},
    "libraries": {},
    "files": {},
    "images_per_s": 0,
}  # type: dict
