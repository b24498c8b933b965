"""The first half of the simulated tensorrt: from an ONNX file to a plan."""

import os
import signal
import sys
import threading
import time
import weakref

from tests.simulator import graph
from tests.simulator.api import (
    Native,
    address,
    addresses,
    at_least,
    attribute,
    boolean,
    buffer,
    enumeration,
    integer,
    optional,
    takes,
    text,
)
from tests.simulator.gpu import IllegalAddressError
from tests.simulator.trt_common import NUMPY, Logging, has_int8, load, volume
from tests.simulator.trt_run import deserialize

_LEAST_WORKSPACE_BYTES = 1 << 20  # with less, the simulated builder finds no implementation
_AMPLE_WORKSPACE_BYTES = 64 << 20  # with less, it grumbles

# Up to which opset the parser goes. The real one has no such check and fails per operator, or parses wrongly.
_OPSETS = (("8.2.1", 13), ("8.4", 17), ("10.0.1", 20), ("10.13.0", 24))

# Operators marked N in onnx-tensorrt's docs/operators.md: of every version, and of 8.x besides.
_UNSUPPORTED = "BitShift ConvInteger Det DynamicQuantizeLinear MatMulInteger Multinomial QLinearConv QLinearMatMul "
_UNSUPPORTED += "SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength "
_UNSUPPORTED += "SplitToSequence ConcatFromSequence StringNormalizer TfIdfVectorizer Unique"
_UNSUPPORTED_8 = "Compress Hardmax IsInf MaxRoiPool MaxUnpool MeanVarianceNormalization Mod NegativeLogLikelihoodLoss "
_UNSUPPORTED_8 += "NonZero OneHot RandomNormal RandomNormalLike Reciprocal RoiAlign Shrink SoftmaxCrossEntropyLoss"


class ITensor(Native):
    """A network's input or output."""

    def __init__(self, binding, dtype):
        self._binding, self._dtype = binding, dtype

    @property
    def name(self):
        return self._binding.name

    @property
    def shape(self):
        return self._simulator.tensorrt.Dims([s if isinstance(s, int) else -1 for s in self._binding.shape])

    dtype = attribute("_dtype", "DataType")

    @property
    def is_network_input(self):
        return self._binding.is_input

    @property
    def is_network_output(self):
        return not self._binding.is_input


class ILayer(Native):
    def __init__(self, node):
        self._node = node

    @property
    def name(self):
        return self._node.name


class INetworkDefinition(Native):
    def __init__(self, flags):
        self._flags = flags
        self._model = self._data = None
        self._tensors = []
        self._name = "Unnamed Network 0"

    def _of(self, is_input, index):
        return [tensor for tensor in self._tensors if tensor._binding.is_input == is_input][index]

    @property
    def _explicit_batch(self):
        return at_least(self._simulator.version, "10.0.1") or bool(self._flags & 1)

    @property
    def _strongly_typed(self):
        flags = self._simulator.tensorrt.NetworkDefinitionCreationFlag
        if at_least(self._simulator.version, "11.0"):
            return True
        return at_least(self._simulator.version, "10.0.1") and bool(self._flags >> int(flags.STRONGLY_TYPED) & 1)

    @property
    def num_inputs(self):
        return sum(tensor._binding.is_input for tensor in self._tensors)

    @property
    def num_outputs(self):
        return len(self._tensors) - self.num_inputs

    @property
    def num_layers(self):
        return len(self._model.graph.node) if self._model else 0

    @takes(index=integer)
    def get_input(self, index):
        return self._of(True, index) if 0 <= index < self.num_inputs else None

    @takes(index=integer)
    def get_output(self, index):
        return self._of(False, index) if 0 <= index < self.num_outputs else None

    @takes(index=integer)
    def get_layer(self, index):
        known = 0 <= index < self.num_layers
        return self._simulator.tensorrt.ILayer(self._model.graph.node[index]) if known else None

    @property
    def has_implicit_batch_dimension(self):
        return not self._explicit_batch

    name = attribute("_name", text)


