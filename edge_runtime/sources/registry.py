"""Opens any source of photos by what it is: folder, pattern, table, standard input, single files."""

import collections
import glob
import itertools
import os
import sys
import typing

from edge_runtime.errors import PicnicError, UsageError
from edge_runtime.secrets import is_address, shown_address
from edge_runtime.sources import table_reader
from edge_runtime.sources.folder import TOO_MANY, count_folder, folder_items
from edge_runtime.sources.items import Item, Items
from edge_runtime.sources.listing import entries_of
from edge_runtime.sources.names import check_named, is_litter, is_passed_over, pass_over, passed_over_text
from edge_runtime.sources.near_miss import near_miss
from edge_runtime.sources.pattern import pattern_items
from edge_runtime.sources.stdin import standard_input_items
from edge_runtime.sources.storage import Folders, top_of
from edge_runtime.sources.table import images_folder_of, table_items


def open_sources(sources, images_folder=None, null=False, stop=None):
    """Opens one source or several, which are read one after the other. Returns Items.

    Of one source the names are as open_source gives them. Of several a folder's names begin with the folder as it was
    given, so that they stay distinct. A shell puts whatever is there in the place of a pattern: as in a folder, what a
    system leaves there (Thumbs.db) is left out, and a file that is no photo, no table and no video is counted in
    passed_over.

    Args:
        sources: list of sources; of several none may be "-".
        images_folder, null, stop, and what is raised: as for open_source. Every source is looked at before the first
            Item is given.
    """
    if len(sources) == 1:
        return open_source(sources[0], images_folder, null, stop)
    passed_over: typing.Counter[str] = collections.Counter()
    opened, folders = [], Folders()
    for source in sources:
        if source == "-":
            raise UsageError("-: is standard input, and must be the only source")
        if is_litter(os.path.basename(source)):
            continue
        if is_passed_over(source):
            pass_over(passed_over, source)
        else:
            opened.append(_open(source, images_folder, passed_over, folders, prefix=source))
    return Items(itertools.chain.from_iterable(opened), passed_over)


def open_source(source, images_folder=None, null=False, stop=None):
    """Opens a source. Returns Items, in the order in which results are written; each Item is one row of the output.

    A folder, a pattern with wildcards in its last part only, a table and standard input are streamed: memory does not
    grow with what is there. A folder of a million files is listed again for every 50,000, which takes 0.6 s; so long
    its first Item takes, too. The matches of other patterns are kept, about 150 bytes each.

    In folders and patterns hidden files and folders and what systems leave there are left out (unless they are named);
    what a name does not tell apart is a photo if its first bytes are one's; and what is no photo is counted in
    passed_over.

    What changes in a folder meanwhile: a file that is gone when its turn comes still has its Item (and so its row with
    the reason) if it had been listed; one that appears is given if its place in the order is yet to come. Nothing is
    given twice or out of order. A folder inside that goes away on the way is an Item with the reason. Where the source
    itself goes away, or a disk that was mounted in it, or a disk fails, StorageLost is raised on the way; so it is by
    reason_of for a file that a table, a pattern or standard input names in a folder that went away.

    Args:
        source: file, folder (recursive, sorted), glob pattern, table (edge_runtime.sources.table_reader), or "-".
        images_folder: where a table's file names start (default: the table's own folder).
        null: the names on standard input end with NUL, not with a newline.
        stop: threading.Event that ends the waiting for standard input.

    Raises:
        UsageError: nothing of that name, a source that is not made of photos, or a table that cannot be read.
        MissingRequirement: what reads a table of that kind is not installed.
    """
    if source == "-":
        if sys.stdin is None:
            raise UsageError("-: standard input is closed; give file names there, or another source")
        return Items(standard_input_items(b"\0" if null else b"\n", stop))
    passed_over: typing.Counter[str] = collections.Counter()
    return Items(_open(source, images_folder, passed_over, Folders()), passed_over)


def _open(source, images_folder, passed_over, folders, prefix=""):
    """Returns an iterable of Item: see open_source. Of a folder the names begin with prefix."""
    if source.startswith(("camera:", "csi:")) or is_address(source):
        shown = shown_address(source)
        raise UsageError(f"{shown}: a live source cannot be used here; give an image, a folder, a glob, a table or -")
    if os.path.isdir(source):
        root = top_of(source)
        if root is not None:
            return folder_items(root, passed_over, prefix)
    if os.path.lexists(source):
        if table_reader.is_table(source):
            folder = images_folder_of(source, images_folder)
            if os.path.isfile(source):  # no pipe, which can be read only once
                next(table_reader.read_rows(source), None)
            return table_items(source, folder)
        check_named(source)
        return [Item(source, source, "", folders.root_of(source))]
    if glob.has_magic(source):
        matches = pattern_items(source, passed_over)
        for first in matches:
            return itertools.chain([first], matches)
        if passed_over:
            raise UsageError(f"{source}: the pattern matches no photo ({passed_over_text(passed_over)})")
        raise UsageError(f"{source}: the pattern matches no file")
    raise UsageError(f"{source}: no such file or folder{near_miss(source)}")


def count_source(source, stop=None):
    """Counts what open_source gives, for the ETA: without sorting, and without keeping names but a glob's matches.

    Args:
        source: as for open_source.
        stop: threading.Event that ends the counting.

    Returns:
        the number of items as of now; None for standard input, for tables that are read whole (.xlsx, .parquet), for a
        source that cannot be read (open_source says why),
        for tens of thousands of folders beside each other (their names would have to be kept), and once stop is set.
    """
    if source == "-" or source.lower().endswith(table_reader.READ_WHOLE):
        return None
    count = 0
    try:
        if os.path.isdir(source):
            counted = count_folder(source)
        elif glob.has_magic(source) and not os.path.lexists(source):
            counted = pattern_items(source, collections.Counter(), entries_of)
        elif table_reader.is_table(source) and os.path.isfile(source):
            counted = table_reader.read_rows(source)
        else:
            counted = open_source(source)
        for item in counted:
            if item is TOO_MANY or (stop is not None and stop.is_set()):
                return None
            count += 1
    except PicnicError:
        return None
    return count


def count_sources(sources, stop=None):
    """Counts what open_sources gives: as count_source."""
    count = 0
    for source in sources:
        if len(sources) == 1 or not (is_litter(os.path.basename(source)) or is_passed_over(source)):
            more = count_source(source, stop)
            if more is None:
                return None
            count += more
    return count
