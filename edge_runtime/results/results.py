"""Sinks: where the rows of `picnic-edge classify` go, and how those in a file outlive whatever happens to the run.

A sink is a context manager with write(values, ends_batch), save() and finish(). How a file is written is explained in
edge_runtime.results.journal; a checkpoint lies only between two batches of the engine, so that a resumed run makes the
batches of an uninterrupted one, and its rows are the same to the last digit.
"""

import base64
import contextlib
import io
import itertools
import json
import os
import sys
import tempfile
import threading
import time
import typing

from edge_runtime import files
from edge_runtime.errors import UsageError
from edge_runtime.files import sync_folder
from edge_runtime.machine.requirements import require
from edge_runtime.results import journal
from edge_runtime.sources import tables
from edge_runtime.text import printable

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
        """Writes a row: values in the order of the columns; ends_batch as in edge_runtime.pipeline.pipeline.Answer."""
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


class StreamSink(_Sink):
    """Writes the rows where nothing is replaced, a batch at a time: to standard output, a device, a FIFO."""

    def __init__(self, columns, path=None, suffix=".tsv"):
        """Begins the output.

        Args:
            columns: as columns_of returns them.
            path: what edge_runtime.files.is_stream tells; None for standard output.
            suffix: .tsv, .csv or .jsonl.

        Raises:
            UsageError: it cannot be written.
        """
        super().__init__()
        self._path = path
        self._output = "--out %s" % path if path else "standard output"
        self._broken = False
        self._file: typing.Any = sys.stdout.buffer
        if path:
            with files.named(self._output):
                self._file = open(files.open_stream(path), "wb")  # noqa: SIM115
        # A terminal would obey the escape sequences in a name.
        self._escaped = self._file.isatty()
        # A file name may hold bytes that are no UTF-8: they are written as they are.
        self._text = io.TextIOWrapper(
            self._file, encoding="utf-8", errors="surrogateescape", newline="", write_through=True
        )
        try:
            with self._writing():
                self._row = tables.row_writer(self._text, columns, suffix)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def write(self, values, ends_batch=True):
        """Writes a row. Raises UsageError: it cannot be written; BrokenPipeError: whoever read has gone."""
        shown = [printable(value) if self._escaped and isinstance(value, str) else value for value in values]
        with self._writing():
            self._row(shown)
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
            # What could not be written would be tried again, and complained of, when the file is closed.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._file.fileno())
        self._text.detach()
        if self._path:
            with contextlib.suppress(OSError):
                self._file.close()

    @contextlib.contextmanager
    def _writing(self):
        try:
            with files.named(self._output):
                yield
        except (UsageError, BrokenPipeError):
            self._broken = True
            raise


class FileSink(_Sink):
    """Writes the rows to FILE.partial, with checkpoints; finish gives it its name.

    The caller holds journal.locked(path). save may be called from another thread, also while write hangs.
    """

    def __init__(self, path, columns, run, checkpoint=None, names=None, suffix=None):
        """Begins a file, or goes on with one.

        Args:
            path: the file, no link.
            columns: as columns_of returns them.
            run: dict of plain values: all that the rows depend on, for the journal.
            checkpoint, names: what find_checkpoint and skip returned, to go on from there; None begins anew.
            suffix: one of SUFFIXES, says the format; None for the path's own.

        Raises:
            UsageError: the file cannot be written.
        """
        self._path, self._run, self._columns = path, run, columns
        self._suffix = suffix = suffix or suffix_of(path)
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
        with files.named("--out %s" % path):
            if not checkpoint:
                journal.remove_journal(path)  # before its rows go
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (0 if checkpoint else os.O_TRUNC)
            self._descriptor = os.open(journal.partial_of(path), flags, 0o666)
        self._row = tables.row_writer(self._text, columns, _while_written(suffix), header=not checkpoint)
        try:
            with self._writing():
                os.ftruncate(self._descriptor, self._size_bytes)  # what came after the checkpoint is done again
                os.lseek(self._descriptor, self._size_bytes, os.SEEK_SET)
                self._take()
                self._boundary = self._here()
                self._save()
        except BaseException:
            os.close(self._descriptor)
            if not checkpoint:
                self._remove()
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
        place(self._path, self._columns, self._suffix)

    @property
    def kept_rows(self):
        """How many rows FILE.partial holds for sure."""
        return self.saved.rows if self._failure else self.rows

    def __exit__(self, kind, *_):
        if kind and self.kept_rows:
            self.save()
        elif kind and not self._finished:
            self._remove()
        self._closed.set()
        if self._lock.acquire(timeout=_LOCK_S):  # else the disk hangs, and the system closes it
            os.close(self._descriptor)

    def _remove(self):
        """It failed before it began: nothing is left lying about."""
        with contextlib.suppress(OSError):
            journal.remove_journal(self._path)
            os.unlink(journal.partial_of(self._path))

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
            with files.named("--out %s" % self._path):
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
            "--resume: %s is of another run:\n  %s\n"
            "Give what was given then; to replace its rows, give --overwrite instead of --resume."
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
            "removed since, or come in another order.\nPut them back as they were; to replace these rows, give "
            "--overwrite instead of --resume."
            % (checkpoint.rows, source, "" if count == checkpoint.rows else " (there are only %d)" % count)
        )
    return names


