"""Labels that are likely wrong: confident learning (Northcutt et al., JAIR 2021, cleanlab) on the network's features.

Each photo is judged by a classifier that was not trained on it: logistic regression on the features of a bundle's
network, trained on the other folds. The number of wrong labels is estimated from the photos that it assigns to another
class with at least its usual confidence in that class.
"""

import collections
import concurrent.futures
import typing
import warnings

import numpy as np

from edge_runtime.console import progress
from edge_runtime.errors import ImageError
from edge_runtime.machine import cpu
from edge_runtime.machine.libraries import require
from edge_runtime.photos.read import read_image
from train.insight import inner

FOLDS = 5  # and the fewest photos of a class: four or more are left to learn it from
# Chosen on 2,936 photos of 81 products, 145 of them with a random label, on the features of a frozen network: of 121
# photos reported, 118 have a random label; with cleanlab's default filter, prune_by_noise_rate, 109 of 156. Linear
# discriminant analysis reports all 145, among 450 photos.
# Principal components of the 2048 features, each scaled to variance 1: 3 s instead of minutes. At most one for every
# two training photos: with one for each, all photos are equally far apart, and 41 of 54 right labels were reported as
# wrong; with half as many, 0 were, and 6 of 9 planted ones were reported in 3 trials, among 10.
_COMPONENTS = 128
_REGULARISATION = 0.1  # sklearn's C
_BATCH = 16


class LabelIssue(typing.NamedTuple):
    """A label that is likely wrong."""

    photo: int  # its index
    suggested: str  # the class that the photo looks like
    self_confidence: float  # probability of the photo's label, 0..1
    confidence: float  # of the suggested one


def load():
    """Imports the libraries of find_issues, to fail before long work. Raises MissingRequirement."""
    require("sklearn.linear_model")
    require("cleanlab.count")
    require("cleanlab.filter")


def compute_features(session, input_spec, paths):
    """Runs a network over photos.

    Args:
        session: train.insight.inner.InnerSession with "features".
        input_spec: edge_runtime.photos.spec.InputSpec of the network.
        paths: file names.

    Returns:
        (features, problems): float32 [n, features] of the n photos that can be read, in order; {path: reason} of the
        others.
    """
    problems = {}
    features = np.empty((0, 0), np.float32)
    count = 0

    def read(path):
        try:
            return read_image(path, input_spec)
        except ImageError as error:
            problems[path] = str(error)
            return None

    with concurrent.futures.ThreadPoolExecutor(cpu.core_count()) as pool, progress(
        total=len(paths), what="features"
    ) as bar:
        for start in range(0, len(paths), _BATCH):
            batch = paths[start : start + _BATCH]
            readable = [rgb for rgb in pool.map(read, batch) if rgb is not None]
            if readable:
                rows = session.run(np.stack(readable))[inner.FEATURES]
                if not count:  # one array for all photos: joining the batches would take twice the memory for a moment
                    features = np.empty((len(paths), rows.shape[1]), np.float32)
                features[count : count + len(rows)] = rows
                count += len(rows)
            bar.update(len(batch))
    return features[:count], problems


def unjudged_classes(labels):
    """Returns the sorted names of classes with fewer than FOLDS photos; all where fewer than two others remain."""
    counts = collections.Counter(labels)
    few = sorted(name for name, count in counts.items() if count < FOLDS)
    return few if len(counts) - len(few) > 1 else sorted(counts)


def find_issues(features, labels):
    """Finds labels that are likely wrong.

    Args:
        features: float32 [n, d].
        labels: list of n class names, two or more, each at least FOLDS times.

    Returns:
        list of LabelIssue, the least self-confident first.
    """
    names, indices = np.unique(labels, return_inverse=True)
    probabilities = _out_of_fold(features, indices)
    # Later versions of cleanlab call this filter_by="low_self_confidence": confident learning estimates the number of
    # errors, and as many of the least confident photos are returned. One process, because cleanlab would otherwise fork
    # a program that has threads.
    count = require("cleanlab.count").num_label_issues(indices, probabilities)
    ranked = require("cleanlab.filter").find_label_issues(
        indices, probabilities, filter_by="predicted_neq_given", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    issues = []
    for index in ranked[:count].tolist():
        best = int(probabilities[index].argmax())
        confidences = float(probabilities[index, indices[index]]), float(probabilities[index, best])
        issues.append(LabelIssue(index, str(names[best]), *confidences))
    return sorted(issues, key=lambda issue: (round(issue.self_confidence, 4), issue.photo))


def _out_of_fold(features, indices):
    """Returns float [n, classes]: each photo's probabilities by a classifier trained on the other folds."""
    folds = require("sklearn.model_selection").StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    training_photos = len(features) * (FOLDS - 1) // FOLDS
    components = min(_COMPONENTS, features.shape[1], max(1, training_photos // 2))
    classifier = require("sklearn.pipeline").make_pipeline(
        require("sklearn.decomposition").PCA(components, random_state=0),
        require("sklearn.preprocessing").StandardScaler(),
        require("sklearn.linear_model").LogisticRegression(C=_REGULARISATION, max_iter=100),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without full convergence it ranks photos well enough
        return require("sklearn.model_selection").cross_val_predict(
            classifier, features, indices, cv=folds, method="predict_proba"
        )
