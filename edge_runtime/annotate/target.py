"""What all places for annotated pictures share."""

import abc

from edge_runtime.annotate.drawing import annotated, picture_of
from edge_runtime.errors import ImageError


class Target(abc.ABC):
    """What all have in common: skipping, and drawing."""

    def __init__(self):
        self.skipped = 0

    def write(self, prediction):
        """Draws and keeps what a Prediction is about."""
        if prediction.error:
            self.skipped += 1
            return
        try:
            picture = picture_of(prediction.item)
        except ImageError:  # it went away meanwhile
            self.skipped += 1
            return
        self._keep(annotated(picture, prediction.label, prediction.confidence), prediction)

    @abc.abstractmethod
    def _keep(self, picture, prediction):
        """Keeps or shows an annotated picture."""

    @abc.abstractmethod
    def close(self, well):
        """Ends it; well: without an exception."""

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.close(kind is None)
