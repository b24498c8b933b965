"""Measures engines in turns, until their figures are stable.

The noise of a machine that is not alone (above all a virtual one) comes in phases of seconds to minutes and can be
larger than the difference between two engines. So no engine gets a phase to itself: every engine stays open in a
process of its own (benchmarks.bench.worker), and they are measured in turns, a short window each, in reversed order
every second round. Before every window a fixed piece of work, which has nothing to do with any engine, shows how fast
the machine itself is.

An engine's windows go on until its figures are stable (benchmarks.bench.summary), up to a maximum. All windows count,
not only the last.

Energy is measured after them, in one window of 10 s for each point: a board's sensors give means of half a second, in
which a short window would be mixed up with the engine that was measured before it.
"""

import os
import tempfile
import typing

import numpy as np

from benchmarks import loadgen
from benchmarks.bench.cold_start import time_cold_start
from benchmarks.bench.machine_state import Reference
from benchmarks.bench.plan import MAX_PHOTOS
from benchmarks.bench.subject import Subject
from benchmarks.bench.summary import is_stable
from benchmarks.bench.worker import END_TO_END, EngineFailed, Task, Worker, largest_batch
from benchmarks.energy.meter import Meter
from benchmarks.energy.rapl import Rapl
from edge_runtime import files
from edge_runtime.console import say
from edge_runtime.engines.kinds import GPU_KINDS
from edge_runtime.engines.selection import check_engine, find_engine
from edge_runtime.errors import BundleError, PicnicError
from edge_runtime.machine import memory

MIN_WINDOWS = 10
MAX_WINDOWS = 14
COLD_STARTS = 3
POWER_S = 10.0  # length of a point's window for power; RAPL's counters are exact in a shorter one
_SPARE_BYTES = 512 << 20
# For the limits on a step: slower than this no engine is that is not hung. A window has 4 calls at least.
_SLOWEST_PHOTO_S = 2.0
_LEAST_CALLS = 4
_LOADGEN_MARGIN = 10


def run(bundle, subjects, plan, idle=None):
    """Measures engines.

    Args:
        bundle: an open edge_runtime.bundle.reading.Bundle.
        subjects: list of Subject; filled on the way, so that after an interruption they hold what was measured.
        plan: a Plan.
        idle: result of a Meter while the machine did nothing; {"unavailable": why} where nothing can be metered.
    """
    for subject in subjects:
        try:
            if subject.name != "auto":
                check_engine(bundle, find_engine(bundle, subject.name))
        except PicnicError as error:
            subject.fail(str(error), isinstance(error, BundleError))
    for number in range(COLD_STARTS):
        for subject in _alive(subjects):
            if number == 0:
                say(f"cold start of {subject.name}")
            time_cold_start(bundle, subject, plan.photo)
    waiting = [subject for subject in subjects if not subject.problem]
    with tempfile.TemporaryDirectory() as scratch:
        while waiting:
            group: typing.List[Subject] = []
            try:
                while waiting and _fits(bundle, group, waiting[0]):
                    group.append(waiting.pop(0))
                    say(f"loading {group[-1].name}")
                    open_subject(bundle, group[-1], plan, scratch)
                    if not group[-1].problem:
                        _name_as_opened(group[-1], subjects)
                if waiting:
                    say(f"not enough memory for all engines: {len(group)} at a time, the others after these")
                _measure(group, plan, (idle or {}).get("source"))
            finally:
                for subject in group:
                    subject.close()


def _alive(subjects):
    return [subject for subject in subjects if not subject.problem]


def _fits(bundle, group, subject):
    """Whether an engine can be opened beside those of the group."""
    if not group:
        return True
    kinds = [_kind(bundle, one.name) for one in group + [subject]]
    if any(kind in GPU_KINDS for kind in kinds):
        return False  # some libraries take all of a GPU's memory
    largest = max([one.facts.get("peak_rss_bytes", 0) for one in group])
    available = memory.memory_available_bytes()
    return available is None or available > 3 * largest + _SPARE_BYTES  # it may be larger, or be opened twice


