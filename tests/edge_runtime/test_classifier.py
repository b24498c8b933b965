"""The Python API: what a caller hands in, and what comes with each prediction."""

import itertools
import json
import os
import sys
import threading
import time

import numpy as np
import pytest

from edge_runtime.classifier import Classifier, Prediction
from edge_runtime.engines import record, selection
from edge_runtime.errors import MissingRequirement
from edge_runtime.photos import resize
from edge_runtime.pipeline import load_item
from edge_runtime.sources.items import Frame, Item
from edge_runtime.sources.video import Video
from tests.helpers import COLOURS, photo, picnic_edge, write_bytes, write_photo

RED, GREEN = "red", "green, fresh & ripe"


@pytest.fixture(scope="module")
def classifier(pristine_bundle):
    with Classifier.open(pristine_bundle, batch_size=4) as opened:
        yield opened


def frame(number, colour=RED):
    return Frame(
        "clip.mp4#%d" % number, photo(COLOURS[colour], height=48, width=64), time.perf_counter(), number / 30.0
    )


def test_without_a_batch_size_it_takes_the_engine_s_own(pristine_bundle, monkeypatch):
    with Classifier.open(pristine_bundle) as opened:
        assert opened.batch_size == opened.engine.max_batch == record.DEFAULT_BATCH
    monkeypatch.setattr(selection, "best_batch", lambda info: 3)
    with Classifier.open(pristine_bundle) as opened:
        assert opened.batch_size == opened.engine.max_batch == 3
    with Classifier.open(pristine_bundle, batch_size=5) as opened:
        assert opened.batch_size == opened.engine.max_batch == 5


def test_a_prediction_carries_what_the_caller_gave(classifier, tmp_path):
    path = str(tmp_path / "red.jpg")
    write_photo(path, photo(COLOURS[RED]))
    given = [
        path,
        os.fsencode(path),
        Item("shown", path, ""),
        frame(7),
        photo(COLOURS[RED]),
        Item("x", "", "no such row"),
    ]
    found = list(classifier.classify(given))
    assert [prediction.item for prediction in found[:3] + found[5:]] == given[:3] + given[5:]
    assert found[3].item[0::2] == given[3][0::2] and np.array_equal(found[3].item.picture, given[3].picture)
    assert np.array_equal(found[4].item, given[4])
    assert [prediction.name for prediction in found] == [path, path, "shown", "clip.mp4#7", "", "x"]
    assert [prediction.label for prediction in found] == [RED] * 5 + [""]
    assert found[-1].error == "no such row"


def test_a_frame_of_another_kind_has_an_error(classifier):
    wrong = frame(0)._replace(picture=np.zeros((8, 8), np.uint8))
    (found,) = classifier.classify([wrong])
    assert "must be a uint8 array [height, width, 3], RGB" in found.error


# --- pictures in memory that the caller uses again


@pytest.fixture
def read_ahead(monkeypatch):
    """The next frame is read before the one before it is fitted to the network's size."""
    fit_image = resize.fit_image

    def fit_late(picture, input_spec):
        time.sleep(0.003)
        return fit_image(picture, input_spec)

    monkeypatch.setattr(load_item, "fit_image", fit_late)


def refilled(size, count=64, show=lambda picture: picture):
    """Yields one buffer again and again, filled with other colours; before it, their names."""
    buffer = np.zeros(size + (3,), np.uint8)
    pictures = {label: photo(COLOURS[label], 0, *size) for label in COLOURS}
    labels = [sorted(COLOURS)[number * number % 7 % 3] for number in range(count)]
    yield labels
    for label in labels:
        buffer[:] = pictures[label]
        yield show(buffer)
        assert np.array_equal(buffer, pictures[label])  # nobody has written to it


def read_only(picture):
    view = picture[:]
    view.flags.writeable = False
    return view


class Subclass(np.ndarray):
    """As np.memmap and others are."""


SHOWN = {
    "an array": lambda picture: picture,
    "a frame": lambda picture: Frame("camera:0#1", picture, 0.0, 0.0),
    "a frame that is read-only": lambda picture: Frame("camera:0#1", read_only(picture), 0.0, 0.0),
    "a read-only array": read_only,
    "a subclass": lambda picture: picture.view(Subclass),
    "a part": lambda picture: picture[1:-1, 2:-2],
    "mirrored and upside down": lambda picture: picture[::-1, ::-1],
    "BGR turned twice": lambda picture: picture[:, :, ::-1][:, :, ::-1],
    "every second column": lambda picture: picture[:, ::2],
    "columns first": lambda picture: picture.transpose(1, 0, 2),
}


@pytest.mark.parametrize("show", list(SHOWN.values()), ids=list(SHOWN))
@pytest.mark.parametrize("size", [(299, 299), (480, 640)])
def test_a_buffer_that_is_used_again_for_the_next_frame_gets_every_label_right(classifier, read_ahead, size, show):
    frames = refilled(size, show=show)
    labels = next(frames)
    found = list(classifier.classify(frames))
    assert [prediction.label for prediction in found] == labels


def test_bgr_shown_as_rgb_in_a_buffer_that_is_used_again(classifier, read_ahead):
    frames = refilled((299, 299), show=lambda picture: picture[:, :, ::-1])
    swapped = {RED: "blue things", "blue things": RED, GREEN: GREEN}
    labels = next(frames)
    assert [found.label for found in classifier.classify(frames)] == [swapped[label] for label in labels]


@pytest.mark.parametrize("show", [SHOWN["an array"], SHOWN["a frame"]], ids=["an array", "a frame"])
def test_a_prediction_s_picture_is_the_one_that_was_labelled(classifier, show):
    frames = refilled((60, 80), show=show)
    labels = next(frames)
    for label, found in zip(labels, list(classifier.classify(frames))):
        picture = found.item.picture if isinstance(found.item, Frame) else found.item
        assert np.array_equal(picture, photo(COLOURS[label], 0, 60, 80))


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((60, 80, 3)), np.zeros((60, 80), np.uint8), np.array(7, np.uint8), np.array([None]), np.zeros((0, 8, 3))],
    ids=["float64", "grey", "a number", "an object", "nothing"],
)
def test_an_array_of_another_kind_has_an_error_and_those_beside_it_a_label(classifier, wrong):
    found = list(classifier.classify([photo(COLOURS[RED]), wrong, photo(COLOURS[GREEN])]))
    assert [prediction.label for prediction in found] == [RED, "", GREEN]
    assert "must be a uint8 array [height, width, 3], RGB; got %s" % wrong.dtype in found[1].error


def test_frames_of_a_video_are_not_copied(classifier):
    class Given(Video):
        def __init__(self, frames):
            self.frames = iter(frames)

        def __next__(self):
            return next(self.frames)

    frames = [frame(number) for number in range(5)]
    assert all(found.item is given for found, given in zip(classifier.classify(Given(frames)), frames))


def test_predictions_say_where_batches_end(classifier):
    assert [found.ends_batch for found in classifier.classify(frame(n) for n in range(6))] == [False] * 3 + [
        True,
        False,
        True,
    ]


def test_a_prediction_can_be_made_without_them():
    alone = Prediction("a.jpg", [RED], None)
    assert (alone.error, alone.item, alone.ends_batch) == ("", None, False)


@pytest.mark.parametrize(
    "threshold, error, answer",
    [(None, "", "b"), (0.75, "", "b"), (0.76, "", "unknown"), (0.76, "is damaged", "")],
    ids=["none", "reached", "missed", "an error has no answer"],
)
def test_below_a_threshold_the_answer_is_unknown(threshold, error, answer):
    probabilities = None if error else np.array([0.25, 0.75], np.float32)
    assert Prediction("x.jpg", ["a", "b"], probabilities, error).answer(threshold) == answer


@pytest.mark.parametrize("live", [False, True])
def test_stop_ends_an_endless_source_after_what_was_read(classifier, live):
    stop, taken, found = threading.Event(), [], []
    frames = (taken.append(number) or frame(number, GREEN) for number in itertools.count())
    for prediction in classifier.classify(frames, stop=stop, live=live):
        found.append(prediction)
        if len(found) == 10:
            stop.set()
    assert [prediction.name for prediction in found] == ["clip.mp4#%d" % number for number in taken]
    assert {prediction.label for prediction in found} == {GREEN}


