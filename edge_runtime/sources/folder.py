"""Folders as sources: walked in order, with little memory, whatever happens to them on the way."""

import errno
import os
import stat
import typing

from edge_runtime.sources import listing
from edge_runtime.sources.items import Item, Root
from edge_runtime.sources.listing import Entry, identity_of, sorted_entries
from edge_runtime.sources.names import is_left_out, is_photo_name, looks_like_photo, pass_over
from edge_runtime.sources.storage import check_mounts, check_root

DANGLING_ERRORS = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # a link to nowhere, or a file deleted a moment ago
LOOP_PROBLEM = "is a link back to a folder that contains it: not followed"


def folder_items(top, passed_over, prefix):
    """Yields the Items of a folder and all below it, names sorted, depth first; see registry.open_source.

    Of each folder on the way down, no more names are in memory than listing.sorted_entries keeps. Links are followed,
    but not one back to a folder that contains it.

    Args:
        top: the folder's Root.
        passed_over: Counter of suffixes, in which the files that are no photos are counted.
        prefix: folder that the names begin with, "" for none.

    Raises:
        StorageLost: the folder, or a disk mounted in it, went away or fails.
    """
    for name, problem, root in _walk(top, passed_over):
        yield Item(os.path.join(prefix, name), os.path.join(top.path, name), problem, root)


def _walk(top, passed_over):
    """Yields (name relative to the folder top, a Root; problem or ""; the Root of the device it is on)."""
    # (folder, an iterator of its further entries, identities of it and of the folders above it, the Root of its
    # device); no recursion: trees are deep
    levels: typing.List[typing.Tuple[str, typing.Iterator[Entry], tuple, Root]] = [("", iter([("", True)]), (), top)]
    while levels:
        folder, entries, above, root = levels[-1]
        try:
            name, was_folder = next(entries, (None, False))
        except OSError as error:
            check_root(root, error)
            levels.pop()
            yield folder or ".", f"cannot list the rest of this folder ({error.strerror})", root
            continue
        if name is None:
            levels.pop()
            # A large folder is listed several times. If its disk went away meanwhile, it only seems to have ended.
            if not levels or levels[-1][3] is not root:
                check_root(root)
            continue
        if is_left_out(name):
            continue
        inner = os.path.join(folder, name)
        path = os.path.join(top.path, inner)
        try:
            is_folder = stat.S_ISDIR(os.stat(path).st_mode)
            is_photo = looks_like_photo(path) if not is_folder else False
        except OSError as error:
            check_root(root, error)
            check_mounts(top, path)
            if is_photo_name(inner):
                yield inner, "", root  # reading it says why not
            elif was_folder and not os.path.lexists(path):
                yield inner, "went away before it was looked at", root
            elif error.errno not in DANGLING_ERRORS:  # it may be a folder full of photos
                yield inner or ".", f"cannot be looked at ({error.strerror})", root
            continue
        if not is_folder:
            if is_photo:
                yield inner, "", root
            else:
                pass_over(passed_over, name)
            continue
        try:
            identity, entries = identity_of(path), sorted_entries(path)
        except OSError as error:
            check_root(root, error)
            yield inner or ".", f"cannot list this folder ({error.strerror})", root
            continue
        if identity in above:
            yield inner, LOOP_PROBLEM, root
            continue
        if not inner:
            check_root(top)  # another folder may have replaced it since it was opened
        elif identity[0] != root.identity[0]:
            root = Root(path, identity)
        # Only now that it is listed: where a disk was mounted, an empty folder may remain, or nothing.
        check_mounts(top, path)
        if is_photo_name(inner):
            yield inner, "is a directory", root
        levels.append((inner, entries, above + (identity,), root))


def count_folder(top):
    """Yields once for each Item of a folder, in any order; listing.TOO_MANY when it has too many folders to count."""
    for path, kind, _ in listing.walk(top, listing.AT_ONCE):
        if kind == listing.FILE:
            if _is_item(path):
                yield path
        elif kind == listing.FOLDER:
            if is_photo_name(path) and path != top:  # the Item that says so
                yield path
        else:
            yield listing.TOO_MANY if kind == listing.TOO_MANY else path


def _is_item(path):
    """Whether a file in a folder is an Item: a photo, or one that cannot be read."""
    try:
        return looks_like_photo(path)
    except OSError as error:
        return error.errno not in DANGLING_ERRORS
