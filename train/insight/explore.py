"""What is in labelled photos, and what is wrong with them: the document explore.json of `picnic-edge explore`.

Its keys ("photo" stands for {"split", "file", "label"}):

warnings           likely mistakes: kind, text (one line), and the facts that train/data/warnings.py lists for each kind
splits             per split ("train", "val"): name, listed (rows or files), readable, classes, largest_class,
                   smallest_class, imbalance (photos of the largest class divided by those of the smallest), all three
                   null without photos; missing_classes (that only the other split has)
classes            label and, by split, the number of readable photos (0 where none can be read), sorted by label
leaking_val_photos how many val photos have a copy, or a photo that looks the same, in train
duplicates         groups: kind ("exact": the same bytes; "alike": the same picture in other bytes; exact copies of its
                   photos are in it too), photos, bits_apart (most bits of 256 between the first's perceptual hash and
                   another's), across_splits, several_labels; the worst first
problems           split, file, problem: rows that cannot be used, photos that cannot be read
wrong_suffixes     photo, format: that of its bytes, where its suffix is of another one
uniform            photo, value: standard deviation of grey at 64 x 64, 0..255
dark, bright       those not uniform: photo, value: 95th and 5th percentile of grey, 0..255
blurred            those in none of these lists: photo, value: variance of the Laplacian at 299 x 299
thresholds         of the flaws and of "alike" (train/data/photo_facts.py and similarity.py give the reasons)
formats            {format by the bytes: photos}
turned             photos that are stored turned or mirrored, with an EXIF note
common_sizes       width, height, photos: the ten most common sizes, upright, in pixels
widths, heights, aspect_ratios, sizes_bytes
                   least, median, most; histogram: edges (n + 1), photos (n, between two edges each); null without
                   photos. An aspect ratio is width / height
label_check        null without --bundle; else bundle_id, judged (photos), fine_tuned_on (those of them that the bundle
                   says its network was fine-tuned on), unjudged_classes (too few photos), issues: photo, suggested
                   (label), self_confidence (probability of its label), confidence (of the suggested one), both
                   0..1; the least self-confident first

In a name that is not UTF-8 the odd bytes are written as \\xff; file_bytes beside file has the name's bytes in base64.
Lists are in a fixed order, each split sorted by file: the same photos give the same bytes.
"""

import collections
import concurrent.futures
import typing

import numpy as np

from edge_runtime.console import progress, say
from edge_runtime.errors import ImageError, UsageError
from edge_runtime.files import suffix_of
from edge_runtime.machine import cpu
from edge_runtime.photos import formats
from edge_runtime.sources.storage import reason_of
from train.data import photo_facts, similarity
from train.data.labels import Photo, read_labels
from train.data.warnings import of_conflicts, of_counts, of_labels, of_leak, of_sources, of_views
from train.insight import label_errors

TRAIN, VAL = "train", "val"
FLAWS = ("dark", "bright", "blurred", "uniform")
BINS = 30  # of the histograms
_COMMON_SIZES = 10


class ReadablePhoto(typing.NamedTuple):
    """A photo that could be read."""

    split: str  # TRAIN or VAL
    photo: Photo
    facts: photo_facts.PhotoFacts


def read_splits(sources):
    """Reads labelled photos; none is opened yet.

    Args:
        sources: [(split, table or folder, folder where a table's file names start or None)].

    Returns:
        ({split: its Photos, sorted}, problems, warnings): of the form that they have in the document.

    Raises:
        UsageError: a source cannot be read or has no row.
    """
    splits, problems = collections.OrderedDict(), []
    warnings: typing.List[dict] = []
    for split, source, folder in sources:
        photos, unusable = read_labels(source, folder, warnings)
        if not photos and not unusable:
            raise UsageError(
                f"{source}: no labelled photo in it; expected a table with rows below its header file<TAB>label, or a "
                "folder of class folders with photos"
            )
        splits[split] = sorted(photos)
        problems += [_problem(split, problem.file, problem.what) for problem in sorted(unusable)]
    return splits, problems, warnings + of_labels([(source, splits[split]) for split, source, _ in sources])


