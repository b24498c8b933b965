"""TensorRT engines on a simulated GPU: right answers, every refusal told, nothing leaked."""

import gc
import json
import logging
import os
import shutil
import sys
import threading
import time

import numpy as np
import pytest

from edge_runtime import files
from edge_runtime.bundle.reading import Bundle
from edge_runtime.classifier import Classifier
from edge_runtime.engines import check, selection
from edge_runtime.engines.base import EngineError
from edge_runtime.engines.record import ENGINE_JSON, local_facts
from edge_runtime.engines.selection import open_engine
from edge_runtime.engines.tensorrt import engine as tensorrt_engine
from edge_runtime.engines.tensorrt import versions
from edge_runtime.engines.tensorrt.context import _primary_context, gpu_context
from edge_runtime.engines.tensorrt.engine import PLAN, ZERO_COPY, create, make_log
from edge_runtime.errors import BundleError, EngineLost, MissingRequirement
from edge_runtime.photos.spec import INCEPTION_V3
from edge_runtime.pipeline.classify_items import classify_items
from tests.helpers import COLOURS, at_once, flip_byte, photo

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

VERSIONS = ["8.2.1", "8.6.1", "10.3", "11.1"]
NAME = "tensorrt-fp32-b4"
REBUILD = "picnic-edge convert %s --to tensorrt --precision fp32"


@pytest.fixture(scope="module")
def converted_once(pristine_bundle, tmp_path_factory):
    """Returns a function of a version: a bundle with a plan for batches of 1 to 4, made once per version."""
    from convert import cli
    from tests import simulator

    made = {}

    def make(version):
        if version not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(check, "SPEED_S", 0.01)
                installed = simulator.install(patch, version=version)
                folder = shutil.copytree(pristine_bundle, str(tmp_path_factory.mktemp("plan") / "bundle"))
                cli.main([folder, "--to", "tensorrt", "--precision", "fp32", "--max-batch", "4"])
                _primary_context.cache_clear()
                installed.assert_clean()
            made[version] = folder
        return made[version]

    return make


@pytest.fixture
def bundle_for(converted_once, tmp_path, simulated):
    """Returns a function of a version and knobs: (a converted bundle of the test's own, the Simulator to run it on)."""

    def prepare(version="8.2.1", **knobs):
        folder = shutil.copytree(converted_once(version), str(tmp_path / "bundle"))
        return Bundle.open(folder), simulated(version, **knobs)

    return prepare


def change_record(bundle, **changes):
    path = os.path.join(bundle.file("engines"), NAME, ENGINE_JSON)
    with open(path, encoding="utf-8") as file:
        record = json.load(file)
    record.update(changes)
    files.write_json(path, record)


def agrees(answers, sample, count):
    return np.allclose(answers, sample.probabilities[:count], atol=1e-3)


# --- answers


@pytest.mark.parametrize("version", VERSIONS)
def test_every_batch_size_gets_the_original_s_answers(bundle_for, version):
    bundle, _ = bundle_for(version)
    sample = bundle.sample()
    with open_engine(bundle, NAME, max_batch=4) as engine:
        for count in (4, 1, 3, 3, 2):
            assert agrees(engine.infer(sample.images[:count]), sample, count)


@pytest.mark.parametrize("version, dtype", [("8.2.1", np.float32), ("8.6.1", np.uint8), ("11.1", np.uint8)])
def test_uint8_goes_to_the_gpu_where_tensorrt_takes_it(bundle_for, version, dtype):
    bundle, simulator = bundle_for(version)
    with open_engine(bundle, NAME, max_batch=4) as engine:
        assert engine._slots[0].pieces[0].host["images"].dtype == dtype
        engine.infer(bundle.sample().images[:2])
    assert simulator.pageable_copies == 0


def test_a_batch_larger_than_the_plan_s_is_run_in_pieces(bundle_for):
    bundle, _ = bundle_for()
    sample = bundle.sample()
    with open_engine(bundle, NAME, max_batch=11) as engine:
        assert agrees(engine.infer(sample.images[:11]), sample, 11)


