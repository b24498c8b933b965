"""Did you mean: finds a name like the one that is missing."""

import functools
import itertools
import os
import typing
import unicodedata

from edge_runtime.photos import formats
from edge_runtime.sources.listing import names_in

SUGGESTION = "; did you mean "  # begins a suggestion
MAX_NAMES = 10000  # in a folder that is searched
_MAX_FOLDERS = 4  # whose names are kept


def near_miss(path):
    """Returns '; did you mean "X"?' for a missing file if its folder has one with a similar name, else "".

    Similar is the same name in another Unicode form, in capital or small letters, with backslashes, or with the suffix
    of a photo. Folders with more than 10,000 names are not searched. The answer depends on the files alone.
    """
    if os.path.lexists(path):
        return ""
    folder = path.replace("\\", "/").rstrip("/")
    missing: typing.List[str] = []
    while folder and not os.path.isdir(folder) and len(missing) < 10:
        folder, name = os.path.split(folder)
        missing.insert(0, name)
    for name in missing:
        similar = _similar_names(folder).get(_simplify(name))
        if similar is None:
            return ""
        folder = os.path.join(folder, similar)
    if not os.path.lexists(folder) or folder == path:
        return ""
    form = ""
    if unicodedata.normalize("NFC", folder) == unicodedata.normalize("NFC", path):
        form = " (the same letters in another Unicode form)"
    return f'{SUGGESTION}"{folder}"?{form}'


def _similar_names(folder):
    """Returns {_simplify(name or name without suffix): name} for the names in a folder; {} for one too large."""
    try:
        return _similar_names_at(folder, os.stat(folder or os.curdir).st_mtime_ns)
    except OSError:
        return {}


@functools.lru_cache(maxsize=_MAX_FOLDERS)
def _similar_names_at(folder, _):
    names = sorted(itertools.islice(names_in(folder), MAX_NAMES + 1))
    if len(names) > MAX_NAMES:
        return {}
    similar: typing.Dict[str, str] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in formats.SUFFIXES:
            similar.setdefault(_simplify(stem), name)
    # A whole name wins over one without its suffix.
    similar.update((_simplify(name), name) for name in reversed(names))
    return similar


def _simplify(name):
    return unicodedata.normalize("NFC", name).casefold()
