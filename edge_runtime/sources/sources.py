"""SOURCE: images, folders, globs, tables of file names, or - (file names on standard input)."""

import codecs
import collections
import errno
import fnmatch
import functools
import glob
import itertools
import os
import re
import select
import shlex
import stat
import sys
import typing
import unicodedata

import numpy as np

from edge_runtime.errors import STORAGE_ERRORS, PhotoMissing, PicnicError, StorageLost, UsageError
from edge_runtime.photos import formats
from edge_runtime.secrets import is_address, shown_address
from edge_runtime.sources import tables


class Root(typing.NamedTuple):
    """A folder as it was when the source was opened, or when a file in it was first named."""

    path: str
    identity: tuple  # what it is whatever its name: device and number
    mounts: tuple = ()  # (mount point, device) of what was mounted at or below the source's folder, see _mounts_below
    top: typing.Any = None  # the Root of the source's folder, where that is another one


class Item(typing.NamedTuple):
    """A file of a source: one row of the output."""

    name: str  # what the result row calls it
    path: str  # the file to open
    problem: str  # why it is not even tried, "" for a photo
    root: typing.Optional[Root] = None  # what it is read from, see reason_of


class Frame(typing.NamedTuple):
    """A frame of a video or a camera."""

    name: str  # "clip.mp4#123", "camera:0#123": the frame's number from 0
    picture: typing.Optional[np.ndarray]  # uint8 [height, width, 3], RGB; None where problem says why
    captured_s: float  # time.perf_counter() when it was captured
    time_s: float  # its place in the video, or since the first frame
    problem: str = ""  # why there is no picture


_VIDEOS = "mp4 m4v mov avi mkv webm mpg mpeg ts mts m2ts wmv flv 3gp ogv"
VIDEO_SUFFIXES = tuple("." + name for name in _VIDEOS.split())
# What is no photo, told by its name: in a folder it is not even opened.
_NO_PHOTOS = (
    "txt md log rtf csv tsv json jsonl ndjson xml html htm css yaml yml ini cfg conf toml tex srt vtt "
    "parquet xlsx xlsm xls ods numbers db sqlite sqlite3 npy npz h5 hdf5 pkl mat "
    "zip tar gz tgz bz2 tbz2 xz txz 7z rar zst iso dmg "
    "pdf doc docx odt ppt pptx odp epub ps eps ai svg psd xcf ico jp2 j2k jxl "
    "mp3 wav flac ogg m4a aac wma aae xmp thm lrv gpx kml "
    "py pyc ipynb c h cpp hpp js java class jar sh bat ps1 exe dll so a o apk deb rpm "
    "onnx pb pbtxt tflite engine plan pt pth safetensors "
    "nrw sr2 srf kdc dcr mrw x3f erf mef mos 3fr fff iiq rwl gpr"
)
_NO_PHOTO_SUFFIXES = frozenset(
    ["." + name for name in _NO_PHOTOS.split()] + list(VIDEO_SUFFIXES) + list(formats.RAW_SUFFIXES)
)
# What systems and this product leave in folders; names in small letters.
_LITTER = (
    ".ds_store",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "@eadir",
    "#recycle",
    "__macosx",
    "$recycle.bin",
    "system volume information",
    "lost+found",
)
_OWN = tuple(suffix + ".partial" for suffix in (".tsv", ".csv", ".jsonl", ".parquet")) + (
    ".partial.json",
    ".partial.json.new",
    ".partial.lock",
)

_AT_ONCE = 50000  # names of one folder that are kept; a larger one is listed again for each further 50,000
_LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # a link, or what was there a moment ago
_STOP_EVERY_S = 0.1  # how often waiting for standard input looks whether to stop
_READ_BYTES = 1 << 16
_MOUNTS = "/proc/self/mountinfo"  # Linux only
_NAME_BYTES = 1 << 20  # of one name on standard input; a path that can be opened has 4096 at most
_FOLDERS_KNOWN = 1000  # whose identity is kept while names are read
_NEAR_NAMES = 10000  # in a folder that is searched for a name that was meant
_NEAR_FOLDERS = 4  # whose names are kept for that
_SUFFIXES_COUNTED = 100  # apart from each other, of what is passed over; and their length
_SUFFIX_LETTERS = 12