def _kind(bundle, name):
    return GPU_KINDS[0] if name == "auto" else find_engine(bundle, name).kind  # auto may be any


def open_subject(bundle, subject, plan, scratch, code=""):
    """Starts the processes of an engine and adds its facts. Where that fails, its measuring stops.

    Args:
        bundle: an open Bundle.
        subject: a Subject.
        plan: a Plan.
        scratch: an existing folder that stays while the engine is open.
        code: folder of the checkout whose code opens and measures it, "" for this one.
    """
    largest = None if subject.name == "auto" else largest_batch(find_engine(bundle, subject.name))
    subject.batches = [size for size in plan.batches if largest is None or size <= largest]
    reason = f"the engine was built for batches up to {largest}; make another: picnic-edge convert --max-batch"
    subject.skipped_batches = {f"b{size}": reason for size in plan.batches if size not in subject.batches}
    if not subject.batches:
        subject.fail(reason)
        return
    try:
        task = Task(bundle.path, subject.name, subject.batches, plan.items, scratch, plan.opener, code)
        subject.workers.append(Worker(task))
        subject.facts.update(subject.workers[0].facts)
        slots = subject.facts.pop("slots")
        subject.facts.update(subject.workers[0].ask("memory"))  # for _fits
        if slots > 1 and subject.batches != [1] and subject.facts["kind"] not in GPU_KINDS:
            # It divides its cores among batches; opened for one photo it uses all of them for that photo.
            subject.workers.insert(0, Worker(task._replace(engine=subject.facts["name"], batches=[1])))
            subject.facts["first_call_ms"] = subject.workers[0].facts["first_call_ms"]
    except EngineFailed as error:
        subject.fail(str(error), error.invalid)


def _name_as_opened(subject, subjects):
    """Gives an engine the name of what was opened for it (auto is one of the others); stops it if another has that."""
    name = subject.facts["name"]
    if any(subject is not other and other.name == name for other in subjects):
        subject.fail(f"is the same as {name}, which is measured already")
    else:
        subject.name = name


def _measure(group, plan, power):
    """Measures the open engines of a group in turns. power: the name of the source of power, None without one."""
    reference = Reference()
    try:
        for number in range(MAX_WINDOWS):
            pending = _pending(group, number)
            if not pending:
                break
            say(f"round {number + 1} of up to {MAX_WINDOWS}: {', '.join(subject.name for subject in _alive(group))}")
            for subject, point in pending if number % 2 == 0 else reversed(pending):
                if not subject.problem:
                    state = {"round": number, "reference_ms": reference.time_ms()}
                    measure_window(subject, point, plan.seconds / MIN_WINDOWS, state)
    finally:
        reference.close()
    if power:
        seconds = plan.seconds if power == Rapl.name else POWER_S
        for subject, point in _pending(group, 0):
            if not subject.problem:
                say(f"power of {subject.name}, {point.replace('_', ' ')}")
                measure_energy(subject, point, seconds, power)
    for subject in _alive(group):
        try:
            if plan.labelled:
                say(f"checking {subject.name} on {len(plan.labelled)} labelled photos")
                limit_s = len(plan.labelled) * _SLOWEST_PHOTO_S
                subject.facts.update(subject.workers[-1].ask("accuracy", plan.labelled, expected_s=limit_s))
            subject.facts.update(subject.workers[-1].ask("memory"))
        except EngineFailed as error:
            subject.fail(str(error))
    if plan.loadgen:
        _run_loadgen(_alive(group), plan)


