"""The photos of a training: read, checked and split into training and validation photos, with warnings."""

import collections
import os
import typing

from edge_runtime.console import say
from edge_runtime.errors import UsageError
from edge_runtime.text import printable
from train.data import checks, similarity, split
from train.data.labels import read_labels
from train.data.warnings import of_conflicts, of_counts, of_labels, of_leak, of_val_split, of_views


def read_dataset(options, sums):
    """Reads, checks and splits the labelled photos of the options. Returns (training, validation) lists of Photo.

    Enters {path: sha256 of the photo's bytes} into sums.
    """
    warnings: typing.List[dict] = []
    fingerprints: typing.Dict[str, similarity.Fingerprint] = {}
    photos, problems = read_labels(options.labels, options.images, warnings)
    listed = [(options.labels, photos)]
    photos, unreadable = checks.check_photos(photos, sums, fingerprints)
    problems += unreadable
    if options.val:
        val_images = options.val_images if options.val_images is not None else options.images
        validation, val_problems = read_labels(options.val, val_images, warnings)
        listed.append((options.val, validation))
        validation, val_unreadable = checks.check_photos(validation, sums, fingerprints)
        validation, val_copies = checks.drop_copies(validation, sums)
        photos, copies = checks.drop_copies(photos, sums)
        photos, shared = checks.drop_shared(photos, validation, sums)
        if len(shared) * 2 > len(validation):
            say("more than half of the validation photos are training photos: is --val-images missing?")
        photos, small = checks.drop_small_classes(photos)
        validation, unknown = checks.drop_unknown_labels(validation, {photo.label for photo in photos})
        problems += val_problems + val_unreadable + val_copies + copies + shared + small + unknown
    else:
        photos, copies = checks.drop_copies(photos, sums)
        photos, small = checks.drop_small_classes(photos)
        problems += copies + small
        photos, validation, of_split = _split(photos, fingerprints, options)
    every = photos + validation
    alike = similarity.similar_groups([fingerprints[photo.path] for photo in every])
    groups = [[every[index] for index in group] for group in alike]
    if options.val:
        leaking = split.count_leaking(photos, validation, groups)
        of_split = of_leak(leaking, len(validation), "picnic-edge explore with the same --val shows which")
        counts = collections.Counter(photo.label for photo in photos)
        of_split += of_counts(counts, {photo.label for photo in validation})
    conflicts = [group for group in groups if len({photo.label for photo in group}) > 1]
    warnings += of_labels(listed) + of_split + of_conflicts(conflicts, "picnic-edge explore shows them")
    for warning in warnings:
        say("warning: " + printable(warning["text"]))
    checks.report_problems(problems, os.path.normpath(options.out) + ".problems.tsv", options.strict)
    if len({photo.label for photo in photos}) >= 2 and not validation:
        raise UsageError(f"--val {options.val}: none of its photos can be used; the reasons are above")
    if len({photo.label for photo in photos}) < 2:
        raise UsageError(
            "%s: %d usable photos of %d classes; at least 2 classes with 2 photos each are needed"
            % (options.labels, len(photos), len({photo.label for photo in photos}))
        )
    return photos, validation


def _split(photos, fingerprints, options):
    """Splits photos by --val-split. Returns (training, validation, warnings)."""
    labels = [photo.label for photo in photos]
    groups = similarity.frame_groups([fingerprints[photo.path] for photo in photos], labels)
    training, validation = split.split(photos, options.val_split, options.seed, groups)
    leaking = split.count_leaking(training, validation, [[photos[index] for index in group] for group in groups])
    if groups and not leaking:
        say(
            "%d photos look like another of their class: each of their %d groups is kept on one side of the split; "
            "validation: %.1f %%" % (sum(map(len, groups)), len(groups), 100.0 * len(validation) / len(photos))
        )
    counts = collections.Counter(labels)
    warnings = of_views(labels, groups)
    views = {label for warning in warnings for label in warning["labels"]}
    warnings += of_counts(counts, {photo.label for photo in validation} | views)
    warnings += of_leak(leaking, len(validation), "give photos of other places and days with --val")
    clamped = sum(int(round(options.val_split * count)) in (0, count) for count in counts.values())
    return training, validation, warnings + of_val_split(options.val_split, clamped, len(validation), len(photos))
