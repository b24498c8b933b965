"""Labelled photos: reading them from a TSV or from class folders, checking them, splitting them."""

import collections
import concurrent.futures
import contextlib
import hashlib
import json
import os
import typing

import numpy as np

from edge_runtime import files
from edge_runtime.bundle import bundle
from edge_runtime.cli.command import progress, say
from edge_runtime.errors import ImageError, SomeInputsFailed, UsageError
from edge_runtime.machine import machine
from edge_runtime.photos import formats, images, memory
from edge_runtime.sources import sources, tables
from edge_runtime.text import printable
from train.data import photo_facts, warn


class Photo(typing.NamedTuple):
    """A labelled photo."""

    file: str
    path: str
    label: str
    root: typing.Optional[sources.Root] = None  # what it is read from, see edge_runtime.sources.sources.reason_of


Problem = typing.NamedTuple("Problem", [("file", str), ("what", str)])

# Pictures that phones, cameras and scanners make and that nothing here decodes.
_OTHER_SUFFIXES = formats.RAW_SUFFIXES + (".jp2", ".jxl")
IMBALANCE = 5  # largest class to smallest, from which classes are weighted
_SHOWN = 10  # problems of one kind that are spelled out on the screen; the file has them all


def read_labels(source, images_folder=None, warnings=None):
    """Reads labelled photos and sets aside rows that cannot be used.

    Args:
        source: table with the columns `file` and `label`, or a folder of class folders (the label is the folder's
            name relative to source, so that nested classes are told apart).
        images_folder: where a table's file names start (default: the table's folder).
        warnings: list that one about a TSV that is not UTF-8 is added to (train/data/warn.py), or None.

    Returns:
        (photos, problems): lists of Photo and Problem. No photo was opened yet.

    Raises:
        UsageError: the source cannot be read, or a table lacks a column. StorageLost: it went away on the way.
    """
    rows, reasons = [], []
    if os.path.isdir(source):
        why_no_class: typing.Dict[str, str] = {}
        items = sources.open_source(source)
        for item in items:
            label = os.path.dirname(item.name)
            rows.append(Photo(item.name, item.path, label, item.root))
            if label not in why_no_class:
                why_no_class[label] = _why_no_class(source, label)
            reasons.append(item.problem or why_no_class[label])
        others = _other_pictures(source)
        for name in others:
            rows.append(Photo(name, os.path.join(source, name), os.path.dirname(name)))
            reasons.append("%s is no format that can be read; convert it to JPEG or PNG" % os.path.splitext(name)[1])
        unnamed = items.passed_over - collections.Counter(os.path.splitext(name)[1].lower() for name in others)
        if unnamed:
            say("%s: %s" % (source, sources.passed_over_text(unnamed)))
    elif not os.path.lexists(source):
        raise UsageError("%s: no such table or folder" % source)
    else:
        folder = sources.images_folder_of(source, images_folder)
        undecoded = None
        for row, path, root in sources.table_rows(source, folder, need_label=True):
            rows.append(Photo(row.file or "line %d" % row.line, path, row.label, root))
            reasons.append(row.problem)
            if undecoded is None and warn.is_undecoded(row.label, row.file, rows[-1].path):
                undecoded = row
        if undecoded and warnings is not None:
            warnings.append(warn.of_encoding(source, undecoded))
    listed, problems = _partition(rows, reasons)
    photos, repeated = _partition(listed, _repeats(listed))
    return photos, problems + repeated


def check_photos(photos, sums, likeness=None):
    """Opens every photo.

    Args:
        photos: list of Photo.
        sums: dict that {path: sha256 of the bytes} is entered into.
        likeness: dict that {path: train.data.photo_facts.Likeness} is entered into, or None.

    Returns:
        (readable photos, problems).

    Raises:
        StorageLost: what they are read from went away.
    """
    memory.decode_budget()  # a wrong setting is noticed before the first photo
    with concurrent.futures.ThreadPoolExecutor(machine.core_count()) as pool:
        reasons = pool.map(lambda photo: _why_unreadable(photo, sums, likeness), photos)
        return _partition(photos, progress(reasons, len(photos), "check photos"))


