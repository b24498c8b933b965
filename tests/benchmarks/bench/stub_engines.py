"""Engines whose speed is made up by sleeping, opened in the bench's child processes in place of real ones."""

import os
import threading
import time

import numpy as np

from edge_runtime.engines.base import Engine
from edge_runtime.engines.record import EngineInfo
from edge_runtime.errors import BundleError, MissingRequirement


class SleepingEngine(Engine):
    """Takes call_s per call and photo_s per photo, and answers the class of the brightest channel."""

    call_s, photo_s = 0.002, 0.001

    def _open(self):
        pass

    def _infer(self, batch):
        time.sleep(self.call_s + self.photo_s * len(batch))
        means = batch.reshape(len(batch), -1, 3).mean(axis=1)
        # tests.helpers.COLOURS, sorted: blue, green, red
        answers = np.full((len(batch), self._class_count), 0.01, np.float32)
        answers[np.arange(len(batch)), 2 - means.argmax(axis=1)] = 0.98
        return answers

    def _close(self):
        pass


def open_sleeping(bundle, name, max_batch):
    info = EngineInfo(name, "onnxruntime", "fp32", bundle.path, None)
    return SleepingEngine(info, bundle.input_spec.shape, len(bundle.class_names), max_batch, 1).open()


def open_slower(bundle, name, max_batch):
    """Twice as slow."""
    engine = open_sleeping(bundle, name, max_batch)
    engine.call_s, engine.photo_s = 0.004, 0.002
    return engine


def open_lacking(bundle, name, max_batch):
    """No library for onnxruntime-fp32; the others are fine."""
    if name == "onnxruntime-fp32":
        raise MissingRequirement("a library is needed here\nTo get it: pip install it")
    return open_sleeping(bundle, name, max_batch)


def open_corrupt(bundle, name, max_batch):
    """Not the engine that was written."""
    raise BundleError("not the one that was written\nTo get it: make it again")


def open_crashing(bundle, name, max_batch):
    """onnxruntime-fp32 takes its process down in the 30th call."""
    engine = open_sleeping(bundle, name, max_batch)
    calls = []

    def infer(batch, real=engine._infer):
        calls.append(1)
        if name == "onnxruntime-fp32" and len(calls) == 30:
            os.abort()
        return real(batch)

    engine._infer = infer
    return engine


def open_failing(bundle, name, max_batch):
    """Its library raises something of its own from the 30th call on."""
    engine = open_sleeping(bundle, name, max_batch)
    calls = []

    def infer(batch, real=engine._infer):
        calls.append(1)
        if len(calls) >= 30:
            raise OverflowError("planted\nsecond line")
        return real(batch)

    engine._infer = infer
    return engine


def open_refused(bundle, name, max_batch):
    """A bug while opening."""
    raise KeyError("planted bug")


def open_endless(bundle, name, max_batch):
    """Its 60th call, well behind the warm-up, says so and never returns."""
    engine = open_sleeping(bundle, name, max_batch)
    calls = []

    def infer(batch, real=engine._infer):
        calls.append(1)
        if len(calls) == 60:
            os.write(2, b"in the endless call\n")
            time.sleep(3600)
        return real(batch)

    engine._infer = infer
    return engine


def open_hanging(bundle, name, max_batch):
    """onnxruntime-fp32 hangs end to end, where a thread of the pipeline calls it, as a GPU may; the others do not."""
    engine = open_sleeping(bundle, name, max_batch)

    def infer(batch, real=engine._infer):
        if name == "onnxruntime-fp32" and threading.current_thread() is not threading.main_thread():
            time.sleep(3600)
        return real(batch)

    engine._infer = infer
    return engine


def open_streams(bundle, name, max_batch):
    """As OpenVINO's: opened for batches it has slots, and takes three times as long for one photo."""
    engine = open_sleeping(bundle, name, max_batch)
    if max_batch > 1:
        engine.slots = 2
        engine.call_s = 0.008
    return engine
