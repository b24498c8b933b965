"""Where rows go that cannot be resumed: a list, standard output, a device."""

import contextlib
import io
import os
import sys
import typing

from edge_runtime import files
from edge_runtime.errors import UsageError
from edge_runtime.results.formats import FORMATS
from edge_runtime.text import printable


class Sink:
    """Something that rows are written to. rows and unreadable count them; kept_rows of them are safe."""

    def __init__(self, rows=0, unreadable=0):
        self.rows = rows
        self.unreadable = unreadable

    @property
    def kept_rows(self):
        """How many rows stay whatever happens now."""
        return self.rows

    def write(self, values, ends_batch=True):
        """Writes a row: values in the order of the columns. ends_batch: it is the last row of its batch."""
        self.rows += 1
        self.unreadable += bool(values[3])

    def save(self):
        """Brings the rows to safety, as far as that works. Raises nothing; may be called from any thread."""

    def finish(self):
        """Completes the output."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class ListSink(Sink):
    """Keeps the rows as dicts in .row_dicts, for the JSON document."""

    kept_rows = 0  # they are in memory

    def __init__(self, columns):
        super().__init__()
        self.row_dicts: typing.List[dict] = []
        self._columns = columns

    def write(self, values, ends_batch=True):
        """Adds a row to the list."""
        self.row_dicts.append(dict(zip(self._columns, values)))
        super().write(values)


class StreamSink(Sink):
    """Writes the rows, a batch at a time, to standard output, a device or a FIFO."""

    def __init__(self, columns, path=None, suffix=".tsv"):
        """Begins the output.

        Args:
            columns: list of column names.
            path: a device, FIFO or open file such as /dev/stderr; None for standard output.
            suffix: of a text format: .tsv, .csv or .jsonl.

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
        # A terminal would execute the escape sequences in a name.
        self._is_terminal = self._file.isatty()
        # Bytes of a file name that are not UTF-8 are written as they are.
        self._text = io.TextIOWrapper(
            self._file, encoding="utf-8", errors="surrogateescape", newline="", write_through=True
        )
        try:
            with self._writing():
                self._write_row = FORMATS[suffix].row_writer(self._text, columns)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def write(self, values, ends_batch=True):
        """Writes a row. Raises UsageError: it cannot be written; BrokenPipeError: its reader went away."""
        texts = [printable(value) if self._is_terminal and isinstance(value, str) else value for value in values]
        with self._writing():
            self._write_row(texts)
            if ends_batch:
                self._text.flush()
        super().write(values)

    def save(self):
        """Writes out the buffer. Raises nothing."""
        with contextlib.suppress(OSError):
            self._text.flush()

    def finish(self):
        """Writes out the buffer. Raises UsageError: it cannot be written; BrokenPipeError: its reader went away."""
        with self._writing():
            self._text.flush()

    def __exit__(self, *_):
        if self._broken:
            # Else closing the file would try to write the rest, and fail.
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
