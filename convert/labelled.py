"""How an engine labels photos whose true labels are known, beside the original (convert --labels)."""

import numpy as np

from convert.reference import open_original
from edge_runtime import console
from edge_runtime.classifier import Classifier
from edge_runtime.console import progress, say
from edge_runtime.errors import EngineLost, ParityError, UsageError
from edge_runtime.gate import judge

MAX_F1_DROP = 0.005  # of macro-F1, 0..1


def classify(bundle, engine, labelled):
    """Returns an open engine's answer to each of the labelled photos: float32 [classes], None for an unreadable one.

    Raises:
        ParityError: the engine failed, on a photo or for good.
    """
    classifier = Classifier(bundle, engine, engine.max_batch)
    predictions = classifier.classify(item for item, _ in labelled)
    try:
        answers = [answer.probabilities for answer in progress(predictions, len(labelled), engine.name)]
    except EngineLost as error:
        raise ParityError(f"{engine.name} is refused and was not kept: {error}") from error
    if classifier.stats.failed:
        failed = f"it fails on {classifier.stats.failed} of {len(labelled)} photos"
        raise ParityError(f"{engine.name} is refused and was not kept: {failed}")
    return answers


def compare_labelled(bundle, labelled, answers):
    """Scores an engine's and the original's labels against the true ones.

    Args:
        bundle: the original.
        labelled: result of convert.reference.labelled_photos.
        answers: result of classify for the engine.

    Returns:
        {"photos", "top1_original", "top1_engine", "macro_f1_original", "macro_f1_engine", "macro_f1_drop"}; all but
        the first 0..1. Photos that cannot be read are left out.

    Raises:
        UsageError: none of the photos can be read.
    """
    with open_original(bundle) as engine:
        originals = classify(bundle, engine, labelled)
    rows = [
        (label, original.argmax(), answer.argmax())
        for (_, label), original, answer in zip(labelled, originals, answers)
        if original is not None and answer is not None
    ]
    if len(rows) < len(labelled):
        say(f"{len(labelled) - len(rows)} of {len(labelled)} labelled photos cannot be read (left out)")
    if not rows:
        raise UsageError(f"--labels: none of the {len(labelled)} photos can be read")
    truth, original, predicted = np.array(rows).T
    f1_original, f1_engine = macro_f1(truth, original), macro_f1(truth, predicted)
    return {
        "photos": len(rows),
        "top1_original": float(np.mean(original == truth)),
        "top1_engine": float(np.mean(predicted == truth)),
        "macro_f1_original": f1_original,
        "macro_f1_engine": f1_engine,
        "macro_f1_drop": f1_original - f1_engine,
    }


def macro_f1(truth, predicted):
    """Returns the mean F1 of the classes that have true photos or were predicted, 0..1.

    Args:
        truth, predicted: int [n], n >= 1.
    """
    scores = [
        2.0 * np.sum((truth == name) & (predicted == name)) / (np.sum(truth == name) + np.sum(predicted == name))
        for name in np.union1d(truth, predicted)
    ]
    return float(np.mean(scores))


def require_macro_f1(engine_name, parity, scores):
    """Raises ParityError when the engine's macro-F1 is too far below the original's.

    Args:
        engine_name: for the message.
        parity: edge_runtime.gate.compare.Parity, for the message.
        scores: result of compare_labelled.
    """
    if scores["macro_f1_drop"] > MAX_F1_DROP:
        drop = 100 * scores["macro_f1_drop"]
        reason = f"macro-F1 is {drop:.2f} points below the original's, {100 * MAX_F1_DROP:.1f} are allowed"
        raise judge.refusal(engine_name, f"{reason}\n{format_table(scores)}", parity)


def format_table(scores):
    """Returns the result of compare_labelled as text for the screen."""
    rows = [
        [title] + [f"{100 * scores[name + who]:.2f}" for who in ("_original", "_engine")]
        for title, name in (("top-1", "top1"), ("macro-F1", "macro_f1"))
    ]
    return console.format_table([f"on {scores['photos']} labelled photos", "original", "engine"], rows)
