"""Sinks: where the rows of `picnic-edge classify` go, and how those in a file outlive whatever happens to the run.

A sink is a context manager with write(values, ends_batch), save() and finish(). How a file is written is explained in
edge_runtime.journal; a checkpoint lies only between two batches of the engine, so that a resumed run makes the batches
of an uninterrupted one, and its rows are the same to the last digit.
"""

import contextlib
import io
import itertools
import json
import os
import sys
import threading
import time
import typing

from edge_runtime import journal, tables
from edge_runtime.errors import UsageError
from edge_runtime.files import sync_folder
from edge_runtime.requirements import require

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
UNKNOWN = "unknown"
CHECKPOINT_S = 2
CHECKPOINT_ROWS = 1000
_PIECE_BYTES = 1 << 16  # rows are collected to so many bytes before they are handed to the system
_ROW_GROUP = 10000  # rows of a Parquet file that are in memory at once
_LOCK_S = 0.5  # how long save waits for a write that does not come back


def columns_of(top, timed=False):
    """Returns the columns of a result table with the top best labels; timed: of a video or a camera."""
    more = ["%s_%d" % (name, rank) for rank in range(2, top + 1) for name in ("label", "confidence")]
    return ["file", "label", "confidence", "error"] + more + (["time_s"] if timed else [])


def is_unknown(label):
    """Whether the name of a class reads like UNKNOWN, so that one cannot be told from the other."""
    return label.strip().casefold() == UNKNOWN


def row_of(prediction, top, threshold=None):
    """Returns the values of a Prediction's row, in the order of columns_of(top).

    An unreadable photo's numbers are None: an empty cell in a table, null in JSON.
    """
    if prediction.error:
        return [prediction.name, "", None, prediction.error] + ["", None] * (top - 1)
    best = prediction.top(top)
    cells = [cell for label, confidence in best for cell in (label, round(confidence, 6))]
    if threshold is not None and best[0][1] < threshold:
        cells[0] = UNKNOWN
    return [prediction.name] + cells[:2] + [""] + cells[2:]


class _Sink:
    """What all sinks have: rows and unreadable count what was written."""

    def __init__(self, rows=0, unreadable=0):
        self.rows = rows
        self.unreadable = unreadable

    @property
    def kept_rows(self):
        """How many rows are safe, whatever happens now."""
        return self.rows

    def write(self, values, ends_batch=True):
        """Writes a row: values in the order of the columns; ends_batch as in edge_runtime.pipeline.Answer."""
        self.rows += 1
        self.unreadable += bool(values[3])

    def save(self):
        """Brings what was written to where it is safe, as far as that works. Raises nothing; from any thread."""

    def finish(self):
        """Ends the output."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class ListSink(_Sink):
    """Keeps the rows, each a dict, in .listed: for the one document of --json."""

    kept_rows = 0  # they are in memory

    def __init__(self, columns):
        super().__init__()
        self.listed: typing.List[dict] = []
        self._columns = columns

    def write(self, values, ends_batch=True):
        """Adds a row."""
        self.listed.append(dict(zip(self._columns, values)))
        super().write(values)


class StandardOutput(_Sink):
    """Writes the rows to standard output as TSV, a batch at a time."""

    def __init__(self, columns):
        super().__init__()
        self._broken = False
        # A file name may hold bytes that are no UTF-8: they are written as they are.
        self._text = io.TextIOWrapper(
            sys.stdout.buffer, encoding="utf-8", errors="surrogateescape", newline="", write_through=True
        )
        try:
            with self._writing():
                self._row = tables.row_writer(self._text, columns, ".tsv")
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def write(self, values, ends_batch=True):
        """Writes a row. Raises UsageError: it cannot be written; BrokenPipeError: whoever read has gone."""
        with self._writing():
            self._row(values)
            if ends_batch:
                self._text.flush()
        super().write(values)

    def save(self):
        """Hands over what is still held back. Raises nothing."""
        with contextlib.suppress(OSError):
            self._text.flush()

    def finish(self):
        """Hands over what is still held back. Raises as write does."""
        with self._writing():
            self._text.flush()

    def __exit__(self, *_):
        if self._broken:
            # What could not be written would be tried again, and complained of, when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        self._text.detach()

    @contextlib.contextmanager
    def _writing(self):
        try:
            with _named("standard output"):
                yield
        except UsageError:
            self._broken = True
            raise


class FileSink(_Sink):
    """Writes the rows to FILE.partial, with checkpoints; finish gives it its name.

    The caller holds journal.locked(path). save may be called from another thread, also while write hangs.
    """

    def __init__(self, path, columns, run, checkpoint=None, names=None):
        """Begins a file, or goes on with one.

        Args:
            path: the file; its suffix, one of SUFFIXES, says the format.
            columns: as columns_of returns them.
            run: dict of plain values: all that the rows depend on, for the journal.
            checkpoint, names: what find_checkpoint and skip returned, to go on from there; None begins anew.

        Raises:
            UsageError: the file cannot be written.
        """
        self._path, self._run, self._columns = path, run, columns
        suffix = os.path.splitext(path)[1].lower()
        self._parquet = suffix == ".parquet"
        # saved: the last checkpoint; boundary: where the next one goes
        self.saved = checkpoint or journal.Checkpoint(0, 0, 0, "", False)
        self._names = names or journal.start_of_names()
        super().__init__(self.saved.rows, self.saved.unreadable)
        self._size_bytes = self.saved.size_bytes
        self._boundary = self.saved
        self._saved_at_s = time.monotonic()
        self._pending = bytearray()
        self._lock = threading.Lock()
        self._failure = None
        self._finished, self._closed = False, threading.Event()
        self._text = io.StringIO(newline="")
        with _named("--out %s" % path):
            if not checkpoint:
                journal.remove_journal(path)  # before its rows go
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if checkpoint else os.O_TRUNC)
            self._descriptor = os.open(journal.partial_of(path), flags, 0o666)
        self._row = tables.row_writer(self._text, columns, ".jsonl" if self._parquet else suffix, header=not checkpoint)
        try:
            with self._writing():
                os.ftruncate(self._descriptor, self._size_bytes)  # what came after the checkpoint is done again
                os.lseek(self._descriptor, self._size_bytes, os.SEEK_SET)
                self._take()
                self._boundary = self._here()
                self._save()
        except BaseException:
            os.close(self._descriptor)
            raise
        threading.Thread(target=self._keep_saving, daemon=True).start()

    def write(self, values, ends_batch=True):
        """Writes a row. Raises UsageError: it cannot be written; what the last checkpoint counts is kept."""
        with self._lock, self._writing():
            if self._failure:
                raise self._failure
            self._row(values)
            self._take()
            super().write(values)
            journal.add_name(self._names, values[0])
            if len(self._pending) >= _PIECE_BYTES:
                self._flush()
            if ends_batch:
                self._boundary = self._here()
                due = time.monotonic() - self._saved_at_s >= CHECKPOINT_S
                if due or self.rows - self.saved.rows >= CHECKPOINT_ROWS:
                    self._save()

    def save(self):
        """Brings to the disk what is done, as far as that still works. Raises nothing."""
        if self._lock.acquire(timeout=_LOCK_S):
            try:
                if not (self._failure or self._finished or self._closed.is_set()):
                    with contextlib.suppress(UsageError), self._writing():
                        self._save()
            finally:
                self._lock.release()

    def finish(self):
        """Gives the file its name. Raises UsageError: it cannot be written; the rows are kept, and resumable."""
        with self._lock, self._writing():
            self._boundary = self._here()._replace(whole=True)
            self._save()
            self._finished = True
        place(self._path, self._columns)

    @property
    def kept_rows(self):
        """How many rows FILE.partial holds for sure."""
        return self.saved.rows if self._failure else self.rows

    def __exit__(self, kind, *_):
        if kind and self.kept_rows:
            self.save()
        elif kind and not self._finished:  # it failed before it began: nothing is left lying about
            with contextlib.suppress(OSError):
                journal.remove_journal(self._path)
                os.unlink(journal.partial_of(self._path))
        self._closed.set()
        if self._lock.acquire(timeout=_LOCK_S):  # else the disk hangs, and the system closes it
            os.close(self._descriptor)

    def _keep_saving(self):
        """A checkpoint is due when no row comes any more, too: a camera may be silent for hours."""
        while not self._closed.wait(CHECKPOINT_S):
            if self._boundary.rows > self.saved.rows:
                self.save()

    def _take(self):
        """Moves the text that was written to the bytes that are pending."""
        data = self._text.getvalue().encode("utf-8", "surrogateescape")
        self._text.seek(0)
        self._text.truncate()
        self._pending += data
        self._size_bytes += len(data)

    def _here(self):
        return journal.Checkpoint(self.rows, self.unreadable, self._size_bytes, self._names.hexdigest(), False)

    def _flush(self):
        while self._pending:
            del self._pending[: os.write(self._descriptor, self._pending)]

    def _save(self):
        self._flush()
        os.fsync(self._descriptor)
        journal.write_journal(self._path, self._run, self._boundary)
        self.saved, self._saved_at_s = self._boundary, time.monotonic()

    @contextlib.contextmanager
    def _writing(self):
        """Turns an OSError into a UsageError, and cuts off what was half written."""
        try:
            with _named("--out %s" % self._path):
                yield
        except UsageError as error:
            self._failure = error
            with contextlib.suppress(OSError, UsageError):
                found = journal.read_journal(self._path)  # its name is in place, if not for sure on the disk
                self.saved = found.checkpoint if found else self.saved
                os.ftruncate(self._descriptor, self.saved.size_bytes)
            raise


def find_checkpoint(path, run):
    """Returns the Checkpoint from which the same command can go on, None where it has to begin anew.

    Args:
        path: the output. run: as for FileSink.

    Raises:
        UsageError: the journal cannot be read, or is of another run; with each thing that differs.
    """
    found = journal.read_journal(path)
    if not found:
        return None
    different = journal.differences(found.run, run)
    if different:
        raise UsageError(
            "--resume: %s is of another run:\n  %s\nGive what was given then, or leave --resume out to start anew."
            % (journal.partial_of(path), "\n  ".join(different))
        )
    try:
        there = os.path.getsize(journal.partial_of(path)) >= found.checkpoint.size_bytes
    except FileNotFoundError:
        there = found.checkpoint.whole and os.path.exists(path)  # it has its name, and only the journal was left
    return found.checkpoint if there else None


def skip(items, checkpoint, source, stop):
    """Reads past the items whose rows a checkpoint counts.

    Args:
        items: iterator over the source's items (with .name), from the start.
        source: its name, for the message.
        stop: threading.Event.

    Returns:
        the hashlib object of their names, for FileSink.

    Raises:
        UsageError: they are not those that were done. KeyboardInterrupt: stop was set.
    """
    names, count = journal.start_of_names(), 0
    for item in itertools.islice(items, checkpoint.rows):
        journal.add_name(names, item.name)
        count += 1
        if stop.is_set():
            break
    if stop.is_set():
        raise KeyboardInterrupt
    if names.hexdigest() != checkpoint.names_sha256:
        raise UsageError(
            "--resume: the first %d of %s are not those whose rows were written%s: files were added, renamed or "
            "removed since, or come in another order.\nPut them back as they were, or leave --resume out to start anew."
            % (checkpoint.rows, source, "" if count == checkpoint.rows else " (there are only %d)" % count)
        )
    return names


def set_aside(path):
    """Keeps the rows that a stopped run left, where they cannot be made again: under a free name beside the file.

    Returns:
        (that name, how many rows); None where there are none.

    Raises:
        UsageError: the journal cannot be read, or nothing can be written there.
    """
    found, partial = journal.read_journal(path), journal.partial_of(path)
    if not found or not found.checkpoint.rows or not os.path.exists(partial):
        return None
    stem, suffix = os.path.splitext(path)
    if suffix.lower() == ".parquet":
        suffix += ".jsonl"  # which is what it holds until its end
    names = ("%s.stopped-%d%s" % (stem, number, suffix) for number in itertools.count(1))
    with _named("--out %s" % path):
        if os.path.getsize(partial) > found.checkpoint.size_bytes:
            os.truncate(partial, found.checkpoint.size_bytes)
        name = next(name for name in names if not os.path.lexists(name))
        os.replace(partial, name)
        sync_folder(os.path.dirname(os.path.abspath(path)))
        journal.remove_journal(path)
    return name, found.checkpoint.rows


def place(path, columns):
    """Gives FILE.partial, whose rows are whole, its name, and removes the journal. Ends what a killed run left of that.

    Raises:
        UsageError: the file cannot be written; the rows are kept.
    """
    partial = journal.partial_of(path)
    with _named("--out %s" % path):
        if not os.path.lexists(partial):
            pass  # killed before the journal was removed
        elif path.lower().endswith(".parquet"):
            temporary = partial + ".parquet"
            _write_parquet(partial, temporary, columns)
            os.replace(temporary, path)
            sync_folder(os.path.dirname(os.path.abspath(path)))
            os.unlink(partial)
        else:
            os.replace(partial, path)
        sync_folder(os.path.dirname(os.path.abspath(path)))
        journal.remove_journal(path)


@contextlib.contextmanager
def _named(output):
    """Turns an OSError into a UsageError that names the output. A pipe whose reader has gone ends the run as it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError("%s: cannot be written (%s)" % (output, error.strerror or error))


def _write_parquet(rows_path, path, columns):
    """Writes a file of JSON lines as Parquet, a row group at a time.

    An empty cell is null. Parquet's text is UTF-8: in a name that is not, the odd bytes are shown as \\xff, and a last
    column `file_bytes` (there only if there is such a name) has the name's own bytes.
    """
    pyarrow, parquet = require("pyarrow"), require("pyarrow.parquet")
    with open(rows_path, "rb") as lines:
        odd = any(b"\\udc" in line and _bytes_of(json.loads(line.decode())["file"]) for line in lines)
    numbers = [name for name in columns if name.startswith("confidence") or name == "time_s"]
    fields = [(name, pyarrow.float64() if name in numbers else pyarrow.string()) for name in columns]
    schema = pyarrow.schema(fields + [("file_bytes", pyarrow.binary())] * odd)
    with open(path, "wb") as file, open(rows_path, "rb") as lines:
        with parquet.ParquetWriter(file, schema) as writer:
            for group in _groups(lines, _ROW_GROUP):
                rows = [json.loads(line.decode()) for line in group]
                cells = [[_utf8(row[name]) for row in rows] for name in columns]
                cells += [[_bytes_of(row["file"]) for row in rows]] * odd
                arrays = [pyarrow.array(values, field.type) for values, field in zip(cells, schema)]
                writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
        file.flush()
        os.fsync(file.fileno())


def _groups(lines, count):
    group = []
    for line in lines:
        group.append(line)
        if len(group) == count:
            yield group
            group = []
    if group:
        yield group


def _utf8(value):
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") or None
    return value


def _bytes_of(name):
    """Returns the bytes of a name that is no UTF-8, None for one that is."""
    data = name.encode("utf-8", "surrogateescape")
    try:
        data.decode()
    except UnicodeDecodeError:
        return data
    return None
