"""picnic-edge evaluate"""

import os
import time
import typing

import numpy as np

from edge_runtime import files
from edge_runtime.bundle.reading import Bundle
from edge_runtime.classifier import Classifier
from edge_runtime.console import progress, say
from edge_runtime.engines import record, selection
from edge_runtime.sources.items import Item
from edge_runtime.text import printable
from train.data import split
from train.insight import report

_BATCH = 8  # photos per call of the engine


Run = typing.NamedTuple(
    "Run",
    [
        ("path", str),  # of the bundle, as given
        ("bundle", Bundle),
        ("engine", record.EngineInfo),
        ("predictions", list),  # edge_runtime.classifier.Prediction, one per photo
        ("images_per_s", float),  # from files to labels, in this very run
    ],
)


def run_bundle(path, bundle, engine_name, photos):
    """Classifies the photos with one bundle. Returns its Run."""
    items = [Item(photo.file, photo.path, "", photo.root) for photo in photos]
    with Classifier(bundle, selection.open_engine(bundle, engine_name, _BATCH), _BATCH) as classifier:
        started = time.perf_counter()
        predictions = list(progress(classifier.classify(items), len(items), "evaluate"))
        seconds = time.perf_counter() - started
        return Run(path, bundle, classifier.engine.info, predictions, len(items) / seconds)


def rank(runs, photos, readable, set_aside, sums):
    """Scores what every bundle answered for the readable photos (numbers).

    Returns:
        [(what report.figures returns and what there is to compare, Run, float32 [photos, classes])], best first.
    """
    ranked = []
    for run in runs:
        known = set(run.bundle.class_names)
        lacking = [photo.label for photo in photos if photo.label not in known]
        if lacking:
            names = ", ".join(printable(name) for name in sorted(set(lacking)))
            say(f"{run.path}: does not know {names}: {len(lacking)} photos count as wrong for it")
        trained_on = None
        learned = (run.bundle.manifest.get("training") or {}).get("photos_sha256")
        if learned is not None:  # older bundles do not say
            learned = set(learned)
            trained_on = sum(sums[photo.path] in learned for photo in photos)
        if trained_on:
            say(
                "%s: %d of %d photos were among the training photos: these figures say little about new photos"
                % (run.path, trained_on, len(photos))
            )
        probabilities = np.stack([run.predictions[number].probabilities for number in readable])
        result = report.figures(run.bundle, photos, probabilities, run.engine.name, set_aside, trained_on)
        result.update(
            bundle=run.path,
            photos_id=split.dataset_id(photos, [], sums),
            images_per_s=round(run.images_per_s, 2),
            model_bytes=_model_bytes(run.bundle, run.engine),
            photos_unknown_label=len(lacking),
        )
        ranked.append((result, run, probabilities))
    ranked.sort(key=lambda one: (-one[0]["macro_f1"], -one[0]["accuracy"]))
    # The intervals of two bundles may overlap and one be better all the same, as the photos are the same: where they
    # differ, photo by photo, tells more.
    rights = [_right(run.bundle, photos, probabilities) for _, run, probabilities in ranked]
    for (result, _, _), right in zip(ranked, rights):
        result["only_it_is_right"] = int((right & ~rights[0]).sum())
        result["only_first_is_right"] = int((rights[0] & ~right).sum())
    return ranked


def _right(bundle, photos, probabilities):
    """Returns bool [photos]: whether the most probable class is the photo's."""
    found = probabilities.argmax(axis=1)
    return np.array([bundle.class_names[best] == photo.label for photo, best in zip(photos, found)])


def short_sum(path):
    """Returns the start of the sha256 of a photo's bytes, as a manifest's photos_sha256 has it; "" if it is gone."""
    try:
        return files.sha256_of(path)[:16]
    except OSError:
        return ""


def _model_bytes(bundle, engine):
    """Returns the size of what an engine loads."""
    if engine.record:
        listed = engine.record["files"]
    else:
        own = os.path.relpath(engine.path, bundle.path)
        every = bundle.manifest["files"]
        listed = {name: facts for name, facts in every.items() if name == own or name.startswith(own + "/")}
    return sum(facts["size_bytes"] for facts in listed.values())
