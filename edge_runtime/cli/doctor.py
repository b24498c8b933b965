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

import cv2

from edge_runtime.console import print_json
from edge_runtime.engines import tf_trt
from edge_runtime.engines.tensorrt import context
from edge_runtime.machine import cpu, libraries
from edge_runtime.machine import jetson as machine_jetson
from edge_runtime.machine.jetson import (
    SWAP_COMMANDS,
    cameras,
    chip,
    cuda_version,
    gpu_clock,
    l4t,
    model,
    output_of,
    power_mode,
    real_swap_bytes,
)
from edge_runtime.machine.libraries import INSTALL
from edge_runtime.machine.memory import memory_available_bytes, memory_info
from edge_runtime.photos import memory_budget

Check = typing.NamedTuple(
    "Check",
    [
        ("name", str),
        ("status", str),  # "ok", "missing" (an engine or verb cannot run) or "warning"
        ("found", str),
        ("mend", str),  # the command or act that helps, "" where nothing is to be done
    ],
)
Answer = typing.NamedTuple(
    "Answer",
    [
        ("value", typing.Any),  # None where the question could not be answered
        ("problem", str),
    ],
)

# What each library is for, in the order of the report: (distribution, purpose)
_LIBRARIES = (
    ("numpy", "everything"),
    ("opencv-python-headless", "resizing photos, and videos and cameras"),
    ("simplejpeg", "decoding JPEGs"),
    ("pillow", "decoding other photos"),
    ("pillow-heif", "photos of iPhones (HEIC)"),
    ("onnxruntime", "running bundles on any CPU"),
    ("openvino", "faster engines on x86 CPUs"),
    ("tensorflow", "training"),
    ("tf2onnx", "training (export)"),
    ("scikit-learn", "evaluating"),
)
_MODULES = {
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pillow-heif": "pillow_heif",
    "scikit-learn": "sklearn",
}
_LEAST_MEMORY_BYTES = 2 << 30
_LEAST_SWAP_BYTES = 4 << 30  # what builds on boards with 4 to 8 GiB of memory were helped by
_LEAST_DISK_BYTES = 1 << 30
_ASK_S = 120

