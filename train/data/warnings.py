"""Warnings about labelled photos that can be learned from, but are likely not what was meant.

A warning is a dict of plain values: kind, text (one line, which says what to do) and the facts of its kind. "photos" is
a number of photos. `picnic-edge train` says them on stderr; explore.json and its page show them.

encoding        file, line: a table that is not UTF-8, and the first line that shows it
split_folders   source, names: classes, or parts of their names, that are called train, val, test, ...
similar_labels  groups: lists of {"label", "photos"}: equal but for case, spaces and Unicode form
broken_labels   labels: with letters that were decoded wrongly before the table was written
number_labels   labels: all of them numbers, some with decimals
file_labels     labels: names of photos
missing_labels  labels: what programs write for a value that is not there
unknown_class   label: the word of `picnic-edge classify --threshold`
one_class       label, share (0..1) of the photos
few_photos      classes: {label: photos}
unvalidated     labels: without a validation photo
one_size, one_format
                classes: {label: its photos' only size or format, which no photo of another class has}
one_view        labels: classes whose photos all look alike
conflicts       groups, photos: that look the same and have several labels
leak            photos, of (validation photos): those that look like a training photo
val_split       classes, photos, share (0..1): held out where the share of a class came to none or all of its photos
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

_SHOWN = 5

_TRAIN, _VAL, _TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")

_NO_VALUE = ("nan", "<na>", "n/a", "#n/a", "null", "#ref!", "#value!")


def warning(kind, text, **facts):
    """Returns a warning as the module says."""
    return dict(facts, kind=kind, text=text)


# ---- what was read


def is_undecoded(label, file, path):
    """Whether a row has bytes that are not UTF-8: in its label, or in the name of a photo that is not there."""
    return _has_bytes(label) or (_has_bytes(file) and not os.path.lexists(path))


def of_encoding(source, row):
    """Returns the warning about a table whose first row that is_undecoded is a table_reader.Row."""
    text = (
        "%s is not UTF-8 (line %d: %s): letters other than a to z are lost. Save it as UTF-8 (in a spreadsheet, "
        "where it saves; or: iconv -f WINDOWS-1252 -t UTF-8 %s > utf8.tsv)"
        % (source, row.line, ascii(row.label if _has_bytes(row.label) else row.file), shlex.quote(source))
    )
    return warning("encoding", text, file=source, line=row.line)


def of_labels(sources):
    """Returns the warnings about names of classes. sources: [(table or folder, list of Photo)], one for each split."""
    counts = collections.Counter(photo.label for _, photos in sources for photo in photos)
    warnings = [_split_folders(source, photos) for source, photos in sources]
    warnings += [
        _similar_labels(counts),
        _labels_that(
            "broken_labels",
            [label for label in counts if _is_decoded_wrongly(label)],
            "were decoded wrongly when they were written: save the table anew from its source, as UTF-8",
        ),
        _labels_that(
            "number_labels",
            counts if all(_is_number(label) for label in counts) and any("." in label for label in counts) else [],
            "are numbers with decimals: is the column label one of measured values, or were whole numbers changed?",
        ),
        _labels_that(
            "file_labels",
            [label for label in counts if label.lower().endswith(tuple(formats.SUFFIXES))],
            "are names of photos: give the class of each photo in the column label",
        ),
        _labels_that(
            "missing_labels",
            [label for label in counts if label.strip().lower() in _NO_VALUE],
            "are what programs write for a value that is not there: leave these rows out, or give them a label",
        ),
    ]
    warnings += [_unknown_class(label) for label in sorted(counts) if is_unknown(label)]
    return [one for one in warnings if one]


def _split_folders(source, photos):
    """Warns of train/apple, val/apple and apple/train; not of the class train (a toy) beside others."""
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
    text = f"{source}: {what}: taken for classes, or for a part of their names, and not for splits: {advice}"
    return warning("split_folders", text, source=source, names=names + sorted(inner - set(names)))


def _similar_labels(counts):
    groups = collections.defaultdict(list)
    for label in sorted(counts):
        groups[_bare(label)].append(label)
    similar = [group for _, group in sorted(groups.items()) if len(group) > 1]
    if not similar:
        return None
    shown = [
        " and ".join(f"{_told_apart(label, group)} ({_photos(counts[label])})" for label in group) for group in similar
    ]
    return warning(
        "similar_labels",
        "labels that differ only in case, spaces or Unicode form are different classes: %s; write each in one way"
        % _listed(shown, "; "),
        groups=[[{"label": label, "photos": counts[label]} for label in group] for group in similar],
    )


def _bare(label):
    """Returns a label without case, Unicode form, spaces and what is invisible."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    return "".join(char for char in folded if not char.isspace() and unicodedata.category(char) not in ("Cc", "Cf"))


def _told_apart(label, group):
    """Shows a label of a group so that it differs from the others for the eye, too."""
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


def _labels_that(kind, labels, what):
    labels = sorted(labels)
    if not labels:
        return None
    return warning(kind, f"{_classes(labels)}: {_listed(map(repr, labels))} {what}", labels=labels)


