"""Labels that are likely wrong: confident learning (Northcutt et al., JAIR 2021, cleanlab) on the network's features.

Every photo is judged by a classifier that has not seen it: logistic regression on the features of a bundle's network,
trained on the other folds. How many labels are wrong is counted from the photos that it takes for another class with
the confidence it usually has in that class.
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

FOLDS = 5  # a class needs as many photos, so that four or more are there to learn it from
# Chosen on 2,936 photos of 81 products, 145 of them with a label drawn by chance, on the features of a frozen network:
# of 121 photos found, 118 are such; with cleanlab's default filter, prune_by_noise_rate, 109 of 156. With linear
# discriminant analysis instead all are found, among 450 photos.
_COMPONENTS = 128  # principal ones of the 2048 features, each scaled to variance 1: 3 s instead of minutes.
# At most one for two photos that are learned from: with one for each, all photos lie equally far apart, and 41 of 54
# right labels were found wrong (with half as many 0, and 6 of 9 planted ones in 3 trials, among 10).
_REGULARISATION = 0.1  # sklearn's C
_BATCH = 16

LabelIssue = typing.NamedTuple(
    "LabelIssue",
    [
        ("index", int),  # of the photo
        ("suggested", str),  # the class that the photo looks like
        ("self_confidence", float),  # probability of the given label, 0..1
        ("confidence", float),  # of the suggested one
    ],
)


def load():
    """Imports what find_issues needs. Raises MissingRequirement (exit code 4), so that it does before long work."""
    require("sklearn.linear_model")
    require("cleanlab.count")
    require("cleanlab.filter")


def compute_features(session, paths):
    """Runs a network over photos.

    Args:
        session: train.insight.inner.InnerSession with "features".
        paths: file names.

    Returns:
        (features, problems): float32 [n, features] of the n photos that can be read, in order; {path: why it cannot}.
    """
    problems = {}
    features = np.empty((0, 0), np.float32)
    count = 0

    def read(path):
        try:
            return read_image(path)
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
                found = session.run(np.stack(readable))[inner.FEATURES]
                if not count:  # of all photos at once: for a moment, joined pieces would take twice the memory
                    features = np.empty((len(paths), found.shape[1]), np.float32)
                features[count : count + len(found)] = found
                count += len(found)
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
    names, given = np.unique(labels, return_inverse=True)
    probabilities = _out_of_fold(features, given)
    # What later versions of cleanlab call filter_by="low_self_confidence": as many photos as confident learning counts
    # errors. One process: cleanlab otherwise forks one per core, of a program that has threads.
    count = require("cleanlab.count").num_label_issues(given, probabilities)
    ranked = require("cleanlab.filter").find_label_issues(
        given, probabilities, filter_by="predicted_neq_given", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    issues = []
    for index in ranked[:count].tolist():
        best = int(probabilities[index].argmax())
        confidences = float(probabilities[index, given[index]]), float(probabilities[index, best])
        issues.append(LabelIssue(index, str(names[best]), *confidences))
    return sorted(issues, key=lambda issue: (round(issue.self_confidence, 4), issue.index))


def _out_of_fold(features, given):
    """Returns float [n, classes]: the probabilities of each photo by a classifier trained on other folds."""
    folds = require("sklearn.model_selection").StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    learned_from = len(features) * (FOLDS - 1) // FOLDS
    components = min(_COMPONENTS, features.shape[1], max(1, learned_from // 2))
    classifier = require("sklearn.pipeline").make_pipeline(
        require("sklearn.decomposition").PCA(components, random_state=0),
        require("sklearn.preprocessing").StandardScaler(),
        require("sklearn.linear_model").LogisticRegression(C=_REGULARISATION, max_iter=100),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not fully converged is good enough to rank photos
        return require("sklearn.model_selection").cross_val_predict(
            classifier, features, given, cv=folds, method="predict_proba"
        )
