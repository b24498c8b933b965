"""What a run measures: which photos, which batch sizes, for how long."""

import os
import typing

import cv2

from convert import reference
from edge_runtime.console import say
from edge_runtime.engines.selection import open_engine
from edge_runtime.errors import ImageError, UsageError
from edge_runtime.photos import read
from edge_runtime.sources.registry import open_source

# Of an end-to-end window, which classifies all of them once or more often. Four batches: where a photo takes a tenth of
# a second, ten windows of four engines take two minutes.
MAX_PHOTOS = 32


class Plan(typing.NamedTuple):
    """What a run measures, and how."""

    batches: typing.List[int]  # photos per call, ascending
    seconds: float  # length of a measurement: turns.MIN_WINDOWS windows together
    items: list  # edge_runtime.sources.items.Item of the end-to-end runs
    photo: str  # path of a readable photo, for the cold start
    labelled: list  # what convert.reference.labelled_photos returns, [] for none
    loadgen: str  # mode, "" for none
    loadgen_logs: str  # folder for its logs
    opener: typing.Callable  # edge_runtime.engines.selection.open_engine, or a function with the same arguments


def make_plan(bundle, options, scratch):
    """Returns the Plan of a command line. The photos are read once, so that bad ones are known before measuring.

    Args:
        bundle: an open Bundle.
        options: of benchmarks.bench.cli.parser.
        scratch: an existing folder that stays until the run is over.

    Raises:
        UsageError: no photo, none that can be read, or no usable label.
    """
    labelled = reference.labelled_photos(bundle, options.labels, options.images) if options.labels else []
    if options.images:
        items = [item for item in open_source(options.images) if not item.problem]
        origin = f"--images {options.images}"
    elif labelled:
        items, origin = [item for item, _ in labelled], f"--labels {options.labels}"
    else:
        items, origin = list(open_source(_write_sample(bundle, os.path.join(scratch, "photos")))), "the sample"
    items = readable(reference.spread(items, MAX_PHOTOS), origin, bundle.input_spec)
    return Plan(
        batches=sorted({1} | set(options.batch)),
        seconds=options.seconds,
        items=items,
        photo=os.path.abspath(items[0].path),
        labelled=labelled,
        loadgen=options.loadgen or "",
        loadgen_logs=os.path.join(options.report or scratch, "loadgen"),
        opener=open_engine,
    )


def readable(items, origin, input_spec):
    """Returns the items whose photos can be read. Says how many cannot.

    Args:
        items: list of edge_runtime.sources.items.Item.
        origin: where they come from, for messages.
        input_spec: edge_runtime.photos.spec.InputSpec of the network.

    Raises:
        UsageError: there is no readable photo.
    """
    if not items:
        raise UsageError(f"{origin}: no photo in it")
    usable = [item for item in items if not item.problem and _is_readable(item.path, input_spec)]
    if not usable:
        raise UsageError(f"{origin}: none of the {len(items)} photos can be read")
    if len(usable) < len(items):
        say(f"{origin}: {len(items) - len(usable)} of {len(items)} photos cannot be read and are left out")
    return usable


def _is_readable(path, input_spec):
    try:
        read.read_image(path, input_spec)
        return True
    except ImageError:
        return False


def _write_sample(bundle, folder):
    os.makedirs(folder)
    for number, rgb in enumerate(bundle.sample().images):
        cv2.imwrite(os.path.join(folder, f"{number:03d}.jpg"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    return folder
