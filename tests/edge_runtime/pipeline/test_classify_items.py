"""Photos in, answers out: none lost, none twice, in order, bounded, and nothing left running."""

import contextlib
import itertools
import random
import threading
import time
import tracemalloc

import numpy as np
import pytest

from edge_runtime.engines.base import Engine, EngineError
from edge_runtime.engines.record import EngineInfo
from edge_runtime.errors import EngineLost, ImageError, MissingRequirement, OutOfMemory, StorageLost, UsageError
from edge_runtime.photos.spec import INCEPTION_V3
from edge_runtime.pipeline.classify_items import classify_items
from edge_runtime.pipeline.stats import STAGES, Stats
from edge_runtime.sources.items import Item

CLASSES = 256
GREY = 128  # what the engine is tried with after a failure
PATIENCE_S = 20


class EchoEngine(Engine):
    """Names the number that a picture is filled with; keeps the numbers of every batch that it ran."""

    def __init__(self, max_batch=8, fail_at=None, slots=1, delay_s=0.0):
        super().__init__(EngineInfo("echo", "echo", "fp32", "", None), INCEPTION_V3.shape, CLASSES, max_batch, 1)
        self.batches, self.fail_at, self.slots, self.delay_s = [], fail_at, slots, delay_s
        self.on_the_way, self.most_on_the_way = [], 0

    @property
    def sizes(self):
        return [len(batch) for batch in self.batches]

    def _open(self):
        pass

    def infer(self, batch):
        assert self.on_the_way == []
        return super().infer(batch)

    def _infer(self, batch):
        time.sleep(self.delay_s)
        numbers = batch[:, 0, 0, 0]
        self.batches.append(numbers.tolist())
        self.think(self.batches[-1])
        return np.eye(CLASSES, dtype=np.float32)[numbers]

    def think(self, numbers):
        if self.fail_at in numbers:
            raise RuntimeError("the engine broke")

    def _submit(self, batch):
        self.on_the_way.append((batch, batch.copy()))
        self.most_on_the_way = max(self.most_on_the_way, len(self.on_the_way))
        assert len(self.on_the_way) <= self.slots
        return batch

    def _collect(self, started):
        batch, as_it_was = self.on_the_way.pop(0)
        assert batch is started and np.array_equal(batch, as_it_was)
        return self._infer(batch)

    def _close(self):
        pass


class FilledEngine(EchoEngine):
    """Takes the first batch only when as many photos are decoded as the window holds: the next batches are ready."""

    def __init__(self, stats, decoded, **settings):
        super().__init__(**settings)
        self.stats, self.decoded = stats, decoded

    def _submit(self, batch):
        end_s = time.perf_counter() + PATIENCE_S
        while self.stats.decoded < self.decoded and time.perf_counter() < end_s:
            time.sleep(0.01)
        return super()._submit(batch)


class NanEngine(EchoEngine):
    """Answers NaN for some photos."""

    def __init__(self, *numbers, **settings):
        super().__init__(**settings)
        self.bad = numbers

    def _infer(self, batch):
        found = super()._infer(batch)
        found[np.isin(batch[:, 0, 0, 0], self.bad)] = np.nan
        return found


def picture_of(number):
    return np.full((299, 299, 3), number, np.uint8)


def unreadable(*numbers):
    """Returns a read function that cannot read these items."""

    def read(number):
        if number in numbers:
            raise ImageError("reason %d" % number)
        return picture_of(number)

    return read


def run(items, read=picture_of, engine=None, batch_size=4, decode_threads=3, **settings):
    return classify_items(items, read, INCEPTION_V3, engine or EchoEngine(), batch_size, decode_threads, **settings)


def answered(answers):
    """Returns [(item, number that the engine saw, or the error)]."""
    return [
        (answer.item, int(answer.probabilities.argmax()) if answer.probabilities is not None else answer.error)
        for answer in answers
    ]


def kept_until_the_end(answers):
    """Returns ([answers before it ended], what ended it or None)."""
    got = []
    try:
        for answer in answers:
            got.append(answer)
    except Exception as error:
        return got, error
    return got, None


