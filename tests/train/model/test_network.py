"""The network's pieces: weights, features, the head, the GPU's memory."""

import os
import re
import subprocess
import sys
import types

import numpy as np
import pytest

from edge_runtime.errors import UsageError
from edge_runtime.machine import cpu, memory
from tests import helpers
from train.cli.train import main
from train.model import network


@pytest.fixture(scope="module")
def tensorflow():
    found = pytest.importorskip("tensorflow", reason="training needs TensorFlow")
    network.load_tensorflow()
    return found


def test_loading_tensorflow_says_nothing_and_takes_onednn_where_it_is_faster(tensorflow):
    code = "import os; from train.model import network; network.load_tensorflow()\n"
    code += "print(os.environ.get('TF_ENABLE_ONEDNN_OPTS'))"
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=dict(environment, PYTHONPATH=helpers.ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    version = [int(part) for part in tensorflow.__version__.split(".")[:2]]
    expected = b"1" if "avx2" in cpu.cpu_features() and version >= [2, 21] else b"None"
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, expected, b"")


# ---- the head


def random_features(seed, count=60, classes=3):
    random = np.random.RandomState(seed)
    labels = np.arange(count) % classes
    features = np.zeros((count, network.FEATURES), np.float32)  # most say nothing, as where a ReLU stays shut
    features[:, :300] = random.rand(count, 300)
    for position in range(0, 300, 3):  # 100 telling features per class
        features[np.arange(count), position + labels] += 1
    return features, labels


def train(seed, epochs=4):
    features, labels = random_features(0)
    val_features, val_labels = random_features(1, 30)
    network.set_seed(seed)
    head, history, _ = network.train_head(features, labels, np.ones(3, np.float32), epochs, val_features, val_labels)
    return head.predict(val_features, verbose=0), history


def test_one_seed_trains_the_same_head_and_another_seed_another(tensorflow):
    first, first_history = train(seed=7)
    again, again_history = train(seed=7)
    other, _ = train(seed=8)
    assert np.array_equal(first, again)
    assert first_history == again_history
    assert not np.array_equal(first, other)


def test_head_learns_and_records_every_epoch(tensorflow, capsys):
    answers, history = train(seed=0, epochs=12)
    assert answers.shape == (30, 3)
    assert np.allclose(answers.sum(axis=1), 1, atol=1e-5)
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert {len(values) for values in history.values()} == {12}
    assert all(type(value) is float for values in history.values() for value in values)
    assert history["loss"][-1] < history["loss"][0]
    assert np.mean(answers.argmax(axis=1) == random_features(1, 30)[1]) > 0.8
    assert re.search(r"^head: epoch 11 .* val_loss 0\.\d{3}", capsys.readouterr().err, re.MULTILINE)


def opposed_answers(epochs):
    """Trains where what is learned soon hurts the validation. Returns (answers, validation loss per epoch)."""
    features, labels = random_features(0)
    opposed = np.where(np.arange(60) % 2, labels, (labels + 1) % 3)
    network.set_seed(0)
    head, history, _ = network.train_head(features, labels, np.ones(3, np.float32), epochs, features, opposed)
    return head.predict(features, verbose=0), history["val_loss"]


def test_training_stops_early_and_keeps_the_weights_of_the_best_epoch(tensorflow, monkeypatch):
    monkeypatch.setattr(network, "PATIENCE_EPOCHS", 2)
    stopped, losses = opposed_answers(200)
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 2 < 200
    assert np.array_equal(stopped, opposed_answers(best + 1)[0])


def test_the_best_epoch_is_kept_where_training_does_not_stop_early_too(tensorflow):
    found, losses = opposed_answers(12)
    best = int(np.argmin(losses))
    assert best < 11 and len(losses) == 12
    assert np.array_equal(found, opposed_answers(best + 1)[0])


def test_without_validation_photos_the_head_trains_for_all_epochs(tensorflow):
    features, labels = random_features(0)
    network.set_seed(0)
    head, history, _ = network.train_head(features, labels, np.ones(3, np.float32), 5)
    assert set(history) == {"loss", "accuracy"} and len(history["loss"]) == 5
    assert np.mean(head.predict(features, verbose=0).argmax(axis=1) == labels) > 0.8


def test_a_weighted_class_is_preferred_where_photos_cannot_tell(tensorflow):
    kinds = np.random.RandomState(2).rand(2, network.FEATURES).astype(np.float32)
    features, labels = kinds[np.arange(60) % 2], np.arange(60) // 2 % 3  # either kind has all labels alike

    def answers(weights):
        network.set_seed(0)
        head, _, _ = network.train_head(features, labels, np.array(weights, np.float32), 30)
        return head.predict(kinds, verbose=0).mean(axis=0)

    assert answers([1, 1, 9]).argmax() == 2
    assert answers([9, 1, 1]).argmax() == 0


def test_standardization_in_pieces_is_numpy_s(tensorflow):
    features = np.random.RandomState(0).rand(2500, network.FEATURES).astype(np.float32)
    mean, deviation = network._standard(features)
    assert mean == pytest.approx(features.mean(axis=0), abs=1e-5)
    assert deviation == pytest.approx(features.std(axis=0), abs=1e-5)


def test_float32_is_float32_on_newer_gpus_too(tensorflow):
    tensorflow.config.experimental.enable_tensor_float_32_execution(True)
    network.load_tensorflow()
    assert not tensorflow.config.experimental.tensor_float_32_execution_enabled()


def test_low_precision_ends_with_its_block(tensorflow):
    layer = tensorflow.keras.layers.Conv2D(8, 3)
    pixels = tensorflow.constant(np.random.RandomState(0).rand(4, 32, 32, 3).astype(np.float32))
    layer(pixels)

    def answer():
        return tensorflow.function(lambda values: layer(layer.activation(values)), autograph=False)(pixels).numpy()

    before = answer()
    with network.low_precision():
        within = answer()
    assert np.array_equal(before, answer())
    assert np.abs(within - before).max() < 0.05
    if "avx512_bf16" in cpu.cpu_features() and tensorflow.__version__.startswith("2.2"):
        assert not np.array_equal(within, before)


# ---- weights


@pytest.fixture(scope="module")
def other_weights(tensorflow, tmp_path_factory):
    """An .h5 file of another network."""
    path = str(tmp_path_factory.mktemp("weights") / "other.h5")
    keras = tensorflow.keras
    keras.Sequential([keras.layers.InputLayer((4,)), keras.layers.Dense(2)]).save(path)
    return path


def test_weights_that_are_not_there_exit_with_2_before_any_photo_is_read(tmp_path):
    with pytest.raises(UsageError, match="--weights nosuch.h5: .*imagenet, none"):
        main([str(tmp_path / "nosuch.tsv"), "--out", str(tmp_path / "bundle"), "--weights", "nosuch.h5"])


def test_garbage_weights_exit_with_2(tensorflow, tmp_path):
    (tmp_path / "garbage.h5").write_bytes(b"no HDF5 at all" * 100)
    helpers.write_photos(tmp_path / "photos")
    with pytest.raises(UsageError, match="garbage.h5: .*InceptionV3"):
        main([str(tmp_path / "photos"), "--out", str(tmp_path / "bundle"), "--weights", str(tmp_path / "garbage.h5")])
    assert not (tmp_path / "bundle").exists()


def test_weights_of_another_network_exit_with_2(other_weights):
    with pytest.raises(UsageError, match="other.h5: .*InceptionV3"):
        network.build_base(other_weights)


# ---- the GPU's memory


class FakeConfig:
    """tensorflow.config of a machine with two GPUs; records what is asked of it."""

    def __init__(self):
        self.asked = []
        self.experimental = self

    def list_physical_devices(self, kind):
        assert kind == "GPU"
        return ["gpu0", "gpu1"]

    def set_memory_growth(self, gpu, growing):
        self.asked.append((gpu, "growth", growing))

    def VirtualDeviceConfiguration(self, memory_limit):  # noqa: N802
        return "%d MiB" % memory_limit

    def set_virtual_device_configuration(self, gpu, limits):
        self.asked.append((gpu, "limit", limits))


@pytest.fixture
def gpus(monkeypatch):
    config = FakeConfig()
    monkeypatch.setattr(network, "require", lambda name: types.SimpleNamespace(config=config))
    monkeypatch.setattr(network, "gpu_memory_bytes", lambda index: (8 << 30) * (index + 1))
    return config


def test_without_a_fraction_the_gpu_s_memory_grows(gpus):
    network.limit_gpu_memory(None)
    assert gpus.asked == [("gpu0", "growth", True), ("gpu1", "growth", True)]


def test_a_fraction_limits_each_gpu_to_its_own_share(gpus):
    network.limit_gpu_memory(0.25)
    assert gpus.asked == [("gpu0", "limit", ["2048 MiB"]), ("gpu1", "limit", ["4096 MiB"])]


def test_without_a_gpu_nothing_happens(tensorflow, monkeypatch):
    monkeypatch.setattr(tensorflow.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(network, "gpu_memory_bytes", None)  # asking for a card's memory would raise
    assert network.limit_gpu_memory(0.5) is None
    assert network.limit_gpu_memory(None) is None


def test_the_card_s_memory_is_asked_from_nvidia_smi(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$3" = --id=1 ] && echo 11019\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert network.gpu_memory_bytes(1) == 11019 << 20
    assert network.gpu_memory_bytes(0) == memory.memory_info()["MemTotal"]  # the tool failed
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, 0")  # TensorFlow's first card is the second
    assert network.gpu_memory_bytes(0) == 11019 << 20
    assert network.gpu_memory_bytes(1) == memory.memory_info()["MemTotal"]


def test_a_board_without_nvidia_smi_shares_its_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert network.gpu_memory_bytes(0) == memory.memory_info()["MemTotal"]
