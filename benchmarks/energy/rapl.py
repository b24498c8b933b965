"""RAPL, the energy counters of Intel's and AMD's CPUs: /sys/class/powercap/intel-rapl:*.

They count the CPU packages and their memory (dram). Graphics cards, disks and the power supply are not measured.
Written from Linux' Documentation/power/powercap and ABI/testing.
"""

import glob
import os
import re
import typing

from benchmarks.energy.source import Sample, Source
from benchmarks.energy.sysfs import clocks_mhz, needs_root, read_number, temperatures_c
from edge_runtime.machine import jetson


class Rapl(Source):
    """Energy counters of the CPU packages and of the parts in them."""

    name, counts_joules = "rapl", True
    settle_s, renews_s = 0.0, 0.001

    def __init__(self, root, _interval_s):
        self._root = root
        self._counters: typing.Dict[str, str] = {}  # zone -> file
        self._wraps_at: typing.Dict[str, float] = {}
        self._last: typing.Dict[str, float] = {}
        self._joules: typing.Dict[str, float] = {}
        folder = os.path.join(root, "sys/class/powercap")
        for zone in sorted(glob.glob(os.path.join(folder, "intel-rapl:*"))):
            name = jetson.read(zone, "name")
            parts = os.path.basename(zone).split(":")
            if len(parts) == 3:  # intel-rapl:0:1 is a part of intel-rapl:0
                name = f"{jetson.read(os.path.join(folder, 'intel-rapl:' + parts[1]), 'name')}/{name}"
            counter = os.path.join(zone, "energy_uj")
            wraps_at = read_number(os.path.join(zone, "max_energy_range_uj"))
            if read_number(counter) is not None and wraps_at is not None:
                self._counters[name] = counter
                self._wraps_at[name] = wraps_at
                self._joules[name] = 0.0
        # A package's cores and graphics are in it, its memory is not. psys, the whole platform, is on few machines.
        self.added = tuple(name for name in self._counters if re.match(r"package-\d+(-die-\d+)?(/dram)?$", name))
        self.problem = "" if self.added else _why_missing(folder)

    def start(self):
        """Sets the counters' starting point: the next reading."""
        self._last = {}

    def read(self, slow):
        """Returns a Sample in joules since the start, with clocks and temperatures where slow; None after an error."""
        for name, counter in self._counters.items():
            value = read_number(counter)
            if value is None:
                return None
            increase = value - self._last.get(name, value)
            self._joules[name] += (increase if increase >= 0 else increase + self._wraps_at[name]) / 1e6
            self._last[name] = value
        clocks, temperatures = (clocks_mhz(self._root), temperatures_c(self._root)) if slow else ({}, {})
        return Sample(dict(self._joules), clocks, temperatures)


def _why_missing(folder):
    for counter in sorted(glob.glob(os.path.join(folder, "intel-rapl:*/energy_uj"))):
        if needs_root(counter):
            fix = f"run with sudo, or: sudo chmod a+r {folder}/intel-rapl:*/energy_uj"
            return f"RAPL: {counter} may be read by root only; {fix}"
    if not os.path.isdir(folder):
        return f"no RAPL: there is no {folder} (a virtual machine, a container, or a kernel without powercap)"
    return f"no RAPL: {folder} has no energy counter of a CPU package (sudo modprobe intel_rapl_msr may bring it)"