@pytest.fixture(autouse=True)
def nothing_left_running():
    before = set(threading.enumerate())
    yield
    assert [thread.name for thread in threading.enumerate() if thread not in before] == []


# --- one answer per item, in order


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 50])
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("slots", [1, 3])
def test_every_item_gets_exactly_one_answer_in_order(count, batch_size, slots):
    answers = run(range(count), engine=EchoEngine(slots=slots), batch_size=batch_size)
    assert answered(answers) == [(number, number) for number in range(count)]


def test_order_is_kept_when_the_first_photo_takes_longest():
    last_loaded = threading.Event()

    def read(number):
        if number == 0:
            assert last_loaded.wait(PATIENCE_S)  # as long as its turn takes the others are done
        elif number == 3:
            last_loaded.set()
        return picture_of(number)

    assert answered(run(range(10), read, decode_threads=2)) == [(number, number) for number in range(10)]


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
    assert answer == (7, None, "reason 7", True)


def test_where_memory_is_short_also_for_one_photo_the_run_stops_behind_the_answers_before():
    def read(number):
        if number == 5:
            raise MemoryError("planted")
        return picture_of(number)

    answers = []
    with pytest.raises(OutOfMemory, match="5: .*planted"):
        for answer in run(range(100), read, batch_size=2):
            answers.append(answer.item)
    assert answers == [0, 1, 2, 3, 4]


def test_a_lost_disk_stops_the_run_behind_the_answers_before():
    def read(number):
        if number >= 5:
            raise StorageLost("photos/%d.jpg: the storage fails" % number)
        return picture_of(number)

    answers = []
    with pytest.raises(StorageLost, match="^photos/5.jpg: "):
        for answer in run(range(100), read, batch_size=2):
            answers.append(answer.item)
    assert answers == [0, 1, 2, 3, 4]


# --- batches


def test_batches_are_full_except_the_last():
    engine = EchoEngine()
    list(run(range(18), engine=engine))
    assert engine.sizes == [4, 4, 4, 4, 2]


@pytest.mark.parametrize("bad", [(1, 9), tuple(range(2, 90)), tuple(n for n in range(100) if n % 10)])
def test_batches_are_full_although_most_items_are_unreadable(bad):
    engine = EchoEngine()
    list(run(range(100), unreadable(*bad), engine))
    assert engine.sizes[:-1] == [4] * (len(engine.sizes) - 1)
    assert sum(engine.sizes) == 100 - len(bad)


def test_answers_are_not_held_back_without_end_behind_unreadable_items():
    engine = EchoEngine()
    found = answered(run(itertools.chain([0], [1] * 1000, [2]), unreadable(1), engine))
    assert found == [(0, 0)] + [(1, "reason 1")] * 1000 + [(2, 2)]
    assert engine.batches == [[0], [2]]


def parts_between_ends(answers):
    """Returns [number of answers from one that ends a batch to the next, ...]; the last may not have ended."""
    sizes = [0]
    for answer in answers:
        sizes[-1] += 1
        if answer.ends_batch:
            sizes.append(0)
    return sizes[:-1] if sizes[-1] == 0 else sizes


def test_the_last_answer_of_a_batch_says_so():
    assert parts_between_ends(run(range(10))) == [4, 4, 2]


def test_an_unreadable_item_between_two_batches_is_an_end():
    assert parts_between_ends(run(range(10), unreadable(0, 3, 6))) == [1, 5, 1, 3]


@pytest.mark.parametrize("seed", range(4))
def test_a_run_that_starts_anew_after_an_end_makes_the_same_batches(seed):
    choose = random.Random(seed)
    bad = [number for number in range(60) if choose.random() < choose.choice([0.1, 0.6])]
    whole = EchoEngine()
    ends = [answer.item for answer in run(range(60), unreadable(*bad), whole) if answer.ends_batch]
    for end in choose.sample(ends, 4):
        rest = EchoEngine()
        list(run(range(end + 1, 60), unreadable(*bad), rest))
        assert rest.batches == [batch for batch in whole.batches if batch[0] > end]


