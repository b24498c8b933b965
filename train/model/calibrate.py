"""Probabilities that mean what they say: one temperature, fitted on validation photos."""

import numpy as np

from edge_runtime.machine.libraries import require

_TEMPERATURES = (0.05, 20.0)


def fit_temperature(probabilities, truth):
    """Returns the temperature T that makes softmax(logits / T) the most likely on labelled photos.

    Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv:1706.04599). The labels do not change. As in
    Platt 1999, "Probabilistic Outputs for Support Vector Machines", a label among n counts as (n + 1) / (n + 2) sure,
    and the rest goes to all classes: a few photos, all answered rightly, are no reason to be sure of everything.

    Args:
        probabilities: float32 [n, classes], softmax(logits).
        truth: int [n], indices of the true classes.
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-30))  # up to a constant per photo, which cancels
    doubt = 1.0 / (len(truth) + 2)

    def negative_log_likelihood(log_temperature):
        scaled = _log_softmax(logits / np.exp(log_temperature))
        return -(1 - doubt) * np.mean(scaled[np.arange(len(truth)), truth]) - doubt * np.mean(scaled)

    found = require("scipy.optimize").minimize_scalar(
        negative_log_likelihood, bounds=np.log(_TEMPERATURES), method="bounded"
    )
    return float(np.exp(found.x))


def apply_temperature(probabilities, temperature):
    """Returns float32 [n, classes]: what softmax(logits / temperature) gives where softmax(logits) gave these."""
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-30))
    return np.exp(_log_softmax(logits / temperature)).astype(np.float32)


def fold_temperature(head, temperature):
    """Divides the head's logits by the temperature, inside its own weights: the graph stays as it is."""
    head.set_weights([values / temperature for values in head.get_weights()])


def _log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
