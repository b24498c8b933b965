"""TensorRT on an NVIDIA GPU, through pycuda: the plan that the converter built for this GPU and this TensorRT.

Batches go through a ring of slots. A slot has its own buffers and a stream for its copies; all runs are on one stream
of one execution context, for up to TensorRT 8.6 only one execution context may use a profile, and a second one would
take the memory of all activations again. Events put the parts in order, so that one slot is filled and copied, and
another read, while the GPU runs a third.

All users share the slots. Where none is free, the oldest batch is waited for, which takes the GPU no longer because
somebody else has submitted it, and its answers are kept until they are collected: nobody waits for another user to
collect, and more users take no more of the GPU's memory.

    slot's stream      copy in -> "loaded"                              (waits for "ran") copy out -> "done"
    engine's stream               (waits for "loaded") run ... -> "ran"

Not yet run on hardware: written from the sources of TensorRT and pycuda, tested with a simulator of both.
"""

import collections
import contextlib
import logging
import os
import threading
import typing

import numpy as np

from edge_runtime.bundle.checksums import checked_bytes
from edge_runtime.bundle.manifest import INPUT_NAME, OUTPUT_NAME
from edge_runtime.engines.base import AsynchronousEngine, EngineError
from edge_runtime.engines.tensorrt import context, versions
from edge_runtime.engines.tensorrt.context import gpu, gpu_context
from edge_runtime.errors import MissingRequirement
from edge_runtime.machine.libraries import require

PLAN = "model.plan"
FILES = (PLAN,)  # that a converted engine opens

# Environment: set to 1, the GPU works in page-locked memory itself; `make jetson-check` measures it.
ZERO_COPY = "PICNIC_EDGE_ZERO_COPY"

_MAX_LOGGED_ERRORS = 5

log = logging.getLogger("picnic_edge")


def make_log(tensorrt, show=None):
    """Returns a TensorRT logger that keeps the last errors.

    Args:
        tensorrt: the module.
        show: called with every message, on whatever thread it comes from.
    """
    base: typing.Any = tensorrt.ILogger

    class Log(base):
        def __init__(self):
            base.__init__(self)
            self.errors: typing.Deque[str] = collections.deque(maxlen=_MAX_LOGGED_ERRORS)

        def log(self, severity, msg):
            with contextlib.suppress(Exception):  # raised into TensorRT, it would end the process
                if int(severity) <= int(base.ERROR):
                    self.errors.append(msg)
                if show:
                    show(msg)

        def reason(self):
            """The last errors, one a line."""
            return "\n".join(self.errors) or "TensorRT gave no reason"

    return Log()


def start(kind, log):
    """Returns kind(log), a tensorrt.Builder or Runtime. Raises MissingRequirement: TensorRT cannot use the GPU."""
    try:
        return kind(log)
    except TypeError as error:  # the bindings' answer to a null pointer
        raise MissingRequirement(f"TensorRT cannot use the GPU:\n{log.reason()}") from error


class _Piece:
    """Memory for one run: at most the plan's largest batch."""

    def __init__(self):
        self.host: typing.Dict[str, typing.Any] = {}  # page-locked arrays, their .base what pycuda allocated
        self.device: typing.Dict[str, typing.Any] = {}  # empty where the GPU works in the page-locked memory itself
        self.addresses: typing.Dict[str, int] = {}  # on the GPU


class _Slot:
    """What one batch needs for itself while the GPU works on it."""

    def __init__(self):
        self.pieces: typing.List[_Piece] = []  # more than one only where a batch may be larger than the plan's largest
        self.stream: typing.Any = None
        self.loaded: typing.Any = None
        self.ran: typing.Any = None
        self.done: typing.Any = None

    def free(self):
        """Frees everything; nothing may be on its way. Inside gpu_context()."""
        self.stream = self.loaded = self.ran = self.done = None
        while self.pieces:
            piece = self.pieces.pop()
            for memory in [array.base for array in piece.host.values()] + list(piece.device.values()):
                memory.free()


class _Batch:
    """A batch between submit and collect."""

    def __init__(self, slot, count):
        self.slot = slot  # None once its answers, or its failure, are here
        self.count = count  # photos
        self.answers: typing.Any = None
        self.failure = ""