def test_no_more_memory_is_taken_than_the_largest_batch_asked_for_needs(bundle_for):
    bundle, _ = bundle_for()
    with open_engine(bundle, NAME, max_batch=1) as engine:
        assert engine._slots[0].pieces[0].host["images"].shape == (1, 299, 299, 3)


def test_an_answer_belongs_to_the_caller(bundle_for):
    bundle, _ = bundle_for()
    sample = bundle.sample()
    with open_engine(bundle, NAME, max_batch=4) as engine:
        first = engine.infer(sample.images[:4])
        engine.infer(sample.images[4:8])
    assert agrees(first, sample, 4)


def test_a_batch_that_is_a_view_is_taken_and_stays_as_it_is(bundle_for):
    bundle, _ = bundle_for()
    sample = bundle.sample()
    turned = np.ascontiguousarray(sample.images[:4, :, ::-1])
    view = turned[:, :, ::-1]
    with open_engine(bundle, NAME, max_batch=4) as engine:
        assert agrees(engine.infer(view), sample, 4)
    assert np.array_equal(view, sample.images[:4])


# --- threads


@pytest.mark.parametrize("version", ["8.2.1", "10.3"])
def test_an_engine_may_be_used_and_closed_on_other_threads_than_it_was_opened_on(bundle_for, version):
    bundle, _ = bundle_for(version)
    sample = bundle.sample()
    engine = open_engine(bundle, NAME, max_batch=4)
    found = []

    def use():
        found.append(engine.infer(sample.images[:4]))

    for work in (use, use, engine.close):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(found) == 2 and all(agrees(answers, sample, 4) for answers in found)


