"""picnic-edge explore: what is in labelled photos, and what is wrong with them, before anything is trained.

DIR/explore.json holds, and DIR/explore.html shows ("photo" stands for {"split", "file", "label"}):

warnings           what is likely not meant: kind, text (one line), and the facts that train/data/warnings.py lists for
each kind
splits             per split ("train", "val"): name, listed (rows or files), readable, classes, largest_class,
                   smallest_class, imbalance (photos of the largest class to those of the smallest), all three null
                   without photos; missing_classes (that only the other split has)
classes            label and, by split, the number of readable photos (0 where none can be read), sorted by label
leaking_val_photos how many val photos have a copy, or a photo that looks the same, in train
duplicates         groups: kind ("exact": the same bytes; "alike": the same picture in other bytes; exact copies of its
                   photos are in it too), photos, bits_apart (most bits of 256 between the first's perceptual hash and
                   another's), across_splits, several_labels; the worst first
problems           split, file, problem: rows that cannot be used, photos that cannot be read
wrong_suffixes     photo, format: what its bytes say it is, where its suffix says otherwise
uniform            photo, value: standard deviation of grey at 64 x 64, 0..255
dark, bright       those not uniform: photo, value: 95th and 5th percentile of grey, 0..255
blurred            those in none of these lists: photo, value: variance of the Laplacian at 299 x 299
thresholds         what the flaws and alike are judged by (train/data/photo_facts.py says why)
formats            {format by the bytes: photos}
turned             photos that are stored turned or mirrored, with an EXIF note
common_sizes       width, height, photos: the ten most common sizes, upright, in pixels
widths, heights, aspect_ratios, sizes_bytes
                   least, median, most; aspect ratio is width / height; histogram: edges (n + 1), photos (n), between
                   two edges each; null without photos
label_check        null without --bundle; else bundle_id, judged (photos), fine_tuned_on (those of them that the bundle
                   says its network was fine-tuned on), unjudged_classes (too few photos), issues: photo, suggested
                   (label), self_confidence (probability of the given label), confidence (of the suggested one), both
                   0..1; the least self-confident first

In a name that is not UTF-8 the odd bytes are shown as \\xff, and file_bytes beside file has its own bytes in base64.
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
from edge_runtime.text import printable
from train.data import photo_facts
from train.data.labels import Photo, read_labels
from train.data.warnings import of_conflicts, of_counts, of_labels, of_leak, of_sources, of_views
from train.insight import label_errors, pages

TRAIN, VAL = "train", "val"

FLAWS = ("dark", "bright", "blurred", "uniform")


# What the page shows of each kind, so that it stays below 15 MB; explore.json has everything.
_GROUPS_SHOWN = 40

_PHOTOS_OF_A_GROUP_SHOWN = 6

_FLAWED_SHOWN = 24

_ISSUES_SHOWN = 100

_ROWS_SHOWN = 200

_SHEET_PHOTOS = 1000  # of all contact sheets together

_SHEET_PHOTOS_PER_CLASS = 5

_COMMON_SIZES = 10

_BINS = 30

_BLUE, _ORANGE = "#3b82c4", "#d9822b"  # read on light and on dark


# A readable photo.
Seen = typing.NamedTuple("Seen", [("split", str), ("photo", Photo), ("facts", photo_facts.PhotoFacts)])


def findings(seen, listed, problems):
    """Returns what explore.json holds, with "label_check" null and "warnings" empty.

    Args:
        seen: list of Seen.
        listed: {split: list of Photo that were to be opened}, in the order of splits.
        problems: dicts of split, file, problem.
    """
    splits = list(listed)
    counts = {split: collections.Counter(one.photo.label for one in seen if one.split == split) for split in splits}
    labels = sorted({photo.label for photos in listed.values() for photo in photos})
    duplicates = _duplicates(seen)
    leaking = {
        (photo["split"], photo["file"]) for group in duplicates if group["across_splits"] for photo in group["photos"]
    }
    sizes = collections.Counter((one.facts.width, one.facts.height) for one in seen)
    found = {
        "warnings": [],
        "splits": [_split_facts(split, listed, counts, problems, labels) for split in splits],
        "classes": [dict({split: counts[split][label] for split in splits}, label=label) for label in labels],
        "leaking_val_photos": sum(split == VAL for split, _ in leaking),
        "duplicates": duplicates,
        "problems": problems,
        "wrong_suffixes": [
            dict(_named(one), format=one.facts.format) for one in seen if _has_wrong_suffix(one.photo, one.facts)
        ],
        "thresholds": {
            "dark": photo_facts.DARK,
            "bright": photo_facts.BRIGHT,
            "blurred": photo_facts.BLURRED,
            "uniform": photo_facts.UNIFORM,
            "alike_bits": photo_facts.MOST_BITS_APART,
            "alike_colour_correlation": photo_facts.LEAST_COLOUR_CORRELATION,
        },
        "formats": dict(collections.Counter(one.facts.format for one in seen)),
        "turned": sum(one.facts.turned for one in seen),
        "common_sizes": [
            {"width": width, "height": height, "photos": count}
            for (width, height), count in sorted(sizes.items(), key=lambda size: (-size[1], size[0]))[:_COMMON_SIZES]
        ],
        "widths": _spread([one.facts.width for one in seen], 0),
        "heights": _spread([one.facts.height for one in seen], 0),
        "aspect_ratios": _spread([one.facts.width / one.facts.height for one in seen], 3),
        "sizes_bytes": _spread([one.facts.size_bytes for one in seen], 0),
        "label_check": None,
    }
    found.update(_flawed(seen))
    return found


# ---- reading


def read_splits(options):
    """Returns ({split: its Photos}, problems, warnings about what was read)."""
    sources = [(TRAIN, options.labels, options.images)]
    if options.val_images is not None and not options.val:
        raise UsageError(f"--val-images {options.val_images}: needs --val, the table of these photos")
    if options.val:
        sources.append((VAL, options.val, options.images if options.val_images is None else options.val_images))
    listed, problems = collections.OrderedDict(), []
    warnings: typing.List[dict] = []
    for split, source, folder in sources:
        photos, set_aside = read_labels(source, folder, warnings)
        if not photos and not set_aside:
            raise UsageError(
                "%s: no labelled photo in it; expected a table with rows below its header file<TAB>label, or a folder "
                "of class folders with photos" % source
            )
        listed[split] = sorted(photos)
        problems += [_problem(split, problem.file, problem.what) for problem in sorted(set_aside)]
    named = [(source, listed[split]) for split, source, _ in sources]
    return listed, problems, warnings + of_labels(named)


def look_at_all(listed):
    """Returns (list of Seen, problems of the photos that cannot be read), both in the order of the photos."""
    todo = [(split, photo) for split, photos in listed.items() for photo in photos]
    seen, problems = [], []
    with concurrent.futures.ThreadPoolExecutor(cpu.core_count()) as pool:
        results = progress(pool.map(_look_at, (photo for _, photo in todo)), len(todo), "look at photos")
        for (split, photo), (facts, problem) in zip(todo, results):
            if facts is None:
                problems.append(_problem(split, photo.file, problem))
            else:
                seen.append(Seen(split, photo, facts))
    return seen, problems


def _look_at(photo):
    """Returns (PhotoFacts, "") or (None, the reason). Raises StorageLost: what it is read from went away."""
    try:
        return photo_facts.look_at(photo.path), ""
    except ImageError as error:
        return None, reason_of(photo, error)


def check_labels(seen, session, bundle):
    """Returns the labels that are likely wrong, found by a bundle's features."""
    unjudged = label_errors.unjudged_classes([one.photo.label for one in seen])
    judged = [one for one in seen if one.photo.label not in unjudged]
    issues = []
    if judged:
        features, gone = label_errors.compute_features(session, [one.photo.path for one in judged])
        for path, problem in sorted(gone.items()):
            say(f"{path} could be read before, now it cannot ({problem}): its label is not judged")
        judged = [one for one in judged if one.photo.path not in gone]
        issues = label_errors.find_issues(features, [one.photo.label for one in judged])
    manifest = bundle.manifest
    is_fine_tuned = "fine_tune" in (manifest.get("metrics") or {}).get("history", {})
    learned = set((manifest.get("training") or {}).get("photos_sha256", []) if is_fine_tuned else [])
    return {
        "bundle_id": bundle.id,
        "judged": len(judged),
        "fine_tuned_on": sum(one.facts.sha256[:16] in learned for one in judged),
        "unjudged_classes": unjudged,
        "issues": [
            dict(
                _named(judged[issue.index]),
                suggested=issue.suggested,
                self_confidence=round(issue.self_confidence, 4),
                confidence=round(issue.confidence, 4),
            )
            for issue in issues
        ],
    }