_LOOP = "is a link back to a folder that contains it: not followed"
_WHAT_TO_DO = (
    "No photo gets an error for that. Bring it back and give the same command again (of classify and train with "
    "--resume: what was done is kept)."
)


class Items:
    """An iterator of Item. passed_over: Counter of the files that were no photos, by suffix ("" without one)."""

    def __init__(self, items, passed_over=None):
        self.passed_over: typing.Counter[str] = collections.Counter() if passed_over is None else passed_over
        self._items = iter(items)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._items)


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
    opened, folders = [], _Folders()
    for source in sources:
        if source == "-":
            raise UsageError("-: is standard input, and must be the only source")
        if _is_litter(os.path.basename(source)):
            continue
        if _is_passed_over(source):
            _pass_over(passed_over, source)
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
        source: file, folder (recursive, sorted), glob pattern, table (edge_runtime.sources.tables), or "-".
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
        return Items(_standard_input(b"\0" if null else b"\n", stop))
    passed_over: typing.Counter[str] = collections.Counter()
    return Items(_open(source, images_folder, passed_over, _Folders()), passed_over)


def _open(source, images_folder, passed_over, folders, prefix=""):
    """Returns an iterable of Item: see open_source. Of a folder the names begin with prefix."""
    if source.startswith(("camera:", "csi:")) or is_address(source):
        shown = shown_address(source)
        raise UsageError("%s: a live source cannot be used here; give an image, a folder, a glob, a table or -" % shown)
    if os.path.isdir(source):
        root = _top_of(source)
        if root is not None:
            return _folder(root, passed_over, prefix)
    if os.path.lexists(source):
        if tables.is_table(source):
            folder = images_folder_of(source, images_folder)
            if os.path.isfile(source):  # no pipe, which can be read only once
                next(tables.read_rows(source), None)
            return table_items(source, folder)
        _check_named(source)
        return [Item(source, source, "", folders.root_of(source))]
    if glob.has_magic(source):
        matches = _matches(source, passed_over)
        for first in matches:
            return itertools.chain([first], matches)
        if passed_over:
            raise UsageError("%s: the pattern matches no photo (%s)" % (source, passed_over_text(passed_over)))
        raise UsageError("%s: the pattern matches no file" % source)
    raise UsageError("%s: no such file or folder%s" % (source, near_miss(source)))


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
    if source == "-" or source.lower().endswith(tables.READ_WHOLE):
        return None
    count = 0
    try:
        if os.path.isdir(source):
            counted = _unsorted(source)
        elif glob.has_magic(source) and not os.path.lexists(source):
            counted = _matches(source, collections.Counter(), _entries)
        elif tables.is_table(source) and os.path.isfile(source):
            counted = tables.read_rows(source)
        else:
            counted = open_source(source)
        for item in counted:
            if item is _TOO_MANY or (stop is not None and stop.is_set()):
                return None
            count += 1
    except PicnicError:
        return None
    return count


def count_sources(sources, stop=None):
    """Counts what open_sources gives: as count_source."""
    count = 0
    for source in sources:
        if len(sources) == 1 or not (_is_litter(os.path.basename(source)) or _is_passed_over(source)):
            more = count_source(source, stop)
            if more is None:
                return None
            count += more
    return count


def passed_over_text(passed_over):
    """Returns what was passed over as text: "passed over: 3 .mp4, 1 without a suffix", the most first; "" for none."""
    if not passed_over:
        return ""
    counts = sorted(passed_over.items(), key=lambda one: (-one[1], one[0]))
    shown = ["%d %s" % (count, ascii(suffix)[1:-1] if suffix else "without a suffix") for suffix, count in counts]
    text = "passed over: " + ", ".join(shown)
    if any(suffix in VIDEO_SUFFIXES for suffix in passed_over):
        text += " (a video is classified where it is given by its own name)"
    return text


def reason_of(item, error):
    """Returns the reason why a file of a source cannot be read, as its row says it.

    Args:
        item: Item, or whatever else has its path and root.
        error: the ImageError that reading it raised.

    Raises:
        StorageLost: what it is read from is gone (a folder that was renamed, a disk that was unmounted), so that the
            failure says nothing about the photo.
    """
    if not isinstance(error, PhotoMissing):
        return str(error)
    if item.root is not None:
        _check_root(item.root)
        _check_mounts(item.root, item.path)
    return str(error) + near_miss(item.path)


