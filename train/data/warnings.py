"""Warnings about labelled photos that can be used, but are likely not what the user meant.

A warning is a dict of plain values: kind, text (one line, which says what to do) and the facts of its kind. "photos" is
a number of photos. `picnic-edge train` prints the texts to stderr; explore.json and its page have them too.

encoding        file, line: a table that is not UTF-8, and the first line that shows it
split_folders   source, names: classes, or parts of their names, that are called train, val, test, ...
similar_labels  groups: lists of {"label", "photos"}: equal but for case, spaces and Unicode form
broken_labels   labels: with letters that were decoded wrongly before the table was written
number_labels   labels: all of them numbers, some with decimals
file_labels     labels: names of photos
missing_labels  labels: what programs write for a missing value
unknown_class   label: the answer of `picnic-edge classify --threshold`
one_class       label, share (0..1) of the photos
few_photos      classes: {label: photos}
unvalidated     labels: without a validation photo
one_size, one_format
                classes: {label: its photos' only size or format, which no photo of another class has}
one_view        labels: classes whose photos all look alike
conflicts       groups, photos: those that look the same and have several labels
leak            photos, of (validation photos): those that look like a training photo
val_split       classes, photos, share (0..1): the validation photos where --val-split is none or all of a class
"""

import collections
import os
import re
import shlex
import unicodedata

from edge_runtime.photos import formats
from edge_runtime.results.rows import is_unknown

FEW = 10  # photos of a class
DOMINANT = 0.9  # share of all photos
_MAX_NAMES = 5  # in a text
_TRAIN, _VAL, _TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")
_NO_VALUE = ("nan", "<na>", "n/a", "#n/a", "null", "#ref!", "#value!")


def warning(kind, text, **facts):
    """Returns a warning: a dict of the kind, the text and the facts."""
    return dict(facts, kind=kind, text=text)


# ---- encoding and labels


def is_undecoded(label, file, path):
    """Whether a row has bytes that are not UTF-8: in its label, or in the name of a photo that is missing."""
    return _has_bytes(label) or (_has_bytes(file) and not os.path.lexists(path))


def of_encoding(source, row):
    """Returns the warning about a table whose first row that is_undecoded is a table_reader.Row."""
    example = ascii(row.label if _has_bytes(row.label) else row.file)
    text = (
        f"{source} is not UTF-8 (line {row.line}: {example}): letters other than a to z are lost. Save it as UTF-8 (an "
        f"option of the spreadsheet's save dialog; or: iconv -f WINDOWS-1252 -t UTF-8 {shlex.quote(source)} > utf8.tsv)"
    )
    return warning("encoding", text, file=source, line=row.line)


def of_labels(sources):
    """Returns the warnings about names of classes. sources: [(table or folder, list of Photo)], one for each split."""
    counts = collections.Counter(photo.label for _, photos in sources for photo in photos)
    warnings = [_split_folders(source, photos) for source, photos in sources]
    warnings += [
        _similar_labels(counts),
        _labels_warning(
            "broken_labels",
            [label for label in counts if _is_decoded_wrongly(label)],
            "were decoded wrongly before the table was written: save it again from its source, as UTF-8",
        ),
        _labels_warning(
            "number_labels",
            counts if all(_is_number(label) for label in counts) and any("." in label for label in counts) else [],
            "are numbers with decimals: does the column label hold measured values, or were whole numbers changed?",
        ),
        _labels_warning(
            "file_labels",
            [label for label in counts if label.lower().endswith(tuple(formats.SUFFIXES))],
            "are names of photos: give the class of each photo in the column label",
        ),
        _labels_warning(
            "missing_labels",
            [label for label in counts if label.strip().lower() in _NO_VALUE],
            "are what programs write for a missing value: remove these rows, or give them a label",
        ),
    ]
    warnings += [_unknown_class(label) for label in sorted(counts) if is_unknown(label)]
    return [one for one in warnings if one]


