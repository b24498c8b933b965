"""picnic-edge explain"""

import argparse
import os
import re
import typing

import cv2
import numpy as np

from edge_runtime import files
from edge_runtime.bundle.bundle import OUTPUT_NAME, Bundle
from edge_runtime.classifier import Prediction
from edge_runtime.cli.command import progress, say
from edge_runtime.errors import ImageError, UsageError
from edge_runtime.machine.requirements import require
from edge_runtime.photos import images
from edge_runtime.sources.sources import Item, open_source, reason_of
from edge_runtime.text import printable
from train.data import data
from train.insight import heat, inner, pages

PAGE = "explain.html"
_BATCH = 16  # photos whose feature maps are in memory together
_TOP, _HEATS = 3, 2  # best labels with a bar, and with a heat map
_COLUMNS, _ROWS = 8, 4  # channels in a picture of feature maps
_CELL, _GAP = 70, 2  # pixels
_GREY = 128  # of the gaps: seen on light pages and on dark ones
_PAGE_BYTES = 12 << 20  # of pictures in the page
_PAGE_PROBLEMS = 1000
_OWN_PICTURE = re.compile("-(heat|%s)[.]png$" % "|".join(inner.BLOCKS))
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


def parser():
    """Returns the argument parser of `picnic-edge explain`."""
    this = argparse.ArgumentParser(
        prog="picnic-edge explain",
        description="Show what the network looks at: heat maps of the places that speak for a label, feature maps of "
        "some blocks, and a page with all of it.",
        epilog="example: picnic-edge explain bundle photo.jpg --out explained",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train`")
    this.add_argument(
        "sources",
        nargs="+",
        metavar="IMAGE",
        help="an image, a folder (recursive), a glob in quotes, a .tsv with a column `file`, or -",
    )
    this.add_argument("--images", metavar="DIR", help="where a TSV's file names start (default: the TSV's folder)")
    this.add_argument("--out", metavar="DIR", required=True, help="where the pictures and %s are written" % PAGE)
    this.add_argument(
        "--blocks",
        default="mixed0,mixed2,mixed5,mixed10",
        metavar="B,B",
        help="blocks to show, out of mixed0 (earliest) ... mixed10 (default %(default)s)",
    )
    this.add_argument("--class", dest="label", metavar="LABEL", help="heat for this class (default: the best label)")
    return this


def main(argv=None):
    """Writes the pictures and the page. Raises PicnicError as the exit codes say."""
    options = parser().parse_args(argv)
    blocks = [block.strip() for block in options.blocks.split(",")]
    for block in blocks:
        if block not in inner.BLOCKS:
            raise UsageError("--blocks %s: no such block; there are %s" % (block, ", ".join(inner.BLOCKS)))
    require("jinja2")  # before work starts
    bundle = Bundle.open(options.bundle)
    if options.label is not None and options.label not in bundle.class_names:
        raise UsageError(
            "--class %s: the bundle has no such class; it has %s" % (options.label, ", ".join(bundle.class_names))
        )
    items = list(_items(options.sources, options.images, os.path.realpath(options.out)))
    if not items:
        raise UsageError("%s: no photo there" % ", ".join(options.sources))
    session = inner.open_session(bundle, sorted({heat.LAST_BLOCK, OUTPUT_NAME} | set(blocks)))
    problems: typing.List[data.Problem] = []
    found = _explain(session, bundle.class_names, items, blocks, options.label, problems)
    try:
        os.makedirs(options.out, exist_ok=True)
        explained, shown = _write_pictures(options.out, found, {os.path.realpath(item.path) for item in items})
        pages.write_page(
            os.path.join(options.out, PAGE),
            PAGE,
            title="What the network looks at",
            bundle_id=bundle.id,
            class_count=len(bundle.class_names),
            last_block=heat.LAST_BLOCK,
            channel_count=_COLUMNS * _ROWS,
            explained=explained,
            photos=shown,
            problems=[(printable(name), what) for name, what in problems[:_PAGE_PROBLEMS]],
            problem_count=len(problems),
        )
    except OSError as error:
        raise UsageError("--out %s: cannot be written (%s)" % (options.out, error.strerror))
    data.report_problems(problems, None, strict=False)
    if len(shown) < explained:
        say("the page shows the first %d of %d photos; the pictures of all are beside it" % (len(shown), explained))
    noun = "photo" if explained == 1 else "photos"
    say("%d %s explained, written to %s" % (explained, noun, os.path.join(options.out, PAGE)))


def feature_maps(block):
    """Draws the channels of a block that answer most to a photo, the strongest first.

    Args:
        block: float32 [height, width, channels], the block's output for one photo.

    Returns:
        uint8 [4 rows, 8 columns of 70 pixels each, gaps of 2 pixels, 3], RGB: dark to bright from each channel's least
        to its greatest value. Strong is a channel with a great mean.
    """
    strongest = np.argsort(-block.mean(axis=(0, 1)), kind="stable")[: _COLUMNS * _ROWS]
    sheet = np.full((_ROWS * (_CELL + _GAP) - _GAP, _COLUMNS * (_CELL + _GAP) - _GAP, 3), _GREY, np.uint8)
    for place, channel in enumerate(strongest):
        values = block[:, :, channel] - block[:, :, channel].min()
        grey = np.round(255 * values / max(values.max(), np.finfo(np.float32).tiny)).astype(np.uint8)
        # Nearest: the reader sees how fine the network sees.
        cell = cv2.resize(grey, (_CELL, _CELL), interpolation=cv2.INTER_NEAREST)
        top, left = (index * (_CELL + _GAP) for index in divmod(place, _COLUMNS))
        coloured = cv2.applyColorMap(cell, cv2.COLORMAP_VIRIDIS)
        sheet[top : top + _CELL, left : left + _CELL] = cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB)
    return sheet


def _items(sources, images_folder, out):
    """Yields the Items of all sources, without what an earlier run wrote to the folder out (a real path).

    Where there are other sources, one that cannot be opened is an unreadable photo.
    """
    for source in sources:
        try:
            for item in open_source(source, images_folder):
                folder, name = os.path.split(os.path.realpath(item.path))
                if item.path == source or folder != out or not _OWN_PICTURE.search(name):
                    yield item
        except UsageError as error:
            if len(sources) == 1:
                raise
            yield Item(source, source, str(error))


def _explain(session, class_names, items, blocks, label, problems):
    """Yields Explained for each readable photo, in order; adds the others to problems."""
    with progress(total=len(items), what="explain") as bar:
        for start in range(0, len(items), _BATCH):
            batch = items[start : start + _BATCH]
            readable, pictures = [], []
            for item in batch:
                try:
                    if item.problem:
                        raise ImageError(item.problem)
                    pictures.append(images.read_image(item.path))
                    readable.append(item)
                except ImageError as error:
                    problems.append(data.Problem(item.name, item.problem or reason_of(item, error)))
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


def _write_pictures(folder, found, inputs):
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
        while any(os.path.join(root, "%s-%s.png" % (name, kind)) in inputs for kind in ["heat"] + list(sheets)):
            name = _unused_name(photo.item.path, used)
        for suffix, rgb in [("heat", heats[0][1])] + list(sheets.items()):
            _write_png(os.path.join(folder, "%s-%s.png" % (name, suffix)), rgb)
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
        name = "%s-%d" % (stem, used[stem])
    used[name] = 1
    return name


def _write_png(path, rgb):
    _, encoded = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    with files.whole_file(path) as file:
        file.buffer.write(encoded.tobytes())
