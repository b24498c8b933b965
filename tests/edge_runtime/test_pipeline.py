"""Photos in, answers out: none lost, none twice, in order, and nothing left running."""

import itertools
import random
import threading
import time

import numpy as np
import pytest

from edge_runtime.engines import EngineInfo
from edge_runtime.engines.base import Engine, EngineError
from edge_runtime.errors import ImageError
from edge_runtime.pipeline import classify_items
from edge_runtime.sources import Item

CLASSES = 256


class EchoEngine(Engine):
    """Names the number that a picture is filled with; keeps the size of every batch."""

    def __init__(self, max_batch=8, fail_at=None):
        super().__init__(EngineInfo("echo", "echo", "fp32", "", None), CLASSES, max_batch, 1)
        self.sizes, self.fail_at = [], fail_at

    def _open(self):
        pass

    def _infer(self, batch):
        self.sizes.append(len(batch))
        numbers = batch[:, 0, 0, 0]
        if self.fail_at in numbers:
            raise RuntimeError("the engine broke")
        return np.eye(CLASSES, dtype=np.float32)[numbers]

    def _close(self):
        pass


def picture_of(number):
    return np.full((299, 299, 3), number, np.uint8)


def unreadable(*numbers):
    """Returns a load function that cannot read these items."""

    def load(number):
        if number in numbers:
            raise ImageError("reason %d" % number)
        return picture_of(number)

    return load


def run(items, load=picture_of, engine=None, batch_size=4, decode_threads=3):
    return classify_items(items, load, engine or EchoEngine(), batch_size, decode_threads)


def answered(answers):
    """Returns [(item, number that the engine saw, or the error)]."""
    return [
        (answer.item, int(answer.probabilities.argmax()) if answer.probabilities is not None else answer.error)
        for answer in answers
    ]


@pytest.fixture(autouse=True)
def nothing_left_running():
    before = set(threading.enumerate())
    yield
    assert [thread.name for thread in threading.enumerate() if thread not in before] == []


# --- one answer per item, in order


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 50])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_item_gets_exactly_one_answer_in_order(count, batch_size):
    assert answered(run(range(count), batch_size=batch_size)) == [(number, number) for number in range(count)]


@pytest.mark.parametrize("seed", range(3))
def test_order_is_kept_however_long_each_photo_takes(seed):
    pauses = [random.Random(seed).random() * 0.01 for _ in range(60)]

    def load(number):
        time.sleep(pauses[number])
        return picture_of(number)

    assert answered(run(range(60), load, decode_threads=5)) == [(number, number) for number in range(60)]


def test_order_is_kept_when_the_first_photo_takes_longest():
    last_loaded = threading.Event()

    def load(number):
        if number == 0:
            assert last_loaded.wait(10)  # as long as its turn takes the others are done
        elif number == 3:
            last_loaded.set()
        return picture_of(number)

    assert answered(run(range(10), load, decode_threads=2)) == [(number, number) for number in range(10)]


@pytest.mark.parametrize(
    "bad",
    [(0,), (9,), (3, 4), (4, 5, 6, 7), tuple(range(10)), tuple(range(0, 10, 2))],
    ids=["first", "last", "across batches", "a whole batch", "all", "every other"],
)
def test_an_unreadable_item_is_answered_in_its_place(bad):
    expected = [(number, "reason %d" % number if number in bad else number) for number in range(10)]
    assert answered(run(range(10), unreadable(*bad))) == expected


def test_an_unreadable_item_has_no_probabilities():
    (answer,) = run([7], unreadable(7))
    assert answer == (7, None, "reason 7")


def test_batches_are_full_except_the_last():
    engine = EchoEngine()
    list(run(range(18), engine=engine))
    assert engine.sizes == [4, 4, 4, 4, 2]


def test_batches_are_full_although_an_item_is_unreadable():
    engine = EchoEngine()
    list(run(range(18), unreadable(1, 9), engine))
    assert engine.sizes == [4, 4, 4, 4]


