"""picnic-edge explain"""

import os
import re
import typing

import cv2
import numpy as np

from edge_runtime import files
from edge_runtime.bundle.manifest import OUTPUT_NAME
from edge_runtime.classifier import Prediction
from edge_runtime.console import progress
from edge_runtime.errors import ImageError
from edge_runtime.photos import read
from edge_runtime.sources.items import Item
from edge_runtime.sources.storage import reason_of
from edge_runtime.text import printable
from train.data.labels import Problem
from train.insight import heat, inner, pages

PAGE = "explain.html"

_BATCH = 16  # photos whose feature maps are in memory together

_TOP, _HEATS = 3, 2  # best labels with a bar, and with a heat map

GRID_COLUMNS, GRID_ROWS = 8, 4  # channels in a picture of feature maps

_CELL, _GAP = 70, 2  # pixels

_GREY = 128  # of the gaps: seen on light pages and on dark ones

_PAGE_BYTES = 12 << 20  # of pictures in the page

PAGE_PROBLEMS = 1000

OWN_PICTURE = re.compile(f"-(heat|{'|'.join(inner.BLOCKS)})[.]png$")

_NAME_BYTES = 200  # file systems allow 255, with what is put behind it


Explained = typing.NamedTuple(
    "Explained",
    [
        ("item", Item),
        ("rgb", np.ndarray),  # uint8 [299, 299, 3], as the network sees it
        ("top", list),  # [(label, confidence)], best first
        ("heats", list),  # [(label, float32 [299, 299], 0..1)], the one that was asked for first
        ("blocks", dict),  # {block: float32 [height, width, channels]}
    ],
)


def feature_maps(block):
    """Draws the channels of a block that answer most to a photo, the strongest first.

    Args:
        block: float32 [height, width, channels], the block's output for one photo.

    Returns:
        uint8 [4 rows, 8 columns of 70 pixels each, gaps of 2 pixels, 3], RGB: dark to bright from each channel's least
        to its greatest value. Strong is a channel with a great mean.
    """
    strongest = np.argsort(-block.mean(axis=(0, 1)), kind="stable")[: GRID_COLUMNS * GRID_ROWS]
    sheet = np.full((GRID_ROWS * (_CELL + _GAP) - _GAP, GRID_COLUMNS * (_CELL + _GAP) - _GAP, 3), _GREY, np.uint8)
    for place, channel in enumerate(strongest):
        values = block[:, :, channel] - block[:, :, channel].min()
        grey = np.round(255 * values / max(values.max(), np.finfo(np.float32).tiny)).astype(np.uint8)
        # Nearest: the reader sees how fine the network sees.
        cell = cv2.resize(grey, (_CELL, _CELL), interpolation=cv2.INTER_NEAREST)
        top, left = (index * (_CELL + _GAP) for index in divmod(place, GRID_COLUMNS))
        coloured = cv2.applyColorMap(cell, cv2.COLORMAP_VIRIDIS)
        sheet[top : top + _CELL, left : left + _CELL] = cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB)
    return sheet


def explain_photos(session, class_names, items, blocks, label, problems):
    """Yields Explained for each readable photo, in order; adds the others to problems."""
    with progress(total=len(items), what="explain") as bar:
        for start in range(0, len(items), _BATCH):
            batch = items[start : start + _BATCH]
            readable, pictures = [], []
            for item in batch:
                try:
                    if item.problem:
                        raise ImageError(item.problem)
                    pictures.append(read.read_image(item.path))
                    readable.append(item)
                except ImageError as error:
                    problems.append(Problem(item.name, item.problem or reason_of(item, error)))
            if pictures:
                outputs = session.run(np.stack(pictures))
                for index, (item, rgb) in enumerate(zip(readable, pictures)):
                    found = Prediction(item.name, class_names, outputs[OUTPUT_NAME][index])
                    labels = [best for best, _ in found.top(_HEATS)]
                    if label is not None:
                        labels = [label] + [best for best in labels if best != label]
                    last_block = np.stack([outputs[heat.LAST_BLOCK][index]] * len(labels))
                    maps = heat.grad_cam(last_block, session.kernel, [class_names.index(name) for name in labels])
                    inside = {block: outputs[block][index] for block in blocks}
                    yield Explained(item, rgb, found.top(_TOP), list(zip(labels, maps)), inside)
            bar.update(len(batch))


def write_pictures(folder, found, inputs):
    """Writes the PNGs of each Explained, none of them over one of the inputs (real paths).

    Returns:
        (their number, what the page shows of the first ones).
    """
    used: typing.Dict[str, int] = {}
    root = os.path.realpath(folder)
    shown: typing.List[dict] = []
    explained = page_bytes = 0
    for photo in found:
        explained += 1
        heats = [(label, heat.overlay(photo.rgb, hot), bool(hot.any())) for label, hot in photo.heats]
        sheets = {block: feature_maps(array) for block, array in photo.blocks.items()}
        name = _unused_name(photo.item.path, used)
        while any(os.path.join(root, f"{name}-{kind}.png") in inputs for kind in ["heat"] + list(sheets)):
            name = _unused_name(photo.item.path, used)
        for suffix, rgb in [("heat", heats[0][1])] + list(sheets.items()):
            _write_png(os.path.join(folder, f"{name}-{suffix}.png"), rgb)
        if page_bytes < _PAGE_BYTES:
            entry = {
                "name": printable(photo.item.name),
                "file_name": printable(name),
                "picture": pages.picture(photo.rgb),
                "heats": [(label, pages.picture(rgb), speaks) for label, rgb, speaks in heats],
                "top": photo.top,
                "blocks": [(block, pages.picture(sheets[block]), array.shape) for block, array in photo.blocks.items()],
            }
            data_urls = [entry["picture"]] + [each[1] for each in entry["heats"] + entry["blocks"]]
            page_bytes += sum(len(url) for url in data_urls)
            shown.append(entry)
    return explained, shown


def _unused_name(path, used):
    """Returns the name of a photo's pictures: its own without suffix, numbered where another photo has that name.

    used: {name: the number that it was given last}.
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
