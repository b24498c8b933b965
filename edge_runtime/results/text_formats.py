"""Rows as text: TSV, CSV and JSON lines.

Each function takes an open text file (newline="") and the column names; header=False adds rows to a table that has its
header. It returns a function that writes one row: values in the order of the columns.
"""

import csv
import json

from edge_runtime.text import plain_json


def tsv_writer(file, columns, header=True):
    """Returns a function that writes one row as tab-separated values (Python's dialect excel-tab)."""
    return _table_writer(file, columns, header, "excel-tab")


def csv_writer(file, columns, header=True):
    """Returns a function that writes one row as comma-separated values (Python's dialect excel)."""
    return _table_writer(file, columns, header, "excel")


def json_lines_writer(file, columns, header=True):
    """Returns a function that writes one row as a JSON object on a line of its own. There is no header."""
    return lambda values: file.write(json.dumps(plain_json(dict(zip(columns, values)))) + "\n")


def _table_writer(file, columns, header, dialect):
    plain = csv.writer(file, dialect, lineterminator="\n")
    # With the line terminator "\n", older Pythons do not quote a value with a carriage return.
    quoted = csv.writer(file, dialect, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def write(values):
        (quoted if any("\r" in str(value) for value in values) else plain).writerow(values)

    if header:
        write(columns)
    return write
