"""Memory that runs out is told as what this machine lacks: exit 4, and not as a bug or as a damaged file."""

import numpy as np
import pytest

from edge_runtime import engines
from edge_runtime.bundle import Bundle
from edge_runtime.command import run_verb
from edge_runtime.engines import open_engine
from edge_runtime.errors import OutOfMemory


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


@pytest.mark.parametrize("make", [no_memory, numpys, cpps])
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

    monkeypatch.setattr(engines, "create_engine", fail)
    with pytest.raises(OutOfMemory if name != "auto" else engines.MissingRequirement, match="not enough memory"):
        open_engine(Bundle.open(tiny_bundle), name)
