"""Where a stopped run resumes, and what happens to its rows if it does not.

FileSink (file_sink.py) cuts the unfinished file back to that place and appends to it.
"""

import itertools
import os

from edge_runtime import files
from edge_runtime.errors import UsageError
from edge_runtime.results import journal
from edge_runtime.results.formats import FORMATS


def find_checkpoint(path, settings):
    """Finds where the same command resumes.

    Args:
        path: the output.
        settings: dict of plain values, all that the rows depend on.

    Returns:
        the last journal.Checkpoint of the stopped run; None if there is none, or its rows are lost.

    Raises:
        UsageError: the journal cannot be read, or belongs to a run with other settings; lists the differences.
    """
    stopped = journal.read_journal(path)
    if not stopped:
        return None
    partial, checkpoint = journal.partial_of(path), stopped.checkpoint
    different = journal.differences(stopped.settings, settings)
    if different:
        lines = "\n  ".join(different)
        command = f" ({stopped.settings[journal.COMMAND]})" if journal.COMMAND in stopped.settings else ""
        raise UsageError(
            f"--resume: {partial} belongs to a run with other settings:\n  {lines}\n"
            f"Use the settings of that run{command}; to replace its rows, give --overwrite instead of --resume."
        )
    try:
        is_usable = os.path.getsize(partial) >= checkpoint.size_bytes
    except FileNotFoundError:
        is_usable = checkpoint.whole and os.path.exists(path)  # the file has its name, only the journal was left
    return checkpoint if is_usable else None


def skip_finished(items, checkpoint, source, stop):
    """Reads past the items that have their rows.

    Args:
        items: iterator over the source's items (with .name), from the start.
        checkpoint: what find_checkpoint returned.
        source: its name, for the message.
        stop: threading.Event.

    Returns:
        the hashlib object of their names, for FileSink.

    Raises:
        UsageError: the items differ from those of the stopped run. KeyboardInterrupt: stop was set.
    """
    names, count = journal.start_of_names(), 0
    for item in itertools.islice(items, checkpoint.rows):
        journal.add_name(names, item.name)
        count += 1
        if stop.is_set():
            break
    if stop.is_set():
        raise KeyboardInterrupt
    if names.hexdigest() != checkpoint.names_sha256:
        only = "" if count == checkpoint.rows else f" (there are only {count})"
        raise UsageError(
            f"--resume: the first {checkpoint.rows} of {source} are not those of the stopped run{only}: files were "
            "added, renamed or removed since, or come in another order.\nPut them back as they were; to replace the "
            "rows, give --overwrite instead of --resume."
        )
    return names


def keep_stopped_rows(path, suffix=None):
    """Keeps the rows of a stopped run that cannot be resumed (a camera's), in a file beside the output.

    Args:
        path: the output.
        suffix: of its format, None for the path's own.

    Returns:
        (name of that file, how many rows it has); None if there are no rows.

    Raises:
        UsageError: the journal cannot be read, or nothing can be written there.
    """
    stopped, partial = journal.read_journal(path), journal.partial_of(path)
    if not stopped or not stopped.checkpoint.rows or not os.path.exists(partial):
        return None
    stem, end = os.path.splitext(path)
    if FORMATS[suffix or files.suffix_of(path)].build:  # its rows are JSON lines until the run is complete
        end += ".jsonl"
    names = (f"{stem}.stopped-{number}{end}" for number in itertools.count(1))
    with files.named(f"--out {path}"):
        if os.path.getsize(partial) > stopped.checkpoint.size_bytes:
            os.truncate(partial, stopped.checkpoint.size_bytes)
        name = next(name for name in names if not os.path.lexists(name))
        os.replace(partial, name)
        files.sync_folder(os.path.dirname(os.path.abspath(path)))
        journal.remove_journal(path)
    return name, stopped.checkpoint.rows
