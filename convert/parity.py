"""The gate: an engine's answers beside the original's, on photos, before the engine may be used."""

import concurrent.futures
import itertools
import typing

import numpy as np

from edge_runtime import images, machine, sources
from edge_runtime.bundle import Sample
from edge_runtime.command import say
from edge_runtime.engines import open_engine
from edge_runtime.engines.base import EngineError
from edge_runtime.errors import ImageError, MissingRequirement, ParityError, UsageError

Parity = typing.NamedTuple(
    "Parity",
    [
        ("photos", int),
        ("top1_agreement", float),  # share of the photos with the same best class, 0..1
        ("max_abs_difference", float),  # of a probability
        ("mean_abs_difference", float),
        ("worst_photos", list),  # names of the photos with the largest differences
    ],
)
MAX_PHOTOS = 1000  # 256 MiB of pictures
_WORST = 5


def reference_sample(bundle, calibration=None):
    """Returns the photos to compare on and the original's answers to them (edge_runtime.bundle.Sample).

    Args:
        bundle: the bundle whose model is the original.
        calibration: folder of photos (or glob, TSV), answered by the bundle's unconverted model; at most MAX_PHOTOS
            are used. None for the sample in the bundle.

    Raises:
        UsageError: there is no readable photo. MissingRequirement: no library runs the unconverted model.
    """
    if calibration is None:
        return bundle.sample()
    items = list(itertools.islice(sources.open_source(calibration), MAX_PHOTOS + 1))
    if len(items) > MAX_PHOTOS:
        say("--calibration %s: the first %d photos are used" % (calibration, MAX_PHOTOS))
        items.pop()
    with concurrent.futures.ThreadPoolExecutor(machine.core_count()) as pool:
        loaded = list(zip(items, pool.map(_load, items)))
    for item, picture in loaded:
        if isinstance(picture, ImageError):
            say("%s: %s (left out)" % (item.name, picture))
    usable = [(item.name, picture) for item, picture in loaded if not isinstance(picture, ImageError)]
    if not usable:
        raise UsageError("--calibration %s: no readable photo in it" % calibration)
    names = [name for name, _ in usable]
    pictures = np.stack([picture for _, picture in usable])
    with _unconverted(bundle) as engine:
        answers = run(engine, pictures, engine.max_batch)
    return Sample(names, pictures, [""] * len(names), answers)


def run(engine, pictures, batch):
    """Returns an engine's answers to pictures, float32 [n, classes]; the last batch may be smaller."""
    return np.concatenate([engine.infer(pictures[start : start + batch]) for start in range(0, len(pictures), batch)])


def compare(engine, sample, batches):
    """Compares an engine with the original at several batch sizes; the worst figures count.

    Args:
        engine: an open Engine.
        sample: edge_runtime.bundle.Sample.
        batches: batch sizes to run the sample at.

    Returns:
        Parity.

    Raises:
        ParityError: the engine failed, or answered NaN or infinity.
    """
    try:
        found = [run(engine, sample.images, batch) for batch in batches]
    except EngineError as error:
        raise ParityError("%s is refused: %s" % (engine.name, error)) from error
    differences = np.max([np.abs(answers - sample.probabilities) for answers in found], axis=0)
    best = sample.probabilities.argmax(axis=1)
    agreement = min(float(np.mean(answers.argmax(axis=1) == best)) for answers in found)
    worst = np.argsort(-differences.max(axis=1))[:_WORST]
    return Parity(
        photos=len(sample.names),
        top1_agreement=agreement,
        max_abs_difference=float(differences.max()),
        mean_abs_difference=float(differences.mean()),
        worst_photos=[sample.names[index] for index in worst],
    )


def require_agreement(engine_name, parity, least):
    """Raises ParityError when too few photos get the original's label."""
    if parity.top1_agreement < least:
        raise ParityError(
            "%s is refused and was not kept: same label as the original for %.2f %% of %d photos, %.2f %% are needed "
            "(--min-agreement); largest difference of a probability %.4f.\nMost different: %s"
            % (
                engine_name,
                100 * parity.top1_agreement,
                parity.photos,
                100 * least,
                parity.max_abs_difference,
                ", ".join(parity.worst_photos),
            )
        )


def _load(item):
    try:
        if item.problem:
            raise ImageError(item.problem)
        return images.read_image(item.path)
    except ImageError as error:
        return error


def _unconverted(bundle):
    """Opens the bundle's own model with whichever library is here."""
    try:
        return open_engine(bundle, "onnxruntime")
    except MissingRequirement:
        return open_engine(bundle, "tensorflow")
