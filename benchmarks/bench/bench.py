"""How a bench goes: what is measured when, until it is stable, and what becomes of the figures.

The noise of a machine that is not alone (a virtual one above all) comes in phases of seconds to minutes and can be
larger than what tells two engines apart. So no engine gets a phase to itself: every engine stays open in a process of
its own (benchmarks.bench.worker), and they are measured in turns, a short window each, the order turned round after
every round. Between the windows a fixed piece of work, which has nothing to do with any engine, shows how fast the
machine itself is.

A figure is stable, as perf_analyzer has it, when in its last 3 windows the fastest is at most 10 % above the slowest,
in throughput and in latency. Its windows go on until then, up to a maximum. All windows count, not only the last.
"""

import concurrent.futures
import contextlib
import os
import subprocess
import sys
import tempfile
import time
import typing

import numpy as np

from benchmarks.bench import measure
from benchmarks.bench.worker import END_TO_END, GPU_KINDS, EngineFailed, Task, Worker, largest_batch
from benchmarks.energy import power
from edge_runtime import files
from edge_runtime.console import say
from edge_runtime.engines.selection import check_engine, find_engine
from edge_runtime.errors import BundleError, PicnicError
from edge_runtime.machine import cpu, memory

LEAST_WINDOWS = 10
MOST_WINDOWS = 14
STABLE_WINDOWS = 3
STABLE_WITHIN = 0.10
COLD_STARTS = 3
IDLE_S = 3.0
_REFERENCE_S = 0.05
# Some 2 ms. With a tenth of that the hand-over to the threads came in two kinds, a third apart, which hid a slowdown by
# 15 %; this follows the engines' own speed (correlation 0.95 over 25 windows of openvino-bf16).
_REFERENCE_PASSES = 200
_SPARE_BYTES = 512 << 20
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

Plan = typing.NamedTuple(
    "Plan",
    [
        ("batches", list),  # photos per call, ascending
        ("seconds", float),  # of a measurement: LEAST_WINDOWS windows together
        ("items", list),  # edge_runtime.sources.items.Item of the end-to-end runs
        ("photo", str),  # a readable one, for the cold start
        ("labelled", list),  # of convert.parity.labelled_photos, [] for none
        ("loadgen", str),  # mode, "" for none
        ("loadgen_logs", str),  # folder for its logs
        ("opener", typing.Callable),  # as edge_runtime.engines.open_engine
    ],
)


class Subject:
    """An engine and what was measured of it so far."""

    def __init__(self, name):
        self.name = name
        self.facts = {"cold_starts_s": []}  # type: typing.Dict[str, typing.Any]
        self.windows = []  # type: typing.List[typing.Dict[str, typing.Any]]
        self.skipped_batches = {}  # type: typing.Dict[str, str]
        self.loadgen = []  # type: typing.List[typing.Dict[str, typing.Any]]
        self.problem = ""  # why it is not measured (any further), in one line
        self.reason = ""  # the same in full, with what mends it
        self.invalid = False  # because it is corrupt or was built for another machine
        self.batches = []  # type: typing.List[int]
        # One; or two where the engine is another one when opened for one photo at a time: that one comes first.
        self.workers = []  # type: typing.List[Worker]

    def worker_for(self, point):
        """Returns the Worker that measures a point."""
        return self.workers[0 if point == "b1" else -1]

    def points(self):
        """Returns the names of what is measured in windows: "b1", "b8", ..., "end_to_end"."""
        return [f"b{size}" for size in self.batches] + [END_TO_END]

    def fail(self, reason, invalid=False):
        """Gives the engine up, with a reason of one or more lines."""
        self.problem, self.reason, self.invalid = reason.splitlines()[0], reason, invalid
        say(f"{self.name}: {self.problem}")
        self.close()

    def close(self):
        """Ends its processes. May be called any number of times."""
        while self.workers:
            self.workers.pop().close()


def run(bundle, subjects, plan, idle=None):
    """Measures engines.

    Args:
        bundle: edge_runtime.bundle.reading.Bundle.
        subjects: list of Subject; filled as the work goes on, so that what was done is there after an interruption.
        plan: a Plan.
        idle: result of power.Meter while the machine did nothing; {"unavailable": why} where nothing can be metered.
    """
    for subject in subjects:
        try:
            if subject.name != "auto":
                check_engine(bundle, find_engine(bundle, subject.name))
        except PicnicError as error:
            subject.fail(str(error), isinstance(error, BundleError))
    for number in range(COLD_STARTS):
        for subject in _alive(subjects):
            _time_cold_start(bundle, subject, plan.photo, number)
    waiting = [subject for subject in subjects if not subject.problem]
    with tempfile.TemporaryDirectory() as scratch:
        while waiting:
            group = []  # type: typing.List[Subject]
            try:
                while waiting and _fits(bundle, group, waiting[0]):
                    group.append(waiting.pop(0))
                    _open(bundle, group[-1], subjects, plan, scratch)
                if waiting:
                    say(f"{len(group)} engines at a time, for want of memory: the others come after these")
                _measure(group, plan, metered="unavailable" not in (idle or {"unavailable": ""}))
            finally:
                for subject in group:
                    subject.close()


