"""The state of the machine during a run: how busy others keep it, how fast it is at this moment, its clocks."""

import concurrent.futures
import contextlib
import os
import time
import typing

import numpy as np

from benchmarks.energy.meter import Meter
from edge_runtime.machine import cpu, jetson
from edge_runtime.machine.cpu import cpu_info

BUSY_S = 0.25  # how long it is watched how busy others keep the cores
IDLE_S = 10.0  # as long as a window for power: benchmarks.bench.turns
REFERENCE_S = 0.05  # how long the reference computation beside each window takes
# About 2 ms. With a tenth of that the hand-over to the threads took either of two times, a third apart, which hid a
# slowdown by 15 %; this follows the engines' own speed (correlation 0.95 over 25 windows of openvino-bf16).
_REFERENCE_PASSES = 200


def measure_idle(seconds=None):
    """Measures the machine while this process does nothing: for BUSY_S, longer where power can be metered.

    Returns:
        (share of the cores' time that other programs used, None where it is unknown; result of a Meter).
    """
    with Meter.open(settle_s=0.0) as meter:
        before = _core_times()
        time.sleep(BUSY_S)
        after = _core_times()
    passed = after[1] - before[1]
    share = (after[0] - before[0]) / passed if passed > 0 else None
    if "unavailable" in meter.result():
        return share, meter.result()
    with Meter.open() as meter:
        time.sleep(IDLE_S if seconds is None else seconds)
    return share, meter.result()


class Reference:
    """A fixed piece of work on all cores; how long it takes tells how fast the machine is at this moment."""

    def __init__(self):
        # Small enough for a core's own cache. No BLAS: its threads would go on spinning beside what comes next.
        cores = cpu.core_count()
        self._arrays = [
            (np.linspace(0, 1, 1 << 15, dtype=np.float32), np.empty(1 << 15, np.float32)) for _ in range(cores)
        ]
        self._pool = concurrent.futures.ThreadPoolExecutor(cores)

    def time_ms(self):
        """Returns the median milliseconds of one piece of it, over a twentieth of a second."""
        times_ms: typing.List[float] = []
        until = time.perf_counter() + REFERENCE_S
        while len(times_ms) < 3 or time.perf_counter() < until:
            started = time.perf_counter()
            list(self._pool.map(_work, self._arrays))
            times_ms.append((time.perf_counter() - started) * 1000)
        return float(np.median(times_ms))

    def close(self):
        """Ends its threads."""
        self._pool.shutdown()


def _work(pair):
    for _ in range(_REFERENCE_PASSES):
        np.exp(pair[0], out=pair[1])


def _core_times(path="/proc/stat"):
    """Returns (busy time of this process's cores, all their time) in ticks; zeros where it cannot be read."""
    own = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    busy = passed = 0
    with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
        for name, *ticks in (line.split() for line in file):
            if name in own:
                user, nice, system, idle, waiting, *rest = map(int, ticks)
                busy += user + nice + system + sum(rest[:3])  # interrupts, and what other virtual machines took
                passed += user + nice + system + sum(rest[:3]) + idle + waiting
    return busy, passed


def clocks(root="/"):
    """Returns the settings that decide how fast the machine runs: a flat dict, "" and None for what is unknown.

    Args:
        root: folder that stands for /.
    """
    folder = "sys/devices/system/cpu/cpu0/cpufreq/"
    mhz = {
        name: int(text) // 1000 if text.isdigit() else None
        for name, text in (
            (name, jetson.read(root, folder + name))
            for name in ("scaling_min_freq", "scaling_cur_freq", "scaling_max_freq")
        )
    }
    gpu = jetson.gpu_clock(root)
    now = cpu_info(os.path.join(root, "proc/cpuinfo")).get("cpu MHz", "")
    if mhz["scaling_cur_freq"] is None and now:
        mhz["scaling_cur_freq"] = int(float(now))
    return {
        "governor": jetson.read(root, folder + "scaling_governor"),
        "cpu_min_mhz": mhz["scaling_min_freq"],
        "cpu_now_mhz": mhz["scaling_cur_freq"],
        "cpu_max_mhz": mhz["scaling_max_freq"],
        "board": jetson.model(root),
        "l4t": jetson.l4t(root) if jetson.chip(root) else "",
        "power_mode": jetson.power_mode(jetson.output_of("nvpmodel", "-q")) if jetson.chip(root) else "",
        "gpu_min_mhz": gpu[0] if gpu else None,
        "gpu_max_mhz": gpu[1] if gpu else None,
    }
