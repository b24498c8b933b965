"""What the parts of the simulated tensorrt share."""

import weakref

import numpy as np

from tests.simulator.api import Native

NUMPY = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "BOOL": "bool", "UINT8": "uint8"}
NUMPY["INT64"] = "int64"


def volume(iterable):
    return int(np.prod(list(iterable), dtype=np.int64))


class Logging(Native):
    """What is made with a logger: it is not kept alive by it."""

    def _use_logger(self, logger, needs_gpu=False):
        self._logger = weakref.ref(logger)
        if needs_gpu and not self._simulator.gpu.claim():
            self._log("ERROR", "CUDA initialization failure with error: 3")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def _log(self, severity, message):
        log(self._simulator, self._logger(), severity, message)


def log(simulator, logger, severity, message):
    """Tells the logger; what goes wrong there ends the real process."""
    if logger is None:
        simulator.gpu.problem("the logger was gone when TensorRT used it: %s" % message)
        return
    try:
        logger.log(getattr(simulator.severity, severity), message)
    except Exception as error:
        simulator.gpu.problem("log() raised %r, which ends the process" % error)


def has_int8(simulator):
    return tuple(simulator.settings["compute_capability"]) not in ((5, 3), (6, 0), (6, 2))


def load(data):
    """Returns the ONNX model in bytes. Raises for what is none."""
    import onnx

    model = onnx.load_from_string(data)
    if not model.graph.node:
        raise ValueError("no graph")
    return model
