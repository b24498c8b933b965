"""What an engine was made of and for which machine: its name, its engine.json, and what that must match."""

import math
import os
import re
import shlex
import typing

from edge_runtime.bundle import manifest
from edge_runtime.engines.kinds import GPU_CHECKED_KINDS, GPU_KINDS, LIBRARIES, module_of
from edge_runtime.gate.judge import MAX_LOG_ODDS_CHANGE
from edge_runtime.machine import cpu, libraries

ENGINE_JSON = "engine.json"
SCRATCH = "scratch"  # in an engine's folder while it is made: a builder's files that are not published
FORMAT_VERSION = 1

DEFAULT_BATCH = 8  # of the bundle's own models, and the default of `picnic-edge convert --max-batch`
MAX_BATCH = 1024  # photos; larger ones take memory and gain nothing

# Defaults of `picnic-edge convert --min-agreement`: share of the photos that must get the original's label
MIN_AGREEMENT = 0.995
MIN_AGREEMENT_INT8 = 0.98

MAX_F1_DROP = 0.005  # default of `picnic-edge convert --max-f1-drop`, of macro-F1, 0..1

# Stands for an engine.json that cannot be used: of no bundle, slower than all.
UNREADABLE: typing.Dict[str, typing.Any] = {
    "source": {"bundle_id": "unknown (engine.json is missing or garbled)"},
    "machine": {"architecture": "unknown", "cpu_features": []},
    "libraries": {},
    "files": {},
    "images_per_s": 0,
}


class EngineInfo(typing.NamedTuple):
    """One way to run a bundle."""

    name: str  # of engine_name; the kind alone for a model of the bundle's own
    kind: str  # a key of LIBRARIES
    precision: str  # "fp32", "fp16", "bf16" or "int8"
    path: str  # the file or folder that the engine loads
    record: typing.Optional[dict]  # engine.json, None for the bundle's own models
    files: typing.Optional[dict] = None  # {file: its sum and size} to check; None: they were just made, no check


def engine_name(kind, precision, max_batch=DEFAULT_BATCH):
    """Returns the name of a converted engine, which is also its folder's: "onnxruntime-fp32", "tensorrt-fp16-b1".

    Where an engine is built for a largest batch and that is not DEFAULT_BATCH, the name ends with it: an engine for a
    camera and one for folders can then be in one bundle.
    """
    suffix = f"-b{max_batch}" if kind in GPU_KINDS and max_batch != DEFAULT_BATCH else ""
    return f"{kind}-{precision}{suffix}"


def split_engine_name(name):
    """Returns (kind, precision, max_batch) of a converted engine's name.

    The kind is "" where it is no such name. max_batch is None where the name has none: version 0.2 wrote none for any
    batch.
    """
    match = re.fullmatch(r"(.+?)-([a-z0-9]+)(?:-b([1-9][0-9]*))?", name)
    if not match:
        return "", "", None
    kind, precision, max_batch = match.groups()
    return kind, precision, int(max_batch) if max_batch else None


def best_batch(info):
    """Returns the batch size that an engine was made for (the one that the converter timed it at)."""
    profile = (info.record or {}).get("batch_profile")
    best = profile.get("opt") if isinstance(profile, dict) else None
    return best if isinstance(best, int) and 0 < best <= MAX_BATCH else DEFAULT_BATCH


def measured_speed(info, batch=None, gpu=None):
    """Returns how many photos per second an engine classified when it was checked; 0 for the bundle's own models.

    An engine that is checked on each GPU has a speed for each: 0 where it was refused on the GPU here, infinity where
    it was not yet checked, so that it comes first, is checked, and then has a speed.

    Args:
        info: an EngineInfo.
        batch: photos per call; at 1 the speed at 1 counts, else (and for engines of version 0.2, which only have that
            one) the speed in the engine's largest batches.
        gpu: facts of the GPU here (edge_runtime.engines.gpu_check.here), for engines with "gpu_checks".
    """
    record = info.record or {}
    if "gpu_checks" in record:
        record = entry_of(record, gpu)
        if record is None:
            return math.inf
    speed = record.get("images_per_s", 0)
    return record.get("images_per_s_b1", speed) if batch == 1 else speed


def entry_of(record, gpu):
    """Returns what a record with "gpu_checks" says of a GPU, None where the engine was not yet checked on such a one.

    Args:
        gpu: {"name", "compute_capability"}.
    """
    return next((entry for entry in record["gpu_checks"] if entry["gpu"] == gpu), None)


def local_facts(kind):
    """Returns the versions and the GPU here that an engine of a kind depends on, without loading an engine.

    Args:
        kind: a key of LIBRARIES.

    Returns:
        {"libraries": {name: version, None where it is not installed}, "gpu": None or {"name", "compute_capability"}}.

    Raises:
        MissingRequirement: the kind runs on a GPU, and its library or the GPU is missing.
    """
    module = module_of(kind)
    if hasattr(module, "local_facts"):
        return module.local_facts()
    return {"libraries": {LIBRARIES[kind]: libraries.library_version(LIBRARIES[kind])}, "gpu": None}


