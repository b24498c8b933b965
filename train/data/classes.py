"""Classes as numbers: the class index of each photo, the weight of each class."""

import numpy as np

_IMBALANCE = 5  # largest class to smallest, from which classes are weighted


def class_indices(photos, class_names):
    """Returns int [n]: where each photo's label stands in class_names."""
    index = {name: position for position, name in enumerate(class_names)}
    return np.array([index[photo.label] for photo in photos], int)


def class_weights(labels, class_count):
    """Returns float32 [class_count]: what a photo of each class counts, so that all classes count alike.

    The mean over the photos is 1. Where the largest class has at most _IMBALANCE times the photos of the smallest, all
    weights are 1.

    Args:
        labels: int [n], indices of classes, each at least once.
    """
    counts = np.bincount(labels, minlength=class_count)
    if counts.max() <= _IMBALANCE * counts.min():
        return np.ones(class_count, np.float32)
    return (len(labels) / (class_count * counts)).astype(np.float32)