def _pending(group, number):
    """Returns the (subject, point) pairs of a round: first all engines with the first point, then the second, ..."""
    points: typing.List[str] = []
    for subject in group:
        points += [point for point in subject.points() if point not in points]
    points.sort(key=lambda point: (point == END_TO_END, len(point), point))
    return [
        (subject, point)
        for point in points
        for subject in _alive(group)
        if point in subject.points() and (number < MIN_WINDOWS or not is_stable(subject.windows, point))
    ]


def _ask_for_window(subject, point, seconds):
    """Returns the figures of one window of a point: those of benchmarks.bench.measure. Raises EngineFailed."""
    worker = subject.worker_for(point)
    if point == END_TO_END:
        return worker.ask(END_TO_END, seconds, expected_s=seconds + MAX_PHOTOS * _SLOWEST_PHOTO_S)
    batch = int(point[1:])
    return worker.ask("model", batch, seconds, expected_s=seconds + _LEAST_CALLS * batch * _SLOWEST_PHOTO_S)


def measure_window(subject, point, seconds, state):
    """Measures a point once, and adds the window to those of the subject. Where that fails, its measuring stops.

    Args:
        subject: a Subject with open workers.
        point: one of subject.points().
        seconds: length of the window.
        state: dict that is added to the window: its "round", and what is known of the machine at that moment.
    """
    try:
        figures = _ask_for_window(subject, point, seconds)
    except EngineFailed as error:
        subject.fail(str(error), error.invalid)
        return
    latencies_ms = figures.pop("latencies_ms", None)
    figures.pop("batch", None)
    window = dict(figures, point=point, **state)
    window["images_per_s"] = figures["photos"] / figures["seconds"]
    # End to end, photos come in batches, one after the other: a photo's latency follows from the rate.
    window["p50_ms"] = float(np.median(latencies_ms)) if latencies_ms else 1000 / window["images_per_s"]
    if point == "b1":
        window["latencies_ms"] = [round(value, 4) for value in latencies_ms]
    subject.windows.append(window)


def measure_energy(subject, point, seconds, power):
    """Puts what a Meter measured in one window of a point into the subject's energy. If it fails, its measuring stops.

    Args:
        subject: a Subject with open workers.
        point: one of subject.points().
        seconds: length of the window; of sensors the first one does not count.
        power: the name of the source of power.
    """
    if power == Rapl.name and _uses_gpu(subject):
        reason = "RAPL counts the CPU and its memory, not the GPU that this engine works on"
        subject.energy[point] = {"unavailable": reason}
        return
    try:
        with Meter.open() as meter:
            figures = _ask_for_window(subject, point, seconds)
    except EngineFailed as error:
        subject.fail(str(error), error.invalid)
        return
    energy = meter.result()
    if "mean_w" in energy:  # which stands for the whole timed part
        took_s = figures["seconds"]
        energy.update(seconds=took_s, joules=energy["mean_w"] * took_s, photos=figures["photos"])
    subject.energy[point] = energy


def _uses_gpu(subject):
    return subject.facts["kind"] in GPU_KINDS or subject.facts.get("gpu_memory_bytes") is not None


def _run_loadgen(subjects, plan):
    for subject in subjects:
        for scenario in loadgen.SCENARIOS:
            say(f"LoadGen {scenario} ({plan.loadgen}) with {subject.name}")
            folder = os.path.join(plan.loadgen_logs, subject.name, scenario)
            try:
                files.claim_folder(folder, "--report")
                worker = subject.worker_for("b1" if scenario == "SingleStream" else END_TO_END)
                photo_s = max(window["p50_ms"] for window in subject.windows if window["point"] == "b1") / 1000
                expected_s = _LOADGEN_MARGIN * loadgen.expected_s(scenario, plan.loadgen, photo_s)
                result = worker.ask("loadgen", scenario, plan.loadgen, folder, expected_s=expected_s)
            except EngineFailed as error:
                reason = str(error).splitlines()[0]
                result = {"engine": subject.name, "scenario": scenario, "mode": plan.loadgen, "skipped": reason}
            subject.loadgen.append(result)
