"""A file of rows that outlives whatever happens to the run, and from which the same command resumes."""

import contextlib
import io
import itertools
import os
import threading
import time

from edge_runtime import files
from edge_runtime.errors import UsageError
from edge_runtime.results import journal, text_formats
from edge_runtime.results.formats import place, while_written
from edge_runtime.results.sinks import Sink

CHECKPOINT_S = 2

CHECKPOINT_ROWS = 1000

_PIECE_BYTES = 1 << 16  # rows are collected to so many bytes before they are handed to the system

_LOCK_S = 0.5  # how long save waits for a write that does not come back


class FileSink(Sink):
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
        self._suffix = suffix = suffix or files.suffix_of(path)
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
        with files.named(f"--out {path}"):
            if not checkpoint:
                journal.remove_journal(path)  # before its rows go
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (0 if checkpoint else os.O_TRUNC)
            self._descriptor = os.open(journal.partial_of(path), flags, 0o666)
        self._row = text_formats.row_writer(self._text, columns, while_written(suffix), header=not checkpoint)
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
            with files.named(f"--out {self._path}"):
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
            % (checkpoint.rows, source, "" if count == checkpoint.rows else f" (there are only {count})")
        )
    return names
