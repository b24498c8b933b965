"""The Python API: open a bundle, hand it photos, read predictions."""

import os
import typing

import numpy as np

from edge_runtime import images, machine, pipeline
from edge_runtime.bundle import Bundle
from edge_runtime.engines import open_engine
from edge_runtime.errors import ImageError
from edge_runtime.sources import Item


class Prediction(typing.NamedTuple):
    """What the classifier says about one photo. label is "" and confidence 0 where error says why there is none."""

    name: str
    class_names: typing.List[str]
    probabilities: typing.Optional[np.ndarray]  # float32 [classes], in the order of class_names
    error: str = ""

    @property
    def label(self):
        """The most probable class."""
        return self.top(1)[0][0] if self.probabilities is not None else ""

    @property
    def confidence(self):
        """The probability of label, 0..1."""
        return self.top(1)[0][1] if self.probabilities is not None else 0.0

    def top(self, count):
        """Returns the count most probable classes as (label, probability), most probable first."""
        if self.probabilities is None:
            return []
        best = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.class_names[index], float(self.probabilities[index])) for index in best]


class Classifier:
    """A bundle with an open engine.

    Example:
        with Classifier.open("bundle") as classifier:
            for prediction in classifier.classify(["a.jpg", frame_rgb_uint8]):
                print(prediction.label, prediction.confidence, prediction.top(3))
    """

    def __init__(self, bundle, engine, batch_size):
        self.bundle = bundle
        self.engine = engine
        self.batch_size = batch_size
        self.times = pipeline.StageTimes()

    @classmethod
    def open(cls, bundle, engine="auto", batch_size=8):
        """Opens a bundle.

        Args:
            bundle: folder that `picnic-edge train` wrote.
            engine: "auto" for the fastest engine valid on this machine, or an engine's name.
            batch_size: photos per call of the engine.

        Raises:
            UsageError, BundleError, MissingRequirement: as edge_runtime.engines.open_engine.
        """
        opened = Bundle.open(bundle)
        return cls(opened, open_engine(opened, engine, batch_size), batch_size)

    def classify(self, photos):
        """Classifies photos, decoding the next ones while the engine works.

        Args:
            photos: iterable of file names, of uint8 arrays [height, width, 3] (RGB), or of edge_runtime.sources.Item.

        Yields:
            one Prediction per photo, in order; unreadable ones carry their error.
        """
        answers = pipeline.classify_items(photos, _load, self.engine, self.batch_size, machine.core_count(), self.times)
        for answer in answers:
            yield Prediction(_name(answer.item), self.bundle.class_names, answer.probabilities, answer.error)

    def close(self):
        """Frees the engine. May be called any number of times."""
        self.engine.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _load(photo):
    if isinstance(photo, np.ndarray):
        return images.fit_image(photo)
    if not isinstance(photo, Item):
        return images.read_image(photo)
    if photo.problem:
        raise ImageError(photo.problem)
    return images.read_image(photo.path)


def _name(photo):
    if isinstance(photo, np.ndarray):
        return ""
    return photo.name if isinstance(photo, Item) else os.fspath(photo)
