"""OpenVINO on the CPU: the IR that the converter saved, in fp32, int8 or, where the CPU computes it, bf16."""

import os
import typing

import numpy as np

from edge_runtime.engines.base import Engine
from edge_runtime.requirements import require

IR_MODEL = "model.xml"
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # int8: of the few layers that are not quantized


class OpenVinoEngine(Engine):
    _request: typing.Any = None

    def _open(self):
        openvino = require("openvino")
        model = openvino.Core().read_model(os.path.join(self.info.path, IR_MODEL))
        settings = {
            "PERFORMANCE_HINT": "LATENCY",  # one call at a time, on all threads
            "INFERENCE_PRECISION_HINT": _HINTS[self.info.precision],
            "INFERENCE_NUM_THREADS": self.threads,
        }
        self._request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    def _infer(self, batch):
        self._request.infer([batch], share_inputs=True)
        return np.array(self._request.get_output_tensor(0).data, dtype=np.float32)

    def _close(self):
        self._request = None


create = OpenVinoEngine
