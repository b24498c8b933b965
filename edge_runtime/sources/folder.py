"""Folders as sources: walked in order, with little memory, whatever happens to them meanwhile."""

import errno
import os
import stat
import typing

from edge_runtime.sources.items import Item, Root
from edge_runtime.sources.listing import AT_ONCE, Entry, identity_of, is_folder, sorted_entries
from edge_runtime.sources.names import is_left_out, is_photo_name, looks_like_photo, pass_over
from edge_runtime.sources.storage import check_mounts, check_root

LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # a link, or what was there a moment ago


LOOP = "is a link back to a folder that contains it: not followed"


def folder_items(root, passed_over, prefix):
    """Walks depth first, names sorted, holding the names on the way down only; links are followed, loops are not."""
    for name, problem, place in _walk(root, passed_over):
        path = os.path.join(root.path, name)
        yield Item(os.path.join(prefix, name), path, problem, place)


def _walk(top, passed_over):
    """Yields (name relative to the folder top, a Root; problem or ""; the Root of the device it is on)."""
    # (folder, what is to come of its entries, identities of it and of the folders above it, the Root of its device);
    # no recursion: trees are deep
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
            if not levels or levels[-1][3] is not root:
                check_root(root)  # a large folder is listed again on the way, and would only seem to have ended
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
            elif error.errno not in LEADS_NOWHERE:  # it may be a folder full of photos
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
            yield inner, LOOP, root
            continue
        if not inner:
            check_root(top)  # another folder may have taken its place before its turn came
        elif identity[0] != root.identity[0]:
            root = Root(path, identity)
        # Now that it is listed: where a disk was mounted, an empty folder may be left, or nothing.
        check_mounts(top, path)
        if is_photo_name(inner):
            yield inner, "is a directory", root
        levels.append((inner, entries, above + (identity,), root))


TOO_MANY = object()


def count_folder(top):
    """Yields once for each Item of a folder, in any order; _TOO_MANY when too many folders are still to be counted."""
    pending: typing.List[typing.Tuple[str, tuple]] = [(top, ())]  # (folder, identities of the folders above it)
    while pending:
        folder, above = pending.pop()
        try:
            identity = identity_of(folder)
            if identity in above:
                yield folder
                continue
            inside = above + (identity,)
            with os.scandir(folder) as entries:
                if is_photo_name(folder) and above:
                    yield folder
                for entry in entries:
                    if is_left_out(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and is_folder(entry.path)):
                        pending.append((entry.path, inside))
                    elif _is_item(entry.path):
                        yield entry
        except OSError:
            yield folder
        if len(pending) > AT_ONCE:
            yield TOO_MANY


def _is_item(path):
    """Whether a file in a folder is an Item: a photo, or what cannot be looked at."""
    try:
        return looks_like_photo(path)
    except OSError as error:
        return error.errno not in LEADS_NOWHERE
