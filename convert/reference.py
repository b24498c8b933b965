"""The photos that an engine is checked on, and the original's answers to them."""

import concurrent.futures
import functools
import os

import numpy as np

from edge_runtime.bundle.reading import Sample
from edge_runtime.console import progress, say
from edge_runtime.engines.check import without_copies
from edge_runtime.engines.selection import open_engine
from edge_runtime.errors import ImageError, MissingRequirement, UsageError
from edge_runtime.gate.judge import MAX_PHOTOS
from edge_runtime.machine import cpu
from edge_runtime.photos import read
from edge_runtime.sources import registry, storage, table
from edge_runtime.sources.items import Item
from edge_runtime.text import printable

ENOUGH_PHOTOS = 100


def reference_sample(bundle, calibration=None, images_folder=None):
    """Returns the photos to compare on and the original's answers to them (edge_runtime.bundle.reading.Sample).

    Of photos with the same pixels only the first counts: a copy says nothing more about an engine.

    Args:
        bundle: the bundle whose model is the original.
        calibration: folder of photos (or glob, TSV), answered by the bundle's unconverted model; of more than
            MAX_PHOTOS only so many are used, evenly spread. None for the sample in the bundle.
        images_folder: where the file names of a TSV start (default: the TSV's folder).

    Raises:
        UsageError: there is no readable photo. MissingRequirement: no library runs the unconverted model.
    """
    if calibration is None:
        return _warn_if_few(without_copies(bundle.sample()))
    items = list(registry.open_source(calibration, images_folder))
    if len(items) > MAX_PHOTOS:
        say(f"--calibration {calibration}: {MAX_PHOTOS} of its {len(items)} photos are used, evenly spread")
        items = spread(items, MAX_PHOTOS)
    with concurrent.futures.ThreadPoolExecutor(cpu.core_count()) as pool:
        loaded = list(zip(items, pool.map(functools.partial(_read_photo, input_spec=bundle.input_spec), items)))
    for item, picture in loaded:
        if isinstance(picture, ImageError):
            say(f"{printable(item.name)}: {picture} (left out)")
    usable = [(item.name, picture) for item, picture in loaded if not isinstance(picture, ImageError)]
    if not usable:
        raise UsageError(f"--calibration {calibration}: no readable photo in it")
    names = [name for name, _ in usable]
    pictures = np.stack([picture for _, picture in usable])
    with open_original(bundle) as engine:
        starts = progress(range(0, len(pictures), engine.max_batch), what="original", unit=" batches")
        answers = np.concatenate([engine.infer(pictures[start : start + engine.max_batch]) for start in starts])
    return _warn_if_few(without_copies(Sample(names, pictures, [""] * len(names), answers)))


def labelled_photos(bundle, source, images_folder=None):
    """Reads labelled photos for compare_labelled; rows of unknown classes are left out.

    Args:
        bundle: knows the classes.
        source: TSV with the columns `file` and `label`, or a folder of class folders.
        images_folder: where a TSV's file names start (default: the TSV's folder).

    Returns:
        [(edge_runtime.sources.items.Item, index of its class)]. No photo was opened yet.

    Raises:
        UsageError: the source cannot be read, or no row can be used.
    """
    if os.path.isdir(source):
        rows = [(item, os.path.dirname(item.name)) for item in registry.open_source(source)]
    else:
        folder = table.images_folder_of(source, images_folder)
        rows = [
            (Item(row.file, path, row.problem, root), row.label)
            for row, path, root in table.table_rows(source, folder, need_label=True)
        ]
    class_index = {name: index for index, name in enumerate(bundle.class_names)}
    usable = [(item, class_index[label]) for item, label in rows if label in class_index and not item.problem]
    if not usable:
        raise UsageError(f"--labels {source}: no photo with a label that the bundle knows")
    if len(usable) < len(rows):
        say(f"--labels {source}: {len(rows) - len(usable)} of {len(rows)} rows have no usable name or label")
    return usable


def spread(items, count):
    """Returns at most count items of a list, evenly spread, the same ones every time."""
    count = min(len(items), count)
    return [items[number * len(items) // count] for number in range(count)]


def _warn_if_few(sample):
    if len(sample.names) < ENOUGH_PHOTOS:
        count = len(sample.names)
        say(f"only {count} photos to check the engine on: give {ENOUGH_PHOTOS} or more with --calibration")
    return sample


def _read_photo(item, input_spec):
    try:
        if item.problem:
            return ImageError(item.problem)
        return read.read_image(item.path, input_spec)
    except ImageError as error:
        return ImageError(storage.reason_of(item, error))


def open_original(bundle):
    """Opens the bundle's own, unconverted model with a library that is installed here."""
    try:
        return open_engine(bundle, "onnxruntime")
    except MissingRequirement:
        return open_engine(bundle, "tensorflow")
