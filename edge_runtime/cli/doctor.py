"""picnic-edge doctor"""

import argparse
import concurrent.futures
import functools
import glob
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import typing

from edge_runtime.console import print_json
from edge_runtime.engines.tensorrt import context
from edge_runtime.errors import MissingRequirement
from edge_runtime.machine import cpu, jetson, libraries
from edge_runtime.machine.libraries import INSTALL, require
from edge_runtime.machine.memory import memory_available_bytes, memory_info
from edge_runtime.photos import memory_budget


class Check(typing.NamedTuple):
    """One line of the report: something that this machine has or lacks."""

    name: str
    status: str  # "ok", "missing" (an engine or verb cannot run) or "warning"
    found: str  # what the machine has: a version, a size, or why it is missing
    fix: str  # the command or action that fixes it, "" where nothing needs fixing


class Answer(typing.NamedTuple):
    """What a library says of itself in a process of its own."""

    value: typing.Any  # None where it gave no answer
    problem: str  # why it gave none


# What each library is for, in the order of the report: (distribution, purpose)
_LIBRARIES = (
    ("numpy", "everything"),
    ("opencv-python-headless", "resizing photos, and videos and cameras"),
    ("simplejpeg", "decoding JPEGs"),
    ("pillow", "decoding other photos"),
    ("pillow-heif", "photos of iPhones (HEIC)"),
    ("onnxruntime", "running bundles on any CPU"),
    ("openvino", "faster engines on x86 CPUs"),
    ("ai-edge-litert", "LiteRT engines"),
    ("tensorflow", "training"),
    ("tf2onnx", "training (export)"),
    ("scikit-learn", "evaluating"),
)
# The oldest Python that there are wheels for, where it is newer than ours.
_OLDEST_PYTHONS = {"openvino": (3, 9), "ai-edge-litert": (3, 9), "tensorrt-rtx-cu12-bindings": (3, 8)}
# There are wheels for x86-64 only.
_RTX = ("tensorrt-rtx-cu12-bindings", "engines for NVIDIA RTX GPUs, built without a GPU")
_MODULES = {
    "ai-edge-litert": "ai_edge_litert",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pillow-heif": "pillow_heif",
    "scikit-learn": "sklearn",
    "tensorrt-rtx-cu12-bindings": "tensorrt_rtx_bindings",
}
_LEAST_MEMORY_BYTES = 2 << 30
_LEAST_SWAP_BYTES = 4 << 30  # enough to build engines on boards with 4 to 8 GiB of memory
_LEAST_DISK_BYTES = 1 << 30
# Each runs in a Python process of its own, because these libraries can crash the process that imports them.
PROBES = {
    "tf-trt": (
        "from edge_runtime.engines import tf_trt\n"
        "from edge_runtime.errors import MissingRequirement\n"
        "versions, problem = tf_trt.probe(), ''\n"
        "try:\n    tf_trt.require_tensorrt(versions)\n"
        "except MissingRequirement as error:\n    problem = str(error)\n"
        "answer = dict(versions._asdict(), problem=problem)"
    ),
    "tensorrt": "import tensorrt\nanswer = tensorrt.__version__",
    "pycuda": (
        "import pycuda, pycuda.driver as cuda\n"
        "cuda.init()\ndevice = cuda.Device(0)\n"
        "usable = hasattr(device, 'retain_primary_context')\n"
        "answer = [pycuda.VERSION_TEXT, device.name(), '%d.%d' % device.compute_capability(), usable]"
    ),
    "protobuf": "from google.protobuf.internal import api_implementation\nanswer = api_implementation.Type()",
}
_ANSWER = "\nimport json\nprint('\\nANSWER ' + json.dumps(answer))"


