"""An item of a source becomes the picture that the network takes, or the reason why there is none."""

import os
import typing

import numpy as np

from edge_runtime.errors import ImageError, OutOfMemory, PicnicError, StorageLost, is_out_of_memory
from edge_runtime.photos.picture import check_picture
from edge_runtime.photos.resize import fit_image
from edge_runtime.sources import storage
from edge_runtime.sources.items import Frame, Item


class Failure(typing.NamedTuple):
    """What ends the run at its place in the order."""

    error: BaseException


def load(item, read, input_spec):
    """Loads one item.

    Args:
        item: an Item, a Frame, a uint8 array [height, width, 3] (RGB), or what read takes.
        read: file name -> uint8 array of input_spec.shape; raises ImageError where the file is no usable photo.
        input_spec: edge_runtime.photos.spec.InputSpec of the network.

    Returns:
        the picture, a uint8 array of input_spec.shape; an ImageError: this item has none; a Failure: the run must end.
    """
    try:
        picture = _picture_of(item, read, input_spec)
        if picture.dtype != np.uint8 or picture.shape != input_spec.shape:
            raise ValueError(f"read returned {picture.dtype} {picture.shape}")
        return picture
    except ImageError as error:
        return error
    except StorageLost as error:  # names the file itself
        return Failure(error)
    except BaseException as error:
        explained = _explained(item, error)
        explained.__cause__ = error
        return Failure(explained)


def name_of(item):
    """Returns what messages call an item."""
    if isinstance(item, (str, bytes, os.PathLike)):
        return os.fsdecode(item)
    return "a frame" if isinstance(item, np.ndarray) else getattr(item, "name", str(item))


def _picture_of(item, read, input_spec):
    if isinstance(item, (Item, Frame)) and item.problem:
        raise ImageError(item.problem)
    if isinstance(item, Item):
        try:
            return read(item.path)
        except ImageError as error:
            raise ImageError(storage.reason_of(item, error))
    if isinstance(item, (np.ndarray, Frame)):
        picture = fit_image(item.picture if isinstance(item, Frame) else item, input_spec)
        check_picture(picture)
        return picture
    return read(item)


def _explained(item, error):
    """Returns the exception to raise, with the item's name, where loading it failed for no fault of the photo."""
    name = name_of(item)
    if is_out_of_memory(error):
        return OutOfMemory(
            f"{name}: not enough memory to decode it, even with no other photo in memory "
            f"({error or 'out of memory'}).\nStop other programs, or use a smaller --batch"
        )
    if isinstance(error, PicnicError):
        return type(error)(f"{name}: {error}")
    return RuntimeError(f"{name}: loading it failed: {type(error).__name__}: {error}")
