"""Several machines: two real worker processes on loopback against one."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from edge_runtime.errors import UsageError
from edge_runtime.machine import cpu
from tests import helpers
from tests.train.model import tune_once
from train.model import workers


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(folder, out, config, *more):
    environment = dict(os.environ, PYTHONPATH=helpers.ROOT, TF_CPP_MIN_LOG_LEVEL="2", OMP_NUM_THREADS="1")
    environment["TF_CONFIG"] = json.dumps(config)
    command = [sys.executable, "-m", "tests.train.model.tune_once", str(folder), str(out)] + list(more)
    return subprocess.Popen(command, env=environment, cwd=helpers.ROOT, stderr=subprocess.PIPE)


def finish(process):
    try:
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, said.decode()[-3000:]


def train_with_two(folder, out, *more):
    """Returns what each of two workers ended with."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    outs = [str(out / f"{index}.npz") for index in range(2)]
    tasks = [
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}} for index in range(len(outs))
    ]
    for process in [start(folder, path, task, *more) for path, task in zip(outs, tasks)]:
        finish(process)
    return [np.load(path) for path in outs]


@pytest.fixture
def folder(tmp_path):
    """Of 33 photos: the last batch has one, so that one worker has none."""
    pytest.importorskip("tensorflow")
    helpers.write_photos(tmp_path / "photos", per_class=11)
    return tmp_path / "photos"


def test_two_workers_end_where_one_ends(folder, tmp_path, monkeypatch):
    first, second = train_with_two(folder, tmp_path)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr(cpu, "cpu_features", cpu.cpu_features)  # tune_once replaces it
    tune_once.main(str(folder), str(tmp_path / "alone.npz"))
    alone = np.load(str(tmp_path / "alone.npz"))
    assert alone["loss"][-1] < alone["loss"][0]
    for name in alone.files:
        assert np.abs(first[name] - second[name]).max() < 1e-6, name
        assert np.abs(first[name] - alone[name]).max() < 1e-4, name


@pytest.mark.slow
def test_two_workers_that_mix_photos_end_at_one_place(folder, tmp_path):
    first, second = train_with_two(folder, tmp_path, "mixup")
    assert first["val_loss"].min() < first["val_loss"][0]
    for name in first.files:
        assert np.abs(first[name] - second[name]).max() < 1e-6, name


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}',
    ],
)
def test_a_garbled_tf_config_is_the_user_s_error(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UsageError, match="TF_CONFIG: expected"):
        workers.cluster()


@pytest.mark.parametrize("text", [None, "", "{}"])
def test_without_a_cluster_this_worker_is_the_only_one(monkeypatch, text):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    assert workers.cluster() == (0, 1)
    assert workers.mean(None, [3.0]) == [3.0]
