"""Did you mean: names like the one that is not there."""

import functools
import itertools
import os
import typing
import unicodedata

from edge_runtime.photos import formats
from edge_runtime.sources.listing import names_in

SUGGESTION = "; did you mean "  # begins a suggestion

_NEAR_NAMES = 10000  # in a folder that is searched for a name that was meant

_NEAR_FOLDERS = 4  # whose names are kept for that


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
    return f'{SUGGESTION}"{folder}"?{form}'


def _names_like(folder):
    """Returns {_alike(name or name without suffix): name} of what is in a folder; {} for one too large."""
    try:
        return _names_like_at(folder, os.stat(folder or os.curdir).st_mtime_ns)
    except OSError:
        return {}


@functools.lru_cache(maxsize=_NEAR_FOLDERS)
def _names_like_at(folder, _):
    names = sorted(itertools.islice(names_in(folder), _NEAR_NAMES + 1))
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