# Asked of a fresh Python each, because these libraries can end the process that imports them.
_QUESTIONS = {
    "tf-trt": (
        "from edge_runtime.engines import tf_trt\n"
        "from edge_runtime.errors import MissingRequirement\n"
        "found, problem = tf_trt.probe(), ''\n"
        "try:\n    tf_trt.require_tensorrt(found)\n"
        "except MissingRequirement as error:\n    problem = str(error)\n"
        "answer = dict(found._asdict(), problem=problem)"
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
    this = argparse.ArgumentParser(
        prog="picnic-edge doctor",
        description="Say what this machine can run, what is missing, and the command that fixes it.",
        epilog="example: picnic-edge doctor",
    )
    this.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = this.parse_args(argv)
    checks = examine()
    if options.json:
        print_json({"machine": cpu.describe(), "checks": [check._asdict() for check in checks]})
        return
    width = max(len(check.name) for check in checks)
    margin = " " * (11 + width)
    for check in checks:
        print("%-7s  %-*s  %s" % (check.status, width, check.name, check.found))
        if check.mend:
            print("%s-> %s" % (margin, check.mend.replace("\n", "\n   " + margin)))


def examine(root="/"):
    """Returns the list of Checks of this machine, without importing any heavy library into this process.

    Args:
        root: folder that stands for /, for what is read from /proc, /sys, /etc, /dev and /usr.
    """
    jetson = chip(root)
    with concurrent.futures.ThreadPoolExecutor(len(_QUESTIONS)) as pool:
        asked = {name: pool.submit(ask, code) for name, code in _QUESTIONS.items() if _installed(name)}
        answers = {name: future.result() for name, future in asked.items()}
    steps = [
        ("python", _python),
        ("cpu", lambda: _cpu(root)),
        ("board", lambda: _board(root, jetson)),
        ("jetpack", lambda: _jetpack(root, jetson)),
        ("power mode", lambda: _power_mode(jetson)),
        ("gpu clock", lambda: _gpu_clock(root, jetson)),
        ("memory", lambda: _memory(root)),
        ("decode memory", _decode_memory),
        ("swap", lambda: _swap(root, jetson)),
        ("disk", _disk),
        ("cameras", lambda: _cameras(root)),
        ("nvidia gpu", lambda: _gpu(root, jetson)),
        ("cuda", lambda: _cuda(root, jetson)),
        ("tensorrt", lambda: _tensorrt(root, answers.get("tensorrt"))),
        ("pycuda", lambda: _pycuda(answers.get("pycuda"))),
    ]
    steps += [(library[0], functools.partial(_library, *library)) for library in _LIBRARIES]
    steps += [
        ("tf-trt", lambda: _tf_trt(answers.get("tf-trt"))),
        ("protobuf", lambda: _protobuf(answers.get("protobuf"))),
        ("gstreamer", lambda: _gstreamer(cv2.getBuildInformation(), jetson)),
    ]
    checks = [_careful(name, step) for name, step in steps]
    return [check for check in checks if check is not None]


def ask(code):
    """Runs code that sets `answer` in a fresh Python, at most _ASK_S. Returns an Answer."""
    above = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.pathsep.join([above] + [name for name in [os.environ.get("PYTHONPATH")] if name])
    environment = dict(os.environ, PYTHONPATH=path, TF_CPP_MIN_LOG_LEVEL="2")
    try:
        done = subprocess.run(
            [sys.executable, "-c", code + _ANSWER],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            timeout=_ASK_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(None, f"did not answer within {_ASK_S} s")
    except OSError as error:
        return Answer(None, str(error))
    marked = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.startswith("ANSWER ")]
    if marked:
        return Answer(json.loads(marked[-1][len("ANSWER ") :]), "")
    said = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    how = f"ended its process with signal {-done.returncode}" if done.returncode < 0 else "cannot be used"
    return Answer(None, f"{how}: {said[-1] if said else 'it said nothing'}")


def _careful(name, step):
    """What cannot be examined is one line of the report, not the end of it."""
    try:
        return step()
    except Exception as error:
        return Check(name, "warning", f"could not be examined ({type(error).__name__}: {error})", "")


def _installed(question):
    """Whether the library that a question is about is here, asked without importing it."""
    if question == "protobuf":
        return libraries.library_version("protobuf") is not None
    return importlib.util.find_spec({"tf-trt": "tensorflow"}.get(question, question)) is not None


def _python():
    fine = sys.version_info >= (3, 6)
    return Check("python", "ok" if fine else "warning", platform.python_version(), "" if fine else "use 3.6 or newer")


def _cpu(root):
    info = cpu.cpu_info(os.path.join(root, "proc/cpuinfo"))
    name = info.get("model name") or info.get("Hardware") or platform.processor() or "unknown"
    features = " ".join(cpu.cpu_features(info)) or "no known features"
    cores, there = cpu.core_count(root), os.cpu_count() or 1
    # Fewer than there are: a container's CPU quota, or the cores that this process is kept to.
    text = f"{cores} cores" if cores >= there else f"{cores} of {there} cores (limited for this process)"
    return Check("cpu", "ok", f"{name}, {text}, {features}", "")


def _board(root, jetson):
    name = model(root)
    if not name and jetson is None:
        return None
    family = "" if jetson is None else f" ({jetson.name})"
    return Check("board", "ok", (name or "unnamed") + family, "")


def _jetpack(root, jetson):
    if jetson is None:
        return None
    release = l4t(root)
    if not release:
        return Check("jetpack", "warning", "L4T's release cannot be read", "see cat /etc/nv_tegra_release")
    jetpack = machine_jetson.jetpack(release)
    return Check("jetpack", "ok", f"L4T {release} (JetPack {jetpack or 'of it is not known here'})", "")


def _power_mode(jetson):
    if jetson is None:
        return None
    mode = power_mode(output_of("nvpmodel", "-q"))
    if mode.startswith("MAXN"):
        return Check("power mode", "ok", mode, "")
    most = "sudo nvpmodel -m 0" if jetson.compute_capability == "6.2" else "sudo nvpmodel -m N, N from nvpmodel -p"
    if not mode:
        return Check("power mode", "warning", "nvpmodel -q does not say it", "sudo nvpmodel -q; the fastest: " + most)
    return Check("power mode", "warning", f"{mode}, which is not the fastest", most)


def _gpu_clock(root, jetson):
    if jetson is None:
        return None
    clock = gpu_clock(root) or gpu_clock(root, output_of("jetson_clocks", "--show"))
    if clock is None:
        return Check("gpu clock", "warning", "unknown", "sudo jetson_clocks --show")
    if clock[0] == clock[1]:
        return Check("gpu clock", "ok", f"pinned to {clock[0]} MHz", "")
    return Check("gpu clock", "warning", "moves between %d and %d MHz" % clock, "before measuring: sudo jetson_clocks")


def _memory(root):
    info = memory_info(os.path.join(root, "proc/meminfo"))
    if not info:
        return Check("memory", "warning", "unknown (no /proc/meminfo)", "")
    text = "%.1f GiB, %.1f available, swap %.1f" % tuple(
        info.get(name, 0) / 2.0**30 for name in ("MemTotal", "MemAvailable", "SwapTotal")
    )
    available = memory_available_bytes(root)
    if available is not None and available < info.get("MemAvailable", 0):
        text += f"; the limit of this container leaves {available / 2.0**30:.1f}"
    enough = (available or 0) >= _LEAST_MEMORY_BYTES
    mend = "" if enough else "stop other programs; classifying takes 1 GiB, training up to 7"
    return Check("memory", "ok" if enough else "warning", text, mend)


def _decode_memory():
    """What edge_runtime.photos.memory_budget lets all photos that are decoded at a time take together."""
    text = f"{memory_budget.default_bytes() >> 20} MiB for the photos decoded at a time"
    source = memory_budget.SETTING if os.environ.get(memory_budget.SETTING) else "a quarter of what is free"
    return Check("decode memory", "ok", f"{text} ({source}; {memory_budget.SETTING}=N changes it)", "")


def _swap(root, jetson):
    """Only a board whose GPU shares its memory runs out of it while an engine is built."""
    if jetson is None or memory_info(os.path.join(root, "proc/meminfo")).get("MemTotal", 0) > 12 << 30:
        return None
    swap_bytes = real_swap_bytes(root)
    text = f"{swap_bytes / 2.0**30:.1f} GiB beside zram"
    if swap_bytes >= _LEAST_SWAP_BYTES - (1 << 20):  # mkswap keeps a page for itself
        return Check("swap", "ok", text, "")
    return Check("swap", "warning", text + ": building an engine may be killed", SWAP_COMMANDS)


def _disk():
    free_bytes = shutil.disk_usage(os.getcwd()).free
    enough = free_bytes >= _LEAST_DISK_BYTES
    text = f"{free_bytes / 2.0**30:.1f} GiB free in {os.getcwd()}"
    return Check("disk", "ok" if enough else "warning", text, "" if enough else "free some: a bundle takes 0.3 GiB")


def _cameras(root):
    found = ["%s (%s)" % camera for camera in cameras(root)]
    if found:
        return Check("cameras", "ok", ", ".join(found), "")
    return Check("cameras", "missing", "no /dev/video*", "plug in a USB camera, or check the CSI camera's cable")


def _gpu(root, jetson):
    devices = [path for path in ("dev/nvidia0", "dev/nvhost-gpu") if os.path.exists(os.path.join(root, path))]
    if not devices and jetson is None:
        return Check("nvidia gpu", "missing", "none: TensorRT engines cannot run here; CPU engines can", "")
    if jetson is not None:
        text = f"compute capability {jetson.compute_capability}, shares the board's memory"
    else:
        named = output_of("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
        text = ", driver ".join(named.splitlines()[0].split(", ")) if named else "/" + devices[0]
    return Check("nvidia gpu", "ok", text, "")


def _cuda(root, jetson):
    version = cuda_version(root)
    if not version:
        mend = "sudo apt-get install nvidia-jetpack" if jetson else "NVIDIA's installer; pip's wheels bring their own"
        return Check("cuda", "missing", "no toolkit under /usr/local/cuda", mend)
    if jetson and not shutil.which("nvcc"):  # installing pycuda then fails
        mend = "export PATH=/usr/local/cuda/bin:$PATH CUDA_ROOT=/usr/local/cuda"
        return Check("cuda", "warning", version + ", its nvcc is not on PATH", mend)
    return Check("cuda", "ok", version, "")


def _tensorrt(root, answer):
    if answer is not None and answer.value:
        return Check("tensorrt", "ok", str(answer.value), "")
    if answer is not None:
        return Check("tensorrt", "missing", answer.problem, INSTALL["tensorrt"])
    if glob.glob(os.path.join(root, "usr/lib/python3*/dist-packages/tensorrt")):
        mend = "python3 -m venv --system-site-packages VENV"
        return Check("tensorrt", "missing", "the system has it, this Python does not see it", mend)
    return Check("tensorrt", "missing", "needed for engines on NVIDIA GPUs", INSTALL["tensorrt"])


def _pycuda(answer):
    if answer is None:
        return Check("pycuda", "missing", "needed for engines on NVIDIA GPUs", INSTALL["pycuda"])
    if answer.value is None:
        return Check("pycuda", "missing", answer.problem, INSTALL["pycuda"])
    version, device, capability, usable = answer.value
    if not usable:
        return Check("pycuda", "missing", f"{version}: {context.OLD_PYCUDA}", context.INSTALL_PYCUDA)
    return Check("pycuda", "ok", f"{version}, {device}, compute capability {capability}", "")


def _tf_trt(answer):
    if answer is None:
        return Check("tf-trt", "missing", "needs TensorFlow", INSTALL["tensorflow"])
    if answer.value is None:
        return Check("tf-trt", "missing", "TensorFlow " + answer.problem, INSTALL["tensorflow"])
    if answer.value["problem"]:
        problem, _, mend = answer.value["problem"].partition("\nTo get it: ")
        return Check("tf-trt", "missing", problem, mend)
    text = "TensorFlow %s with TensorRT %s"
    return Check("tf-trt", "ok", text % (answer.value["tensorflow"], ".".join(map(str, answer.value["loaded"]))), "")


def _protobuf(answer):
    if answer is None:
        return None
    if answer.value is None:
        return Check("protobuf", "warning", answer.problem, "pip install --force-reinstall protobuf")
    version = libraries.library_version("protobuf")
    if answer.value in tf_trt.FAST_PROTOBUFS:
        return Check("protobuf", "ok", f"{version} ({answer.value})", "")
    text = f"{version} (written in Python): loading TF-TRT engines may take minutes"
    return Check("protobuf", "warning", text, tf_trt.fix_for_protobuf())


def _gstreamer(build_information, jetson):
    found = re.search(r"GStreamer: +(YES|NO)(?: \((.+)\))?", build_information)
    if found and found.group(1) == "YES":
        return Check("gstreamer", "ok", f"OpenCV {cv2.__version__} with GStreamer {found.group(2) or ''}", "")
    mend = "OpenCV from the system's packages: sudo apt-get install python3-opencv"
    if jetson:  # JetPack's own has it
        mend = "pip uninstall opencv-python opencv-python-headless\npython3 -m venv --system-site-packages VENV"
    return Check("gstreamer", "missing", f"OpenCV {cv2.__version__} without it: no CSI camera", mend)


def _library(name, purpose):
    for distribution in (name,) + libraries.OTHER_DISTRIBUTIONS.get(name, ()):
        version = libraries.distribution_version(distribution)
        if name == "numpy" and version == "1.19.5" and platform.machine() == "aarch64":
            return Check(
                name,
                "warning",
                "1.19.5 ends other programs with 'Illegal instruction' on a Jetson (picnic-edge works around it)",
                "pip install numpy==1.19.4; or: echo 'export OPENBLAS_CORETYPE=ARMV8' >> ~/.bashrc",
            )
        if version:
            return Check(name, "ok", f"{version} {'' if distribution == name else '(%s)' % distribution}", "")
    module = _MODULES.get(name, name)
    if module in sys.modules:  # JetPack's OpenCV is no distribution that pip knows
        return Check(name, "ok", f"{getattr(sys.modules[module], '__version__', '?')} (not installed by pip)", "")
    return Check(name, "missing", "needed for " + purpose, INSTALL.get(module, f"pip install {name}"))
