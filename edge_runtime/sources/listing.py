"""Lists folders with bounded memory, also where they hold millions of names.

One folder in order: sorted_entries. A folder and all below it, in any order: walk. (The walk in order, which explains
every failure, is folder.folder_items.)
"""

import os
import stat
import typing

from edge_runtime.sources.names import is_left_out

# Names of a folder that one listing of it gives. A folder of 2 * AT_ONCE names or more is listed again for the next
# ones; of a smaller one all names are kept, and it is listed once.
AT_ONCE = 50000

FOLDER, FILE, LOOP, FAILED, TOO_MANY = "folder", "file", "loop", "failed", "too many"  # what walk yields

Entry = typing.Tuple[str, bool]  # a name in a folder; whether it is a folder itself, and no link to one


def sorted_entries(folder):
    """Returns an iterator of the entries of a folder, sorted.

    At most 3 * AT_ONCE are in memory: up to 2 * AT_ONCE in each listing and, from the second one on, those before.

    Raises:
        OSError: the folder cannot be listed; from the iterator: it can no longer.
    """
    entries, more = _entries_after("", folder)

    def iterate(entries, more):
        yield from entries
        while more:
            entries, more = _entries_after(entries[-1][0], folder)
            yield from entries

    return iterate(entries, more)


def _entries_after(last, folder):
    """Returns (the next entries of a folder after the name last, sorted; whether there are more). Raises OSError."""
    entries: typing.List[Entry] = []
    end = None  # once there are too many: the last name that is still wanted
    for entry in entries_of(folder):
        if entry[0] > last and (end is None or entry[0] < end):
            entries.append(entry)
            if len(entries) >= 2 * AT_ONCE:
                entries.sort()
                del entries[AT_ONCE:]
                end = entries[-1][0]
    entries.sort()
    if end is not None:
        del entries[AT_ONCE:]
    return entries, end is not None


def entries_of(folder):
    """Yields the entries of a folder in any order. Raises OSError."""
    with os.scandir(folder or os.curdir) as entries:
        for entry in entries:
            yield entry.name, entry.is_dir(follow_symlinks=False)  # known from the listing, without a system call


def names_in(folder):
    """Yields the names in a folder in any order. Raises OSError."""
    return (name for name, _ in entries_of(folder))


def walk(top, max_pending=None):
    """Walks a folder and all below it, in any order, without what is hidden or left there by systems.

    Links are followed, but not one back to a folder that contains it. Kept are the names of the folders still to come.

    Args:
        top: the folder, "" for the current one.
        max_pending: the walk ends early, with (top, TOO_MANY, None), once more folders than this are still to come.

    Yields:
        (path, FOLDER, None) for top and each folder below it, (path, FILE, None) for all else; (path, LOOP, None) for a
        link that is not followed; (path, FAILED, the OSError) for a folder that cannot be listed, or not to its end.
    """
    pending: typing.List[typing.Tuple[str, tuple]] = [(top, ())]  # (folder, identities of the folders above it)
    while pending:
        folder, above = pending.pop()
        try:
            identity = identity_of(folder or os.curdir)
            if identity in above:
                yield folder, LOOP, None
                continue
            with os.scandir(folder or os.curdir) as entries:
                yield folder, FOLDER, None
                for entry in entries:
                    if is_left_out(entry.name):
                        continue
                    path = entry.path if folder else entry.name
                    if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and is_folder(path)):
                        pending.append((path, above + (identity,)))
                    else:
                        yield path, FILE, None
        except OSError as error:
            yield folder, FAILED, error
        if max_pending is not None and len(pending) > max_pending:
            yield top, TOO_MANY, None
            return


def is_folder(path):
    """Whether a path is a folder, or a link to one; False where that cannot be found out."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False


def identity_of(folder):
    """Returns what a folder is whatever its name. Raises OSError."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino
