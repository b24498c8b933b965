"""What lets a run go on after it was killed: the journal beside an unfinished output, and the output's lock.

While a run writes FILE, there are beside it
    FILE.partial       the rows so far
    FILE.partial.json  the journal: which run this is, and its last checkpoint, up to where FILE.partial counts
    FILE.partial.lock  locked as long as the process lives, with its number in it
All three are gone when FILE is there. A journal is written whole (temporary name, fsync, rename) and only after the
bytes that it counts are on the disk, so after a crash at any moment it tells the truth.
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

Checkpoint = typing.NamedTuple(
    "Checkpoint",
    [
        ("rows", int),  # in FILE.partial, without the header
        ("unreadable", int),  # of them, photos that could not be read
        ("size_bytes", int),  # of FILE.partial, header and rows
        ("names_sha256", str),  # of the names of these rows, see add_name
        ("whole", bool),  # these are all rows: what is left to do is to give the file its name
    ],
)

Journal = typing.NamedTuple("Journal", [("run", dict), ("checkpoint", Checkpoint)])


def add_name(digest, name):
    """Adds the name of a row to a hashlib object. Any name will do: with its NUL at the end none begins another."""
    digest.update(name.encode("utf-8", "surrogateescape") + b"\0")


def partial_of(path):
    """Returns the name under which a file is written."""
    return path + ".partial"


def journal_of(path):
    """Returns the name of a file's journal."""
    return path + ".partial.json"


def write_journal(path, run, checkpoint):
    """Writes the journal of the file path. Raises OSError; the older journal is then still there.

    Args:
        run: dict of plain values: all that the rows depend on.
        checkpoint: a Checkpoint; the bytes it counts are on the disk.
    """
    value = {"format_version": FORMAT_VERSION, "run": run, "checkpoint": checkpoint._asdict()}
    # Always the same temporary name, which the lock keeps to one process: a kill leaves one such file at most.
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
    """Returns the Journal of the file path, None where there is none. Raises UsageError: it cannot be read."""
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
            "%s cannot be used (%s: %s): how many rows of a stopped run there are is not known.\n"
            "To replace them, give --overwrite, without --resume." % (journal_of(path), type(error).__name__, error)
        )


def remove_journal(path):
    """Removes the journal of the file path, if there is one."""
    for name in (journal_of(path), journal_of(path) + ".new"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def differences(before, now):
    """Returns a line for each value that differs between two runs' dicts."""
    names = sorted(set(before) | set(now))
    return [
        f"{name.replace('_', ' ')}: {_shown(before.get(name))} then, {_shown(now.get(name))} now"
        for name in names
        if before.get(name) != now.get(name)
    ]


def _shown(value):
    return "none" if value is None else str(value)


def start_of_names():
    """Returns the hashlib object for the names of no rows."""
    return hashlib.sha256()


@contextlib.contextmanager
def locked(path):
    """Holds the output path for this process; the system gives it back however the process ends.

    Where the file system has no locks, the block runs without.

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
        os.close(descriptor)  # the run that held it has just ended and removed it
    try:
        with contextlib.suppress(OSError):  # on a full disk whoever comes next is told no number
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(lock)  # before it is given back: whoever gets it then sees that it is gone
        os.close(descriptor)


def _lock(descriptor, path):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            raise UsageError(
                "--out %s: another run is writing it (process %s); wait for it, or give this one another name"
                % (path, holder or "unknown")
            )


def _is_still(descriptor, name):
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(name))
    except FileNotFoundError:
        return False
