"""OpenVINO on the CPU: the IR that the converter saved, in fp32, int8 or, where the CPU computes it, bf16."""

import contextlib
import os
import typing

import numpy as np

from edge_runtime.engines.base import Engine
from edge_runtime.requirements import require

IR_MODEL = "model.xml"
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # int8: of the few layers that are not quantized
_MOST_STREAMS = 4  # each has its own memory for what is between the layers


class OpenVinoEngine(Engine):
    """For one photo at a time all threads work on it together; for batches the threads are shared among streams, of
    which each runs a batch of its own, so that no thread waits for another at every layer."""

    def __init__(self, info, class_count, max_batch, threads):
        super().__init__(info, class_count, max_batch, threads)
        self._requests: typing.List[typing.Any] = []  # one per stream, used in turn
        self._turn = 0

    def _open(self):
        openvino = require("openvino")
        model = openvino.Core().read_model(os.path.join(self.info.path, IR_MODEL))
        self.slots = 1 if self.max_batch == 1 else min(self.threads, _MOST_STREAMS)
        settings = {
            "NUM_STREAMS": self.slots,
            "INFERENCE_PRECISION_HINT": _HINTS[self.info.precision],
            "INFERENCE_NUM_THREADS": self.threads,
        }
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        self._requests = [compiled.create_infer_request() for _ in range(self.slots)]

    def _infer(self, batch):
        started = []
        try:
            for part in np.array_split(batch, min(self.slots, len(batch))):
                started.append(self._submit(part))
            return np.concatenate([self._collect(part) for part in started])
        finally:
            for request, _ in started:  # those behind one that failed; the others are done
                with contextlib.suppress(Exception):
                    request.wait()

    def _submit(self, batch):
        request = self._requests[self._turn % self.slots]
        self._turn += 1
        request.start_async([batch], share_inputs=True)
        return request, batch  # whose memory is read until the request is done

    def _collect(self, started):
        request, _ = started
        request.wait()
        return np.array(request.get_output_tensor(0).data, dtype=np.float32)

    def _close(self):
        self._requests = []


create = OpenVinoEngine