def _unknown_class(label):
    text = (
        "the class %r cannot be told from the answer `unknown` of `picnic-edge classify --threshold`: give it another "
        "name" % label
    )
    return warning("unknown_class", text, label=label)


# ---- how many there are


def of_counts(training, validated=None):
    """Returns the warnings about classes.

    Args:
        training: {label: usable photos}.
        validated: labels that have validation photos; None where there is no validation yet.
    """
    warnings, every = [], sum(training.values())
    for label, count in sorted(training.items()):
        if len(training) > 1 and count > DOMINANT * every:
            text = (
                "%r has %d of the %d photos: a network that always answers it is right for %.0f %% of them; look at "
                "macro-F1, not at accuracy, and give more photos of the others"
                % (label, count, every, 100.0 * count / every)
            )
            warnings.append(warning("one_class", text, label=label, share=round(float(count) / every, 4)))
    few = {label: count for label, count in training.items() if 0 < count < FEW}
    if few:
        shown = [f"{label!r} ({few[label]})" for label in sorted(few, key=lambda label: (few[label], label))]
        text = "%s with fewer than %d photos: %s: too few to learn from, and to tell how well that went" % (
            _classes(few),
            FEW,
            _listed(shown),
        )
        warnings.append(warning("few_photos", text, classes=few))
    if validated is not None:
        missing = sorted(label for label in training if training[label] and label not in validated)
        if missing:
            text = "%s without any validation photo: %s: accuracy there is not known" % (
                _classes(missing),
                _listed(map(repr, missing)),
            )
            warnings.append(warning("unvalidated", text, labels=missing))
    return warnings


def of_sources(rows):
    """Returns the warnings about classes whose photos come from another camera or program than all others'.

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
            label: min(found)
            for label, found in values.items()
            if counts[label] >= FEW and len(found) == 1 and owners[min(found)] == {label}
        }
        if own and len(counts) > 1:
            classes = {label: "%d x %d" % value if kind == "one_size" else value for label, value in own.items()}
            text = (
                "%s whose photos all have one %s that no other class has: %s: the network may learn that, not what "
                "is on the photos"
                % (
                    _classes(own),
                    what,
                    _listed("%r (%s)" % pair for pair in sorted(classes.items())),
                )
            )
            warnings.append(warning(kind, text, classes=classes))
    return warnings


# ---- photos that look alike


def of_views(labels, groups):
    """Returns the warnings about classes whose photos all look alike.

    Args:
        labels: of each photo.
        groups: lists of indices of photos of one class that look alike (train.data.similarity.frame_groups).
    """
    counts = collections.Counter(labels)
    views = sorted(labels[group[0]] for group in groups if len(group) == counts[labels[group[0]]])
    if not views:
        return []
    text = (
        "%s whose photos all look alike, as the frames of a film do: %s: accuracy elsewhere is not known; give photos "
        "of other places and days" % (_classes(views), _listed(map(repr, views)))
    )
    return [warning("one_view", text, labels=views)]


def of_conflicts(groups, advice):
    """Returns the warnings about photos that look the same and have several labels.

    Args:
        groups: lists of them.
        advice: how to see them.
    """
    if not groups:
        return []
    photos = sum(map(len, groups))
    text = (
        "%d %s of photos that look the same, %d photos, have several labels: labels are wrong, or the products are too "
        "small on the photos; %s" % (len(groups), "group" if len(groups) == 1 else "groups", photos, advice)
    )
    return [warning("conflicts", text, groups=len(groups), photos=photos)]


def of_leak(count, validation, advice):
    """Returns the warnings about `count` of the validation photos that look like training photos."""
    if not count:
        return []
    text = (
        "%d of %d validation photos look like a training photo: accuracy may be higher on them than on new photos; %s"
        % (
            count,
            validation,
            advice,
        )
    )
    return [warning("leak", text, photos=count, of=validation)]


def of_val_split(share, clamped, held_out, photos):
    """Returns the warnings about --val-split where it came to none or all photos of `clamped` classes."""
    if not clamped:
        return []
    text = (
        "--val-split %g comes to none or all of the photos of %s: one of them was left on that side; in all %d of %d "
        % (
            share,
            f"{clamped} classes" if clamped > 1 else "1 class",
            held_out,
            photos,
        )
    )
    text += f"photos are validation photos, {100.0 * held_out / photos:.1f} %"
    return [warning("val_split", text, classes=clamped, photos=held_out, share=round(float(held_out) / photos, 4))]


def _has_bytes(text):
    return any("\udc80" <= char <= "\udcff" for char in text)


def _photos(count):
    return "1 photo" if count == 1 else f"{count} photos"


def _classes(labels):
    return "1 class" if len(labels) == 1 else f"{len(labels)} classes"


def _listed(texts, between=", "):
    texts = list(texts)
    more = f"{between}and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return between.join(texts[:_SHOWN]) + more
