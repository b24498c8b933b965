"""What a network looks at in photos: heat maps, feature maps, and a page with both."""

import os
import re
import typing

import cv2
import numpy as np

from edge_runtime import files
from edge_runtime.bundle.manifest import OUTPUT_NAME
from edge_runtime.classifier import Prediction
from edge_runtime.console import progress
from edge_runtime.errors import ImageError, UsageError
from edge_runtime.photos import read
from edge_runtime.sources.items import Item
from edge_runtime.sources.registry import open_source
from edge_runtime.sources.storage import reason_of
from edge_runtime.text import printable
from train.data.labels import Problem
from train.insight import heat, inner, pages

PAGE = "explain.html"
_BATCH = 16  # photos whose feature maps are in memory together
_TOP, _HEATS = 3, 2  # best labels with a bar, and with a heat map
_COLUMNS, _ROWS = 8, 4  # channels in a picture of feature maps
_CELL, _GAP = 70, 2  # pixels
_GREY = 128  # of the gaps: visible on light pages and on dark ones
PAGE_BYTES = 12 << 20  # of pictures in the page
PAGE_PROBLEMS = 1000  # unreadable photos that the page names
_OWN_PICTURE = re.compile(f"-(heat|{'|'.join(inner.BLOCKS)})[.]png$")
_NAME_BYTES = 200  # file systems allow 255, with what is appended to it


class Explanation(typing.NamedTuple):
    """What the network looks at in one photo."""

    item: Item
    rgb: np.ndarray  # uint8 [height, width, 3], as the network sees it
    top: list  # [(label, confidence)], best first
    heats: list  # [(label, float32 [height, width], 0..1)], the chosen label first
    blocks: dict  # {block: float32 [height, width, channels]}
    places: typing.Optional[tuple]  # of train.insight.heat.places_of


class Written(typing.NamedTuple):
    """What write_explanations wrote."""

    explained: int  # photos with pictures
    on_page: int  # photos on the page, at most as many
    problems: list  # Problem of each photo that cannot be read
    is_computed: bool  # the heat maps; else they were measured by covering parts of the photos


def items_of(sources, images_folder, out):
    """Returns the Items of all sources, without the pictures that an earlier run wrote to a folder.

    Args:
        sources: list of images, folders, glob patterns, tables, or "-" for names on standard input. Where there are
            several, one that cannot be opened is an unreadable photo.
        images_folder: where a table's file names start, or None.
        out: the folder of the pictures.

    Raises:
        UsageError: the only source cannot be opened.
    """
    out = os.path.realpath(out)
    items = []
    for source in sources:
        try:
            for item in open_source(source, images_folder):
                folder, name = os.path.split(os.path.realpath(item.path))
                if item.path == source or folder != out or not _OWN_PICTURE.search(name):
                    items.append(item)
        except UsageError as error:
            if len(sources) == 1:
                raise
            items.append(Item(source, source, str(error)))
    return items


def write_explanations(folder, bundle, session, items, blocks, label=None):
    """Writes the PNGs of every photo, none of them over one of the photos, and the page.

    Args:
        folder: made where it does not exist.
        bundle: edge_runtime.bundle.reading.Bundle.
        session: of train.insight.heat.open_session for the bundle, with the blocks among its outputs.
        items: list of edge_runtime.sources.items.Item.
        blocks: list of names out of inner.BLOCKS.
        label: class to show the heat for; None for the best one of each photo.

    Returns:
        Written.

    Raises:
        OSError: the folder cannot be written. StorageLost: what the photos are read from went away.
    """
    problems: typing.List[Problem] = []
    explanations = explain_photos(session, bundle, items, blocks, label, problems)
    os.makedirs(folder, exist_ok=True)
    explained, photos, places = _write_pictures(folder, explanations, {os.path.realpath(item.path) for item in items})
    pages.write_page(
        os.path.join(folder, PAGE),
        PAGE,
        title="What the network looks at",
        bundle_id=bundle.id,
        class_count=len(bundle.class_names),
        places=places,
        cells=heat.CELLS,
        runs=heat.RUNS,
        blocks=blocks,
        channel_count=_COLUMNS * _ROWS,
        explained=explained,
        photos=photos,
        problems=[(printable(name), what) for name, what in problems[:PAGE_PROBLEMS]],
        problem_count=len(problems),
    )
    return Written(explained, len(photos), problems, places is not None or not explained)


