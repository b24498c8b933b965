"""picnic-edge doctor"""

import argparse
import os
import platform
import shutil
import sys
import typing

from edge_runtime import machine
from edge_runtime.command import print_json
from edge_runtime.requirements import INSTALL

Check = typing.NamedTuple(
    "Check",
    [
        ("name", str),
        ("status", str),  # "ok", "missing" (an engine or verb cannot run) or "warning"
        ("found", str),
        ("mend", str),  # the command or act that helps, "" where nothing is to be done
    ],
)

# What each library is for, in the order of the report: (distribution, other distributions that bring the same, purpose)
_LIBRARIES = (
    ("numpy", (), "everything"),
    ("opencv-python-headless", ("opencv-python", "opencv-contrib-python"), "decoding photos"),
    ("pillow", (), "reading photo headers"),
    ("onnxruntime", ("onnxruntime-gpu",), "running bundles on any CPU"),
    ("openvino", (), "faster engines on x86 CPUs"),
    ("tensorflow", ("tensorflow-cpu", "tf-nightly"), "training"),
    ("tf2onnx", (), "training (export)"),
    ("scikit-learn", (), "evaluating"),
    ("tensorrt", ("tensorrt-cu12", "tensorrt-cu13"), "engines on NVIDIA GPUs"),
    ("pycuda", (), "engines on NVIDIA GPUs"),
)
_MODULES = {"opencv-python-headless": "cv2", "pillow": "PIL", "scikit-learn": "sklearn"}
_LEAST_MEMORY_BYTES = 2 << 30
_LEAST_DISK_BYTES = 1 << 30


def main(argv=None):
    """Prints what this machine has and lacks."""
    this = argparse.ArgumentParser(
        prog="picnic-edge doctor",
        description="Say what this machine can run, what is missing, and the command that mends it.",
        epilog="example: picnic-edge doctor",
    )
    this.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = this.parse_args(argv)
    checks = examine()
    if options.json:
        print_json({"machine": machine.describe(), "checks": [check._asdict() for check in checks]})
        return
    width = max(len(check.name) for check in checks)
    for check in checks:
        print("%-7s  %-*s  %s" % (check.status, width, check.name, check.found))
        if check.mend:
            print("%s  -> %s" % (" " * (9 + width), check.mend))


def examine():
    """Returns the list of Checks of this machine, without importing any heavy library."""
    checks = [_python(), Check("cpu", "ok", _cpu(), "")]
    board = board_model()
    if board:
        checks.append(Check("board", "ok", board, ""))
    checks += [_memory(), _disk(), _gpu()]
    checks += [_library(*library) for library in _LIBRARIES]
    return checks


def board_model():
    """Returns the board's name from the device tree, "" on a PC."""
    try:
        with open("/proc/device-tree/model", encoding="utf-8", errors="replace") as file:
            return file.read().strip("\0\n ")
    except OSError:
        return ""


def _python():
    fine = sys.version_info >= (3, 6)
    return Check("python", "ok" if fine else "warning", platform.python_version(), "" if fine else "use 3.6 or newer")


def _cpu():
    found = machine.describe()
    return "%s, %d cores, %s" % (found["cpu"], found["cores"], " ".join(found["cpu_features"]) or "no known features")


def _memory():
    info = machine.memory_info()
    if not info:
        return Check("memory", "warning", "unknown (no /proc/meminfo)", "")
    text = "%.1f GiB, %.1f available, swap %.1f" % tuple(
        info.get(name, 0) / 2.0**30 for name in ("MemTotal", "MemAvailable", "SwapTotal")
    )
    enough = info.get("MemAvailable", 0) >= _LEAST_MEMORY_BYTES
    return Check(
        "memory", "ok" if enough else "warning", text, "" if enough else "stop other programs; training needs 2 GiB"
    )


def _disk():
    free_bytes = shutil.disk_usage(os.getcwd()).free
    enough = free_bytes >= _LEAST_DISK_BYTES
    text = "%.1f GiB free in %s" % (free_bytes / 2.0**30, os.getcwd())
    return Check("disk", "ok" if enough else "warning", text, "" if enough else "free some: a bundle takes 0.3 GiB")


def _gpu():
    devices = [path for path in ("/dev/nvidia0", "/dev/nvhost-gpu") if os.path.exists(path)]
    if devices:
        return Check("nvidia gpu", "ok", devices[0], "")
    return Check("nvidia gpu", "missing", "none: TensorRT engines cannot run here; CPU engines can", "")


def _library(name, others, purpose):
    for distribution in (name,) + others:
        version = machine.library_version(distribution)
        if version:
            return Check(name, "ok", "%s %s" % (version, "" if distribution == name else "(%s)" % distribution), "")
    module = _MODULES.get(name, name)
    if module in sys.modules:  # JetPack's OpenCV is no distribution that pip knows
        return Check(name, "ok", "%s (not installed by pip)" % getattr(sys.modules[module], "__version__", "?"), "")
    return Check(name, "missing", "needed for " + purpose, INSTALL.get(module, "pip install %s" % name))
