"""TensorRT and pycuda for tests, on machines that have neither: as strict as the real ones, and stricter.

    simulator = install(monkeypatch, version="8.2.1", compute_capability=(6, 2))
    ...            # product code imports tensorrt and pycuda.driver and knows nothing of this
    simulator.assert_clean()

What each version has is read from tensorrt_api.json; what it does, from the vendor's sources and public issues. Engines
compute with the real ONNX model through ONNX Runtime: fp16 and int8 round the weights and the input, activations stay
float32, so a network that overflows in float16 on the way is not found here. Streams do nothing until they are waited
for. Where the real libraries crash, corrupt memory or leak, the simulator takes a note: assert_clean() fails with them.

Child processes that product code starts get the same simulator: install() sets PYTHONPATH, to a folder with modules
`tensorrt` and `pycuda` that call install_from_environment(), and PICNIC_EDGE_SIMULATOR, the settings as JSON. Their
problems come back through files in settings["report_folder"]. A child that exits with a context on its stack aborts.
"""

import atexit
import contextlib
import gc
import glob
import importlib
import json
import os
import shutil
import sys
import tempfile
import types
import weakref

from tests.simulator import gpu, pycuda_driver, rtx, trt
from tests.simulator.api import resolve

VARIABLE = "PICNIC_EDGE_SIMULATOR"
HERE = os.path.dirname(os.path.abspath(__file__))
CHILD = os.path.join(HERE, "child")

# Knobs, all by name to install() and to Simulator.set(); the failures make the real error paths run.
DEFAULTS = {
    "version": "8.2.1",
    "rtx": False,  # the runtime of TensorRT for RTX in the place of TensorRT (version 11)
    "compute_capability": (6, 2),
    "device_name": "NVIDIA Tegra X2",
    "total_memory_bytes": 7852 << 20,
    "memory_limit_bytes": None,  # of device memory in all; beyond it: out of memory
    "cuda_version": (10, 2, 0),
    "pycuda_version": "2020.1",  # 2019.1.2 has no retain_primary_context
    "fail_parse": "",  # the parser's reason
    "fail_build": "",  # the builder's reason
    "fail_deserialize": False,
    "fail_context": False,  # create_execution_context returns None
    "fail_enqueue": False,  # execute_* returns False and does nothing
    "lose_gpu": False,  # every CUDA call fails from now on, as after a launch that failed: the context is done for
    "build_s": 0.0,
    "kill_in_build": False,  # SIGKILL, as the out-of-memory killer sends it; only in a child process
    "progress": (),  # what the builder logs (VERBOSE) on the way, spread over build_s, from a thread of its own
    "attributes": {"INTEGRATED": 1, "CAN_MAP_HOST_MEMORY": 1, "MULTIPROCESSOR_COUNT": 2, "UNIFIED_ADDRESSING": 1},
}


class Simulator:
    """One machine: settings, gpu (its state), tensorrt and pycuda (the modules)."""

    def __init__(self, settings):
        self.settings = settings
        self.version = resolve(settings["version"])
        self.full_version = ".".join((self.version.split(".") + ["0"])[:3] + ["8"])
        self.gpu = gpu.Gpu(settings)
        self.tensorrt = types.ModuleType("tensorrt")
        trt.build(self)
        if settings["rtx"]:
            self.compiled = 0  # how often its kernels were compiled
            rtx.extend(self)
        self.pycuda = types.ModuleType("pycuda")
        self.pycuda.VERSION = tuple(int(part) for part in settings["pycuda_version"].split("."))
        self.pycuda.VERSION_TEXT = settings["pycuda_version"]
        self.pycuda.__path__ = []
        self.pycuda.driver = pycuda_driver.build(self.gpu, self.pycuda.VERSION)

    def modules(self):
        name = "tensorrt_rtx_bindings" if self.settings["rtx"] else "tensorrt"
        return {name: self.tensorrt, "pycuda": self.pycuda, "pycuda.driver": self.pycuda.driver}

    def stamp(self):
        """What a timing cache is bound to."""
        parts = (self.full_version, self.settings["device_name"], ".".join(map(str, self.settings["cuda_version"])))
        return "%s on %s with CUDA %s" % parts

    def set(self, **knobs):
        """Changes knobs but the versions, also for child processes that start from now on."""
        assert not {"version", "pycuda_version"} & set(knobs), "install() another simulator for another version"
        self.settings.update(_known(knobs))
        os.environ[VARIABLE] = json.dumps(self.settings)

    @property
    def pageable_copies(self):
        """How many asynchronous copies were not, because their host memory is not page-locked."""
        return self.gpu.pageable_copies

    def report(self):
        """Returns a list of everything that is wrong: noted problems, and what is not given back by now."""
        for generation in (1, 2):  # the younger objects first: with TensorFlow loaded, all of them take half a second
            gc.collect(generation)
            leaks = self.gpu.leaks()
            if not leaks:
                break
        problems = list(self.gpu.problems) + leaks
        for path in sorted(glob.glob(os.path.join(self.settings["report_folder"], "*.json"))):
            with open(path) as file:
                problems += ["in a child process: " + problem for problem in json.load(file)]
        return problems

    def assert_clean(self):
        """Fails the test if anything leaked or went wrong without an exception."""
        problems = self.report()
        assert not problems, "\n".join(["the simulator found:"] + problems)


def install(monkeypatch=None, **knobs):
    """Puts the simulator in the place of tensorrt and pycuda, here and in child processes.

    Args:
        monkeypatch: pytest's, which takes it away again; None: for good.
        knobs: as in DEFAULTS; version may be short, as in "10.3".

    Returns:
        Simulator.
    """
    settings = dict(DEFAULTS, report_folder=tempfile.mkdtemp(prefix="simulator-"), pid=os.getpid())
    settings.update(_known(knobs))
    simulator = Simulator(settings)
    weakref.finalize(simulator, shutil.rmtree, settings["report_folder"], ignore_errors=True)
    environment = {
        VARIABLE: json.dumps(settings),
        "PYTHONPATH": os.pathsep.join(filter(None, [CHILD, os.environ.get("PYTHONPATH")])),
    }
    if monkeypatch:
        for name, module in simulator.modules().items():
            monkeypatch.setitem(sys.modules, name, module)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with contextlib.suppress(ImportError):  # its first import extends sys.path, which must outlast the test
            importlib.import_module("onnxruntime.transformers")
        monkeypatch.setattr(sys, "path", sys.path + [CHILD])  # multiprocessing hands it on, not PYTHONPATH
    else:
        sys.modules.update(simulator.modules())
        os.environ.update(environment)
        sys.path.append(CHILD)
    return simulator


def _known(knobs):
    unknown = set(knobs) - set(DEFAULTS)
    if unknown:
        raise TypeError("no such knobs: %s" % ", ".join(sorted(unknown)))
    return knobs


def install_from_environment():
    """What the stand-ins in child/ call."""
    simulator = Simulator(json.loads(os.environ[VARIABLE]))
    sys.modules.update(simulator.modules())
    atexit.register(_leave, simulator)


def _leave(simulator):
    """Writes what is wrong with this child for its parent's assert_clean()."""
    gc.collect()
    problems = simulator.gpu.problems + simulator.gpu.leaks()
    if problems:
        name = os.path.join(simulator.settings["report_folder"], "%d.json" % os.getpid())
        with open(name, "w") as file:
            json.dump(problems, file)
    if simulator.gpu.stack():
        sys.stderr.write("PyCUDA ERROR: The context stack was not empty upon module cleanup.\n")
        sys.stderr.flush()
        os.abort()