def _check_root(root, error=None):
    """Raises StorageLost where root (or its top) is another folder now or gone, or error (an OSError) is its disk's."""
    if error is not None and error.errno in STORAGE_ERRORS:
        raise StorageLost("%s: cannot be read any more (%s).\n%s" % (root.path, error.strerror, _WHAT_TO_DO))
    for one in [root] if root.top is None else [root.top, root]:
        now = _root_of(one.path)
        if now is None or now.identity != one.identity:
            raise StorageLost(
                "%s: this folder went away, or is another one now (a disk that was taken out, a network drive?).\n%s"
                % (one.path, _WHAT_TO_DO)
            )


def _check_mounts(root, path):
    """Raises StorageLost where what was mounted at, above or below a path in the source is gone, or another disk."""
    if not root.mounts:
        return
    place = os.path.join(os.path.realpath(path), "")
    concerned = []
    for mount in root.mounts:
        point = os.path.join(mount[0], "")
        if place.startswith(point) or point.startswith(place):
            concerned.append(mount)
    gone = sorted(set(concerned).difference(_mounts())) if concerned else []
    if gone:
        raise StorageLost(
            "%s: the disk that was mounted here went away, or is another one now.\n%s" % (gone[0][0], _WHAT_TO_DO)
        )


def _mounts():
    """Returns [(mount point, device)] of what is mounted now and stays so; [] where the system does not tell."""
    try:
        with open(_MOUNTS, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    mounts, automatic = [], []
    for line in lines:
        fields = line.split(b" ")
        # Spaces, tabs, newlines and backslashes are written as "\\040".
        point = os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal.group(1), 8)]), fields[4]))
        mounts.append((point, os.fsdecode(fields[2])))
        if b" - autofs " in line:  # below it disks come and go as they are used
            automatic.append(os.path.join(point, ""))
    return [mount for mount in mounts if not os.path.join(mount[0], "").startswith(tuple(automatic))]


def _mounts_below(folder):
    """Returns those of _mounts at or below a folder, without those that a walk leaves out."""
    top = os.path.join(os.path.realpath(folder), "")
    inside = [mount for mount in _mounts() if os.path.join(mount[0], "").startswith(top)]
    return tuple(mount for mount in inside if not any(map(is_left_out, mount[0][len(top) :].split(os.sep))))


def _root_of(folder):
    """Returns the Root of a folder, None where there is none."""
    try:
        return Root(folder, _identity(folder))
    except OSError:
        return None


def _top_of(folder):
    """Returns the Root of a source's folder, None where there is none."""
    root = _root_of(folder)
    return None if root is None else root._replace(mounts=_mounts_below(folder))


class _Folders:
    """Tells what named files are read from: the folder of each, or the last one that was there when it was named.

    top: the Root of the source's folder, None where the names have none in common.
    """

    def __init__(self, top=None):
        self._top = self._last = top
        self._known: typing.Dict[str, Root] = {}  # as they were when first named

    def root_of(self, path):
        """Returns the Root of a file; None where no folder that was named so far is there."""
        folder = os.path.dirname(path) or os.curdir
        if folder not in self._known or self._is_made_anew(folder):
            found = _root_of(folder)
            if found is None:
                return self._last
            if self._top is not None:
                is_top = found.identity == self._top.identity
                found = self._top if is_top else found._replace(mounts=self._top.mounts, top=self._top)
            if len(self._known) >= _FOLDERS_KNOWN:
                self._known.clear()
            self._known[folder] = found
        self._last = self._known[folder]
        return self._last

    def _is_made_anew(self, folder):
        """Whether a known folder is another one now, on the same disk and not empty: a spool, no disk that is away."""
        before = self._known[folder]
        if before is self._top:
            return False
        now = _root_of(folder)
        if now is None or now.identity == before.identity or now.identity[0] != before.identity[0]:
            return False
        try:
            return next(_names(folder), None) is not None
        except OSError:
            return False


