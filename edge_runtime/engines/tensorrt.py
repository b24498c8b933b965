"""TensorRT on an NVIDIA GPU, through pycuda: the plan that the converter built for this GPU and this TensorRT.

Not yet run on hardware: written from the sources of TensorRT and pycuda, tested with a simulator of both.
"""

import atexit
import collections
import contextlib
import functools
import os
import threading
import typing

import numpy as np

from edge_runtime.bundle import INPUT_NAME, OUTPUT_NAME
from edge_runtime.engines import tensorrt_versions as versions
from edge_runtime.engines.base import Engine, EngineError
from edge_runtime.errors import MissingRequirement
from edge_runtime.requirements import require

PLAN = "model.plan"
_KEPT_ERRORS = 5


def here():
    """Returns what a plan is bound to: {"libraries": {"tensorrt": version}, "gpu": {"name", "compute_capability"}}.

    Raises:
        MissingRequirement: tensorrt, pycuda or the GPU is missing.
    """
    device = gpu()
    return {
        # On a Jetson TensorRT is no distribution that pip knows.
        "libraries": {"tensorrt": require("tensorrt").__version__},
        "gpu": {"name": device.name(), "compute_capability": "%d.%d" % tuple(device.compute_capability())},
    }


def gpu():
    """Returns the first GPU (pycuda.driver.Device); no context is made. Raises MissingRequirement: there is none."""
    require("tensorrt")  # is named first where both are missing
    cuda = require("pycuda.driver")
    try:
        cuda.init()
        return cuda.Device(0)
    except cuda.Error as error:
        raise MissingRequirement(
            "no NVIDIA GPU can be used here (%s); on a PC look at nvidia-smi, in a container start it with --gpus all "
            "or --runtime nvidia" % error
        ) from error


@contextlib.contextmanager
def gpu_context():
    """Makes the GPU's primary context current on the calling thread for the length of the block.

    CUDA's current context belongs to a thread, and an engine is opened on one thread and run on another: every use
    of the GPU is inside such a block. The primary context is the one that TensorRT and TensorFlow use themselves.

    Raises:
        MissingRequirement: as gpu(), and where pycuda is too old.
    """
    context = _primary_context(require("pycuda.driver"))
    context.push()
    try:
        yield
    finally:
        context.pop()


@functools.lru_cache(maxsize=1)
def _primary_context(cuda):
    """Kept until the process ends: pycuda releases a primary context only on the thread that asked for it."""
    device = gpu()
    if not hasattr(device, "retain_primary_context"):
        raise MissingRequirement(
            "pycuda here is too old (it has no Device.retain_primary_context); to get one that is not: "
            "pip3 install 'pycuda>=2020.1,<2021.1' on Python 3.6, pip install --upgrade pycuda elsewhere"
        )
    atexit.register(_primary_context.cache_clear)  # while pycuda is still whole
    try:
        return device.retain_primary_context()
    except cuda.Error as error:
        raise MissingRequirement(
            "the GPU gives no context; most often too little memory is free: %s" % error
        ) from error


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
            self.errors: typing.Deque[str] = collections.deque(maxlen=_KEPT_ERRORS)

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
    except TypeError as error:  # what its bindings make of a null pointer
        raise MissingRequirement("TensorRT cannot use the GPU:\n%s" % log.reason()) from error


class _Slot:
    """What one batch on its way needs for itself: an execution context, a stream, page-locked and device memory."""

    def __init__(self):
        self.context = self.stream = None
        self.host: typing.Dict[str, np.ndarray] = {}  # page-locked
        self.device: typing.Dict[str, typing.Any] = {}
        self.shaped_for = 0  # photos that the execution context expects

    def close(self, cuda):
        """Frees everything. Inside gpu_context()."""
        if self.stream is not None:
            with contextlib.suppress(cuda.Error):  # of a run that failed; it was told then
                self.stream.synchronize()
        self.context = self.stream = None
        for memory in [array.base for array in self.host.values()] + list(self.device.values()):
            memory.free()
        self.host, self.device = {}, {}