def explain_photos(session, bundle, items, blocks, label, problems):
    """Yields an Explanation of each readable photo, in order; appends a Problem of the others to problems."""
    class_names = bundle.class_names
    with progress(total=len(items), what="explain") as bar:
        for start in range(0, len(items), _BATCH):
            batch = items[start : start + _BATCH]
            readable, pictures = [], []
            for item in batch:
                try:
                    if item.problem:
                        raise ImageError(item.problem)
                    pictures.append(read.read_image(item.path, bundle.input_spec))
                    readable.append(item)
                except ImageError as error:
                    problems.append(Problem(item.name, item.problem or reason_of(item, error)))
            if pictures:
                outputs = session.run(np.stack(pictures))
                for index, (item, rgb) in enumerate(zip(readable, pictures)):
                    own = {name: values[index] for name, values in outputs.items()}
                    prediction = Prediction(item.name, class_names, own[OUTPUT_NAME])
                    labels = [best for best, _ in prediction.top(_HEATS)]
                    if label is not None:
                        labels = [label] + [best for best in labels if best != label]
                    maps = heat.maps_of(session, rgb, own, [class_names.index(name) for name in labels])
                    inside = {block: own[block] for block in blocks}
                    heats = list(zip(labels, maps))
                    yield Explanation(item, rgb, prediction.top(_TOP), heats, inside, heat.places_of(own))
                    bar.update(1)
            bar.update(len(batch) - len(readable))


def feature_maps(block):
    """Draws the channels of a block with the strongest response to a photo, strongest first.

    Args:
        block: float32 [height, width, channels], the block's output for one photo.

    Returns:
        uint8 [286, 574, 3], RGB: 4 rows of 8 channels, 70 pixels each with gaps of 2, dark to bright from each
        channel's smallest to its largest value. The strongest channel is the one with the largest mean.
    """
    strongest = np.argsort(-block.mean(axis=(0, 1)), kind="stable")[: _COLUMNS * _ROWS]
    sheet = np.full((_ROWS * (_CELL + _GAP) - _GAP, _COLUMNS * (_CELL + _GAP) - _GAP, 3), _GREY, np.uint8)
    for place, channel in enumerate(strongest):
        values = block[:, :, channel] - block[:, :, channel].min()
        grey = np.round(255 * values / max(values.max(), np.finfo(np.float32).tiny)).astype(np.uint8)
        # Nearest, so that the places of the block can be told apart.
        cell = cv2.resize(grey, (_CELL, _CELL), interpolation=cv2.INTER_NEAREST)
        top, left = (index * (_CELL + _GAP) for index in divmod(place, _COLUMNS))
        coloured = cv2.applyColorMap(cell, cv2.COLORMAP_VIRIDIS)
        sheet[top : top + _CELL, left : left + _CELL] = cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB)
    return sheet


def _write_pictures(folder, explanations, inputs):
    """Writes the PNGs of each Explanation, none of them over one of the inputs (real paths).

    Returns:
        (number of explanations, what the page shows of the first ones, the places of the heat maps).
    """
    used: typing.Dict[str, int] = {}
    root = os.path.realpath(folder)
    entries: typing.List[dict] = []
    explained = page_bytes = 0
    places = None
    for photo in explanations:
        explained += 1
        places = photo.places
        heats = [(label, heat.overlay(photo.rgb, values), bool(values.any())) for label, values in photo.heats]
        sheets = {block: feature_maps(array) for block, array in photo.blocks.items()}
        name = _unused_name(photo.item.path, used)
        while any(os.path.join(root, f"{name}-{kind}.png") in inputs for kind in ["heat"] + list(sheets)):
            name = _unused_name(photo.item.path, used)
        for suffix, rgb in [("heat", heats[0][1])] + list(sheets.items()):
            _write_png(os.path.join(folder, f"{name}-{suffix}.png"), rgb)
        if page_bytes < PAGE_BYTES:
            entry = {
                "name": printable(photo.item.name),
                "file_name": printable(name),
                "picture": pages.picture(photo.rgb),
                "heats": [(label, pages.picture(rgb), speaks) for label, rgb, speaks in heats],
                "top": photo.top,
                "blocks": [(block, pages.picture(sheets[block]), array.shape) for block, array in photo.blocks.items()],
            }
            page_bytes += len(entry["picture"]) + sum(len(each[1]) for each in entry["heats"] + entry["blocks"])
            entries.append(entry)
    return explained, entries, places


def _unused_name(path, used):
    """Returns the name of a photo's pictures: its own without suffix, numbered where another photo has that name.

    used: {name: its last number}.
    """
    stem = os.fsdecode(os.fsencode(os.path.splitext(os.path.basename(path))[0])[:_NAME_BYTES])
    name = stem
    while name in used:
        used[stem] += 1
        name = f"{stem}-{used[stem]}"
    used[name] = 1
    return name


def _write_png(path, rgb):
    _, encoded = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    with files.atomic_file(path) as file:
        file.buffer.write(encoded.tobytes())