def test_a_batch_larger_than_the_engine_takes_is_the_caller_s_bug():
    with pytest.raises(ValueError, match="9.*echo.*8"):
        list(run(range(3), batch_size=9))


# --- the deadline


def items_in_portions(portions, go_on):
    """Yields numbers; before each portion but the first it waits for go_on."""
    numbers = itertools.count()
    for place, size in enumerate(portions):
        if place:
            assert go_on.wait(PATIENCE_S)
            go_on.clear()
        yield from itertools.islice(numbers, size)


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("max_delay_s", [0, 0.02])
def test_a_batch_that_does_not_fill_up_goes_at_its_deadline(slots, max_delay_s):
    go_on, got = threading.Event(), []
    engine = EchoEngine(slots=slots)
    for answer in run(items_in_portions([2, 1, 3], go_on), engine=engine, max_delay_s=max_delay_s):
        got.append(answer)
        if len(got) in (2, 3):  # all that was given so far: the source gives more only now
            go_on.set()
    assert answered(got) == [(number, number) for number in range(6)]
    assert max(engine.sizes) <= 3


def test_an_unreadable_item_does_not_wait_for_others_past_the_deadline():
    go_on, got = threading.Event(), []
    for answer in run(items_in_portions([1, 1], go_on), unreadable(0), max_delay_s=0.01):
        got.append(answer)
        go_on.set()
    assert answered(got) == [(0, "reason 0"), (1, 1)]


def test_a_long_deadline_changes_nothing_for_a_fast_source():
    engine = EchoEngine()
    list(run(range(18), engine=engine, max_delay_s=3600))
    assert engine.sizes == [4, 4, 4, 4, 2]


# --- decoding, the engine and the caller work at the same time


def test_photos_are_loaded_while_the_engine_works():
    loaded = threading.Event()

    class Waiting(EchoEngine):
        def think(self, numbers):
            assert loaded.wait(PATIENCE_S)

    def read(number):
        if number == 6:  # of the second batch
            loaded.set()
        return picture_of(number)

    assert len(list(run(range(12), read, Waiting()))) == 12


def test_the_engine_works_while_the_caller_does():
    second = threading.Event()

    class Telling(EchoEngine):
        def think(self, numbers):
            if 4 in numbers:
                second.set()

    answers = run(range(40), engine=Telling())
    next(answers)
    assert second.wait(PATIENCE_S)
    answers.close()


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_as_many_batches_are_on_their_way_as_the_engine_has_slots(slots):
    stats = Stats()

    engine = FilledEngine(stats, 4 + 2 * 4 + 3, slots=slots)
    assert len(list(run(range(40), engine=engine, stats=stats))) == 40
    assert engine.most_on_the_way == slots


def test_photos_are_loaded_by_as_many_threads_as_asked_for():
    all_here = threading.Barrier(5)

    def read(number):
        all_here.wait(PATIENCE_S)
        return picture_of(number)

    assert len(list(run(range(10), read, decode_threads=5))) == 10


# --- bounded


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("batch_size, decode_threads", [(1, 1), (4, 2), (8, 4)])
def test_an_endless_source_is_read_no_further_than_the_windows_hold(batch_size, decode_threads, slots):
    taken = []
    source = (taken.append(number) or number % 200 for number in itertools.count())
    answers = run(source, engine=EchoEngine(slots=slots), batch_size=batch_size, decode_threads=decode_threads)
    for given in range(1, 60):
        next(answers)
        # waiting for the engine; on their way; waiting for the caller; the one being given out
        bound = 2 * batch_size + decode_threads + (slots + 2 + slots + 1) * batch_size
        assert len(taken) - given <= bound
    answers.close()


@pytest.mark.parametrize("slots", [1, 3])
def test_a_caller_that_takes_no_more_answers_stops_the_reading(slots):
    taken = []
    source = (taken.append(number) or number % 200 for number in itertools.count())
    answers = run(source, engine=EchoEngine(slots=slots))
    next(answers)
    time.sleep(0.3)  # were there no bound, thousands would be read meanwhile
    assert len(taken) <= 2 * 4 + 3 + (slots + 2 + slots + 1) * 4
    answers.close()


