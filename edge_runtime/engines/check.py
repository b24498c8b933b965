"""An open engine's answers to a sample of photos, compared with the original's and judged."""

import numpy as np

from edge_runtime.engines.base import EngineError
from edge_runtime.errors import OutOfMemory, ParityError, is_out_of_memory
from edge_runtime.gate import compare, judge


def check(engine, sample, min_agreement):
    """Runs an engine on a sample, at several batch sizes each with a full batch and a last smaller one, and judges it.

    Args:
        engine: an open Engine.
        sample: edge_runtime.bundle.reading.Sample.
        min_agreement: share of the photos that must get the original's label, 0..1.

    Returns:
        edge_runtime.gate.compare.Parity of an engine that may be used.

    Raises:
        ParityError: the engine is refused, or failed. OutOfMemory: there is not enough memory to run it.
        MissingRequirement: its GPU is gone.
    """
    answers = {batch: run_sample(engine, sample, batch) for batch in compare.batch_sizes(engine.max_batch)}
    parity = compare.compare(sample.names, sample.probabilities, answers)
    judge.require_agreement(engine.name, parity, min_agreement)
    return parity


def run_sample(engine, sample, batch):
    """Returns an engine's answers to a sample in batches of one size: float32 [n, classes], in compare.photo_order.

    NaN and infinity are kept.

    Raises:
        as check.
    """
    order, answers = compare.photo_order(len(sample.names), batch), []
    for start in range(0, len(order), batch):
        try:
            answers.append(engine.infer(sample.images[order[start : start + batch]]))
        except EngineError as error:
            if is_out_of_memory(error.__cause__):
                raise OutOfMemory(f"{engine.name}: not enough memory to check it; stop other programs") from error
            if error.answers is None:
                raise ParityError(f"{engine.name} is refused and was not kept: {error}") from error
            answers.append(error.answers)
    return np.concatenate(answers)