def drop_copies(photos, sums):
    """Sets aside photos of the same bytes: copies count once, and copies under several labels not at all.

    Args:
        photos: list of Photo.
        sums: {path: sha256 of its bytes}.

    Returns:
        (photos, problems).
    """
    labels, first = collections.defaultdict(set), {}  # type: typing.Dict[str, set], typing.Dict[str, Photo]
    for photo in photos:
        labels[sums[photo.path]].add(photo.label)
        first.setdefault(sums[photo.path], photo)
    reasons = []
    for photo in photos:
        own = labels[sums[photo.path]]
        if len(own) > 1:
            reasons.append("has copies under several labels: %s" % _listed(own))
        else:
            reasons.append("is a copy of another photo: counted once" * (first[sums[photo.path]] is not photo))
    return _partition(photos, reasons)


def drop_small_classes(photos, least=2):
    """Sets aside classes with fewer than `least` photos. Returns (photos, problems)."""
    counts = collections.Counter(photo.label for photo in photos)
    few = {
        label: "class %r has %d usable photo, %d are needed" % (label, count, least)
        for label, count in counts.items()
        if count < least
    }
    return _partition(photos, (few.get(photo.label, "") for photo in photos))


def drop_shared(photos, validation, sums):
    """Sets aside training photos that are validation photos too, byte by byte. Returns (photos, problems)."""
    held_out = {sums[photo.path] for photo in validation}
    reason = "is a validation photo too: left out of training"
    return _partition(photos, (reason * (sums[photo.path] in held_out) for photo in photos))


def drop_unknown_labels(photos, class_names):
    """Sets aside photos whose label is none of class_names. Returns (photos, problems)."""
    reason = "label %r is not among the training classes"
    return _partition(photos, ("" if photo.label in class_names else reason % photo.label for photo in photos))


def split(photos, share, seed, groups=()):
    """Splits photos class by class; photos that look alike go to the same side.

    A class that is one group stays in training. Where that leaves more than half of the classes without a validation
    photo, what is learned could not be judged: the groups then count for nothing.

    Args:
        photos: every class has at least 2.
        share: of each class that goes to validation, 0..1, as nearly as whole groups allow; at least 1 photo stays on
            either side.
        seed: same seed, same photos: same split.
        groups: lists of indices of photos of one class that look alike (train.data.photo_facts.groups_of_frames).

    Returns:
        (training photos, validation photos), both in the order of photos.
    """
    random = np.random.RandomState(seed)
    by_label = collections.defaultdict(list)
    for index, photo in enumerate(photos):
        by_label[photo.label].append(index)
    group_of = {index: group for group in groups for index in group}
    held_out: typing.Set[int] = set()
    unvalidated = 0
    for label in sorted(by_label):
        order = [group_of.get(index, [index]) for index in random.permutation(by_label[label]).tolist()]
        order = list(collections.OrderedDict((group[0], group) for group in order).values())  # each once
        missing = wanted = held_out_count(len(by_label[label]), share)
        left = []
        for group in order:
            if len(group) <= missing:
                held_out.update(group)
                missing -= len(group)
            else:
                left.append(group)
        smallest = min(left, key=len) if missing and len(left) > 1 else []
        if missing == wanted or len(smallest) < 2 * missing:  # one that is too large is nearer to the share, or needed
            held_out.update(smallest)
            missing -= len(smallest)
        unvalidated += missing == wanted
    if 2 * unvalidated > len(by_label) and groups:
        return split(photos, share, seed)
    training = [photo for index, photo in enumerate(photos) if index not in held_out]
    return training, [photos[index] for index in sorted(held_out)]


def held_out_count(count, share):
    """Returns how many of a class's photos (2 or more) go to validation: at least 1 stays on either side."""
    return min(max(1, int(round(share * count))), count - 1)


def count_leaking(training, validation, groups):
    """Returns how many validation photos are in a group with a training photo. groups: lists of Photo."""
    known, judged = set(training), set(validation)
    return sum(len(judged.intersection(group)) for group in groups if not known.isdisjoint(group))