def test_of_live_frames_no_more_than_the_next_batch_is_read_ahead():
    taken = []
    source = (taken.append(number) or number % 200 for number in itertools.count())
    engine = EchoEngine(slots=3)
    answers = run(source, engine=engine, batch_size=1, decode_threads=8, live=True)
    for given in range(1, 60):
        next(answers)
        assert len(taken) - given <= 1 + 1 + 2 + 1
    answers.close()
    assert engine.most_on_the_way == 1


def test_an_endless_source_of_unreadable_items_is_read_no_further_than_the_windows_hold():
    taken = []
    source = (taken.append(number) or number for number in itertools.count())

    def read(number):
        raise ImageError("no photo")

    answers = run(source, read, batch_size=1, decode_threads=1)
    for _ in range(3000):
        next(answers)
        assert len(taken) < 3000 + 15 * 256
    answers.close()


def test_memory_does_not_grow_with_the_number_of_items():
    picture = picture_of(7)

    def peak_bytes(count):
        tracemalloc.start()
        try:
            for _ in run((bytes(16384) for _ in range(count)), lambda item: picture, EchoEngine(slots=2)):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # The items themselves take 3 and 25 MB, the pictures 54 MB and 400 MB.
    assert peak_bytes(1500) < peak_bytes(200) + 10e6


def test_nothing_is_read_before_the_first_answer_is_asked_for():
    taken = []
    answers = run(taken.append(number) or number for number in range(5))
    assert taken == []
    assert len(list(answers)) == len(taken) == 5


# --- failures of the source and of loading


def failing_items(after, error):
    yield from range(after)
    raise error


@pytest.mark.parametrize("after", [0, 1, 30])
@pytest.mark.parametrize("error", [OSError("the disk is gone"), UsageError("table.tsv, line 3"), ImageError("odd")])
def test_a_failure_of_the_source_comes_after_the_answers_to_what_it_gave(after, error):
    got, found = kept_until_the_end(run(failing_items(after, error)))
    assert answered(got) == [(number, number) for number in range(after)]
    assert found is error


def test_a_source_that_cannot_be_iterated_reaches_the_caller():
    with pytest.raises(TypeError):
        list(run(5))


@pytest.mark.parametrize("kind", [ZeroDivisionError, KeyError, SystemExit])
def test_a_bug_while_loading_is_told_with_the_photo_s_name_after_the_answers_before_it(kind):
    items = [Item("photo %d.jpg" % number, "%d.jpg" % number, "") for number in range(100)]

    def read(path):
        if path == "21.jpg":
            raise kind("no such luck")
        return picture_of(7)

    got, found = kept_until_the_end(run(items, read))
    assert [answer.item for answer in got] == items[:21]
    assert "photo 21.jpg: loading it failed: %s" % kind.__name__ in str(found)
    assert "no such luck" in str(found)
    assert isinstance(found, RuntimeError) and isinstance(found.__cause__, kind)


def test_what_this_machine_lacks_for_loading_keeps_its_exit_code():
    def read(name):
        raise MissingRequirement("no decoder")

    with pytest.raises(MissingRequirement, match="^a.jpg: no decoder$"):
        list(run(["a.jpg"], read))


@pytest.mark.parametrize("picture", [np.zeros((299, 299, 3)), np.zeros((299, 299, 1), np.uint8), None])
def test_a_read_function_that_returns_something_else_is_a_bug(picture):
    with pytest.raises(RuntimeError, match="a.jpg: "):
        list(run(["a.jpg"], lambda name: picture))


def test_a_failure_does_not_wait_for_a_source_that_gives_nothing():
    given_up = threading.Event()

    def source():
        yield from range(2)
        assert given_up.wait(PATIENCE_S)

    def read(number):
        if number == 1:
            raise ZeroDivisionError()
        return picture_of(number)

    answers = run(source(), read)
    assert next(answers).item == 0  # its batch is not full, and never will be
    assert raises_within(answers, given_up)


