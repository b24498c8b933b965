"""The second half of the simulated tensorrt: from a plan to answers."""

import contextlib
import json
import weakref

import numpy as np

from tests.simulator import graph
from tests.simulator.api import (
    Native,
    address,
    addresses,
    at_least,
    buffer,
    constant,
    index_or_name,
    integer,
    optional,
    resolve,
    takes,
    text,
)
from tests.simulator.gpu import GARBAGE, IllegalAddressError, OutOfMemoryError, caller
from tests.simulator.trt_common import NUMPY, Logging, load, volume


class Runtime(Logging):
    @takes(logger="ILogger")
    def __init__(self, logger):
        self._use_logger(logger, needs_gpu=True)

    @takes(serialized_engine=buffer)
    def deserialize_cuda_engine(self, serialized_engine):
        return deserialize(self._simulator, self._log, serialized_engine, self)

    @property
    def logger(self):
        return self._logger()


def deserialize(simulator, log, plan, keeper):
    """Returns an ICudaEngine, or None after logging why not."""
    version = simulator.version
    failed = "4: [runtime.cpp::deserializeCudaEngine::50] Error Code 4: Internal Error (Engine deserialization failed.)"
    serialization = "1: [%s] Error Code 1: Serialization (Serialization assertion %s)"
    new_archive = at_least(version, "8.6.1")

    def refuse(message):
        log("ERROR", message)
        log("ERROR", failed)

    magic = (
        serialization % ("runtime.cpp::parsePlan::314", "plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.")
        if new_archive
        else serialization
        % ("stdArchiveReader.cpp::StdArchiveReader::30", "magicTagRead == magicTag failed.Magic tag does not match")
    )
    if simulator.settings["fail_deserialize"]:
        return refuse(magic)
    try:
        header, data = graph.read_plan(plan)
    except ValueError:
        return refuse(magic)
    made_by = header["version"]
    if made_by != simulator.full_version:
        new_plan = at_least(resolve(".".join(made_by.split(".")[:2])), "8.6.1")
        if new_plan != new_archive:
            return refuse(magic)
        if new_plan:
            return refuse(
                "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is not "
                "compatible with this version of TensorRT, expecting library version %s got %s, please rebuild.)"
                % (simulator.full_version, made_by)
            )
        return refuse(
            serialization
            % (
                "stdArchiveReader.cpp::StdArchiveReader::35",
                "safeVersionRead == safeSerializationVersion failed.Version tag does not match. Note: Current Version: "
                "0, Serialized Engine Version: 96",
            )
        )
    here, there = tuple(simulator.settings["compute_capability"]), tuple(header["compute_capability"])
    if here != there:
        return refuse(
            "6: The engine plan file is generated on an incompatible device, expecting compute %d.%d got compute "
            "%d.%d, please rebuild." % (here + there)
        )
    if header["device_name"] != simulator.settings["device_name"]:
        log("WARNING", "Using an engine plan file across different models of devices is not recommended.")
    try:
        return simulator.tensorrt.ICudaEngine(header, data, plan, log, keeper)
    except OutOfMemoryError:
        return refuse("2: [runtime.cpp::allocate] Error Code 2: OutOfMemory (no further information)")


class _OnDevice(Native):
    """An engine or an execution context: lives in a CUDA context, which must outlive it."""

    def _settle(self, size_bytes, what):
        gpu = self._simulator.gpu
        self._context = gpu.runtime_context()
        self._where = caller()
        self._memory = gpu.allocate(size_bytes, self._context, what)
        self._context.libraries.add(self)
        gpu.live.add(self)

    def __del__(self):
        memory = getattr(self, "_memory", None)
        if memory is not None:
            gpu = self._simulator.gpu
            with gpu.lock:
                if not memory.freed:
                    gpu.free(memory)
                gpu.forget(memory)


