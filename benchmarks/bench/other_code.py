"""A worker that runs the code of another checkout of Picnic Edge: what `bench --against CHECKOUT` compares with.

The child process finds nothing of this checkout but this file, which therefore imports nothing of the product.
"""

import importlib
import importlib.util
import os
import pickle
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_PACKAGES = ("edge_runtime", "convert", "train", "benchmarks")
_MEASURED = ("edge_runtime", "convert", "benchmarks")
_WORKER = os.path.join("benchmarks", "bench", "worker.py")


def is_checkout(folder):
    """Whether a folder holds Picnic Edge's source."""
    return all(os.path.isfile(os.path.join(folder, name)) for name in ("setup.py", _WORKER))


def pickled(connection, parent, task):
    """Returns the arguments of `serve`, so that unpickling them imports nothing before the checkout is in place.

    Args:
        connection: the child's end of a pipe.
        parent: id of the parent process.
        task: a benchmarks.bench.worker.Task with a checkout's folder as code.
    """
    return task.code, connection, parent, pickle.dumps(dict(task._asdict()))


def serve(folder, connection, parent, pickled_task):
    """The child's main function: serves requests with the checkout's own benchmarks.bench.worker.

    Args:
        folder: the checkout.
        connection, parent, pickled_task: see `pickled`.
    """
    for name in [name for name in sys.modules if name.split(".")[0] in _PACKAGES]:
        del sys.modules[name]
    sys.path.insert(0, folder)
    foreign = [name for name in _MEASURED if not _lies_in(folder, name)]
    if foreign:
        reason = f"{folder}: Python does not find {', '.join(foreign)} in it, so that other code would be measured"
        connection.send((f"{reason}; expected a whole checkout, each package with its __init__.py", None))
        return
    try:
        worker = importlib.import_module("benchmarks.bench.worker")
        values = pickle.loads(pickled_task)
        task = worker.Task(**{name: values[name] for name in worker.Task._fields})
        run = worker._serve
    except (ImportError, AttributeError, KeyError, TypeError) as error:
        reason = f"{folder}: its bench does not go together with this one ({type(error).__name__}: {error})"
        connection.send((f"{reason}; expected a checkout of version 0.2 or newer", None))
        return
    run(connection, parent, task)


def _lies_in(folder, package):
    """Whether Python would load a package from a folder. One without __init__.py yields to any other of its name."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.origin:
        return False
    return os.path.dirname(os.path.realpath(spec.origin)) == os.path.join(os.path.realpath(folder), package)