def images_folder_of(table, images_folder):
    """Returns where a table's file names start: images_folder, or if that is None the table's own folder.

    Raises:
        UsageError: there is no such folder, or it is empty, as is the mount point of a disk that is away.
    """
    if images_folder is None:
        return os.path.dirname(table)
    try:
        is_empty = next(_names(images_folder), None) is None
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError("--images %s: no such folder" % images_folder)
    except OSError as error:
        raise UsageError("--images %s: cannot be listed (%s)" % (images_folder, error.strerror))
    if is_empty:
        raise UsageError("--images %s: is an empty folder; is its disk mounted?" % images_folder)
    return images_folder


def table_items(path, images_folder):
    """Returns an iterator of an Item per row of a table (see tables), its files below images_folder."""
    return (_listed(row.file, where, row.problem, root) for row, where, root in table_rows(path, images_folder))


def _listed(name, path, problem, root):
    """Returns the Item of a name in a list. An address there is no file, and may hold a password."""
    if is_address(name):
        return Item(shown_address(name), path, "is an address, not the name of a file: download it first", root)
    return Item(name, path, problem, root)


def table_rows(path, images_folder, need_label=False):
    """Returns an iterator of (tables.Row, the path of its file, the Root that it is read from)."""
    folders = _Folders(_top_of(images_folder or os.curdir))

    def iterate():
        for row in tables.read_rows(path, need_label):
            where = path_of(row.file, images_folder)
            yield row, where, folders.root_of(where)

    return iterate()


def path_of(name, images_folder):
    """Returns the path of a file named in a table, which is UTF-8 whatever the locale is (LANG is often unset)."""
    return _slashed(os.fsdecode(name.encode("utf-8", "surrogateescape")), images_folder)


def _slashed(name, folder=""):
    """Returns the path of a name; one with Windows' backslashes means folders where no file has that very name."""
    path = os.path.join(folder, name)
    if "\\" in name and not os.path.lexists(path):
        other = name.replace("\\", "/")
        if not tables.path_problem(other) and os.path.lexists(os.path.join(folder, other)):
            return os.path.join(folder, other)
    return path


def near_miss(path):
    """Returns '; did you mean "X"?' where a file that is not there has one like it beside it, else "".

    Like it is the same name in another Unicode form, in capital or small letters, with backslashes, or with the suffix
    of a photo. Folders with more than 10,000 names are not searched. What is answered depends on the files alone.
    """
    if os.path.lexists(path):
        return ""
    folder = path.replace("\\", "/").rstrip("/")
    missing: typing.List[str] = []
    while folder and not os.path.isdir(folder) and len(missing) < 10:
        folder, name = os.path.split(folder)
        missing.insert(0, name)
    for name in missing:
        found = _names_like(folder).get(_alike(name))
        if found is None:
            return ""
        folder = os.path.join(folder, found)
    if not os.path.lexists(folder) or folder == path:
        return ""
    form = ""
    if unicodedata.normalize("NFC", folder) == unicodedata.normalize("NFC", path):
        form = " (the same letters in another Unicode form)"
    return '; did you mean "%s"?%s' % (folder, form)


def _names_like(folder):
    """Returns {_alike(name or name without suffix): name} of what is in a folder; {} for one too large."""
    try:
        return _names_like_at(folder, os.stat(folder or os.curdir).st_mtime_ns)
    except OSError:
        return {}


@functools.lru_cache(maxsize=_NEAR_FOLDERS)
def _names_like_at(folder, _):
    names = sorted(itertools.islice(_names(folder), _NEAR_NAMES + 1))
    if len(names) > _NEAR_NAMES:
        return {}
    found: typing.Dict[str, str] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in formats.SUFFIXES:
            found.setdefault(_alike(stem), name)
    # A whole name goes before one without its suffix.
    found.update((_alike(name), name) for name in reversed(names))
    return found


def _alike(name):
    return unicodedata.normalize("NFC", name).casefold()


def _is_litter(name):
    small = name.lower()
    return small in _LITTER or small.startswith("._") or small.endswith(_OWN)


def is_left_out(name):
    """Whether what has this name in a folder is left out without a word: hidden, or what systems leave there."""
    return name.startswith(".") or _is_litter(name)


def _suffix_of(path):
    return os.path.splitext(path)[1].lower()


def _is_photo_name(path):
    return _suffix_of(path) in formats.SUFFIXES


