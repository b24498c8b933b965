"""The check of an engine that was built where no GPU is: on each kind of GPU that opens it, before the first photo.

The converter checked the model that such an engine was made of, through ONNX Runtime. Only the GPU shows what the
engine itself answers. The verdict on its answers, and its speed there, are written into engine.json, signed as the
rest: later runs open the engine at once, and one that was refused stays refused. Where they cannot be written (a
read-only bundle, a signature whose key is not here), each process makes the check again. An engine that failed has no
verdict: other programs may have taken the GPU's memory, and the next start tries again.
"""

import datetime
import json
import os
import typing

from edge_runtime import files
from edge_runtime.bundle import manifest, signing
from edge_runtime.console import say
from edge_runtime.engines.base import EngineError
from edge_runtime.engines.check import judged, speeds, split_sample, without_copies
from edge_runtime.engines.kinds import GPU_CHECKED_KINDS, create_engine
from edge_runtime.engines.record import ENGINE_JSON, entry_of, rebuild_command
from edge_runtime.engines.tensorrt import context
from edge_runtime.errors import BundleError, MissingRequirement, ParityError
from edge_runtime.gate import judge
from edge_runtime.text import plain_json

UNCHECKED = "not yet checked on a GPU"

_records: typing.Dict[str, dict] = {}  # of this process, by the record before the check; where it could not be written


def status(info):
    """Returns what is known of an engine's check on a GPU, for lists of engines; "" where it needs none.

    Args:
        info: edge_runtime.engines.record.EngineInfo.
    """
    if info.kind not in GPU_CHECKED_KINDS:
        return ""
    checks = info.record.get("gpu_checks", [])  # none where engine.json is unreadable
    names = [check["gpu"]["name"] + (" (refused)" if check["refused"] else "") for check in checks]
    return "checked on " + ", ".join(names) if names else UNCHECKED


def newest(info):
    """Returns an EngineInfo with the record that this process could not write, where it has one."""
    if info.record is None or "gpu_checks" not in info.record:
        return info
    return info._replace(record=_records.get(_key(info), info.record))


def here():
    """Returns the facts of the GPU here, as in "gpu_checks"; None where there is none."""
    try:
        return context.gpu_facts()
    except MissingRequirement:
        return None


def require_checked(bundle, info):
    """Checks an engine on the GPU here, unless it was checked on such a GPU before.

    Args:
        bundle: edge_runtime.bundle.reading.Bundle, whose sample is run.
        info: edge_runtime.engines.record.EngineInfo whose files and record are valid here.

    Returns:
        the EngineInfo, with its newest record.

    Raises:
        ParityError: the engine is refused on this GPU, now or before.
        BundleError: the bundle's sample is too small for a verdict, or the engine cannot be opened here.
        MissingRequirement, OutOfMemory: it cannot be opened here, or failed.
    """
    if info.kind not in GPU_CHECKED_KINDS:
        return info
    gpu = context.gpu_facts()
    info = newest(info)
    entry = entry_of(info.record, gpu)
    if entry is None:
        say(f"{info.name} was not yet checked on this GPU ({gpu['name']}): checking it on the sample of the bundle")
        entry = _check(bundle, info, gpu)
        record = dict(info.record, gpu_checks=info.record["gpu_checks"] + [entry])
        _keep(info, record)
        info = info._replace(record=record)
    if entry["refused"]:
        raise ParityError(
            f"{info.name} is refused on the GPU {gpu['name']} since {entry['at']}: {entry['refused']}.\n"
            f"Make it again: {rebuild_command(bundle, info)}"
        )
    return info


def add(record, parity, verdict, measured):
    """Adds to a record with "gpu_checks" that its engine passed on the GPU here. Others do not change.

    Args:
        record: the content of engine.json.
        parity, verdict: results of edge_runtime.engines.check.check.
        measured: result of edge_runtime.engines.check.speeds.
    """
    if "gpu_checks" in record:
        record["gpu_checks"].append(_entry(context.gpu_facts(), parity, verdict, measured))


def _entry(gpu, parity, verdict, measured):
    at = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    figures = {"parity": dict(parity._asdict()), "verdict": dict(verdict._asdict())}
    return dict(plain_json(figures), gpu=gpu, at=at, refused=verdict.refused, **measured)


def _check(bundle, info, gpu):
    """Returns the entry for engine.json: the verdict on the engine's answers, and its speeds where it may be used."""
    sample = without_copies(bundle.sample())  # as the converter, so that the halves of int8 are the same
    if info.record.get("calibration") is None:  # else its ranges were chosen by other photos
        _, sample = split_sample(sample, info.precision)
    _require_enough(bundle, info, len(sample.names))
    limits = info.record["min_agreement"], info.record["max_log_odds_change"]
    largest = info.record["batch_profile"]["max"]
    with create_engine(info, bundle.input_spec.shape, len(bundle.class_names), largest, None).open() as engine:
        try:
            parity, verdict = judged(engine, sample, *limits)
            if verdict.refused and not parity.non_finite:
                _require_enough(bundle, info, verdict.photos)
            return _entry(gpu, parity, verdict, {} if verdict.refused else speeds(engine, sample.images))
        except EngineError as error:
            raise MissingRequirement(
                f"{info.name} failed in its check on the GPU {gpu['name']}: {error}\n"
                "The next start checks it again. If it always fails, make it again: " + rebuild_command(bundle, info)
            ) from error


def _require_enough(bundle, info, photos):
    too_few = judge.not_enough(photos)
    if too_few:
        raise BundleError(
            f"{info.name} cannot be checked on the GPU here: the sample of {bundle.path} has {photos} photos whose "
            f"label can be compared, {judge.MIN_PHOTOS} are needed. Convert it on this machine, with more photos "
            "(--calibration DIR), or train with more photos"
        )


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
    _records[_key(info)] = signing.signed(record)
    say(f"{path}: the check cannot be written into it ({reason}); the next start makes it again")


def _key(info):
    return json.dumps([os.path.realpath(info.path), info.record], sort_keys=True)
