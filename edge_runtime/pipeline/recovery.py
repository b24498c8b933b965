"""A batch that an engine fails on: the photo at fault is singled out, the others are answered."""

import os

import numpy as np

from edge_runtime.engines.base import EngineError
from edge_runtime.errors import EngineLost, OutOfMemory, PicnicError, is_out_of_memory
from edge_runtime.photos import spec

ENGINE_FAILURES = (EngineError, PicnicError)


def out_of_memory(item, error):
    """Returns the OutOfMemory to raise for an item that cannot be decoded even alone."""
    explained = OutOfMemory(
        "%s: not enough memory to decode it, also with no other photo beside it (%s).\n"
        "Stop other programs, or use a smaller --batch" % (name_of(item), error or "out of memory")
    )
    explained.__cause__ = error
    return explained


def rows_of(engine, pictures, items):
    """Returns the engine's answer to each picture, or the reason (str) why there is none. Raises EngineLost."""
    try:
        return list(engine.infer(pictures))
    except ENGINE_FAILURES as error:
        return rows_in_parts(engine, pictures, items, error)


def rows_in_parts(engine, pictures, items, failure):
    """Returns what _rows does for pictures on which the engine has just failed."""
    if len(pictures) == 1:
        check_alive(engine, items[0], failure)
        try:
            return list(engine.infer(pictures))  # the failure may have been a passing one
        except ENGINE_FAILURES as error:
            if is_out_of_memory(error) or is_out_of_memory(error.__cause__):
                raise OutOfMemory(f"{name_of(items[0])}: not enough memory to run it ({error})") from error
            return ["the engine fails on it: " + " ".join(str(error).split())]
    answers = getattr(failure, "answers", None)
    if answers is None:
        answers = np.full((len(pictures), 1), np.nan)
    good = np.isfinite(answers).all(axis=1)
    if not good.any():
        half = len(pictures) // 2
        return rows_of(engine, pictures[:half], items[:half]) + rows_of(engine, pictures[half:], items[half:])
    again = iter(rows_of(engine, pictures[~good], [item for item, fine in zip(items, good) if not fine]))
    return [row if fine else next(again) for row, fine in zip(answers, good)]


def check_alive(engine, item, failure):
    """Raises EngineLost where the engine fails on a plain grey picture as well."""
    try:
        engine.infer(np.full([1] + spec.INPUT_SPEC["shape"], 128, np.uint8))
    except ENGINE_FAILURES as error:
        raise EngineLost(
            "%s stopped working at %s: %s\nIt fails on a plain grey picture too. What was answered before is kept. Try "
            "again, with another --engine if it stays so; `picnic-edge doctor` says what this machine can run"
            % (engine.name, name_of(item), failure)
        ) from error


def name_of(item):
    """Returns what messages call an item."""
    if isinstance(item, (str, bytes, os.PathLike)):
        return os.fsdecode(item)
    return "a frame" if isinstance(item, np.ndarray) else getattr(item, "name", str(item))
