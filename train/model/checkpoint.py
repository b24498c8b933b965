"""The state of a training, in one file beside the future bundle: `--resume` continues from it, even after kill -9."""

import contextlib
import json
import os
import time

import numpy as np

from edge_runtime import files
from edge_runtime.console import say
from edge_runtime.errors import UsageError

_STATE = "state.npz"
_OLDER_STATES = {"size": 299}  # what was the same for all trainings before version 0.3


class Checkpoint:
    """The state of a training.

    Attributes:
        facts, arrays: the state within the current stage: plain values, {name: numpy array}.
        results, result_arrays: of finished stages: {name: plain value}, {name: numpy array}.
        path: the file that holds the state.
        is_ours: whether the file holds a state of this training.
    """

    def __init__(self, folder, identity, resume, started=None):
        """Reads the state of an interrupted training.

        Args:
            folder: where the state is kept.
            identity: dict of plain values that decide what the training computes.
            resume: continue from the state in the folder; else this training's first state replaces it.
            started: time.perf_counter() when the training began; None for now.

        Raises:
            UsageError: the state is that of another training, or cannot be read.
        """
        self.folder = folder
        self.path = path = os.path.join(folder, _STATE)
        self.facts, self.arrays = {}, {}
        self.results, self.result_arrays = {}, {}
        self.is_ours = False
        self._earlier_s = 0.0
        self._identity = identity
        self._started = time.perf_counter() if started is None else started
        if not resume:
            if os.path.exists(path):  # there until this training has a state of its own
                say(f"{folder} holds the state of a stopped training; --resume would continue it, this run starts over")
            return
        if not os.path.exists(path):
            say(f"--resume: {folder} holds no state of an earlier training; this run starts at the beginning")
            return
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as state:
                saved = json.loads(state["facts"].tobytes().decode("utf-8"))
                self.arrays = {name: state[name] for name in saved["arrays"]}
                self.result_arrays = {name: state[name] for name in saved["kept_arrays"]}
                saved_identity = dict(_OLDER_STATES, **saved["identity"])
        except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
            raise UsageError(f"{path}: cannot be read ({error}); start without --resume")
        differing = sorted(name for name in identity if saved_identity.get(name) != identity[name])
        if differing:
            lines = "\n  ".join(f"{name}: {saved_identity.get(name)} then, {identity[name]} now" for name in differing)
            raise UsageError(
                f"--resume: {folder} is the state of another training:\n  {lines}\n"
                "Give the same options and photos, or start without --resume"
            )
        self.facts, self.results, self._earlier_s = saved["facts"], saved["kept"], saved.get("seconds", 0.0)
        self.is_ours = True

    def seconds(self):
        """Returns how long the training has taken so far, the time before it was stopped included."""
        return self._earlier_s + time.perf_counter() - self._started

    def save(self, facts, arrays):
        """Writes the state atomically. If that fails, a full disk for example, the training continues without it."""
        self.facts, self.arrays = facts, arrays
        text = json.dumps(
            {
                "identity": self._identity,
                "facts": facts,
                "arrays": sorted(arrays),
                "kept": self.results,
                "kept_arrays": sorted(self.result_arrays),
                "seconds": self.seconds(),
            }
        ).encode("utf-8")
        try:
            os.makedirs(self.folder, exist_ok=True)
            with files.atomic_file(self.path, binary=True) as file:
                np.savez(file, facts=np.frombuffer(text, np.uint8), **dict(arrays, **self.result_arrays))
            self.is_ours = True
        except OSError as error:
            say(f"{self.folder}: the state cannot be written ({error}); training continues without it")

    def add_result(self, name, value, **arrays):
        """Saves the result of a finished stage; removes the state within that stage."""
        self.results[name] = value
        self.result_arrays.update(arrays)
        self.save({}, {})

    def remove(self):
        """Deletes the state, once the training is finished. Other files in its folder stay."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
            files.remove_leftovers(self.path)
            os.rmdir(self.folder)
