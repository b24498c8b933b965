"""NVIDIA's tegrastats as a child process, for boards whose sensors' files are missing (or not all readable).

Not yet run on hardware: written from recorded lines and jetson_stats' description of the format.
"""

import collections
import re
import shutil
import subprocess
import threading
import time
import typing

from benchmarks.energy.source import Sample, Source, real_temperatures, whole_board

FIRST_LINE_S = 5.0  # how long tegrastats may take for its first line with power rails
_NO_RAILS = ("NC", "RAM", "SWAP", "IRAM")  # not connected; memory, where a line was cut off before its unit
# now/average, in L4T R39 now/average/highest
_RAIL = re.compile(r"(?<!\S)([A-Za-z]\w*) (\d+(?:\.\d+)?)(mW|W|)(?:/\d+(?:\.\d+)?(?:mW|W|)){1,2}(?!\S)")
_TEMPERATURE = re.compile(r"(?<!\S)(\w+)@(-?\d+(?:\.\d+)?)C(?:/-?\d+(?:\.\d+)?C)?(?!\S)")
_CPUS = re.compile(r"(?<!\S)CPU \[([^\]]*)\]")
_EMC = re.compile(r"(?<!\S)EMC_FREQ (?:\d+%)?@(\d+)(?!\S)")
_GPU = re.compile(r"(?<!\S)GR3D_FREQ (?:\d+%)?@\[?(\d+(?:,\d+)*)\]?(?!\S)")


def parse_tegrastats(line):
    """Reads a line of tegrastats: of L4T R28 to R39, from a TX2 to a Thor.

    Args:
        line: text. Of "now/average" and "now/average/highest" the first value counts.

    Returns:
        Sample (watts), or None for a line without any rail.
    """
    rails = {}
    for name, value, unit in _RAIL.findall(line):
        if name not in _NO_RAILS:
            rails[name] = float(value) / (1 if unit == "W" else 1000)
    if not rails:
        return None
    clocks: typing.Dict[str, float] = {}
    cores = _CPUS.search(line)
    speeds = re.findall(r"\d+%@(\d+)", cores.group(1)) if cores else []
    if speeds:
        clocks["cpu"] = max(int(speed) for speed in speeds)
    for name, pattern in (("gpu", _GPU), ("emc", _EMC)):
        match = pattern.search(line)
        if match:
            clocks[name] = max(int(speed) for speed in match.group(1).split(","))
    temperatures = {name: float(value) for name, value in _TEMPERATURE.findall(line)}
    return Sample(rails, clocks, real_temperatures(temperatures))


class Tegrastats(Source):
    """NVIDIA's tool, read line by line by the sampling thread. A line belongs to the moment it arrives."""

    name, waits = "tegrastats", True

    def __init__(self, root, interval_s):
        self._root, self._interval_s = root, interval_s
        self._command = shutil.which("tegrastats") or ""
        self.problem = "" if self._command else "no tegrastats"
        self._lines: typing.Deque[str] = collections.deque(maxlen=1000)
        self._last_line = ""
        self._arrived = threading.Condition()
        self._ended = False
        self._process: typing.Any = None
        self._reader: typing.Any = None

    def start(self):
        """Starts the tool and waits for its first line with rails: the block then has lines from its beginning."""
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
        end = time.perf_counter() + FIRST_LINE_S
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
        """Ends the tool."""
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
