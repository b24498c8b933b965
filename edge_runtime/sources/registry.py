"""Opens and counts sources of photos. kinds.py has the table of what a name means and who opens it."""

import collections
import itertools
import os
import sys
import typing

from edge_runtime.errors import PicnicError, UsageError
from edge_runtime.secrets import shown_address
from edge_runtime.sources import kinds, table_reader
from edge_runtime.sources.folder import count_folder, folder_items
from edge_runtime.sources.items import Item, Items
from edge_runtime.sources.listing import TOO_MANY, entries_of
from edge_runtime.sources.names import check_file, is_litter, is_passed_over, pass_over, passed_over_text
from edge_runtime.sources.near_miss import near_miss
from edge_runtime.sources.pattern import pattern_items
from edge_runtime.sources.stdin import standard_input_items
from edge_runtime.sources.storage import Folders, top_of
from edge_runtime.sources.table import images_folder_of, table_items


def open_sources(sources, images_folder=None, null=False, stop=None):
    """Opens one source or several, which are read one after the other. Returns Items.

    Names from one source are those of open_source. With several sources, names in a folder begin with the folder as the
    user named it, so that they stay distinct. A shell replaces a pattern with whatever it matches; so, as in a folder,
    files that systems leave there (Thumbs.db) are left out, and a file that is no photo, no table and no video is
    counted in passed_over.

    Args:
        sources: list of sources; "-" only alone.
        images_folder, null, stop: see open_source.

    Raises:
        UsageError, MissingRequirement: see open_source; for any of the sources, before the first Item.
    """
    if len(sources) == 1:
        return open_source(sources[0], images_folder, null, stop)
    passed_over: typing.Counter[str] = collections.Counter()
    parts, folders = [], Folders()
    for source in sources:
        if source == "-":
            raise UsageError("-: is standard input, and must be the only source")
        if is_litter(os.path.basename(source)):
            continue
        if is_passed_over(source):
            pass_over(passed_over, source)
        else:
            parts.append(_open(source, images_folder, passed_over, folders, prefix=source))
    return Items(itertools.chain.from_iterable(parts), passed_over)


def open_source(source, images_folder=None, null=False, stop=None):
    """Opens a source. Returns Items, in the order in which results are written; each Item is one row of the output.

    A folder, a pattern with wildcards in its last part only, a table and standard input are streamed: memory does not
    grow with their length. A folder of a million files is listed again for every 50,000, which takes 0.6 s, as does its
    first Item. The matches of other patterns are kept, about 150 bytes each.

    In folders and patterns hidden files and folders and files that systems leave there are left out (unless the pattern
    names them). Where a suffix does not say whether a file is a photo, its first bytes do. Files that are no photos are
    counted in passed_over.

    While a folder is read it may change: a file that is deleted after it was listed still has its Item (and so a row
    with the reason); a new file is read if its place in the order is still to come. No Item comes twice or out of
    order. A folder inside that goes away is an Item with the reason. Where the source itself goes away, or a disk that
    was mounted in it, or a disk fails, iterating raises StorageLost; storage.reason_of raises it for a file that a
    table, a pattern or standard input names in a folder that went away.

    Args:
        source: file, folder (recursive, sorted), glob pattern, table (edge_runtime.sources.table_reader), or "-".
        images_folder: folder that a table's file names are relative to (default: the table's own folder).
        null: the names on standard input end with NUL, not with a newline.
        stop: threading.Event that ends waiting for standard input.

    Raises:
        UsageError: nothing of that name, a source without photos, or a table that cannot be read.
        MissingRequirement: a library that reads tables of that kind is not installed.
    """
    if source == "-":
        if sys.stdin is None:
            raise UsageError("-: standard input is closed; give file names there, or another source")
        return Items(standard_input_items(b"\0" if null else b"\n", stop))
    passed_over: typing.Counter[str] = collections.Counter()
    return Items(_open(source, images_folder, passed_over, Folders()), passed_over)


def _open(source, images_folder, passed_over, folders, prefix=""):
    """Returns an iterable of Item: see open_source. Of a folder the names begin with prefix."""
    kind = kinds.kind_of(source)
    if kind in (kinds.CAMERA, kinds.CSI, kinds.STREAM):
        name = shown_address(source)
        raise UsageError(f"{name}: a live source cannot be used here; give an image, a folder, a glob, a table or -")
    if kind == kinds.FOLDER:
        root = top_of(source)
        if root is not None:
            return folder_items(root, passed_over, prefix)
    if kind == kinds.TABLE:
        folder = images_folder_of(source, images_folder)
        if os.path.isfile(source):  # no pipe, which can be read only once
            next(table_reader.read_rows(source), None)
        return table_items(source, folder)
    if kind in (kinds.FILE, kinds.VIDEO):
        check_file(source)
        return [Item(source, source, "", folders.root_of(source))]
    if kind == kinds.PATTERN:
        matches = pattern_items(source, passed_over)
        for first in matches:
            return itertools.chain([first], matches)
        if passed_over:
            raise UsageError(f"{source}: the pattern matches no photo ({passed_over_text(passed_over)})")
        raise UsageError(f"{source}: the pattern matches no file")
    raise UsageError(f"{source}: no such file or folder{near_miss(source)}")


def count_source(source, stop=None):
    """Counts what open_source gives, for the ETA, without sorting and without keeping names except a pattern's matches.

    Args:
        source: file, folder, pattern, table, or "-".
        stop: threading.Event that ends the counting.

    Returns:
        the number of items as of now. None for standard input, for tables that are read whole (.xlsx, .parquet), for a
        source that cannot be read (open_source says why), for a folder with tens of thousands of folders beside each
        other (their names would have to be kept), and once stop is set.
    """
    kind = kinds.kind_of(source)
    if kind == kinds.STDIN or source.lower().endswith(table_reader.READ_WHOLE):
        return None
    count = 0
    try:
        if kind == kinds.FOLDER:
            items = count_folder(source)
        elif kind == kinds.PATTERN:
            items = pattern_items(source, collections.Counter(), entries_of)
        elif kind == kinds.TABLE and os.path.isfile(source):
            items = table_reader.read_rows(source)
        else:
            items = open_source(source)
        for item in items:
            if item is TOO_MANY or (stop is not None and stop.is_set()):
                return None
            count += 1
    except PicnicError:
        return None
    return count


def count_sources(sources, stop=None):
    """Counts what open_sources gives: a number, or None where count_source gives None for one of them."""
    count = 0
    for source in sources:
        if len(sources) == 1 or not (is_litter(os.path.basename(source)) or is_passed_over(source)):
            more = count_source(source, stop)
            if more is None:
                return None
            count += more
    return count