def test_a_frame_does_not_wait_for_its_batch_past_the_deadline(classifier):
    answered = threading.Event()

    def frames():
        yield frame(0)
        assert answered.wait(20)
        yield frame(1)

    names = []
    for prediction in classifier.classify(frames(), max_delay_s=0.01, live=True):
        names.append(prediction.name)
        answered.set()
    assert names == ["clip.mp4#0", "clip.mp4#1"]


def test_predictions_that_are_not_taken_to_the_end_leave_no_thread(classifier):
    before = set(threading.enumerate())
    predictions = classifier.classify(frame(number) for number in itertools.count())
    next(predictions)
    predictions.close()
    assert set(threading.enumerate()) <= before


def test_what_was_done_is_counted(pristine_bundle):
    with Classifier.open(pristine_bundle) as opened:
        for _ in opened.classify([frame(0), "nowhere.jpg", frame(1)]):
            pass
        stats = opened.stats
    assert (stats.read, stats.decoded, stats.unreadable, stats.failed, stats.answered) == (3, 2, 1, 0, 3)
    assert stats.decode_s > 0 and stats.infer_s > 0


def test_every_run_is_counted_by_itself(pristine_bundle):
    with Classifier.open(pristine_bundle) as opened:
        first = opened.classify(frame(number) for number in range(20))
        stats = opened.stats
        assert next(first).label == RED
        assert len(list(opened.classify([frame(0), "nowhere.jpg"]))) == opened.stats.answered == 2
        assert (stats.answered, len(list(first)), stats.answered, stats.unreadable) == (1, 19, 20, 0)


@pytest.mark.parametrize("single", ["a.jpg", b"a.jpg", np.zeros((50, 50, 3), np.uint8)])
def test_a_single_photo_is_not_taken_for_many(classifier, single):
    with pytest.raises(TypeError, match=r"got a single one: classify\(\[photo\]\)"):
        classifier.classify(single)


# --- a table for notebooks


def test_a_table_has_the_rows_that_classify_writes(pristine_bundle, classifier, tmp_path):
    pandas = pytest.importorskip("pandas")
    for name, label in (("a.png", RED), ("b.png", GREEN)):
        write_photo(str(tmp_path / name), photo(COLOURS[label]))
    write_bytes(tmp_path / "c.png", b"no photo")
    paths = [str(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
    table = classifier.classify_table(paths)
    assert list(table.columns) == ["file", "label", "confidence", "error"]
    assert table.confidence.dtype == float and np.isnan(table.confidence[2])
    options = ["--engine", classifier.engine.name, "--batch", "4", "--json"]
    results = json.loads(picnic_edge("classify", pristine_bundle, *paths, *options).stdout.decode())["results"]
    expected = pandas.DataFrame(results, columns=table.columns).astype({"confidence": float})
    pandas.testing.assert_frame_equal(table.drop(columns="file"), expected.drop(columns="file"))
    assert list(table.file) == paths


def test_a_table_with_more_labels_and_a_threshold(classifier):
    pytest.importorskip("pandas")
    photos = [photo(COLOURS[RED]), np.zeros((8, 8), np.uint8)]
    table = classifier.classify_table(photos, top=9, threshold=1.01)
    assert list(table.columns)[4:] == ["label_2", "confidence_2", "label_3", "confidence_3"]
    assert list(table.label) == ["unknown", ""] and list(table.file) == ["", ""]
    assert 0 <= table.confidence_3[0] <= table.confidence_2[0] <= table.confidence[0] <= 1
    assert np.isnan(table.confidence_3[1]) and "uint8 array" in table.error[1]


def test_a_table_of_no_photos_has_its_columns(classifier):
    pytest.importorskip("pandas")
    table = classifier.classify_table([])
    assert len(table) == 0 and table.confidence.dtype == float


def test_without_pandas_the_command_that_installs_it_is_named(classifier, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingRequirement, match="pip install pandas"):
        classifier.classify_table([])
