"""Reads tables of photos, with or without labels: .tsv, .csv, .txt, .xlsx, .parquet."""

import codecs
import contextlib
import csv
import gzip
import io
import os
import shlex
import typing
import zlib

from edge_runtime.errors import UsageError, is_storage_error, storage_lost
from edge_runtime.files import suffix_of
from edge_runtime.machine.libraries import require
from edge_runtime.photos import formats

_TEXT_SUFFIXES = (".tsv", ".csv", ".txt")
READ_WHOLE = (".parquet", ".xlsx")
SUFFIXES = _TEXT_SUFFIXES + tuple(suffix + ".gz" for suffix in _TEXT_SUFFIXES) + READ_WHOLE
_SEPARATORS = "\t,;"
_MAX_LINE = 1 << 20  # characters
_SAVE_AS = "save it as .csv (UTF-8) with a column `file`"

# Files that people take for a list of photos, and that are not read: suffixes, what it is, what to do.
_OTHERS = (
    ((".json", ".jsonl", ".ndjson"), "JSON", _SAVE_AS),
    ((".xls", ".xlsm", ".xlsb", ".ods", ".numbers"), "a spreadsheet of an older or other kind", _SAVE_AS + " or .xlsx"),
    ((".doc", ".docx", ".odt", ".rtf"), "a document", "if a list of photos is in it, " + _SAVE_AS),
)


class Row(typing.NamedTuple):
    """A row of a table.

    Attributes:
        line: its number in the table, from 1.
        file: the file name as the table has it.
        label: "" where the table has none.
        problem: why the row cannot be used, "" where it can.
    """

    line: int
    file: str
    label: str
    problem: str


def is_table(path):
    """Whether a file is named like a table that read_rows reads."""
    return path.lower().endswith(SUFFIXES)


def other_kind(path, start):
    """Returns what a file is that is neither a photo nor a table, and what to do with it; "" where that is unknown.

    Args:
        path: its name.
        start: its first bytes.
    """
    for suffixes, kind, remedy in _OTHERS:
        if path.lower().endswith(suffixes):
            return f"{kind}; {remedy}"
    return formats.kind_of(start, path)


def read_rows(path, need_label=False):
    """Yields the rows of a table.

    Text (.tsv, .csv, .txt or any other name, also with gzip): the header line says whether tabs, commas or semicolons
    separate the columns; quotes are read as by Python's csv module; the encoding is UTF-8, or UTF-16 with a BOM; lines
    may end with CRLF. Text is streamed. .xlsx (the first sheet) and .parquet are read by pandas.

    Args:
        path: table with a header line; columns `file` and, if need_label, `label`; others are ignored.
        need_label: an empty or missing label is a problem of the row.

    Yields:
        Row, in the table's order, without blank lines. Undecodable bytes in names are kept (surrogateescape).

    Raises:
        UsageError: the table cannot be read at all, or lacks a column. MissingRequirement: pandas, or its reader for
        the format, is not installed. StorageLost: the disk fails.
    """
    needed = ["file", "label"] if need_label else ["file"]
    if path.lower().endswith(READ_WHOLE):
        return _rows_by_pandas(path, needed)
    return _rows_of_text(path, needed)


def _rows_of_text(path, needed):
    count = 0
    try:
        with _open_text(path) as file:
            # Before Python 3.11 a NUL byte stops the csv module; replaced, it costs one row only.
            lines = _Lines(line.replace("\0", "\ufffd") for line in _whole_lines(path, file))
            iterator = iter(lines)
            separator, header = _header(path, next(iterator, ""), needed)
            reader = csv.reader(iterator, delimiter=separator)
            label = header.index("label") if "label" in needed else None
            while not lines.ended:
                for number, fields in _next_rows(reader, lines, label, separator):
                    if any(value.strip() for value in fields):
                        yield _row(number, header, fields, label is not None)
                count = lines.count
    except _READ_FAILURES as error:
        raise _cannot_read(path, count + 1, error)


def _rows_by_pandas(path, needed):
    pandas = require("pandas")
    is_excel = path.lower().endswith(".xlsx")
    require("openpyxl" if is_excel else "pyarrow.parquet")
    try:
        if is_excel:  # without a header for pandas, which would rename a column that appears twice
            lines = pandas.read_excel(path, header=None, dtype=object, engine="openpyxl").itertuples(False, None)
            header = [_text_of(value, pandas) for value in next(lines, ())]
        else:
            table = pandas.read_parquet(path, engine="pyarrow")
            lines, header = table.itertuples(False, None), [str(name) for name in table.columns]
    except OSError as error:
        raise _cannot_read(path, 1, error)
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise UsageError(f"{path}: cannot be read ({error})")
    _check_header(path, header, needed)
    for number, values in enumerate(lines, 2):
        fields = [_text_of(value, pandas) for value in values]
        if any(value.strip() for value in fields):
            yield _row(number, header, fields, "label" in needed)