def warnings_of(seen, document):
    """Returns the warnings about the photos that were seen."""
    ours = [one for one in seen if one.split == TRAIN]
    labels = {
        split: collections.Counter(one.photo.label for one in seen if one.split == split) for split in (TRAIN, VAL)
    }
    is_split = len(document["splits"]) > 1
    names = [one.photo.label for one in ours]
    groups = photo_facts.groups_of_frames([one.facts for one in ours], names)
    warnings = []
    if is_split:
        warnings += of_leak(
            document["leaking_val_photos"], sum(labels[VAL].values()), "keep photos that look alike in one split"
        )
    conflicts = [group["photos"] for group in document["duplicates"] if group["several_labels"]]
    warnings += of_conflicts(conflicts, "explore.html shows them")
    warnings += of_views(names, groups)
    warnings += of_counts(labels[TRAIN], set(labels[VAL]) if is_split else None)
    facts = [(one.photo.label, (one.facts.width, one.facts.height), one.facts.format) for one in ours]
    return warnings + of_sources(facts)


# ---- findings


def _named(one):
    return {"split": one.split, "file": one.photo.file, "label": one.photo.label}


def _problem(split, file, what):
    return {"split": split, "file": file, "problem": what}


def _split_facts(split, listed, counts, problems, labels):
    ours = sorted(counts[split].items(), key=lambda item: (-item[1], item[0]))
    unread = sum(problem["split"] == split for problem in problems)
    readable = sum(counts[split].values())
    return {
        "name": split,
        "listed": readable + unread,
        "readable": readable,
        "classes": len(ours),
        "largest_class": ours[0][0] if ours else None,
        "smallest_class": ours[-1][0] if ours else None,
        "imbalance": round(ours[0][1] / ours[-1][1], 2) if ours else None,
        "missing_classes": [
            label for label in labels if not counts[split][label] and any(count[label] for count in counts.values())
        ],
    }


