"""How long a new `picnic-edge classify` process takes to its first label."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import typing

from benchmarks.bench.patience import waiting_for
from edge_runtime.errors import BundleError

LIMIT_S = 2400.0  # as long as opening an engine may take: benchmarks.bench.worker

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def time_cold_start(bundle, subject, photo):
    """Starts `picnic-edge classify` once and adds the seconds to its first label to the subject's facts.

    Args:
        bundle: an open Bundle.
        subject: a Subject. If the command fails, its measuring stops.
        photo: path of a readable photo.
    """
    command = [sys.executable, "-m", "picnic_edge", "classify", bundle.path, photo, "--engine", subject.name]
    environment = dict(os.environ, PYTHONPATH=_ROOT + os.pathsep + os.environ.get("PYTHONPATH", ""))
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process: typing.Any = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
        limit = threading.Timer(LIMIT_S, process.kill)
        limit.start()
        try:
            with waiting_for(subject.name, LIMIT_S):
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
            limit.cancel()
            process.stdout.close()
        errors.seek(0)
        message = ("\n" + errors.read().decode("utf-8", "replace")).partition("\npicnic-edge: ")[2].strip()
    if code == -signal.SIGKILL and time.perf_counter() - started >= LIMIT_S:
        subject.fail(f"classify with it hangs: no end after {LIMIT_S:.0f} s")
    elif code or not row:
        subject.fail(message or f"classify with it ended with exit code {code}", code == BundleError.exit_code)
    else:
        subject.facts["cold_starts_s"].append(took_s)
