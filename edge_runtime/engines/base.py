"""The interface of an engine, with its checks: all that the pipeline, convert, train and benchmarks know of one."""

import abc
import contextlib

import numpy as np

from edge_runtime.errors import PicnicError


class EngineError(RuntimeError):
    """The engine failed on a batch, or answered something that cannot be right.

    Attributes:
        answers: float32 [n, classes] where it answered NaN or infinity, None otherwise.
    """

    def __init__(self, message, answers=None):
        super().__init__(message)
        self.answers = answers


class Engine(abc.ABC):
    """Runs batches of photos through the network: open, infer, close; also a context manager.

    Several batches can be on their way at once: submit, collect. Any number of users may share an open engine, be they
    threads or pipelines that one thread reads in turns: each gets the answers to its own batches, and none waits for
    another to collect. Closing interrupts no batch that is being worked on; later calls raise EngineError.

    A subclass writes _open, _infer and _close; the checks are here. Such an engine works only while it is called:
    submit keeps the batch, and collect runs it. One whose library works by itself derives from AsynchronousEngine.
    _infer, _submit and _collect may be called by several threads at once, also while _close is.

    Attributes:
        info: edge_runtime.engines.record.EngineInfo.
        name: such as "onnxruntime-fp32".
        input_shape: (height, width, 3) of a picture.
        max_batch: the largest batch that infer and submit take.
        threads: for CPU engines.
        slots: batches on their way that keep the engine busy; more are allowed and gain nothing.
    """

    slots = 1  # a subclass may set it in _open
    _closed = False

    def __init__(self, info, input_shape, class_count, max_batch, threads):
        self.info = info
        self.name = info.name
        self.input_shape = input_shape
        self.max_batch = max_batch
        self.threads = threads
        self._class_count = class_count

    def open(self):
        """Loads the engine and returns it. If that fails, everything is freed again."""
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
            batch: uint8 array [n, height, width, 3], RGB, of input_shape, 1 <= n <= max_batch.

        Returns:
            float32 array [n, classes] of probabilities; the caller's own copy.

        Raises:
            ValueError: a batch of another dtype or shape (a bug of the caller).
            EngineError: the library failed, the answer has another shape or contains NaN or infinity, or the engine is
                closed.
            MissingRequirement: the GPU is gone.
        """
        self._check_batch(batch)
        with self._errors_explained():
            probabilities = self._infer(batch)
        self._check_answer(probabilities, len(batch))
        return probabilities

    def submit(self, batch):
        """Starts a batch; an engine that is no AsynchronousEngine keeps it until collect, which runs it.

        A user keeps up to `slots` batches on their way; more are answered too, but none of them sooner.

        Args:
            batch: uint8 array [n, height, width, 3], RGB, of input_shape, 1 <= n <= max_batch. It must not change until
                it is collected.

        Returns:
            what collect needs. A batch whose submit raised is not on its way.

        Raises:
            ValueError: a batch of another dtype or shape (a bug of the caller).
            EngineError: the library failed, or the engine is closed.
            MissingRequirement: the GPU is gone.
        """
        self._check_batch(batch)
        with self._errors_explained():
            return [len(batch), self._submit(batch)]

    def collect(self, pending):
        """Waits for a submitted batch.

        Args:
            pending: what submit returned. It can be collected once, also if that raises.

        Returns:
            float32 array [n, classes] of probabilities; the caller's own copy.

        Raises:
            EngineError: the library failed, the answer has another shape or contains NaN or infinity, the engine is
                closed, or the batch was collected before.
            MissingRequirement: the GPU is gone.
        """
        if not pending:
            raise EngineError(f"{self.name}: the batch is not on its way")
        count, started = pending
        pending.clear()
        with self._errors_explained():
            probabilities = self._collect(started)
        self._check_answer(probabilities, count)
        return probabilities

    def close(self):
        """Frees the engine. May be called any number of times, also while others use it."""
        self._closed = True
        self._close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _check_batch(self, batch):
        if batch.dtype != np.uint8 or batch.shape[1:] != self.input_shape or not 1 <= len(batch) <= self.max_batch:
            sides = ", ".join(map(str, self.input_shape))
            raise ValueError(
                f"{self.name}: expected uint8 [1..{self.max_batch}, {sides}], got {batch.dtype} {batch.shape}"
            )
        if self._closed:
            raise EngineError(f"{self.name}: is closed")

    @contextlib.contextmanager
    def _errors_explained(self):
        """Turns what the library raises into an EngineError with the engine's name."""
        try:
            yield
        except (EngineError, PicnicError):
            raise
        except Exception as error:  # each library has exceptions of its own
            reason = "is closed" if self._closed else str(error) or type(error).__name__
            raise EngineError(f"{self.name}: {reason}") from error

    def _check_answer(self, probabilities, count):
        if probabilities.shape != (count, self._class_count) or probabilities.dtype != np.float32:
            raise EngineError(
                f"{self.name}: expected float32 [{count}, {self._class_count}], "
                f"the engine returned {probabilities.dtype} {probabilities.shape}"
            )
        if not np.isfinite(probabilities).all():
            raise EngineError(f"{self.name}: the engine returned NaN or infinite probabilities", probabilities)

    @abc.abstractmethod
    def _open(self):
        """Loads the library and the engine."""

    @abc.abstractmethod
    def _infer(self, batch):
        """Returns the probabilities of a checked batch."""

    def _submit(self, batch):
        """Returns what _collect needs: the checked batch itself, which nothing has started yet."""
        return batch

    def _collect(self, started):
        """Returns the probabilities of what _submit returned."""
        return self._infer(started)

    @abc.abstractmethod
    def _close(self):
        """Frees what _open took, also after it failed half way."""


class AsynchronousEngine(Engine):
    """An engine whose library works by itself: it runs one batch while the caller prepares the next.

    A subclass writes _open, _submit, _collect and _close.
    """

    def _infer(self, batch):
        return self._collect(self._submit(batch))

    @abc.abstractmethod
    def _submit(self, batch):
        """Starts a checked batch and returns what _collect needs."""

    @abc.abstractmethod
    def _collect(self, started):
        """Returns the probabilities of what _submit started."""