class TensorRtEngine(Engine):
    _runtime: typing.Any = None
    _engine: typing.Any = None
    _largest = 0  # photos of the plan's profile

    def __init__(self, info, class_count, max_batch, threads):
        super().__init__(info, class_count, max_batch, threads)
        self._slots: typing.List[_Slot] = []
        self._one_at_a_time = threading.Lock()

    def _open(self):
        tensorrt, cuda = require("tensorrt"), require("pycuda.driver")
        with gpu_context():
            self._log = make_log(tensorrt)
            self._runtime = start(tensorrt.Runtime, self._log)
            with open(os.path.join(self.info.path, PLAN), "rb") as file:
                self._engine = self._runtime.deserialize_cuda_engine(file.read())
            if self._engine is None:
                raise MissingRequirement(
                    "%s: TensorRT did not load it, though it was built by this version for this GPU; most often too "
                    "little memory is free. If that is not it, make it again with picnic-edge convert.\n%s"
                    % (self.info.path, self._log.reason())
                )
            tensors = self._expected_tensors(tensorrt)
            self._slots.append(_Slot())  # known to close() before it is filled
            try:
                self._fill(self._slots[0], tensors, cuda)
            except cuda.Error as error:
                raise MissingRequirement("%s: the GPU has not enough memory, or failed: %s" % (self.name, error))

    def _infer(self, batch):
        with self._one_at_a_time, gpu_context():
            pieces = [batch[start : start + self._largest] for start in range(0, len(batch), self._largest)]
            return np.concatenate([self._run(self._slots[0], piece) for piece in pieces])

    def _close(self):
        if self._runtime is not None:
            with self._one_at_a_time, gpu_context():
                while self._slots:
                    self._slots.pop().close(require("pycuda.driver"))
                self._engine = None  # in this order: TensorRT wants what made a thing to outlive it
                self._runtime = None

    def _expected_tensors(self, tensorrt):
        """Returns {name: versions.Tensor}. Raises EngineError: the plan is of another network."""
        tensors = versions.tensors_of(tensorrt, self._engine)
        if {name: tensor.is_input for name, tensor in tensors.items()} != {INPUT_NAME: True, OUTPUT_NAME: False}:
            raise EngineError("its inputs and outputs are %s" % sorted(tensors))
        self._largest = min(self.max_batch, tensors[INPUT_NAME].largest_shape[0])
        return tensors

    def _fill(self, slot, tensors, cuda):
        slot.context = self._engine.create_execution_context()
        if slot.context is None:
            raise MissingRequirement(
                "%s: TensorRT made no execution context; most often too little memory is free on the GPU.\n%s"
                % (self.name, self._log.reason())
            )
        slot.stream = cuda.Stream()
        for name, tensor in tensors.items():
            shape = (self._largest,) + tensor.largest_shape[1:]
            slot.host[name] = cuda.pagelocked_empty(shape, tensor.dtype)
            slot.device[name] = cuda.mem_alloc(slot.host[name].nbytes)

    def _run(self, slot, batch):
        cuda = require("pycuda.driver")
        self._log.errors.clear()
        try:
            self._start(slot, batch, cuda)
            return self._finish(slot, len(batch))
        except cuda.Error as error:
            raise EngineError("%s: the GPU failed: %s; %s" % (self.name, error, self._log.reason())) from error

    def _start(self, slot, batch, cuda):
        """Puts a batch and its run onto the slot's stream."""
        pixels = slot.host[INPUT_NAME][: len(batch)]
        pixels[...] = batch  # here uint8 becomes float32 where the plan wants that
        if slot.shaped_for != len(batch):
            slot.shaped_for = 0
            if not versions.set_input_shape(self._engine, slot.context, INPUT_NAME, batch.shape):
                raise EngineError(
                    "%s: TensorRT refused a batch of %s: %s" % (self.name, batch.shape, self._log.reason())
                )
            slot.shaped_for = len(batch)
        cuda.memcpy_htod_async(slot.device[INPUT_NAME], pixels, slot.stream)
        addresses = {name: int(memory) for name, memory in slot.device.items()}
        if not versions.enqueue(self._engine, slot.context, addresses, slot.stream.handle):
            raise EngineError("%s: TensorRT did not run the batch: %s" % (self.name, self._log.reason()))
        cuda.memcpy_dtoh_async(slot.host[OUTPUT_NAME][: len(batch)], slot.device[OUTPUT_NAME], slot.stream)

    def _finish(self, slot, count):
        """Waits for the slot's stream and returns the answers, a copy of their own."""
        slot.stream.synchronize()
        return np.array(slot.host[OUTPUT_NAME][:count])


create = TensorRtEngine
