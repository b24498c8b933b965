"""What an engine was made of and for which machine: its engine.json."""

import os
import shlex
import typing

from edge_runtime.bundle import manifest
from edge_runtime.engines.modules import LIBRARIES, module_of
from edge_runtime.machine import cpu, libraries

ENGINE_JSON = "engine.json"

FORMAT_VERSION = 1

DEFAULT_BATCH = 8  # of the bundle's own models, and the largest of an engine where the converter is not told

MIN_AGREEMENT = 0.995  # share of the photos with the original's label that the converter asks for where it is not told

MIN_AGREEMENT_INT8 = 0.98

MAX_BATCH = 1024  # photos; larger ones take memory and gain nothing


class EngineInfo(typing.NamedTuple):
    """One way to run a bundle."""

    name: str
    kind: str
    precision: str
    path: str  # what the engine loads
    record: typing.Optional[dict]  # engine.json, None for the bundle's own models
    files: typing.Optional[dict] = None  # of the folder, with their sums; None: they were just made, nothing is checked


def best_batch(info):
    """Returns the batch size that an engine was made for (what the converter timed it at)."""
    record = info.record or {}
    profile = record.get("batch_profile")
    best = profile.get("opt") if isinstance(profile, dict) else record.get("max_batch")  # older engines have no profile
    return best if isinstance(best, int) and 0 < best <= MAX_BATCH else DEFAULT_BATCH


def local_facts(kind):
    """Returns what this machine has of what an engine of a kind is bound to, without loading an engine.

    Returns:
        {"libraries": {name: version, None where it is not installed}, "gpu": None or {"name", "compute_capability"}}.

    Raises:
        MissingRequirement: a kind that runs on a GPU finds no library or GPU.
    """
    module = module_of(kind)
    if hasattr(module, "local_facts"):
        return module.local_facts()
    return {"libraries": {LIBRARIES[kind]: libraries.library_version(LIBRARIES[kind])}, "gpu": None}


def mismatch(bundle, kind, record):
    """Returns why an engine with this record is not for this bundle and this machine, "" where it is."""
    made_for, this = record["machine"], cpu.describe()
    lacking = sorted(set(made_for["cpu_features"]) - set(this["cpu_features"]))
    if record["source"]["bundle_id"] != bundle.id:
        return f"was made from bundle {record['source']['bundle_id']}, this is {bundle.id}"
    if made_for["architecture"] != this["architecture"]:
        return f"was made for {made_for['architecture']}, this machine is {this['architecture']}"
    if lacking:
        return f"was made for a CPU with {', '.join(lacking)}, which this one lacks"
    # ONNX Runtime saves the weights in blocks of the building CPU's size, 16 with AVX-512 and 8 without, and reads
    # blocks of the other size as they are: wrong answers, no error.
    if kind == "onnxruntime" and "avx512f" in set(this["cpu_features"]) - set(made_for["cpu_features"]):
        return "was made for a CPU without avx512f, which this one has"
    found = local_facts(kind)
    for library, version in sorted(found["libraries"].items()):
        if version not in (None, record["libraries"].get(library)):  # None: opening it says what is missing
            made_with = record["libraries"].get(library)
            return f"was made and checked with {library} {made_with}, here is {version}"
    if found["gpu"] != record.get("gpu"):
        return f"was made for {_gpu_text(record.get('gpu'))}, here is {_gpu_text(found['gpu'])}"
    return ""


def _gpu_text(gpu):
    if not gpu:
        return "no GPU"
    return f"the GPU {gpu.get('name')} (compute capability {gpu.get('compute_capability')})"


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


def read_engine_info(bundle, name):
    """Returns the EngineInfo of a converted engine by its name; its record is GARBLED where engine.json is so."""
    folder = os.path.join(bundle.file("engines"), name)
    kind, _, precision = name.rpartition("-")
    try:
        record = manifest.read_json(os.path.join(folder, ENGINE_JSON))
        whole = (
            record["format_version"] == FORMAT_VERSION
            and f"{record['kind']}-{record['precision']}" == name
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
        record = GARBLED
    return EngineInfo(name, kind, precision, folder, record, record["files"])


# What an unreadable engine.json counts as: of no bundle, slower than all.
GARBLED = {
    "source": {"bundle_id": "unknown (engine.json is missing or garbled)"},
    "machine": {"architecture": "unknown", "cpu_features": []},
    "libraries": {},
    "files": {},
    "images_per_s": 0,
}  # type: dict
