"""Tables of photos: reading `file<TAB>label` files, writing results as TSV, CSV or JSON lines."""

import csv
import json
import os
import typing

from edge_runtime.errors import UsageError
from edge_runtime.text import plain_json

Row = typing.NamedTuple(
    "Row",
    [
        ("line", int),  # of the table, from 1
        ("file", str),  # as written there
        ("label", str),  # "" where the table has none
        ("problem", str),  # why the row cannot be used, "" where it can
    ],
)


def read_rows(path, need_label=False):
    """Yields the rows of a tab-separated table (Python's excel-tab dialect; a BOM and CRLF are fine).

    Args:
        path: table with a header line; columns `file` and, if need_label, `label`; others are ignored.
        need_label: an empty or missing label is a problem of the row.

    Yields:
        Row, in the table's order, blank lines left out. Undecodable bytes in names are kept (surrogateescape).

    Raises:
        UsageError: the table cannot be read at all, or lacks a column.
    """
    try:
        file = open(path, newline="", encoding="utf-8-sig", errors="surrogateescape")  # noqa: SIM115
    except OSError as error:
        raise UsageError("%s: cannot be read (%s)" % (path, error.strerror))
    with file:
        # Before Python 3.11 a NUL byte stops the csv module; like this it costs one row only.
        lines = _Lines(line.replace("\0", "\ufffd") for line in file)
        reader = csv.reader(lines, dialect="excel-tab")
        try:
            header = [name.strip() for name in next(reader, [])]
            needed = ["file", "label"] if need_label else ["file"]
            doubled = [name for name in needed if header.count(name) > 1]
            if doubled:
                raise UsageError("%s: has %d columns named %s" % (path, header.count(doubled[0]), doubled[0]))
            missing = [name for name in needed if name not in header]
            if missing:
                raise UsageError(
                    "%s: no column named %s; its first line must be a header such as file<TAB>label, and is %s"
                    % (path, " or ".join(missing), "<TAB>".join(header)[:200] or "empty")
                )
            while not lines.ended:
                for number, fields in _next_rows(reader, lines, header.index("label") if need_label else None):
                    if any(value.strip() for value in fields):
                        yield _row(number, header, fields, need_label)
        except (csv.Error, OSError) as error:  # an endless line, a failing disk, a directory
            raise UsageError("%s, line %d: cannot be read as tab-separated text (%s)" % (path, lines.count, error))


def _next_rows(reader, lines, label):
    """Returns [(line number, fields)]: one row, unless it spans lines by a quote that was not meant as one.

    Nothing closes such a quote, or only the next one of its kind, so that the label (in the column of that number)
    seems to span lines. Each line is then meant by itself.
    """
    lines.taken = []
    fields: typing.List[str] = []
    try:
        fields = next(reader, [])
        spoiled = lines.ended or (label is not None and "\n" in "".join(fields[label : label + 1]))
    except csv.Error:  # a longer field than the csv module takes
        if len(lines.taken) == 1:
            raise
        spoiled = True
    if spoiled and len(lines.taken) > 1:
        unquoted = csv.reader(lines.taken, dialect="excel-tab", quoting=csv.QUOTE_NONE)
        return list(enumerate(unquoted, lines.count - len(lines.taken) + 1))
    return [(lines.count, fields)]


class _Lines:
    """Hands out lines: count so far, taken since it was last emptied; ended: more were asked for than there are."""

    def __init__(self, lines):
        self._lines = lines
        self.taken: typing.List[str] = []
        self.count = 0
        self.ended = False

    def __iter__(self):
        for line in self._lines:
            self.taken.append(line)
            self.count += 1
            yield line
        self.ended = True


def _row(line, header, fields, need_label):
    value = dict(zip(header, fields))
    name, label = value.get("file", ""), value.get("label", "").strip()
    problem = ""
    if any(extra.strip() for extra in fields[len(header) :]):
        problem = "line has %d fields, the header %d" % (len(fields), len(header))
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


def row_writer(file, columns, suffix, header=True):
    """Returns a function that writes one result row (values in the order of columns) to a text file.

    Args:
        file: open text file (newline="").
        columns: column names; written as a header for tables.
        suffix: ".tsv", ".csv" or ".jsonl".
        header: False to add to a table that has one.
    """
    if suffix == ".jsonl":
        return lambda values: file.write(json.dumps(plain_json(dict(zip(columns, values)))) + "\n")
    dialect = "excel-tab" if suffix == ".tsv" else "excel"
    plain = csv.writer(file, dialect, lineterminator="\n")
    # Older Pythons do not quote a carriage return of their own accord when the line ends with "\n" alone.
    quoted = csv.writer(file, dialect, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def write(values):
        (quoted if any("\r" in str(value) for value in values) else plain).writerow(values)

    if header:
        write(columns)
    return write
