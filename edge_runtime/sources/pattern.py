"""Glob patterns as sources."""

import fnmatch
import glob
import itertools
import os
import typing

from edge_runtime.errors import is_storage_error, storage_lost
from edge_runtime.sources import listing
from edge_runtime.sources.folder import DANGLING_ERRORS, LOOP_PROBLEM
from edge_runtime.sources.items import Item
from edge_runtime.sources.names import is_litter, is_photo_name, looks_like_photo, pass_over
from edge_runtime.sources.storage import Folders, check_mounts, check_root, top_of


def pattern_items(pattern, passed_over, list_entries=None):
    """Yields the Items of a pattern; see registry.open_source.

    Args:
        pattern: with wildcards, ** for any folders.
        passed_over: Counter of suffixes, in which the files that are no photos are counted.
        list_entries: lists one folder; default listing.sorted_entries, to count only: listing.entries_of.

    Raises:
        StorageLost: a folder of the pattern, or a disk mounted in it, went away or fails.
    """
    folder, last = os.path.split(pattern)
    top = pattern
    while glob.has_magic(top):
        top = os.path.dirname(top)
    folders = Folders(top_of(top or os.curdir))
    loops: typing.Set[str] = set()
    if last != "**" and not glob.has_magic(folder):
        # A hidden file is matched by what starts with a dot only.
        paths: typing.Iterable[str] = (
            os.path.join(folder, name)
            for name in _until_error(list_entries or listing.sorted_entries, folder, folders)
            if fnmatch.fnmatch(name, last) and (name[0] != "." or last[0] == ".")
        )
    else:
        paths = sorted(set(_glob(pattern, loops)))
        root = folders.root_of(os.path.join(top, ""))
        if root is not None:  # what went away since the folder was opened is not among the paths
            check_root(root)
            check_mounts(root, root.path)
        for folder, _ in itertools.groupby(paths, os.path.dirname):
            folders.root_of(os.path.join(folder, ""))  # as it is now that its names are known
    pattern_parts = pattern.split(os.sep)
    for path in paths:
        parts = path[len(top) :].split(os.sep)
        if any(is_litter(part) and part not in pattern_parts for part in parts):
            continue
        root = folders.root_of(path)
        if path in loops:
            yield Item(path, path, LOOP_PROBLEM, root)
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
            if error.errno in DANGLING_ERRORS:
                continue
            is_photo, problem = True, f"cannot be looked at ({error.strerror})"
        if is_photo:
            yield Item(path, path, problem, root)
        else:
            pass_over(passed_over, path)


def _glob(pattern, loops):
    """Yields what glob.glob(recursive=True) does, but follows no link back to a folder that contains it.

    With one such link glob repeats every file 40 times, with several it never ends. Such links are added to the set
    loops.
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
    for path, kind, error in listing.walk(top):
        if kind == listing.FOLDER:
            yield path
        elif kind == listing.LOOP:
            loops.add(path)
        elif is_storage_error(error):
            raise storage_lost(path, error)


def _until_error(list_entries, folder, folders):
    """Yields the names in a folder; none where it cannot be listed, for a pattern matches nothing there."""
    root = folders.root_of(os.path.join(folder, ""))
    error = None
    try:
        for name, _ in list_entries(folder):
            yield name
    except OSError as failure:
        error = failure
    if root is not None:
        check_root(root, error)
