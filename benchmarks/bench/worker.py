"""An engine in a process of its own: its memory is measured alone, and its crash costs no other engine's figures.

The process opens the engine, answers requests one at a time, and waits in between without using a core, so that several
engines can be open side by side and be measured in turns.
"""

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
import typing

import numpy as np

from benchmarks import loadgen
from benchmarks.bench import measure, other_code
from benchmarks.bench.patience import waiting_for
from convert.labelled import macro_f1
from edge_runtime.bundle.reading import Bundle
from edge_runtime.classifier import Classifier
from edge_runtime.engines.base import EngineError
from edge_runtime.engines.kinds import GPU_KINDS
from edge_runtime.errors import BundleError, PicnicError
from edge_runtime.machine import jetson
from edge_runtime.machine.memory import peak_memory_bytes
from edge_runtime.machine.processes import die_with_parent

END_TO_END = "end_to_end"
# How long an answer may take before the engine counts as hung, as a GPU's may: opening one (TF-TRT has been reported to
# load for 20 minutes on a board), and other requests, beside the time that their photos take.
OPEN_LIMIT_S = 2400.0
STEP_LIMIT_S = 300.0
_GRACE_S = 5
_MAX_PICTURES = 32  # in the batches of the model-only windows: a copy per batch size is in the peak of memory


class Task(typing.NamedTuple):
    """What a worker opens."""

    bundle: str  # its folder
    engine: str  # its name
    batches: typing.List[int]  # photos per call, in the order of measuring
    items: list  # edge_runtime.sources.items.Item of the end-to-end run
    scratch: str  # an existing folder
    opener: typing.Callable  # edge_runtime.engines.selection.open_engine, or a function with the same arguments
    code: str = ""  # folder of the checkout whose code runs, "" for this one


class EngineFailed(Exception):  # noqa: N818
    """This engine cannot be measured any further. The message is the reason; its first line is the short form.

    invalid: it, or its bundle, is corrupt or built for another machine.
    """

    def __init__(self, reason, invalid=False):
        super().__init__(reason)
        self.invalid = invalid


class Worker:
    """The parent's side: starts the process, sends requests, closes it. For one thread only."""

    def __init__(self, task):
        """Starts the process and waits until the engine is open and warm.

        Raises:
            EngineFailed: it cannot be opened.
        """
        context = multiprocessing.get_context("spawn")  # a fork would share the parent's threads and memory
        self._connection, theirs = context.Pipe()
        self._name = task.engine
        self._busy = True
        self._hangs = ""  # how, once it does
        serve: typing.Callable = _serve
        arguments: tuple = (theirs, os.getpid(), task)
        if task.code:
            serve, arguments = other_code.serve, other_code.pickled(*arguments)
        self._process: typing.Any = context.Process(target=serve, args=arguments, daemon=True)
        # Only the parent handles Ctrl-C: the child starts with SIGINT blocked, and then ignores it.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            self._process.start()
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        try:
            self.facts = self._answer(
                OPEN_LIMIT_S
            )  # dict: name, kind, precision, slots, load_s, first_call_ms, warm_up_s
        except BaseException:
            self.close()
            raise

    def ask(self, request, *arguments, expected_s=0.0):
        """Calls a public method of _OpenEngine in the process and returns its result.

        Args:
            request: name of the method.
            arguments: of the method.
            expected_s: how long it may well take, at the most; past that, it gets STEP_LIMIT_S more.

        Raises:
            EngineFailed: it failed, its process ended, or it took too long; the process is then killed.
        """
        if self._hangs:
            raise EngineFailed(self._hangs)
        self._busy = True
        with contextlib.suppress(OSError):  # where the process has ended, reading says how
            self._connection.send((request, arguments))
        return self._answer(expected_s + STEP_LIMIT_S)

    def close(self):
        """Ends the process. May be called any number of times."""
        self._connection.close()
        if not self._busy:  # it ends as soon as the connection is closed
            self._process.join(_GRACE_S)
        if self._process.is_alive():
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.join(_GRACE_S)  # one that hangs in a driver cannot be killed

    def _answer(self, limit_s):
        try:
            with waiting_for(self._name, limit_s):
                has_answer = self._connection.poll(limit_s)
            if not has_answer:
                self._hangs = f"it hangs: no answer for {limit_s:.0f} s"
                self.close()
                raise EngineFailed(self._hangs)
            reason, value = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(_GRACE_S)
            reason, value = _how_it_ended(self._process.exitcode), None
        self._busy = False
        if reason:
            raise EngineFailed(reason, invalid=bool(value))
        return value


