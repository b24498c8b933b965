"""The verb explain."""

import argparse
import os
import typing

from edge_runtime import files
from edge_runtime.bundle.manifest import OUTPUT_NAME
from edge_runtime.bundle.reading import Bundle
from edge_runtime.console import say
from edge_runtime.errors import UsageError
from edge_runtime.machine.libraries import require
from edge_runtime.sources.items import Item
from edge_runtime.sources.registry import open_source
from edge_runtime.text import printable
from train.data import checks
from train.data.labels import Problem
from train.insight import heat, inner, pages
from train.insight.explain import (
    GRID_COLUMNS,
    GRID_ROWS,
    OWN_PICTURE,
    PAGE,
    PAGE_PROBLEMS,
    explain_photos,
    write_pictures,
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
    this.add_argument("--out", metavar="DIR", required=True, help=f"where the pictures and {PAGE} are written")
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
            raise UsageError(f"--blocks {block}: no such block; there are {', '.join(inner.BLOCKS)}")
    require("jinja2")  # before work starts
    bundle = Bundle.open(options.bundle)
    if options.label is not None and options.label not in bundle.class_names:
        raise UsageError(
            f"--class {options.label}: the bundle has no such class; it has {', '.join(bundle.class_names)}"
        )
    items = list(_items(options.sources, options.images, os.path.realpath(options.out)))
    if not items:
        raise UsageError(f"{', '.join(options.sources)}: no photo there")
    session = inner.open_session(bundle, sorted({heat.LAST_BLOCK, OUTPUT_NAME} | set(blocks)))
    problems: typing.List[Problem] = []
    found = explain_photos(session, bundle.class_names, items, blocks, options.label, problems)
    with files.named(f"--out {options.out}"):
        os.makedirs(options.out, exist_ok=True)
        explained, shown = write_pictures(options.out, found, {os.path.realpath(item.path) for item in items})
        pages.write_page(
            os.path.join(options.out, PAGE),
            PAGE,
            title="What the network looks at",
            bundle_id=bundle.id,
            class_count=len(bundle.class_names),
            last_block=heat.LAST_BLOCK,
            channel_count=GRID_COLUMNS * GRID_ROWS,
            explained=explained,
            photos=shown,
            problems=[(printable(name), what) for name, what in problems[:PAGE_PROBLEMS]],
            problem_count=len(problems),
        )
    checks.report_problems(problems, None, strict=False)
    if len(shown) < explained:
        say(f"the page shows the first {len(shown)} of {explained} photos; the pictures of all are beside it")
    noun = "photo" if explained == 1 else "photos"
    say(f"{explained} {noun} explained, written to {os.path.join(options.out, PAGE)}")


def _items(sources, images_folder, out):
    """Yields the Items of all sources, without what an earlier run wrote to the folder out (a real path).

    Where there are other sources, one that cannot be opened is an unreadable photo.
    """
    for source in sources:
        try:
            for item in open_source(source, images_folder):
                folder, name = os.path.split(os.path.realpath(item.path))
                if item.path == source or folder != out or not OWN_PICTURE.search(name):
                    yield item
        except UsageError as error:
            if len(sources) == 1:
                raise
            yield Item(source, source, str(error))
