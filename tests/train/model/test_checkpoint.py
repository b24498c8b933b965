"""The state of a training on disk."""

import os
import types

import numpy as np
import pytest

from edge_runtime.errors import UsageError
from train.model import checkpoint
from train.model.checkpoint import Checkpoint


def saved(folder):
    state = Checkpoint(folder, {"seed": 1, "photos": "abc"}, resume=False)
    state.add_result("head", {"loss": [1.0]}, kernel=np.arange(6.0).reshape(2, 3))
    state.save({"stage": "fine-tune", "epoch": 2}, {"0/0": np.ones(3, np.float32)})
    return state


def test_what_was_saved_is_taken_up_again(tmp_path):
    folder = str(tmp_path / "out.training")
    saved(folder)
    resumed = Checkpoint(folder, {"seed": 1, "photos": "abc"}, resume=True)
    assert resumed.facts == {"stage": "fine-tune", "epoch": 2}
    assert resumed.results == {"head": {"loss": [1.0]}}
    assert resumed.arrays["0/0"].tolist() == [1, 1, 1] and resumed.arrays["0/0"].dtype == np.float32
    assert resumed.result_arrays["kernel"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert os.listdir(folder) == ["state.npz"]


def test_without_resume_it_is_said_and_stays_until_there_is_a_new_state(tmp_path, capsys):
    folder = str(tmp_path / "out.training")
    saved(folder)
    state = Checkpoint(folder, {"seed": 2}, resume=False)
    assert state.facts == {}
    assert "holds the state of a stopped training; --resume would continue it" in capsys.readouterr().err
    assert Checkpoint(folder, {"seed": 1, "photos": "abc"}, resume=True).facts
    state.save({"epoch": 1}, {})
    assert Checkpoint(folder, {"seed": 2}, resume=True).facts == {"epoch": 1}


def test_nothing_to_resume_is_said_and_is_no_error(tmp_path, capsys):
    assert Checkpoint(str(tmp_path / "none"), {}, resume=True).facts == {}
    assert "this run starts at the beginning" in capsys.readouterr().err


def test_the_state_of_another_training_is_refused_with_what_differs(tmp_path):
    saved(str(tmp_path / "a"))
    with pytest.raises(UsageError, match="seed: 1 .*2"):
        Checkpoint(str(tmp_path / "a"), {"seed": 2, "photos": "abc"}, resume=True)


def test_a_state_without_a_size_is_of_299_pixels(tmp_path):
    saved(str(tmp_path / "a"))  # as versions before 0.3 wrote it
    assert Checkpoint(str(tmp_path / "a"), {"seed": 1, "photos": "abc", "size": 299}, resume=True).facts
    with pytest.raises(UsageError, match="size: 299 then, 224 now"):
        Checkpoint(str(tmp_path / "a"), {"seed": 1, "photos": "abc", "size": 224}, resume=True)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 half a zip"])
def test_a_damaged_state_is_named(tmp_path, content):
    saved(str(tmp_path / "a"))
    (tmp_path / "a" / "state.npz").write_bytes(content)
    with pytest.raises(UsageError, match="state.npz: .*--resume"):
        Checkpoint(str(tmp_path / "a"), {"seed": 1, "photos": "abc"}, resume=True)


def test_a_state_that_cannot_be_written_costs_no_training(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    state = Checkpoint(str(tmp_path / "file" / "below"), {}, resume=False)
    state.save({"stage": "fine-tune"}, {})
    assert "training continues without it" in capsys.readouterr().err


def test_a_finished_training_leaves_nothing(tmp_path):
    state = saved(str(tmp_path / "a"))
    state.remove()
    assert os.listdir(str(tmp_path)) == []
    state.remove()  # by another worker in the same folder


def test_a_finished_training_takes_along_what_a_kill_while_writing_left(tmp_path):
    state = saved(str(tmp_path / "a"))
    (tmp_path / "a" / ".state.npz.k1ll").write_bytes(b"half")
    state.remove()
    assert os.listdir(str(tmp_path)) == []


def test_only_a_state_of_this_training_is_its_own(tmp_path):
    folder = str(tmp_path / "a")
    saved(folder)
    state = Checkpoint(folder, {"seed": 2}, resume=False)
    assert not state.is_ours
    state.save({"epoch": 1}, {})
    assert state.is_ours and Checkpoint(folder, {"seed": 2}, resume=True).is_ours


def test_what_else_lies_in_the_folder_stays(tmp_path):
    state = saved(str(tmp_path / "apples.training"))
    (tmp_path / "apples.training" / "photo.jpg").write_bytes(b"mine")
    state.remove()
    assert os.listdir(str(tmp_path / "apples.training")) == ["photo.jpg"]


def test_the_time_of_all_sittings_is_added_up(tmp_path, monkeypatch):
    now_s = [0.0]
    monkeypatch.setattr(checkpoint, "time", types.SimpleNamespace(perf_counter=lambda: now_s[0]))
    for sitting_s, before_s in ((100, 0), (30, 100), (5, 130)):
        state = Checkpoint(str(tmp_path / "a"), {}, resume=True)
        assert state.seconds() == before_s
        now_s[0] += sitting_s
        state.save({"epoch": 1}, {})