def _text_of(value, pandas):
    """Returns the text of a cell, "" of an empty one."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return "" if pandas.isna(value) else str(value)


# An endless line; a failing disk, or a folder; gzip that is cut off; gzip that is damaged.
_READ_FAILURES = (csv.Error, OSError, EOFError, zlib.error)


def _cannot_read(path, line, error):
    """Returns the exception for one of _READ_FAILURES at a line."""
    reason = getattr(error, "strerror", None) or str(error)
    if is_storage_error(error):
        return storage_lost(path, error)
    if line <= 1:
        return UsageError(f"{path}: cannot be read ({reason})")
    return UsageError(f"{path}, line {line}: cannot be read as text in columns ({reason})")


@contextlib.contextmanager
def _open_text(path):
    """The table as a text file. Raises UsageError where it is no text, and one of _READ_FAILURES."""
    with contextlib.ExitStack() as files:
        file: typing.Any = files.enter_context(open(path, "rb"))
        start = file.peek(formats.START_BYTES)
        if start[:2] == b"\x1f\x8b":
            file = io.BufferedReader(files.enter_context(gzip.GzipFile(fileobj=file)))
            start = file.peek(formats.START_BYTES)
        photo = formats.format_of(start)
        kind = f"a {photo} photo" if photo else other_kind(path, start)
        if kind not in ("", "text"):
            raise UsageError(f"{path}: is no table of photos, but {kind}")
        if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and b"\0" in start:
            yield io.TextIOWrapper(file, encoding="utf-16", errors="replace", newline="")
        else:
            yield io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _whole_lines(path, file):
    """Yields the lines of a text file. Raises UsageError: one is too long to be a line of a table."""
    for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), ""), 1):
        if len(line) == _MAX_LINE and line[-1] not in "\r\n":
            raise UsageError(f"{path}, line {number}: is longer than {_MAX_LINE} characters")
        yield line


def _header(path, line, needed):
    """Returns (the separator, the names of the columns), from the first line. Raises UsageError."""

    def names_by(separator):
        return [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]

    usual = "," if ".csv" in path.lower() else "\t"
    # Of equals, max takes the first.
    separator = max(usual + _SEPARATORS, key=lambda one: sum(name in names_by(one) for name in needed))
    _check_header(path, names_by(separator), needed)
    return separator, names_by(separator)


def _check_header(path, header, needed):
    """Raises UsageError where a needed column is missing, or appears twice."""
    doubled = [name for name in needed if header.count(name) > 1]
    if doubled:
        raise UsageError(f"{path}: has {header.count(doubled[0])} columns named {doubled[0]}")
    missing = [name for name in needed if name not in header]
    if missing:
        columns = "<TAB>".join(header)[:200] or "empty"
        message = f"{path}: no column named {' or '.join(missing)}; "
        message += f"its first line must be a header such as file<TAB>label, and is {columns}"
        if any(suffix_of(name) in formats.SUFFIXES for name in header):
            message += (
                "\nIf it is a list of photos, write such a line above the first; or give the names on standard input: "
                f"picnic-edge classify BUNDLE - < {shlex.quote(path)}"
            )
        raise UsageError(message)


def _next_rows(reader, lines, label, separator):
    """Returns [(line number, fields)]: one row, or several where a stray quote seems to make one row of several lines.

    A stray quote is never closed, or only by the next stray one, so that the label (the column of that number) seems to
    span lines. Then each line is read as a row, with quotes as plain characters.
    """
    lines.recent = []
    fields: typing.List[str] = []
    try:
        fields = next(reader, [])
        spoiled = lines.ended or (label is not None and "\n" in "".join(fields[label : label + 1]))
    except csv.Error:  # a longer field than the csv module takes
        if len(lines.recent) == 1:
            raise
        spoiled = True
    if spoiled and len(lines.recent) > 1:
        unquoted = csv.reader(lines.recent, delimiter=separator, quoting=csv.QUOTE_NONE)
        return list(enumerate(unquoted, lines.count - len(lines.recent) + 1))
    return [(lines.count, fields)]


class _Lines:
    """Iterates over lines, and remembers some.

    Attributes:
        count: how many lines were read.
        recent: list of those since it was last emptied.
        ended: whether a reader wanted a line after the last one.
    """

    def __init__(self, lines):
        self._lines = lines
        self.recent: typing.List[str] = []
        self.count = 0
        self.ended = False

    def __iter__(self):
        for line in self._lines:
            self.recent.append(line)
            self.count += 1
            yield line
        self.ended = True


def _row(line, header, fields, need_label):
    value = dict(zip(header, fields))
    name, label = value.get("file", ""), value.get("label", "").strip()
    problem = ""
    if any(extra.strip() for extra in fields[len(header) :]):
        problem = f"line has {len(fields)} fields, the header {len(header)}"
    elif not name.strip():
        problem = "no file name"
    elif need_label and not label:
        problem = "no label"
    return Row(line, name, label, problem or path_problem(name))


def path_problem(name):
    """Why a file name from a table is refused, "" where it is fine: tables name files inside the images folder."""
    if os.path.isabs(name):
        return "absolute path; names are relative to the images folder"
    if ".." in name.split("/"):
        return "path leaves the images folder (..)"
    return ""
