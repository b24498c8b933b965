"""OpenVINO on the CPU: the IR that the converter saved, in fp32, int8 or, where the CPU computes it, bf16."""

import collections
import contextlib
import threading
import typing

import numpy as np

from edge_runtime.bundle.checksums import checked_path
from edge_runtime.engines.base import AsynchronousEngine
from edge_runtime.machine.libraries import require

IR_MODEL = "model.xml"
FILES = (IR_MODEL, "model.bin")  # that an engine opens; OpenVINO finds the weights beside the model
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # int8: of the few layers that are not quantized
_MAX_STREAMS = 4  # each has its own memory for what is between the layers


class OpenVinoEngine(AsynchronousEngine):
    """Every photo is a request of its own, of a network compiled for one photo.

    What is between its layers then stays in a core's cache, and no layer's size is left open (fp32 on two cores: 40
    images/s, where two streams with 8 photos each make 27). The photos of a batch are spread over streams, of which
    each has its share of the threads; an engine opened for one photo at a time has all threads work on that.
    """

    def __init__(self, info, input_shape, class_count, max_batch, threads):
        super().__init__(info, input_shape, class_count, max_batch, threads)
        self._compiled: typing.Any = None
        # The free ones. A request that is not collected yet keeps its answer, and is not among them.
        self._requests: typing.Deque[typing.Any] = collections.deque()
        self._lock = threading.Lock()  # guards the two above

    def _open(self):
        openvino = require("openvino")
        core = openvino.Core()
        model, weights = (checked_path(self.info.path, name, self.info.files) for name in FILES)
        model = core.read_model(model, weights)  # by name: the weights are mapped, not copied
        model.reshape([1, *self.input_shape])
        self.slots = 1 if self.max_batch == 1 else 2  # the second is at hand when the first is done
        settings = {
            "NUM_STREAMS": 1 if self.max_batch == 1 else min(self.threads, _MAX_STREAMS),
            "INFERENCE_PRECISION_HINT": _HINTS[self.info.precision],
            "INFERENCE_NUM_THREADS": self.threads,
        }
        self._compiled = core.compile_model(model, "CPU", settings)
        self._release(self._acquire(self.slots * self.max_batch))

    def _submit(self, batch):
        requests = self._acquire(len(batch))
        started: typing.List[typing.Any] = []
        try:
            for number, request in enumerate(requests):
                request.start_async([batch[number : number + 1]], share_inputs=True)
                started.append(request)
        except BaseException:
            _wait_for_all(started)
            self._release(requests)
            raise
        return requests, batch  # whose memory is read until the requests are done

    def _collect(self, started):
        requests, _ = started
        try:
            for request in requests:
                request.wait()
            return np.concatenate([np.array(request.get_output_tensor(0).data, np.float32) for request in requests])
        except BaseException:
            _wait_for_all(requests)
            raise
        finally:
            self._release(requests)

    def _close(self):
        with self._lock:  # what is on its way keeps the compiled network until it is collected
            self._compiled = None
            self._requests.clear()

    def _acquire(self, count):
        """Returns free requests, new ones where there are too few: they cost little."""
        with self._lock:
            while len(self._requests) < count:
                self._requests.append(self._compiled.create_infer_request())
            return [self._requests.popleft() for _ in range(count)]

    def _release(self, requests):
        with self._lock:
            if self._compiled is not None:
                self._requests.extend(requests)


def _wait_for_all(requests):
    """Waits for all, also if some fail: only then may they, and their photos' memory, be used again."""
    for request in requests:
        with contextlib.suppress(Exception):
            request.wait()


create = OpenVinoEngine
