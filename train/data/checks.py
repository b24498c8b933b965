"""Checks of labelled photos: each photo can be used, or there is a reason against it."""

import collections
import concurrent.futures
import contextlib
import os
import typing

from edge_runtime import files
from edge_runtime.console import progress, say
from edge_runtime.errors import ImageError, SomeInputsFailed
from edge_runtime.machine import cpu
from edge_runtime.photos import memory_budget, spec
from edge_runtime.photos.read import read_photo
from edge_runtime.results import text_formats
from edge_runtime.sources import storage
from edge_runtime.sources.near_miss import SUGGESTION
from edge_runtime.text import printable
from train.data import similarity
from train.data.labels import Photo, labels_as_text, partition

_MAX_NAMES = 10  # of photos with the same problem that are printed; the file lists all of them


def check_photos(photos, sums, fingerprints=None):
    """Opens every photo.

    Args:
        photos: list of Photo.
        sums: dict; {path: sha256 of the bytes} is added to it.
        fingerprints: dict; {path: train.data.similarity.Fingerprint} is added to it. Or None.

    Returns:
        (readable photos, problems).

    Raises:
        StorageLost: the disk or folder they are read from disappeared.
    """
    memory_budget.decode_budget()  # a wrong setting is noticed before the first photo
    with concurrent.futures.ThreadPoolExecutor(cpu.core_count()) as pool:
        reasons = pool.map(lambda photo: _why_unreadable(photo, sums, fingerprints), photos)
        return partition(photos, progress(reasons, len(photos), "check photos"))


def drop_copies(photos, sums):
    """Sets aside copies, photos of the same bytes: they count once, and under several labels not at all.

    Args:
        photos: list of Photo.
        sums: {path: sha256 of its bytes}.

    Returns:
        (photos, problems).
    """
    labels: typing.Dict[str, set] = collections.defaultdict(set)
    first: typing.Dict[str, Photo] = {}
    for photo in photos:
        labels[sums[photo.path]].add(photo.label)
        first.setdefault(sums[photo.path], photo)
    reasons = []
    for photo in photos:
        copy_labels = labels[sums[photo.path]]
        if len(copy_labels) > 1:
            reasons.append(f"has copies under several labels: {labels_as_text(copy_labels)}")
        else:
            reasons.append("" if first[sums[photo.path]] is photo else "is a copy of another photo: counted once")
    return partition(photos, reasons)


def drop_small_classes(photos, min_photos=2):
    """Sets aside classes with fewer than min_photos photos. Returns (photos, problems)."""
    counts = collections.Counter(photo.label for photo in photos)
    too_few = {
        label: f"class {label!r} has {count} usable photo, {min_photos} are needed"
        for label, count in counts.items()
        if count < min_photos
    }
    return partition(photos, (too_few.get(photo.label, "") for photo in photos))


def drop_shared(photos, validation, sums):
    """Sets aside training photos that are validation photos too, byte by byte. Returns (photos, problems)."""
    held_out = {sums[photo.path] for photo in validation}
    reason = "is a validation photo too: left out of training"
    return partition(photos, (reason if sums[photo.path] in held_out else "" for photo in photos))


def drop_unknown_labels(photos, class_names):
    """Sets aside photos whose label is none of class_names. Returns (photos, problems)."""
    unknown = {photo.label for photo in photos}.difference(class_names)
    reasons = {label: f"label {label!r} is not among the training classes" for label in unknown}
    return partition(photos, (reasons.get(photo.label, "") for photo in photos))


def report_problems(problems, path, strict):
    """Lists photos that cannot be used: the first of each kind on stderr, all of them in a file.

    Args:
        problems: list of Problem.
        path: TSV to write all of them to; None for none.
        strict: raise SomeInputsFailed if there is any.

    Raises:
        SomeInputsFailed: see strict. UsageError: path cannot be written.
    """
    if path:
        with contextlib.suppress(OSError):
            files.remove(path)  # an earlier run's
    if not problems:
        return
    by_kind = collections.defaultdict(list)
    for problem in problems:
        what, _, name = problem.what.partition(SUGGESTION)  # which differs from photo to photo
        by_kind[what].append(printable(problem.file) + (f" (did you mean {name})" if name else ""))
    say(f"{len(problems)} {'photo' if len(problems) == 1 else 'photos'} cannot be used:")
    for what, names in sorted(by_kind.items(), key=lambda kind: -len(kind[1])):
        more = f", and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        say(f"  {len(names)}: {what}: {', '.join(names[:_MAX_NAMES])}{more}")
    if path:
        with files.named(path):
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            with files.atomic_file(path) as file:
                write = text_formats.tsv_writer(file, ["file", "problem"])
                for problem in problems:
                    write(problem)
        say(f"  the whole list: {path}")
    if strict:
        raise SomeInputsFailed(f"--strict: {len(problems)} labelled photos cannot be used (listed above)")


def _why_unreadable(photo, sums, fingerprints):
    try:
        # At this size for every network: the limits of what looks alike depend on it.
        content = read_photo(photo.path, spec.INCEPTION_V3)
        sums[photo.path] = content.sha256
        if fingerprints is not None:
            fingerprints[photo.path] = similarity.fingerprint(content.picture, content.sha256)
    except ImageError as error:
        return storage.reason_of(photo, error)
    return ""
