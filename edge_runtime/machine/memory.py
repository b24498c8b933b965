"""How much memory the system, the container and this process have and use."""

import contextlib
import os

from edge_runtime.machine.control_groups import control_groups, read_small


def memory_available_bytes(root="/"):
    """Returns how many bytes of memory this process may still take, by the system and by its container's limit.

    Args:
        root: folder that stands for /, for what is read from /proc and /sys.

    Returns:
        bytes, None where neither is known.
    """
    available = memory_info(os.path.join(root, "proc/meminfo")).get("MemAvailable")
    for folder in control_groups("memory", root):
        limit = read_small(folder, "memory.max") or read_small(folder, "memory.limit_in_bytes")
        usage = read_small(folder, "memory.current") or read_small(folder, "memory.usage_in_bytes")
        if limit.isdigit() and usage.isdigit():  # "max" is no limit
            stat = dict(
                line.split()[:2] for line in read_small(folder, "memory.stat").splitlines() if len(line.split()) > 1
            )
            # Cached files count as used, though they are dropped when memory is needed. In version 1 only the total
            # includes the groups below.
            cached = int(stat.get("total_inactive_file") or stat.get("inactive_file") or 0)
            left = max(0, int(limit) - int(usage) + cached)
            available = left if available is None else min(available, left)
    return available


def memory_info(path="/proc/meminfo"):
    """Returns /proc/meminfo as {name: bytes}, {} where there is none."""
    try:
        with open(path, encoding="ascii") as file:
            lines = [line.split() for line in file]
    except OSError:
        return {}
    return {fields[0].rstrip(":"): int(fields[1]) * 1024 for fields in lines if fields[-1:] == ["kB"]}


def peak_memory_bytes():
    """Returns the largest resident size that this process has had."""
    # getrusage would include the memory of the process that started this one.
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
