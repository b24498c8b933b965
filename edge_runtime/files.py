"""Writes files and folders atomically; outputs that are streams; sha256 sums."""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import stat
import tempfile
import typing

from edge_runtime.errors import UsageError

_UNFINISHED = ".unfinished"
_MAX_LINKS = 40  # in a chain; the system follows no more either


def suffix_of(path):
    """Returns the suffix of a file name (str or bytes) in lower case, with its dot: ".jpg"; "" where it has none."""
    return os.path.splitext(os.fsdecode(path))[1].lower()


def sha256_of(path):
    """Returns the hexadecimal sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def write_json(path, value):
    """Writes a JSON document atomically. For other readers, pass the value through text.plain_json first."""
    with atomic_file(path) as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")


def target_of(path):
    """Returns the path that writing to path writes to: symbolic links are followed, and stay.

    Nothing need exist there. Raises OSError: the links form a circle.
    """
    for _ in range(_MAX_LINKS):
        if not os.path.islink(path):
            return path
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def is_stream(path):
    """Tells whether path is a stream, which is written to directly and never replaced.

    Streams are devices, FIFOs, sockets, and files that the process has open already (/dev/stdout, /dev/fd/3).
    """
    if descriptor_of(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:  # nothing there yet; or opening it will say why not
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def open_stream(path):
    """Opens a stream (see is_stream) for writing. Returns its descriptor. Raises OSError."""
    number = descriptor_of(path)
    return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY) if number is None else os.dup(number)


def descriptor_of(path):
    """Returns the number of the open file that path stands for (/dev/stdout: 1), None for any other path."""
    try:
        for _ in range(_MAX_LINKS):
            folder, name = os.path.split(path)
            if name.isdigit() and os.path.realpath(folder or os.curdir) == os.path.realpath("/proc/self/fd"):
                return int(name)
            path = os.path.join(folder, os.readlink(path))
    except OSError:  # no link
        pass
    return None


def put_in_place(temporary, path):
    """Renames a finished file to path, following links. It gets the mode and owner of a file that it replaces."""
    target = target_of(path)
    mode = 0o666 & ~umask()
    with contextlib.suppress(FileNotFoundError):
        older = os.stat(target)
        mode = stat.S_IMODE(older.st_mode) & 0o777
        with contextlib.suppress(OSError):  # only root may give files away
            os.chown(temporary, older.st_uid, older.st_gid)
    with contextlib.suppress(OSError):  # a memory card's file system (FAT) has no modes
        os.chmod(temporary, mode)
    os.replace(temporary, target)


def remove(path):
    """Removes an older output: the file that path leads to. A stream stays. Raises OSError."""
    if not is_stream(path):
        os.unlink(target_of(path))


@contextlib.contextmanager
def named(output):
    """Turns an OSError into a UsageError that names the output. BrokenPipeError passes: it ends the run quietly."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"{output}: cannot be written ({error.strerror or error})")


