"""What the name and the first bytes of a file say about it: a photo, a video, litter."""

import os
import shlex
import stat

from edge_runtime.errors import UsageError
from edge_runtime.files import suffix_of
from edge_runtime.photos import formats
from edge_runtime.sources import table_reader

_VIDEOS = "mp4 m4v mov avi mkv webm mpg mpeg ts mts m2ts wmv flv 3gp ogv"
VIDEO_SUFFIXES = tuple("." + name for name in _VIDEOS.split())

# Suffixes of files that are no photos: in a folder such a file is not even opened.
_NO_PHOTOS = (
    "txt md log rtf csv tsv json jsonl ndjson xml html htm css yaml yml ini cfg conf toml tex srt vtt "
    "parquet xlsx xlsm xls ods numbers db sqlite sqlite3 npy npz h5 hdf5 pkl mat "
    "gz bz2 xz zst iso dmg "
    "pdf doc docx odt ppt pptx odp epub ps eps ai svg psd xcf ico jp2 j2k jxl "
    "mp3 wav flac ogg m4a aac wma aae xmp thm lrv gpx kml "
    "py pyc ipynb c h cpp hpp js java class jar sh bat ps1 exe dll so a o apk deb rpm "
    "onnx pb pbtxt tflite engine plan pt pth safetensors "
    "nrw sr2 srf kdc dcr mrw x3f erf mef mos 3fr fff iiq rwl gpr"
)

_NO_PHOTO_SUFFIXES = frozenset(
    tuple("." + name for name in _NO_PHOTOS.split()) + formats.ARCHIVE_SUFFIXES + VIDEO_SUFFIXES + formats.RAW_SUFFIXES
)

# Files and folders that systems leave in folders; names in small letters.
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

# What an unfinished run of this product leaves there.
_OWN_SUFFIXES = tuple(suffix + ".partial" for suffix in (".tsv", ".csv", ".jsonl", ".parquet")) + (
    ".partial.json",
    ".partial.json.new",
    ".partial.lock",
    ".parquet.partial.parquet",  # while it is built from the rows
)

_MAX_SUFFIXES, _MAX_SUFFIX_LETTERS = 100, 12  # that are counted apart from each other, of what is passed over


def passed_over_text(passed_over):
    """Returns a Counter of suffixes as text, the most frequent first: "passed over: 3 .mp4, 1 without a suffix"."""
    if not passed_over:
        return ""
    counts = sorted(passed_over.items(), key=lambda one: (-one[1], one[0]))
    parts = [f"{count} {ascii(suffix)[1:-1] if suffix else 'without a suffix'}" for suffix, count in counts]
    text = "passed over: " + ", ".join(parts)
    if any(suffix in VIDEO_SUFFIXES for suffix in passed_over):
        text += " (to classify a video, give its own name)"
    return text


def is_litter(name):
    """Whether a name is one that systems, or our own unfinished runs, leave in folders."""
    small = name.lower()
    return small in _LITTER or small.startswith("._") or small.endswith(_OWN_SUFFIXES)


def is_left_out(name):
    """Whether a file or folder of this name, inside a folder, is ignored without a word: hidden, or litter."""
    return name.startswith(".") or is_litter(name)


def is_photo_name(path):
    """Whether a path has the suffix of a photo."""
    return suffix_of(path) in formats.SUFFIXES


def looks_like_photo(path):
    """Whether a file is a photo: by its suffix or, where that does not decide, by its first bytes. Raises OSError."""
    suffix = suffix_of(path)
    if suffix in formats.SUFFIXES or suffix in _NO_PHOTO_SUFFIXES:
        return suffix in formats.SUFFIXES
    return bool(formats.format_of(_start_of(path)))


def _start_of(path):
    """Returns the first bytes of a file; b"" of one that is not regular, which is not opened. Raises OSError."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        return b""
    # Non-blocking: by now it may have become a pipe.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return file.read(formats.START_BYTES)


def is_passed_over(path):
    """Whether a file that is one of several sources is neither a photo, nor a table, nor a video."""
    suffix = suffix_of(path)
    try:
        if is_photo_name(path) or os.path.isdir(path):
            return False
        start = _start_of(path)
    except OSError:  # the error of a missing source, or of its row, says why
        return False
    if suffix == ".txt":  # notes, unless its first line is a table's or names a photo
        try:
            next(table_reader.read_rows(path), None)
            return False
        except UsageError:
            return not is_photo_name(os.fsdecode(start.split(b"\n")[0].strip()))
    if (
        table_reader.is_table(path)
        or suffix in VIDEO_SUFFIXES
        or table_reader.other_kind(path, start).startswith("a video")
    ):
        return False
    return suffix in formats.RAW_SUFFIXES or not formats.format_of(start)


def pass_over(passed_over, path):
    """Counts a file that is no photo. Rare suffixes are counted together: there may be millions."""
    suffix = suffix_of(path)
    if len(suffix) > _MAX_SUFFIX_LETTERS or (suffix not in passed_over and len(passed_over) >= _MAX_SUFFIXES):
        suffix = "other"
    passed_over[suffix] += 1


def check_file(path):
    """Raises UsageError for a file, named as a source, that is no photo; if it is known what it is instead."""
    if is_photo_name(path):
        return
    try:
        start = _start_of(path)
    except OSError:  # its row says why
        return
    if suffix_of(path) in formats.RAW_SUFFIXES:  # many of them begin as a TIFF does, and hold a small preview first
        raise UsageError(f"{path}: is {formats.CAMERA_RAW}")
    if formats.format_of(start):
        return
    kind = table_reader.other_kind(path, start)
    if suffix_of(path) in VIDEO_SUFFIXES:
        kind = "a video; only `picnic-edge classify` reads videos, one at a time"
    if kind == "text":
        kind = (
            "text; the name of a table of photos ends in .tsv, .csv or .txt; a list of names goes to standard input: "
            f"picnic-edge classify BUNDLE - < {shlex.quote(path)}"
        )
    if not kind and suffix_of(path) in _NO_PHOTO_SUFFIXES:
        kind = f"another kind of file, by its suffix {suffix_of(path)}"
    if kind:
        raise UsageError(f"{path}: is no photo, but {kind}")
