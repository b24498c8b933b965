"""Clocks, temperatures and throttle counters, read from files of /sys; and numbers from such files in general."""

import glob
import os

from benchmarks.energy.source import real_temperatures
from edge_runtime.machine import jetson

# Counters that grow when the hardware slows itself down: an Orin's for lack of current, an x86 CPU's for heat
OVER_CURRENT, HEAT = "over-current counters", "heat counters"
_THROTTLE_COUNTERS = (
    (OVER_CURRENT, "sys/class/hwmon/hwmon*/oc[0-9]*_event_cnt"),
    (HEAT, "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count"),
)
_CPU_CLOCKS = "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"
_THERMAL_ZONES = "sys/class/thermal/thermal_zone*"


def clocks_mhz(root):
    """Returns {"cpu": the fastest core's clock, "gpu"} in MHz, as far as they can be read. root: stands for /."""
    clocks = {}
    cores = [read_number(path) for path in glob.glob(os.path.join(root, _CPU_CLOCKS))]
    speeds_khz = [speed for speed in cores if speed is not None]
    if speeds_khz:
        clocks["cpu"] = max(speeds_khz) / 1e3
    for pattern in jetson.GPU_CLOCKS:
        for path in glob.glob(os.path.join(root, pattern, "cur_freq")):
            speed_hz = read_number(path)
            if speed_hz is not None:
                clocks["gpu"] = speed_hz / 1e6
    return clocks


def temperatures_c(root):
    """Returns {thermal zone: degrees Celsius}. root: stands for /."""
    temperatures = {}
    for zone in sorted(glob.glob(os.path.join(root, _THERMAL_ZONES))):
        value = read_number(os.path.join(zone, "temp"))  # a sensor that sleeps gives an error
        if value is not None:
            temperatures[jetson.read(zone, "type") or os.path.basename(zone)] = value / 1e3
    return real_temperatures(temperatures)


def throttle_counts(root):
    """Returns {(OVER_CURRENT or HEAT, path): count}. root: stands for /."""
    counts = {}
    for what, pattern in _THROTTLE_COUNTERS:
        for path in glob.glob(os.path.join(root, pattern)):
            count = read_number(path)
            if count is not None:
                counts[what, path] = count
    return counts


def read_number(path):
    """Returns the number in a file, None where it cannot be read or holds none."""
    try:
        with open(path, encoding="ascii") as file:
            return float(file.read())
    except (OSError, ValueError):
        return None


def needs_root(path):
    """Whether reading a file is refused for lack of permission."""
    try:
        with open(path, encoding="ascii") as file:
            file.read(1)
    except PermissionError:
        return True
    except (OSError, ValueError):
        pass
    return False
