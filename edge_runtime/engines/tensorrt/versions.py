"""All that differs between TensorRT 8.2, 8.5, 8.6, 10 and 11, decided by feature and never by version number.

8.2 (JetPack 4.6, the TX2) knows bindings by their place in a list; 8.5 brought names and uint8 inputs and 10 removed
the places; 11 removed the precision flags: there the precision is the one written in the ONNX model.
"""

import typing

import numpy as np

from edge_runtime.engines.base import EngineError


class Tensor(typing.NamedTuple):
    """An input or output of an engine."""

    is_input: bool
    dtype: type  # of numpy
    largest_shape: tuple


def takes_uint8(tensorrt):
    """Whether a network's input may be uint8 (8.5 and newer)."""
    return hasattr(tensorrt.DataType, "UINT8")


def has_precision_flags(tensorrt):
    """Whether the builder chooses the precision, by flags and calibration (up to 10); otherwise it is the model's."""
    return hasattr(tensorrt.BuilderFlag, "FP16")


def int8_problem(tensorrt, builder):
    """Returns why this TensorRT and this GPU cannot build int8, "" where they can."""
    if has_precision_flags(tensorrt) and not builder.platform_has_fast_int8:  # 11, which has no flags, does not say
        return "this GPU has no fast int8 arithmetic (a Jetson TX2 has none)"
    return ""


def create_network(builder):
    """Returns an empty network whose batch is a dimension like the others."""
    # 1 << EXPLICIT_BATCH up to 10. 11 has no such name: there 1 stands for STRONGLY_TYPED, as all networks are.
    return builder.create_network(1)


def set_workspace(tensorrt, config, size_bytes):
    """Limits the memory that the layers may use beside their inputs and outputs. 8.2 gives them none by itself."""
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, size_bytes)
    else:
        config.max_workspace_size = size_bytes


def tensors_of(tensorrt, engine):
    """Returns the inputs and outputs of an engine, {name: Tensor}; the largest shape of an input is its profile's.

    Raises:
        EngineError: one is of another type than float32 and uint8.
    """
    tensors = {}
    if _has_names(engine):
        for place in range(engine.num_io_tensors):
            name = engine.get_tensor_name(place)
            is_input = engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT
            shape = engine.get_tensor_profile_shape(name, 0)[2] if is_input else engine.get_tensor_shape(name)
            tensors[name] = Tensor(is_input, _numpy_type(tensorrt, engine.get_tensor_dtype(name), name), tuple(shape))
    else:
        for place in range(engine.num_bindings):
            name = engine.get_binding_name(place)
            is_input = engine.binding_is_input(place)
            shape = engine.get_profile_shape(0, place)[2] if is_input else engine.get_binding_shape(place)
            tensors[name] = Tensor(is_input, _numpy_type(tensorrt, engine.get_binding_dtype(place), name), tuple(shape))
    return tensors


def set_input_shape(engine, context, name, shape):
    """Tells an execution context the shape of the next input. Returns whether it was accepted."""
    if _has_names(engine):
        return context.set_input_shape(name, shape)
    return context.set_binding_shape(engine.get_binding_index(name), shape)


def enqueue(engine, context, addresses, stream_handle):
    """Puts one run onto a stream. Returns whether it was accepted; if not, the outputs are unchanged.

    Args:
        engine, context: of TensorRT.
        addresses: {tensor's name: device address}.
        stream_handle: of CUDA, as a number.
    """
    if _has_names(engine):
        placed = all(context.set_tensor_address(name, address) for name, address in addresses.items())
        return placed and context.execute_async_v3(stream_handle)
    bindings = [addresses[engine.get_binding_name(place)] for place in range(engine.num_bindings)]
    return context.execute_async_v2(bindings, stream_handle)


def _has_names(engine):
    return hasattr(engine, "num_io_tensors")


def _numpy_type(tensorrt, data_type, name):
    """tensorrt.nptype is no help: in 8.2 it needs a name that numpy 1.24 dropped."""
    if data_type == tensorrt.DataType.FLOAT:
        return np.float32
    if takes_uint8(tensorrt) and data_type == tensorrt.DataType.UINT8:
        return np.uint8
    raise EngineError(f"tensor {name} is {data_type}; float32 or uint8 was expected")
