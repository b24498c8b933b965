"""The interface that the pipeline, the parity check, the evaluator and the benchmarks know."""

import abc
import contextlib

import numpy as np

from edge_runtime.errors import PicnicError
from edge_runtime.photos import spec


class EngineError(RuntimeError):
    """The engine failed on a batch, or answered something that cannot be right.

    answers: float32 [n, classes] where it answered NaN or infinity, None otherwise.
    """

    def __init__(self, message, answers=None):
        super().__init__(message)
        self.answers = answers


class Engine(abc.ABC):
    """Runs batches of photos through the network: open, infer, close; also a context manager.

    Several batches can be on their way at once: submit, collect. Any number of users may share an open engine, be they
    threads or pipelines that one thread reads in turns: each gets the answers to its own batches, and none waits for
    another to collect. Closing ends nothing that is being worked on; who comes later gets an EngineError.

    Subclasses write _open, _infer and _close, and where the library works by itself slots, _submit and _collect; the
    checks are here. _infer, _submit and _collect may be called by several threads at once, and while _close is.
    """

    # Batches on their way that keep the engine at work: more may be, but gain nothing. A subclass may set it when it
    # is opened.
    slots = 1
    _closed = False

    def __init__(self, info, class_count, max_batch, threads):
        self.info = info
        self.name = info.name
        self.max_batch = max_batch
        self.threads = threads
        self._class_count = class_count

    def open(self):
        """Loads the engine and returns it. What a failed opening had taken is given back."""
        try:
            self._closed = False
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
            EngineError: the library failed, or an answer of another shape, or with NaN or infinity in it, or the
                engine is closed.
            MissingRequirement: the GPU is not there any more.
        """
        self._check(batch)
        with self._explained():
            probabilities = self._infer(batch)
        return self._checked(probabilities, len(batch))

    def submit(self, batch):
        """Starts a batch, or keeps it for collect where the library does not work by itself.

        A user keeps up to `slots` batches on their way; more are answered too, but none of them sooner.

        Args:
            batch: as for infer. Its memory must stay as it is until it is collected.

        Returns:
            what collect needs. A batch whose submit raised is not on its way.

        Raises:
            ValueError, EngineError: as infer.
        """
        self._check(batch)
        with self._explained():
            return [len(batch), self._submit(batch)]

    def collect(self, pending):
        """Waits for a submitted batch.

        Args:
            pending: what submit returned; collected once. It is not on its way any more, also when this raises.

        Returns:
            as infer.

        Raises:
            EngineError: as infer.
        """
        if not pending:
            raise EngineError(f"{self.name}: the batch is not on its way")
        count, started = pending
        pending.clear()
        with self._explained():
            probabilities = self._collect(started)
        return self._checked(probabilities, count)

    def close(self):
        """Frees what the engine holds. May be called any number of times, also while others use it."""
        self._closed = True
        self._close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _check(self, batch):
        expected = tuple(spec.INPUT_SPEC["shape"])
        if batch.dtype != np.uint8 or batch.shape[1:] != expected or not 1 <= len(batch) <= self.max_batch:
            raise ValueError(
                "%s: expected uint8 [1..%d, %d, %d, %d], got %s %s"
                % ((self.name, self.max_batch) + expected + (batch.dtype, batch.shape))
            )
        if self._closed:
            raise EngineError(f"{self.name}: is closed")

    @contextlib.contextmanager
    def _explained(self):
        try:
            yield
        except (EngineError, PicnicError):
            raise
        except Exception as error:  # each library has exceptions of its own
            reason = "is closed" if self._closed else str(error) or type(error).__name__
            raise EngineError(f"{self.name}: {reason}") from error

    def _checked(self, probabilities, count):
        if probabilities.shape != (count, self._class_count) or probabilities.dtype != np.float32:
            raise EngineError(
                "%s: expected float32 [%d, %d], the engine returned %s %s"
                % (self.name, count, self._class_count, probabilities.dtype, probabilities.shape)
            )
        if not np.isfinite(probabilities).all():
            raise EngineError(f"{self.name}: the engine returned NaN or infinite probabilities", probabilities)
        return probabilities

    @abc.abstractmethod
    def _open(self):
        """Loads the library and the engine."""

    @abc.abstractmethod
    def _infer(self, batch):
        """Returns the probabilities of a checked batch."""

    def _submit(self, batch):
        """Starts a checked batch and returns what _collect needs."""
        return batch

    def _collect(self, started):
        """Returns the probabilities of what _submit started."""
        return self._infer(started)

    @abc.abstractmethod
    def _close(self):
        """Frees what _open took, also after it failed half way."""
