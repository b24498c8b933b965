"""The budget of memory that all decode threads share; memory that runs out is exit 4, no bug and no damaged file."""

import threading

import numpy as np
import pytest

from edge_runtime.bundle.reading import Bundle
from edge_runtime.cli.run import run_verb
from edge_runtime.engines import selection
from edge_runtime.engines.selection import open_engine
from edge_runtime.errors import ImageError, MissingRequirement, OutOfMemory, UsageError
from edge_runtime.photos import memory_budget

PATIENCE_S = 20


def test_threads_together_never_reserve_more_than_the_budget():
    budget, inside, most = memory_budget.Budget(100), [], []

    def work():
        for need in (60, 10, 30):
            with budget.reserve(need):
                inside.append(need)
                most.append(sum(inside))
                inside.remove(need)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert max(most) <= 100 and 60 <= budget.peak_bytes <= 100


def test_what_never_fits_is_refused_with_both_figures():
    with pytest.raises(ImageError, match="3 MiB .*PNG.* 2 MiB"):
        with memory_budget.Budget(2 << 20).reserve(3 << 20, "a PNG"):
            pass


def test_a_large_one_is_not_overtaken_for_ever():
    budget, order = memory_budget.Budget(100), []
    first = threading.Event()

    def take(need, started=None):
        with budget.reserve(need):
            order.append(need)

    with budget.reserve(50):
        large = threading.Thread(target=take, args=(90,))
        large.start()
        while len(budget._queue) < 1:
            first.wait(0.01)
        small = threading.Thread(target=take, args=(10,))
        small.start()
        while len(budget._queue) < 2:
            first.wait(0.01)
        assert order == []  # the small one would fit, and waits for its turn
    large.join(PATIENCE_S)
    small.join(PATIENCE_S)
    assert order == [90, 10]


def test_alone_waits_for_the_others_and_may_reserve_again():
    budget = memory_budget.Budget(100)
    with budget.alone():
        with budget.reserve(90):
            waiting = threading.Thread(target=lambda: budget.reserve(1).__enter__())
            waiting.start()
            waiting.join(0.1)
            assert waiting.is_alive()
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()


def test_a_failure_inside_gives_the_memory_back():
    budget = memory_budget.Budget(100)
    with pytest.raises(ZeroDivisionError):
        with budget.reserve(100):
            raise ZeroDivisionError
    with budget.reserve(100):
        pass


def test_the_setting_counts(monkeypatch):
    monkeypatch.setenv(memory_budget.SETTING, "700")
    assert memory_budget.default_bytes() == 700 << 20
    monkeypatch.delenv(memory_budget.SETTING)
    assert memory_budget.default_bytes() >= 64 << 20


@pytest.mark.parametrize("text", ["0", "-1", "much", "1.5"])
def test_a_setting_that_makes_no_sense_is_refused(text, monkeypatch):
    monkeypatch.setenv(memory_budget.SETTING, text)
    with pytest.raises(UsageError, match=f"PICNIC_EDGE_DECODE_MIB={text}"):
        memory_budget.default_bytes()


# --- where it runs out


def no_memory():
    return MemoryError()


def numpys():
    """numpy has a class of its own, by whose text people know how much was asked for."""
    try:
        np.empty(1 << 60, np.uint8)
    except MemoryError as error:
        return error


def cpps():
    return RuntimeError("Exception during initialization: std::bad_alloc")


def openvinos():
    return RuntimeError("Exception from src/inference/src/cpp/core.cpp: [GENERAL_ERROR] can't alloc")


def threads():
    return RuntimeError("can't start new thread")


@pytest.mark.parametrize("make", [no_memory, numpys, cpps, openvinos, threads])
def test_it_ends_a_verb_with_4_and_no_traceback(capsys, make):
    def verb(_):
        raise make()

    assert run_verb(verb, []) == 4
    said = capsys.readouterr().err
    assert said.startswith("picnic-edge: not enough memory (") and "()" not in said and said.count("\n") == 1


def test_other_errors_are_still_bugs(capsys):
    def verb(_):
        raise RuntimeError("planted")

    assert run_verb(verb, []) == 1
    assert "this is a bug" in capsys.readouterr().err


@pytest.mark.parametrize("make", [no_memory, cpps])
@pytest.mark.parametrize("name", ["onnxruntime", "auto"])
def test_an_engine_that_does_not_fit_is_not_called_corrupt(tiny_bundle, monkeypatch, make, name):
    def fail(*_):
        raise make()

    monkeypatch.setattr(selection, "create_engine", fail)
    with pytest.raises(OutOfMemory if name != "auto" else MissingRequirement, match="memory"):
        open_engine(Bundle.open(tiny_bundle), name)
