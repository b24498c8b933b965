"""`picnic-edge classify` with a cheap engine, for test_kill.py to kill; KILL_AT=POINT:N kills itself, at the N-th time.

HANG_AT=engine:N or disk:N makes the N-th call of the engine, or of fsync, never come back; DRAIN_S as in
edge_runtime/cli/signals.py.

    killable.py BUNDLE FOLDER --out FILE ...

The engine's answers depend on the whole batch that a photo was in, so that a batch cut at another place shows. Photos
are told apart by their names alone, and one of ten is unreadable. Points: row (before it is written), data (rows are on
the disk, the journal is not), journal (written, not renamed), checkpoint (after it), whole (before FILE has its name),
named (FILE has its name, the journal is still there), removed (at the very end).
"""

import hashlib
import os
import signal
import sys
import threading
import time
import zlib

import numpy as np

from edge_runtime import classifier
from edge_runtime.cli import classify, signals
from edge_runtime.cli.run import run_verb
from edge_runtime.engines.base import Engine
from edge_runtime.engines.record import EngineInfo
from edge_runtime.errors import ImageError
from edge_runtime.results import file_sink, journal
from edge_runtime.results import rows as results_rows

PICTURE_S = 0.0002
COUNTS = {"CHECKPOINT_ROWS": 60, "CHECKPOINT_S": 0.05}


class BatchEngine(Engine):
    """Answers with numbers that no other batch gets."""

    def _open(self):
        pass

    def _infer(self, batch):
        seed = hashlib.sha256(np.ascontiguousarray(batch[:, 0, 0]).tobytes()).digest()[:4]
        random = np.random.RandomState(np.frombuffer(seed, np.uint32))
        rows = random.rand(len(batch), self._class_count).astype(np.float32)
        return rows / rows.sum(axis=1, keepdims=True)

    def _close(self):
        pass


def open_batch_engine(bundle, name="auto", max_batch=None, threads=None):
    info = EngineInfo("batch", "batch", "fp32", "", None)
    return BatchEngine(info, bundle.input_spec.shape, len(bundle.class_names), max_batch or 8, 1)


def read_image(path, input_spec):
    time.sleep(PICTURE_S)
    number = zlib.crc32(os.fsencode(os.path.basename(path)))
    if number % 10 == 0:
        raise ImageError("is made to be unreadable")
    picture = np.zeros((299, 299, 3), np.uint8)
    picture[0, 0] = number & 255, number >> 8 & 255, number >> 16 & 255
    return picture


def around(module, name, before=None, after=None, only=lambda *_: True):
    """Calls before and after around a function of a module, where its arguments are such as only says."""
    real = getattr(module, name)

    def replacement(*arguments):
        if before and only(*arguments):
            before()
        value = real(*arguments)
        if after and only(*arguments):
            after()
        return value

    setattr(module, name, replacement)


def at(count, act):
    """Returns a function that acts when it is called for the count-th time."""
    left = [count]

    def here():
        left[0] -= 1
        if left[0] == 0:
            act()

    return here


def hang():
    print("hangs", flush=True)
    threading.Event().wait()


def hang_at(point, count):
    """Makes the count-th call of the engine or the disk never come back."""
    module, name = {"engine": (BatchEngine, "_infer"), "disk": (os, "fsync")}[point]
    around(module, name, before=at(count, hang))


def kill_at(point, count):
    """Makes the process kill itself at the count-th time that it comes to a point."""
    here = at(count, lambda: os.kill(os.getpid(), signal.SIGKILL))
    if point == "row":
        around(results_rows, "row_of", before=here)
    elif point == "data":
        around(journal, "write_journal", before=here)
    elif point == "journal":
        around(os, "replace", before=here, only=lambda old, new: new.endswith(".json"))
    elif point == "checkpoint":
        around(journal, "write_journal", after=here)
    elif point == "whole":
        around(file_sink, "finish_file", before=here)
    elif point == "named":
        around(os, "replace", after=here, only=lambda old, new: ".partial" not in new)
    else:
        assert point == "removed"
        around(file_sink, "finish_file", after=here)


if __name__ == "__main__":
    classifier.open_engine = open_batch_engine
    classifier.read_image = read_image
    for name, value in COUNTS.items():
        setattr(file_sink, name, value)
    for name, install in (("KILL_AT", kill_at), ("HANG_AT", hang_at)):
        point, _, count = os.environ.get(name, "").partition(":")
        if point:
            install(point, int(count))
    signals.DRAIN_S = float(os.environ.get("DRAIN_S", signals.DRAIN_S))
    print("ready", flush=True)
    sys.exit(run_verb(classify.main, sys.argv[1:]))