class ParserError(Native):
    def __init__(
        self, code, desc, node=-1, func="parseGraph", node_name="", node_operator="", file="ModelImporter.cpp"
    ):
        self._values = locals()

    def __str__(self):
        return "In node %d (%s): %s: %s" % (self.node(), self.func(), self.code().name, self.desc())

    __repr__ = __str__

    def line(self):
        return 0

    def local_function_stack(self):
        return []

    for _name in ("code", "desc", "node", "func", "node_name", "node_operator", "file"):
        locals()[_name] = lambda self, name=_name: self._values[name]
    del _name


_PARSER_CODES = ("SUCCESS", "INTERNAL_ERROR", "MEM_ALLOC_FAILED", "MODEL_DESERIALIZE_FAILED", "INVALID_VALUE")
_PARSER_CODES += ("INVALID_GRAPH", "INVALID_NODE", "UNSUPPORTED_GRAPH", "UNSUPPORTED_NODE")
_CODES = enumeration("ErrorCode", {name: number for number, name in enumerate(_PARSER_CODES)})
_IMPLICIT_BATCH = (
    "This version of the ONNX parser only supports TensorRT INetworkDefinitions with an explicit batch dimension. "
    "Please ensure the network was created using the EXPLICIT_BATCH NetworkDefinitionCreationFlag."
)


class OnnxParser(Logging):
    @takes(network="INetworkDefinition", logger="ILogger")
    def __init__(self, network, logger):
        self._use_logger(logger)
        self._network = network
        self._errors = []

    @takes(model=buffer, path=optional(text))
    def parse(self, model, path=None):
        error = self._import(model)
        if error is None:
            return True
        self._errors.append(self._simulator.tensorrt.ParserError(*error))
        self._log("ERROR", str(self._errors[-1]))
        return False

    @takes(model=text)
    def parse_from_file(self, model):
        try:
            with open(model, "rb") as file:
                data = file.read()
            load(data)
        except Exception:
            self._log("ERROR", "Failed to parse ONNX model from file: %s" % model)
            return False
        return self.parse(data)

    def _import(self, data):
        """Fills the network; returns the arguments of a ParserError, or None."""
        simulator = self._simulator
        if simulator.settings["fail_parse"]:
            return _CODES.UNSUPPORTED_NODE, simulator.settings["fail_parse"], 0
        if not self._network._explicit_batch:
            return _CODES.INVALID_VALUE, _IMPLICIT_BATCH, -1, "importModel"
        try:
            model = load(data)
        except Exception:
            return _CODES.MODEL_DESERIALIZE_FAILED, "Failed to parse the ONNX model.", -1, "parse"
        opset = max([known.version for known in model.opset_import if known.domain in ("", "ai.onnx")] or [1])
        newest = [limit for since, limit in _OPSETS if at_least(simulator.version, since)][-1]
        if opset < 7:
            self._log("WARNING", "TensorRT supports ONNX graphs generated with at least opset 7.")
        if opset > newest:
            desc = "the simulator refuses opset %d: this version supports operators up to Opset %d" % (opset, newest)
            return _CODES.UNSUPPORTED_NODE, desc
        tensors = []
        for binding in graph.bindings_of(model):
            dtype = self._dtype(binding.onnx_dtype)
            if dtype is None:
                print("Unsupported ONNX data type: %s" % binding.onnx_dtype.upper(), file=sys.stderr)
                desc = "Failed to convert ONNX date type to TensorRT data type."
                return _CODES.UNSUPPORTED_NODE, desc, -1, "importInputs", "", "", binding.name
            tensors.append(simulator.tensorrt.ITensor(binding, dtype))
        for number, node in enumerate(model.graph.node):
            if node.domain not in ("", "ai.onnx") or not self.supports_operator(node.op_type):
                self._log("INFO", "No importer registered for op: %s. Attempting to import as plugin." % node.op_type)
                desc = "Plugin not found, are the plugin name, version, and namespace correct?"
                return _CODES.UNSUPPORTED_NODE, desc, number, "importFallbackPluginImporter", node.name, node.op_type
            if node.op_type == "Cast" and self._dtype(graph.cast_to(node)) is None:
                desc = "Unsupported cast!"
                return _CODES.UNSUPPORTED_NODE, desc, number, "importCast", node.name, node.op_type
        if any(weight.data_type == 7 for weight in model.graph.initializer) and not at_least(
            simulator.version, "10.0.1"
        ):
            self._log(
                "WARNING",
                "Your ONNX model has been generated with INT64 weights, while TensorRT does not natively support "
                "INT64. Attempting to cast down to INT32.",
            )
        self._network._model, self._network._data, self._network._tensors = model, data, tensors
        return None

    def _dtype(self, numpy_name):
        """Returns the DataType for an ONNX type, None if this version has none."""
        known = self._simulator.tensorrt.DataType
        if numpy_name == "int64" and not hasattr(known, "INT64"):
            numpy_name = "int32"
        names = {dtype: name for name, dtype in NUMPY.items()}
        return getattr(known, names.get(numpy_name, ""), None)

    @property
    def num_errors(self):
        return len(self._errors)

    @takes(index=integer)
    def get_error(self, index):
        return self._errors[index]

    def clear_errors(self):
        del self._errors[:]

    @takes(op_name=text)
    def supports_operator(self, op_name):
        old = not at_least(self._simulator.version, "10.0.1")
        return op_name not in (_UNSUPPORTED.split() + old * _UNSUPPORTED_8.split())