def raises_within(answers, given_up):
    """Whether the next answer is a RuntimeError; lets the source end so that its thread does too."""
    helper = threading.Timer(0.2, given_up.set)  # the feeder waits in the source while the generator closes
    helper.start()
    with pytest.raises(RuntimeError):
        next(answers)
    helper.join()
    return join_feeders()


def join_feeders():
    for thread in threading.enumerate():
        if thread.name == "feeder":
            thread.join(PATIENCE_S)
    return True


def test_a_failure_does_not_read_the_rest_of_the_source():
    taken = []
    source = (taken.append(number) or number % 200 for number in itertools.count())

    def read(number):
        if number == 3:
            raise ZeroDivisionError()
        return picture_of(number)

    with pytest.raises(RuntimeError):
        list(run(source, read))
    assert len(taken) < 100


# --- failures of the engine


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 8])
@pytest.mark.parametrize("bad", [0, 5, 39])
def test_the_photo_on_which_the_engine_fails_is_found_and_the_others_are_answered(slots, batch_size, bad):
    stats = Stats()
    engine = EchoEngine(fail_at=bad, slots=slots)
    found = answered(run(range(40), engine=engine, batch_size=batch_size, stats=stats))
    expected = [(number, number) for number in range(40)]
    expected[bad] = (bad, "the engine fails on it: echo: the engine broke")
    assert found == expected
    assert (stats.decoded, stats.failed, stats.unreadable, stats.answered) == (40, 1, 0, 40)


def test_several_photos_at_fault_in_one_batch_are_all_found():
    class Picky(EchoEngine):
        def think(self, numbers):
            if {1, 4, 6} & set(numbers):
                raise RuntimeError("not\nthese")

    found = dict(answered(run(range(16), unreadable(3), Picky(), batch_size=8)))
    assert [number for number in range(16) if found[number] != number] == [1, 3, 4, 6]
    assert found[4] == "the engine fails on it: echo: not these"


@pytest.mark.parametrize("slots", [1, 2])
def test_a_photo_answered_with_nan_gets_an_error_and_the_other_answers_are_kept(slots):
    engine = NanEngine(5, slots=slots)
    found = answered(run(range(12), engine=engine))
    assert found[5] == (5, "the engine fails on it: echo: the engine returned NaN or infinite probabilities")
    assert [pair for pair in found if pair[0] != 5] == [(number, number) for number in range(12) if number != 5]
    assert sorted(engine.batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [5], [5], [8, 9, 10, 11], [GREY]]


def test_a_batch_answered_with_nothing_but_nan_is_taken_apart():
    class NanInCompany(EchoEngine):
        def _infer(self, batch):
            found = super()._infer(batch)
            return found * np.nan if len(batch) > 1 else found

    assert answered(run(range(8), engine=NanInCompany())) == [(number, number) for number in range(8)]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_failure_that_passes_costs_nothing(batch_size):
    class Hiccup(EchoEngine):
        def think(self, numbers):
            if len(self.batches) == 2:
                raise RuntimeError("once")

    assert answered(run(range(20), engine=Hiccup(), batch_size=batch_size)) == [(n, n) for n in range(20)]


def test_an_engine_without_the_memory_for_a_whole_batch_answers_in_parts():
    class Small(EchoEngine):
        def think(self, numbers):
            if len(numbers) > 2:
                raise MemoryError()

    assert answered(run(range(20), engine=Small(), batch_size=8)) == [(number, number) for number in range(20)]


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("error", [RuntimeError("the GPU fell off"), MissingRequirement("no context")])
def test_an_engine_that_is_gone_for_good_ends_the_run_after_what_was_answered(slots, error):
    class Dying(EchoEngine):
        def think(self, numbers):
            if len(self.batches) > 3:
                raise error

    items = [Item("photo %d.jpg" % number, "%d.jpg" % number, "") for number in range(100)]
    engine = Dying(slots=slots)
    got, found = kept_until_the_end(run(items, lambda path: picture_of(int(path[:-4])), engine))
    assert [answer.item for answer in got] == items[:12]
    assert isinstance(found, EngineLost) and found.exit_code == 4
    assert "echo stopped working at photo 12.jpg: " in str(found) and str(error) in str(found)
    assert engine.on_the_way == []