# --- bounded


@pytest.mark.parametrize("batch_size, decode_threads", [(1, 1), (4, 2), (8, 4)])
def test_an_endless_source_is_read_no_further_than_the_windows_hold(batch_size, decode_threads):
    taken = []
    source = (taken.append(number) or number % 200 for number in itertools.count())
    answers = run(source, engine=EchoEngine(), batch_size=batch_size, decode_threads=decode_threads)
    for given in range(1, 60):
        next(answers)
        # two batches to be loaded and one photo per thread; two batches in flight and the one being given out
        assert len(taken) - given <= 2 * batch_size + decode_threads + 3 * batch_size
    answers.close()


def test_nothing_is_read_before_the_first_answer_is_asked_for():
    taken = []
    answers = run(taken.append(number) or number for number in range(5))
    assert taken == []
    assert len(list(answers)) == len(taken) == 5


# --- failures


def failing_items(after):
    yield from range(after)
    raise OSError("the source broke")


@pytest.mark.parametrize("after", [0, 1, 30])
def test_an_exception_of_the_source_reaches_the_caller(after):
    with pytest.raises(OSError, match="the source broke"):
        list(run(failing_items(after)))


@pytest.mark.parametrize("reason", [ZeroDivisionError, KeyError, MemoryError])
def test_an_exception_while_loading_that_is_no_image_error_reaches_the_caller(reason):
    def load(number):
        if number == 20:
            raise reason("no such luck")
        return picture_of(number)

    with pytest.raises(reason):
        list(run(range(100), load))


def test_what_was_answered_before_a_failure_is_right():
    answers = run(range(100), engine=EchoEngine(fail_at=40))
    got = []
    with pytest.raises(EngineError):
        for answer in answers:
            got.append(answer)
    assert answered(got) == [(number, number) for number in range(40)]


def test_an_engine_s_failure_names_the_photos_of_its_batch():
    items = [Item("photo %d.jpg" % number, "", "") for number in range(8)]

    def load(item):
        return picture_of(int(item.name[6]))

    with pytest.raises(EngineError) as failed:
        list(run(items, load, EchoEngine(fail_at=5)))
    assert "the engine broke" in str(failed.value)
    assert "photo 4.jpg, photo 5.jpg, photo 6.jpg, photo 7.jpg" in str(failed.value)
    assert isinstance(failed.value.__cause__, RuntimeError)


def test_a_failure_does_not_wait_for_the_rest_of_the_source():
    taken = []
    source = (taken.append(number) or number % 200 for number in itertools.count())
    with pytest.raises(EngineError):
        list(run(source, engine=EchoEngine(fail_at=3)))
    assert len(taken) < 100


# --- stopping half way (nothing_left_running looks at the threads)


@pytest.mark.parametrize("given", [0, 1, 5, 30])
def test_closing_half_way_leaves_no_thread(given):
    answers = run(itertools.cycle(range(200)))
    assert len(list(itertools.islice(answers, given))) == given
    answers.close()
    assert list(answers) == []


def test_an_exception_thrown_where_the_answers_are_used_leaves_no_thread():
    answers = run(itertools.cycle(range(200)))
    next(answers)
    with pytest.raises(KeyboardInterrupt):
        answers.throw(KeyboardInterrupt())
    assert list(answers) == []


def test_photos_not_yet_loaded_when_it_stops_are_not_loaded_any_more():
    loaded, gate = [], threading.Event()

    def load(number):
        loaded.append(number)
        if number >= 24:  # the first answer needs no more than three batches
            assert gate.wait(10)
        return picture_of(number)

    answers = run(itertools.cycle(range(200)), load, batch_size=8, decode_threads=1)
    next(answers)
    opener = threading.Timer(0.05, gate.set)
    opener.start()
    answers.close()  # waits for the one photo that its thread is at
    opener.join()
    assert len(loaded) <= 25
