"""A folder of a million photos starts at once and takes no more memory than one of a thousand."""

import os
import shutil
import subprocess
import sys

import pytest

from edge_runtime.sources import table_reader
from tests.helpers import ROOT, write_bytes

_LINKS_OF_A_FILE = 60000  # ext4 allows 65,000

# The whole verb, with a picture and an engine that take no time. VmHWM is this process's own peak, in KiB; ru_maxrss
# would begin with that of the process that started it.
CLASSIFY = """
import sys, time
import numpy as np
from edge_runtime import classifier
from edge_runtime.cli import classify
from edge_runtime.engines.record import EngineInfo
from edge_runtime.engines.base import Engine

class Stub(Engine):
    first_s = None
    def _open(self):
        pass
    def _infer(self, batch):
        Stub.first_s = Stub.first_s or time.perf_counter()
        return np.full((len(batch), 3), 1 / 3, np.float32)
    def _close(self):
        pass

picture = np.zeros((299, 299, 3), np.uint8)
classifier.read_image = lambda path, input_spec: picture
classifier.open_engine = lambda *_, **__: Stub(EngineInfo("stub", "stub", "fp32", "", None), (299, 299, 3), 3, 8, 1)
started_s = time.perf_counter()
classify.main(sys.argv[1:])
with open("/proc/self/status") as file:
    peak_kib = [int(line.split()[1]) for line in file if line.startswith("VmHWM")][0]
print(peak_kib, Stub.first_s - started_s)
"""


def make_photos(folder, count):
    """Makes names of photos, in another order than the sorted one; hard links: a million files would take a while."""
    os.makedirs(folder)
    for number in range(count):
        if number % _LINKS_OF_A_FILE == 0:
            photo = write_bytes("%s.%d" % (folder, number), b"")
        os.link(photo, os.path.join(folder, "IMG_%07d.jpg" % (number * 7919 % count)))


def classify(bundle, folder, out):
    """Returns (peak memory in MB, seconds until the engine got the first batch)."""
    done = subprocess.run(
        [sys.executable, "-c", CLASSIFY, bundle, folder, "--out", out, "--batch", "8"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=ROOT),
    )
    assert done.returncode == 0, done.stderr.decode()
    peak_kib, first_s = done.stdout.split()[-2:]
    return int(peak_kib) / 1000, float(first_s)


@pytest.mark.parametrize("count", [20000, pytest.param(1000000, marks=pytest.mark.slow)])
def test_more_photos_take_no_more_memory(tiny_bundle, tmp_path, count):
    peaks_mb = []
    for photos in (1000, count):
        folder, out = str(tmp_path / str(photos)), str(tmp_path / ("%d.tsv" % photos))
        make_photos(folder, photos)
        peak_mb, first_s = classify(tiny_bundle, folder, out)
        print("%d photos: peak %.0f MB, first batch after %.2f s" % (photos, peak_mb, first_s))
        peaks_mb.append(peak_mb)
        number = -1
        for number, row in enumerate(table_reader.read_rows(out)):
            assert row.file == "IMG_%07d.jpg" % number
        assert number + 1 == photos
        shutil.rmtree(folder)  # pytest would keep it for a while
    assert peaks_mb[1] - peaks_mb[0] < 50
