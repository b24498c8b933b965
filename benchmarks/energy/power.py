"""Energy while a block of code runs: watts sampled by a thread, joules, throttling, clocks and temperatures.

    with power.Meter.open() as meter:
        ...
    meter.result()

Sources, the best first:
sysfs         the board's INA3221 sensors: /sys/bus/i2c/drivers/ina3221x (L4T R32, TX2) or ina3221 (R34 and newer, Orin)
tegrastats    NVIDIA's tool as a child process, where the sensors' files are not there (or not all of them)
rapl          the CPU's own energy counters, /sys/class/powercap/intel-rapl:* (Intel and AMD PCs)

Not yet run on hardware: both of the board's sources were written from recorded lines and files.

Rails that contain others are not added to them. VDD_IN (TX2, Orin NX and Nano) is the whole module; on AGX Orin the
module is VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0, which has VDDQ_VDD2_1V8AO in it (NVIDIA's Jetson Linux guide). On
a PC it is the CPU packages and their memory (dram); graphics cards, disks and the power supply are not measured.

Sources: jetson_stats (tegrastats' format), Linux' Documentation/hwmon/ina3221, /power/powercap and ABI/testing (sysfs).
"""

import collections
import glob
import os
import re
import shutil
import subprocess
import threading
import time
import typing

from edge_runtime.machine import jetson

INTERVAL_S = 0.1
TRUSTED_SAMPLES = 10  # fewer are said in the result
_SLOW_EVERY = 10  # clocks and temperatures: reading them costs more, and they change more slowly
_FIRST_LINE_S = 5.0  # of tegrastats

