"""How long a new `picnic-edge classify` process takes to its first label."""

import os
import subprocess
import sys
import tempfile
import time
import typing

from edge_runtime.errors import BundleError

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
        try:
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
            process.stdout.close()
        errors.seek(0)
        message = ("\n" + errors.read().decode("utf-8", "replace")).partition("\npicnic-edge: ")[2].strip()
    if code or not row:
        subject.fail(message or f"classify with it ended with exit code {code}", code == BundleError.exit_code)
    else:
        subject.facts["cold_starts_s"].append(took_s)
