"""OpenVINO on the CPU: the IR that the converter saved, in fp32, int8 or, where the CPU computes it, bf16."""

import collections
import contextlib
import threading
import typing

import numpy as np

from edge_runtime.bundle.checksums import checked_path
from edge_runtime.engines.base import Engine
from edge_runtime.machine.libraries import require
from edge_runtime.photos import spec

IR_MODEL = "model.xml"
FILES = (IR_MODEL, "model.bin")  # what a converted engine opens: OpenVINO takes the weights from beside the model
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # int8: of the few layers that are not quantized
_MOST_STREAMS = 4  # each has its own memory for what is between the layers


class OpenVinoEngine(Engine):
    """Every photo is a request of its own, of a network compiled for one photo.

    What is between its layers then stays in a core's cache, and no layer's size is left open (fp32 on two cores: 40
    images/s, where two streams with 8 photos each make 27). The photos of a batch are spread over streams, of which
    each has its share of the threads; an engine opened for one photo at a time has all threads work on that.
    """

    def __init__(self, info, class_count, max_batch, threads):
        super().__init__(info, class_count, max_batch, threads)
        self._compiled: typing.Any = None
        # Those that are free. A request that is not collected is not here, whoever has it: it keeps its answer.
        self._requests: typing.Deque[typing.Any] = collections.deque()
        self._lock = threading.Lock()  # guards the two above

    def _open(self):
        openvino = require("openvino")
        core = openvino.Core()
        model, weights = (checked_path(self.info.path, name, self.info.files) for name in FILES)
        model = core.read_model(model, weights)  # by name: the weights are mapped, not copied
        model.reshape([1] + spec.INPUT_SPEC["shape"])
        self.slots = 1 if self.max_batch == 1 else 2  # the second is at hand when the first is done
        settings = {
            "NUM_STREAMS": 1 if self.max_batch == 1 else min(self.threads, _MOST_STREAMS),
            "INFERENCE_PRECISION_HINT": _HINTS[self.info.precision],
            "INFERENCE_NUM_THREADS": self.threads,
        }
        self._compiled = core.compile_model(model, "CPU", settings)
        self._give_back(self._take(self.slots * self.max_batch))

    def _infer(self, batch):
        return self._collect(self._submit(batch))

    def _submit(self, batch):
        requests = self._take(len(batch))
        started: typing.List[typing.Any] = []
        try:
            for number, request in enumerate(requests):
                request.start_async([batch[number : number + 1]], share_inputs=True)
                started.append(request)
        except BaseException:
            _settle(started)
            self._give_back(requests)
            raise
        return requests, batch  # whose memory is read until the requests are done

    def _collect(self, started):
        requests, _ = started
        try:
            for request in requests:
                request.wait()
            return np.concatenate([np.array(request.get_output_tensor(0).data, np.float32) for request in requests])
        except BaseException:
            _settle(requests)
            raise
        finally:
            self._give_back(requests)

    def _close(self):
        with self._lock:  # what is on its way keeps the compiled network until it is collected
            self._compiled = None
            self._requests.clear()

    def _take(self, count):
        """Returns free requests. With more users than before there are more of them: they cost little."""
        with self._lock:
            while len(self._requests) < count:
                self._requests.append(self._compiled.create_infer_request())
            return [self._requests.popleft() for _ in range(count)]

    def _give_back(self, requests):
        with self._lock:
            if self._compiled is not None:
                self._requests.extend(requests)


def _settle(requests):
    """Waits for all, also behind one that fails, so that they can be used again and their photos' memory too."""
    for request in requests:
        with contextlib.suppress(Exception):
            request.wait()


create = OpenVinoEngine
