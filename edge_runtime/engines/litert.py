"""LiteRT (TensorFlow Lite) on the CPU: the model that the converter saved, in fp32 or int8, on x86-64 and Arm."""

import threading
import typing

import numpy as np

from edge_runtime.bundle.checksums import checked_bytes
from edge_runtime.engines.base import Engine
from edge_runtime.machine.libraries import require

MODEL = "model.tflite"
FILES = (MODEL,)  # that an engine opens


class LiteRtEngine(Engine):
    """One photo at a time, by all threads: its kernels gain nothing from a batch, whose memory they would take.

    The interpreter has one place for the photo and one for the answer, so that users take turns, photo by photo.
    """

    _interpreter: typing.Any = None

    def __init__(self, info, input_shape, class_count, max_batch, threads):
        super().__init__(info, input_shape, class_count, max_batch, threads)
        self._lock = threading.Lock()

    def _open(self):
        litert = require("ai_edge_litert.interpreter")
        model = checked_bytes(self.info.path, MODEL, self.info.files)
        interpreter = litert.Interpreter(model_content=model, num_threads=self.threads)
        interpreter.allocate_tensors()  # for one photo, the size that the model was saved with
        self._input, self._output = (
            details[0]["index"] for details in (interpreter.get_input_details(), interpreter.get_output_details())
        )
        self._interpreter = interpreter

    def _infer(self, batch):
        answers = []
        for picture in batch:
            with self._lock:
                interpreter = self._interpreter
                interpreter.set_tensor(self._input, picture[None])
                interpreter.invoke()
                answers.append(interpreter.get_tensor(self._output))
        return np.concatenate(answers)

    def _close(self):
        with self._lock:
            self._interpreter = None


create = LiteRtEngine
