"""python -m benchmarks.loadgen BUNDLE: the scenarios of MLPerf's LoadGen on an engine. Unofficial: no MLPerf result.

LoadGen (pip install mlcommons-loadgen) makes the queries, times the answers and judges whether a run is VALID: long
enough, queries enough, the latency bound kept (Server), and statistically safe ("early stopping"). Only runs that
follow all of MLPerf's rules may bear its name; these use its load generator, on another model and other photos.

SingleStream    one photo after the other; 90th percentile of the latency
MultiStream     one query of 8 photos after the other; 99th percentile of the query's latency
Offline         all photos in one query, in batches of the engine's largest; photos per second
Server          queries of one photo at random times, waiting ones share a batch; 99th percentile against a bound

How it runs. LoadGen's C++ code calls back from the thread that started it, and an exception there could not come out.
So it has a thread of its own, the same one for all runs, whose callbacks only put queries into a queue, and the calling
thread, the one that opened the engine, takes them out, runs the engine and answers. (MLPerf's own Python examples use a
queue and workers for Offline and Server; here all scenarios do. The hand-over costs some 0.05 ms per query.) LoadGen
cannot be stopped in mid-run. When the engine fails, or at Ctrl-C, the remaining queries are answered with nothing,
which brings LoadGen to its end within seconds: it has a limited number of queries ready, and in Server gives up when
too many wait.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import json
import math
import os
import queue
import signal
import sys
import tempfile
import threading
import time
import typing

import numpy as np

from edge_runtime import files
from edge_runtime.bundle.reading import Bundle
from edge_runtime.cli.run import run_verb
from edge_runtime.console import print_json, say
from edge_runtime.engines.base import EngineError
from edge_runtime.engines.record import DEFAULT_BATCH
from edge_runtime.engines.selection import open_engine
from edge_runtime.errors import EngineLost, UsageError
from edge_runtime.machine.libraries import require

NAME = "LoadGen scenario, unofficial: not an MLPerf result"
SCENARIOS = ("SingleStream", "MultiStream", "Offline", "Server")
MODES = ("quick", "full")
DETAIL_LOG = "mlperf_log_detail.txt"
_MIN_DURATION_MS = {"quick": 3000, "full": 600000}
# Photos of the one query in Offline, queries elsewhere. Below 64 (SingleStream), 662 (MultiStream) and 459 (Server, and
# none of them late) early stopping calls every run INVALID. Full: as MLPerf asks of an image classifier.
_MIN_QUERIES = {
    "quick": {"SingleStream": 100, "MultiStream": 662, "Offline": 1, "Server": 700},
    "full": {"SingleStream": 1024, "MultiStream": 662, "Offline": 24576, "Server": 700},
}
_PHOTOS_PER_QUERY = 8  # MultiStream
_PROBE_S = 1.0
# The one query of Offline must last for the least duration also where the machine was busier while it was probed.
_OFFLINE_MARGIN = {"quick": 2.0, "full": 1.2}
_SERVER_LOAD = 0.5  # of what the engine can do photo by photo: queries that come at random wait little
_SERVER_BOUND_MS = 15  # MLPerf's for image classification, or where the engine is too slow for it:
_SERVER_BOUND_CALLS = 5  # as many calls with one photo
_CONDITIONS = (
    ("result_min_duration_met", "it ended before the least duration"),
    ("result_min_queries_met", "it ended before the least number of queries"),
    ("result_perf_constraints_met", "too many answers came later than the bound"),
)
_FLUSH, _END = object(), object()
# It never ends between runs: what a thread that ended has logged is freed by LoadGen's log writer in the next run,
# which was once seen to crash (SIGSEGV, LoadGen 6.0.17).
_THREAD = concurrent.futures.ThreadPoolExecutor(1, "loadgen")
_PERCENTILES = (("p50", "50.00"), ("p90", "90.00"), ("p95", "95.00"), ("p97", "97.00"), ("p99", "99.00"))

Probe = typing.NamedTuple(
    "Probe",
    [
        ("photo_s", float),  # the fastest call with one photo
        ("query_s", float),  # with the photos of a MultiStream query
        ("photos_per_s", float),  # in batches of the engine's largest
    ],
)


def run(engine, pictures, scenario, mode, folder):
    """Runs a scenario on an engine.

    Args:
        engine: an open Engine; it is called from this thread only.
        pictures: uint8 [n, 299, 299, 3], n >= 1; LoadGen draws from them.
        scenario: one of SCENARIOS.
        mode: "quick" (some seconds) or "full" (600 s and more).
        folder: where LoadGen writes its mlperf_log_* files, over older ones; made where it is missing.

    Returns:
        dict of plain values: name (NAME), engine, scenario, mode, valid, why (reasons of LoadGen's, [] where valid),
        metric, value, unit (the scenario's headline), queries, samples (photos), seconds (of the whole test),
        min_ms, mean_ms, max_ms, p50_ms ... p99_ms, p99_9_ms (of a query's latency; not in Offline), samples_per_s,
        settings (what LoadGen was asked), probe (what they rest on), max_batch, photos, loadgen_version, log_folder.

    Raises:
        MissingRequirement: there is no LoadGen. UsageError: no logs can be written to the folder.
        KeyboardInterrupt, EngineError and whatever else the engine raised: after LoadGen's end, seconds later (longer
            for an engine of far less than a millisecond in full mode). The logs then say INVALID.
    """
    lg = require("mlperf_loadgen")
    files.claim_folder(folder, "the folder of LoadGen's logs")
    measured = probe(engine, pictures)
    settings = settings_of(scenario, mode, measured)
    started = time.perf_counter()
    _run_test(lg, engine, pictures, scenario, settings, folder)
    seconds = time.perf_counter() - started
    result = read_result(os.path.join(folder, DETAIL_LOG), scenario)
    return dict(
        result,
        name=NAME,
        engine=engine.name,
        mode=mode,
        seconds=seconds,
        settings=settings,
        probe=dict(measured._asdict()),
        max_batch=engine.max_batch,
        photos=len(pictures),
        log_folder=folder,
    )


def probe(engine, pictures):
    """Returns the engine's Probe, after warming up. The fastest calls count: LoadGen must not run out of queries."""
    per_query = min(_PHOTOS_PER_QUERY, engine.max_batch)
    calls = int(math.ceil(_PHOTOS_PER_QUERY / per_query))
    return Probe(
        photo_s=_fastest_call_s(engine, pictures, 1),
        query_s=_fastest_call_s(engine, pictures, per_query) * calls,
        photos_per_s=engine.max_batch / _fastest_call_s(engine, pictures, engine.max_batch),
    )


def settings_of(scenario, mode, measured):
    """Returns LoadGen's settings for a scenario as {name in TestSettings: value}.

    LoadGen prepares as many queries as the expected speed needs: twice as many in the streams, 1.1 times in Offline.

    Args:
        scenario, mode: as for run.
        measured: a Probe.
    """
    settings = {
        "min_duration_ms": _MIN_DURATION_MS[mode],
        "min_query_count": _MIN_QUERIES[mode][scenario],
    }  # type: typing.Dict[str, typing.Any]
    if scenario == "SingleStream":
        settings["single_stream_expected_latency_ns"] = measured.photo_s * 1e9
    elif scenario == "MultiStream":
        settings["multi_stream_expected_latency_ns"] = measured.query_s * 1e9
        settings["multi_stream_samples_per_query"] = _PHOTOS_PER_QUERY
    elif scenario == "Offline":
        settings["offline_expected_qps"] = measured.photos_per_s * _OFFLINE_MARGIN[mode]
    else:
        rate = _SERVER_LOAD / measured.photo_s
        settings["server_target_qps"] = rate
        settings["server_target_latency_ns"] = int(
            1e6 * max(_SERVER_BOUND_MS, _SERVER_BOUND_CALLS * 1e3 * measured.photo_s)
        )
        # Two seconds of queries in waiting: the bound is lost long before. LoadGen then ends the test.
        settings["server_max_async_queries"] = 8 + int(2 * rate)
    return settings


def read_result(path, scenario):
    """Reads LoadGen's verdict and figures from its detail log.

    Args:
        path: mlperf_log_detail.txt.
        scenario: one of SCENARIOS.

    Returns:
        the part of run's result that comes from LoadGen.

    Raises:
        UsageError: it cannot be read, or holds no verdict.
    """
    log, errors = _read_log(path)
    if "result_validity" not in log:
        raise UsageError(f"{path}: holds no verdict of LoadGen's; the run did not reach its end")
    valid = log["result_validity"] == "VALID"
    queries = log["result_query_count"]
    result = {
        "scenario": scenario,
        "valid": valid,
        "why": [] if valid else _reasons(log, errors),
        "queries": queries,
        "samples": queries * log["effective_samples_per_query"],
        "loadgen_version": log.get("loadgen_version"),
    }  # type: typing.Dict[str, typing.Any]
    if scenario == "Offline":
        rate = log["result_samples_per_second"]
        return dict(result, metric="photos per second", value=rate, unit="samples/s", samples_per_s=rate)
    infix = "query_" if scenario == "MultiStream" else ""
    for name in ("min", "max", "mean"):
        result[name + "_ms"] = log[f"result_{name}_{infix}latency_ns"] / 1e6
    infix = "per_query_" if scenario == "MultiStream" else ""
    for name, rank in _PERCENTILES + (("p99_9", "99.90"),):
        result[name + "_ms"] = log[f"result_{rank}_percentile_{infix}latency_ns"] / 1e6
    if scenario == "Server":
        result["samples_per_s"] = log["result_completed_samples_per_sec"]
        return dict(result, metric="99th percentile latency", value=result["p99_ms"], unit="ms")
    result["samples_per_s"] = 1000.0 * log["effective_samples_per_query"] / result["mean_ms"]
    rank, estimate = ("90", "early_stopping_latency_ss")
    if scenario == "MultiStream":
        rank, estimate = ("99", "early_stopping_latency_ms")  # ms: of MultiStream; it too is in nanoseconds
    # With few queries the estimate lies above the percentile; LoadGen gives none (0) for less than its least number.
    if log.get(estimate):
        return dict(
            result,
            metric=f"{rank}th percentile latency (early-stopping estimate)",
            value=log[estimate] / 1e6,
            unit="ms",
        )
    return dict(result, metric=f"{rank}th percentile latency", value=result[f"p{rank}_ms"], unit="ms")


def format_result(result):
    """Returns a result of run as a few lines of text."""
    lines = [
        f"{result['scenario']}, {result['mode']}, {result['engine']}: {_verdict(result)}",
        f"  {result['metric']}: {result['value']:.2f} {result['unit']}",
        f"  {result['queries']} queries, {result['samples']} photos in {result['seconds']:.1f} s",
    ]
    if "p50_ms" in result:
        lines.append("  p50 %(p50_ms).2f, p90 %(p90_ms).2f, p99 %(p99_ms).2f, max %(max_ms).2f ms" % result)
    lines += ["  because: " + reason for reason in result["why"]]
    lines.append(f"  ({result['name']}; LoadGen {result['loadgen_version']})")
    return "\n".join(lines)


def parser():
    """Returns the argument parser of `python -m benchmarks.loadgen`."""
    this = argparse.ArgumentParser(
        prog="python -m benchmarks.loadgen",
        description="Run a scenario of MLPerf's LoadGen on an engine. " + NAME + ".",
        epilog="example: python -m benchmarks.loadgen bundle --engine onnxruntime --scenario Offline",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train`; its sample photos are used")
    this.add_argument("--engine", default="auto", metavar="NAME", help="default: the fastest that is valid here")
    this.add_argument("--scenario", choices=SCENARIOS, default="SingleStream", help="default SingleStream")
    this.add_argument("--mode", choices=MODES, default="quick", help="quick: seconds; full: 600 s (default quick)")
    this.add_argument("--logs", metavar="DIR", help="keep LoadGen's log files there")
    this.add_argument("--json", action="store_true", help="one JSON document on stdout instead of the text")
    return this


def main(argv=None):
    """Runs one scenario and prints its result. Raises PicnicError as the exit codes say."""
    options = parser().parse_args(argv)
    require("mlperf_loadgen")
    bundle = Bundle.open(options.bundle)
    with contextlib.ExitStack() as held:
        logs = options.logs or held.enter_context(tempfile.TemporaryDirectory())
        # For one photo at a time all cores work together on it.
        batch = 1 if options.scenario == "SingleStream" else DEFAULT_BATCH
        engine = held.enter_context(open_engine(bundle, options.engine, batch))
        say(f"running {options.scenario} ({options.mode}) on {engine.name}")
        try:
            result = run(engine, bundle.sample().images, options.scenario, options.mode, logs)
        except EngineError as error:
            raise EngineLost(f"the engine failed in LoadGen's {options.scenario}: {error}") from error
    if not options.logs:
        result["log_folder"] = None
    if options.json:
        print_json(result)
    else:
        print(format_result(result))


def _run_test(lg, engine, pictures, scenario, settings, folder):
    """Runs LoadGen in a thread, answers in this one, and raises afterwards what went wrong."""
    wanted = lg.TestSettings()
    wanted.scenario = getattr(lg.TestScenario, scenario)
    wanted.mode = lg.TestMode.PerformanceOnly
    for name, value in settings.items():
        setattr(wanted, name, value)
    logs = lg.LogSettings()
    logs.log_output.outdir = os.fsencode(folder)  # as bytes: a name need not be UTF-8
    logs.enable_trace = False
    work = _Work(lg, scenario == "Server")
    shown = min(len(pictures), 1024)
    sut = lg.ConstructSUT(work.issue, work.flush)
    photos = lg.ConstructQSL(len(pictures), shown, _nothing, _nothing)
    with _postponed_interrupt() as interrupted:
        test = _THREAD.submit(work.start, sut, photos, wanted, logs)
        work.serve(engine, pictures, interrupted)
        test.result()
    lg.DestroyQSL(photos)
    lg.DestroySUT(sut)
    if work.failure is not None:
        raise work.failure


class _Work:
    """What passes between LoadGen's thread and the one that runs the engine."""

    def __init__(self, lg, is_server):
        self._lg = lg
        self._is_server = is_server
        self._inbox = queue.Queue()  # type: queue.Queue
        self.failure = None  # type: typing.Optional[BaseException]

    def start(self, sut, photos, settings, logs):
        try:
            self._lg.StartTestWithLogSettings(sut, photos, settings, logs)
        except BaseException as error:
            self.failure = self.failure or error
        finally:
            self._inbox.put(_END)

    def issue(self, samples):
        """Called by LoadGen. The samples are its own memory, gone when this returns."""
        if self.failure is not None and not self._is_server:
            self._lg.QuerySamplesComplete([self._lg.QuerySampleResponse(sample.id, 0, 0) for sample in samples])
        else:
            self._inbox.put([(sample.id, sample.index) for sample in samples])

    def flush(self):
        """Called by LoadGen: no more queries will come."""
        self._inbox.put(_FLUSH)

    def serve(self, engine, pictures, interrupted):
        """Answers until LoadGen's end. What went wrong is in failure; every query is answered all the same."""
        waiting = collections.deque()  # type: typing.Deque[typing.Tuple[int, int]]
        flushed = False
        while True:
            # A Server's queries are kept after a failure: too many in waiting is what ends the test early.
            messages = [] if waiting and self.failure is None else [self._inbox.get()]
            while not self._inbox.empty():
                messages.append(self._inbox.get())
            for message in messages:
                if message is _END:
                    return
                if message is _FLUSH:
                    flushed = True
                else:
                    waiting.extend(message)
            if self.failure is None and interrupted():
                say("interrupted: bringing LoadGen to its end")
                self.failure = KeyboardInterrupt()
            if self.failure is None and waiting:
                batch = [waiting.popleft() for _ in range(min(len(waiting), engine.max_batch))]
                try:
                    probabilities = engine.infer(pictures[[index for _, index in batch]])
                except BaseException as error:
                    self.failure = error
                    waiting.extend(batch)
                else:
                    self._answer(batch, probabilities.argmax(axis=1).astype(np.int32))
            if self.failure is not None and (flushed or not self._is_server):
                self._answer(waiting, np.zeros(len(waiting), np.int32))
                waiting.clear()

    def _answer(self, samples, classes):
        address, size = classes.ctypes.data, classes.itemsize
        self._lg.QuerySamplesComplete(
            [
                self._lg.QuerySampleResponse(sample, address + number * size, size)
                for number, (sample, _) in enumerate(samples)
            ]
        )


@contextlib.contextmanager
def _postponed_interrupt():
    """In the block Ctrl-C raises nothing; yields a function that tells whether it came.

    An exception between an answer and the note that it was given would have a query answered twice or never, and one
    that left LoadGen's thread behind would crash Python's exit.
    """
    came = []  # type: typing.List[int]
    if threading.current_thread() is not threading.main_thread():  # where Ctrl-C never arrives
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, before)


def _fastest_call_s(engine, pictures, batch):
    taken = np.ascontiguousarray(pictures[np.arange(batch) % len(pictures)])
    times = []  # type: typing.List[float]
    end = time.perf_counter() + _PROBE_S
    while len(times) < 5 or time.perf_counter() < end:
        started = time.perf_counter()
        engine.infer(taken)
        times.append(time.perf_counter() - started)
    return max(min(times), 1e-6)  # a stub may take no time at all


def _read_log(path):
    """Returns ({key: last value}, [error texts]); a line that is no JSON is passed over."""
    values = {}  # type: typing.Dict[str, typing.Any]
    errors = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.readlines()
    except OSError as error:
        raise UsageError(f"{path}: LoadGen's log cannot be read ({error.strerror})")
    for line in lines:
        try:
            entry = json.loads(line[line.index("{") :])
            values[entry["key"]] = entry["value"]
            if entry["metadata"]["is_error"]:
                errors.append(str(entry["value"]))
        except (ValueError, KeyError, TypeError):
            continue
    return values, errors


def _reasons(log, errors):
    found = [text for key, text in _CONDITIONS if log.get(key) is False]
    if log.get("early_stopping_met") is False:
        found.append("early stopping: " + " ".join(log.get("early_stopping_result", "").replace("*", " ").split()))
    found += [log.get("result_invalid_reason", "").strip()] + errors
    return [text for text in found if text]


def _verdict(result):
    return "VALID" if result["valid"] else "INVALID"


def _nothing(_indices):
    """All photos are in memory before LoadGen asks for them."""


if __name__ == "__main__":
    sys.exit(run_verb(main, sys.argv[1:]))
