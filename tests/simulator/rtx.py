"""What TensorRT for RTX adds to TensorRT's names, for its runtime; as for its builder, the real one runs here.

A plan is a head of 64 bytes with the compute capabilities that it is for, and then a plan of the simulated TensorRT.
"""

import json
import struct
import weakref

from tests.simulator import graph
from tests.simulator.api import Native, buffer, enumeration, takes

HEADER_BYTES = 64
_MAGIC = b"rtx plan"
_REASONS = {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "OLD_CUDA_DRIVER": 4, "MALFORMED_ENGINE": 32}


def write_plan(model, capabilities, version="11.1.0.8", max_batch=8):
    """Returns the bytes of a plan of an ONNX model (bytes) for compute capabilities, [[8, 6]]."""
    head = _MAGIC + json.dumps(capabilities).encode()
    shape = [299, 299, 3]
    header = {
        "version": version,
        "precision": "fp32",
        "profile": {"images": [[1] + shape, [max_batch] + shape, [max_batch] + shape]},
        "name": "",
        "dtypes": {"images": "UINT8", "probabilities": "FLOAT"},
    }
    body = graph.write_plan(header, model)
    return head.ljust(HEADER_BYTES) + struct.pack("<I", len(body)) + body


def _gone(simulator, context, what):
    if context() is not None:
        simulator.gpu.problem("the runtime %s was gone before the execution context that uses it" % what)


def extend(simulator):
    """Makes of simulator.tensorrt, a built module of TensorRT 11, the module of TensorRT for RTX."""
    module = simulator.tensorrt
    module.EngineValidity = enumeration("EngineValidity", {"VALID": 0, "SUBOPTIMAL": 1, "INVALID": 2})
    module.EngineInvalidityDiagnostics = enumeration("EngineInvalidityDiagnostics", _REASONS)
    strategies = {"LAZY": 0, "EAGER": 1, "NONE": 2}
    module.DynamicShapesKernelSpecializationStrategy = enumeration("KernelStrategy", strategies)
    del module.Builder, module.OnnxParser  # the real ones build

    class Runtime(module.Runtime):
        engine_header_size = property(lambda self: HEADER_BYTES)

        @takes(buffer=buffer)
        def get_engine_validity(self, buffer):  # noqa: A002
            problem = "MALFORMED_ENGINE" if buffer[:8] != _MAGIC else ""
            if not problem and list(simulator.settings["compute_capability"]) not in json.loads(buffer[8:].decode()):
                problem = "UNSUPPORTED_CC"
            valid = module.EngineValidity.INVALID if problem else module.EngineValidity.VALID
            return valid, _REASONS.get(problem, 0)

        def deserialize_cuda_engine(self, serialized_engine):
            plan = bytes(serialized_engine)
            if self.get_engine_validity(plan[:HEADER_BYTES])[0] == module.EngineValidity.INVALID:
                simulator.gpu.problem("a plan that is not valid here was loaded")
                return None
            header, data = graph.read_plan(plan[HEADER_BYTES + 4 :])
            here = {name: simulator.settings[name] for name in ("compute_capability", "device_name")}
            return super().deserialize_cuda_engine(graph.write_plan(dict(header, **here), data))

    class ICudaEngine(module.ICudaEngine):
        def create_runtime_config(self):
            return IRuntimeConfig()

        def create_execution_context(self, runtime_config):
            if not isinstance(runtime_config, IRuntimeConfig):
                raise TypeError("create_execution_context(): incompatible function arguments")
            context = super().create_execution_context()
            cache = runtime_config._cache
            if context is not None and not (cache and cache._kernels):
                simulator.compiled += 1
                if cache:
                    cache._kernels = b"kernels"
            if context is not None:  # stricter than NVIDIA's words, which say of neither that the context keeps it
                for what, used in (("configuration", runtime_config), ("cache", cache or runtime_config)):
                    weakref.finalize(used, _gone, simulator, weakref.ref(context), what).atexit = False
            return context

    class IRuntimeConfig(Native):
        _cache, _strategy = None, module.DynamicShapesKernelSpecializationStrategy.LAZY

        @property
        def dynamic_shapes_kernel_specialization_strategy(self):
            return self._strategy

        @dynamic_shapes_kernel_specialization_strategy.setter
        def dynamic_shapes_kernel_specialization_strategy(self, value):
            self._strategy = value

        def create_runtime_cache(self):
            simulator.gpu.runtime_context()
            return IRuntimeCache()

        def set_runtime_cache(self, cache):
            self._cache = cache
            return True

    class IRuntimeCache(Native):
        _kernels = b""

        def serialize(self):
            simulator.gpu.runtime_context()
            return module.IHostMemory(simulator.stamp().encode() + b"\n" + self._kernels)

        @takes(blob=buffer)
        def deserialize(self, blob):
            simulator.gpu.runtime_context()
            stamp, _, kernels = blob.partition(b"\n")
            if stamp != simulator.stamp().encode():
                return False
            self._kernels = kernels
            return True

    module.Runtime, module.ICudaEngine = Runtime, ICudaEngine
