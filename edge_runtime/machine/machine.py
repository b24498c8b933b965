"""What this machine is: written into engines, benchmarks and doctor's report."""

import contextlib
import os
import platform
import re
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


def core_count(root="/"):
    """Returns how many cores this process may use: by its affinity, and by the CPU quota of its container.

    Args:
        root: folder that stands for /, for what is read from /proc and /sys.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    for folder in _control_groups("cpu", root):
        # Version 2 has both numbers in one file, "max" for no limit; version 1 has -1.
        quota = (_read(folder, "cpu.max") or _read(folder, "cpu.cfs_quota_us")).split()
        period = quota[1:] or _read(folder, "cpu.cfs_period_us").split()
        if quota and period and quota[0].isdigit() and period[0].isdigit() and int(period[0]):
            cores = min(cores, -(-int(quota[0]) // int(period[0])))
    return max(1, cores)


def memory_available_bytes(root="/"):
    """Returns how much memory this process may still take: the system's, or what its container's limit leaves of it.

    Args:
        root: as for core_count.

    Returns:
        bytes, None where nothing says it.
    """
    available = memory_info(os.path.join(root, "proc/meminfo")).get("MemAvailable")
    for folder in _control_groups("memory", root):
        limit = _read(folder, "memory.max") or _read(folder, "memory.limit_in_bytes")
        usage = _read(folder, "memory.current") or _read(folder, "memory.usage_in_bytes")
        if limit.isdigit() and usage.isdigit():  # "max" is no limit
            stat = dict(line.split()[:2] for line in _read(folder, "memory.stat").splitlines() if len(line.split()) > 1)
            # Files that are only cached count as used, and are dropped when memory is wanted. In version 1 only the
            # total is with the groups below.
            cached = int(stat.get("total_inactive_file") or stat.get("inactive_file") or 0)
            left = max(0, int(limit) - int(usage) + cached)
            available = left if available is None else min(available, left)
    return available


def _control_groups(controller, root):
    """Yields the folders of the control groups (version 1 and 2) that this process is in, and of those above them."""
    for mount in _read(root, "proc/self/mountinfo").splitlines():
        fields, _, more = mount.partition(" - ")
        place, options = fields.split(), more.split()
        if len(place) < 5 or len(options) < 3:
            continue
        if options[0] == "cgroup2":
            wanted = ""
        elif options[0] == "cgroup" and controller in options[2].split(","):
            wanted = controller
        else:
            continue
        # The part of the hierarchy that is mounted, and where: inside a container it may begin at its own group.
        top, mounted_at = (_without_octals(text) for text in place[3:5])
        for line in _read(root, "proc/self/cgroup").splitlines():
            _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
            if wanted not in controllers.split(","):
                continue
            inside = os.path.relpath(path, top)
            folder = mounted_at = os.path.join(root, mounted_at.lstrip("/"))
            if not inside.startswith(".."):
                folder = os.path.normpath(os.path.join(mounted_at, inside))
            yield folder
            while folder.startswith(mounted_at + os.sep):
                folder = os.path.dirname(folder)
                yield folder


def _without_octals(text):
    """Returns a name of /proc/self/mountinfo as it is: a space there is \\040."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal.group(1), 8)), text)


def _read(folder, name):
    """Returns a small file's text, "" where there is none."""
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="surrogateescape") as file:
            return file.read().strip()
    except OSError:
        return ""


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
