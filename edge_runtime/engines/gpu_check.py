"""The check of an engine that was built where no GPU is: on each kind of GPU that opens it, before the first photo.

The converter checked the model that such an engine was made of, through ONNX Runtime. Only the GPU shows what the
engine itself answers. The result is written into engine.json, signed as the rest: later runs open the engine at once,
and one that was refused stays refused. Where it cannot be written (a read-only bundle, a signature whose key is not
here), each process makes the check again.
"""

import datetime
import json
import os
import typing

from edge_runtime import files
from edge_runtime.bundle import manifest, signing
from edge_runtime.console import say
from edge_runtime.engines.check import check, speeds, split_sample
from edge_runtime.engines.kinds import create_engine
from edge_runtime.engines.record import ENGINE_JSON
from edge_runtime.engines.tensorrt import context
from edge_runtime.errors import ParityError

UNCHECKED = "not yet checked on a GPU"

_records: typing.Dict[str, dict] = {}  # of this process, by the record before the check; where it could not be written


def status(info):
    """Returns what is known of an engine's check on a GPU, for lists of engines; "" where it needs none.

    Args:
        info: edge_runtime.engines.record.EngineInfo.
    """
    checks = (info.record or {}).get("gpu_checks")
    if checks is None:
        return ""
    names = [check["gpu"]["name"] + (" (refused)" if check["refused"] else "") for check in checks]
    return "checked on " + ", ".join(names) if names else UNCHECKED


def newest(info):
    """Returns an EngineInfo with the record that this process could not write, where it has one."""
    if info.record is None or "gpu_checks" not in info.record:
        return info
    return info._replace(record=_records.get(_key(info), info.record))


def require_checked(bundle, info):
    """Checks an engine on the GPU here, unless it was checked on such a GPU before.

    Args:
        bundle: edge_runtime.bundle.reading.Bundle, whose sample is run.
        info: edge_runtime.engines.record.EngineInfo whose files and record are valid here.

    Returns:
        the EngineInfo, with its newest record.

    Raises:
        ParityError: the engine is refused on this GPU, now or before.
        MissingRequirement, BundleError, OutOfMemory: it cannot be opened here.
    """
    if info.record is None or "gpu_checks" not in info.record:
        return info
    gpu = context.gpu_facts()
    info = newest(info)
    entry = _find(info.record, gpu)
    if entry is None:
        say(f"{info.name} was not yet checked on this GPU ({gpu['name']}): checking it on the sample of the bundle")
        entry, measured = _check(bundle, info, gpu)
        record = dict(info.record, gpu_checks=info.record["gpu_checks"] + [entry], **measured)
        _keep(info, record)
        info = info._replace(record=record)
    if entry["refused"]:
        raise ParityError(f"{info.name} is refused on the GPU {gpu['name']} since {entry['at']}: {entry['refused']}")
    return info


def add(record, parity, verdict):
    """Adds to a record with "gpu_checks" that its engine passed on the GPU here. Others do not change.

    Args:
        record: the content of engine.json.
        parity, verdict: results of edge_runtime.engines.check.check.
    """
    if "gpu_checks" in record:
        record["gpu_checks"].append(_passed(context.gpu_facts(), parity, verdict))


def _passed(gpu, parity, verdict):
    return dict(_entry(gpu, ""), parity=dict(parity._asdict()), verdict=dict(verdict._asdict()))


def _entry(gpu, refused):
    at = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"gpu": gpu, "at": at, "refused": refused}


def _find(record, gpu):
    return next((entry for entry in record["gpu_checks"] if entry["gpu"] == gpu), None)


def _check(bundle, info, gpu):
    """Returns (the entry for engine.json, the engine's speeds, {} where it is refused)."""
    largest = info.record["batch_profile"]["max"]
    _, sample = split_sample(bundle.sample(), info.precision)
    with create_engine(info, len(bundle.class_names), largest, None).open() as engine:
        try:
            parity, verdict = check(engine, sample, info.record["min_agreement"], info.record["max_log_odds_change"])
            return _passed(gpu, parity, verdict), speeds(engine, sample.images)
        except ParityError as error:
            return _entry(gpu, str(error)), {}


def _keep(info, record):
    """Writes a record in the place of the one it was made from; else keeps it for this process."""
    path = os.path.join(info.path, ENGINE_JSON)
    reason = ""
    if signing.FIELD in info.record and not signing.key():
        reason = f"it is signed, and {signing.KEY_FILE} names no key here"
    try:
        if not reason:
            with files.locked(os.path.dirname(os.path.abspath(info.path))):  # conversions publish under the same lock
                if manifest.read_json(path) == info.record:  # else another process was sooner, or the engine is newer
                    files.write_json(path, signing.signed(record))
            return
    except (OSError, ValueError) as error:
        reason = str(error)
    _records[_key(info)] = record
    say(f"{path}: the check cannot be written into it ({reason}); the next start makes it again")


def _key(info):
    return json.dumps([os.path.realpath(info.path), info.record], sort_keys=True)