class TensorRtEngine(AsynchronousEngine):
    """A plan, its execution context, and the ring of slots."""

    # While the GPU runs one batch, the other is read, filled and copied; that takes a small part of a run's time. A
    # third would only wait, and its photos get older.
    slots = 2

    library = "tensorrt"  # the module

    _runtime: typing.Any = None
    _engine: typing.Any = None
    _context: typing.Any = None
    _stream: typing.Any = None  # of the runs
    _largest = 0  # photos of the plan's profile
    _shaped_for = 0  # photos that the execution context expects
    _lost = ""  # why the GPU cannot be used any more

    def __init__(self, info, input_shape, class_count, max_batch, threads):
        super().__init__(info, input_shape, class_count, max_batch, threads)
        self._slots: typing.List[_Slot] = []
        self._free: typing.Deque[_Slot] = collections.deque()
        self._on_their_way: typing.Deque[_Batch] = collections.deque()  # those that have a slot, the oldest first
        self._one_at_a_time = threading.Lock()  # TensorRT's execution context is for one thread at a time

    def _open(self):
        tensorrt, cuda = require(self.library), require("pycuda.driver")
        with gpu_context():
            self._lost = ""
            self._log = make_log(tensorrt)
            self._runtime = start(tensorrt.Runtime, self._log)
            plan = checked_bytes(self.info.path, PLAN, self.info.files)
            self._check_plan(tensorrt, plan)
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise MissingRequirement(
                    f"{self.info.path}: TensorRT did not load it; most often too little memory is free on the GPU. "
                    "If memory is free, make it again with picnic-edge convert."
                    f"\n{self._log.reason()}"
                )
            tensors = self._expected_tensors(tensorrt)
            self._context = self._make_context(tensorrt, plan)
            if self._context is None:
                raise MissingRequirement(
                    f"{self.name}: TensorRT made no execution context; most often too little memory is free on the GPU."
                    f"\n{self._log.reason()}"
                )
            try:
                zero_copy = self._wants_zero_copy(cuda)
                self._stream = cuda.Stream()
                for _ in range(self.slots):
                    self._slots.append(_Slot())  # known to close() if allocating fails
                    self._allocate(self._slots[-1], tensors, zero_copy, cuda)
            except cuda.Error as error:
                raise MissingRequirement(
                    f"{self.name}: the GPU has not enough memory (a smaller --batch needs less), or failed: {error}"
                ) from error
            self._free.extend(self._slots)

    def _submit(self, batch):
        with self._one_at_a_time, gpu_context():
            return self._start(batch)

    def _collect(self, started):
        with gpu_context():
            self._wait_for(started)
            with self._one_at_a_time:
                return self._finish(started)

    def _close(self):
        if self._runtime is not None:
            with self._one_at_a_time, gpu_context():
                with contextlib.suppress(require("pycuda.driver").Error):  # of a run, reported before
                    self._wait_for_streams()
                self._before_close()
                self._free.clear()
                while self._on_their_way:
                    self._on_their_way.popleft().slot = None
                while self._slots:
                    self._slots.pop().free()
                self._stream = None
                self._drop_context()  # in this order: TensorRT's objects must outlive what they made
                self._engine = None
                self._runtime = None
                self._shaped_for = 0

    def _check_plan(self, tensorrt, plan):
        """Where TensorRT says beforehand whether a plan runs here: raises BundleError where it does not."""

    def _make_context(self, tensorrt, plan):
        """Returns an execution context, None where there is not enough memory."""
        return self._engine.create_execution_context()

    def _before_close(self):
        """What must be kept of the execution context. Runs are over, but one may have failed."""

    def _drop_context(self):
        """Frees the execution context, then what it uses."""
        self._context = None

    def _expected_tensors(self, tensorrt):
        """Returns {name: versions.Tensor}. Raises EngineError: the plan is of another network."""
        tensors = versions.tensors_of(tensorrt, self._engine)
        if {name: tensor.is_input for name, tensor in tensors.items()} != {INPUT_NAME: True, OUTPUT_NAME: False}:
            raise EngineError(f"its inputs and outputs are {sorted(tensors)}")
        self._largest = min(self.max_batch, tensors[INPUT_NAME].largest_shape[0])
        return tensors

    def _wants_zero_copy(self, cuda):
        """Whether the GPU is to work in page-locked memory: if wanted, and if it has no memory of its own."""
        if os.environ.get(ZERO_COPY) != "1":
            return False
        attributes = cuda.device_attribute
        if all(gpu().get_attribute(kind) for kind in (attributes.INTEGRATED, attributes.CAN_MAP_HOST_MEMORY)):
            return True
        log.warning("%s: %s=1 is ignored: this GPU has dedicated memory", self.name, ZERO_COPY)
        return False

    def _allocate(self, slot, tensors, zero_copy, cuda):
        """Gives a slot its stream, events and memory."""
        slot.stream = cuda.Stream()
        # A thread that waits for such an event sleeps, and leaves its core to the decoders.
        flags = cuda.event_flags.BLOCKING_SYNC | cuda.event_flags.DISABLE_TIMING
        slot.loaded, slot.ran, slot.done = cuda.Event(flags), cuda.Event(flags), cuda.Event(flags)
        for _ in range(0, self.max_batch, self._largest):
            piece = _Piece()
            slot.pieces.append(piece)  # known to free() if allocating fails
            for name, tensor in tensors.items():
                shape = (self._largest,) + tensor.largest_shape[1:]
                if zero_copy:
                    piece.host[name] = cuda.pagelocked_empty(
                        shape, tensor.dtype, mem_flags=cuda.host_alloc_flags.DEVICEMAP
                    )
                    piece.addresses[name] = piece.host[name].base.get_device_pointer()
                else:
                    piece.host[name] = cuda.pagelocked_empty(shape, tensor.dtype)
                    piece.device[name] = cuda.mem_alloc(piece.host[name].nbytes)
                    piece.addresses[name] = int(piece.device[name])

    def _start(self, batch):
        """Takes a free slot for a batch and starts it; returns its _Batch."""
        cuda = require("pycuda.driver")
        if self._runtime is None:
            raise EngineError(f"{self.name}: is closed")
        if self._lost:
            raise EngineError(f"{self.name}: the GPU failed before, and cannot be used any more: {self._lost}")
        if not self._free:
            self._retrieve(self._on_their_way[0])
        self._log.errors.clear()
        slot = self._free[0]
        with self._streams_empty_on_failure(cuda):
            self._enqueue(slot, batch, cuda)
        self._free.popleft()  # a slot whose batch did not get on its way is free again
        self._on_their_way.append(_Batch(slot, len(batch)))
        return self._on_their_way[-1]

    def _enqueue(self, slot, batch, cuda):
        """Puts the copies and runs of a batch onto the streams."""
        parts = []
        for place, piece in zip(range(0, len(batch), self._largest), slot.pieces):
            pixels = batch[place : place + self._largest]
            piece.host[INPUT_NAME][: len(pixels)] = pixels  # here uint8 becomes float32 where the plan wants that
            if piece.device:
                source = piece.host[INPUT_NAME][: len(pixels)]
                cuda.memcpy_htod_async(piece.device[INPUT_NAME], source, slot.stream)
            parts.append((piece, len(pixels)))
        slot.loaded.record(slot.stream)
        self._stream.wait_for_event(slot.loaded)
        for piece, count in parts:
            self._run(piece, (count,) + batch.shape[1:])
        slot.ran.record(self._stream)
        slot.stream.wait_for_event(slot.ran)
        for piece, count in parts:
            if piece.device:
                cuda.memcpy_dtoh_async(piece.host[OUTPUT_NAME][:count], piece.device[OUTPUT_NAME], slot.stream)
        slot.done.record(slot.stream)

    def _run(self, piece, shape):
        if self._shaped_for != shape[0]:
            self._shaped_for = 0
            if not versions.set_input_shape(self._engine, self._context, INPUT_NAME, shape):
                raise EngineError(f"{self.name}: TensorRT refused a batch of {shape}: {self._log.reason()}")
            self._shaped_for = shape[0]
        if not versions.enqueue(self._engine, self._context, piece.addresses, self._stream.handle):
            raise EngineError(f"{self.name}: TensorRT did not run the batch: {self._log.reason()}")

    def _wait_for(self, batch):
        """Waits without the lock, so that others can submit meanwhile. The slot may be another batch's by then."""
        slot = batch.slot
        done = slot.done if slot is not None else None  # also None where the engine was closed
        if done is not None:
            with contextlib.suppress(require("pycuda.driver").Error):  # _retrieve raises it again
                done.synchronize()

    def _finish(self, batch):
        """Returns a batch's answers."""
        if batch.slot is not None:
            self._retrieve(batch)
        if batch.failure:
            raise EngineError(batch.failure)
        if batch.answers is None:
            raise EngineError(f"{self.name}: the engine is closed, this batch was not finished")
        return batch.answers

    def _retrieve(self, batch):
        """Waits for a batch, keeps a copy of its answers or its failure, and frees its slot."""
        slot, batch.slot = batch.slot, None
        self._on_their_way.remove(batch)
        try:
            with self._streams_empty_on_failure(require("pycuda.driver")):
                slot.done.synchronize()
                batch.answers = np.concatenate([piece.host[OUTPUT_NAME] for piece in slot.pieces])[: batch.count]
        except EngineError as error:
            batch.failure = str(error)  # the exception would keep the streams, which must be freed before the GPU
        finally:
            self._free.append(slot)

    @contextlib.contextmanager
    def _streams_empty_on_failure(self, cuda):
        """If the block fails, waits until nothing of its batch is on its way, so that the slot can be used again.

        CUDA's errors that come from a run (an illegal address, a launch that failed, a GPU that is gone) stay in its
        context for good: where waiting fails too, the engine is lost.

        Raises:
            EngineError: for one of CUDA's errors, with the reason.
        """
        try:
            yield
        except BaseException as error:
            try:
                self._wait_for_streams()
            except cuda.Error as lasting:
                self._lost = str(lasting)
            if isinstance(error, cuda.Error):
                raise EngineError(f"{self.name}: the GPU failed: {error}; {self._log.reason()}") from error
            raise

    def _wait_for_streams(self):
        """Waits for all that is on the streams, also if one of them fails; then raises its error."""
        streams = [stream for stream in [self._stream] + [slot.stream for slot in self._slots] if stream is not None]
        with contextlib.ExitStack() as waits:
            for stream in streams:
                waits.callback(stream.synchronize)


create = TensorRtEngine
local_facts = context.local_facts