def look_at_photos(splits):
    """Opens every photo.

    Args:
        splits: {split: list of Photo}.

    Returns:
        (list of ReadablePhoto, problems of the others), both in the order of the photos.

    Raises:
        StorageLost: what they are read from went away.
    """
    pairs = [(split, photo) for split, photos in splits.items() for photo in photos]
    readable, problems = [], []
    with concurrent.futures.ThreadPoolExecutor(cpu.core_count()) as pool:
        results = progress(pool.map(_look_at, (photo for _, photo in pairs)), len(pairs), "look at photos")
        for (split, photo), (facts, problem) in zip(pairs, results):
            if facts is None:
                problems.append(_problem(split, photo.file, problem))
            else:
                readable.append(ReadablePhoto(split, photo, facts))
    return readable, problems


def document_of(readable, splits, problems, warnings):
    """Returns what explore.json holds, with "label_check" null.

    Args:
        readable: list of ReadablePhoto.
        splits: {split: list of Photo that were to be opened}.
        problems: dicts of split, file, problem.
        warnings: those of read_splits.
    """
    counts = {split: collections.Counter(one.photo.label for one in readable if one.split == split) for split in splits}
    labels = sorted({photo.label for photos in splits.values() for photo in photos})
    duplicates = _duplicates(readable)
    leaks = {
        (photo["split"], photo["file"]) for group in duplicates if group["across_splits"] for photo in group["photos"]
    }
    leaking = sum(split == VAL for split, _ in leaks)
    sizes = collections.Counter((one.facts.width, one.facts.height) for one in readable)
    document = {
        "warnings": warnings + _warnings(readable, counts, duplicates, leaking),
        "splits": [_split_facts(split, counts, problems, labels) for split in splits],
        "classes": [dict({split: counts[split][label] for split in splits}, label=label) for label in labels],
        "leaking_val_photos": leaking,
        "duplicates": duplicates,
        "problems": problems,
        "wrong_suffixes": [
            dict(_named(one), format=one.facts.format) for one in readable if _has_wrong_suffix(one.photo, one.facts)
        ],
        "thresholds": {
            "dark": photo_facts.DARK,
            "bright": photo_facts.BRIGHT,
            "blurred": photo_facts.BLURRED,
            "uniform": similarity.UNIFORM,
            "alike_bits": similarity.MAX_BITS_APART,
            "alike_colour_correlation": similarity.MIN_COLOUR_CORRELATION,
        },
        "formats": dict(collections.Counter(one.facts.format for one in readable)),
        "turned": sum(one.facts.turned for one in readable),
        "common_sizes": [
            {"width": width, "height": height, "photos": count}
            for (width, height), count in sorted(sizes.items(), key=lambda size: (-size[1], size[0]))[:_COMMON_SIZES]
        ],
        "widths": _spread([one.facts.width for one in readable], 0),
        "heights": _spread([one.facts.height for one in readable], 0),
        "aspect_ratios": _spread([one.facts.width / one.facts.height for one in readable], 3),
        "sizes_bytes": _spread([one.facts.size_bytes for one in readable], 0),
        "label_check": None,
    }
    document.update(_flaws(readable))
    return document


def check_labels(readable, session, bundle):
    """Looks for labels that are likely wrong.

    Args:
        readable: list of ReadablePhoto.
        session: train.insight.inner.InnerSession with "features", of the bundle.
        bundle: edge_runtime.bundle.reading.Bundle.

    Returns:
        the document's "label_check".
    """
    unjudged = label_errors.unjudged_classes([one.photo.label for one in readable])
    judged = [one for one in readable if one.photo.label not in unjudged]
    issues = []
    if judged:
        features, unreadable = label_errors.compute_features(
            session, bundle.input_spec, [one.photo.path for one in judged]
        )
        for path, problem in sorted(unreadable.items()):
            say(f"{path} can no longer be read ({problem}): its label is not judged")
        judged = [one for one in judged if one.photo.path not in unreadable]
        issues = label_errors.find_issues(features, [one.photo.label for one in judged])
    manifest = bundle.manifest
    is_fine_tuned = "fine_tune" in (manifest.get("metrics") or {}).get("history", {})
    training_sums = set((manifest.get("training") or {}).get("photos_sha256", []) if is_fine_tuned else [])
    return {
        "bundle_id": bundle.id,
        "judged": len(judged),
        "fine_tuned_on": sum(one.facts.sha256[:16] in training_sums for one in judged),
        "unjudged_classes": unjudged,
        "issues": [
            dict(
                _named(judged[issue.photo]),
                suggested=issue.suggested,
                self_confidence=round(issue.self_confidence, 4),
                confidence=round(issue.confidence, 4),
            )
            for issue in issues
        ],
    }


