"""The Python API: what a caller hands in, and what comes with each prediction."""

import itertools
import os
import threading
import time

import numpy as np
import pytest

from edge_runtime import engines
from edge_runtime.classifier import Classifier, Prediction
from edge_runtime.sources import Frame, Item
from tests.helpers import COLOURS, photo, write_photo

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
        assert opened.batch_size == opened.engine.max_batch == engines.DEFAULT_BATCH
    monkeypatch.setattr(engines, "best_batch", lambda info: 3)
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
    assert all(prediction.item is item for prediction, item in zip(found, given))
    assert [prediction.name for prediction in found] == [path, path, "shown", "clip.mp4#7", "", "x"]
    assert [prediction.label for prediction in found] == [RED] * 5 + [""]
    assert found[-1].error == "no such row"


def test_a_frame_of_another_kind_has_an_error(classifier):
    wrong = frame(0)._replace(picture=np.zeros((8, 8), np.uint8))
    (found,) = classifier.classify([wrong])
    assert "must be a uint8 array [height, width, 3], RGB" in found.error


def test_predictions_say_where_batches_end(classifier):
    assert [found.ends_batch for found in classifier.classify(frame(n) for n in range(6))] == [False] * 3 + [
        True,
        False,
        True,
    ]


def test_a_prediction_can_be_made_without_them():
    alone = Prediction("a.jpg", [RED], None)
    assert (alone.error, alone.item, alone.ends_batch) == ("", None, False)


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


@pytest.mark.parametrize("single", ["a.jpg", b"a.jpg", np.zeros((50, 50, 3), np.uint8)])
def test_a_single_photo_is_not_taken_for_many(classifier, single):
    with pytest.raises(TypeError, match=r"got a single one: classify\(\[photo\]\)"):
        classifier.classify(single)