def test_an_engine_that_dies_while_a_batch_is_taken_apart_blames_no_photo():
    class Dying(EchoEngine):
        dead = False

        def think(self, numbers):
            self.dead = self.dead or numbers == [6, 7]
            if self.dead or numbers == [4, 5, 6, 7]:
                raise RuntimeError("gone")

    engine = Dying()
    got, found = kept_until_the_end(run(range(40), engine=engine))
    assert answered(got) == [(number, number) for number in range(4)]
    assert isinstance(found, EngineLost)
    assert [batch for batch in engine.batches if batch[0] >= 4] == [[4, 5, 6, 7], [4, 5], [6, 7], [6], [GREY]]


def test_a_failing_submit_is_a_failure_of_that_batch():
    class Refusing(EchoEngine):
        def _submit(self, batch):
            if 9 in batch:
                raise RuntimeError("refused")
            return super()._submit(batch)

    assert answered(run(range(20), engine=Refusing(slots=3))) == [(number, number) for number in range(20)]


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_bug_of_an_engine_reaches_the_caller_and_leaves_no_batch_in_it(slots):
    class Broken(FilledEngine):
        def _collect(self, started):
            super()._collect(started)

    stats = Stats()
    engine = Broken(stats, 4 + 2 * 4 + 3, slots=slots)
    with pytest.raises(AttributeError):
        list(run(range(20), engine=engine, stats=stats))
    assert engine.most_on_the_way == slots and engine.on_the_way == []


def test_while_a_batch_is_taken_apart_no_other_is_on_its_way():
    stats = Stats()  # EchoEngine.infer looks
    engine = FilledEngine(stats, 4 + 2 * 4 + 3, slots=3, fail_at=2)
    found = answered(run(range(40), engine=engine, stats=stats))
    assert [number for number, answer in found if number != answer] == [2]
    assert engine.most_on_the_way == 3


# --- stopping half way (nothing_left_running looks at the threads)


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("given", [0, 1, 5, 30])
def test_closing_half_way_leaves_no_thread_and_no_batch_in_the_engine(given, slots):
    engine = EchoEngine(slots=slots)
    answers = run(itertools.cycle(range(200)), engine=engine)
    assert len(list(itertools.islice(answers, given))) == given
    answers.close()
    assert list(answers) == [] and engine.on_the_way == []


def test_an_exception_thrown_where_the_answers_are_used_leaves_no_thread():
    answers = run(itertools.cycle(range(200)))
    next(answers)
    with pytest.raises(KeyboardInterrupt):
        answers.throw(KeyboardInterrupt())
    assert list(answers) == []


def test_photos_not_yet_loaded_when_it_stops_are_not_loaded_any_more():
    loaded, gate = [], threading.Event()

    def read(number):
        loaded.append(number)
        if number >= 24:  # the first answer needs no more than three batches
            assert gate.wait(PATIENCE_S)
        return picture_of(number)

    answers = run(itertools.cycle(range(200)), read, batch_size=8, decode_threads=1)
    next(answers)
    opener = threading.Timer(0.05, gate.set)
    opener.start()
    answers.close()  # waits for the one photo that its thread is at
    opener.join()
    assert len(loaded) <= 25


def test_closing_does_not_wait_for_a_source_that_gives_nothing():
    given_up, read = threading.Event(), []

    def source():
        yield from range(4)
        given_up.wait(PATIENCE_S)
        read.append("late")
        yield 4

    answers = run(source())
    assert next(answers).item == 0
    answers.close()
    assert read == []
    assert [thread.name for thread in threading.enumerate() if thread.name in ("decode", "engine")] == []
    given_up.set()
    assert join_feeders()