@contextlib.contextmanager
def atomic_file(path, binary=False, durable=True):
    """Yields a file to write, which appears under its name only when the block ends without an error.

    Args:
        path: its name; links are followed. A stream (see is_stream) is written to directly.
        binary: the file takes bytes; else text, which becomes UTF-8 with undecodable names kept.
        durable: the file also survives a power loss right afterwards; this takes milliseconds.
    """
    how: typing.Any = {"mode": "w", "encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    if binary:
        how = {"mode": "wb"}
    if is_stream(path):
        with open(open_stream(path), **how) as file:
            yield file
        return
    path = target_of(path)
    folder, prefix = _temporary_name(path)
    descriptor, temporary = tempfile.mkstemp(prefix=prefix, dir=folder)
    try:
        with open(descriptor, **how) as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        put_in_place(temporary, path)  # mkstemp made it private
        if durable:
            sync_folder(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def remove_leftovers(path):
    """Removes the temporary files of processes that were killed in atomic_file. Nobody may be writing the file."""
    folder, prefix = _temporary_name(target_of(path))
    for name in os.listdir(folder):
        if name.startswith(prefix):
            os.unlink(os.path.join(folder, name))


def _temporary_name(path):
    """Returns the folder of atomic_file's temporary file and the start of its name."""
    # 50 letters have up to 200 bytes, of the 255 that a name may have.
    return os.path.dirname(os.path.abspath(path)), f".{os.path.basename(path)[:50]}."


@contextlib.contextmanager
def atomic_folder(path):
    """Yields a temporary folder to fill, which replaces the folder path only when the block ends without an error.

    On an error or a crash the older folder stays. One exception: where the system or the file system cannot swap two
    names in one step, a crash in that moment can leave nothing under the name. The older folder is then beside it, as
    .NAME.*.unfinished.older, which nothing removes.

    Several processes may write the same folder at the same time: the last one to end is kept, whole. remove_abandoned
    removes the temporary folders of killed processes.
    """
    path = os.path.realpath(path)  # a link keeps pointing to it
    if is_stream(path):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    parent = os.path.dirname(path)
    with contextlib.ExitStack() as stack:
        temporary = _make_temporary(path, stack)
        try:
            yield temporary
            os.chmod(temporary, 0o777 & ~umask())
            for folder, _, names in os.walk(temporary):
                for name in names:
                    with open(os.path.join(folder, name), "rb") as file:
                        os.fsync(file.fileno())
                sync_folder(folder)
            with locked(parent):
                if os.path.lexists(path):
                    _exchange(temporary, path)
                else:
                    os.rename(temporary, path)
            sync_folder(parent)
        finally:  # after an exchange this is the older folder
            shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path):
    """Removes a folder; its name goes first, so that nobody finds a part of it. Raises FileNotFoundError."""
    with contextlib.ExitStack() as stack:
        temporary = _make_temporary(path, stack)
        try:
            os.rename(path, os.path.join(temporary, os.path.basename(path)))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def claim_folder(folder, option):
    """Creates a folder and checks that files can be written there, before the long work that fills it.

    Args:
        folder: its name.
        option: the command-line option for it, for the message.

    Raises:
        UsageError: no file can be written there.
    """
    with named(f"{option} {folder}"):
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def is_inside(path, folder):
    """Tells whether path is the folder or lies somewhere below it. Neither need exist."""
    path, folder = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([path, folder]) == folder


def remove_abandoned(parent):
    """Removes the temporary folders of killed processes from parent. One in use is locked, and stays."""
    with locked(parent):
        for name in os.listdir(parent):
            if name.startswith(".") and name.endswith(_UNFINISHED):
                folder = os.path.join(parent, name)
                with contextlib.suppress(OSError), locked(folder, wait=False):
                    shutil.rmtree(folder, ignore_errors=True)


def _make_temporary(path, stack):
    """Returns a new folder beside path, locked until the ExitStack ends."""
    parent, name = os.path.split(path)
    while True:
        os.makedirs(parent, exist_ok=True)
        # Another process that failed may just have removed the parent. The lock makes remove_abandoned wait.
        with contextlib.suppress(FileNotFoundError), locked(parent):
            temporary = tempfile.mkdtemp(prefix=f".{name[:100]}.", suffix=_UNFINISHED, dir=parent)
            stack.enter_context(locked(temporary))
            return temporary


@contextlib.contextmanager
def locked(folder, wait=True):
    """Keeps a folder locked while the block runs; the system unlocks it however the process ends.

    Raises:
        OSError: there is no such folder; with wait=False also: another process holds the lock, or the file system
            has none. With wait=True the block then runs without the lock.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            if not wait:
                raise
        yield
    finally:
        os.close(descriptor)


def _exchange(first, second):
    """Swaps two names in one step (Linux renameat2), in two where the system or file system cannot."""
    numbers = {"x86_64": 316, "aarch64": 276}
    number = numbers.get(platform.machine())
    if number is not None:
        at_fdcwd, rename_exchange = -100, 2
        syscall = ctypes.CDLL(None, use_errno=True).syscall
        first_name, second_name = os.fsencode(first), os.fsencode(second)
        if syscall(number, at_fdcwd, first_name, at_fdcwd, second_name, ctypes.c_uint(rename_exchange)) == 0:
            return
    aside = first + ".older"
    os.rename(second, aside)
    try:
        os.rename(first, second)
    except OSError:
        os.rename(aside, second)
        raise
    os.rename(aside, first)


def sync_folder(folder):
    """Makes new names in a folder survive a power loss; os.fsync does that for the content of a file only."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # Windows shares (CIFS) before Linux 4.17 cannot do it
            raise
    finally:
        os.close(descriptor)


def umask():
    """Returns the permissions that new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
