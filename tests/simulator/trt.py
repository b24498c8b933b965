"""The module tensorrt on the simulated GPU. What each version has comes from tensorrt_api.json, see api.py.

Log texts are those quoted in public issues for the version, or for one near it.
"""

import time

import numpy as np

from tests.simulator import trt_build, trt_run
from tests.simulator.api import Native, at_least, enumeration, integer, make, members
from tests.simulator.trt_common import NUMPY, volume

_ALIASES = {"float32": "FLOAT", "float16": "HALF", "int8": "INT8", "int32": "INT32", "bool": "BOOL", "uint8": "UINT8"}
_ALIASES.update(fp8="FP8", bfloat16="BF16", int64="INT64", int4="INT4")
_SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")

_LISTED = ("BuilderFlag", "MemoryPoolType", "ProfilingVerbosity", "LayerInformationFormat", "DataType", "TensorIOMode")
_LISTED += ("NetworkDefinitionCreationFlag",)
_UNLISTED = {
    "TensorFormat": ("LINEAR",),
    "TensorLocation": ("DEVICE", "HOST"),
    "CalibrationAlgoType": ("LEGACY_CALIBRATION", "ENTROPY_CALIBRATION", "ENTROPY_CALIBRATION_2", "MINMAX_CALIBRATION"),
}


def build(simulator):
    """Fills simulator.tensorrt, an empty module."""
    module, version = simulator.tensorrt, simulator.version
    module.__version__ = simulator.full_version
    for name in _LISTED:
        _enumerate(module, name, members(name, version))
    for name, constants in _UNLISTED.items():
        _enumerate(module, name, constants)
    if at_least(version, "10.0.1"):
        _enumerate(module, "ExecutionContextAllocationStrategy", ("STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"))
    for alias, name in _ALIASES.items():
        if hasattr(module.DataType, name):
            setattr(module, alias, getattr(module.DataType, name))
    module.DataType.itemsize = property(lambda self: np.dtype(NUMPY[self.name]).itemsize)
    for written in [ILogger, Dims, IHostMemory] + trt_build.CLASSES + trt_run.CLASSES:
        if members(written.__name__, version) != []:  # None: not listed
            setattr(module, written.__name__, make(simulator, written))
    simulator.severity = enumeration("Severity", {name: number for number, name in enumerate(_SEVERITIES)})
    module.Logger = type("Logger", (_Logger, module.ILogger), {"__module__": "tensorrt"})
    for owner in (module.ILogger, module.Logger):
        owner.Severity = simulator.severity
        for name in _SEVERITIES:
            setattr(owner, name, getattr(simulator.severity, name))
    module.volume, module.nptype = volume, _nptype(simulator)
    module.init_libnvinfer_plugins = lambda logger, namespace: True
    module.get_nv_onnx_parser_version = lambda: int(version.split(".")[0])


def _enumerate(module, name, constants):
    if constants:
        values = {constant: number for number, constant in enumerate(constants)}
        setattr(module, name, enumeration(name, values))


def _nptype(simulator):
    def nptype(trt_type):
        numpy_version = tuple(int(part) for part in np.__version__.split(".")[:2])
        if numpy_version >= (1, 24) and not at_least(simulator.version, "8.6.1"):
            # These versions name numpy.bool in every call. numpy 2 has that name again, which the board will not have.
            raise AttributeError("module 'numpy' has no attribute 'bool'.")
        if trt_type.name not in NUMPY:
            raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
        return np.dtype(NUMPY[trt_type.name]).type

    return nptype


class ILogger(Native):
    def __init__(self):
        self._ready = True

    _ready = False

    def __setattr__(self, name, value):  # Python subclasses may hold what they like
        object.__setattr__(self, name, value)

    def log(self, severity, msg):
        raise RuntimeError('Tried to call pure virtual function "nvinfer1::ILogger::log"')


class _Logger:
    """trt.Logger: prints to stdout."""

    min_severity = None

    def __init__(self, min_severity=None):
        severities = type(self).Severity
        if not isinstance(min_severity, (severities, type(None))):
            raise TypeError("Logger(): incompatible constructor arguments")
        self._ready = True
        self.min_severity = min_severity or severities.WARNING

    def log(self, severity, msg):
        if severity.value <= self.min_severity.value:
            print("%s [TRT] [%s] %s" % (time.strftime("[%m/%d/%Y-%H:%M:%S]"), "FEWIV"[severity.value], msg))


class Dims(Native):
    MAX_DIMS = 8

    def __init__(self, shape=()):
        if isinstance(shape, (str, bytes)) or not hasattr(shape, "__iter__"):
            raise TypeError("expected Dims, got %s" % type(shape).__name__)
        self._shape = [integer(size) for size in shape]

    def __len__(self):
        return len(self._shape)

    def __getitem__(self, index):
        return tuple(self._shape[index]) if isinstance(index, slice) else self._shape[index]

    def __setitem__(self, index, value):
        self._shape[index] = value

    def __iter__(self):
        return iter(self._shape)

    def __eq__(self, other):
        return isinstance(other, (type(self), tuple, list)) and list(other) == self._shape

    __hash__ = None  # type: ignore

    def __str__(self):
        return "(%s)" % ", ".join(map(str, self._shape))

    __repr__ = __str__


class _HostMemory(bytes):
    """Holds the bytes of an IHostMemory: Python classes can have a buffer in no other way."""


class IHostMemory(_HostMemory):
    """Only a buffer with nbytes and dtype: f.write() and bytes() take it, len() and indexing do not."""

    _simulator = None  # type: ignore

    @property
    def nbytes(self):
        return memoryview(self).nbytes

    @property
    def dtype(self):
        return self._simulator.tensorrt.DataType.INT8

    def __bool__(self):
        return True

    def _not_there(self, *_):
        raise TypeError("'tensorrt.IHostMemory' object has no such operation")

    __len__ = __getitem__ = __iter__ = __contains__ = __add__ = __eq__ = _not_there
    __hash__ = None  # type: ignore
