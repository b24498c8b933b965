"""Tables of photos: reading `file<TAB>label` files, writing results as TSV, CSV or JSON lines."""

import csv
import json
import os
import typing

from edge_runtime.errors import UsageError

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
            lines.taken.clear()
            for fields in reader:
                rows = [(reader.line_num, fields)]
                if lines.ended and len(lines.taken) > 1:  # a quote that nothing closes: each line is meant by itself
                    unquoted = csv.reader(lines.taken, dialect="excel-tab", quoting=csv.QUOTE_NONE)
                    rows = list(enumerate(unquoted, reader.line_num - len(lines.taken) + 1))
                lines.taken.clear()
                for number, values in rows:
                    if any(value.strip() for value in values):
                        yield _row(number, header, values, need_label)
        except (csv.Error, OSError) as error:  # an endless field, a failing disk, a directory
            raise UsageError("%s, line %d: cannot be read as tab-separated text (%s)" % (path, reader.line_num, error))


class _Lines:
    """Hands out lines; taken are those since it was last cleared, ended that more were asked for than there are."""

    def __init__(self, lines):
        self._lines = lines
        self.taken: typing.List[str] = []
        self.ended = False

    def __iter__(self):
        for line in self._lines:
            self.taken.append(line)
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
        return lambda values: file.write(json.dumps(dict(zip(columns, values))) + "\n")
    dialect = "excel-tab" if suffix == ".tsv" else "excel"
    plain = csv.writer(file, dialect, lineterminator="\n")
    # Older Pythons do not quote a carriage return of their own accord when the line ends with "\n" alone.
    quoted = csv.writer(file, dialect, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def write(values):
        (quoted if any("\r" in str(value) for value in values) else plain).writerow(values)

    if header:
        write(columns)
    return write
