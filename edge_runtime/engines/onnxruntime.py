"""ONNX Runtime on the CPU: the bundle's model.onnx, or the optimized graph that the converter saved."""

import os
import typing

from edge_runtime.bundle import INPUT_NAME, OUTPUT_NAME
from edge_runtime.engines.base import Engine
from edge_runtime.requirements import require

OPTIMIZED_MODEL = "model.onnx"


def session(path, threads, optimize, save_as=None):
    """Opens a CPU session.

    Args:
        path: .onnx file, or the bytes of one.
        threads: per call.
        optimize: rewrite the graph for this CPU first; False for one that was saved optimized.
        save_as: where to save the rewritten graph.
    """
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: a saved optimized graph warns that it is bound to this machine
    # Waiting threads that spin take the cores from the threads that decode the next photos.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    if save_as:
        options.optimized_model_filepath = save_as
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class OnnxRuntimeEngine(Engine):
    _session: typing.Any = None

    def _open(self):
        converted = self.info.record is not None
        path = os.path.join(self.info.path, OPTIMIZED_MODEL) if converted else self.info.path
        self._session = session(path, self.threads, optimize=not converted)

    def _infer(self, batch):
        return self._session.run([OUTPUT_NAME], {INPUT_NAME: batch})[0]

    def _close(self):
        self._session = None


create = OnnxRuntimeEngine