def main(argv=None):
    """Prints what this machine has and lacks."""
    parser = argparse.ArgumentParser(
        prog="picnic-edge doctor",
        description="Show what this machine can run, what is missing, and the command that fixes it.",
        epilog="example: picnic-edge doctor",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    checks = examine()
    if options.json:
        print_json({"machine": cpu.describe(), "checks": [check._asdict() for check in checks]})
        return
    width = max(len(check.name) for check in checks)
    margin = " " * (11 + width)
    for check in checks:
        print(f"{check.status:<7}  {check.name:<{width}}  {check.found}")
        if check.fix:
            fix = check.fix.replace("\n", f"\n   {margin}")
            print(f"{margin}-> {fix}")


def examine(root="/"):
    """Returns the list of Checks of this machine, without importing any heavy library into this process.

    Args:
        root: folder that stands for /, for what is read from /proc, /sys, /etc, /dev and /usr.
    """
    chip = jetson.chip(root)
    with concurrent.futures.ThreadPoolExecutor(len(PROBES)) as pool:
        futures = {name: pool.submit(run_probe, code) for name, code in PROBES.items() if is_installed(name)}
        answers = {name: future.result() for name, future in futures.items()}
    steps = [
        ("python", _python),
        ("cpu", lambda: _cpu(root)),
        ("board", lambda: _board(root, chip)),
        ("jetpack", lambda: _jetpack(root, chip)),
        ("power mode", lambda: _power_mode(chip)),
        ("gpu clock", lambda: _gpu_clock(root, chip)),
        ("memory", lambda: _memory(root)),
        ("decode memory", _decode_memory),
        ("swap", lambda: _swap(root, chip)),
        ("disk", _disk),
        ("cameras", lambda: _cameras(root)),
        ("nvidia gpu", lambda: _gpu(root, chip)),
        ("cuda", lambda: _cuda(root, chip)),
        ("tensorrt", lambda: _tensorrt(root, answers.get("tensorrt"))),
        ("pycuda", lambda: _pycuda(answers.get("pycuda"))),
    ]
    steps += [(library[0], functools.partial(_library, *library)) for library in _LIBRARIES]
    if platform.machine() == "x86_64" and chip is None:
        steps.append((_RTX[0], functools.partial(_library, *_RTX)))
    steps += [
        ("tf-trt", lambda: _tf_trt(answers.get("tf-trt"))),
        ("protobuf", lambda: _protobuf(answers.get("protobuf"))),
        ("gstreamer", lambda: _gstreamer(chip)),
    ]
    checks = [_run_step(name, step) for name, step in steps]
    return [check for check in checks if check is not None]


def run_probe(code, limit_s=120):
    """Runs code that sets `answer` in a new Python process, for at most limit_s seconds. Returns an Answer."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.pathsep.join([root] + [name for name in [os.environ.get("PYTHONPATH")] if name])
    environment = dict(os.environ, PYTHONPATH=path, TF_CPP_MIN_LOG_LEVEL="2")
    try:
        process = subprocess.run(
            [sys.executable, "-c", code + _ANSWER],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(None, f"did not answer within {limit_s} s")
    except OSError as error:
        return Answer(None, str(error))
    answers = [line for line in process.stdout.decode("utf-8", "replace").splitlines() if line.startswith("ANSWER ")]
    if answers:
        return Answer(json.loads(answers[-1][len("ANSWER ") :]), "")
    messages = [line.strip() for line in process.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    how = f"ended its process with signal {-process.returncode}" if process.returncode < 0 else "cannot be used"
    return Answer(None, f"{how}: {messages[-1] if messages else 'no message'}")


def _run_step(name, step):
    """A step that fails is one line of the report, not the end of it."""
    try:
        return step()
    except Exception as error:
        return Check(name, "warning", f"could not be examined ({type(error).__name__}: {error})", "")


def is_installed(probe):
    """Whether the library of a probe is installed; it is not imported."""
    if probe == "protobuf":
        return libraries.library_version("protobuf") is not None
    return importlib.util.find_spec({"tf-trt": "tensorflow"}.get(probe, probe)) is not None


def _python():
    fine = sys.version_info >= (3, 6)
    return Check("python", "ok" if fine else "warning", platform.python_version(), "" if fine else "use 3.6 or newer")


def _cpu(root):
    info = cpu.cpu_info(os.path.join(root, "proc/cpuinfo"))
    name = info.get("model name") or info.get("Hardware") or platform.processor() or "unknown"
    features = " ".join(cpu.cpu_features(info)) or "no known features"
    cores, all_cores = cpu.core_count(root), os.cpu_count() or 1
    # Fewer than all: a container's CPU quota, or the process's CPU affinity.
    text = f"{cores} cores" if cores >= all_cores else f"{cores} of {all_cores} cores (limited for this process)"
    return Check("cpu", "ok", f"{name}, {text}, {features}", "")


def _board(root, chip):
    name = jetson.model(root)
    if not name and chip is None:
        return None
    family = "" if chip is None else f" ({chip.name})"
    return Check("board", "ok", (name or "unnamed") + family, "")


def _jetpack(root, chip):
    if chip is None:
        return None
    release = jetson.l4t(root)
    if not release:
        return Check("jetpack", "warning", "the L4T release cannot be read", "see /etc/nv_tegra_release")
    jetpack = jetson.jetpack(release)
    return Check("jetpack", "ok", f"L4T {release} (JetPack {jetpack or 'version unknown'})", "")


def _power_mode(chip):
    if chip is None:
        return None
    mode = jetson.power_mode(jetson.output_of("nvpmodel", "-q"))
    if mode.startswith("MAXN"):
        return Check("power mode", "ok", mode, "")
    fastest = "sudo nvpmodel -m 0" if chip.compute_capability == "6.2" else "sudo nvpmodel -m N, N from nvpmodel -p"
    if not mode:
        return Check(
            "power mode", "warning", "nvpmodel -q does not show it", f"sudo nvpmodel -q; fastest mode: {fastest}"
        )
    return Check("power mode", "warning", f"{mode}, which is not the fastest", fastest)


def _gpu_clock(root, chip):
    if chip is None:
        return None
    clock = jetson.gpu_clock(root) or jetson.gpu_clock(root, jetson.output_of("jetson_clocks", "--show"))
    if clock is None:
        return Check("gpu clock", "warning", "unknown", "sudo jetson_clocks --show")
    if clock[0] == clock[1]:
        return Check("gpu clock", "ok", f"pinned to {clock[0]} MHz", "")
    return Check(
        "gpu clock", "warning", f"varies from {clock[0]} to {clock[1]} MHz", "before measuring: sudo jetson_clocks"
    )


def _memory(root):
    info = memory_info(os.path.join(root, "proc/meminfo"))
    if not info:
        return Check("memory", "warning", "unknown (no /proc/meminfo)", "")
    total, free, swap = (info.get(name, 0) / 2**30 for name in ("MemTotal", "MemAvailable", "SwapTotal"))
    text = f"{total:.1f} GiB, {free:.1f} available, swap {swap:.1f}"
    available = memory_available_bytes(root)
    if available is not None and available < info.get("MemAvailable", 0):
        text += f"; the limit of this container leaves {available / 2**30:.1f}"
    enough = (available or 0) >= _LEAST_MEMORY_BYTES
    fix = "" if enough else "stop other programs; classify needs 1 GiB, train up to 7"
    return Check("memory", "ok" if enough else "warning", text, fix)


def _decode_memory():
    """The memory that all photos being decoded at a time may use."""
    text = f"{memory_budget.default_bytes() >> 20} MiB for decoding photos"
    source = memory_budget.SETTING if os.environ.get(memory_budget.SETTING) else "a quarter of the free memory"
    return Check("decode memory", "ok", f"{text} ({source}; {memory_budget.SETTING}=N changes it)", "")


def _swap(root, chip):
    """Only a board whose GPU shares the main memory runs out of it while an engine is built."""
    if chip is None or memory_info(os.path.join(root, "proc/meminfo")).get("MemTotal", 0) > 12 << 30:
        return None
    swap_bytes = jetson.real_swap_bytes(root)
    text = f"{swap_bytes / 2**30:.1f} GiB besides zram"
    if swap_bytes >= _LEAST_SWAP_BYTES - (1 << 20):  # mkswap keeps a page for itself
        return Check("swap", "ok", text, "")
    return Check("swap", "warning", text + ": the system may kill the building of an engine", jetson.SWAP_COMMANDS)


def _disk():
    free_bytes = shutil.disk_usage(os.getcwd()).free
    enough = free_bytes >= _LEAST_DISK_BYTES
    text = f"{free_bytes / 2**30:.1f} GiB free in {os.getcwd()}"
    return Check(
        "disk", "ok" if enough else "warning", text, "" if enough else "free some space: a bundle takes 0.3 GiB"
    )


def _cameras(root):
    names = [f"{device} ({name})" for device, name in jetson.cameras(root)]
    if names:
        return Check("cameras", "ok", ", ".join(names), "")
    return Check("cameras", "missing", "no /dev/video*", "plug in a USB camera, or check the CSI camera's cable")


def _gpu(root, chip):
    devices = [path for path in ("dev/nvidia0", "dev/nvhost-gpu") if os.path.exists(os.path.join(root, path))]
    if not devices and chip is None:
        return Check("nvidia gpu", "missing", "none: TensorRT engines cannot run here, CPU engines can", "")
    if chip is not None:
        text = f"compute capability {chip.compute_capability}, shares the board's memory"
    else:
        lines = jetson.output_of("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").splitlines()
        text = lines[0].replace(", ", ", driver ") if lines else f"/{devices[0]}"
    return Check("nvidia gpu", "ok", text, "")


def _cuda(root, chip):
    version = jetson.cuda_version(root)
    if not version:
        fix = "sudo apt-get install nvidia-jetpack" if chip else "NVIDIA's installer; pip's wheels bring their own"
        return Check("cuda", "missing", "no toolkit under /usr/local/cuda", fix)
    if chip and not shutil.which("nvcc"):  # installing pycuda then fails
        fix = "export PATH=/usr/local/cuda/bin:$PATH CUDA_ROOT=/usr/local/cuda"
        return Check("cuda", "warning", f"{version}, its nvcc is not on PATH", fix)
    return Check("cuda", "ok", version, "")


def _tensorrt(root, answer):
    if answer is not None and answer.value:
        return Check("tensorrt", "ok", str(answer.value), "")
    if answer is not None:
        return Check("tensorrt", "missing", answer.problem, INSTALL["tensorrt"])
    if glob.glob(os.path.join(root, "usr/lib/python3*/dist-packages/tensorrt")):
        fix = "python3 -m venv --system-site-packages VENV"
        return Check("tensorrt", "missing", "installed for the system, but not visible to this Python", fix)
    return Check("tensorrt", "missing", "needed for engines on NVIDIA GPUs", INSTALL["tensorrt"])


def _pycuda(answer):
    if answer is None:
        return Check("pycuda", "missing", "needed for engines on NVIDIA GPUs", INSTALL["pycuda"])
    if answer.value is None:
        return Check("pycuda", "missing", answer.problem, INSTALL["pycuda"])
    version, device, capability, usable = answer.value
    if not usable:
        return Check("pycuda", "missing", f"{version}: {context.OLD_PYCUDA}", INSTALL["pycuda"])
    return Check("pycuda", "ok", f"{version}, {device}, compute capability {capability}", "")


def _tf_trt(answer):
    if answer is None:
        return Check("tf-trt", "missing", "needs TensorFlow", INSTALL["tensorflow"])
    if answer.value is None:
        return Check("tf-trt", "missing", f"TensorFlow {answer.problem}", INSTALL["tensorflow"])
    if answer.value["problem"]:
        problem, _, fix = answer.value["problem"].partition("\nTo get it: ")
        return Check("tf-trt", "missing", problem, fix)
    tensorrt = ".".join(map(str, answer.value["loaded"]))
    return Check("tf-trt", "ok", f"TensorFlow {answer.value['tensorflow']} with TensorRT {tensorrt}", "")


def _protobuf(answer):
    if answer is None:
        return None
    if answer.value is None:
        return Check("protobuf", "warning", answer.problem, "pip install --force-reinstall protobuf")
    from edge_runtime.engines import tf_trt  # it needs numpy, which may be missing

    version = libraries.library_version("protobuf")
    if answer.value in tf_trt.FAST_PROTOBUFS:
        return Check("protobuf", "ok", f"{version} ({answer.value})", "")
    text = f"{version} (pure Python): loading TF-TRT engines may take minutes"
    return Check("protobuf", "warning", text, tf_trt.fix_for_protobuf())


def _gstreamer(chip):
    try:
        cv2 = require("cv2")
    except MissingRequirement:  # its own line says how to get it
        return Check("gstreamer", "missing", "needs OpenCV: CSI cameras do not work", "")
    match = re.search(r"GStreamer: +(YES|NO)(?: \((.+)\))?", cv2.getBuildInformation())
    if match and match.group(1) == "YES":
        return Check("gstreamer", "ok", f"OpenCV {cv2.__version__} with GStreamer {match.group(2) or ''}", "")
    fix = "OpenCV from the system's packages: sudo apt-get install python3-opencv"
    if chip:  # JetPack's own OpenCV has GStreamer
        fix = "pip uninstall opencv-python opencv-python-headless\npython3 -m venv --system-site-packages VENV"
    return Check("gstreamer", "missing", f"OpenCV {cv2.__version__} without GStreamer: CSI cameras do not work", fix)


def _library(name, purpose):
    module = _MODULES.get(name, name)
    if module == "cv2":  # examined for GStreamer, too; pip may know it where a library of the system's is missing
        try:
            require(module)
        except MissingRequirement as error:
            return Check(name, "missing", f"needed for {purpose} ({error.__cause__})", INSTALL[module])
    for distribution in (name,) + libraries.OTHER_DISTRIBUTIONS.get(name, ()):
        version = libraries.distribution_version(distribution)
        if name == "numpy" and version == "1.19.5" and platform.machine() == "aarch64":
            return Check(
                name,
                "warning",
                "1.19.5 crashes other programs on a Jetson with 'Illegal instruction' (picnic-edge works around it)",
                "pip install numpy==1.19.4; or: echo 'export OPENBLAS_CORETYPE=ARMV8' >> ~/.bashrc",
            )
        if version:
            return Check(name, "ok", version if distribution == name else f"{version} ({distribution})", "")
    if module in sys.modules:  # pip does not know JetPack's OpenCV
        return Check(name, "ok", f"{getattr(sys.modules[module], '__version__', '?')} (not installed by pip)", "")
    oldest = _OLDEST_PYTHONS.get(name, (3, 6))
    if sys.version_info < oldest:
        return Check(name, "missing", "not for this machine: it needs Python {}.{} or newer".format(*oldest), "")
    return Check(name, "missing", f"needed for {purpose}", INSTALL.get(module, f"pip install {name}"))