# A board's rails that add up to all of it; the first entry whose rails are there counts.
_WHOLE = (("VDD_IN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))
# L4T R32 on the TX2: (folder, channel) -> rail, where the driver does not name it itself (rail_name_*)
_TX2_RAILS = {
    ("0-0041", 0): "VDD_IN",
    ("0-0041", 1): "VDD_SYS_CPU",
    ("0-0040", 0): "VDD_SYS_GPU",
    ("0-0040", 1): "VDD_SYS_SOC",
}
_GPU_CLOCKS = ("sys/class/devfreq/*.g[pva]*/cur_freq", "sys/devices/*.gp10b/devfreq/*.gp10b/cur_freq")
_CPU_CLOCKS = "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"
_ZONES = "sys/class/thermal/thermal_zone*"
# Counters that grow when the hardware slows itself down: an Orin's for want of current, an x86 CPU's for heat
_OVER_CURRENT, _HEAT, _PINNED = "over-current counters", "heat counters", "the pinned GPU clock"
_THROTTLE_COUNTERS = (
    (_OVER_CURRENT, "sys/class/hwmon/hwmon*/oc[0-9]*_event_cnt"),
    (_HEAT, "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count"),
)

_NO_RAILS = ("NC", "RAM", "SWAP", "IRAM")  # not connected; memory, where a line was cut off before its unit
_RAIL = re.compile(r"(?<!\S)([A-Za-z]\w*) (\d+(?:\.\d+)?)(mW|W|)/(?:\d+(?:\.\d+)?)(?:mW|W|)(?!\S)")
_TEMPERATURE = re.compile(r"(?<!\S)(\w+)@(-?\d+(?:\.\d+)?)C(?!\S)")
_CPUS = re.compile(r"(?<!\S)CPU \[([^\]]*)\]")
_EMC = re.compile(r"(?<!\S)EMC_FREQ \d+%@(\d+)(?!\S)")
_GPU = re.compile(r"(?<!\S)GR3D_FREQ (?:\d+%)?@\[?(\d+(?:,\d+)*)\]?(?!\S)")

Sample = typing.NamedTuple(
    "Sample",
    [
        ("rails", dict),  # name -> watts now, or joules since some time ago (rapl)
        ("clocks_mhz", dict),  # "cpu" (the fastest core), "gpu", "emc" (memory)
        ("temperatures_c", dict),
    ],
)


def parse_tegrastats(line):
    """Reads a line of tegrastats: a TX2's of L4T R28 or R32, or an Orin's.

    Args:
        line: text. Of "now/average" pairs the first is taken.

    Returns:
        Sample (watts), or None for a line without any rail.
    """
    rails = {}
    for name, value, unit in _RAIL.findall(line):
        if name not in _NO_RAILS:
            rails[name] = float(value) / (1 if unit == "W" else 1000)
    if not rails:
        return None
    clocks = {}
    cores = _CPUS.search(line)
    speeds = re.findall(r"\d+%@(\d+)", cores.group(1)) if cores else []
    if speeds:
        clocks["cpu"] = max(int(speed) for speed in speeds)
    for name, pattern in (("gpu", _GPU), ("emc", _EMC)):
        found = pattern.search(line)
        if found:
            clocks[name] = max(int(speed) for speed in found.group(1).split(","))
    temperatures = {name: float(value) for name, value in _TEMPERATURE.findall(line)}
    return Sample(rails, clocks, _real_temperatures(temperatures))


def whole_board(names):
    """Returns those of a board's rails that add up to all of it, () where they are not known."""
    return next((rails for rails in _WHOLE if set(rails) <= set(names)), ())


def per_image(idle, loaded, images):
    """Returns the energy per image of two results of one source.

    Args:
        idle: result of a Meter while the machine did nothing, or None.
        loaded: result while it worked.
        images: how many images it worked through, > 0.

    Returns:
        {"joules_per_image", "joules_above_idle_per_image" (None without an idle result of the same source), "idle_w"},
        or {"unavailable": reason}.
    """
    if "unavailable" in loaded:
        return {"unavailable": loaded["unavailable"]}
    found = {"joules_per_image": loaded["joules"] / images, "joules_above_idle_per_image": None, "idle_w": None}
    if idle and "unavailable" not in idle and (idle["source"], idle["added"]) == (loaded["source"], loaded["added"]):
        above = loaded["joules"] - idle["mean_w"] * loaded["seconds"]
        found.update(joules_above_idle_per_image=above / images, idle_w=idle["mean_w"])
    return found


class Meter:
    """Measures in a with block; result() afterwards. Can be used once."""

    def __init__(self, source, reason, root, interval_s):
        self._source, self._reason = source, reason
        self._root, self._interval_s = root, interval_s
        self._samples = []  # type: typing.List[typing.Tuple[float, Sample]]
        self._skipped = 0
        self._stop = threading.Event()
        self._thread = None  # type: typing.Optional[threading.Thread]
        self._started = self._ended = 0.0
        self._throttled_before = {}  # type: typing.Dict[typing.Tuple[str, str], float]
        self._throttled_after = {}  # type: typing.Dict[typing.Tuple[str, str], float]

    @classmethod
    def open(cls, root="/", interval_s=INTERVAL_S):
        """Returns a Meter of the best source here; where there is none, its result says why.

        Args:
            root: folder that stands for /, so that recorded files can be read.
            interval_s: pause between two samples.
        """
        reasons = []
        for find in (_Sysfs, _Tegrastats, _Rapl):
            source = find(root, interval_s)
            if not source.problem:
                return cls(source, "", root, interval_s)
            reasons.append(source.problem)
        return cls(None, "; ".join(reasons), root, interval_s)

    def __enter__(self):
        if self._source is None:
            return self
        self._source.start()
        self._throttled_before = _throttle_counts(self._root)
        self._started = time.perf_counter()
        if not self._source.waits:
            self._take(slow=True)
        self._thread = threading.Thread(target=self._run, name="power", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        if self._thread is None:
            return
        self._ended = time.perf_counter()
        self._stop.set()
        self._thread.join()
        if not self._source.waits:
            self._take(slow=True)
        self._throttled_after = _throttle_counts(self._root)
        self._source.stop()

    def result(self):
        """Returns what was measured, after the block.

        Returns:
            {"unavailable": reason}, or a dict: source, added (the rails whose sum is meant), seconds (of the block),
            joules, mean_w, peak_w, samples, interval_ms (the mean), skipped (samples that could not be read), warning
            ("" or why not to trust it), rails {name: {"mean_w", "peak_w", "joules"}}, throttled (None: cannot be known
            here), throttling_told_by (what would have shown it), clocks {"cpu_min_mhz", "cpu_mean_mhz", "cpu_max_mhz",
            gpu_..., emc_...: where they can be read}, temperature_c {zone: the highest}.

            Watts are integrated by the trapezoid rule between the first and the last sample, and their mean is taken
            for the whole block. RAPL counts joules itself; there peak_w is the highest mean of one interval.
        """
        if self._source is None:
            return {"unavailable": self._reason}
        seconds = self._ended - self._started
        added = self._source.added
        if len(self._samples) < (2 if self._source.counts_joules else 1):
            return {"unavailable": self._source.failure() or f"no sample in the {seconds:.2f} s of the block"}
        whole = self._summary([(t, sum(sample.rails[name] for name in added)) for t, sample in self._samples])
        rails = {}
        for name in sorted({name for _, sample in self._samples for name in sample.rails}):
            rails[name] = self._summary(
                [(t, sample.rails[name]) for t, sample in self._samples if name in sample.rails]
            )
        throttled, told_by = self._throttled()
        span_s = self._samples[-1][0] - self._samples[0][0]
        return {
            "source": self._source.name,
            "added": list(added),
            "seconds": seconds,
            "joules": whole["joules"],
            "mean_w": whole["mean_w"],
            "peak_w": whole["peak_w"],
            "samples": len(self._samples),
            "interval_ms": 1000 * span_s / max(1, len(self._samples) - 1),
            "skipped": self._skipped,
            "warning": self._warning(),
            "rails": rails,
            "throttled": throttled,
            "throttling_told_by": told_by,
            "clocks": _clock_summary([sample.clocks_mhz for _, sample in self._samples]),
            "temperature_c": _highest([sample.temperatures_c for _, sample in self._samples]),
        }

    def _run(self):
        """Samples until the block's end; its very beginning and end are sampled by its own thread."""
        number = 0
        while not self._stop.is_set():
            number += 1
            if not self._source.waits and self._stop.wait(self._interval_s):
                return
            self._take(number % _SLOW_EVERY == 0)

    def _take(self, slow):
        sample = self._source.read(slow)
        now = time.perf_counter()
        if self._source.waits and self._stop.is_set():  # what came while waiting tells of the time after the block
            return
        if sample is not None and self._source.added and set(self._source.added) <= set(sample.rails):
            self._samples.append((now, sample))
        else:
            self._skipped += 1

    def _summary(self, series):
        if self._source.counts_joules:
            return _joules_summary(series, self._ended - self._started, self._interval_s)
        return _watts_summary(series, self._ended - self._started)

    def _throttled(self):
        """Returns (True, False or None, [what would have shown it])."""
        seen = {}  # type: typing.Dict[str, bool]
        for what, path in set(self._throttled_before) & set(self._throttled_after):
            grown = self._throttled_after[what, path] > self._throttled_before[what, path]
            seen[what] = seen.get(what, False) or grown
        pinned = jetson.gpu_clock(self._root)
        # An Orin shows 0 where the GPU sleeps. A clock that may vary falls for want of work, too: it tells nothing.
        speeds = [sample.clocks_mhz["gpu"] for _, sample in self._samples if sample.clocks_mhz.get("gpu")]
        if pinned and pinned[0] == pinned[1] and speeds:
            seen[_PINNED] = min(speeds) < 0.98 * pinned[1]
        if any(seen.values()):
            return True, sorted(seen)
        # Current enough does not mean cool enough.
        return (False if _HEAT in seen or _PINNED in seen else None), sorted(seen)

    def _warning(self):
        count = len(self._samples)
        if count < TRUSTED_SAMPLES:
            return f"only {count} samples: measure for longer"
        if self._skipped > count:
            return f"{self._skipped} of {self._skipped + count} samples could not be read"
        return ""


class _Sysfs:
    """INA3221 sensors as files."""

    name, counts_joules, waits = "sysfs", False, False

    def __init__(self, root, interval_s):
        self._root = root
        self._rails = _ina3221_rails(root)
        read, refused = self._watts()
        self.added = whole_board(read)
        self.problem = ""
        if not self._rails:
            self.problem = "no INA3221 power sensors (a Jetson has them)"
        elif not self.added and refused:
            self.problem = f"{refused}: not readable; run as root (sudo) or: sudo chmod a+r {refused}"
        elif not self.added:
            self.problem = f"INA3221: the rails {', '.join(sorted(read)) or '(none)'} do not add up to a known board"

    def start(self):
        pass

    def read(self, slow):
        watts, _ = self._watts()
        return Sample(watts, _clocks(self._root) if slow else {}, _zones(self._root) if slow else {})

    def stop(self):
        pass

    def failure(self):
        return ""

    def _watts(self):
        """Returns ({rail: watts}, a file that may not be read or "")."""
        watts, refused = {}, ""
        for name, paths in self._rails.items():
            product = 1.0
            for path in paths:
                value = _number(path)
                if value is None:
                    refused = refused or (path if _is_refused(path) else "")
                    break
                product *= value / 1e3  # milliwatts; or millivolts and milliamperes
            else:
                watts[name] = product
        return watts, refused


class _Tegrastats:
    """NVIDIA's tool, read line by line by the sampling thread. A line belongs to the moment it arrives."""

    name, counts_joules, waits = "tegrastats", False, True

    def __init__(self, root, interval_s):
        self._root, self._interval_s = root, interval_s
        self._command = shutil.which("tegrastats") or ""
        self.problem = "" if self._command else "no tegrastats"
        self.added = ()  # type: typing.Tuple[str, ...]
        self._lines = collections.deque(maxlen=1000)  # type: typing.Deque[str]
        self._last_line = ""
        self._arrived = threading.Condition()
        self._ended = False
        self._process = None  # type: typing.Any
        self._reader = None  # type: typing.Any

    def start(self):
        """Starts the tool and waits for its first line with rails, so that the block has lines from its beginning."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self):
        try:
            self._process = subprocess.Popen(
                [self._command, "--interval", str(int(self._interval_s * 1000))],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            self._last_line = str(error)
            return
        self._reader = threading.Thread(target=self._collect, name="tegrastats", daemon=True)
        self._reader.start()
        end = time.perf_counter() + _FIRST_LINE_S
        while not self.added and time.perf_counter() < end and not (self._ended and not self._lines):
            sample = self.read(False, end - time.perf_counter())
            self.added = whole_board(sample.rails) if sample else ()

    def read(self, slow, patience_s=None):
        """Waits for a line. Returns its Sample, None where none came or it is odd."""
        patience_s = 2 * self._interval_s if patience_s is None else patience_s
        with self._arrived:
            self._arrived.wait_for(lambda: self._lines or self._ended, patience_s)
            line = self._lines.popleft() if self._lines else ""
        if not line and self._ended:
            time.sleep(self._interval_s)  # there is nothing to wait for any more
        return parse_tegrastats(line)

    def stop(self):
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._reader.join(5)
            self._process.stdout.close()

    def failure(self):
        """Returns why there is no sample, "" where the block was too short for one."""
        if self.added:
            return ""
        return f"tegrastats gave no line with known power rails; its last: {self._last_line or 'none'}"

    def _collect(self):
        for data in self._process.stdout:
            with self._arrived:
                self._last_line = data.decode("utf-8", "replace").strip()
                self._lines.append(self._last_line)
                self._arrived.notify()
        with self._arrived:
            self._ended = True
            self._arrived.notify()


class _Rapl:
    """Energy counters of the CPU packages and of the parts in them."""

    name, counts_joules, waits = "rapl", True, False

    def __init__(self, root, _interval_s):
        self._root = root
        self._zones = {}  # type: typing.Dict[str, str]
        self._wraps = {}  # type: typing.Dict[str, float]
        self._last = {}  # type: typing.Dict[str, float]
        self._joules = {}  # type: typing.Dict[str, float]
        folder = os.path.join(root, "sys/class/powercap")
        for zone in sorted(glob.glob(os.path.join(folder, "intel-rapl:*"))):
            name = jetson.read(zone, "name")
            parts = os.path.basename(zone).split(":")
            if len(parts) == 3:  # intel-rapl:0:1 is a part of intel-rapl:0
                name = f"{jetson.read(os.path.join(folder, 'intel-rapl:' + parts[1]), 'name')}/{name}"
            counter = os.path.join(zone, "energy_uj")
            wraps_at = _number(os.path.join(zone, "max_energy_range_uj"))
            if _number(counter) is not None and wraps_at is not None:
                self._zones[name] = counter
                self._wraps[name] = wraps_at
                self._joules[name] = 0.0
        # A package's cores and graphics are in it, its memory is not. psys, the whole platform, is on few machines.
        self.added = tuple(name for name in self._zones if re.match(r"package-\d+(-die-\d+)?(/dram)?$", name))
        self.problem = "" if self.added else _rapl_problem(folder)

    def start(self):
        self._last = {}

    def read(self, slow):
        for name, counter in self._zones.items():
            value = _number(counter)
            if value is None:
                return None
            grown = value - self._last.get(name, value)
            self._joules[name] += (grown if grown >= 0 else grown + self._wraps[name]) / 1e6
            self._last[name] = value
        return Sample(dict(self._joules), _clocks(self._root) if slow else {}, _zones(self._root) if slow else {})

    def stop(self):
        pass

    def failure(self):
        return ""


def _rapl_problem(folder):
    found = sorted(glob.glob(os.path.join(folder, "intel-rapl:*/energy_uj")))
    refused = [path for path in found if _is_refused(path)]
    if refused:
        return "RAPL: %s may be read by root only; run with sudo, or: sudo chmod a+r %s/intel-rapl:*/energy_uj" % (
            refused[0],
            folder,
        )
    if not os.path.isdir(folder):
        return f"no RAPL: there is no {folder} (a virtual machine, a container, or a kernel without powercap)"
    return f"no RAPL: {folder} has no energy counter of a CPU package (sudo modprobe intel_rapl_msr may bring it)"


def _ina3221_rails(root):
    """Returns {rail: (file of milliwatts,) or (file of millivolts, file of milliamperes)}."""
    rails = {}  # type: typing.Dict[str, typing.Tuple[str, ...]]
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


def _clocks(root):
    found = {}
    cores = [_number(path) for path in glob.glob(os.path.join(root, _CPU_CLOCKS))]
    speeds = [speed for speed in cores if speed is not None]
    if speeds:
        found["cpu"] = max(speeds) / 1e3  # kHz
    for pattern in _GPU_CLOCKS:
        for path in glob.glob(os.path.join(root, pattern)):
            speed = _number(path)
            if speed is not None:
                found["gpu"] = speed / 1e6  # Hz
    return found


def _zones(root):
    found = {}
    for zone in sorted(glob.glob(os.path.join(root, _ZONES))):
        value = _number(os.path.join(zone, "temp"))  # a sensor that sleeps gives an error
        if value is not None:
            found[jetson.read(zone, "type") or os.path.basename(zone)] = value / 1e3
    return _real_temperatures(found)


def _real_temperatures(found):
    """Leaves out sensors that are off (-256) and the TX2's PMIC, for which L4T R32 says 100 at all times."""
    return {
        name: value for name, value in found.items() if value > -100 and not (name.startswith("PMIC") and value == 100)
    }


def _throttle_counts(root):
    """Returns {(what kind of counter, path): count}."""
    found = {}
    for what, pattern in _THROTTLE_COUNTERS:
        for path in glob.glob(os.path.join(root, pattern)):
            count = _number(path)
            if count is not None:
                found[what, path] = count
    return found


def _watts_summary(series, seconds):
    """Returns {"mean_w", "peak_w", "joules"} of [(time in s, watts)]."""
    watts = [value for _, value in series]
    span_s = series[-1][0] - series[0][0]
    if span_s > 0:
        mean = sum((t - t0) * (w + w0) / 2 for (t0, w0), (t, w) in zip(series, series[1:])) / span_s
    else:
        mean = sum(watts) / len(watts)
    return {"mean_w": mean, "peak_w": max(watts), "joules": mean * seconds}


def _joules_summary(series, seconds, interval_s):
    """Returns {"mean_w", "peak_w", "joules"} of [(time in s, joules since some time ago)]."""
    steps = [(t - t0, joules - joules0) for (t0, joules0), (t, joules) in zip(series, series[1:])]
    whole = (series[-1][0] - series[0][0], series[-1][1] - series[0][1])
    # The counters move once in a millisecond or so: a short last step would give any figure.
    means = [joules / took for took, joules in [whole] + steps if took > interval_s / 2]
    mean = whole[1] / max(whole[0], 1e-9)
    return {"mean_w": mean, "peak_w": max(means or [mean]), "joules": mean * seconds}


def _clock_summary(samples):
    found = {}
    for name in ("cpu", "gpu", "emc"):
        speeds = [sample[name] for sample in samples if name in sample]
        if speeds:
            found[f"{name}_min_mhz"] = min(speeds)
            found[f"{name}_mean_mhz"] = sum(speeds) / len(speeds)
            found[f"{name}_max_mhz"] = max(speeds)
    return found


def _highest(samples):
    found = {}  # type: typing.Dict[str, float]
    for sample in samples:
        for name, value in sample.items():
            found[name] = max(value, found.get(name, value))
    return found


def _number(path):
    """Returns the number in a file, None where it cannot be read or holds none."""
    try:
        with open(path, encoding="ascii") as file:
            return float(file.read())
    except (OSError, ValueError):
        return None


def _is_refused(path):
    try:
        with open(path, encoding="ascii") as file:
            file.read(1)
    except PermissionError:
        return True
    except (OSError, ValueError):
        pass
    return False
