"""Rows as text: TSV, CSV and JSON lines."""

import csv
import json

from edge_runtime.text import plain_json


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