# --- stop: what was read is answered


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("given", [0, 1, 6, 30])
def test_after_stop_what_was_read_is_answered_and_no_more_is_read(given, slots):
    stop, taken, got = threading.Event(), [], []
    source = (taken.append(number) or number % 200 for number in itertools.count())
    if given == 0:
        stop.set()
    for answer in run(source, engine=EchoEngine(slots=slots), stop=stop):
        got.append(answer)
        if len(got) == given:
            stop.set()
    assert answered(got) == [(number, number) for number in taken]
    assert given <= len(got) < given + 60


def test_after_stop_a_source_that_gives_nothing_is_not_waited_for():
    stop, given_up, got = threading.Event(), threading.Event(), []

    def source():
        yield from range(6)
        stop.set()
        given_up.wait(PATIENCE_S)

    for answer in run(source(), stop=stop):
        got.append(answer)
    assert answered(got) == [(number, number) for number in range(6)]
    assert not given_up.is_set()
    given_up.set()
    assert join_feeders()


def test_a_batch_that_stop_cut_short_is_no_end():
    stop = threading.Event()

    def source():
        yield from range(6)
        stop.set()
        yield 6
        yield 7

    assert [answer.ends_batch for answer in run(source(), stop=stop)] == [False] * 3 + [True] + [False] * 3


def test_a_source_that_ends_because_it_was_stopped_is_cut_short_too():
    stop = threading.Event()

    def source():
        yield from range(6)
        stop.set()  # as standard input does

    assert [answer.ends_batch for answer in run(source(), stop=stop)] == [False] * 3 + [True] + [False] * 2


def test_a_batch_that_a_failure_cut_short_is_no_end():
    got, _ = kept_until_the_end(run(failing_items(6, OSError())))
    assert [answer.ends_batch for answer in got] == [False] * 3 + [True] + [False] * 2


# --- everything at once


def expected_ends(count, bad, batch_size):
    """Returns the numbers whose answers end a batch."""
    ends, pictures = [], 0
    for number in range(count):
        pictures += number not in bad
        if pictures == batch_size or pictures == 0 or number == count - 1:
            ends.append(number)
            pictures = 0
    return ends


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_lost_or_doubled_or_out_of_order_whatever_happens(seed):
    choose = random.Random(seed)
    count, batch_size = choose.randrange(90), choose.randint(1, 8)
    bad = {number for number in range(count) if choose.random() < choose.choice([0.0, 0.1, 0.7])}
    failing = {number for number in range(count) if choose.random() < choose.choice([0.0, 0.02, 0.2])} - {GREY}
    max_delay_s = choose.choice([None, None, 0, 0.003])
    ending = choose.choice(["whole", "whole", "close", "stop", "source", "load"])
    moment = choose.randint(0, count)
    pause = {name: choose.choice([0.0, 0.0, 0.002]) for name in ("source", "load", "engine", "caller")}
    stop, taken = threading.Event(), []

    def rest(name):
        if pause[name] and choose.random() < 0.3:
            time.sleep(pause[name])

    def source():
        for number in range(count):
            rest("source")
            if ending == "source" and number == moment:
                raise OSError("gone")
            if ending == "stop" and number == moment:
                stop.set()
            taken.append(number)
            yield number

    def read(number):
        rest("load")
        if ending == "load" and number == moment:
            raise ZeroDivisionError()
        return unreadable(*bad)(number)

    class Failing(NanEngine):
        def think(self, numbers):
            rest("engine")
            if any(number in failing and number % 2 for number in numbers):
                raise RuntimeError("broke")

    engine = Failing(*[number for number in failing if number % 2 == 0], slots=choose.randint(1, 3))
    stats = Stats()
    answers = run(
        source(), read, engine, batch_size, choose.randint(1, 4), max_delay_s=max_delay_s, stop=stop, stats=stats,
        live=choose.random() < 0.3,
    )  # fmt: skip
    got, ended_by = [], None
    with contextlib.closing(answers):
        try:
            for answer in answers:
                rest("caller")
                got.append(answer)
                if ending == "close" and len(got) > moment:
                    break
        except (OSError, RuntimeError) as error:
            ended_by = error

    for number, answer in enumerate(got):
        assert answer.item == number
        if number in bad:
            assert (answer.probabilities, answer.error) == (None, "reason %d" % number)
        elif number in failing:
            assert answer.probabilities is None and answer.error.startswith("the engine fails on it: ")
        else:
            assert answer.error == "" and answer.probabilities.argmax() == number
    failed = ending in ("source", "load") and moment < count
    assert (ended_by is not None) == failed
    expected = moment if failed else min(moment + 1, count) if ending == "close" else len(taken)
    assert len(got) == expected
    if ending == "whole":
        assert len(got) == count
    assert engine.on_the_way == []
    assert stats.answered == len(got)
    assert stats.read >= stats.decoded + stats.unreadable >= len(got)
    if max_delay_s is None:
        expected = {number for number in expected_ends(count, bad, batch_size) if number < len(got)}
        found = [answer.item for answer in got if answer.ends_batch]
        assert found == sorted(found) and set(found) <= expected
        # Stopped after the last photo and before it was seen to be the last, its batch counts as cut short.
        assert expected - set(found) <= ({count - 1} if stop.is_set() else set())


