"""The pooled features of photos: computed once per photo and network, cached on disk, read in pieces.

One file per network, below the user's cache folder ($XDG_CACHE_HOME, ~/.cache): records of equal size, each the sha256
of a photo's bytes, the features, and a checksum over both. A record that a crash left incomplete fails its checksum
and is cut off when the file is next opened; the photo's features are then computed again.
"""

import contextlib
import fcntl
import hashlib
import os
import tempfile
import typing
import zlib

import numpy as np

from edge_runtime import files
from edge_runtime.console import progress, say
from edge_runtime.errors import ImageError, UsageError
from edge_runtime.machine.libraries import require
from edge_runtime.photos import read, spec
from train.data.batches import photo_batches
from train.model.network import FEATURES, scale

_RECORD = np.dtype([("photo", "S64"), ("features", "<f4", (FEATURES,)), ("crc32", "<u4")])
_BATCH = 16
_CHECKED_AT_ONCE = 1024  # records


class FeatureTable:
    """Features of a list of photos; indexing with an int array [k] reads float32 [k, 2048] from disk."""

    def __init__(self, records, rows):
        self._records = records
        self._rows = rows

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, indices):
        return self._records["features"][self._rows[indices]]


def compute_features(base, input_spec, photos, sums):
    """Runs the frozen base over the photos whose features are not on disk yet.

    Args:
        base: Keras model, float32 [n, height, width, 3] in [-1, 1] -> float32 [n, 2048].
        input_spec: edge_runtime.photos.spec.InputSpec of the base.
        photos: list of readable train.data.labels.Photo.
        sums: {path: sha256 of the photo's bytes, hexadecimal}.

    Returns:
        FeatureTable in the order of photos.

    Raises:
        UsageError: the disk is full, or another process wrote to the file meanwhile.
    """
    with _open_cache(_network_key(base, input_spec)) as file:
        rows = _read_rows(file)
        missing = {sums[photo.path]: photo.path for photo in photos if sums[photo.path] not in rows}
        if missing:
            with files.named(file.name):
                _append(file, base, input_spec, missing, rows)
        records = np.memmap(file, _RECORD, mode="r")
        own = [sums[photo.path] for photo in photos]
        own_rows = np.array([rows[name] for name in own], int)
        # Locks on network drives do not always work; training would silently use other photos' features.
        if len(records) <= own_rows.max() or (records["photo"][own_rows] != np.array(own, "S64")).any():
            raise UsageError(f"{file.name}: another process wrote to it; give the same command again")
        with contextlib.suppress(OSError):  # closing the file does not unlock it: the mapping keeps it open
            fcntl.flock(file, fcntl.LOCK_UN)
        return FeatureTable(records, own_rows)


def _append(file, base, input_spec, missing, rows):
    """Computes the features of {sha256: path} and adds their records to the file and their row numbers to rows."""
    tensorflow = require("tensorflow")
    run = tensorflow.function(lambda pixels: base(scale(pixels), training=False), autograph=False)
    sums = iter(missing)
    sum_of = {path: sha256 for sha256, path in missing.items()}

    def load(path):
        photo = read.read_photo(path, input_spec)
        if photo.sha256 != sum_of[path]:
            raise ImageError("it has changed since it was checked")
        return photo.picture

    row = os.path.getsize(file.name) // _RECORD.itemsize
    with progress(total=len(missing), what="features") as bar:
        for pixels in photo_batches(list(missing.values()), _BATCH, input_spec, load):
            records = np.zeros(int(pixels.shape[0]), _RECORD)
            for record, features in zip(records, run(pixels).numpy()):
                record["photo"], record["features"] = next(sums).encode(), features
                record["crc32"] = _checksum(record)
                rows[record["photo"].decode()] = row
                row += 1
            data = memoryview(records.tobytes())
            while data:  # an unbuffered write to a nearly full disk may be partial
                data = data[file.write(data) :]
            bar.update(len(records))
    os.fsync(file.fileno())


def _read_rows(file):
    """Returns {sha256: row} of the valid records; cuts the file off at the first that is not valid."""
    rows: typing.Dict[str, int] = {}
    count = 0
    file.seek(0)
    while True:
        data = file.read(_CHECKED_AT_ONCE * _RECORD.itemsize)
        records = np.frombuffer(data, _RECORD, len(data) // _RECORD.itemsize)
        is_valid = [record["crc32"] == _checksum(record) for record in records]
        valid = is_valid.index(False) if False in is_valid else len(is_valid)
        rows.update({record["photo"].decode(): count + number for number, record in enumerate(records[:valid])})
        count += valid
        if valid < _CHECKED_AT_ONCE:
            file.truncate(count * _RECORD.itemsize)
            file.seek(0, os.SEEK_END)
            return rows


def _checksum(record):
    return zlib.crc32(record["features"].tobytes(), zlib.crc32(record["photo"]))


def _open_cache(key):
    """Opens a network's cache file and locks it; a temporary file if another training has it or it is not writable."""
    folder = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "picnic-edge", "features")
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(folder, exist_ok=True)
            # Unbuffered: a buffer that did not fit on the disk would be written again when the file is closed.
            file = stack.enter_context(open(os.path.join(folder, key), "a+b", buffering=0))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stack.pop_all()
            return file
        except OSError as error:
            say(f"features are computed for this training only, not cached: {folder} ({error.strerror})")
    return tempfile.NamedTemporaryFile(prefix="picnic-edge-features.", buffering=0)


def _network_key(base, input_spec):
    """Returns an id of what the features depend on: the network's weights and the input spec."""
    digest = hashlib.sha256(repr(sorted(spec.to_manifest(input_spec).items())).encode())
    for weight in base.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()[:32]