def _is_photo(path):
    """Whether a file is a photo: by its suffix or, where that tells nothing, by its first bytes. Raises OSError."""
    suffix = _suffix_of(path)
    if suffix in formats.SUFFIXES or suffix in _NO_PHOTO_SUFFIXES:
        return suffix in formats.SUFFIXES
    return bool(formats.format_of(_start_of(path)))


def _start_of(path):
    """Returns the first bytes of a file, b"" of what is no regular file: it is not opened. Raises OSError."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        return b""
    # Non-blocking: in the meantime it may have become a pipe.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return file.read(tables.START_BYTES)


def _is_passed_over(path):
    """Whether a file that is one of several sources is neither a photo, nor a table, nor a video."""
    suffix = _suffix_of(path)
    try:
        if _is_photo_name(path) or os.path.isdir(path):
            return False
        start = _start_of(path)
    except OSError:  # what is said of a missing source, or its row, says why
        return False
    if suffix == ".txt":  # notes, unless its first line is a table's or names a photo
        try:
            next(tables.read_rows(path), None)
            return False
        except UsageError:
            return not _is_photo_name(os.fsdecode(start.split(b"\n")[0].strip()))
    if tables.is_table(path) or suffix in VIDEO_SUFFIXES or tables.other_kind(path, start).startswith("a video"):
        return False
    return suffix in formats.RAW_SUFFIXES or not formats.format_of(start)


def _pass_over(passed_over, path):
    """Counts a file that is no photo. Suffixes that nobody has are counted together: there may be millions."""
    suffix = _suffix_of(path)
    if len(suffix) > _SUFFIX_LETTERS or (suffix not in passed_over and len(passed_over) >= _SUFFIXES_COUNTED):
        suffix = "other"
    passed_over[suffix] += 1


def _check_named(path):
    """Raises UsageError for a file that is given as a source and is no photo, where it is known what it is instead."""
    if _is_photo_name(path):
        return
    try:
        start = _start_of(path)
    except OSError:  # its row says why
        return
    if _suffix_of(path) in formats.RAW_SUFFIXES:  # many of them begin as a TIFF does, and hold a small preview first
        raise UsageError("%s: is a camera raw file; convert it to JPEG" % path)
    if formats.format_of(start):
        return
    kind = tables.other_kind(path, start)
    if _suffix_of(path) in VIDEO_SUFFIXES:
        kind = "a video, which is read by `picnic-edge classify` alone, as its only source"
    if kind == "text":
        kind = "text; a table of photos has a name that ends in .tsv, .csv or .txt, and a list of names goes to "
        kind += "standard input: picnic-edge classify BUNDLE - < %s" % shlex.quote(path)
    if not kind and _suffix_of(path) in _NO_PHOTO_SUFFIXES:
        kind = "another kind of file, by its suffix %s" % _suffix_of(path)
    if kind:
        raise UsageError("%s: is no photo, but %s" % (path, kind))


def _matches(pattern, passed_over, list_entries=None):
    """Yields the Items of a pattern, sorted unless list_entries (_entries) gives them in any order."""
    folder, last = os.path.split(pattern)
    top = pattern
    while glob.has_magic(top):
        top = os.path.dirname(top)
    folders = _Folders(_top_of(top or os.curdir))
    loops: typing.Set[str] = set()
    if last != "**" and not glob.has_magic(folder):
        # A hidden file is matched by what starts with a dot only.
        found: typing.Iterable[str] = (
            os.path.join(folder, name)
            for name in _until_error(list_entries or _sorted_entries, folder, folders)
            if fnmatch.fnmatch(name, last) and (name[0] != "." or last[0] == ".")
        )
    else:
        found = sorted(set(_glob(pattern, loops)))
        root = folders.root_of(os.path.join(top, ""))
        if root is not None:  # whatever has gone since the folder was there is not among what was found
            _check_root(root)
            _check_mounts(root, root.path)
        for folder, _ in itertools.groupby(found, os.path.dirname):
            folders.root_of(os.path.join(folder, ""))  # as it is now that its names are known
    named = pattern.split(os.sep)
    for path in found:
        parts = path[len(top) :].split(os.sep)
        if any(_is_litter(part) and part not in named for part in parts):
            continue
        root = folders.root_of(path)
        if path in loops:
            yield Item(path, path, _LOOP, root)
            continue
        if _is_photo_name(path):
            yield Item(path, path, "", root)
            continue
        if os.path.isdir(path):
            continue
        problem = ""
        try:
            is_photo = _is_photo(path)
        except OSError as error:
            if root is not None:
                _check_root(root, error)
                _check_mounts(root, path)
            if error.errno in _LEADS_NOWHERE:
                continue
            is_photo, problem = True, "cannot be looked at (%s)" % error.strerror
        if is_photo:
            yield Item(path, path, problem, root)
        else:
            _pass_over(passed_over, path)


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
            identity, names = _identity(folder or os.curdir), os.listdir(folder or os.curdir)
        except OSError as error:
            if error.errno in STORAGE_ERRORS:
                raise StorageLost("%s: cannot be listed (%s).\n%s" % (folder, error.strerror, _WHAT_TO_DO))
            continue
        if identity in above:
            loops.add(folder)
            continue
        yield folder
        paths = [os.path.join(folder, name) for name in names if not is_left_out(name)]
        pending += [(path, above + (identity,)) for path in paths if _is_folder(path)]


def _folder(root, passed_over, prefix):
    """Walks depth first, names sorted, holding the names on the way down only; links are followed, loops are not."""
    for name, problem, place in _walk(root, passed_over):
        path = os.path.join(root.path, name)
        yield Item(os.path.join(prefix, name), path, problem, place)


def _walk(top, passed_over):
    """Yields (name relative to the folder top, a Root; problem or ""; the Root of the device it is on)."""
    # (folder, what is to come of its entries, identities of it and of the folders above it, the Root of its device);
    # no recursion: trees are deep
    levels: typing.List[typing.Tuple[str, typing.Iterator[_Entry], tuple, Root]] = [("", iter([("", True)]), (), top)]
    while levels:
        folder, entries, above, root = levels[-1]
        try:
            name, was_folder = next(entries, (None, False))
        except OSError as error:
            _check_root(root, error)
            levels.pop()
            yield folder or ".", "cannot list the rest of this folder (%s)" % error.strerror, root
            continue
        if name is None:
            levels.pop()
            if not levels or levels[-1][3] is not root:
                _check_root(root)  # a large folder is listed again on the way, and would only seem to have ended
            continue
        if is_left_out(name):
            continue
        inner = os.path.join(folder, name)
        path = os.path.join(top.path, inner)
        try:
            is_folder = stat.S_ISDIR(os.stat(path).st_mode)
            is_photo = _is_photo(path) if not is_folder else False
        except OSError as error:
            _check_root(root, error)
            _check_mounts(top, path)
            if _is_photo_name(inner):
                yield inner, "", root  # reading it says why not
            elif was_folder and not os.path.lexists(path):
                yield inner, "went away before it was looked at", root
            elif error.errno not in _LEADS_NOWHERE:  # it may be a folder full of photos
                yield inner or ".", "cannot be looked at (%s)" % error.strerror, root
            continue
        if not is_folder:
            if is_photo:
                yield inner, "", root
            else:
                _pass_over(passed_over, name)
            continue
        try:
            identity, entries = _identity(path), _sorted_entries(path)
        except OSError as error:
            _check_root(root, error)
            yield inner or ".", "cannot list this folder (%s)" % error.strerror, root
            continue
        if identity in above:
            yield inner, _LOOP, root
            continue
        if not inner:
            _check_root(top)  # another folder may have taken its place before its turn came
        elif identity[0] != root.identity[0]:
            root = Root(path, identity)
        # Now that it is listed: where a disk was mounted, an empty folder may be left, or nothing.
        _check_mounts(top, path)
        if _is_photo_name(inner):
            yield inner, "is a directory", root
        levels.append((inner, entries, above + (identity,), root))


_Entry = typing.Tuple[str, bool]  # a name in a folder; whether it is a folder itself, and no link to one


def _sorted_entries(folder):
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
    entries: typing.List[_Entry] = []
    end = None  # once there are too many: the last name that is still wanted
    for entry in _entries(folder):
        if entry[0] > last and (end is None or entry[0] < end):
            entries.append(entry)
            if len(entries) >= 2 * _AT_ONCE:
                entries.sort()
                del entries[_AT_ONCE:]
                end = entries[-1][0]
    entries.sort()
    if end is not None:
        del entries[_AT_ONCE:]
    return entries, end is not None


def _entries(folder):
    """Yields the entries of a folder in any order. Raises OSError."""
    with os.scandir(folder or os.curdir) as entries:
        for entry in entries:
            yield entry.name, entry.is_dir(follow_symlinks=False)  # is in the listing: the file is not looked at


def _names(folder):
    """Yields the names in a folder in any order. Raises OSError."""
    return (name for name, _ in _entries(folder))


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
        _check_root(root, error)


_TOO_MANY = object()


def _unsorted(top):
    """Yields once for each Item of a folder, in any order; _TOO_MANY when too many folders are still to be counted."""
    pending: typing.List[typing.Tuple[str, tuple]] = [(top, ())]  # (folder, identities of the folders above it)
    while pending:
        folder, above = pending.pop()
        try:
            identity = _identity(folder)
            if identity in above:
                yield folder
                continue
            inside = above + (identity,)
            with os.scandir(folder) as entries:
                if _is_photo_name(folder) and above:
                    yield folder
                for entry in entries:
                    if is_left_out(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and _is_folder(entry.path)):
                        pending.append((entry.path, inside))
                    elif _is_item(entry.path):
                        yield entry
        except OSError:
            yield folder
        if len(pending) > _AT_ONCE:
            yield _TOO_MANY


def _is_item(path):
    """Whether a file in a folder is an Item: a photo, or what cannot be looked at."""
    try:
        return _is_photo(path)
    except OSError as error:
        return error.errno not in _LEADS_NOWHERE


def _identity(folder):
    """Returns what a folder is whatever its name. Raises OSError."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_folder(path):
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False


