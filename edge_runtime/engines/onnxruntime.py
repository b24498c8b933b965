"""ONNX Runtime on the CPU: the bundle's model.onnx, or the optimized graph that the converter saved."""

import os
import typing

from edge_runtime.bundle.checksums import checked_bytes
from edge_runtime.bundle.manifest import INPUT_NAME, OUTPUT_NAME
from edge_runtime.engines.base import Engine
from edge_runtime.machine.libraries import require

OPTIMIZED_MODEL = "model.onnx"
FILES = (OPTIMIZED_MODEL,)  # that a converted engine opens


def session(path, threads, optimize, save_as=None):
    """Opens a CPU session.

    Args:
        path: .onnx file, or the bytes of one.
        threads: per call.
        optimize: rewrite the graph for this CPU first; False for one that was saved optimized.
        save_as: where to save the rewritten graph.

    Returns:
        an onnxruntime.InferenceSession.
    """
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: a saved optimized graph warns that it is bound to this machine
    # Waiting threads that spin take the cores from the threads that decode the next photos.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")  # instead of guessing by the first bytes
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    if save_as:
        options.optimized_model_filepath = save_as
    result = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    result._model_bytes = None  # it keeps them for a change of provider: as large as the model
    return result


class OnnxRuntimeEngine(Engine):
    _session: typing.Any = None

    def _open(self):
        converted = self.info.record is not None
        folder, name = (self.info.path, OPTIMIZED_MODEL) if converted else os.path.split(self.info.path)
        model = checked_bytes(folder, name, self.info.files)
        self._session = session(model, self.threads, optimize=not converted)

    def _infer(self, batch):
        return self._session.run([OUTPUT_NAME], {INPUT_NAME: batch})[0]

    def _close(self):
        self._session = None


create = OnnxRuntimeEngine
