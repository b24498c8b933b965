"""The formats of result files, by suffix: how rows are written in each.

A new format is one more Format in FORMATS, with its writer in a file beside this one; _OWN_SUFFIXES of
edge_runtime/sources/names.py needs its suffix. CONTRIBUTING.md lists the steps.
"""

import contextlib
import os
import tempfile
import typing

from edge_runtime import files
from edge_runtime.errors import UsageError
from edge_runtime.machine.libraries import require
from edge_runtime.results.parquet import write_parquet
from edge_runtime.results.text_formats import csv_writer, json_lines_writer, tsv_writer


class Format(typing.NamedTuple):
    """How rows are written. Text grows row by row; another format is built from JSON lines when all rows are there."""

    suffix: str
    row_writer: typing.Callable  # (text file, columns, header=True) -> function that writes one row, a list of values
    build: typing.Optional[typing.Callable] = None  # (binary file of JSON lines, binary file to write, columns)
    library: str = ""  # the module that build needs


FORMATS = {
    one.suffix: one
    for one in (
        Format(".tsv", tsv_writer),
        Format(".csv", csv_writer),
        Format(".jsonl", json_lines_writer),
        Format(".parquet", json_lines_writer, build=write_parquet, library="pyarrow.parquet"),
    )
}

TEXT_SUFFIXES = tuple(suffix for suffix, one in FORMATS.items() if not one.build)


def suffix_list(suffixes=tuple(FORMATS)):
    """Returns suffixes as a text such as ".tsv, .csv or .jsonl"."""
    return f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"


def check_output(path):
    """Checks, before the work, that rows can be written to the file that --out names.

    Args:
        path: the name; a device or an open file such as /dev/stdout is allowed.

    Returns:
        the suffix of the format: a key of FORMATS.

    Raises:
        UsageError: the suffix is of no format, or nothing can be written there.
        MissingRequirement: the format needs a library.
    """
    suffix, is_stream = files.suffix_of(path), files.is_stream(path)
    if is_stream and not suffix:
        return ".tsv"
    if os.path.isdir(path):
        raise UsageError(f"--out {path}: is a folder")
    if suffix not in FORMATS:
        raise UsageError(f"--out {path}: expected a name that ends in {suffix_list()}")
    if is_stream and suffix not in TEXT_SUFFIXES:
        raise UsageError(f"--out {path}: is a stream, but {suffix} needs a file; expected {suffix_list(TEXT_SUFFIXES)}")
    with files.named(f"--out {path}"):
        target = files.target_of(path)
    if not os.path.isdir(os.path.dirname(os.path.abspath(target))):
        raise UsageError(f"--out {path}: its folder does not exist")
    if FORMATS[suffix].library:
        require(FORMATS[suffix].library)
    return suffix


@contextlib.contextmanager
def atomic_table(path, columns, suffix):
    """A table that appears under its name only when the block ends without an error.

    Args:
        path: the file.
        columns: list of column names.
        suffix: of the format, a key of FORMATS.

    Yields:
        a function that writes one row: values in the order of columns.

    Raises:
        OSError: the file cannot be written.
    """
    row_format = FORMATS[suffix]
    with files.atomic_file(path, binary=bool(row_format.build)) as file:
        if not row_format.build:
            yield row_format.row_writer(file, columns)
            return
        with tempfile.TemporaryFile("w+", encoding="utf-8") as lines:
            yield row_format.row_writer(lines, columns)
            lines.flush()
            lines.seek(0)
            row_format.build(lines.buffer, file, columns)
