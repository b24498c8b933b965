"""The formats of result files, by suffix, and how a whole file gets its name."""

import contextlib
import itertools
import os
import tempfile

from edge_runtime import files
from edge_runtime.errors import UsageError
from edge_runtime.files import sync_folder
from edge_runtime.machine.libraries import require
from edge_runtime.results import journal, text_formats
from edge_runtime.results.parquet import write_parquet

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")


def set_aside(path, suffix=None):
    """Keeps the rows that a stopped run left, where they cannot be made again: under a free name beside the file.

    Args:
        path, suffix: as for FileSink.

    Returns:
        (that name, how many rows); None where there are none.

    Raises:
        UsageError: the journal cannot be read, or nothing can be written there.
    """
    found, partial = journal.read_journal(path), journal.partial_of(path)
    if not found or not found.checkpoint.rows or not os.path.exists(partial):
        return None
    stem, end = os.path.splitext(path)
    if while_written(suffix or files.suffix_of(path)) != (suffix or files.suffix_of(path)):
        end += ".jsonl"
    names = (f"{stem}.stopped-{number}{end}" for number in itertools.count(1))
    with files.named(f"--out {path}"):
        if os.path.getsize(partial) > found.checkpoint.size_bytes:
            os.truncate(partial, found.checkpoint.size_bytes)
        name = next(name for name in names if not os.path.lexists(name))
        os.replace(partial, name)
        sync_folder(os.path.dirname(os.path.abspath(path)))
        journal.remove_journal(path)
    return name, found.checkpoint.rows


def place(path, columns, suffix=None):
    """Gives FILE.partial, whose rows are whole, its name, and removes the journal. Ends what a killed run left of that.

    Args:
        path, columns, suffix: as for FileSink.

    Raises:
        UsageError: the file cannot be written; the rows are kept.
    """
    partial = journal.partial_of(path)
    with files.named(f"--out {path}"):
        if not os.path.lexists(partial):
            pass  # killed before the journal was removed
        elif (suffix or files.suffix_of(path)) == ".parquet":
            temporary = partial + ".parquet"
            with open(partial, "rb") as lines, open(temporary, "wb") as file:
                write_parquet(lines, file, columns)
                file.flush()
                os.fsync(file.fileno())
            files.put_in_place(temporary, path)
            sync_folder(os.path.dirname(os.path.abspath(path)))
            os.unlink(partial)
        else:
            files.put_in_place(partial, path)
        sync_folder(os.path.dirname(os.path.abspath(path)))
        journal.remove_journal(path)


@contextlib.contextmanager
def atomic_table(path, columns, suffix):
    """A table that appears under its name when the block ends well; its suffix is what check_output returned.

    Yields a function that writes one row: values in the order of columns. Raises OSError.
    """
    with files.atomic_file(path, binary=suffix == ".parquet") as file:
        if suffix != ".parquet":
            yield text_formats.row_writer(file, columns, suffix)
            return
        with tempfile.TemporaryFile("w+", encoding="utf-8") as lines:
            yield text_formats.row_writer(lines, columns, while_written(suffix))
            lines.flush()
            lines.seek(0)
            write_parquet(lines.buffer, file, columns)


def check_output(path):
    """Checks that rows can be written where --out says, as far as that can be told before the work.

    Returns:
        the suffix that says the format: one of SUFFIXES.

    Raises:
        UsageError: they cannot, or the suffix is none of SUFFIXES. MissingRequirement: the format needs a library.
    """
    suffix, stream = files.suffix_of(path), files.is_stream(path)
    if stream and not suffix:
        return ".tsv"
    if os.path.isdir(path):
        raise UsageError(f"--out {path}: is a folder")
    if suffix not in SUFFIXES:
        raise UsageError(f"--out {path}: expected a name that ends in {', '.join(SUFFIXES)}")
    if stream and suffix == ".parquet":
        raise UsageError(f"--out {path}: is a stream, and Parquet is none; expected .tsv, .csv or .jsonl")
    with files.named(f"--out {path}"):
        target = files.target_of(path)
    if not os.path.isdir(os.path.dirname(os.path.abspath(target))):
        raise UsageError(f"--out {path}: its folder does not exist")
    if suffix == ".parquet":
        require("pyarrow.parquet")
    return suffix


def while_written(suffix):
    """Returns the format of a file that is not whole yet: Parquet has its end only then."""
    return ".jsonl" if suffix == ".parquet" else suffix