class ICudaEngine(_OnDevice):
    def __init__(self, header, data, plan, log, keeper):
        self._header, self._data, self._plan, self._log = header, data, plan, log
        self._keeper = weakref.ref(keeper)
        self._bindings = graph.bindings_of(load(data))
        self._holder = None  # of the profile: weak reference to an execution context
        self._settle(len(data), "an engine's weights")

    def _profile_is_taken(self):
        return bool(self._header["profile"]) and self._holder is not None and self._holder() is not None

    def _index(self, binding):
        """Returns the index of a binding given by index or name. Raises IndexError."""
        if isinstance(binding, str):
            binding = self._find(binding)
        if not 0 <= binding < len(self._bindings):
            raise IndexError("no binding %d" % binding)
        return binding

    def _find(self, name):
        names = [known.name for known in self._bindings]
        return names.index(name) if name in names else -1

    def _dims(self, shape):
        return self._simulator.tensorrt.Dims([size if isinstance(size, int) else -1 for size in shape])

    def _dtype(self, index):
        return getattr(self._simulator.tensorrt.DataType, self._header["dtypes"][self._bindings[index].name])

    def _io_mode(self, index):
        modes = self._simulator.tensorrt.TensorIOMode
        return modes.INPUT if self._bindings[index].is_input else modes.OUTPUT

    @property
    def num_bindings(self):
        return len(self._bindings)

    def __len__(self):
        return len(self._bindings)

    def __getitem__(self, item):
        if isinstance(item, str):
            if not hasattr(type(self), "__len__"):
                raise TypeError("__getitem__(): incompatible function arguments")
            return self._find(item)
        return self._bindings[self._index(integer(item))].name

    @takes(index=integer)
    def get_binding_name(self, index):
        return self._bindings[self._index(index)].name

    @takes(name=text)
    def get_binding_index(self, name):
        return self._find(name)

    @takes(binding=index_or_name)
    def binding_is_input(self, binding):
        return self._bindings[self._index(binding)].is_input

    @takes(binding=index_or_name)
    def get_binding_shape(self, binding):
        return self._dims(self._bindings[self._index(binding)].shape)

    @takes(binding=index_or_name)
    def get_binding_dtype(self, binding):
        return self._dtype(self._index(binding))

    @takes(profile_index=integer, binding=index_or_name)
    def get_profile_shape(self, profile_index, binding):
        return self._profile_shape(profile_index, self._index(binding))

    def _profile_shape(self, profile_index, index):
        if profile_index != 0:
            raise IndexError("no profile %d" % profile_index)
        binding = self._bindings[index]
        shapes = self._header["profile"].get(binding.name) or [list(binding.shape)] * 3
        return [self._dims(shape) for shape in shapes]

    @property
    def num_io_tensors(self):
        return len(self._bindings)

    @takes(index=integer)
    def get_tensor_name(self, index):
        return self._bindings[self._index(index)].name

    @takes(name=text)
    def get_tensor_mode(self, name):
        known = self._find(name)
        return self._simulator.tensorrt.TensorIOMode.NONE if known < 0 else self._io_mode(known)

    @takes(name=text)
    def get_tensor_shape(self, name):
        return self._dims(self._bindings[self._index(name)].shape)

    @takes(name=text)
    def get_tensor_dtype(self, name):
        return self._dtype(self._index(name))

    @takes(name=text, profile_index=integer)
    def get_tensor_profile_shape(self, name, profile_index):
        return self._profile_shape(profile_index, self._index(name))

    @takes(name=text)
    def get_tensor_location(self, name):
        return self._simulator.tensorrt.TensorLocation.DEVICE

    has_implicit_batch_dimension = constant(False)

    max_batch_size = constant(1)

    @property
    def name(self):
        return self._header["name"]

    @property
    def num_layers(self):
        return len(load(self._data).graph.node)

    num_optimization_profiles = constant(1)

    refittable = constant(False)

    @property
    def device_memory_size(self):
        return self._scratch_bytes

    @property
    def device_memory_size_v2(self):
        return self._scratch_bytes

    @property
    def _scratch_bytes(self):
        largest = [max_shape for _, _, max_shape in self._header["profile"].values()] or [[1]]
        return 8 * max(volume(shape) for shape in largest)

    def serialize(self):
        return self._simulator.tensorrt.IHostMemory(self._plan)

    def create_execution_context(self, *strategy, **strategy_by_name):
        given = strategy + tuple(strategy_by_name.values())
        strategies = getattr(self._simulator.tensorrt, "ExecutionContextAllocationStrategy", None)
        if len(given) > 1 or set(strategy_by_name) - {"strategy"} or (given and strategies is None):
            raise TypeError("create_execution_context(): incompatible function arguments")
        if given and not isinstance(given[0], strategies):
            raise TypeError("create_execution_context(): incompatible function arguments")
        if self._keeper() is None:
            self._simulator.gpu.problem("the runtime was gone when its engine was used")
        if self._simulator.settings["fail_context"]:
            return None
        try:
            return self._simulator.tensorrt.IExecutionContext(self)
        except OutOfMemoryError:
            self._log("ERROR", "2: [executionContext.cpp::ExecutionContext] Error Code 2: OutOfMemory")
            return None

    def create_engine_inspector(self):
        return self._simulator.tensorrt.EngineInspector(self)


