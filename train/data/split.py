"""The split into training and validation photos, and the id of the result."""

import collections
import hashlib
import json
import typing

import numpy as np


def split(photos, share, seed, groups=()):
    """Splits photos class by class; photos that look alike stay on one side.

    A class that is a single group stays in training. If that leaves more than half of the classes without a validation
    photo, the groups are ignored: the model could not be validated.

    Args:
        photos: every class has at least 2.
        share: the share of each class that goes to validation, 0..1, as closely as whole groups allow. A class of
            two groups or more has at least 1 photo on either side.
        seed: the same photos and seed give the same split.
        groups: lists of indices of photos of one class that look alike (train.data.similarity.frame_groups).

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
        missing = wanted = _held_out_count(len(by_label[label]), share)
        larger = []
        for group in order:
            if len(group) <= missing:
                held_out.update(group)
                missing -= len(group)
            else:
                larger.append(group)
        smallest = min(larger, key=len) if missing and len(larger) > 1 else []
        # One more group: because the class has no validation photo yet, or because the share is then closer.
        if missing == wanted or len(smallest) < 2 * missing:
            held_out.update(smallest)
            missing -= len(smallest)
        unvalidated += missing == wanted
    if 2 * unvalidated > len(by_label) and groups:
        return split(photos, share, seed)
    training = [photo for index, photo in enumerate(photos) if index not in held_out]
    return training, [photos[index] for index in sorted(held_out)]


def count_leaking(training, validation, groups):
    """Returns how many validation photos share a group with a training photo. groups: lists of Photo."""
    in_training, in_validation = set(training), set(validation)
    return sum(len(in_validation.intersection(group)) for group in groups if not in_training.isdisjoint(group))


def dataset_id(training, validation, sums, ordered=False):
    """Returns an id of the photos' bytes, labels and split; of their order too if `ordered`."""
    parts = [[(sums[photo.path], photo.label) for photo in photos] for photos in (training, validation)]
    parts = parts if ordered else [sorted(part) for part in parts]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _held_out_count(count, share):
    """Returns how many of a class's photos (2 or more) go to validation: at least 1 stays on either side."""
    return min(max(1, int(round(share * count))), count - 1)
