"""The tf.data input pipeline."""

from edge_runtime import images, machine
from edge_runtime.requirements import require

_READ_AHEAD = 2  # batches decoded while the model works on one


def photo_batches(paths, batch_size, load=images.read_image):
    """Returns a tf.data.Dataset of all photos, in order.

    Args:
        paths: file names of readable photos.
        batch_size: the last batch may be smaller; no photo is left out.
        load: path -> uint8 [299, 299, 3]; training's augmentation goes here.

    Returns:
        Dataset of uint8 tensors [n, 299, 299, 3], RGB. Without load it is exactly what the edge runtime makes of the
        same files, because the same function decodes them (tf.image knows neither EXIF orientation nor CMYK nor
        scaled decoding, and would resize differently).
    """
    tensorflow = require("tensorflow")

    def load_photo(index):
        photo = tensorflow.numpy_function(lambda place: load(paths[place]), [index], tensorflow.uint8)
        photo.set_shape(images.INPUT_SPEC["shape"])
        return photo

    # read + decode + orient + resize (one step, in parallel: OpenCV works without the interpreter's lock)
    # -> batch -> prefetch. Results keep the order of paths.
    dataset = tensorflow.data.Dataset.range(len(paths))
    dataset = dataset.map(load_photo, num_parallel_calls=machine.core_count())
    return dataset.batch(batch_size).prefetch(_READ_AHEAD)
