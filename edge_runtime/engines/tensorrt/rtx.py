"""TensorRT for RTX on an NVIDIA GPU: a plan that was built on any PC, run by the engine of TensorRT.

The plan holds no machine code for the GPU: the library compiles the kernels at first use, which takes seconds. What it
compiled is kept in a file, beside the timing caches of TensorRT; those of the plans that were opened last stay.

Not yet run on hardware: written from the library's own module and NVIDIA's pages, tested with a simulator of both.
"""

import contextlib
import hashlib
import logging
import os
import typing

from edge_runtime import files
from edge_runtime.engines.tensorrt import context
from edge_runtime.engines.tensorrt.engine import FILES, TensorRtEngine
from edge_runtime.errors import BundleError
from edge_runtime.machine.libraries import require

LIBRARY = "tensorrt_rtx_bindings"  # the module; the package tensorrt-rtx adds nothing but another name for it
_MAX_CACHE_BYTES = 100 << 20  # reading a larger one takes longer than it saves, says NVIDIA
_CACHE_PREFIX, _CACHE_SUFFIX = "rtx", ".kernels"
MAX_CACHES = 8  # files; a plan that is made again has a new one

__all__ = ["FILES", "LIBRARY", "create", "local_facts"]

log = logging.getLogger("picnic_edge")


def local_facts():
    """Returns the version that a plan depends on: {"libraries": {"tensorrt-rtx": version}, "gpu": None}.

    The GPU is none of it: a plan is for many. It is checked on each (edge_runtime.engines.gpu_check).

    Raises:
        MissingRequirement: the library, pycuda or a GPU is missing.
    """
    version = require(LIBRARY).__version__
    context.gpu()
    return {"libraries": {"tensorrt-rtx": version}, "gpu": None}


class TensorRtRtxEngine(TensorRtEngine):
    """The engine of TensorRT, with what TensorRT for RTX does before and after the runs."""

    library = LIBRARY

    _config: typing.Any = None  # NVIDIA does not say that the execution context keeps it, nor the cache
    _cache: typing.Any = None  # the library's kernels, while the engine is open
    _cache_file = ""
    _kept_bytes = 0  # of the cache in the file

    def _check_plan(self, tensorrt, plan):
        validity, reasons = self._runtime.get_engine_validity(plan[: self._runtime.engine_header_size])
        if validity == tensorrt.EngineValidity.INVALID:
            kinds = tensorrt.EngineInvalidityDiagnostics.__members__
            named = ", ".join(name for name, kind in kinds.items() if int(kind) & int(reasons)) or "no reason given"
            gpu = context.gpu_facts()
            raise BundleError(
                f"{self.info.path}: TensorRT for RTX {tensorrt.__version__} does not run this plan on the GPU "
                f"{gpu['name']} (compute capability {gpu['compute_capability']}): {named}.\n{self._log.reason()}\n"
                "Make it again, for this GPU: picnic-edge convert --to tensorrt-rtx, with --gpus turing for compute "
                "capability 7.5. OLD_CUDA_DRIVER: install a newer NVIDIA driver"
            )

    def _make_context(self, tensorrt, plan):
        config = self._config = self._engine.create_runtime_config()
        # The kernels that are checked are those that are used: none is replaced by another in the background.
        kernels = tensorrt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
        gpu = context.gpu_facts()
        key = (gpu["name"], gpu["compute_capability"], tensorrt.__version__, hashlib.sha256(plan).hexdigest())
        self._cache_file = context.cache_path((_CACHE_PREFIX,) + key, _CACHE_SUFFIX)
        self._cache = config.create_runtime_cache()
        with contextlib.suppress(OSError):
            with open(self._cache_file, "rb") as file:
                kept = file.read()
            os.utime(self._cache_file)  # it is in use: _remove_old_caches takes others first
            # False: of another driver, or damaged. The library then compiles, and the file is replaced.
            self._kept_bytes = len(kept) if self._cache.deserialize(kept) else 0
        config.set_runtime_cache(self._cache)
        return self._engine.create_execution_context(config)

    def _before_close(self):
        content = self._cache.serialize() if self._context is not None and not self._lost else None
        if content is None or content.nbytes == self._kept_bytes or content.nbytes > _MAX_CACHE_BYTES:
            return
        try:
            os.makedirs(os.path.dirname(self._cache_file), exist_ok=True)
            with files.atomic_file(self._cache_file, binary=True) as file:
                file.write(content)
            _remove_old_caches(os.path.dirname(self._cache_file))
        except OSError as error:
            log.warning("%s: cannot be kept (%s); the next start compiles the kernels again", self._cache_file, error)

    def _drop_context(self):
        super()._drop_context()
        self._cache = None
        self._config = None


def _remove_old_caches(folder):
    """Removes the kernels of all plans but the MAX_CACHES that were opened last. Several processes may do so."""
    names = (name for name in os.listdir(folder) if name.startswith(_CACHE_PREFIX) and name.endswith(_CACHE_SUFFIX))
    paths = [os.path.join(folder, name) for name in names]
    with contextlib.suppress(FileNotFoundError):  # another process was sooner
        for path in sorted(paths, key=os.path.getmtime, reverse=True)[MAX_CACHES:]:
            os.unlink(path)


create = TensorRtRtxEngine