def largest_batch(info):
    """Returns the largest batch that an engine was built for, None where it takes any."""
    profile = (info.record or {}).get("batch_profile")
    if info.kind not in GPU_KINDS or not isinstance(profile, dict):
        return None
    largest = profile.get("max")
    return largest if isinstance(largest, int) and largest > 0 else None


def _how_it_ended(code):
    if code == -signal.SIGKILL:
        return "its process was killed by the system, most likely because memory ran out"
    if code is not None and code < 0:
        return f"its process crashed ({signal.Signals(-code).name})"
    return f"its process ended with exit code {code}; its own messages are above"


def _serve(connection, parent, task):
    """The child's main function: opens the engine, then answers requests until the parent closes the connection.

    Other versions call it (benchmarks.bench.other_code): its arguments, and what model and end_to_end take and return,
    stay as they are.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    die_with_parent(parent)
    os.dup2(2, 1)  # standard output is for the parent's document
    subject: typing.Any = None
    request: typing.Callable = _OpenEngine
    arguments: tuple = (task,)
    while True:
        reason, value = "", None
        try:
            value = request(*arguments)
        except (PicnicError, EngineError) as error:
            reason, value = str(error) or type(error).__name__, isinstance(error, BundleError)
        except Exception as error:  # each library has its own exceptions
            traceback.print_exc()
            text = str(error).strip().splitlines() or [""]
            reason = f"{type(error).__name__}: {text[0]}"
        try:
            if subject is None and not reason:
                subject = value
                value = subject.facts
            connection.send((reason, value))
            name, arguments = connection.recv()
        except (EOFError, OSError):  # the parent closed the connection
            return
        request = getattr(subject, name)


class _OpenEngine:
    """The child's side: the open engine. Its public methods are the requests."""

    def __init__(self, task):
        self._task = task
        self._bundle = Bundle.open(task.bundle)
        self._pictures = self._bundle.sample().images
        started = time.perf_counter()
        self._engine = task.opener(self._bundle, task.engine, max(task.batches))
        load_s = time.perf_counter() - started
        self._classifier = Classifier(self._bundle, self._engine, max(task.batches))
        few = self._pictures[:_MAX_PICTURES]
        self._batches = {size: measure.make_batches(few, size) for size in task.batches}
        started = time.perf_counter()
        calls_ms = [measure.warm_up(self._engine, self._batches[size]) for size in task.batches]
        info = self._engine.info
        self.facts = {
            "name": self._engine.name,
            "kind": info.kind,
            "precision": info.precision,
            "slots": self._engine.slots,
            "load_s": load_s,
            "first_call_ms": calls_ms[0][0],
            "warm_up_s": time.perf_counter() - started,
        }

    def model(self, batch, seconds):
        """Times a window of calls: measure.window."""
        return measure.window(self._engine, self._batches[batch], seconds)

    def end_to_end(self, seconds):
        """Times a window of photo files: measure.end_to_end."""
        out = os.path.join(self._task.scratch, f"{os.getpid()}.tsv")
        figures = measure.end_to_end(self._classifier, self._task.items, out, seconds)
        failed = self._classifier.stats.failed
        if failed:
            raise EngineError(f"{self._engine.name}: it fails on {failed} of {figures['photos']} photos")
        return figures

    def accuracy(self, labelled):
        """Scores the engine on labelled photos, a list that convert.reference.labelled_photos returned."""
        answers = self._classifier.classify(item for item, _ in labelled)
        rows = [
            (label, answer.probabilities.argmax())
            for (_, label), answer in zip(labelled, answers)
            if answer.probabilities is not None
        ]
        if not rows:
            return {"labelled_photos": 0, "top1": None, "macro_f1": None}
        truth, predicted = np.array(rows).T
        return {
            "labelled_photos": len(rows),
            "top1": float(np.mean(truth == predicted)),
            "macro_f1": macro_f1(truth, predicted),
        }

    def memory(self):
        """Returns {"peak_rss_bytes", "gpu_memory_bytes"} so far; the GPU's is None where it is unknown."""
        return {"peak_rss_bytes": peak_memory_bytes(), "gpu_memory_bytes": _gpu_memory_bytes(os.getpid())}

    def loadgen(self, scenario, mode, folder):
        """Runs a scenario of LoadGen: benchmarks.loadgen.run."""
        return loadgen.run(self._engine, self._pictures, scenario, mode, folder)


def _gpu_memory_bytes(pid):
    """Returns a process's GPU memory from nvidia-smi. A Jetson has none: its GPU uses the machine's memory."""
    command = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    for line in jetson.output_of(*command).splitlines():
        fields = [field.strip() for field in line.split(",")]
        if fields[0] == str(pid) and len(fields) == 2 and fields[1].isdigit():
            return int(fields[1]) << 20
    return None