class IOptimizationProfile(Native):
    def __init__(self):
        self._shapes = {}

    @takes(input=text, min="Dims", opt="Dims", max="Dims")
    def set_shape(self, input, min, opt, max):  # noqa: A002
        shapes = [list(min), list(opt), list(max)]
        if len({len(shape) for shape in shapes}) != 1 or any(
            not 0 <= low <= best <= high for low, best, high in zip(*shapes)
        ):
            raise RuntimeError("Shape provided for min is inconsistent with other shapes.")
        self._shapes[input] = shapes

    @takes(input=text)
    def get_shape(self, input):  # noqa: A002
        return [self._simulator.tensorrt.Dims(shape) for shape in self._shapes.get(input, [])]

    def __bool__(self):
        return bool(self._shapes)


class ITimingCache(Native):
    def __init__(self, entries, stamp):
        self._entries, self._stamp = entries, stamp

    def serialize(self):
        data = graph.write_plan({"stamp": self._stamp, "entries": sorted(self._entries)}, b"")
        return self._simulator.tensorrt.IHostMemory(data)

    @takes(input_cache="ITimingCache", ignore_mismatch=boolean)
    def combine(self, input_cache, ignore_mismatch):
        if input_cache._stamp != self._stamp and not ignore_mismatch:
            return False
        self._entries |= input_cache._entries
        return True

    def reset(self):
        self._entries.clear()
        return True


