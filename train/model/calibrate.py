"""Calibration of the probabilities: one temperature, fitted on validation photos."""

import numpy as np

from edge_runtime.machine.libraries import require

_TEMPERATURES = (0.05, 20.0)


def fit_temperature(probabilities, truth):
    """Returns the temperature T that gives softmax(logits / T) the highest likelihood on labelled photos.

    Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv:1706.04599). The predicted labels do not change.
    Following Platt 1999, "Probabilistic Outputs for Support Vector Machines", each of n labels counts as certain to
    (n + 1) / (n + 2), and the rest goes to all classes: a few photos, all classified correctly, do not justify full
    confidence.

    Args:
        probabilities: float32 [n, classes], softmax(logits).
        truth: int [n], indices of the true classes.
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-30))  # up to a constant per photo, which cancels
    doubt = 1.0 / (len(truth) + 2)

    def negative_log_likelihood(log_temperature):
        scaled = _log_softmax(logits / np.exp(log_temperature))
        return -(1 - doubt) * np.mean(scaled[np.arange(len(truth)), truth]) - doubt * np.mean(scaled)

    best = require("scipy.optimize").minimize_scalar(
        negative_log_likelihood, bounds=np.log(_TEMPERATURES), method="bounded"
    )
    return float(np.exp(best.x))


def apply_temperature(probabilities, temperature):
    """Returns softmax(logits / temperature), float32 [n, classes], from probabilities = softmax(logits)."""
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-30))
    return np.exp(_log_softmax(logits / temperature)).astype(np.float32)


def fold_temperature(head, temperature):
    """Divides the head's weights, and so its logits, by the temperature: the graph does not change."""
    head.set_weights([values / temperature for values in head.get_weights()])


def _log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
