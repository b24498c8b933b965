"""The base of all annotators: skips what has no picture, and draws the label on the rest."""

import abc

import numpy as np

from edge_runtime.annotate.drawing import MAX_SIDE, draw_label
from edge_runtime.errors import ImageError
from edge_runtime.photos import read
from edge_runtime.sources.items import Frame, Item


class Annotator(abc.ABC):
    """Writes or shows annotated pictures: a context manager.

    Attributes:
        skipped: how many predictions had no picture.
    """

    def __init__(self):
        self.skipped = 0

    def write(self, prediction, threshold=None):
        """Draws the answer of a Prediction on its picture, and writes or shows that.

        Args:
            prediction: edge_runtime.classifier.Prediction.
            threshold: as for Prediction.answer: below this confidence (0 to 1) the label is "unknown"; None: never.
        """
        if prediction.error:
            self.skipped += 1
            return
        try:
            picture = _picture_of(prediction.item)
        except ImageError:  # the file went away after it was classified
            self.skipped += 1
            return
        self._add(draw_label(picture, prediction.answer(threshold), prediction.confidence), prediction)

    @abc.abstractmethod
    def _add(self, picture, prediction):
        """Writes or shows an annotated picture: uint8 [height, width, 3], RGB."""

    @abc.abstractmethod
    def close(self, is_complete):
        """Frees what the annotator holds; is_complete: the block ended without an exception."""

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.close(kind is None)


def _picture_of(item):
    """Returns the picture that a prediction is about: uint8 [height, width, 3], RGB. Raises ImageError."""
    if isinstance(item, Frame):
        return item.picture
    if isinstance(item, np.ndarray):
        return item
    return read.read_large(item.path if isinstance(item, Item) else item, MAX_SIDE)