def _standard_input(separator, stop):
    """Reads without the buffer of sys.stdin, so that waiting can be ended, and only as far as Items are wanted."""
    folders, rest = _Folders(), None
    for data in _pieces_of_input(separator, stop):
        if rest is None:
            rest = b""
            found = formats.format_of(data) if separator == b"\n" and b"\0" in data else ""
            if found:
                raise UsageError(
                    "standard input: holds a %s photo; expected names of files, one per line: "
                    "ls *.jpg | picnic-edge classify BUNDLE -" % found
                )
        if separator == b"\n" and b"\0" in data:
            raise UsageError("standard input: has NUL bytes; names that are separated by them need --null (-0)")
        lines = data.split(separator)
        lines[0] = rest + lines[0]
        rest = lines.pop() if data else b""
        if len(rest) > _NAME_BYTES:
            raise UsageError(
                "standard input: a name of more than %d bytes; names end with a newline (with --null: with NUL)"
                % _NAME_BYTES
            )
        for line in lines:
            name = os.fsdecode(line.rstrip(b"\r") if separator == b"\n" else line)
            if name:
                path = _slashed(name)
                yield _listed(name, path, "", folders.root_of(path))


def _pieces_of_input(separator, stop):
    """Yields what comes from standard input, b"" at its end; lists that Windows writes are made UTF-8."""
    file = sys.stdin.fileno()
    # What there is before the first whole name: there is no telling before whether this is UTF-16.
    start: typing.Optional[bytes] = b"" if separator == b"\n" else None
    decoder = None
    while stop is None or not stop.is_set():
        if not select.select([file], [], [], _STOP_EVERY_S)[0]:
            continue
        try:
            data = os.read(file, _READ_BYTES)
        except OSError as error:
            kind = StorageLost if error.errno in STORAGE_ERRORS else UsageError
            raise kind("standard input: cannot be read (%s)" % error.strerror)
        is_end = not data
        if start is not None:
            start += data
            if b"\n" not in start and not is_end and len(start) <= _NAME_BYTES:
                continue
            data, start = start, None
            if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and b"\0" in data:
                decoder = codecs.getincrementaldecoder("utf-16")("replace")
            elif data[:3] == codecs.BOM_UTF8:
                data = data[3:]
        if decoder is not None:
            data = decoder.decode(data, is_end).encode("utf-8")
        if data:
            yield data
        if is_end:
            yield b""
            return
