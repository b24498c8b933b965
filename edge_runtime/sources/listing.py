"""Lists one folder in order, with bounded memory, also where it holds millions of names."""

import os
import stat
import typing

AT_ONCE = 50000  # names of one folder that are kept; a larger one is listed again for each further 50,000


Entry = typing.Tuple[str, bool]  # a name in a folder; whether it is a folder itself, and no link to one


def sorted_entries(folder):
    """Returns an iterator of the entries of a folder, sorted; at most 2 * _AT_ONCE are held.

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
            yield entry.name, entry.is_dir(follow_symlinks=False)  # is in the listing: the file is not looked at


def names_in(folder):
    """Yields the names in a folder in any order. Raises OSError."""
    return (name for name, _ in entries_of(folder))


def is_folder(path):
    """Whether a path is a folder, or a link to one; False where it cannot be looked at."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False


def identity_of(folder):
    """Returns what a folder is whatever its name. Raises OSError."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino
