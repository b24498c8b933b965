"""A batch that an engine fails on: the photo at fault is singled out, the others are answered."""

import numpy as np

from edge_runtime.engines.base import EngineError
from edge_runtime.errors import EngineLost, OutOfMemory, PicnicError, is_out_of_memory
from edge_runtime.pipeline.load_item import name_of

ENGINE_FAILURES = (EngineError, PicnicError)


def results_after_failure(engine, pictures, items, failure):
    """Answers a batch on which an engine has just failed.

    Args:
        engine: an open Engine.
        pictures: uint8 [n, height, width, 3].
        items: of the pictures, for messages.
        failure: the exception that the engine raised.

    Returns:
        a list: for each picture float32 [classes], or the reason (str) why the engine fails on it.

    Raises:
        EngineLost: it fails on a plain grey picture too. OutOfMemory: one picture alone is too much.
    """
    if len(pictures) == 1:
        _check_alive(engine, items[0], failure)
        try:
            return list(engine.infer(pictures))  # the failure may have been a passing one
        except ENGINE_FAILURES as error:
            if is_out_of_memory(error) or is_out_of_memory(error.__cause__):
                raise OutOfMemory(f"{name_of(items[0])}: not enough memory to run it ({error})") from error
            return ["the engine fails on it: " + " ".join(str(error).split())]
    answers = getattr(failure, "answers", None)
    if answers is None:  # none at all: as if all were NaN, so that the batch is halved
        answers = np.full((len(pictures), 1), np.nan)
    good = np.isfinite(answers).all(axis=1)
    if not good.any():
        half = len(pictures) // 2
        return _results_of(engine, pictures[:half], items[:half]) + _results_of(engine, pictures[half:], items[half:])
    again = iter(_results_of(engine, pictures[~good], [item for item, fine in zip(items, good) if not fine]))
    return [answer if fine else next(again) for answer, fine in zip(answers, good)]


def _results_of(engine, pictures, items):
    try:
        return list(engine.infer(pictures))
    except ENGINE_FAILURES as error:
        return results_after_failure(engine, pictures, items, error)


def _check_alive(engine, item, failure):
    """Raises EngineLost where the engine fails on a plain grey picture as well."""
    try:
        engine.infer(np.full((1, *engine.input_shape), 128, np.uint8))
    except ENGINE_FAILURES as error:
        raise EngineLost(
            f"{engine.name} stopped working at {name_of(item)}: {failure}\nIt fails on a plain grey picture too. "
            "Answers before it are kept. Try again, with another --engine if it fails again; `picnic-edge doctor` says "
            "what this machine can run"
        ) from error
