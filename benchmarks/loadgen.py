"""python -m benchmarks.loadgen BUNDLE: the scenarios of MLPerf's LoadGen on an engine. Unofficial: no MLPerf result.

LoadGen (pip install mlcommons-loadgen) makes the queries, times the answers and judges whether a run is VALID: long
enough, queries enough, the latency bound met (Server), and statistically safe ("early stopping"). Only runs that
follow all of MLPerf's rules may bear its name; these use its load generator, on another model and other photos.

SingleStream    one photo after the other; 90th percentile of the latency
MultiStream     one query of 8 photos after the other; 99th percentile of the query's latency
Offline         all photos in one query, in batches of the engine's largest; photos per second
Server          queries of one photo at random times, waiting ones share a batch; 99th percentile against a bound

How it runs. LoadGen's C++ code calls back from the thread that started it, where an exception would be lost. So it has
a thread of its own, the same one for all runs, whose callbacks only put queries into a queue. The calling thread, which
opened the engine, takes them out, runs the engine and answers. (MLPerf's own Python examples use a
queue and workers for Offline and Server; here all scenarios do. The hand-over costs about 0.05 ms per query.) LoadGen
cannot be stopped during a run. When the engine fails, or at Ctrl-C, the remaining queries get empty answers, which ends
LoadGen within seconds: it has a limited number of queries ready, and in Server it gives up when too many wait.
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
from edge_runtime.pipeline.latency import MIN_COUNTS

NAME = "LoadGen scenario, unofficial: not an MLPerf result"
SCENARIOS = ("SingleStream", "MultiStream", "Offline", "Server")
MODES = ("quick", "full")
DETAIL_LOG = "mlperf_log_detail.txt"
MIN_DURATION_MS = {"quick": 3000, "full": 600000}
# Photos of the one query in Offline, queries elsewhere. Below 64 (SingleStream), 662 (MultiStream) and 459 (Server, and
# none of them late) early stopping calls every run INVALID. Full: as MLPerf asks of an image classifier.
MIN_QUERIES = {
    "quick": {"SingleStream": 100, "MultiStream": 662, "Offline": 1, "Server": 700},
    "full": {"SingleStream": 1024, "MultiStream": 662, "Offline": 24576, "Server": 700},
}
_PHOTOS_PER_QUERY = 8  # MultiStream
PROBE_S = 1.0  # how long the engine's speed is measured before the run
# The one query of Offline must last for the minimum duration even if the machine was busier during the probe.
_OFFLINE_MARGIN = {"quick": 2.0, "full": 1.2}
_SERVER_LOAD = 0.5  # of the engine's speed photo by photo, so that queries at random times wait little
_SERVER_BOUND_MS = 15  # MLPerf's for image classification; for an engine that is too slow for it:
_SERVER_BOUND_CALLS = 5  # the time of so many calls with one photo
_CONDITIONS = (
    ("result_min_duration_met", "it ended before the minimum duration"),
    ("result_min_queries_met", "it ended before the minimum number of queries"),
    ("result_perf_constraints_met", "too many answers came later than the bound"),
)
_FLUSH, _END = object(), object()
# It does not end between runs: in the next run LoadGen's log writer frees what an ended thread has logged, and once
# crashed then (SIGSEGV, LoadGen 6.0.17).
_THREAD = concurrent.futures.ThreadPoolExecutor(1, "loadgen")
_PERCENTILES = (("p50", 50), ("p90", 90), ("p95", 95), ("p97", 97), ("p99", 99), ("p99_9", 99.9))


class Probe(typing.NamedTuple):
    """How fast an engine is."""

    photo_s: float  # the fastest call with one photo
    query_s: float  # with the photos of a MultiStream query
    photos_per_s: float  # in batches of the engine's largest size


def run(engine, pictures, scenario, mode, folder):
    """Runs a scenario on an engine.

    Args:
        engine: an open Engine; it is called from this thread only.
        pictures: uint8 [n, height, width, 3], n >= 1; LoadGen draws from them.
        scenario: one of SCENARIOS.
        mode: "quick" (some seconds) or "full" (600 s and more).
        folder: for LoadGen's mlperf_log_* files, which replace older ones; created if it is missing.

    Returns:
        dict of plain values: name (NAME), engine, scenario, mode, valid, why (LoadGen's reasons, [] if valid),
        metric, value, unit (the scenario's headline), queries, samples (photos), seconds (of the whole test),
        min_ms, mean_ms, max_ms, p50_ms ... p99_ms, p99_9_ms (of a query's latency; not in Offline; a percentile, and
        a value that is one, is None where LoadGen needs more queries for it: MIN_COUNTS), samples_per_s,
        settings (of LoadGen), probe (what they were computed from), max_batch, photos, loadgen_version, log_folder.

    Raises:
        MissingRequirement: there is no LoadGen. UsageError: no logs can be written to the folder.
        KeyboardInterrupt, EngineError and any other exception of the engine: after LoadGen's end, seconds later (longer
            for an engine of far less than a millisecond in full mode). The logs then say INVALID.
    """
    lg = require("mlperf_loadgen")
    files.claim_folder(folder, "the folder of LoadGen's logs")
    speed = probe(engine, pictures)
    settings = settings_of(scenario, mode, speed)
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
        probe=dict(speed._asdict()),
        max_batch=engine.max_batch,
        photos=len(pictures),
        log_folder=folder,
    )


def probe(engine, pictures):
    """Returns the engine's Probe. The fastest calls count, so that LoadGen does not run out of queries."""
    per_query = min(_PHOTOS_PER_QUERY, engine.max_batch)
    calls = int(math.ceil(_PHOTOS_PER_QUERY / per_query))
    return Probe(
        photo_s=_fastest_call_s(engine, pictures, 1),
        query_s=_fastest_call_s(engine, pictures, per_query) * calls,
        photos_per_s=engine.max_batch / _fastest_call_s(engine, pictures, engine.max_batch),
    )


def settings_of(scenario, mode, speed):
    """Returns LoadGen's settings for a scenario as {name in TestSettings: value}.

    LoadGen prepares as many queries as the expected speed needs: twice as many in the streams, 1.1 times in Offline.

    Args:
        scenario: one of SCENARIOS.
        mode: "quick" or "full".
        speed: a Probe.
    """
    settings: typing.Dict[str, typing.Any] = {
        "min_duration_ms": MIN_DURATION_MS[mode],
        "min_query_count": MIN_QUERIES[mode][scenario],
    }
    if scenario == "SingleStream":
        settings["single_stream_expected_latency_ns"] = speed.photo_s * 1e9
    elif scenario == "MultiStream":
        settings["multi_stream_expected_latency_ns"] = speed.query_s * 1e9
        settings["multi_stream_samples_per_query"] = _PHOTOS_PER_QUERY
    elif scenario == "Offline":
        settings["offline_expected_qps"] = speed.photos_per_s * _OFFLINE_MARGIN[mode]
    else:
        rate = _SERVER_LOAD / speed.photo_s
        settings["server_target_qps"] = rate
        settings["server_target_latency_ns"] = int(
            1e6 * max(_SERVER_BOUND_MS, _SERVER_BOUND_CALLS * 1e3 * speed.photo_s)
        )
        # When two seconds of queries wait, LoadGen ends the test: the bound was exceeded long before.
        settings["server_max_async_queries"] = 8 + int(2 * rate)
    return settings


def expected_s(scenario, mode, photo_s):
    """Returns about how many seconds a scenario takes with an engine that takes photo_s for a photo."""
    photos = MIN_QUERIES[mode][scenario] * (_PHOTOS_PER_QUERY if scenario == "MultiStream" else 1)
    return max(MIN_DURATION_MS[mode] / 1000, photos * photo_s)


def read_result(path, scenario):
    """Reads LoadGen's verdict and figures from its detail log.

    Args:
        path: mlperf_log_detail.txt.
        scenario: one of SCENARIOS.

    Returns:
        the part of run's result that is LoadGen's.

    Raises:
        UsageError: it cannot be read, or has no verdict.
    """
    log, errors = _read_log(path)
    if "result_validity" not in log:
        raise UsageError(f"{path}: has no verdict of LoadGen; the run did not reach its end")
    valid = log["result_validity"] == "VALID"
    queries = log["result_query_count"]
    result: typing.Dict[str, typing.Any] = {
        "scenario": scenario,
        "valid": valid,
        "why": [] if valid else _reasons(log, errors),
        "queries": queries,
        "samples": queries * log["effective_samples_per_query"],
        "loadgen_version": log.get("loadgen_version"),
    }
    if scenario == "Offline":
        rate = log["result_samples_per_second"]
        return dict(result, metric="photos per second", value=rate, unit="samples/s", samples_per_s=rate)
    infix = "query_" if scenario == "MultiStream" else ""
    for name in ("min", "max", "mean"):
        result[name + "_ms"] = log[f"result_{name}_{infix}latency_ns"] / 1e6
    infix = "per_query_" if scenario == "MultiStream" else ""
    for name, percent in _PERCENTILES:
        latency_ns = log[f"result_{percent:.2f}_percentile_{infix}latency_ns"]
        result[name + "_ms"] = latency_ns / 1e6 if queries >= MIN_COUNTS[percent] else None
    if scenario == "Server":
        result["samples_per_s"] = log["result_completed_samples_per_sec"]
        return dict(result, metric="99th percentile latency", value=result["p99_ms"], unit="ms")
    result["samples_per_s"] = 1000.0 * log["effective_samples_per_query"] / result["mean_ms"]
    rank, estimate = ("90", "early_stopping_latency_ss")
    if scenario == "MultiStream":
        rank, estimate = ("99", "early_stopping_latency_ms")  # ms: of MultiStream; it too is in nanoseconds
    # With few queries the estimate is above the percentile; with too few LoadGen gives none (0).
    if log.get(estimate):
        return dict(
            result,
            metric=f"{rank}th percentile latency (early-stopping estimate)",
            value=log[estimate] / 1e6,
            unit="ms",
        )
    return dict(result, metric=f"{rank}th percentile latency", value=result[f"p{rank}_ms"], unit="ms")


def format_result(result):
    """Returns the result of run as lines of text."""
    lines = [
        f"{result['scenario']}, {result['mode']}, {result['engine']}: {_verdict(result)}",
        f"  {result['metric']}: {value_text(result)}",
        f"  {result['queries']} queries, {result['samples']} photos in {result['seconds']:.1f} s",
    ]
    if "p50_ms" in result:
        names = [name for name in ("p50", "p90", "p99", "max") if result[name + "_ms"] is not None]
        latencies = ", ".join(f"{name} {result[name + '_ms']:.2f}" for name in names)
        lines.append(f"  {latencies} ms")
    lines += ["  because: " + reason for reason in result["why"]]
    lines.append(f"  ({result['name']}; LoadGen {result['loadgen_version']})")
    return "\n".join(lines)


def value_text(result):
    """Returns the headline's value with its unit, or of how few queries it would be."""
    if result["value"] is None:
        return f"none, of only {result['queries']} queries"
    return f"{result['value']:.2f} {result['unit']}"


def parser():
    """Returns the argument parser of `python -m benchmarks.loadgen`."""
    this = argparse.ArgumentParser(
        prog="python -m benchmarks.loadgen",
        description=f"Run a scenario of MLPerf's LoadGen on an engine. {NAME}.",
        epilog="example: python -m benchmarks.loadgen bundle --engine onnxruntime --scenario Offline",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train` or `import`; its sample photos are used")
    this.add_argument("--engine", default="auto", metavar="NAME", help="default auto: the fastest that runs here")
    this.add_argument("--scenario", choices=SCENARIOS, default="SingleStream", help="default SingleStream")
    this.add_argument("--mode", choices=MODES, default="quick", help="quick (default): seconds; full: at least 600 s")
    this.add_argument("--logs", metavar="DIR", help="keep LoadGen's log files in this folder")
    this.add_argument("--json", action="store_true", help="one JSON document on stdout instead of the text")
    return this


def main(argv=None):
    """Runs one scenario and prints its result. Raises PicnicError as the exit codes say."""
    options = parser().parse_args(argv)
    require("mlperf_loadgen")
    bundle = Bundle.open(options.bundle)
    with contextlib.ExitStack() as cleanup:
        logs = options.logs or cleanup.enter_context(tempfile.TemporaryDirectory())
        # Opened for one photo at a time, an engine uses all cores for it.
        batch = 1 if options.scenario == "SingleStream" else DEFAULT_BATCH
        engine = cleanup.enter_context(open_engine(bundle, options.engine, batch))
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
    """Runs LoadGen in a thread and answers in this one. Raises the first error after LoadGen's end."""
    test_settings = lg.TestSettings()
    test_settings.scenario = getattr(lg.TestScenario, scenario)
    test_settings.mode = lg.TestMode.PerformanceOnly
    for name, value in settings.items():
        setattr(test_settings, name, value)
    logs = lg.LogSettings()
    logs.log_output.outdir = os.fsencode(folder)  # as bytes: a name need not be UTF-8
    logs.enable_trace = False
    work = _Work(lg, scenario == "Server")
    sut = lg.ConstructSUT(work.issue, work.flush)
    photos = lg.ConstructQSL(len(pictures), min(len(pictures), 1024), _nothing, _nothing)
    with _postponed_interrupt() as interrupted:
        test = _THREAD.submit(work.start, sut, photos, test_settings, logs)
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
        self._inbox: queue.Queue = queue.Queue()
        self.failure: typing.Optional[BaseException] = None

    def start(self, sut, photos, settings, logs):
        try:
            self._lg.StartTestWithLogSettings(sut, photos, settings, logs)
        except BaseException as error:
            self.failure = self.failure or error
        finally:
            self._inbox.put(_END)

    def issue(self, samples):
        """Called by LoadGen, which owns the samples and frees them when this returns."""
        if self.failure is not None and not self._is_server:
            self._lg.QuerySamplesComplete([self._lg.QuerySampleResponse(sample.id, 0, 0) for sample in samples])
        else:
            self._inbox.put([(sample.id, sample.index) for sample in samples])

    def flush(self):
        """Called by LoadGen: no more queries will come."""
        self._inbox.put(_FLUSH)

    def serve(self, engine, pictures, interrupted):
        """Answers until LoadGen's end. After an error, which is in failure, every query is answered all the same."""
        waiting: typing.Deque[typing.Tuple[int, int]] = collections.deque()
        flushed = False
        while True:
            # After a failure a Server's queries stay unanswered: too many of them end the test early.
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
                say("interrupted: ending LoadGen")
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
    """Makes Ctrl-C raise nothing in the block; yields a function that tells whether it was pressed.

    With an exception between an answer and its bookkeeping a query would be answered twice or never, and with one that
    leaves LoadGen's thread running Python would crash at exit.
    """
    signals: typing.List[int] = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread is interrupted
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: signals.append(number))
    try:
        yield lambda: bool(signals)
    finally:
        signal.signal(signal.SIGINT, before)


def _fastest_call_s(engine, pictures, batch):
    photos = np.ascontiguousarray(pictures[np.arange(batch) % len(pictures)])
    times: typing.List[float] = []
    end = time.perf_counter() + PROBE_S
    while len(times) < 5 or time.perf_counter() < end:
        started = time.perf_counter()
        engine.infer(photos)
        times.append(time.perf_counter() - started)
    return max(min(times), 1e-6)  # a stub may take no time at all


def _read_log(path):
    """Returns ({key: last value}, [error texts]). Lines that are not JSON are ignored."""
    values: typing.Dict[str, typing.Any] = {}
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
    reasons = [text for key, text in _CONDITIONS if log.get(key) is False]
    if log.get("early_stopping_met") is False:
        reasons.append("early stopping: " + " ".join(log.get("early_stopping_result", "").replace("*", " ").split()))
    reasons += [log.get("result_invalid_reason", "").strip()] + errors
    return [text for text in reasons if text]


def _verdict(result):
    return "VALID" if result["valid"] else "INVALID"


def _nothing(_indices):
    """All photos are in memory before LoadGen asks for them."""


if __name__ == "__main__":
    sys.exit(run_verb(main, sys.argv[1:]))
