"""Engines that answer a bundle's sample as the original does, or wrongly in a way that is known."""

import types

import numpy as np

from edge_runtime.engines.base import Engine
from edge_runtime.engines.check import run_sample
from edge_runtime.gate import compare


class AnswersOfASample(Engine):
    """Answers with the sample's own probabilities, which a function of one batch may change."""

    def __init__(self, sample, change=lambda rows: rows, max_batch=12):
        info = types.SimpleNamespace(name="planted", precision="fp32")
        super().__init__(info, sample.images.shape[1:], sample.probabilities.shape[1], max_batch, 1)
        self.known = {picture.tobytes(): row for picture, row in zip(sample.images, sample.probabilities)}
        self.change = change
        self.sizes = []

    def _open(self):
        pass

    def _infer(self, batch):
        self.sizes.append(len(batch))
        return np.array(self.change(np.stack([self.known[picture.tobytes()] for picture in batch])), np.float32)

    def _close(self):
        pass


def measure(engine, sample, batches):
    """Returns the Parity of an open engine on a sample."""
    answers = {batch: run_sample(engine, sample, batch) for batch in batches}
    return compare.compare(sample.names, sample.probabilities, answers)