def set_aside(path, suffix=None):
    """Keeps the rows that a stopped run left, where they cannot be made again: under a free name beside the file.

    Args:
        path, suffix: as for FileSink.

    Returns:
        (that name, how many rows); None where there are none.

    Raises:
        UsageError: the journal cannot be read, or nothing can be written there.
    """
    found, partial = journal.read_journal(path), journal.partial_of(path)
    if not found or not found.checkpoint.rows or not os.path.exists(partial):
        return None
    stem, end = os.path.splitext(path)
    if _while_written(suffix or suffix_of(path)) != (suffix or suffix_of(path)):
        end += ".jsonl"
    names = ("%s.stopped-%d%s" % (stem, number, end) for number in itertools.count(1))
    with files.named("--out %s" % path):
        if os.path.getsize(partial) > found.checkpoint.size_bytes:
            os.truncate(partial, found.checkpoint.size_bytes)
        name = next(name for name in names if not os.path.lexists(name))
        os.replace(partial, name)
        sync_folder(os.path.dirname(os.path.abspath(path)))
        journal.remove_journal(path)
    return name, found.checkpoint.rows


def place(path, columns, suffix=None):
    """Gives FILE.partial, whose rows are whole, its name, and removes the journal. Ends what a killed run left of that.

    Args:
        path, columns, suffix: as for FileSink.

    Raises:
        UsageError: the file cannot be written; the rows are kept.
    """
    partial = journal.partial_of(path)
    with files.named("--out %s" % path):
        if not os.path.lexists(partial):
            pass  # killed before the journal was removed
        elif (suffix or suffix_of(path)) == ".parquet":
            temporary = partial + ".parquet"
            with open(partial, "rb") as lines, open(temporary, "wb") as file:
                _write_parquet(lines, file, columns)
                file.flush()
                os.fsync(file.fileno())
            files.put_in_place(temporary, path)
            sync_folder(os.path.dirname(os.path.abspath(path)))
            os.unlink(partial)
        else:
            files.put_in_place(partial, path)
        sync_folder(os.path.dirname(os.path.abspath(path)))
        journal.remove_journal(path)


@contextlib.contextmanager
def whole_table(path, columns, suffix):
    """A table that appears under its name when the block ends well; its suffix is what check_output returned.

    Yields a function that writes one row: values in the order of columns. Raises OSError.
    """
    with files.whole_file(path, binary=suffix == ".parquet") as file:
        if suffix != ".parquet":
            yield tables.row_writer(file, columns, suffix)
            return
        with tempfile.TemporaryFile("w+", encoding="utf-8") as lines:
            yield tables.row_writer(lines, columns, _while_written(suffix))
            lines.flush()
            lines.seek(0)
            _write_parquet(lines.buffer, file, columns)


def check_output(path):
    """Checks that rows can be written where --out says, as far as that can be told before the work.

    Returns:
        the suffix that says the format: one of SUFFIXES.

    Raises:
        UsageError: they cannot, or the suffix is none of SUFFIXES. MissingRequirement: the format needs a library.
    """
    suffix, stream = suffix_of(path), files.is_stream(path)
    if stream and not suffix:
        return ".tsv"
    if os.path.isdir(path):
        raise UsageError("--out %s: is a folder" % path)
    if suffix not in SUFFIXES:
        raise UsageError("--out %s: expected a name that ends in %s" % (path, ", ".join(SUFFIXES)))
    if stream and suffix == ".parquet":
        raise UsageError("--out %s: is a stream, and Parquet is none; expected .tsv, .csv or .jsonl" % path)
    with files.named("--out %s" % path):
        target = files.target_of(path)
    if not os.path.isdir(os.path.dirname(os.path.abspath(target))):
        raise UsageError("--out %s: its folder does not exist" % path)
    if suffix == ".parquet":
        require("pyarrow.parquet")
    return suffix


def suffix_of(path):
    """Returns what a name ends in, such as .tsv, in small letters."""
    return os.path.splitext(path)[1].lower()


def _while_written(suffix):
    """Returns the format of a file that is not whole yet: Parquet has its end only then."""
    return ".jsonl" if suffix == ".parquet" else suffix


def _write_parquet(lines, file, columns):
    """Writes JSON lines (a binary file, read twice) as Parquet to a binary file, a row group at a time.

    An empty cell is null. Parquet's text is UTF-8: in a name that is not, the odd bytes are shown as \\xff, and a last
    column `file_bytes` (there only if there is such a name) has the name's own bytes.
    """
    pyarrow, parquet = require("pyarrow"), require("pyarrow.parquet")
    odd = any(b"file_bytes" in line and "file_bytes" in json.loads(line.decode()) for line in lines)
    lines.seek(0)
    numbers = [name for name in columns if name.startswith("confidence") or name == "time_s"]
    fields = [(name, pyarrow.float64() if name in numbers else pyarrow.string()) for name in columns]
    schema = pyarrow.schema(fields + [("file_bytes", pyarrow.binary())] * odd)
    with parquet.ParquetWriter(file, schema) as writer:
        for group in _groups(lines, _ROW_GROUP):
            rows = [json.loads(line.decode()) for line in group]
            cells = [[None if row[name] == "" else row[name] for row in rows] for name in columns]
            cells += [[base64.b64decode(row["file_bytes"]) if "file_bytes" in row else None for row in rows]] * odd
            arrays = [pyarrow.array(values, field.type) for values, field in zip(cells, schema)]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


def _groups(lines, count):
    group = []
    for line in lines:
        group.append(line)
        if len(group) == count:
            yield group
            group = []
    if group:
        yield group
