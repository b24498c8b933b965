"""What this machine is: written into engines, benchmarks and doctor's report."""

import contextlib
import os
import platform
import typing

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

# distribution -> others that bring the same library
OTHER_DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-openvino"),
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python"),
    "tensorflow": ("tensorflow-cpu", "tensorflow-gpu", "tf-nightly"),
}


def describe():
    """Returns a dict of plain values: system, architecture, cpu, cores, features, memory_bytes, python."""
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


def core_count():
    """Returns how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def cpu_features(info=None):
    """Returns the sorted instruction sets of _CPU_FEATURES that a CPU has: this one, or one of cpu_info."""
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


def memory_info(path="/proc/meminfo"):
    """Returns /proc/meminfo as {name: bytes}, {} where there is none."""
    try:
        with open(path, encoding="ascii") as file:
            lines = [line.split() for line in file]
    except OSError:
        return {}
    return {fields[0].rstrip(":"): int(fields[1]) * 1024 for fields in lines if fields[-1:] == ["kB"]}


def peak_memory_bytes():
    """Returns the largest resident size this process has had."""
    # getrusage also knows what the process that started this one had taken.
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def library_version(name):
    """Returns the version of a library by its distribution, or by another that brings it; None where there is none."""
    found = map(distribution_version, (name,) + OTHER_DISTRIBUTIONS.get(name, ()))
    return next((version for version in found if version is not None), None)


def distribution_version(name):
    """Returns the version of an installed distribution (as pip names it), None where it is not installed."""
    try:
        from importlib import metadata
    except ImportError:  # Python < 3.8
        import pkg_resources

        try:
            return pkg_resources.get_distribution(name).version
        except pkg_resources.DistributionNotFound:
            return None
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