def class_indices(photos, class_names):
    """Returns int [n]: where each photo's label stands in class_names."""
    index = {name: position for position, name in enumerate(class_names)}
    return np.array([index[photo.label] for photo in photos], int)


def identity(training, validation, sums, ordered=False):
    """Returns a name for what is learned from: the photos' bytes, labels and split; their order too if `ordered`."""
    parts = [[(sums[photo.path], photo.label) for photo in photos] for photos in (training, validation)]
    parts = parts if ordered else [sorted(part) for part in parts]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def class_weights(labels, class_count):
    """Returns float32 [class_count]: what a photo of each class counts, so that all classes count alike.

    The mean over the photos is 1. Where the largest class has at most IMBALANCE times the photos of the smallest, all
    weights are 1.

    Args:
        labels: int [n], indices of classes, each at least once.
    """
    counts = np.bincount(labels, minlength=class_count)
    if counts.max() <= IMBALANCE * counts.min():
        return np.ones(class_count, np.float32)
    return (len(labels) / (class_count * counts)).astype(np.float32)


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
        by_kind[what].append(printable(problem.file) + (" (did you mean %s)" % meant if meant else ""))
    say("%d %s cannot be used:" % (len(problems), "photo" if len(problems) == 1 else "photos"))
    for what, names in sorted(by_kind.items(), key=lambda kind: -len(kind[1])):
        more = ", and %d more" % (len(names) - _SHOWN) if len(names) > _SHOWN else ""
        say("  %d: %s: %s%s" % (len(names), what, ", ".join(names[:_SHOWN]), more))
    if path:
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            with files.whole_file(path) as file:
                write = tables.row_writer(file, ["file", "problem"], ".tsv")
                for problem in problems:
                    write(problem)
        except OSError as error:
            raise UsageError("%s: the list of these photos cannot be written (%s)" % (path, error.strerror))
        say("  the whole list: %s" % path)
    if strict:
        raise SomeInputsFailed("--strict: %d labelled photos cannot be used (listed above)" % len(problems))


def _why_no_class(source, label):
    """Returns why photos in the folder source/label have no label, "" where they have: the folder's name."""
    parts = label.split("/")
    if not label:
        return "lies in no class folder"
    places = (os.path.join(source, *parts[: depth + 1]) for depth in range(len(parts)))
    return "lies in a bundle" if any(map(bundle.is_bundle, places)) else ""


def _listed(labels):
    return ", ".join(printable(label) for label in sorted(labels))


def _other_pictures(folder):
    """Returns the names of pictures below a folder that the walk over photos passes by, relative to it and sorted."""
    names = []
    for place, folders, found in os.walk(folder):
        folders[:] = [name for name in folders if not sources.is_left_out(name)]
        found = [name for name in found if name.lower().endswith(_OTHER_SUFFIXES) and not sources.is_left_out(name)]
        names += [os.path.join(place, name) for name in found]
    return sorted(os.path.relpath(name, folder) for name in names)


def _partition(photos, reasons):
    """Returns (photos without a reason against them, Problems of the others)."""
    good: typing.List[Photo] = []
    problems: typing.List[Problem] = []
    for photo, reason in zip(photos, reasons):
        if reason:
            problems.append(Problem(photo.file, reason))
        else:
            good.append(photo)
    return good, problems


def _repeats(photos):
    """Yields a reason per photo: one listed twice counts once, one under two labels is not to be trusted at all."""
    labels = collections.defaultdict(set)
    for photo in photos:
        labels[os.path.normpath(photo.path)].add(photo.label)
    seen = set()
    for photo in photos:
        path = os.path.normpath(photo.path)
        if len(labels[path]) > 1:
            yield "is listed under several labels: %s" % _listed(labels[path])
        else:
            yield "is listed more than once: counted once" if path in seen else ""
        seen.add(path)


def _why_unreadable(photo, sums, likeness):
    try:
        read = images.read_photo(photo.path)
        sums[photo.path] = read.sha256
        if likeness is not None:
            likeness[photo.path] = photo_facts.likeness(read.picture, read.sha256)
    except ImageError as error:
        return sources.reason_of(photo, error)
    return ""
