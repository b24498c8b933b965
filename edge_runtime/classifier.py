"""The Python API: open a bundle, give it photos, read predictions."""

import contextlib
import functools
import os
import typing

import numpy as np

from edge_runtime.bundle.reading import Bundle
from edge_runtime.engines.selection import open_engine
from edge_runtime.machine.libraries import require
from edge_runtime.photos import jpeg_hardware, memory_budget
from edge_runtime.photos.read import read_image
from edge_runtime.pipeline.classify_items import classify_items
from edge_runtime.pipeline.load_item import name_of
from edge_runtime.pipeline.stats import Stats
from edge_runtime.results import rows
from edge_runtime.sources.items import Frame
from edge_runtime.sources.live import Live
from edge_runtime.sources.video import Video


class Prediction(typing.NamedTuple):
    """What the classifier says about one photo.

    Attributes:
        name: the photo's file name, or the frame's; "" for an array.
        class_names: the bundle's classes.
        probabilities: float32 array [classes] in the order of class_names; None where there is an error.
        error: why the photo cannot be read or the engine fails on it; "" where there is a label.
        item: the photo as the caller gave it; of an array, or a Frame's picture, a copy.
        ends_batch: whether a batch ends with this photo, so that a new run over the photos after it makes the same
            batches as one run over all (where max_delay_s is None).
    """

    name: str
    class_names: typing.List[str]
    probabilities: typing.Optional[np.ndarray]
    error: str = ""
    item: typing.Any = None
    ends_batch: bool = False

    @property
    def label(self):
        """The most probable class, "" where there is an error."""
        return self.top(1)[0][0] if self.probabilities is not None else ""

    @property
    def confidence(self):
        """The probability of label, 0..1; 0 where there is an error."""
        return self.top(1)[0][1] if self.probabilities is not None else 0.0

    def answer(self, threshold=None):
        """Returns label, or "unknown" where the confidence is below threshold (0 to 1; None: never)."""
        return rows.UNKNOWN if threshold is not None and not self.error and self.confidence < threshold else self.label

    def top(self, count):
        """Returns the count most probable classes as [(label, probability)], most probable first; [] for an error."""
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
        bundle: edge_runtime.bundle.reading.Bundle; bundle.input_spec says how photos become the network's input.
        engine: edge_runtime.engines.base.Engine, open until close().
        batch_size: photos per call of the engine.
        stats: edge_runtime.pipeline.stats.Stats of the latest run.
    """

    def __init__(self, bundle, engine, batch_size):
        self.bundle = bundle
        self.engine = engine
        self.batch_size = batch_size
        self.stats = Stats()
        try:
            self._jpeg_hardware = jpeg_hardware.open_decoder(bundle.input_spec)
        except BaseException:
            engine.close()
            raise

    @classmethod
    def open(cls, bundle, engine="auto", batch_size=None):
        """Opens a bundle.

        Args:
            bundle: folder that `picnic-edge train` or `import` wrote.
            engine: "auto" for the engine valid on this machine that `picnic-edge convert` measured as fastest, else the
                bundle's own model; an engine's name ("onnxruntime-fp32"), or a kind for its fastest ("openvino").
            batch_size: photos per call of the engine; None for what the engine was made for (8 for the bundle's own).

        Returns:
            a Classifier; close it, or use it in a with block.

        Raises:
            UsageError: the bundle has no such engine, or batch_size is too large.
            BundleError: the bundle or the engine is corrupt, or the engine was made for another machine or bundle.
            MissingRequirement: the engine's library or its GPU is missing; for "auto": no engine can run here.
            OutOfMemory: there is not enough memory to load the engine.
        """
        memory_budget.decode_budget()  # a wrong setting is noticed before the first photo
        checked_bundle = Bundle.open(bundle)
        opened_engine = open_engine(checked_bundle, engine, batch_size)
        return cls(checked_bundle, opened_engine, opened_engine.max_batch)

    def classify(self, photos, max_delay_s=None, stop=None, live=False):
        """Classifies photos, decoding the next ones while the engine works.

        Several runs may be under way at once, in threads or read in turns by one; they share the engine.

        Args:
            photos: iterable of file names, of uint8 arrays [height, width, 3] (RGB), or of
                edge_runtime.sources.items.Item or Frame; read by a thread of its own. An array's memory, and that of a
                Frame's picture, may be used again for the next one: it is copied when it is read.
            max_delay_s: seconds after a batch's first photo was read at which the batch goes to the engine even if it
                is not full; None: only full batches, and the last.
            stop: threading.Event; once it is set no more photos are read; predictions for those already read follow.
            live: photos are a camera's frames, which get old: fewer are read ahead.

        Returns:
            an iterator: one Prediction per photo, in order; unreadable ones carry their error. It raises EngineLost
            if the engine stops working, StorageLost if the disk or folder that Items are read from goes away,
            OutOfMemory if a batch, or one photo alone, needs too much memory, and anything that photos raises.

        Raises:
            TypeError: photos is a single photo.
        """
        if isinstance(photos, (str, bytes, os.PathLike)) or (isinstance(photos, np.ndarray) and photos.ndim < 4):
            raise TypeError("expected an iterable of photos, got a single one: classify([photo])")
        self.stats = Stats()
        return self._classify(photos, max_delay_s, stop, live, self.stats)

    def classify_table(self, photos, top=1, threshold=None):
        """Classifies photos into a pandas DataFrame, with the same rows as a table of `picnic-edge classify`.

        Example:
            with Classifier.open("bundle") as classifier:
                table = classifier.classify_table(["a.jpg", "b.jpg"])
                print(table.groupby("label").confidence.mean())

        Args:
            photos: iterable of file names, of uint8 arrays [height, width, 3] (RGB), or of
                edge_runtime.sources.items.Item or Frame.
            top: how many of the best labels each row has.
            threshold: below this confidence, 0..1, the label is "unknown"; None: never.

        Returns:
            a DataFrame with one row per photo, in order, and the columns file (str, "" for an array), label (str),
            confidence (float, 0..1) and error (str), then label_2, confidence_2 and so on up to top. A photo with an
            error has empty labels and NaN for confidences.

        Raises:
            TypeError: photos is a single photo.
            MissingRequirement: pandas is not installed, or the engine or the storage was lost.
        """
        pandas = require("pandas")
        top = min(top, len(self.bundle.class_names))
        columns = rows.columns_of(top)
        values = [rows.row_of(prediction, top, threshold) for prediction in self.classify(photos)]
        numbers = {column: float for column in columns if column.startswith("confidence")}
        return pandas.DataFrame(values, columns=columns).astype(numbers)

    def _classify(self, photos, max_delay_s, stop, live, stats):
        read = functools.partial(read_image, input_spec=self.bundle.input_spec)
        if self._jpeg_hardware:
            read = self._jpeg_hardware.read_image
        answers = classify_items(
            photos if isinstance(photos, (Live, Video)) else _copies_of(photos),  # these never reuse a picture's memory
            read,
            self.bundle.input_spec,
            self.engine,
            self.batch_size,
            max_delay_s=max_delay_s,
            stop=stop,
            stats=stats,
            live=live,
        )
        with contextlib.closing(answers):
            for item, probabilities, error, ends_batch in answers:
                yield Prediction(_name_of(item), self.bundle.class_names, probabilities, error, item, ends_batch)

    def close(self):
        """Frees the engine. May be called any number of times."""
        self.engine.close()
        if self._jpeg_hardware:
            self._jpeg_hardware.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _copies_of(photos):
    """Yields photos, arrays and the pictures of Frames as copies: the caller may use the memory for the next one.

    Only the feeder thread runs this. Fitting a picture to the network's size here would take it longer than copying
    (1280 x 720: 2.9 ms, not 1.3), and several decode threads can share that work; annotating needs the whole picture.
    """
    for photo in photos:
        if isinstance(photo, np.ndarray):
            yield _copy_of(photo)
        elif isinstance(photo, Frame) and isinstance(photo.picture, np.ndarray):
            yield photo._replace(picture=_copy_of(photo.picture))
        else:
            yield photo


def _copy_of(picture):
    """Returns a copy in the same memory order: for a BGR array viewed as RGB ([:, :, ::-1]) a quarter of the work."""
    forwards = tuple(slice(None, None, -1 if step < 0 else 1) for step in picture.strides) + (Ellipsis,)
    return np.array(np.asarray(picture)[forwards], order="K")[forwards]


def _name_of(photo):
    return "" if isinstance(photo, np.ndarray) else name_of(photo)
