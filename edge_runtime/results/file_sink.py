"""The sink for --out FILE: writes FILE.partial with checkpoints, and gives it its name when all rows are there.

edge_runtime/results/journal.py describes the files; edge_runtime/results/resume.py finds where a stopped run resumes.
"""

import contextlib
import io
import os
import threading
import time

from edge_runtime import files
from edge_runtime.errors import UsageError
from edge_runtime.results import journal
from edge_runtime.results.formats import FORMATS
from edge_runtime.results.sinks import Sink

CHECKPOINT_S = 2
CHECKPOINT_ROWS = 1000
_BUFFER_BYTES = 1 << 16  # rows are collected up to so many bytes before they are written
SAVE_TIMEOUT_S = 0.5  # how long save waits for a write that hangs


class FileSink(Sink):
    """Writes the rows to FILE.partial, with checkpoints; finish gives it its name.

    The caller holds journal.lock_output(path). save may be called from another thread, also while write hangs.
    """

    def __init__(self, path, columns, settings, checkpoint=None, names=None, suffix=None):
        """Begins a file, or resumes one.

        Args:
            path: the file, no link.
            columns: list of column names.
            settings: dict of plain values, all that the rows depend on, for the journal.
            checkpoint, names: what resume.find_checkpoint and resume.skip_finished returned, to resume; None to begin.
            suffix: of the format, a key of FORMATS; None for the path's own.

        Raises:
            UsageError: the file cannot be written.
        """
        self._path, self._settings, self._columns = path, settings, columns
        self._suffix = suffix or files.suffix_of(path)
        self.last_checkpoint = checkpoint or journal.Checkpoint(0, 0, 0, "", False)
        self._names = names or journal.start_of_names()
        super().__init__(self.last_checkpoint.rows, self.last_checkpoint.unreadable)
        self._size_bytes = self.last_checkpoint.size_bytes
        self._next_checkpoint = self.last_checkpoint
        self._saved_at_s = time.monotonic()
        self._buffer = bytearray()
        self._lock = threading.Lock()
        self._failure = None
        self._finished, self._closed = False, threading.Event()
        self._text = io.StringIO(newline="")
        with files.named(f"--out {path}"):
            if not checkpoint:
                journal.remove_journal(path)  # before its rows are removed
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (0 if checkpoint else os.O_TRUNC)
            self._descriptor = os.open(journal.partial_of(path), flags, 0o666)
        self._write_row = FORMATS[self._suffix].row_writer(self._text, columns, header=not checkpoint)
        try:
            with self._writing():
                os.ftruncate(self._descriptor, self._size_bytes)  # rows after the checkpoint are written again
                os.lseek(self._descriptor, self._size_bytes, os.SEEK_SET)
                self._encode_text()
                self._next_checkpoint = self._checkpoint_here()
                self._save()
        except BaseException:
            os.close(self._descriptor)
            if not checkpoint:
                self._remove()
            raise
        threading.Thread(target=self._save_regularly, daemon=True).start()

    def write(self, values, ends_batch=True):
        """Writes a row. Raises UsageError: it cannot be written; the rows of the last checkpoint are kept."""
        with self._lock, self._writing():
            if self._failure:
                raise self._failure
            self._write_row(values)
            self._encode_text()
            super().write(values)
            journal.add_name(self._names, values[0])
            if len(self._buffer) >= _BUFFER_BYTES:
                self._flush()
            if ends_batch:
                self._next_checkpoint = self._checkpoint_here()
                due = time.monotonic() - self._saved_at_s >= CHECKPOINT_S
                if due or self.rows - self.last_checkpoint.rows >= CHECKPOINT_ROWS:
                    self._save()

    def save(self):
        """Brings the finished rows to the disk, as far as that still works. Raises nothing."""
        if self._lock.acquire(timeout=SAVE_TIMEOUT_S):
            try:
                if not (self._failure or self._finished or self._closed.is_set()):
                    with contextlib.suppress(UsageError), self._writing():
                        self._save()
            finally:
                self._lock.release()

    def finish(self):
        """Gives the file its name. Raises UsageError: it cannot be written; the rows are kept and can be resumed."""
        with self._lock, self._writing():
            self._next_checkpoint = self._checkpoint_here()._replace(whole=True)
            self._save()
            self._finished = True
        finish_file(self._path, self._columns, self._suffix)

    @property
    def kept_rows(self):
        """How many rows FILE.partial holds for sure."""
        return self.last_checkpoint.rows if self._failure else self.rows

    def __exit__(self, kind, *_):
        if kind and self.kept_rows:
            self.save()
        elif kind and not self._finished:
            self._remove()
        self._closed.set()
        if self._lock.acquire(timeout=SAVE_TIMEOUT_S):  # else the disk hangs, and the system closes the file
            os.close(self._descriptor)

    def _remove(self):
        """Removes the files of a run that failed before its first row."""
        with contextlib.suppress(OSError):
            journal.remove_journal(self._path)
            os.unlink(journal.partial_of(self._path))

    def _save_regularly(self):
        """Saves also when no more rows come: a camera may be silent for hours."""
        while not self._closed.wait(CHECKPOINT_S):
            if self._next_checkpoint.rows > self.last_checkpoint.rows:
                self.save()

    def _encode_text(self):
        """Moves the text that the row writer wrote to the buffer, as bytes."""
        data = self._text.getvalue().encode("utf-8", "surrogateescape")
        self._text.seek(0)
        self._text.truncate()
        self._buffer += data
        self._size_bytes += len(data)

    def _checkpoint_here(self):
        return journal.Checkpoint(self.rows, self.unreadable, self._size_bytes, self._names.hexdigest(), False)

    def _flush(self):
        while self._buffer:
            del self._buffer[: os.write(self._descriptor, self._buffer)]

    def _save(self):
        self._flush()
        os.fsync(self._descriptor)
        journal.write_journal(self._path, self._settings, self._next_checkpoint)
        self.last_checkpoint, self._saved_at_s = self._next_checkpoint, time.monotonic()

    @contextlib.contextmanager
    def _writing(self):
        """Turns an OSError into a UsageError, and cuts off what was half written."""
        try:
            with files.named(f"--out {self._path}"):
                yield
        except UsageError as error:
            self._failure = error
            with contextlib.suppress(OSError, UsageError):
                # Saving may have failed after the new journal had replaced the older one: then the new one is valid.
                stored = journal.read_journal(self._path)
                self.last_checkpoint = stored.checkpoint if stored else self.last_checkpoint
                os.ftruncate(self._descriptor, self.last_checkpoint.size_bytes)
            raise


def finish_file(path, columns, suffix=None):
    """Gives FILE.partial, which holds all rows, its name, and removes the journal. Also completes a killed finish_file.

    Args:
        path: the file, no link.
        columns: list of column names.
        suffix: of the format, a key of FORMATS; None for the path's own.

    Raises:
        UsageError: the file cannot be written; the rows are kept.
    """
    partial = journal.partial_of(path)
    folder = os.path.dirname(os.path.abspath(path))
    suffix = suffix or files.suffix_of(path)
    build = FORMATS[suffix].build
    with files.named(f"--out {path}"):
        if not os.path.lexists(partial):
            pass  # the process was killed before it removed the journal
        elif build:
            temporary = partial + suffix
            with open(partial, "rb") as lines, open(temporary, "wb") as file:
                build(lines, file, columns)
                file.flush()
                os.fsync(file.fileno())
            files.put_in_place(temporary, path)
            files.sync_folder(folder)
            os.unlink(partial)
        else:
            files.put_in_place(partial, path)
        files.sync_folder(folder)
        journal.remove_journal(path)