def _spread(values, digits):
    if not values:
        return None
    cut = (lambda value: int(round(value))) if digits == 0 else (lambda value: round(float(value), digits))
    counts, edges = np.histogram(values, _BINS)
    histogram = {"edges": [round(float(edge), 3) for edge in edges], "photos": counts.tolist()}
    most, median = cut(max(values)), cut(np.median(values))
    return {"least": cut(min(values)), "median": median, "most": most, "histogram": histogram}


def _has_wrong_suffix(photo, facts):
    suffix = suffix_of(photo.file)
    return suffix != "" and formats.SUFFIXES.get(suffix) != facts.format


def _duplicates(seen):
    by_sum = collections.defaultdict(list)
    for index, one in enumerate(seen):
        by_sum[one.facts.sha256].append(index)
    groups = [_group("exact", [seen[index] for index in indices]) for indices in by_sum.values() if len(indices) > 1]
    for indices in photo_facts.groups_alike([one.facts for one in seen]):
        photos = [seen[index] for index in indices]
        if len({one.facts.sha256 for one in photos}) > 1:
            groups.append(_group("alike", photos))
    order = ("across_splits", "several_labels")
    return sorted(groups, key=lambda group: [not group[key] for key in order] + [group["kind"] != "exact"])


def _group(kind, photos):
    return {
        "kind": kind,
        "photos": [_named(one) for one in photos],
        "bits_apart": max(photo_facts.bits_apart(photos[0].facts, one.facts) for one in photos),
        "across_splits": len({one.split for one in photos}) > 1,
        "several_labels": len({one.photo.label for one in photos}) > 1,
    }


def _flawed(seen):
    """Returns {flaw: photos with their value, the worst first}."""
    found: typing.Dict[str, list] = {flaw: [] for flaw in FLAWS}
    for one in seen:
        facts = one.facts
        if facts.contrast < photo_facts.UNIFORM:
            found["uniform"].append((facts.contrast, one))
        elif facts.brightest < photo_facts.DARK:  # the Laplacian falls with the light: not judged for blur
            found["dark"].append((facts.brightest, one))
        elif facts.darkest > photo_facts.BRIGHT:
            found["bright"].append((facts.darkest, one))
        elif facts.sharpness < photo_facts.BLURRED:
            found["blurred"].append((facts.sharpness, one))
    return {
        flaw: [
            dict(_named(one), value=round(value, 1))
            for value, one in sorted(photos, key=lambda pair: pair[0], reverse=flaw == "bright")
        ]
        for flaw, photos in found.items()
    }


# ---- what people read


def summary(document):
    """Returns the lines that explore prints."""
    lines = []
    for split in document["splits"]:
        text = "%s: %d of %d listed photos usable, %d classes" % (
            split["name"],
            split["readable"],
            split["listed"],
            split["classes"],
        )
        if split["imbalance"]:
            text += f", the largest {split['imbalance']:.1f} times the smallest"
        if split["missing_classes"]:
            text += f", {len(split['missing_classes'])} more only in the other split"
        lines.append(text)
    groups = document["duplicates"]
    leaking = document["leaking_val_photos"]
    if len(document["splits"]) > 1:
        lines.append(f"val photos that are in train too, or look the same: {leaking}")
        if leaking * 2 > document["splits"][1]["readable"]:
            lines.append("  more than half: is --val-images missing?")
    lines.append(
        "duplicates: %d groups of the same bytes, %d of photos that look the same; %d groups under several labels"
        % (
            sum(group["kind"] == "exact" for group in groups),
            sum(group["kind"] == "alike" for group in groups),
            sum(group["several_labels"] for group in groups),
        )
    )
    lines.append(
        "%s, %d with a wrong suffix"
        % (", ".join(f"{len(document[flaw])} {flaw}" for flaw in FLAWS), len(document["wrong_suffixes"]))
    )
    check = document["label_check"]
    if check:
        lines.append(f"labels that are likely wrong: {len(check['issues'])}")
        if check["fine_tuned_on"]:
            lines.append(
                "  (the bundle's network was fine-tuned on %d of the %d photos judged and knows their labels by heart, "
                "wrong ones, too: a bundle trained with --fine-tune 0 finds more)"
                % (check["fine_tuned_on"], check["judged"])
            )
    return "\n".join(lines)