class IBuilderConfig(Native):
    def __init__(self):
        self._flags = 1 << int(self._simulator.tensorrt.BuilderFlag.TF32)
        self._max_workspace_size = 0
        self._pools = {}
        self._profiles = []
        self._cache = None
        self._calibrator = None
        self._verbosity = self._simulator.tensorrt.ProfilingVerbosity.LAYER_NAMES_ONLY
        self._level, self._iterations = 3, 1

    @property
    def _workspace_bytes(self):
        simulator = self._simulator
        if not at_least(simulator.version, "8.4"):
            return self._max_workspace_size
        if "WORKSPACE" in self._pools:
            return self._pools["WORKSPACE"]
        return self._max_workspace_size or simulator.settings["total_memory_bytes"]

    @property
    def max_workspace_size(self):
        return self._workspace_bytes

    @max_workspace_size.setter
    @takes(value=address)
    def max_workspace_size(self, value):
        self._max_workspace_size = value

    @takes(pool="MemoryPoolType", pool_size=address)
    def set_memory_pool_limit(self, pool, pool_size):
        self._pools[pool.name] = pool_size

    @takes(pool="MemoryPoolType")
    def get_memory_pool_limit(self, pool):
        return self._workspace_bytes if pool.name == "WORKSPACE" else self._pools.get(pool.name, 0)

    @takes(flag="BuilderFlag")
    def set_flag(self, flag):
        self._flags |= 1 << int(flag)

    @takes(flag="BuilderFlag")
    def clear_flag(self, flag):
        self._flags &= ~(1 << int(flag))

    @takes(flag="BuilderFlag")
    def get_flag(self, flag):
        return bool(self._flags >> int(flag) & 1)

    flags = attribute("_flags", integer)

    def _has(self, name):
        flag = getattr(self._simulator.tensorrt.BuilderFlag, name, None)
        return flag is not None and self.get_flag(flag)

    @takes(profile="IOptimizationProfile")
    def add_optimization_profile(self, profile):
        if not profile:
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @property
    def num_optimization_profiles(self):
        return len(self._profiles)

    @takes(serialized_timing_cache=buffer)
    def create_timing_cache(self, serialized_timing_cache):
        stamp, entries = self._simulator.stamp(), set()
        if serialized_timing_cache:
            try:
                header, _ = graph.read_plan(serialized_timing_cache)
                stamp, entries = header["stamp"], set(header["entries"])
            except (ValueError, KeyError):
                stamp = "garbled"
        return self._simulator.tensorrt.ITimingCache(entries, stamp)

    @takes(cache="ITimingCache", ignore_mismatch=boolean)
    def set_timing_cache(self, cache, ignore_mismatch):
        if cache._stamp != self._simulator.stamp() and not ignore_mismatch:
            return False
        self._cache = weakref.ref(cache)  # the caller keeps it
        return True

    def get_timing_cache(self):
        return self._cache() if self._cache else None

    int8_calibrator = attribute("_calibrator", "IInt8EntropyCalibrator2")

    profiling_verbosity = attribute("_verbosity", "ProfilingVerbosity")

    builder_optimization_level = attribute("_level", integer)

    avg_timing_iterations = attribute("_iterations", integer)


class IInt8EntropyCalibrator2(Native):
    """Subclasses call __init__ and give batches as device addresses."""

    _ready = False

    def __init__(self):
        self._ready = True

    def __setattr__(self, name, value):
        object.__setattr__(self, name, value)

    def get_batch_size(self):
        raise RuntimeError('Tried to call pure virtual function "IInt8EntropyCalibrator2::get_batch_size"')

    def get_batch(self, names):
        raise RuntimeError('Tried to call pure virtual function "IInt8EntropyCalibrator2::get_batch"')

    def read_calibration_cache(self):
        raise RuntimeError('Tried to call pure virtual function "IInt8EntropyCalibrator2::read_calibration_cache"')

    def write_calibration_cache(self, cache):
        raise RuntimeError('Tried to call pure virtual function "IInt8EntropyCalibrator2::write_calibration_cache"')

    def get_algorithm(self):
        return self._simulator.tensorrt.CalibrationAlgoType.ENTROPY_CALIBRATION_2


class _BuildError(Exception):
    """(code, place, text) of an error that the builder logs."""