def _split_folders(source, photos):
    """Warns about train/apple, val/apple and apple/train; not about a class named train (a toy) beside others."""
    splits = _TRAIN + _VAL + _TEST
    parts = [re.split(r"[/\\]", label) for label in sorted({photo.label for photo in photos})]
    firsts = {part[0] for part in parts}
    names = [name for name in sorted(firsts) if name.lower() in splits]
    if len(names) < len(firsts) and all(name.lower() in _TRAIN for name in names):
        names = []
    inner = {part for label in parts for part in label[1:] if part.lower() in splits}
    if not names and not inner:
        return None
    nested = sorted({label[0] for label in parts if len(label) > 1 and label[0] in names})
    training = [name for name in nested if name.lower() in _TRAIN]
    held_out = sorted((name for name in nested if name not in training), key=lambda name: name.lower() in _TEST)
    advice = "put the photos into folders of classes, one folder for each split"
    if training and os.path.isdir(source):
        folders = [shlex.quote(os.path.join(source, name)) for name in training[:1] + held_out[:1]]
        advice = f"give picnic-edge train {' --val '.join(folders)}"
    elif not os.path.isdir(source):
        advice = "give a table for each split: train.tsv --val val.tsv"
    what = ", ".join(names + sorted(inner - set(names)))
    text = f"{source}: {what}: read as classes, or as a part of their names, not as splits: {advice}"
    return warning("split_folders", text, source=source, names=names + sorted(inner - set(names)))


def _similar_labels(counts):
    groups = collections.defaultdict(list)
    for label in sorted(counts):
        groups[_normalized(label)].append(label)
    similar = [group for _, group in sorted(groups.items()) if len(group) > 1]
    if not similar:
        return None
    texts = [
        " and ".join(f"{_quoted(label, group)} ({_photos(counts[label])})" for label in group) for group in similar
    ]
    return warning(
        "similar_labels",
        "labels that differ only in case, spaces or Unicode form are different classes: "
        f"{_join(texts, '; ')}; use one spelling for each",
        groups=[[{"label": label, "photos": counts[label]} for label in group] for group in similar],
    )


