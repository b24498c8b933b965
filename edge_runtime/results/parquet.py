"""Rows as a Parquet file, built from JSON lines."""

import base64
import json

from edge_runtime.machine.libraries import require

ROW_GROUP = 10000  # rows that are in memory at a time


def write_parquet(lines, file, columns):
    """Writes JSON lines as Parquet, a row group at a time.

    An empty cell is null. Parquet's text is UTF-8: in a name that is not, other bytes are written as \\xff, and a last
    column `file_bytes` (only if there is such a name) has the name's own bytes.

    Args:
        lines: binary file of JSON lines; it is read twice.
        file: binary file that is written.
        columns: list of column names.

    Raises:
        MissingRequirement: pyarrow is not installed.
    """
    pyarrow, parquet = require("pyarrow"), require("pyarrow.parquet")
    odd = any(b"file_bytes" in line and "file_bytes" in json.loads(line.decode()) for line in lines)
    lines.seek(0)
    numbers = [name for name in columns if name.startswith("confidence") or name == "time_s"]
    fields = [(name, pyarrow.float64() if name in numbers else pyarrow.string()) for name in columns]
    schema = pyarrow.schema(fields + [("file_bytes", pyarrow.binary())] * odd)
    with parquet.ParquetWriter(file, schema) as writer:
        for group in _groups(lines, ROW_GROUP):
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
