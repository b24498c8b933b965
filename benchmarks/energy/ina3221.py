"""The INA3221 sensors of NVIDIA's boards, as files: ina3221x (L4T R32, TX2) or ina3221 (R34 and newer, Orin).

Not yet run on hardware: written from recorded files and Linux' Documentation/hwmon/ina3221.
"""

import glob
import os
import typing

from benchmarks.energy.source import Sample, Source, whole_board
from benchmarks.energy.sysfs import clocks_mhz, needs_root, read_number, temperatures_c
from edge_runtime.machine import jetson

# L4T R32 on the TX2: (folder, channel) -> rail, where the driver does not name it itself (rail_name_*)
_TX2_RAILS = {
    ("0-0041", 0): "VDD_IN",
    ("0-0041", 1): "VDD_SYS_CPU",
    ("0-0040", 0): "VDD_SYS_GPU",
    ("0-0040", 1): "VDD_SYS_SOC",
}


class Ina3221(Source):
    """Watts of each rail, from milliwatts or from millivolts and milliamperes."""

    name = "sysfs"

    def __init__(self, root, _interval_s):
        self._root = root
        self._rails = _rail_files(root)
        watts, refused = self._watts()
        self.added = whole_board(watts)
        if not self._rails:
            self.problem = "no INA3221 power sensors (a Jetson has them)"
        elif not self.added and refused:
            self.problem = f"{refused}: not readable; run as root (sudo) or: sudo chmod a+r {refused}"
        elif not self.added:
            self.problem = f"INA3221: the rails {', '.join(sorted(watts)) or '(none)'} do not add up to a known board"

    def read(self, slow):
        """Returns a Sample in watts, with clocks and temperatures where slow."""
        watts, _ = self._watts()
        return Sample(watts, clocks_mhz(self._root) if slow else {}, temperatures_c(self._root) if slow else {})

    def _watts(self):
        """Returns ({rail: watts}, a file that may not be read or "")."""
        watts, refused = {}, ""
        for name, paths in self._rails.items():
            product = 1.0
            for path in paths:
                value = read_number(path)
                if value is None:
                    refused = refused or (path if needs_root(path) else "")
                    break
                product *= value / 1e3  # milliwatts; or millivolts and milliamperes
            else:
                watts[name] = product
        return watts, refused


def _rail_files(root):
    """Returns {rail: (file of milliwatts,) or (file of millivolts, file of milliamperes)}."""
    rails: typing.Dict[str, typing.Tuple[str, ...]] = {}
    drivers = os.path.join(root, "sys/bus/i2c/drivers")
    for path in sorted(glob.glob(os.path.join(drivers, "ina3221x/*/iio:device*/in_power[0-9]_input"))):
        folder, channel = os.path.dirname(path), int(os.path.basename(path)[len("in_power")])
        address = os.path.basename(os.path.dirname(folder))
        name = jetson.read(folder, f"rail_name_{channel}") or _TX2_RAILS.get((address, channel), "")
        if name and name != "NC":
            rails[name] = (path,)
    # 1 to 3 are the channels; 4 to 7 are shunt voltages and their sum
    for path in sorted(glob.glob(os.path.join(drivers, "ina3221/*/hwmon/hwmon*/in[1-3]_label"))):
        folder, label = os.path.split(path)
        name = jetson.read(folder, label)
        if name and name != "NC":
            rails[name] = tuple(os.path.join(folder, part + label[2] + "_input") for part in ("in", "curr"))
    return rails