class EngineInspector(Native):
    def __init__(self, engine):
        self._engine = engine
        self._execution_context = None

    @property
    def execution_context(self):
        return self._execution_context

    @execution_context.setter
    def execution_context(self, context):
        self._execution_context = context

    @takes(format="LayerInformationFormat")
    def get_engine_information(self, format):  # noqa: A002
        names = [node.name for node in load(self._engine._data).graph.node]
        if format.name == "ONELINE":
            return "\n".join(names)
        key = "I/O Tensors" if at_least(self._simulator.version, "11.0") else "Bindings"
        return json.dumps({"Layers": names, key: [binding.name for binding in self._engine._bindings]})


class IExecutionContext(_OnDevice):
    def __init__(self, engine):
        self._engine = engine
        self._shapes = [None if self._dynamic(binding) else binding.shape for binding in engine._bindings]
        self._addresses = {}
        self._last = None
        self._settle(engine._scratch_bytes, "an execution context's memory")
        # Since 10 execution contexts share profiles; the preview feature of 8.6 is not modelled.
        self._has_profile = at_least(self._simulator.version, "10.0.1") or not engine._profile_is_taken()
        if self._has_profile:
            engine._holder = weakref.ref(self)
        else:
            engine._log(
                "ERROR",
                "Profile 0 has been chosen by another IExecutionContext. Use another profileIndex or destroy the "
                "IExecutionContext that use this profile.",
            )
            engine._log(
                "WARNING",
                "Could not set default profile 0 for execution context. Profile index must be set explicitly.",
            )

    @staticmethod
    def _dynamic(binding):
        return any(not isinstance(size, int) or size < 0 for size in binding.shape)

    @property
    def engine(self):
        return self._engine

    name = constant("")

    @property
    def active_optimization_profile(self):
        return 0 if self._has_profile else -1

    def _refuse_without_profile(self):
        """Returns whether it has none, after logging that."""
        if not self._has_profile:
            self._refuse(
                "executionContext.cpp",
                "condition: mOptimizationProfile >= 0 && mOptimizationProfile < mEngine.getNbOptimizationProfiles()",
            )
        return not self._has_profile

    @property
    def all_binding_shapes_specified(self):
        return not self._missing()

    all_shape_inputs_specified = constant(True)

    def _missing(self):
        return [b.name for b, shape in zip(self._engine._bindings, self._shapes) if b.is_input and shape is None]

    def infer_shapes(self):
        return self._missing()

    @takes(profile_index=integer, stream_handle=address)
    def set_optimization_profile_async(self, profile_index, stream_handle):
        if profile_index != 0:
            raise RuntimeError("Error in set optimization profile async.")
        return True

    def _set_shape(self, index, shape):
        if self._refuse_without_profile():
            return False
        binding = self._engine._bindings[index]
        shape = list(shape)
        low, _, high = [list(dims) for dims in self._engine._profile_shape(0, index)]
        if not binding.is_input or len(shape) != len(low):
            return self._refuse("engine.cpp", "the shape %s is not for %s" % (shape, binding.name))
        for place, (least, size, most) in enumerate(zip(low, shape, high)):
            if not least <= size <= most:
                return self._refuse(
                    "runtime/api/executionContext.cpp::validateInputBindings::1831",
                    "condition: %s. Supplied binding dimension [%s] for bindings[%d] exceed min ~ max range at index "
                    "%d, maximum dimension in profile is %d, minimum dimension in profile is %d, but supplied "
                    "dimension is %d."
                    % (
                        "profileMaxDims.d[i] >= dimensions.d[i]"
                        if size > most
                        else "profileMinDims.d[i] <= dimensions.d[i]",
                        ",".join(map(str, shape)),
                        index,
                        place,
                        most,
                        least,
                        size,
                    ),
                )
        self._shapes[index] = tuple(shape)
        return True

    def _refuse(self, place, message):
        self._engine._log(
            "ERROR",
            "3: [executionContext.cpp::1831] Error Code 3: API Usage Error (Parameter check failed at: %s, %s)"
            % (place, message),
        )
        return False

    def _resolved(self):
        """Returns the shape of each binding, -1 where it is not known yet."""
        sizes = {}
        for binding, shape in zip(self._engine._bindings, self._shapes):
            if binding.is_input and shape is not None:
                sizes.update({name: size for name, size in zip(binding.shape, shape) if isinstance(name, str)})
        known = []
        for binding, shape in zip(self._engine._bindings, self._shapes):
            if shape is None:
                shape = [sizes.get(size, -1) if isinstance(size, str) else size for size in binding.shape]
            known.append(tuple(shape))
        return known

    @takes(binding=integer, shape="Dims")
    def set_binding_shape(self, binding, shape):
        return self._set_shape(self._engine._index(binding), shape)

    @takes(binding=integer)
    def get_binding_shape(self, binding):
        return self._engine._dims(self._resolved()[self._engine._index(binding)])

    @takes(name=text, shape="Dims")
    def set_input_shape(self, name, shape):
        try:
            return self._set_shape(self._engine._index(name), shape)
        except IndexError:
            return self._refuse("executionContext.cpp", "no input %s" % name)

    @takes(name=text)
    def get_tensor_shape(self, name):
        return self._engine._dims(self._resolved()[self._engine._index(name)])

    @takes(name=text, memory=address)
    def set_tensor_address(self, name, memory):
        try:
            self._engine._index(name)
        except IndexError:
            return self._refuse("executionContext.cpp", "no tensor %s" % name)
        self._addresses[name] = memory
        return True

    @takes(name=text)
    def get_tensor_address(self, name):
        return self._addresses.get(name, 0)

    @takes(bindings=addresses, stream_handle=address, input_consumed=optional(address))
    def execute_async_v2(self, bindings, stream_handle, input_consumed=None):
        return self._enqueue(bindings, stream_handle)

    @takes(stream_handle=address)
    def execute_async_v3(self, stream_handle):
        pointers = [self._addresses.get(binding.name) for binding in self._engine._bindings]
        if None in pointers:
            return self._refuse("executionContext.cpp", "Address is not set for every tensor")
        return self._enqueue(pointers, stream_handle)

    @takes(bindings=addresses)
    def execute_v2(self, bindings):
        gpu = self._simulator.gpu
        done = self._enqueue(bindings, 0)
        if done:
            try:
                with gpu.lock:
                    self._context.default.run()
            except IllegalAddressError:
                self._engine._log("ERROR", "Cuda Error in execute: 700 (an illegal memory access was encountered)")
                return False
        return done

    def _enqueue(self, pointers, stream_handle):
        """Queues a run. Returns False, after logging why, if it cannot be."""
        simulator, gpu, bindings = self._simulator, self._simulator.gpu, self._engine._bindings
        if self._engine._keeper() is None:
            gpu.problem("the runtime was gone when its engine was used")
        if simulator.settings["fail_enqueue"]:
            self._engine._log("ERROR", "1: [convolutionRunner.cpp::execute] Error Code 1: Cuda Runtime (unspecified)")
            return False
        if len(pointers) != len(bindings):
            gpu.problem(
                "%d addresses for %d bindings: read beyond the end of the list" % (len(pointers), len(bindings))
            )
            return False
        if self._refuse_without_profile():
            return False
        if self._missing():
            return self._refuse("executionContext.cpp", "condition: allInputDimensionsSpecified(routine)")
        shapes = self._resolved()
        with gpu.lock:
            try:
                if gpu.runtime_context() is not self._context:
                    raise KeyError(stream_handle)
                queue = self._context.queue(stream_handle)
            except KeyError:
                self._engine._log(
                    "ERROR",
                    "IExecutionContext::enqueueV3: Error Code 1: Cuda Driver (invalid resource handle)"
                    if at_least(simulator.version, "10.0.1")
                    else "Cuda Error in NCHWToNCHHW2: 400 (invalid resource handle)",
                )
                return False
            if self._last is not None and self._last[0] is not queue and self._last[0].done_count < self._last[1]:
                gpu.problem("one execution context runs in two streams at once")
            sizes_bytes = [
                volume(shape) * self._engine._dtype(number).itemsize if -1 not in shape else 0
                for number, shape in enumerate(shapes)
            ]
            for binding, pointer, size_bytes in zip(bindings, pointers, sizes_bytes):
                if not binding.is_input and gpu.mapped_for_host(pointer):
                    with contextlib.suppress(IllegalAddressError):
                        gpu.at(pointer, size_bytes, "enqueue")[:] = GARBAGE
            place = self._context.put(queue, lambda: self._run(pointers, shapes))
            self._last = (queue, place)
        return True

    def _run(self, pointers, shapes):
        """Runs the graph on what is at the addresses now."""
        gpu, feeds = self._simulator.gpu, {}
        for number, binding in enumerate(self._engine._bindings):
            if binding.is_input:
                dtype = np.dtype(NUMPY[self._engine._dtype(number).name])
                size_bytes = volume(shapes[number]) * dtype.itemsize
                data = gpu.at(pointers[number], size_bytes, binding.name).view(dtype).reshape(shapes[number])
                feeds[binding.name] = data.astype(binding.onnx_dtype)
        outputs = iter(graph.run(self._engine._data, self._engine._header["precision"], feeds))
        for number, binding in enumerate(self._engine._bindings):
            if not binding.is_input:
                dtype = np.dtype(NUMPY[self._engine._dtype(number).name])
                values = np.ascontiguousarray(next(outputs), dtype).reshape(-1).view(np.uint8)
                gpu.at(pointers[number], values.nbytes, binding.name)[:] = values


CLASSES = [Runtime, ICudaEngine, EngineInspector, IExecutionContext]
