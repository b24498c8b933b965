"""Which of the listed photos can be used, and what is wrong with the others."""

import collections
import concurrent.futures
import contextlib
import os
import typing

from edge_runtime import files
from edge_runtime.console import progress, say
from edge_runtime.errors import ImageError, SomeInputsFailed
from edge_runtime.machine import cpu
from edge_runtime.photos import memory_budget
from edge_runtime.photos.read import read_photo
from edge_runtime.results import text_formats
from edge_runtime.sources import storage
from edge_runtime.text import printable
from train.data import similarity
from train.data.labels import Photo, labels_as_text, partition

_SHOWN = 10  # problems of one kind that are spelled out on the screen; the file has them all


def check_photos(photos, sums, fingerprints=None):
    """Opens every photo.

    Args:
        photos: list of Photo.
        sums: dict that {path: sha256 of the bytes} is entered into.
        fingerprints: dict that {path: train.data.similarity.Fingerprint} is entered into, or None.

    Returns:
        (readable photos, problems).

    Raises:
        StorageLost: what they are read from went away.
    """
    memory_budget.decode_budget()  # a wrong setting is noticed before the first photo
    with concurrent.futures.ThreadPoolExecutor(cpu.core_count()) as pool:
        reasons = pool.map(lambda photo: _why_unreadable(photo, sums, fingerprints), photos)
        return partition(photos, progress(reasons, len(photos), "check photos"))


def drop_copies(photos, sums):
    """Sets aside photos of the same bytes: copies count once, and copies under several labels not at all.

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
        own = labels[sums[photo.path]]
        if len(own) > 1:
            reasons.append(f"has copies under several labels: {labels_as_text(own)}")
        else:
            reasons.append("is a copy of another photo: counted once" * (first[sums[photo.path]] is not photo))
    return partition(photos, reasons)


def drop_small_classes(photos, least=2):
    """Sets aside classes with fewer than `least` photos. Returns (photos, problems)."""
    counts = collections.Counter(photo.label for photo in photos)
    few = {
        label: f"class {label!r} has {count} usable photo, {least} are needed"
        for label, count in counts.items()
        if count < least
    }
    return partition(photos, (few.get(photo.label, "") for photo in photos))


def drop_shared(photos, validation, sums):
    """Sets aside training photos that are validation photos too, byte by byte. Returns (photos, problems)."""
    held_out = {sums[photo.path] for photo in validation}
    reason = "is a validation photo too: left out of training"
    return partition(photos, (reason * (sums[photo.path] in held_out) for photo in photos))


def drop_unknown_labels(photos, class_names):
    """Sets aside photos whose label is none of class_names. Returns (photos, problems)."""
    reason = "label %r is not among the training classes"
    return partition(photos, ("" if photo.label in class_names else reason % photo.label for photo in photos))


def report_problems(problems, path, strict):
    """Names what was set aside: on the screen in short, in a file in full.

    Args:
        problems: list of Problem.
        path: TSV to write all of them to; None for the screen alone.
        strict: raise SomeInputsFailed when there is any.

    Raises:
        SomeInputsFailed: as strict asks. UsageError: path cannot be written.
    """
    if path:
        with contextlib.suppress(OSError):
            files.remove(path)  # an earlier run's
    if not problems:
        return
    by_kind = collections.defaultdict(list)
    for problem in problems:
        what, _, meant = problem.what.partition("; did you mean ")  # which differs from photo to photo
        by_kind[what].append(printable(problem.file) + (f" (did you mean {meant})" if meant else ""))
    say(f"{len(problems)} {'photo' if len(problems) == 1 else 'photos'} cannot be used:")
    for what, names in sorted(by_kind.items(), key=lambda kind: -len(kind[1])):
        more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        say(f"  {len(names)}: {what}: {', '.join(names[:_SHOWN])}{more}")
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
        read = read_photo(photo.path)
        sums[photo.path] = read.sha256
        if fingerprints is not None:
            fingerprints[photo.path] = similarity.fingerprint(read.picture, read.sha256)
    except ImageError as error:
        return storage.reason_of(photo, error)
    return ""
