"""The tf.data input pipeline."""

import os
import typing

from edge_runtime.errors import ImageError, OutOfMemory, PhotoMissing, PicnicError, StorageLost, UsageError
from edge_runtime.machine import cpu
from edge_runtime.machine.libraries import require
from edge_runtime.photos.read import read_image

_READ_AHEAD = 2  # batches decoded while the model works on one


def photo_batches(paths, batch_size, input_spec, load=None):
    """Yields batches of all photos, in order, prefetched by tf.data.

    Args:
        paths: file names of readable photos.
        batch_size: the last batch may be smaller; no photo is left out.
        input_spec: edge_runtime.photos.spec.InputSpec of the network.
        load: path -> uint8 array of input_spec.shape; training's augmentation goes here. None: the photo as it is.

    Yields:
        uint8 tensors [n, height, width, 3], RGB. Without load the pixels are exactly those of the edge runtime, because
        the same function decodes the files (tf.image supports neither EXIF orientation nor CMYK nor scaled decoding,
        and resizes differently).

    Raises:
        UsageError: a photo cannot be read any more. StorageLost: its folder is gone. OutOfMemory.
    """
    tensorflow = require("tensorflow")
    failures: typing.List[PicnicError] = []  # TensorFlow's own error does not name the cause

    def read(index):
        path = paths[index]
        try:
            return load(path) if load else read_image(path, input_spec)
        except ImageError as error:
            folder_is_gone = isinstance(error, PhotoMissing) and not os.path.isdir(os.path.dirname(path) or os.curdir)
            hint = "it could be read before; put it back and give the same command again"
            failures.append((StorageLost if folder_is_gone else UsageError)(f"{path}: {error} ({hint})"))
            raise
        except MemoryError as error:
            failures.append(OutOfMemory(f"{path}: not enough memory to decode it ({error})"))
            raise
        except PicnicError as error:
            failures.append(error)
            raise

    def load_photo(index):
        photo = tensorflow.numpy_function(read, [index], tensorflow.uint8)
        photo.set_shape(input_spec.shape)
        return photo

    # read + decode + orient + resize (one step, in parallel: OpenCV works without the interpreter's lock)
    # -> batch -> prefetch. Results keep the order of paths.
    dataset = tensorflow.data.Dataset.range(len(paths))
    dataset = dataset.map(load_photo, num_parallel_calls=cpu.core_count())
    try:
        yield from untuned(dataset.batch(batch_size).prefetch(_READ_AHEAD))
    except tensorflow.errors.OpError:
        if failures:
            raise failures[0]
        raise


def untuned(dataset):
    """Returns the tf.data dataset without autotuning.

    It has nothing to tune here, and its thread may miss the end of the iterator: TensorFlow 2.21 then waits, doing
    nothing, until the thread wakes by itself (18 to 40 s were seen).
    """
    options = require("tensorflow").data.Options()
    if hasattr(options, "autotune"):
        options.autotune.enabled = False
    else:  # TensorFlow 2.6
        options.experimental_optimization.autotune = False
    return dataset.with_options(options)
