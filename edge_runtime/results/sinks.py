"""Where rows go that no run resumes: a list, standard output, a device."""

import contextlib
import io
import os
import sys
import typing

from edge_runtime import files
from edge_runtime.errors import UsageError
from edge_runtime.results import text_formats
from edge_runtime.text import printable


class Sink:
    """What all sinks have: rows and unreadable count what was written."""

    def __init__(self, rows=0, unreadable=0):
        self.rows = rows
        self.unreadable = unreadable

    @property
    def kept_rows(self):
        """How many rows are safe, whatever happens now."""
        return self.rows

    def write(self, values, ends_batch=True):
        """Writes a row: values in the order of the columns; ends_batch as in edge_runtime.pipeline.batch.Answer."""
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


class ListSink(Sink):
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


class StreamSink(Sink):
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
        self._output = f"--out {path}" if path else "standard output"
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
                self._row = text_formats.row_writer(self._text, columns, suffix)
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