def _look_at(photo):
    """Returns (PhotoFacts, "") or (None, the reason). Raises StorageLost: what it is read from went away."""
    try:
        return photo_facts.look_at(photo.path), ""
    except ImageError as error:
        return None, reason_of(photo, error)


def _warnings(readable, counts, duplicates, leaking):
    """Returns the warnings about the readable photos. counts: {split: {label: photos}}."""
    training = [one for one in readable if one.split == TRAIN]
    names = [one.photo.label for one in training]
    warnings = []
    if VAL in counts:
        warnings += of_leak(leaking, sum(counts[VAL].values()), "keep photos that look alike in one split")
    conflicts = [group["photos"] for group in duplicates if group["several_labels"]]
    warnings += of_conflicts(conflicts, "explore.html shows them")
    warnings += of_views(names, similarity.frame_groups([one.facts for one in training], names))
    warnings += of_counts(counts[TRAIN], set(counts[VAL]) if VAL in counts else None)
    return warnings + of_sources(
        [(one.photo.label, (one.facts.width, one.facts.height), one.facts.format) for one in training]
    )


def _named(one):
    """Returns a ReadablePhoto as the document names it."""
    return {"split": one.split, "file": one.photo.file, "label": one.photo.label}


def _problem(split, file, what):
    return {"split": split, "file": file, "problem": what}


def _split_facts(split, counts, problems, labels):
    classes = sorted(counts[split].items(), key=lambda item: (-item[1], item[0]))
    unusable = sum(problem["split"] == split for problem in problems)
    readable = sum(counts[split].values())
    return {
        "name": split,
        "listed": readable + unusable,
        "readable": readable,
        "classes": len(classes),
        "largest_class": classes[0][0] if classes else None,
        "smallest_class": classes[-1][0] if classes else None,
        "imbalance": round(classes[0][1] / classes[-1][1], 2) if classes else None,
        "missing_classes": [
            label for label in labels if not counts[split][label] and any(count[label] for count in counts.values())
        ],
    }


def _spread(values, digits):
    if not values:
        return None
    least, median, most = (round(float(value), digits or None) for value in np.percentile(values, (0, 50, 100)))
    counts, edges = np.histogram(values, BINS)
    histogram = {"edges": [round(float(edge), 3) for edge in edges], "photos": counts.tolist()}
    return {"least": least, "median": median, "most": most, "histogram": histogram}


def _has_wrong_suffix(photo, facts):
    suffix = suffix_of(photo.file)
    return suffix != "" and formats.SUFFIXES.get(suffix) != facts.format


def _duplicates(readable):
    by_sum = collections.defaultdict(list)
    for one in readable:
        by_sum[one.facts.sha256].append(one)
    groups = [_group("exact", photos) for photos in by_sum.values() if len(photos) > 1]
    for indices in similarity.similar_groups([one.facts for one in readable]):
        photos = [readable[index] for index in indices]
        if len({one.facts.sha256 for one in photos}) > 1:
            groups.append(_group("alike", photos))
    order = ("across_splits", "several_labels")
    return sorted(groups, key=lambda group: [not group[key] for key in order] + [group["kind"] != "exact"])


def _group(kind, photos):
    return {
        "kind": kind,
        "photos": [_named(one) for one in photos],
        "bits_apart": max(similarity.differing_bits(photos[0].facts, one.facts) for one in photos),
        "across_splits": len({one.split for one in photos}) > 1,
        "several_labels": len({one.photo.label for one in photos}) > 1,
    }


def _flaws(readable):
    """Returns {flaw: photos with their value, the worst first}."""
    flaws: typing.Dict[str, list] = {flaw: [] for flaw in FLAWS}
    for one in readable:
        facts = one.facts
        if facts.contrast < similarity.UNIFORM:
            flaws["uniform"].append((facts.contrast, one))
        elif facts.brightest < photo_facts.DARK:  # not judged for blur: the Laplacian falls with the light
            flaws["dark"].append((facts.brightest, one))
        elif facts.darkest > photo_facts.BRIGHT:
            flaws["bright"].append((facts.darkest, one))
        elif facts.sharpness < photo_facts.BLURRED:
            flaws["blurred"].append((facts.sharpness, one))
    return {
        flaw: [
            dict(_named(one), value=round(value, 1))
            for value, one in sorted(photos, key=lambda pair: pair[0], reverse=flaw == "bright")
        ]
        for flaw, photos in flaws.items()
    }