def mismatch(bundle, kind, record):
    """Returns why an engine with this record does not fit this bundle and this machine, "" where it does.

    Raises:
        MissingRequirement: the kind runs on a GPU, and its library or the GPU is missing.
    """
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
    local = local_facts(kind)
    for library, version in sorted(local["libraries"].items()):
        made_with = record["libraries"].get(library)
        if version not in (None, made_with):  # None: opening the engine says what is missing
            return f"was made and checked with {library} {made_with}, here is {version}"
    if local["gpu"] != record.get("gpu"):
        return f"was made for {_gpu_text(record.get('gpu'))}, here is {_gpu_text(local['gpu'])}"
    return ""


def rebuild_command(bundle, info):
    """Returns the command line that makes a converted engine again, with the options of its making."""
    record, profile = info.record, info.record.get("batch_profile")
    max_batch = profile.get("max") if isinstance(profile, dict) else split_engine_name(info.name)[2]
    options = (
        ("--max-batch", max_batch, DEFAULT_BATCH),
        ("--calibration", record.get("calibration"), None),
        ("--labels", record.get("labels"), None),
        ("--images", record.get("images"), None),
        ("--min-agreement", record.get("min_agreement"), default_min_agreement(info.precision)),
        ("--max-log-odds-change", record.get("max_log_odds_change"), MAX_LOG_ODDS_CHANGE.get(info.precision)),
        ("--max-f1-drop", record.get("max_f1_drop"), MAX_F1_DROP),
        ("--gpus", record.get("gpus"), None),
    )
    words = ["picnic-edge", "convert", bundle.path, "--to", info.kind, "--precision", info.precision]
    for option, value, default in options:
        if isinstance(value, (int, float, str)) and value != default:  # engine.json may be garbled
            words += [option, str(value)]
    return " ".join(map(shlex.quote, words))


def default_min_agreement(precision):
    """Returns the default of `picnic-edge convert --min-agreement` for a precision."""
    return MIN_AGREEMENT_INT8 if precision == "int8" else MIN_AGREEMENT


def read_engine_info(bundle, name):
    """Returns the EngineInfo of a converted engine by its name; its record is UNREADABLE where engine.json is."""
    folder = os.path.join(bundle.file("engines"), name)
    kind, precision, max_batch = split_engine_name(name)
    try:
        record = manifest.read_json(os.path.join(folder, ENGINE_JSON))
        usable = (
            record["format_version"] == FORMAT_VERSION
            and (record["kind"], record["precision"]) == (kind, precision)
            and (max_batch is None or record["batch_profile"]["max"] == max_batch)  # older records have no profile
            and isinstance(record["machine"]["architecture"], str)
            and all(isinstance(feature, str) for feature in record["machine"]["cpu_features"])
            and isinstance(record["source"]["bundle_id"], str)
            and isinstance(record["libraries"], dict)
            and isinstance(record.get("gpu") or {}, dict)
            and isinstance(record["files"], dict)
            and len(record["files"]) > 0
            and all(_is_speed(record, name) for name in ("images_per_s", "images_per_s_b1"))
            and ("gpu_checks" in record) == (kind in GPU_CHECKED_KINDS)  # else no check on the GPU would be made
            and (kind not in GPU_CHECKED_KINDS or _are_gpu_checks(record))
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        usable = False
    if not usable:  # it stays in the list: check_engine then names the command that makes it again
        record = UNREADABLE
    return EngineInfo(name, kind, precision, folder, record, record["files"])


def _is_speed(record, name):
    """None is the speed of an engine that was not run yet; version 0.2 wrote no images_per_s_b1."""
    speed = record[name] if name == "images_per_s" else record.get(name, 0)
    return (speed is None and "gpu_checks" in record) or 0 <= speed < math.inf


def _are_gpu_checks(record):
    return (
        isinstance(record["gpu_checks"], list)
        and all(
            isinstance(entry["gpu"]["name"], str)
            and isinstance(entry["gpu"]["compute_capability"], str)
            and isinstance(entry["at"], str)
            and isinstance(entry["refused"], str)
            and isinstance(entry["parity"], dict)
            and isinstance(entry["verdict"], dict)
            and (entry["refused"] or all(0 <= entry[name] < math.inf for name in ("images_per_s", "images_per_s_b1")))
            for entry in record["gpu_checks"]
        )
        and 0 <= record["min_agreement"] <= 1
        and 0 <= record["max_log_odds_change"] < math.inf
        and 0 < record["batch_profile"]["max"] <= MAX_BATCH
    )


def _gpu_text(gpu):
    if not gpu:
        return "no GPU"
    return f"the GPU {gpu.get('name')} (compute capability {gpu.get('compute_capability')})"
