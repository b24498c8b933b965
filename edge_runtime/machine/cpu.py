"""The processor: how many cores may be used, which instruction sets it has; and a description of this machine."""

import os
import platform
import typing

from edge_runtime.machine.control_groups import control_groups, read_small
from edge_runtime.machine.memory import memory_info

# Instruction sets that CPU engines are compiled for; an engine made with one does not run on a CPU without it.
_CPU_FEATURES = (
    "avx",
    "avx2",
    "fma",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "asimdhp",
    "bf16",
    "i8mm",
    "sve",
)


def describe():
    """Returns this machine as plain values: system, architecture, cpu, cpu_features, cores, memory_bytes, python."""
    cpu = cpu_info()
    return {
        "system": platform.platform(),
        "architecture": platform.machine(),
        "cpu": cpu.get("model name") or cpu.get("Hardware") or platform.processor() or "unknown",
        "cpu_features": cpu_features(),
        "cores": core_count(),
        "memory_bytes": memory_info().get("MemTotal"),
        "python": platform.python_version(),
    }


def core_count(root="/"):
    """Returns how many cores this process may use: by its affinity, and by the CPU quota of its container.

    Args:
        root: folder that stands for /, for what is read from /proc and /sys.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    for folder in control_groups("cpu", root):
        # Version 2 has both numbers in one file, "max" for no limit; version 1 has -1.
        quota = (read_small(folder, "cpu.max") or read_small(folder, "cpu.cfs_quota_us")).split()
        period = quota[1:] or read_small(folder, "cpu.cfs_period_us").split()
        if quota and period and quota[0].isdigit() and period[0].isdigit() and int(period[0]):
            cores = min(cores, -(-int(quota[0]) // int(period[0])))
    return max(1, cores)


def cpu_features(info=None):
    """Returns the sorted instruction sets of _CPU_FEATURES that a CPU has.

    Args:
        info: a dict of cpu_info; None for this machine's CPU.
    """
    info = cpu_info() if info is None else info
    flags = (info.get("flags") or info.get("Features") or "").split()
    return sorted(set(flags) & set(_CPU_FEATURES))


def cpu_info(path="/proc/cpuinfo"):
    """Returns the fields of the first processor in /proc/cpuinfo, {} where there is none."""
    fields: typing.Dict[str, str] = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                fields.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    return fields
