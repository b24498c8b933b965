"""An open engine's answers to a sample of photos, compared with the original's and judged."""

import hashlib
import time
import typing

import numpy as np

from edge_runtime.console import progress, say
from edge_runtime.engines.base import EngineError
from edge_runtime.errors import OutOfMemory, ParityError, is_out_of_memory
from edge_runtime.gate import compare, judge

SPEED_S = 1.0  # how long an engine's speed is measured, at batch 1 and in its largest batches


def split_sample(sample, precision):
    """Returns (the photos to calibrate an engine with, those to check it on), each a Sample.

    For int8 they are halves: an engine answers the photos better that its ranges were chosen by. The order is shuffled,
    always in the same way, because a sample's photos come in turns of the classes. Else both are the whole sample.

    Args:
        sample: edge_runtime.bundle.reading.Sample.
        precision: of the engine.
    """
    if precision != "int8":
        return sample, sample
    shuffled = np.random.RandomState(0).permutation(len(sample.names))
    middle = len(shuffled) // 2
    return _part(sample, np.sort(shuffled[:middle])), _part(sample, np.sort(shuffled[middle:]))


def without_copies(sample):
    """Returns a Sample with only the first of photos that have the same pixels, and says how many are left out."""
    first: typing.Dict[bytes, int] = {}  # the index of each picture
    for index, picture in enumerate(sample.images):
        first.setdefault(hashlib.sha256(picture.tobytes()).digest(), index)
    copies = len(sample.names) - len(first)
    if not copies:
        return sample
    say(f"{copies} of {len(sample.names)} photos to check on have the same pixels as another (left out)")
    return _part(sample, np.array(sorted(first.values())))


def check(engine, sample, min_agreement, max_log_odds_change):
    """Runs an engine on a sample, at several batch sizes, and judges it.

    Args:
        engine: an open Engine.
        sample: edge_runtime.bundle.reading.Sample; for int8 that of split_sample.
        min_agreement, max_log_odds_change: as edge_runtime.gate.judge.judge.

    Returns:
        (edge_runtime.gate.compare.Parity, edge_runtime.gate.judge.Verdict) of an engine that may be used.

    Raises:
        ParityError: the engine is refused, or failed. OutOfMemory: there is not enough memory to run it.
        MissingRequirement: its GPU is gone.
    """
    try:
        parity, verdict = judged(engine, sample, min_agreement, max_log_odds_change)
    except EngineError as error:
        raise ParityError(f"{engine.name} is refused and was not kept: {error}") from error
    judge.require(engine.name, parity, verdict)
    return parity, verdict


def judged(engine, sample, min_agreement, max_log_odds_change):
    """Returns what check returns, also of an engine that is refused.

    Raises:
        EngineError: the engine failed, perhaps only now. OutOfMemory, MissingRequirement: as check.
    """
    batches = compare.batch_sizes(engine.max_batch)
    photos = sum(len(compare.photo_order(len(sample.names), batch)) for batch in batches)
    with progress(total=photos, what=f"checking {engine.name}", leave=False) as bar:
        answers = {batch: run_sample(engine, sample, batch, bar.update) for batch in batches}
    parity = compare.compare(sample.names, sample.probabilities, answers)
    return parity, judge.judge(parity, min_agreement, max_log_odds_change)


def run_sample(engine, sample, batch, done=lambda photos: None):
    """Returns an engine's answers to a sample in batches of one size: float32 [n, classes], in compare.photo_order.

    NaN and infinity are kept. done is called with the number of photos in each batch.

    Raises:
        as judged.
    """
    order, answers = compare.photo_order(len(sample.names), batch), []
    for start in range(0, len(order), batch):
        try:
            answers.append(engine.infer(sample.images[order[start : start + batch]]))
        except EngineError as error:
            if is_out_of_memory(error) or is_out_of_memory(error.__cause__):
                raise OutOfMemory(f"{engine.name}: not enough memory to check it; stop other programs") from error
            if error.answers is None:
                raise
            answers.append(error.answers)
        done(len(answers[-1]))
    return np.concatenate(answers)


def _part(sample, indices):
    return sample._replace(
        names=[sample.names[index] for index in indices],
        images=sample.images[indices],
        labels=[sample.labels[index] for index in indices],
        probabilities=sample.probabilities[indices],
    )


def speeds(engine, pictures):
    """Measures an open engine, for --engine auto to choose by.

    Args:
        pictures: uint8 [n, height, width, 3].

    Returns:
        {"images_per_s": in its largest batches, "images_per_s_b1": in batches of one}.
    """
    sizes = {"images_per_s": engine.max_batch, "images_per_s_b1": 1}
    measured = {size: round(_speed(engine, pictures, size), 2) for size in set(sizes.values())}
    return {name: measured[size] for name, size in sizes.items()}


def _speed(engine, pictures, size):
    """Returns photos per second in batches of a size."""
    batch = pictures[np.arange(size) % len(pictures)]
    engine.infer(batch)
    started, photos = time.perf_counter(), 0
    while time.perf_counter() - started < SPEED_S:
        engine.infer(batch)
        photos += len(batch)
    return photos / (time.perf_counter() - started)
