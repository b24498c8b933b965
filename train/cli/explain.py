"""The verb explain: its options, and what it prints."""

import argparse
import os

from edge_runtime import files
from edge_runtime.bundle.manifest import require_outside
from edge_runtime.bundle.reading import Bundle
from edge_runtime.console import say
from edge_runtime.errors import UsageError
from edge_runtime.machine.libraries import require
from train.data import checks
from train.insight import explain, heat, inner

_BLOCKS = ("mixed0", "mixed2", "mixed5", "mixed10")  # from edges to whole objects


def parser():
    """Returns the argument parser of `picnic-edge explain`."""
    this = argparse.ArgumentParser(
        prog="picnic-edge explain",
        description="Show what the network looks at: heat maps of the places that speak for a label, feature maps of "
        "some blocks, and a page with both.",
        epilog="example: picnic-edge explain bundle photo.jpg --out explained",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train` or `import`")
    this.add_argument(
        "sources",
        nargs="+",
        metavar="IMAGE",
        help="an image, a folder (recursive), a glob in quotes, a .tsv with a column `file`, or - for names on stdin",
    )
    this.add_argument("--images", metavar="DIR", help="where a TSV's file names start (default: the TSV's folder)")
    this.add_argument("--out", metavar="DIR", required=True, help=f"folder to write the pictures and {explain.PAGE} to")
    this.add_argument(
        "--blocks",
        metavar="B,B",
        help="blocks of an InceptionV3 to show feature maps of: mixed0 (earliest) to mixed10 "
        f"(default {','.join(_BLOCKS)}; of other networks none)",
    )
    this.add_argument(
        "--class",
        dest="label",
        metavar="LABEL",
        help="show the heat for this class (default: each photo's best label)",
    )
    return this


def main(argv=None):
    """Writes the pictures and the page. Raises PicnicError as the exit codes say."""
    options = parser().parse_args(argv)
    chosen = [] if options.blocks is None else [block.strip() for block in options.blocks.split(",")]
    for block in chosen:
        if block not in inner.BLOCKS:
            raise UsageError(f"--blocks {block}: no such block; expected some of {', '.join(inner.BLOCKS)}")
    require("jinja2")  # before work starts
    bundle = Bundle.open(options.bundle)
    require_outside(options.out, options.bundle, "--out")
    if options.label is not None and options.label not in bundle.class_names:
        raise UsageError(
            f"--class {options.label}: the bundle has no such class; it has {', '.join(bundle.class_names)}"
        )
    items = explain.items_of(options.sources, options.images, options.out)
    if not items:
        raise UsageError(f"{', '.join(options.sources)}: no photo there")
    session = heat.open_session(bundle, chosen or _BLOCKS)
    blocks = [block for block in chosen or _BLOCKS if block in session.outputs]
    if chosen and not blocks:
        raise UsageError(f"--blocks {options.blocks}: the bundle's network is no InceptionV3; leave the option out")
    if not blocks:
        say("no feature maps: the network is no InceptionV3")
    with files.named(f"--out {options.out}"):
        explained, on_page, problems, is_computed = explain.write_explanations(
            options.out, bundle, session, items, blocks, options.label
        )
    checks.report_problems(problems, None, strict=False)
    if not is_computed:
        say(
            f"heat maps by occlusion, {heat.RUNS} runs of the network for each photo: it does not end in the mean over "
            "enough places and one dense layer, from which they could be computed"
        )
    if on_page < explained:
        say(f"the page shows the first {on_page} of {explained} photos; the pictures of all are in the same folder")
    noun = "photo" if explained == 1 else "photos"
    say(f"{explained} {noun} explained, written to {os.path.join(options.out, explain.PAGE)}")
