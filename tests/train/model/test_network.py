"""The base and its weights."""

import pytest

from edge_runtime.errors import UsageError
from edge_runtime.photos import spec
from tests import helpers
from train.cli.train import main
from train.model import network, tf_setup


@pytest.fixture(scope="module")
def tensorflow():
    module = pytest.importorskip("tensorflow", reason="training needs TensorFlow")
    tf_setup.load_tensorflow()
    return module


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
        network.build_base(other_weights, spec.INCEPTION_V3)
