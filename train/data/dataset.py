"""The photos of a training: read, checked, and split into training and validation photos."""

import collections
import os
import typing

from edge_runtime.console import say
from edge_runtime.errors import UsageError
from edge_runtime.text import printable
from train.data import checks, similarity, split
from train.data.labels import Photo, read_labels
from train.data.warnings import of_conflicts, of_counts, of_labels, of_leak, of_val_split, of_views


class Dataset(typing.NamedTuple):
    """Labelled photos to train with."""

    training: typing.List[Photo]
    validation: typing.List[Photo]
    class_names: typing.List[str]  # sorted
    sums: typing.Dict[str, str]  # {path: sha256 of the photo's bytes}, of these photos and others


def read_dataset(options):
    """Reads, checks and splits labelled photos. What is wrong with them is said on stderr.

    Args:
        options: as train.cli.train.parser parses them.

    Returns:
        Dataset: at least 2 classes, each with at least 2 photos.

    Raises:
        UsageError: too few photos can be used, or a table cannot be read. SomeInputsFailed: --strict, and some photos
            cannot be used. StorageLost: what they are read from is gone.
    """
    warnings: typing.List[dict] = []
    sums: typing.Dict[str, str] = {}
    fingerprints: typing.Dict[str, similarity.Fingerprint] = {}
    photos, problems = read_labels(options.labels, options.images, warnings)
    sources = [(options.labels, photos)]
    photos, unreadable = checks.check_photos(photos, sums, fingerprints)
    problems += unreadable
    if options.val:
        val_images = options.val_images if options.val_images is not None else options.images
        validation, val_problems = read_labels(options.val, val_images, warnings)
        sources.append((options.val, validation))
        validation, val_unreadable = checks.check_photos(validation, sums, fingerprints)
        validation, val_copies = checks.drop_copies(validation, sums)
        training, copies = checks.drop_copies(photos, sums)
        training, shared = checks.drop_shared(training, validation, sums)
        if len(shared) * 2 > len(validation):
            say("more than half of the validation photos are training photos: is --val-images missing?")
        training, small = checks.drop_small_classes(training)
        validation, unknown = checks.drop_unknown_labels(validation, {photo.label for photo in training})
        problems += val_problems + val_unreadable + val_copies + copies + shared + small + unknown
    else:
        photos, copies = checks.drop_copies(photos, sums)
        photos, small = checks.drop_small_classes(photos)
        problems += copies + small
        training, validation, split_warnings = _split(photos, fingerprints, options)
    every = training + validation
    similar = similarity.similar_groups([fingerprints[photo.path] for photo in every])
    groups = [[every[index] for index in group] for group in similar]
    if options.val:
        leaking = split.count_leaking(training, validation, groups)
        split_warnings = of_leak(leaking, len(validation), "picnic-edge explore with the same --val shows which")
        counts = collections.Counter(photo.label for photo in training)
        split_warnings += of_counts(counts, {photo.label for photo in validation})
    conflicts = [group for group in groups if len({photo.label for photo in group}) > 1]
    warnings += of_labels(sources) + split_warnings + of_conflicts(conflicts, "picnic-edge explore shows them")
    for warning in warnings:
        say("warning: " + printable(warning["text"]))
    checks.report_problems(problems, os.path.normpath(options.out) + ".problems.tsv", options.strict)
    class_names = sorted({photo.label for photo in training})
    if len(class_names) < 2:
        raise UsageError(
            f"{options.labels}: {len(training)} usable photos of {len(class_names)} classes; at least 2 classes with "
            "2 photos each are needed"
        )
    if not validation:
        raise UsageError(f"--val {options.val}: none of its photos can be used; the reasons are above")
    return Dataset(training, validation, class_names, sums)


def _split(photos, fingerprints, options):
    """Splits photos by --val-split. Returns (training, validation, warnings)."""
    labels = [photo.label for photo in photos]
    groups = similarity.frame_groups([fingerprints[photo.path] for photo in photos], labels)
    training, validation = split.split(photos, options.val_split, options.seed, groups)
    leaking = split.count_leaking(training, validation, [[photos[index] for index in group] for group in groups])
    if groups and not leaking:
        percent = 100 * len(validation) / len(photos)
        say(
            f"{sum(map(len, groups))} photos look like another photo of their class: each of their {len(groups)} "
            f"groups stays on one side of the split; validation: {percent:.1f} %"
        )
    counts = collections.Counter(labels)
    warnings = of_views(labels, groups)
    views = {label for warning in warnings for label in warning["labels"]}
    warnings += of_counts(counts, {photo.label for photo in validation} | views)
    warnings += of_leak(leaking, len(validation), "give photos of other places and days with --val")
    clamped = sum(int(round(options.val_split * count)) in (0, count) for count in counts.values())
    return training, validation, warnings + of_val_split(options.val_split, clamped, len(validation), len(photos))
