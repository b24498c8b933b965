"""The interface that the pipeline, the parity check, the evaluator and the benchmarks know."""

import abc

import numpy as np

from edge_runtime import images


class EngineError(RuntimeError):
    """The engine failed on a batch, or answered something that cannot be right.

    answers: float32 [n, classes] where it answered NaN or infinity, None otherwise.
    """

    def __init__(self, message, answers=None):
        super().__init__(message)
        self.answers = answers


class Engine(abc.ABC):
    """Runs batches of photos through the network: open, infer, close; also a context manager.

    Subclasses write _open, _infer and _close; the checks are here.
    """

    def __init__(self, info, class_count, max_batch, threads):
        self.info = info
        self.name = info.name
        self.max_batch = max_batch
        self.threads = threads
        self._class_count = class_count

    def open(self):
        """Loads the engine and returns it. What a failed opening had taken is given back."""
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def infer(self, batch):
        """Classifies photos.

        Args:
            batch: uint8 array [n, 299, 299, 3], RGB, 1 <= n <= max_batch.

        Returns:
            float32 array [n, classes] of probabilities; the caller's own copy.

        Raises:
            ValueError: a batch of another dtype or shape (a bug of the caller).
            EngineError: an answer of another shape, or with NaN or infinity in it.
        """
        expected = tuple(images.INPUT_SPEC["shape"])
        if batch.dtype != np.uint8 or batch.shape[1:] != expected or not 1 <= len(batch) <= self.max_batch:
            raise ValueError(
                "%s: expected uint8 [1..%d, %d, %d, %d], got %s %s"
                % ((self.name, self.max_batch) + expected + (batch.dtype, batch.shape))
            )
        probabilities = self._infer(batch)
        if probabilities.shape != (len(batch), self._class_count) or probabilities.dtype != np.float32:
            raise EngineError(
                "%s: expected float32 [%d, %d], the engine returned %s %s"
                % (self.name, len(batch), self._class_count, probabilities.dtype, probabilities.shape)
            )
        if not np.isfinite(probabilities).all():
            raise EngineError("%s: the engine returned NaN or infinite probabilities" % self.name, probabilities)
        return probabilities

    def close(self):
        """Frees what the engine holds. May be called any number of times."""
        self._close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @abc.abstractmethod
    def _open(self):
        """Loads the library and the engine."""

    @abc.abstractmethod
    def _infer(self, batch):
        """Returns the probabilities of a checked batch."""

    @abc.abstractmethod
    def _close(self):
        """Frees what _open took, also after it failed half way."""