# --- what holds it up


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


def test_the_bottleneck_is_what_the_last_seconds_waited_for():
    clock = Clock()
    stats = Stats(clock)
    for stage, seconds in [("decode", 60.0), ("engine", 3.0), ("writing", 1.0)]:
        stats.set_bottleneck(stage)
        clock.now_s += seconds
    assert stats.bottleneck() == "engine"
    clock.now_s += 2.0
    assert stats.bottleneck() == "writing"  # it has not ended yet
    stats.set_bottleneck("")
    assert stats.blocked_s == {"reading": 0.0, "decode": 60.0, "engine": 3.0, "writing": 3.0}
    assert stats.infer_s == 3.0


def test_what_is_long_ago_is_forgotten():
    clock = Clock()
    stats = Stats(clock)
    for number in range(10000):
        stats.set_bottleneck(STAGES[number % 2])
        clock.now_s += 0.01
    assert len(stats._recent) <= 502


@pytest.mark.parametrize("slow", STAGES)
def test_the_slow_stage_is_named(slow):
    delay_s = 0.05
    stats = Stats()

    def source():
        for number in range(12):
            time.sleep(delay_s * (slow == "reading"))
            yield number

    def read(number):
        time.sleep(delay_s * (slow == "decode"))
        return picture_of(number)

    engine = EchoEngine(delay_s=2 * delay_s * (slow == "engine"))
    named = set()
    for _ in run(source(), read, engine, 2, decode_threads=1, stats=stats):
        time.sleep(delay_s * (slow == "writing"))
        named.add(stats.bottleneck())
    assert slow in named
    assert stats.bottleneck() == max(stats.blocked_s, key=stats.blocked_s.get) == slow
    assert (stats.read, stats.decoded, stats.answered) == (12, 12, 12)


def test_decoding_time_is_added_up_over_the_threads():
    stats = Stats()

    def read(number):
        time.sleep(0.02)
        return picture_of(number)

    list(run(range(8), read, decode_threads=4, stats=stats))
    assert stats.decode_s >= 8 * 0.02


def test_what_is_counted_adds_up_over_runs():
    stats = Stats()
    for _ in range(2):
        list(run(range(10), unreadable(3, 4), stats=stats))
    assert (stats.read, stats.decoded, stats.unreadable, stats.failed, stats.answered) == (20, 16, 4, 0, 20)


def test_an_engine_error_keeps_what_the_library_raised():
    with pytest.raises(EngineError, match="echo: ") as found:
        EchoEngine(fail_at=1).infer(picture_of(1)[np.newaxis])
    assert isinstance(found.value.__cause__, RuntimeError)


def test_a_batch_that_memory_does_not_hold_ends_the_run_with_a_word_about_it():
    engine = EchoEngine(max_batch=1 << 40)
    with pytest.raises(OutOfMemory, match="%d.*--batch" % (1 << 40)):
        list(run([1, 2, 3], engine=engine, batch_size=1 << 40))