class Builder(Logging):
    @takes(logger="ILogger")
    def __init__(self, logger):
        self._use_logger(logger, needs_gpu=True)

    @takes(flags=integer)
    def create_network(self, flags=0):
        return self._simulator.tensorrt.INetworkDefinition(flags)

    def create_builder_config(self):
        return self._simulator.tensorrt.IBuilderConfig()

    def create_optimization_profile(self):
        return self._simulator.tensorrt.IOptimizationProfile()

    @property
    def platform_has_fast_fp16(self):
        return tuple(self._simulator.settings["compute_capability"]) != (6, 1)

    @property
    def platform_has_fast_int8(self):
        return has_int8(self._simulator)

    @property
    def platform_has_tf32(self):
        return tuple(self._simulator.settings["compute_capability"]) >= (8, 0)

    @property
    def logger(self):
        return self._logger()

    @takes(network="INetworkDefinition", config="IBuilderConfig")
    def is_network_supported(self, network, config):
        return True

    @takes(network="INetworkDefinition", config="IBuilderConfig")
    def build_serialized_network(self, network, config):
        plan = self._build(network, config)
        return None if plan is None else self._simulator.tensorrt.IHostMemory(plan)

    @takes(network="INetworkDefinition", config="IBuilderConfig")
    def build_engine(self, network, config):
        plan = self._build(network, config)
        return None if plan is None else deserialize(self._simulator, self._log, plan, self)

    build_engine_with_config = build_engine

    def _build(self, network, config):
        simulator = self._simulator
        try:
            profile = self._check(network, config)
            self._work(network, config)
            precision = self._precision(network, config, profile)
        except _BuildError as error:
            code, place, message = error.args
            self._log("ERROR", "%d: [%s] Error Code %d: Internal Error (%s)" % (code, place, code, message))
            self._log(
                "ERROR",
                "2: [builder.cpp::buildSerializedNetwork::609] Error Code 2: Internal Error "
                "(Assertion enginePtr != nullptr failed. )",
            )
            return None
        header = {
            "version": simulator.full_version,
            "compute_capability": list(simulator.settings["compute_capability"]),
            "device_name": simulator.settings["device_name"],
            "precision": precision,
            "tf32": config._has("TF32"),
            "profile": profile,
            "name": network.name,
            "dtypes": {tensor.name: tensor.dtype.name for tensor in network._tensors},
        }
        return graph.write_plan(header, network._data)

    def _check(self, network, config):
        """Returns the profile's {input: [min, opt, max]}. Raises _BuildError."""
        simulator = self._simulator
        if not network.num_outputs:
            raise _BuildError(4, "network.cpp::validate::2633", "Network must have at least one output")
        profile = config._profiles[0]._shapes if config._profiles else {}
        dynamic = [tensor for tensor in network._tensors if tensor._binding.is_input and -1 in list(tensor.shape)]
        if dynamic and not config._profiles:
            raise _BuildError(
                4,
                "network.cpp::validate::2919",
                "Network has dynamic or shape inputs, but no optimization profile has been defined.",
            )
        if len(config._profiles) > 1:
            raise NotImplementedError("the simulator models one optimization profile")
        for tensor in dynamic:
            shapes = profile.get(tensor.name)
            if shapes is None:
                message = "%s: optimization profile is missing values for shape input" % tensor.name
                raise _BuildError(4, "network.cpp::validate::2984", message)
            if any(
                len(shape) != len(tensor.shape)
                or any(fixed not in (-1, size) for fixed, size in zip(tensor.shape, shape))
                for shape in shapes
            ):
                message = "%s: for dimension number 0 in profile 0 does not match network definition" % tensor.name
                raise _BuildError(4, "network.cpp::validate::2991", message)
        unknown = set(profile) - {tensor.name for tensor in network._tensors}
        if unknown:
            raise _BuildError(4, "network.cpp::validate::2984", "the profile names no input: %s" % sorted(unknown))
        if config._has("VERSION_COMPATIBLE"):
            raise NotImplementedError("the simulator does not model VERSION_COMPATIBLE")
        if network._strongly_typed and any(map(config._has, ("FP16", "INT8", "BF16"))):
            raise _BuildError(
                3, "builder.cpp::buildSerializedNetwork::700", "precision flags in a strongly typed network"
            )
        if simulator.settings["fail_build"]:
            raise _BuildError(10, "optimizer.cpp::computeCosts::2011", simulator.settings["fail_build"])
        return profile

    def _work(self, network, config):
        """Spends the time of a build, as the settings say. Raises _BuildError for want of memory."""
        simulator, settings = self._simulator, self._simulator.settings
        layer = network._model.graph.node[0].name or network._model.graph.node[0].op_type
        cache = config.get_timing_cache()
        if config._cache is not None and cache is None:
            simulator.gpu.problem("the timing cache was gone before the build ended")
        if cache is None:
            self._log(
                "INFO",
                "Local timing cache in use. Profiling results in this builder pass will not be stored.",
            )
        elif cache._stamp != simulator.stamp():
            self._log("WARNING", "Detected invalid timing cache, setup a local cache instead")
        lines = list(settings["progress"]) or [None]
        for line in lines:
            if line is not None:  # the builder may log from any thread
                teller = threading.Thread(target=self._log, args=("VERBOSE", line))
                teller.start()
                teller.join()
            time.sleep(settings["build_s"] / len(lines))
        if settings["kill_in_build"]:
            if os.getpid() == settings["pid"]:
                raise AssertionError("kill_in_build: the build runs in the test's own process")
            os.kill(os.getpid(), signal.SIGKILL)
        workspace_bytes = config._workspace_bytes
        if workspace_bytes < _LEAST_WORKSPACE_BYTES:
            message = "Could not find any implementation for node %s." % layer
            raise _BuildError(10, "optimizer.cpp::computeCosts::2011", message)
        if workspace_bytes < _AMPLE_WORKSPACE_BYTES:
            self._log(
                "INFO",
                "Some tactics do not have sufficient workspace memory to run. Increasing workspace size may increase "
                "performance, please check verbose output.",
            )
        needed_bytes = 3 * len(network._data)
        if needed_bytes > simulator.gpu.free_bytes():
            self._log(
                "ERROR",
                "Requested amount of memory (%d bytes) could not be allocated. There may not be enough free memory for "
                "allocation to succeed." % needed_bytes,
            )
            message = "Could not find any implementation for node %s." % layer
            raise _BuildError(10, "optimizer.cpp::computeCosts::2011", message)
        if cache is not None and cache._stamp == simulator.stamp():
            cache._entries.update(node.op_type for node in network._model.graph.node)

    def _precision(self, network, config, profile):
        """Returns "fp32", "fp16" or "int8"; calibrates. Raises _BuildError."""
        if config._has("INT8"):
            if not has_int8(self._simulator):
                message = "Int8 precision has been set for a layer or layer output, but int8 is not supported here"
                raise _BuildError(4, "network.cpp::validate::2768", message)
            if config._calibrator is None:
                message = "Calibration failure occurred with no scaling factors detected."
                raise _BuildError(4, "standardEngineBuilder.cpp::initCalibrationParams::1402", message)
            self._calibrate(network, config._calibrator, profile)
            return "int8"
        return "fp16" if config._has("FP16") else "fp32"

    def _calibrate(self, network, calibrator, profile):
        if calibrator.read_calibration_cache():
            return
        inputs = [tensor for tensor in network._tensors if tensor._binding.is_input]
        names, batches = [tensor.name for tensor in inputs], 0
        size = calibrator.get_batch_size()
        while True:
            pointers = calibrator.get_batch(names)
            if not pointers:
                break
            batches += 1
            for tensor, pointer in zip(inputs, addresses(list(pointers))):
                shape = [size if dim == -1 else dim for dim in tensor.shape]
                try:
                    self._simulator.gpu.at(pointer, volume(shape) * tensor.dtype.itemsize, "calibration")
                except IllegalAddressError:
                    raise _BuildError(1, "calibrator.cpp::calibrateEngine::1160", "illegal memory access")
        if not batches:
            message = "Calibration failure occurred with no scaling factors detected."
            raise _BuildError(4, "standardEngineBuilder.cpp::initCalibrationParams::1402", message)
        calibrator.write_calibration_cache(memoryview(b"TRT-CalibrationTable %d batches" % batches))


CLASSES = [ITensor, ILayer, INetworkDefinition, ParserError, OnnxParser, IOptimizationProfile, ITimingCache]
CLASSES += [IBuilderConfig, IInt8EntropyCalibrator2, Builder]