def _normalized(label):
    """Returns a label without case, Unicode form, spaces and invisible characters."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    return "".join(char for char in folded if not char.isspace() and unicodedata.category(char) not in ("Cc", "Cf"))


def _quoted(label, group):
    """Returns a label in quotes, with escapes where it would look like another label of its group."""
    composed = [unicodedata.normalize("NFC", other) for other in group]
    return (ascii if composed.count(unicodedata.normalize("NFC", label)) > 1 else repr)(label)


def _is_decoded_wrongly(label):
    """Whether a label holds U+FFFD, or was UTF-8 that a program read as Windows-1252 (Gem\xc3\xbcse)."""
    if "\ufffd" in label:
        return True
    try:
        return label.encode("cp1252").decode("utf-8") != label
    except UnicodeError:
        return False


def _is_number(label):
    try:
        return float(label) == float(label)
    except ValueError:
        return False


def _labels_warning(kind, labels, what):
    labels = sorted(labels)
    if not labels:
        return None
    return warning(kind, f"{_classes(labels)}: {_join(map(repr, labels))} {what}", labels=labels)


def _unknown_class(label):
    text = (
        f"the class {label!r} cannot be distinguished from the answer `unknown` of `picnic-edge classify --threshold`: "
        "rename it"
    )
    return warning("unknown_class", text, label=label)


# ---- counts


def of_counts(training, validated=None):
    """Returns the warnings about classes.

    Args:
        training: {label: usable photos}.
        validated: labels that have validation photos; None where there is no validation yet.
    """
    warnings, total = [], sum(training.values())
    for label, count in sorted(training.items()):
        if len(training) > 1 and count > DOMINANT * total:
            text = (
                f"{label!r} has {count} of the {total} photos: a network that always answers it is right for "
                f"{100 * count / total:.0f} % of them; look at macro-F1, not at accuracy, and add photos of the others"
            )
            warnings.append(warning("one_class", text, label=label, share=round(count / total, 4)))
    few = {label: count for label, count in training.items() if 0 < count < FEW}
    if few:
        labels = [f"{label!r} ({few[label]})" for label in sorted(few, key=lambda label: (few[label], label))]
        text = (
            f"{_classes(few)} with fewer than {FEW} photos: {_join(labels)}: too few to learn from and to validate on"
        )
        warnings.append(warning("few_photos", text, classes=few))
    if validated is not None:
        missing = sorted(label for label in training if training[label] and label not in validated)
        if missing:
            text = f"{_classes(missing)} without any validation photo: {_join(map(repr, missing))}: accuracy unknown"
            warnings.append(warning("unvalidated", text, labels=missing))
    return warnings


def of_sources(rows):
    """Returns the warnings about classes whose photos seem to come from another camera or program than all others.

    Args:
        rows: (label, (width, height), format) of each photo.
    """
    warnings = []
    rows = list(rows)
    counts = collections.Counter(label for label, _, _ in rows)
    for kind, place, what in (("one_size", 1, "size"), ("one_format", 2, "format")):
        values, owners = collections.defaultdict(set), collections.defaultdict(set)
        for row in rows:
            values[row[0]].add(row[place])
            owners[row[place]].add(row[0])
        own = {
            label: min(own_values)
            for label, own_values in values.items()
            if counts[label] >= FEW and len(own_values) == 1 and owners[min(own_values)] == {label}
        }
        if own and len(counts) > 1:
            classes = {label: "%d x %d" % value if kind == "one_size" else value for label, value in own.items()}
            names = _join(f"{label!r} ({value})" for label, value in sorted(classes.items()))
            text = (
                f"{_classes(own)} whose photos all have one {what} that no other class has: {names}: the network may "
                f"learn the {what} instead of the product"
            )
            warnings.append(warning(kind, text, classes=classes))
    return warnings


# ---- similar photos


def of_views(labels, groups):
    """Returns the warnings about classes whose photos all look alike.

    Args:
        labels: the label of each photo.
        groups: lists of indices of photos of one class that look alike (train.data.similarity.frame_groups).
    """
    counts = collections.Counter(labels)
    views = sorted(labels[group[0]] for group in groups if len(group) == counts[labels[group[0]]])
    if not views:
        return []
    text = (
        f"{_classes(views)} whose photos all look alike, like frames of a film: {_join(map(repr, views))}: accuracy on "
        "other photos is unknown; add photos of other places and days"
    )
    return [warning("one_view", text, labels=views)]


def of_conflicts(groups, advice):
    """Returns the warnings about photos that look the same and have several labels.

    Args:
        groups: lists of photos.
        advice: how to see them.
    """
    if not groups:
        return []
    photos = sum(map(len, groups))
    text = (
        f"{len(groups)} {'group' if len(groups) == 1 else 'groups'} of photos that look the same, {photos} photos, "
        f"have several labels: labels are wrong, or the products are too small on the photos; {advice}"
    )
    return [warning("conflicts", text, groups=len(groups), photos=photos)]


def of_leak(count, validation, advice):
    """Returns the warnings about `count` of the validation photos that look like training photos."""
    if not count:
        return []
    text = (
        f"{count} of {validation} validation photos look like a training photo: accuracy may be higher on them than on "
        f"new photos; {advice}"
    )
    return [warning("leak", text, photos=count, of=validation)]


def of_val_split(share, clamped, held_out, photos):
    """Returns the warnings about a --val-split that is none or all photos of some classes.

    Args:
        share: the --val-split, 0..1.
        clamped: how many such classes there are.
        held_out: how many validation photos there are.
        photos: how many photos there are in all.
    """
    if not clamped:
        return []
    text = (
        f"--val-split {share:g} is none or all of the photos of {clamped} {'classes' if clamped > 1 else 'class'}: one "
        f"photo stays on that side; in all {held_out} of {photos} photos are validation photos, "
        f"{100 * held_out / photos:.1f} %"
    )
    return [warning("val_split", text, classes=clamped, photos=held_out, share=round(held_out / photos, 4))]


def _has_bytes(text):
    return any("\udc80" <= char <= "\udcff" for char in text)


def _photos(count):
    return "1 photo" if count == 1 else f"{count} photos"


def _classes(labels):
    return "1 class" if len(labels) == 1 else f"{len(labels)} classes"


def _join(texts, between=", "):
    texts = list(texts)
    more = f"{between}and {len(texts) - _MAX_NAMES} more" if len(texts) > _MAX_NAMES else ""
    return between.join(texts[:_MAX_NAMES]) + more
