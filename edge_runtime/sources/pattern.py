"""Glob patterns as sources."""

import fnmatch
import glob
import itertools
import os
import typing

from edge_runtime.errors import is_storage_error, storage_lost
from edge_runtime.sources.folder import LEADS_NOWHERE, LOOP
from edge_runtime.sources.items import Item
from edge_runtime.sources.listing import identity_of, is_folder, sorted_entries
from edge_runtime.sources.names import is_left_out, is_litter, is_photo_name, looks_like_photo, pass_over
from edge_runtime.sources.storage import Folders, check_mounts, check_root, top_of


def pattern_items(pattern, passed_over, list_entries=None):
    """Yields the Items of a pattern, sorted unless list_entries (_entries) gives them in any order."""
    folder, last = os.path.split(pattern)
    top = pattern
    while glob.has_magic(top):
        top = os.path.dirname(top)
    folders = Folders(top_of(top or os.curdir))
    loops: typing.Set[str] = set()
    if last != "**" and not glob.has_magic(folder):
        # A hidden file is matched by what starts with a dot only.
        found: typing.Iterable[str] = (
            os.path.join(folder, name)
            for name in _until_error(list_entries or sorted_entries, folder, folders)
            if fnmatch.fnmatch(name, last) and (name[0] != "." or last[0] == ".")
        )
    else:
        found = sorted(set(_glob(pattern, loops)))
        root = folders.root_of(os.path.join(top, ""))
        if root is not None:  # whatever has gone since the folder was there is not among what was found
            check_root(root)
            check_mounts(root, root.path)
        for folder, _ in itertools.groupby(found, os.path.dirname):
            folders.root_of(os.path.join(folder, ""))  # as it is now that its names are known
    named = pattern.split(os.sep)
    for path in found:
        parts = path[len(top) :].split(os.sep)
        if any(is_litter(part) and part not in named for part in parts):
            continue
        root = folders.root_of(path)
        if path in loops:
            yield Item(path, path, LOOP, root)
            continue
        if is_photo_name(path):
            yield Item(path, path, "", root)
            continue
        if os.path.isdir(path):
            continue
        problem = ""
        try:
            is_photo = looks_like_photo(path)
        except OSError as error:
            if root is not None:
                check_root(root, error)
                check_mounts(root, path)
            if error.errno in LEADS_NOWHERE:
                continue
            is_photo, problem = True, f"cannot be looked at ({error.strerror})"
        if is_photo:
            yield Item(path, path, problem, root)
        else:
            pass_over(passed_over, path)


def _glob(pattern, loops):
    """Yields what glob.glob(recursive=True) does, but goes through no link back to a folder that contains it.

    With one such link glob repeats every file 40 times, with several it does not come to an end. They are added to the
    set loops.
    """
    parts = pattern.split(os.sep)
    if "**" not in parts:
        yield from glob.iglob(pattern)
        return
    place = parts.index("**")
    tops = glob.iglob(os.sep.join(parts[:place] + [""])) if place else [""]
    for top in tops:
        for folder in _folders(top, loops):
            yield from _glob(os.path.join(glob.escape(folder), *(parts[place + 1 :] or ["*"])), loops)


def _folders(top, loops):
    """Yields a folder and those below it, without those that are left out or cannot be listed; loops: see _glob."""
    pending: typing.List[typing.Tuple[str, tuple]] = [(top, ())]  # (folder, identities of the folders above it)
    while pending:
        folder, above = pending.pop()
        try:
            identity, names = identity_of(folder or os.curdir), os.listdir(folder or os.curdir)
        except OSError as error:
            if is_storage_error(error):
                raise storage_lost(folder, error)
            continue
        if identity in above:
            loops.add(folder)
            continue
        yield folder
        paths = [os.path.join(folder, name) for name in names if not is_left_out(name)]
        pending += [(path, above + (identity,)) for path in paths if is_folder(path)]


def _until_error(list_entries, folder, folders):
    """Yields the names in a folder that can be listed: as with glob, what cannot matches nothing."""
    root = folders.root_of(os.path.join(folder, ""))
    error = None
    try:
        for name, _ in list_entries(folder):
            yield name
    except OSError as failure:
        error = failure
    if root is not None:
        check_root(root, error)