def summarize(subject, idle=None):
    """Returns a subject's figures as one flat dict (schema.json says what each is), or {"name", "skipped"}."""
    if not subject.windows:
        return {"name": subject.name, "skipped": subject.problem or "the run was stopped before it was measured"}
    found = dict({"labelled_photos": 0, "top1": None, "macro_f1": None}, **subject.facts)
    found["cold_start_s"] = float(np.median(found["cold_starts_s"])) if found["cold_starts_s"] else None
    found["stopped"] = subject.problem
    points = subject.points()
    found["batches"] = subject.batches
    found["points"] = points
    found["skipped_batches"] = subject.skipped_batches
    found["unstable"] = [point for point in points if not _is_stable(subject.windows, point)]
    found["stable"] = not found["unstable"]
    for point in points:
        own = [window for window in subject.windows if window["point"] == point]
        photos = sum(window["photos"] for window in own)
        seconds = sum(window["seconds"] for window in own)
        found["images_per_s_" + point] = photos / seconds if own else None
        found["cpu_s_per_image_" + point] = sum(window["cpu_s"] for window in own) / photos if own else None
        found["windows_" + point] = len(own)
        found.update(_energy(own, point, photos, idle))
    latencies_ms = [value for window in subject.windows for value in window.get("latencies_ms", [])]
    if latencies_ms:
        figures = measure.percentiles(latencies_ms)
        found.update({"latency_" + name: value for name, value in figures.items()})
    own = [window for window in subject.windows if window["point"] == END_TO_END]
    for stage in ("decode_ms", "infer_ms", "wait_ms", "write_ms"):
        total = sum(window[stage] * window["photos"] for window in own)
        found[stage] = total / sum(window["photos"] for window in own) if own else None
    found["windows"] = [
        {name: value for name, value in window.items() if name != "energy"} for window in subject.windows
    ]
    return found


def best_model_rate(engine):
    """Returns (photos per call, images per second) of the fastest batch size of a summary, None where there is none."""
    rates = [(engine.get(f"images_per_s_b{size}"), size) for size in engine["batches"]]
    rates = [(rate, size) for rate, size in rates if rate]
    return (max(rates)[1], max(rates)[0]) if rates else None


def measure_idle(seconds=None):
    """Returns (what share of the cores' time others used meanwhile, result of a power.Meter while nothing is done).

    The share is None where nothing tells it. Where nothing can be metered here it is done in a moment.
    """
    with power.Meter.open() as meter:
        before = _core_times()
        time.sleep(0.25)
        after = _core_times()
    passed = after[1] - before[1]
    share = (after[0] - before[0]) / passed if passed > 0 else None
    if "unavailable" in meter.result():
        return share, meter.result()
    with power.Meter.open() as meter:
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
        taken = []  # type: typing.List[float]
        until = time.perf_counter() + _REFERENCE_S
        while len(taken) < 3 or time.perf_counter() < until:
            started = time.perf_counter()
            list(self._pool.map(_work, self._arrays))
            taken.append((time.perf_counter() - started) * 1000)
        return float(np.median(taken))

    def close(self):
        """Ends its threads."""
        self._pool.shutdown()


def _work(pair):
    for _ in range(_REFERENCE_PASSES):
        np.exp(pair[0], out=pair[1])


def _core_times(path="/proc/stat"):
    """Returns (busy time of the cores that may be used, all their time) in ticks, zeros where nothing tells."""
    own = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    busy = passed = 0
    with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
        for name, *ticks in (line.split() for line in file):
            if name in own:
                user, nice, system, idle, waiting, *rest = map(int, ticks)
                busy += user + nice + system + sum(rest[:3])  # interrupts, and what other virtual machines took
                passed += user + nice + system + sum(rest[:3]) + idle + waiting
    return busy, passed


def _alive(subjects):
    return [subject for subject in subjects if not subject.problem]


def _time_cold_start(bundle, subject, photo, number):
    """Adds the seconds from the start of a `picnic-edge classify` to its first label."""
    if number == 0:
        say(f"cold start of {subject.name}")
    command = [sys.executable, "-m", "picnic_edge", "classify", bundle.path, photo, "--engine", subject.name]
    environment = dict(os.environ, PYTHONPATH=_ROOT + os.pathsep + os.environ.get("PYTHONPATH", ""))
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process: typing.Any = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
        try:
            process.stdout.readline()  # the header
            row = process.stdout.readline()
            took_s = time.perf_counter() - started
            process.stdout.read()
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            process.stdout.close()
        errors.seek(0)
        said = ("\n" + errors.read().decode("utf-8", "replace")).partition("\npicnic-edge: ")[2].strip()
    if code or not row:
        subject.fail(said or f"classify with it ended with exit code {code}", code == BundleError.exit_code)
    else:
        subject.facts["cold_starts_s"].append(took_s)


def _fits(bundle, group, subject):
    """Whether an engine can be opened beside those of the group."""
    if not group:
        return True
    kinds = [_kind(bundle, one.name) for one in group + [subject]]
    if any(kind in GPU_KINDS for kind in kinds):
        return False  # a GPU's memory is not shared out: some libraries take all of it
    largest = max([one.facts.get("peak_rss_bytes", 0) for one in group])
    available = memory.memory_info().get("MemAvailable")
    return available is None or available > 3 * largest + _SPARE_BYTES  # it may be larger, or be opened twice


def _kind(bundle, name):
    return GPU_KINDS[0] if name == "auto" else find_engine(bundle, name).kind  # auto may be any


def _open(bundle, subject, subjects, plan, scratch):
    say(f"loading {subject.name}")
    largest = None if subject.name == "auto" else largest_batch(find_engine(bundle, subject.name))
    subject.batches = [size for size in plan.batches if largest is None or size <= largest]
    reason = f"the engine was built for batches of 1 to {largest}; make another: picnic-edge convert --max-batch"
    subject.skipped_batches = {f"b{size}": reason for size in plan.batches if size not in subject.batches}
    if not subject.batches:
        subject.fail(reason)
        return
    try:
        task = Task(bundle.path, subject.name, subject.batches, plan.items, scratch, plan.opener)
        subject.workers.append(Worker(task))
        subject.facts.update(subject.workers[0].facts)
        slots = subject.facts.pop("slots")
        subject.facts.update(subject.workers[0].ask("memory"))  # tells whether another engine fits beside it
        if slots > 1 and subject.batches != [1] and subject.facts["kind"] not in GPU_KINDS:
            # It shares its cores out among batches; opened for one photo it has all of them for that.
            subject.workers.insert(0, Worker(task._replace(engine=subject.facts["name"], batches=[1])))
            subject.facts["first_call_ms"] = subject.workers[0].facts["first_call_ms"]
    except EngineFailed as error:
        subject.fail(str(error), error.invalid)
        return
    if any(subject is not other and other.name == subject.facts["name"] for other in subjects):
        subject.fail(f"is {subject.facts['name']}, which is measured already")
        return
    subject.name = subject.facts["name"]


def _measure(group, plan, metered):
    """Measures the open engines of a group in turns."""
    reference = Reference()
    try:
        for number in range(MOST_WINDOWS):
            pending = _pending(group, number)
            if not pending:
                break
            say(f"round {number + 1}: {', '.join(subject.name for subject in _alive(group))}")
            for subject, point in pending if number % 2 == 0 else reversed(pending):
                if not subject.problem:
                    _take_window(subject, point, number, plan.seconds / LEAST_WINDOWS, reference, metered)
    finally:
        reference.close()
    for subject in _alive(group):
        try:
            if plan.labelled:
                say(f"labels of {len(plan.labelled)} photos with {subject.name}")
                subject.facts.update(subject.workers[-1].ask("accuracy", plan.labelled))
            subject.facts.update(subject.workers[-1].ask("memory"))
        except EngineFailed as error:
            subject.fail(str(error))
    if plan.loadgen:
        _run_loadgen(_alive(group), plan)


def _pending(group, number):
    """Returns the (subject, point) pairs of a round: first all engines with the first point, then the second, ..."""
    points = []  # type: typing.List[str]
    for subject in group:
        points += [point for point in subject.points() if point not in points]
    points.sort(key=lambda point: (point == END_TO_END, len(point), point))
    return [
        (subject, point)
        for point in points
        for subject in _alive(group)
        if point in subject.points() and (number < LEAST_WINDOWS or not _is_stable(subject.windows, point))
    ]


def _take_window(subject, point, number, seconds, reference, metered):
    reference_ms = reference.time_ms()
    request = (END_TO_END, seconds) if point == END_TO_END else ("model", int(point[1:]), seconds)
    energy = {"unavailable": ""}  # type: typing.Dict[str, typing.Any]
    try:
        if metered:
            with power.Meter.open() as meter:
                found = subject.worker_for(point).ask(*request)
            energy = _energy_of(subject, point, found, meter.result())
        else:
            found = subject.worker_for(point).ask(*request)
    except EngineFailed as error:
        subject.fail(str(error), error.invalid)
        return
    latencies_ms = found.pop("latencies_ms", None)
    found.pop("batch", None)
    window = dict(found, point=point, round=number, reference_ms=reference_ms, energy=energy)
    window["images_per_s"] = found["photos"] / found["seconds"]
    # Photos come out end to end in batches, one after the other: their latency is their rate's other side.
    window["p50_ms"] = float(np.median(latencies_ms)) if latencies_ms else 1000 / window["images_per_s"]
    window["joules_per_image"] = energy["joules"] / found["photos"] if "joules" in energy else None
    if point == "b1":
        window["latencies_ms"] = [round(value, 4) for value in latencies_ms]
    subject.windows.append(window)


def _energy_of(subject, point, found, energy):
    """Returns a meter's result for what a window counts, of an engine whose work it can see."""
    if energy.get("source") == "rapl" and _uses_gpu(subject):
        return {"unavailable": "RAPL counts the CPU and its memory, not the GPU that this engine works on"}
    if "joules" in energy and point != END_TO_END:  # the call before those that are timed was metered too
        share = min(1.0, found["seconds"] / energy["seconds"])
        return dict(energy, joules=share * energy["joules"], seconds=share * energy["seconds"])
    return energy


def _uses_gpu(subject):
    return subject.facts["kind"] in GPU_KINDS or subject.facts.get("gpu_memory_bytes") is not None


def _is_stable(windows, point):
    last = [window for window in windows if window["point"] == point][-STABLE_WINDOWS:]
    if len(last) < STABLE_WINDOWS:
        return False
    return all(
        max(window[name] for window in last) <= (1 + STABLE_WITHIN) * min(window[name] for window in last)
        for name in ("images_per_s", "p50_ms")
    )


def _run_loadgen(subjects, plan):
    from benchmarks import loadgen

    for subject in subjects:
        for scenario in loadgen.SCENARIOS:
            say(f"LoadGen {scenario} ({plan.loadgen}) with {subject.name}")
            folder = os.path.join(plan.loadgen_logs, subject.name, scenario)
            try:
                files.claim_folder(folder, "--report")
                worker = subject.worker_for("b1" if scenario == "SingleStream" else END_TO_END)
                result = worker.ask("loadgen", scenario, plan.loadgen, folder)
            except EngineFailed as error:
                reason = str(error).splitlines()[0]
                result = {"engine": subject.name, "scenario": scenario, "mode": plan.loadgen, "skipped": reason}
            subject.loadgen.append(result)


def _energy(windows, point, photos, idle):
    """Returns a point's energy as fields of its summary; none where nothing was metered."""
    metered = [window["energy"] for window in windows if "joules" in window["energy"]]
    reasons = [window["energy"]["unavailable"] for window in windows if window["energy"].get("unavailable")]
    if reasons:
        return {"energy_problem_" + point: reasons[0]}
    if not metered or len(metered) < len(windows):
        return {}
    loaded = {
        "source": metered[0]["source"],
        "added": metered[0]["added"],
        "joules": sum(one["joules"] for one in metered),
        "seconds": sum(one["seconds"] for one in metered),
    }
    found = power.per_image(idle, loaded, photos)
    throttled = [one["throttled"] for one in metered]
    temperatures_c = [value for one in metered for value in one["temperature_c"].values()]
    rails_w = {}
    for name in sorted({name for one in metered for name in one["rails"]}):
        having = [one for one in metered if name in one["rails"]]
        means_w = [one["rails"][name]["mean_w"] for one in having]
        rails_w[name] = float(np.average(means_w, weights=[one["seconds"] for one in having]))
    summary = {
        "joules_per_image_" + point: found["joules_per_image"],
        "joules_above_idle_per_image_" + point: found["joules_above_idle_per_image"],
        "mean_w_" + point: loaded["joules"] / loaded["seconds"],
        "peak_w_" + point: max(one["peak_w"] for one in metered),
        "rails_mean_w_" + point: rails_w,
        "power_samples_" + point: sum(one["samples"] for one in metered),
        "throttled_" + point: True if True in throttled else (None if None in throttled else False),
        "hottest_c_" + point: max(temperatures_c) if temperatures_c else None,
    }
    for clock in ("cpu", "gpu", "emc"):
        own = [one["clocks"] for one in metered if clock + "_min_mhz" in one["clocks"]]
        if own:
            summary[f"{clock}_min_mhz_{point}"] = min(one[clock + "_min_mhz"] for one in own)
            summary[f"{clock}_mean_mhz_{point}"] = float(np.mean([one[clock + "_mean_mhz"] for one in own]))
    return summary
