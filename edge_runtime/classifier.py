"""The Python API: open a bundle, hand it photos, read predictions."""

import contextlib
import functools
import os
import typing

import numpy as np

from edge_runtime.bundle.reading import Bundle
from edge_runtime.engines.selection import open_engine
from edge_runtime.errors import ImageError
from edge_runtime.machine import cpu
from edge_runtime.photos import jpeg_hardware, memory_budget
from edge_runtime.photos.picture import check_picture, fit_image
from edge_runtime.photos.read import read_image
from edge_runtime.pipeline import classify_items
from edge_runtime.pipeline.stats import Stats
from edge_runtime.sources import storage
from edge_runtime.sources.items import Frame, Item
from edge_runtime.sources.live import Live
from edge_runtime.sources.video import Video


class Prediction(typing.NamedTuple):
    """What the classifier says about one photo. label is "" and confidence 0 where error says why there is none."""

    name: str
    class_names: typing.List[str]
    probabilities: typing.Optional[np.ndarray]  # float32 [classes], in the order of class_names
    error: str = ""
    item: typing.Any = None  # what the caller gave: a file name, an Item, or a copy of an array or a Frame
    ends_batch: bool = False  # as in edge_runtime.pipeline.batch.Answer

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

    Attributes:
        stats: edge_runtime.pipeline.stats.Stats of the run that was begun last.
    """

    def __init__(self, bundle, engine, batch_size):
        self.bundle = bundle
        self.engine = engine
        self.batch_size = batch_size
        self.stats = Stats()
        try:
            self._jpeg_hardware = jpeg_hardware.open_decoder()
        except BaseException:
            engine.close()
            raise

    @classmethod
    def open(cls, bundle, engine="auto", batch_size=None):
        """Opens a bundle.

        Args:
            bundle: folder that `picnic-edge train` wrote.
            engine: "auto" for the fastest engine valid on this machine, or an engine's name.
            batch_size: photos per call of the engine; None for what the engine was made for (8 for the bundle's own).

        Raises:
            UsageError, BundleError, MissingRequirement: as edge_runtime.engines.open_engine.
        """
        memory_budget.decode_budget()  # a wrong setting is noticed before the first photo
        opened = Bundle.open(bundle)
        opened_engine = open_engine(opened, engine, batch_size)
        return cls(opened, opened_engine, opened_engine.max_batch)

    def classify(self, photos, max_delay_s=None, stop=None, live=False):
        """Classifies photos, decoding the next ones while the engine works.

        Several runs may be under way at once, in threads or read in turns by one; they share the engine.

        Args:
            photos: iterable of file names, of uint8 arrays [height, width, 3] (RGB), or of
                edge_runtime.sources.items.Item or Frame; read by a thread of its own. An array's memory, and that of a
                Frame's picture, may be used again for the next one: it is copied when it is read.
            max_delay_s: a smaller batch goes to the engine this long after its first photo was read; None: never.
            stop: threading.Event; once it is set no more photos are read, those that were are answered.
            live: photos are a camera's frames, which get old: fewer are read ahead.

        Returns:
            an iterator: one Prediction per photo, in order; unreadable ones carry their error. It raises EngineLost
            where the engine stopped working, StorageLost where what Items are read from is gone, and anything that
            photos raises.

        Raises:
            TypeError: photos is a single one.
        """
        if isinstance(photos, (str, bytes, os.PathLike)) or (isinstance(photos, np.ndarray) and photos.ndim < 4):
            raise TypeError("expected an iterable of photos, got a single one: classify([photo])")
        self.stats = Stats()
        return self._classify(photos, max_delay_s, stop, live, self.stats)

    def _classify(self, photos, max_delay_s, stop, live, stats):
        load = _load
        if self._jpeg_hardware:
            load = functools.partial(_load, read=self._jpeg_hardware.read_image)
        answers = classify_items.classify_items(
            photos if isinstance(photos, (Live, Video)) else _kept(photos),  # theirs are never used again
            load,
            self.engine,
            self.batch_size,
            cpu.core_count(),
            max_delay_s=max_delay_s,
            stop=stop,
            stats=stats,
            live=live,
        )
        with contextlib.closing(answers):
            for item, probabilities, error, ends_batch in answers:
                yield Prediction(_name(item), self.bundle.class_names, probabilities, error, item, ends_batch)

    def close(self):
        """Frees the engine. May be called any number of times."""
        self.engine.close()
        if self._jpeg_hardware:
            self._jpeg_hardware.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _kept(photos):
    """Yields photos, arrays and the pictures of Frames as copies: the caller may use the memory for the next one.

    The feeder runs this, alone. To fit a picture to the network's size here, instead, would keep it twice as long as to
    copy it (1280 x 720: 2.9 ms, not 1.3), where several decode threads can do that; and whoever draws the label onto
    the picture wants it whole.
    """
    for photo in photos:
        if isinstance(photo, np.ndarray):
            yield _copied(photo)
        elif isinstance(photo, Frame) and isinstance(photo.picture, np.ndarray):
            yield photo._replace(picture=_copied(photo.picture))
        else:
            yield photo


def _copied(picture):
    """Returns a copy in the same order in memory: for BGR shown as RGB ([:, :, ::-1]) a quarter of the work."""
    forwards = tuple(slice(None, None, -1 if step < 0 else 1) for step in picture.strides) + (Ellipsis,)
    return np.array(np.asarray(picture)[forwards], order="K")[forwards]


def _load(photo, read=None):
    read = read or read_image
    if isinstance(photo, Frame) and photo.problem:
        raise ImageError(photo.problem)
    if isinstance(photo, (np.ndarray, Frame)):
        picture = fit_image(photo.picture if isinstance(photo, Frame) else photo)
        check_picture(picture)
        return picture
    if not isinstance(photo, Item):
        return read(photo)
    if photo.problem:
        raise ImageError(photo.problem)
    try:
        return read(photo.path)
    except ImageError as error:
        raise ImageError(storage.reason_of(photo, error))


def _name(photo):
    if isinstance(photo, np.ndarray):
        return ""
    return photo.name if isinstance(photo, (Item, Frame)) else os.fsdecode(photo)
