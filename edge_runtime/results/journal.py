"""The files beside an unfinished output: their names, the journal that lets a run resume, and the lock.

While a run writes FILE, there are
    FILE.partial           the rows so far
    FILE.partial.json      the journal: the run's settings and its last checkpoint, up to which FILE.partial is valid
    FILE.partial.lock      locked as long as the process lives, with its process number
    FILE.partial.json.new  the next journal, until it replaces FILE.partial.json
    FILE.partial.parquet   if FILE is a Parquet file: built of the rows at the end, until it is renamed to FILE
None of them is left when FILE is complete. edge_runtime/results/file_sink.py writes FILE.partial and gives it its
name; edge_runtime/results/resume.py finds where a run resumes. The journal is written atomically, and only after the
bytes that it counts are on the disk: it is valid after a crash at any moment.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import typing

from edge_runtime import files
from edge_runtime.errors import UsageError

FORMAT_VERSION = 1


class Checkpoint(typing.NamedTuple):
    """Rows that are on the disk, between two batches: a run resumes after them."""

    rows: int  # in FILE.partial, without the header
    unreadable: int  # how many of them are of photos that could not be read
    size_bytes: int  # of FILE.partial, header and rows
    names_sha256: str  # of the names of these rows, as add_name adds them
    whole: bool  # these are all rows: only the file's name is missing


# Among the settings, but no setting: the shell command that resumes the run. Older journals have none.
COMMAND = "command"


class Journal(typing.NamedTuple):
    """What FILE.partial.json holds."""

    settings: dict  # all that the rows depend on, plain values; and COMMAND
    checkpoint: Checkpoint


def add_name(digest, name):
    """Adds the name of a row to a hashlib object. The NUL after it separates it from the next name."""
    digest.update(name.encode("utf-8", "surrogateescape") + b"\0")


def partial_of(path):
    """Returns the name of the file that holds the rows until the output path is complete."""
    return path + ".partial"


def journal_of(path):
    """Returns the name of the journal of the output path."""
    return path + ".partial.json"


def write_journal(path, settings, checkpoint):
    """Writes the journal of the output path. Raises OSError; the older journal then stays.

    Args:
        settings: dict of plain values, all that the rows depend on; and COMMAND.
        checkpoint: a Checkpoint; the bytes that it counts are on the disk.
    """
    value = {"format_version": FORMAT_VERSION, "run": settings, "checkpoint": checkpoint._asdict()}
    # Always the same temporary name (the lock admits one process), so that kills leave at most one such file.
    temporary = journal_of(path) + ".new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(temporary, flags, 0o666), "w", encoding="ascii") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, journal_of(path))
    files.sync_folder(os.path.dirname(os.path.abspath(path)))


def read_journal(path):
    """Returns the Journal of the output path, None if there is none. Raises UsageError: it cannot be read."""
    try:
        with open(journal_of(path), encoding="ascii") as file:
            value = json.load(file)
        if value["format_version"] != FORMAT_VERSION:
            raise ValueError(f"its format is {value['format_version']}, this version reads {FORMAT_VERSION}")
        checkpoint = Checkpoint(**value["checkpoint"])
        numbers = checkpoint[:3]
        if not isinstance(value["run"], dict) or not all(isinstance(one, int) and one >= 0 for one in numbers):
            raise ValueError("a value of another type")
        return Journal(value["run"], checkpoint)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{journal_of(path)} cannot be used ({type(error).__name__}: {error}), so the stopped run cannot "
            "be resumed.\nTo replace its rows, give --overwrite without --resume."
        )


def remove_journal(path):
    """Removes the journal of the output path, if there is one."""
    for name in (journal_of(path), journal_of(path) + ".new"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def differences(before, now):
    """Returns a line of text for each value that differs between the settings of two runs."""
    names = sorted((set(before) | set(now)) - {COMMAND})
    return [
        f"{name.replace('_', ' ')}: {_text(before.get(name))} then, {_text(now.get(name))} now"
        for name in names
        if before.get(name) != now.get(name)
    ]


def _text(value):
    return "none" if value is None else str(value)


def start_of_names():
    """Returns the hashlib object for the names of no rows."""
    return hashlib.sha256()


@contextlib.contextmanager
def lock_output(path):
    """Locks the output path for this process; the system releases the lock however the process ends.

    On a file system without locks the block runs without one.

    Raises:
        UsageError: another run is writing this file, or nothing can be written there.
    """
    lock = path + ".partial.lock"
    while True:
        with files.named(f"--out {path}"):
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            _lock(descriptor, path)
            if _is_still(descriptor, lock):
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the run that had the lock has just ended and removed the file
    try:
        with contextlib.suppress(OSError):  # on a full disk the next process is not told our number
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(lock)  # before the lock is released: who gets it then sees that the file was removed
        os.close(descriptor)


def _lock(descriptor, path):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            process = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise UsageError(
                f"--out {path}: another run is writing it (process {process}); wait for it, or give another name"
            )


def _is_still(descriptor, name):
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(name))
    except FileNotFoundError:
        return False