def write_page(path, document, seen):
    """Writes explore.html."""
    groups = document["duplicates"]
    leaks = [group for group in groups if group["across_splits"]]
    conflicts = [group for group in groups if group["several_labels"] and not group["across_splits"]]
    others = [group for group in groups if not group["across_splits"] and not group["several_labels"]]
    check = document["label_check"]
    pages.write_page(
        path,
        "explore.html",
        title="Labelled photos",
        found=document,
        thumbnails={(one.split, one.photo.file): one.facts.thumbnail for one in seen},
        shown=printable,
        leaks=_cut(leaks, _GROUPS_SHOWN),
        conflicts=_cut(conflicts, _GROUPS_SHOWN),
        others=_cut(others, _GROUPS_SHOWN),
        pick=_pick,
        flaws=[(flaw, len(document[flaw]), _cut(document[flaw], _FLAWED_SHOWN)) for flaw in FLAWS],
        problems=_cut(document["problems"], _ROWS_SHOWN),
        wrong_suffixes=_cut(document["wrong_suffixes"], _ROWS_SHOWN),
        issues=_cut(check["issues"], _ISSUES_SHOWN) if check else None,
        folds=label_errors.FOLDS,
        bits=photo_facts.HASH_BITS,
        most=max([row[split["name"]] for row in document["classes"] for split in document["splits"]] or [1]),
        plots=_plots([one.facts for one in seen]) if seen else [],
        sheets=_cut(_sheets(seen), _SHEET_PHOTOS),
    )


def _cut(rows, most):
    """Returns (the first rows, how many are left out)."""
    return rows[:most], max(0, len(rows) - most)


def _pick(photos):
    """Chooses photos of a group to show: one of each split and label before a second one. Returns as _cut does."""
    of_its_kind: typing.Dict[tuple, int] = collections.Counter()
    order = []
    for photo in photos:
        kind = (photo["split"], photo["label"])
        order.append(of_its_kind[kind])
        of_its_kind[kind] += 1
    return _cut([photo for _, photo in sorted(zip(order, photos), key=lambda pair: pair[0])], _PHOTOS_OF_A_GROUP_SHOWN)


def _sheets(seen):
    """Returns [(label, number of photos, a few of them, spread over the class)], sorted by label."""
    by_label = collections.defaultdict(list)
    for one in seen:
        by_label[one.photo.label].append(_named(one))
    most = min(max(1, _SHEET_PHOTOS // max(1, len(by_label))), _SHEET_PHOTOS_PER_CLASS)
    sheets = []
    for label, photos in sorted(by_label.items()):
        places = np.linspace(0, len(photos) - 1, min(most, len(photos))).astype(int)
        sheets.append((label, len(photos), [photos[place] for place in places]))
    return sheets


def _plots(facts):
    """Returns [(title, SVG)] of the photos' widths and heights, proportions and file sizes."""
    lengths = _figure("pixels")
    values = [[fact.width for fact in facts], [fact.height for fact in facts]]
    lengths.axes[0].hist(values, _BINS, color=[_BLUE, _ORANGE], label=["width", "height"])
    lengths.axes[0].legend(frameon=False, labelcolor="#808890")
    lengths.axes[0].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    ratios = _figure("width / height")
    ratios.axes[0].hist([fact.width / fact.height for fact in facts], _BINS, color=_BLUE)
    sizes = _figure("kilobytes")
    sizes.axes[0].hist([fact.size_bytes / 1000 for fact in facts], _BINS, color=_BLUE)
    titles = ("Width and height", "Proportions", "File size")
    return [(title, pages.svg(figure)) for title, figure in zip(titles, (lengths, ratios, sizes))]


def _figure(label):
    figure = pages.new_figure(3.6, 2.3)
    figure.axes[0].set(xlabel=label, ylabel="photos")
    figure.axes[0].set_axisbelow(True)
    return figure
