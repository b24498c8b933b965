"""What explore.html shows: values for the template explore.html."""

import collections
import typing

import numpy as np

from edge_runtime.text import printable
from train.data import similarity
from train.insight import explore, label_errors, pages

# How much of each kind the page shows, so that it stays below 15 MB; explore.json has everything.
_GROUPS = 40
_GROUP_PHOTOS = 6
_FLAWED = 24
_ISSUES = 100
_ROWS = 200
_SHEET_PHOTOS = 1000  # of all contact sheets together
_SHEET_PHOTOS_PER_CLASS = 5
_BLUE, _ORANGE = "#3b82c4", "#d9822b"  # readable on light and on dark


def write_page(path, document, readable):
    """Writes explore.html.

    Args:
        path: the file.
        document: that of explore.json.
        readable: list of train.insight.explore.ReadablePhoto.

    Raises:
        OSError: the file cannot be written.
    """
    groups = document["duplicates"]
    leaks = [group for group in groups if group["across_splits"]]
    conflicts = [group for group in groups if group["several_labels"] and not group["across_splits"]]
    others = [group for group in groups if not group["across_splits"] and not group["several_labels"]]
    check = document["label_check"]
    pages.write_page(
        path,
        "explore.html",
        title="Labelled photos",
        document=document,
        thumbnails={(one.split, one.photo.file): one.facts.thumbnail for one in readable},
        printable=printable,
        leaks=_cut(leaks, _GROUPS),
        conflicts=_cut(conflicts, _GROUPS),
        others=_cut(others, _GROUPS),
        pick=pick,
        flaws=[(flaw, len(document[flaw]), _cut(document[flaw], _FLAWED)) for flaw in explore.FLAWS],
        problems=_cut(document["problems"], _ROWS),
        wrong_suffixes=_cut(document["wrong_suffixes"], _ROWS),
        issues=_cut(check["issues"], _ISSUES) if check else None,
        folds=label_errors.FOLDS,
        bits=similarity.HASH_BITS,
        max_photos=max([row[split["name"]] for row in document["classes"] for split in document["splits"]] or [1]),
        plots=_plots([one.facts for one in readable]) if readable else [],
        sheets=_cut(contact_sheets(readable), _SHEET_PHOTOS),
    )


def _cut(rows, limit):
    """Returns (the first rows, the number of rows left out)."""
    return rows[:limit], max(0, len(rows) - limit)


def pick(photos):
    """Chooses photos of a group to show: one of each split and label before a second one.

    Args:
        photos: list of dicts with "split" and "label".

    Returns:
        (the chosen ones, the number of photos left out).
    """
    counts: typing.Dict[tuple, int] = collections.Counter()
    order = []
    for photo in photos:
        kind = (photo["split"], photo["label"])
        order.append(counts[kind])
        counts[kind] += 1
    return _cut([photo for _, photo in sorted(zip(order, photos), key=lambda pair: pair[0])], _GROUP_PHOTOS)


def contact_sheets(readable):
    """Returns [(label, number of photos, a few of them as dicts, spread over the class)], sorted by label.

    Args:
        readable: list of train.insight.explore.ReadablePhoto.
    """
    by_label = collections.defaultdict(list)
    for one in readable:
        by_label[one.photo.label].append({"split": one.split, "file": one.photo.file})
    limit = min(max(1, _SHEET_PHOTOS // max(1, len(by_label))), _SHEET_PHOTOS_PER_CLASS)
    sheets = []
    for label, photos in sorted(by_label.items()):
        places = np.linspace(0, len(photos) - 1, min(limit, len(photos))).astype(int)
        sheets.append((label, len(photos), [photos[place] for place in places]))
    return sheets


def _plots(facts):
    """Returns [(title, SVG)] of the photos' widths and heights, proportions and file sizes."""
    lengths = _figure("pixels")
    values = [[fact.width for fact in facts], [fact.height for fact in facts]]
    lengths.axes[0].hist(values, explore.BINS, color=[_BLUE, _ORANGE], label=["width", "height"])
    lengths.axes[0].legend(frameon=False, labelcolor="#808890")
    lengths.axes[0].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    ratios = _figure("width / height")
    ratios.axes[0].hist([fact.width / fact.height for fact in facts], explore.BINS, color=_BLUE)
    sizes = _figure("kilobytes")
    sizes.axes[0].hist([fact.size_bytes / 1000 for fact in facts], explore.BINS, color=_BLUE)
    titles = ("Width and height", "Proportions", "File size")
    return [(title, pages.svg(figure)) for title, figure in zip(titles, (lengths, ratios, sizes))]


def _figure(label):
    figure = pages.new_figure(3.6, 2.3)
    figure.axes[0].set(xlabel=label, ylabel="photos")
    figure.axes[0].set_axisbelow(True)
    return figure
