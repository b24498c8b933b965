"""Training on several machines: the workers of a cluster that TF_CONFIG describes.

TF_CONFIG is TensorFlow's own setting, JSON in the environment of each worker, with the same command line everywhere:
{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}
Each worker computes its share of every batch and the gradients are summed: two workers compute the same as one.
Worker 0, the chief, writes the bundle.
"""

import contextlib
import json
import os
import sys

import numpy as np

from edge_runtime.errors import UsageError
from edge_runtime.machine.libraries import require


def cluster():
    """Returns (index of this worker, count of workers): (0, 1) without TF_CONFIG.

    Raises:
        UsageError: TF_CONFIG is not valid, or names other tasks than workers.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip() or text.strip() == "{}":
        return 0, 1
    try:
        config = json.loads(text)
        jobs, task = config["cluster"], config["task"]
        count, index = len(jobs["worker"]), int(task["index"])
        if sorted(jobs) != ["worker"] or task["type"] != "worker" or not 0 <= index < count:
            raise ValueError("expected only workers, and the index of one of them")
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            'TF_CONFIG: expected {"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": N}}, '
            f"got {text} ({error})"
        )
    return index, count


def new_strategy():
    """Returns MultiWorkerMirroredStrategy if TF_CONFIG describes a cluster, else the strategy of one machine.

    Must run before TensorFlow computes anything. It waits for the other workers.
    """
    tensorflow = require("tensorflow")
    if cluster()[1] == 1:
        return tensorflow.distribute.get_strategy()
    return tensorflow.distribute.MultiWorkerMirroredStrategy()


def mean(strategy, values):
    """Returns the mean over the workers of a list of numbers or float32 arrays; every worker gets the same."""
    if cluster()[1] == 1:
        return values
    tensorflow = require("tensorflow")

    def average(*tensors):
        own = [tensorflow.identity(tensor) for tensor in tensors]  # placed on this worker's device
        return tensorflow.distribute.get_replica_context().all_reduce(tensorflow.distribute.ReduceOp.MEAN, own)

    reduce = tensorflow.function(lambda *tensors: strategy.run(average, args=tensors), autograph=False)
    reduced = reduce(*[tensorflow.constant(np.asarray(value, np.float32)) for value in values])
    return [strategy.experimental_local_results(value)[0].numpy() for value in reduced]


def wait_for_all(strategy):
    """Waits until every worker calls it: the others would report one that leaves early as crashed."""
    mean(strategy, [0.0])


def leave(strategy):
    """Ends this process with exit code 0; without a cluster it does nothing. Call it last, after wait_for_all.

    At Python's own exit TensorFlow's threads that watch the other workers sometimes abort the process (seen with 2.6;
    github.com/tensorflow/tensorflow/issues/55250).
    """
    if cluster()[1] > 1:
        # A worker that has wait_for_all's result may still have to send it to others, which fail if it is gone. After
        # this second mean all have the first one; it does not matter whether all get the second.
        with contextlib.suppress(require("tensorflow").errors.OpError):
            mean(strategy, [0.0])
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