def test_two_threads_at_once_get_their_own_answers(bundle_for):
    bundle, _ = bundle_for()
    sample = bundle.sample()
    wrong = []
    with open_engine(bundle, NAME, max_batch=4) as engine:

        def use(place):
            for _ in range(5):
                answers = engine.infer(sample.images[place : place + 1])
                if not np.allclose(answers, sample.probabilities[place], atol=1e-3):
                    wrong.append(place)

        threads = [threading.Thread(target=use, args=(place,)) for place in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_the_pipeline_runs_it(bundle_for):
    bundle, _ = bundle_for()
    sample = bundle.sample()
    with open_engine(bundle, NAME, max_batch=4) as engine:
        answers = list(classify_items(range(10), lambda item: sample.images[item], INCEPTION_V3, engine, 4, 2))
    assert [answer.probabilities.argmax() for answer in answers] == list(sample.probabilities[:10].argmax(axis=1))


# --- the ring: several batches on their way


def alike(answers, sample, start, stop):
    return np.allclose(answers, sample.probabilities[start:stop], atol=1e-3)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_batch_is_run_while_the_one_before_it_is_not_collected_yet(bundle_for, version):
    bundle, _ = bundle_for(version)
    sample = bundle.sample()
    with open_engine(bundle, NAME, max_batch=4) as engine:
        assert engine.slots == 2
        first = engine.submit(sample.images[:4])
        second = engine.submit(sample.images[4:7])
        assert alike(engine.collect(first), sample, 0, 4)
        assert engine._stream._queue.busy  # only the first was waited for
        third = engine.submit(sample.images[7:8])
        assert alike(engine.collect(second), sample, 4, 7)
        assert alike(engine.collect(third), sample, 7, 8)
        assert not engine._stream._queue.busy


def test_the_pipeline_submits_the_next_batch_before_it_collects_one(bundle_for, monkeypatch):
    bundle, _ = bundle_for()
    sample = bundle.sample()
    calls = []
    with open_engine(bundle, NAME, max_batch=4) as engine:
        submit, collect = engine.submit, engine.collect
        monkeypatch.setattr(engine, "submit", lambda batch: calls.append("submit") or submit(batch))
        monkeypatch.setattr(engine, "collect", lambda ticket: calls.append("collect") or collect(ticket))
        answers = list(classify_items(range(24), lambda item: sample.images[item % 12], INCEPTION_V3, engine, 4, 2))
    assert alike([answer.probabilities for answer in answers[:12]], sample, 0, 12)
    assert alike([answer.probabilities for answer in answers[12:]], sample, 0, 12)
    assert calls.count("submit") == calls.count("collect") == 6
    waiting = np.cumsum([1 if call == "submit" else -1 for call in calls])
    assert waiting.max() == 2 and waiting[-1] == 0


def test_batches_larger_than_the_plan_s_share_the_ring(bundle_for):
    bundle, _ = bundle_for()
    sample = bundle.sample()
    with open_engine(bundle, NAME, max_batch=11) as engine:
        first = engine.submit(sample.images[:11])
        second = engine.submit(sample.images[2:12])
        assert alike(engine.collect(first), sample, 0, 11)
        third = engine.submit(sample.images[5:7])
        assert alike(engine.collect(second), sample, 2, 12)
        assert alike(engine.collect(third), sample, 5, 7)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("in_order", [True, False])
def test_more_batches_than_slots_are_answered_and_take_no_more_memory(bundle_for, version, in_order):
    bundle, simulator = bundle_for(version)
    sample = bundle.sample()
    with open_engine(bundle, NAME, max_batch=4) as engine:
        before = simulator.gpu.used_bytes()
        pending = [(start, engine.submit(sample.images[start : start + 2])) for start in range(0, 10, 2)]
        assert alike(engine.infer(sample.images[10:12]), sample, 10, 12)
        assert simulator.gpu.used_bytes() == before
        for start, one in pending if in_order else pending[::-1]:
            assert alike(engine.collect(one), sample, start, start + 2)
        with pytest.raises(EngineError, match="batch"):
            engine.collect(pending[0][1])


def test_a_batch_that_another_user_s_took_off_keeps_its_own_failure(bundle_for, monkeypatch):
    bundle, simulator = bundle_for()
    sample = bundle.sample()
    cuda = simulator.pycuda.driver
    with open_engine(bundle, NAME, max_batch=4) as engine:
        failing = engine.submit(sample.images[:2])
        second = engine.submit(sample.images[2:4])
        wait = cuda.Event.synchronize

        def fail(event):
            wait(event)
            if event is engine._slots[0].done:
                raise cuda.LaunchError("cuEventSynchronize failed: planted")

        with monkeypatch.context() as patch:
            patch.setattr(cuda.Event, "synchronize", fail)
            third = engine.submit(sample.images[4:6])
        with pytest.raises(EngineError, match="cuEventSynchronize failed: planted"):
            engine.collect(failing)
        assert alike(engine.collect(second), sample, 2, 4) and alike(engine.collect(third), sample, 4, 6)


def test_runs_that_share_a_classifier_get_their_own_answers(bundle_for):
    bundle, _ = bundle_for()
    names = sorted(COLOURS)
    with open_engine(bundle, NAME, max_batch=4) as engine:
        classifier = Classifier(bundle, engine, 4)

        def predictions(label):
            return classifier.classify(photo(COLOURS[label], seed) for seed in range(40))

        def labels_of(label):
            return [found.label or found.error for found in predictions(label)]

        assert at_once(*((labels_of, label) for label in names)) == [[label] * 40 for label in names]
        in_turns = [tuple(one.label for one in together) for together in zip(*map(predictions, names))]
    assert in_turns == [tuple(names)] * 40


def test_closing_while_others_use_it_is_an_error_of_theirs(bundle_for):
    bundle, simulator = bundle_for()
    sample = bundle.sample()
    engine = open_engine(bundle, NAME, max_batch=4)
    working = [threading.Event() for _ in range(2)]

    def use(answered):
        with pytest.raises(EngineError) as refused:
            while True:
                assert agrees(engine.infer(sample.images[:4]), sample, 4)
                answered.set()
        return str(refused.value)

    def close():
        for answered in working:
            answered.wait(20)
        engine.close()

    *told, _ = at_once((use, working[0]), (use, working[1]), (close,))
    assert all("is closed" in text for text in told), told
    gc.collect()
    assert simulator.gpu.used_bytes() == 0


def test_threads_that_use_the_gpu_first_at_once_share_one_context(simulated, monkeypatch):
    cuda = simulated().pycuda.driver
    retain, makers, done = cuda.Device.retain_primary_context, [], threading.Barrier(3, timeout=20)

    def slow(device):
        makers.append(threading.get_ident())
        time.sleep(0.1)  # the others come meanwhile
        return retain(device)

    def use():
        with gpu_context():
            pass
        done.wait()
        if threading.get_ident() == makers[0]:  # who made it has to let go of it
            _primary_context.cache_clear()

    monkeypatch.setattr(cuda.Device, "retain_primary_context", slow)
    at_once((use,), (use,), (use,))
    assert len(makers) == 1


def test_the_caller_may_use_a_batch_s_memory_again_once_it_is_submitted(bundle_for):
    bundle, _ = bundle_for()
    sample = bundle.sample()
    batch = sample.images[:4].copy()
    with open_engine(bundle, NAME, max_batch=4) as engine:
        pending = engine.submit(batch)
        batch[:] = 0
        assert agrees(engine.collect(pending), sample, 4)


@pytest.mark.parametrize("zero_copy", ["0", "1"])
def test_an_answer_read_before_its_event_would_be_noticed(bundle_for, monkeypatch, zero_copy):
    monkeypatch.setenv(ZERO_COPY, zero_copy)
    bundle, simulator = bundle_for()
    sample = bundle.sample()
    with open_engine(bundle, NAME, max_batch=4) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(simulator.pycuda.driver.Event, "synchronize", lambda event: event)
            assert not agrees(engine.collect(engine.submit(sample.images[:4])), sample, 4)
        assert agrees(engine.infer(sample.images[:4]), sample, 4)


@pytest.mark.parametrize("planted", [False, True])
def test_a_run_that_does_not_wait_for_its_input_would_be_noticed(bundle_for, monkeypatch, planted):
    bundle, simulator = bundle_for()
    sample = bundle.sample()
    with open_engine(bundle, NAME, max_batch=4) as engine:
        wait = simulator.pycuda.driver.Stream.wait_for_event
        if planted:
            monkeypatch.setattr(
                simulator.pycuda.driver.Stream,
                "wait_for_event",
                lambda stream, event: None if stream is engine._stream else wait(stream, event),
            )
        pending = [engine.submit(sample.images[start : start + 2]) for start in (0, 2)]
        engine.collect(pending[1])  # this waits for the first run, too, but not for what that has to wait for
        assert alike(engine.collect(pending[0]), sample, 0, 2) != planted


def test_a_slot_that_is_filled_too_early_would_be_noticed(bundle_for):
    bundle, _ = bundle_for()
    sample = bundle.sample()
    with open_engine(bundle, NAME, max_batch=4) as engine:
        pending = engine.submit(sample.images[:4])
        engine._slots[0].pieces[0].host["images"][:] = 0
        assert not agrees(engine.collect(pending), sample, 4)


# --- working in page-locked memory itself, where the GPU has no other


@pytest.mark.parametrize("version", VERSIONS)
def test_an_integrated_gpu_works_in_page_locked_memory_where_it_is_told_to(bundle_for, monkeypatch, version):
    monkeypatch.setenv(ZERO_COPY, "1")
    bundle, simulator = bundle_for(version)
    sample = bundle.sample()
    for name in ("mem_alloc", "memcpy_htod_async", "memcpy_dtoh_async"):
        monkeypatch.setattr(simulator.pycuda.driver, name, lambda *_: pytest.fail("memory is copied"))
    with open_engine(bundle, NAME, max_batch=6) as engine:
        for count in (4, 1, 6, 3):
            assert agrees(engine.infer(sample.images[:count]), sample, count)
        pending = [engine.submit(sample.images[start : start + 5]) for start in (0, 5)]
        assert [alike(engine.collect(one), sample, 5 * n, 5 * n + 5) for n, one in enumerate(pending)] == [True, True]


def test_zero_copy_is_ignored_with_a_warning_on_a_gpu_with_dedicated_memory(bundle_for, monkeypatch, caplog):
    monkeypatch.setenv(ZERO_COPY, "1")
    attributes = {"INTEGRATED": 0, "CAN_MAP_HOST_MEMORY": 1, "MULTIPROCESSOR_COUNT": 80, "UNIFIED_ADDRESSING": 1}
    bundle, _ = bundle_for(attributes=attributes)
    sample = bundle.sample()
    with caplog.at_level(logging.WARNING, "picnic_edge"):
        with open_engine(bundle, NAME, max_batch=4) as engine:
            assert engine._slots[0].pieces[0].device
            assert agrees(engine.infer(sample.images[:4]), sample, 4)
    said = "PICNIC_EDGE_ZERO_COPY=1 is ignored: this GPU has dedicated memory"
    assert [record.getMessage() for record in caplog.records] == ["%s: %s" % (NAME, said)]


@pytest.mark.parametrize("value", [None, "", "0"])
def test_without_the_switch_memory_is_copied(bundle_for, monkeypatch, value):
    if value is None:
        monkeypatch.delenv(ZERO_COPY, raising=False)
    else:
        monkeypatch.setenv(ZERO_COPY, value)
    bundle, _ = bundle_for()
    with open_engine(bundle, NAME, max_batch=4) as engine:
        assert all(piece.device for slot in engine._slots for piece in slot.pieces)


# --- nothing is left behind (the fixture looks for leaks)


@pytest.mark.parametrize("version, zero_copy", [("8.2.1", "0"), ("8.2.1", "1"), ("11.1", "0")])
def test_opening_and_closing_again_and_again_leaves_nothing(bundle_for, monkeypatch, version, zero_copy):
    monkeypatch.setenv(ZERO_COPY, zero_copy)
    bundle, simulator = bundle_for(version)
    sample = bundle.sample()
    info = selection.find_engine(bundle, NAME)
    for number in range(200):
        engine = create(info, bundle.input_spec.shape, len(bundle.class_names), 1, None).open()
        if number % 20 == 0:
            assert agrees(engine.infer(sample.images[:1]), sample, 1)
        if number % 20 == 1:
            engine.submit(sample.images[:1])  # and never collected
        engine.close()
        engine.close()
        assert simulator.gpu.used_bytes() == 0
    assert simulator.gpu.stack() == []
    assert all(not context.streams for context in simulator.gpu.contexts)


def test_closing_waits_for_batches_on_their_way_and_their_answers_are_gone(bundle_for):
    bundle, simulator = bundle_for()
    sample = bundle.sample()
    engine = open_engine(bundle, NAME, max_batch=4)
    pending = [engine.submit(sample.images[start : start + 2]) for start in (0, 2)]
    engine.close()
    assert simulator.gpu.used_bytes() == 0
    with pytest.raises(EngineError, match="batch"):
        engine.collect(pending[0])


@pytest.mark.parametrize("zero_copy, needed", [("0", 1 + 2 * (1 + 3 + 4)), ("1", 1 + 2 * (1 + 3 + 4))])
def test_opening_that_fails_at_any_step_gives_all_back(bundle_for, monkeypatch, zero_copy, needed):
    monkeypatch.setenv(ZERO_COPY, zero_copy)
    bundle, simulator = bundle_for()
    cuda = simulator.pycuda.driver
    calls, fail_at = [0], [0]

    def counted(function):
        def call(*args, **kwargs):
            calls[0] += 1
            if calls[0] == fail_at[0]:
                raise cuda.MemoryError("cuSomething failed: out of memory")
            return function(*args, **kwargs)

        return call

    for owner, name in ((cuda, "mem_alloc"), (cuda, "pagelocked_empty"), (cuda, "Stream"), (cuda, "Event")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    allocation = cuda.PagelockedHostAllocation
    monkeypatch.setattr(allocation, "get_device_pointer", counted(allocation.get_device_pointer))
    for fail_at[0] in range(1, needed + 1):
        calls[0] = 0
        with pytest.raises(MissingRequirement, match="--batch.*cuSomething failed"):
            open_engine(bundle, NAME, max_batch=4)
        assert simulator.gpu.used_bytes() == 0 and not any(context.streams for context in simulator.gpu.contexts)
    calls[0], fail_at[0] = 0, 0
    open_engine(bundle, NAME, max_batch=4).close()
    assert calls[0] == needed


@pytest.mark.parametrize("version", ["8.2.1", "10.3"])
def test_opening_that_fails_for_want_of_memory_gives_all_back_wherever_it_fails(bundle_for, version):
    bundle, simulator = bundle_for(version)
    with open_engine(bundle, NAME, max_batch=4):
        needed_bytes = simulator.gpu.used_bytes()
    for part in (0, 0.01, 0.3, 0.7, 0.999):
        simulator.set(memory_limit_bytes=int(part * needed_bytes))
        with pytest.raises(MissingRequirement, match="memory"):
            open_engine(bundle, NAME, max_batch=4)
        assert simulator.gpu.used_bytes() == 0
    simulator.set(memory_limit_bytes=needed_bytes)
    open_engine(bundle, NAME, max_batch=4).close()


# --- refusals


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_that_tensorrt_does_not_accept_is_an_error_and_no_old_answer(bundle_for, version):
    bundle, simulator = bundle_for(version)
    sample = bundle.sample()
    with open_engine(bundle, NAME, max_batch=4) as engine:
        engine.infer(sample.images[:4])
        simulator.set(fail_enqueue=True)
        with pytest.raises(EngineError, match="tensorrt-fp32-b4: "):
            engine.infer(sample.images[4:8])
        simulator.set(fail_enqueue=False)
        assert agrees(engine.infer(sample.images[:2]), sample, 2)


def test_a_batch_that_fails_leaves_the_one_before_it_and_its_own_slot_whole(bundle_for):
    bundle, simulator = bundle_for()
    sample = bundle.sample()
    with open_engine(bundle, NAME, max_batch=4) as engine:
        first = engine.submit(sample.images[:4])
        simulator.set(fail_enqueue=True)
        for _ in range(3):
            with pytest.raises(EngineError, match="TensorRT"):
                engine.submit(sample.images[4:8])
        simulator.set(fail_enqueue=False)
        second = engine.submit(sample.images[4:7])
        assert alike(engine.collect(first), sample, 0, 4)
        assert alike(engine.collect(second), sample, 4, 7)


def test_a_cuda_error_that_passes_leaves_the_engine_usable(bundle_for, monkeypatch):
    bundle, simulator = bundle_for()
    sample = bundle.sample()
    cuda = simulator.pycuda.driver

    def refuse(*_):
        raise cuda.MemoryError("cuMemcpyHtoDAsync failed: out of memory")

    with open_engine(bundle, NAME, max_batch=4) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(cuda, "memcpy_htod_async", refuse)
            with pytest.raises(EngineError, match="cuMemcpyHtoDAsync failed: out of memory"):
                engine.submit(sample.images[:4])
        assert agrees(engine.infer(sample.images[:4]), sample, 4)


def test_a_gpu_that_is_gone_is_told_for_every_batch_and_closing_frees_what_there_was(bundle_for):
    bundle, simulator = bundle_for()
    sample = bundle.sample()
    with open_engine(bundle, NAME, max_batch=4) as engine:
        pending = [engine.submit(sample.images[start : start + 2]) for start in (0, 2)]
        simulator.set(lose_gpu=True)
        for one in pending:
            with pytest.raises(EngineError, match="unspecified launch failure"):
                engine.collect(one)
        with pytest.raises(EngineError, match="before.*launch failure"):
            engine.submit(sample.images[:1])
    gc.collect()  # the frames that the errors keep hold the streams
    assert simulator.gpu.used_bytes() == 0


def test_the_pipeline_keeps_what_was_done_before_the_gpu_was_gone(bundle_for):
    bundle, simulator = bundle_for()
    sample = bundle.sample()
    found = []
    with open_engine(bundle, NAME, max_batch=2) as engine:
        with pytest.raises(EngineLost):
            for answer in classify_items(range(40), lambda item: sample.images[item % 12], INCEPTION_V3, engine, 2, 2):
                found.append(answer)
                simulator.set(lose_gpu=True)
    assert 2 <= len(found) < 12 and alike([answer.probabilities for answer in found], sample, 0, len(found))


@pytest.mark.parametrize("version", ["8.2.1", "10.3"])
def test_a_shape_that_tensorrt_does_not_accept_is_an_error_with_its_reason(bundle_for, monkeypatch, version):
    bundle, _ = bundle_for(version)
    sample = bundle.sample()
    tensors_of = versions.tensors_of

    def larger(tensorrt, engine):
        found = tensors_of(tensorrt, engine)
        return {name: t._replace(largest_shape=(5,) + tuple(t.largest_shape[1:])) for name, t in found.items()}

    monkeypatch.setattr(versions, "tensors_of", larger)  # than the plan's profile
    with open_engine(bundle, NAME, max_batch=8) as engine:
        with pytest.raises(EngineError, match=r"\(5, 299, 299, 3\): .*[Ee]rror"):
            engine.infer(sample.images[:5])
        assert agrees(engine.infer(sample.images[:4]), sample, 4)


def test_no_execution_context_is_told_as_such(bundle_for):
    bundle, simulator = bundle_for(fail_context=True)
    with pytest.raises(MissingRequirement, match="execution context.*memory"):
        open_engine(bundle, NAME)
    assert simulator.gpu.used_bytes() == 0


def test_a_plan_that_tensorrt_cannot_load_is_told_with_its_reason(bundle_for):
    bundle, _ = bundle_for(fail_deserialize=True)
    with pytest.raises(MissingRequirement, match="Magic tag does not match"):
        open_engine(bundle, NAME)


# --- an engine that is not for this machine: refused before it is loaded


@pytest.fixture
def never_loaded(monkeypatch):
    monkeypatch.setattr(selection, "create_engine", lambda *_: pytest.fail("the engine was to be loaded"))


@pytest.mark.parametrize(
    "made_by, here, knobs, problem",
    [
        ("8.2.1", "8.6.1", {}, "tensorrt 8.2.1.8.*8.6.1.8"),
        ("10.3", "8.2.1", {}, "tensorrt 10.3.0.8.*8.2.1.8"),
        ("8.2.1", "8.2.1", {"device_name": "NVIDIA Tegra X1"}, "GPU NVIDIA Tegra X2"),
        (
            "8.2.1",
            "8.2.1",
            {"compute_capability": (7, 2)},
            r"NVIDIA Tegra X2 \(compute capability 7.2\)",
        ),
    ],
)
def test_a_foreign_plan_is_refused_with_the_command_that_makes_it_again(
    converted_once, tmp_path, simulated, never_loaded, made_by, here, knobs, problem
):
    bundle = Bundle.open(shutil.copytree(converted_once(made_by), str(tmp_path / "bundle")))
    simulated(here, **knobs)
    with pytest.raises(BundleError, match=problem) as refused:
        open_engine(bundle, NAME)
    assert REBUILD % bundle.path in str(refused.value)


@pytest.mark.parametrize(
    "gpu, said",
    [(None, "no GPU"), ({}, "no GPU"), ({"name": "X"}, r"the GPU X \(compute capability None\)")],
)
def test_a_record_without_the_gpu_is_refused(bundle_for, never_loaded, gpu, said):
    bundle, _ = bundle_for()
    change_record(bundle, gpu=gpu)
    with pytest.raises(BundleError, match="%s.*NVIDIA Tegra X2" % said):
        open_engine(bundle, NAME)


def test_a_changed_byte_of_the_plan_is_refused_before_tensorrt_sees_it(bundle_for):
    bundle, _ = bundle_for(fail_deserialize=True)
    flip_byte(os.path.join(bundle.file("engines"), NAME, PLAN))
    with pytest.raises(BundleError, match="model.plan") as refused:
        open_engine(bundle, NAME)
    assert REBUILD % bundle.path in str(refused.value)


def test_auto_takes_the_plan_where_it_is_valid_and_skips_it_with_one_line_elsewhere(bundle_for, simulated, caplog):
    bundle, _ = bundle_for()
    with open_engine(bundle) as engine:
        assert engine.name == NAME
    simulated("10.3")
    with caplog.at_level(logging.WARNING, "picnic_edge"):
        with open_engine(bundle) as engine:
            assert engine.name == "onnxruntime"
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["engine tensorrt-fp32-b4"]
    assert "\n" not in caplog.records[0].getMessage()


# --- what is missing here


@pytest.mark.parametrize(
    "module, said", [("tensorrt", "python3-libnvinfer"), ("pycuda", "pip3 install 'pycuda>=2020.1,<2021.1'")]
)
def test_a_missing_library_is_named_with_its_command(bundle_for, monkeypatch, module, said):
    bundle, _ = bundle_for()
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingRequirement, match=module) as missing:
        open_engine(bundle, NAME)
    assert said in str(missing.value)
    with open_engine(bundle) as engine:
        assert engine.name == "onnxruntime"


def test_an_old_pycuda_is_told_to_be_too_old(bundle_for):
    bundle, _ = bundle_for(pycuda_version="2019.1.2")
    with pytest.raises(MissingRequirement, match="pycuda"):
        open_engine(bundle, NAME)


def test_a_gpu_that_gives_no_context_is_told_as_such(bundle_for, monkeypatch):
    bundle, simulator = bundle_for()
    cuda = simulator.pycuda.driver

    def retain(device):
        raise cuda.MemoryError("cuDevicePrimaryCtxRetain failed: out of memory")

    monkeypatch.setattr(cuda.Device, "retain_primary_context", retain)
    with pytest.raises(MissingRequirement, match="context.*out of memory"):
        open_engine(bundle, NAME)


@pytest.mark.parametrize("kind", ["Runtime", "Builder"])
def test_a_tensorrt_that_cannot_start_on_the_gpu_is_told_as_such(simulated, kind):
    tensorrt = simulated().tensorrt
    log = make_log(tensorrt)

    def refuse(given):
        given.log(tensorrt.ILogger.ERROR, "CUDA initialization failure with error: 3")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    with pytest.raises(MissingRequirement, match="GPU(.|\n)*CUDA initialization failure"):
        tensorrt_engine.start(refuse, log)
    assert type(tensorrt_engine.start(getattr(tensorrt, kind), log)).__name__ == kind


def test_no_gpu_is_told_as_such(bundle_for, monkeypatch):
    bundle, simulator = bundle_for()
    cuda = simulator.pycuda.driver

    def init(flags=0):
        raise cuda.RuntimeError("cuInit failed: no CUDA-capable device is detected")

    monkeypatch.setattr(cuda, "init", init)
    with pytest.raises(MissingRequirement, match="no CUDA-capable device"):
        open_engine(bundle, NAME)


def test_here_is_what_a_plan_is_bound_to(simulated):
    simulated("8.2.1")
    assert local_facts("tensorrt") == {
        "libraries": {"tensorrt": "8.2.1.8"},
        "gpu": {"name": "NVIDIA Tegra X2", "compute_capability": "6.2"},
    }


def test_the_log_never_raises_and_keeps_the_last_errors(simulated):
    tensorrt = simulated().tensorrt

    def show(line):
        raise ValueError(line)

    logger = make_log(tensorrt, show)
    assert logger.reason() == "TensorRT gave no reason"
    for text in ["error %d" % number for number in range(9)]:
        logger.log(tensorrt.ILogger.ERROR, text)
        logger.log(tensorrt.ILogger.WARNING, "warning")
    assert logger.reason() == "\n".join("error %d" % number for number in range(4, 9))
