"""TensorFlow's settings: messages, precision, GPU memory."""

import os
import subprocess
import sys
import types

import numpy as np
import pytest

from edge_runtime.machine import cpu, memory
from tests import helpers
from train.model import tf_setup


@pytest.fixture(scope="module")
def tensorflow():
    module = pytest.importorskip("tensorflow", reason="training needs TensorFlow")
    tf_setup.load_tensorflow()
    return module


@pytest.mark.slow
def test_loading_tensorflow_says_nothing_and_takes_onednn_where_it_is_faster(tensorflow):
    code = "import os; from train.model import tf_setup; tf_setup.load_tensorflow()\n"
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


def test_float32_is_float32_on_newer_gpus_too(tensorflow):
    tensorflow.config.experimental.enable_tensor_float_32_execution(True)
    tf_setup.load_tensorflow()
    assert not tensorflow.config.experimental.tensor_float_32_execution_enabled()


def test_low_precision_ends_with_its_block(tensorflow):
    layer = tensorflow.keras.layers.Conv2D(8, 3)
    pixels = tensorflow.constant(np.random.RandomState(0).rand(4, 32, 32, 3).astype(np.float32))
    layer(pixels)

    def answer():
        return tensorflow.function(lambda values: layer(layer.activation(values)), autograph=False)(pixels).numpy()

    before = answer()
    with tf_setup.low_precision():
        within = answer()
    assert np.array_equal(before, answer())
    assert np.abs(within - before).max() < 0.05
    if "avx512_bf16" in cpu.cpu_features() and tensorflow.__version__.startswith("2.2"):
        assert not np.array_equal(within, before)


class FakeConfig:
    """tensorflow.config of a machine with two GPUs; records what is asked of it."""

    def __init__(self):
        self.calls = []
        self.experimental = self

    def list_physical_devices(self, kind):
        assert kind == "GPU"
        return ["gpu0", "gpu1"]

    def set_memory_growth(self, gpu, growing):
        self.calls.append((gpu, "growth", growing))

    def VirtualDeviceConfiguration(self, memory_limit):  # noqa: N802
        return f"{memory_limit} MiB"

    def set_virtual_device_configuration(self, gpu, limits):
        self.calls.append((gpu, "limit", limits))


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """Two GPUs, of 8 and of 16 GiB."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\ncase "$*" in *--id=0) echo 8192 ;; *--id=1) echo 16384 ;; esac\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    config = FakeConfig()
    monkeypatch.setattr(tf_setup, "require", lambda name: types.SimpleNamespace(config=config))
    return config


def test_without_a_fraction_the_gpu_s_memory_grows(gpus):
    tf_setup.limit_gpu_memory(None)
    assert gpus.calls == [("gpu0", "growth", True), ("gpu1", "growth", True)]


def test_a_fraction_limits_each_gpu_to_its_own_share(gpus):
    tf_setup.limit_gpu_memory(0.25)
    assert gpus.calls == [("gpu0", "limit", ["2048 MiB"]), ("gpu1", "limit", ["4096 MiB"])]


def test_without_a_gpu_nothing_happens(tensorflow, monkeypatch):
    monkeypatch.setattr(tensorflow.config, "list_physical_devices", lambda kind: [])
    assert tf_setup.limit_gpu_memory(0.5) is None
    assert tf_setup.limit_gpu_memory(None) is None


def test_the_card_s_memory_is_asked_from_nvidia_smi(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$3" = --id=1 ] && echo 11019\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert tf_setup._gpu_memory_bytes(1) == 11019 << 20
    assert tf_setup._gpu_memory_bytes(0) == memory.memory_info()["MemTotal"]  # the tool failed
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, 0")  # TensorFlow's first card is the second
    assert tf_setup._gpu_memory_bytes(0) == 11019 << 20
    assert tf_setup._gpu_memory_bytes(1) == memory.memory_info()["MemTotal"]


def test_a_board_without_nvidia_smi_shares_its_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tf_setup._gpu_memory_bytes(0) == memory.memory_info()["MemTotal"]
