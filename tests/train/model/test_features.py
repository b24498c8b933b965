"""The feature cache: each photo is computed once, and a damaged file costs no more than the damaged records."""

import fcntl
import hashlib
import os
import resource

import numpy as np
import pytest

from edge_runtime.errors import UsageError
from edge_runtime.files import sha256_of
from edge_runtime.photos import spec
from tests import helpers
from train.data.labels import Photo
from train.model import features, network, tf_setup

LEVELS = list(range(5, 250, 13))  # 19 photos: one whole batch and a smaller one


class Base:
    """Stands for the network: its features are the photo's mean, 2048 times."""

    def __init__(self, tensorflow, weight=1.0):
        self._tensorflow, self._weight = tensorflow, weight
        self.seen, self.photos = [], 0

    def get_weights(self):
        return [np.array([self._weight], np.float32)]

    def __call__(self, pixels, training):
        def count(values):
            self.photos += len(values)
            return values

        self.seen.append(training)
        tensorflow = self._tensorflow
        pixels = tensorflow.ensure_shape(
            tensorflow.numpy_function(count, [pixels], tensorflow.float32), [None, None, None, 3]
        )
        return tensorflow.repeat(tensorflow.reduce_mean(pixels, [1, 2, 3])[:, None], network.FEATURES, 1) * self._weight


@pytest.fixture(scope="module")
def tensorflow():
    module = pytest.importorskip("tensorflow", reason="training needs TensorFlow")
    tf_setup.load_tensorflow()
    return module


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "picnic-edge" / "features"


@pytest.fixture
def photos(tmp_path):
    photos = []
    for level in LEVELS:
        path = str(tmp_path / f"{level:03d}.png")
        helpers.write_photo(path, helpers.two_greys(level))
        photos.append(Photo(os.path.basename(path), path, "grey"))
    return photos


def compute(base, photos, input_spec=spec.INCEPTION_V3):
    return features.compute_features(base, input_spec, photos, {photo.path: sha256_of(photo.path) for photo in photos})


def assert_right(table):
    values = table[np.arange(len(table))]
    assert values.shape == (19, network.FEATURES) and values.dtype == np.float32
    assert values[:, 0] == pytest.approx([level / 127.5 - 1 for level in LEVELS], abs=1e-4)
    assert values[:, -1] == pytest.approx(values[:, 0])


def test_features_of_all_photos_in_order_and_scaled_to_plus_minus_one(tensorflow, cache, photos):
    base = Base(tensorflow)
    table = compute(base, photos)
    assert_right(table)
    expected = [LEVELS[3] / 127.5 - 1] * 2 + [LEVELS[0] / 127.5 - 1]
    assert table[np.array([3, 3, 0])][:, 0] == pytest.approx(expected, abs=1e-4)
    assert set(base.seen) == {False}  # dropout and batch norms must not be in training mode
    assert len(os.listdir(str(cache))) == 1


def test_a_photo_is_computed_once_whatever_its_name(tensorflow, cache, photos, tmp_path):
    compute(Base(tensorflow), photos[:7])
    os.rename(photos[0].path, str(tmp_path / "renamed.png"))
    photos[0] = photos[0]._replace(path=str(tmp_path / "renamed.png"))
    base = Base(tensorflow)
    assert_right(compute(base, photos))
    assert base.photos == 12
    again = Base(tensorflow)
    assert_right(compute(again, photos))
    assert again.photos == 0


def test_each_size_of_the_input_has_features_of_its_own(tensorflow, cache, photos):
    compute(Base(tensorflow), photos)
    # What version 0.1 called it: a cache that it filled is still used.
    old = [("channels", "RGB"), ("dtype", "uint8"), ("layout", "NHWC")]
    old += [("resize", spec.to_manifest(spec.INCEPTION_V3)["resize"]), ("scaling", "x / 127.5 - 1, inside the graph")]
    digest = hashlib.sha256(repr(old + [("shape", [299, 299, 3])]).encode())
    for weight in Base(tensorflow).get_weights():
        digest.update(weight.tobytes())
    assert os.listdir(str(cache)) == [digest.hexdigest()[:32]]
    smaller = Base(tensorflow)
    assert_right(compute(smaller, photos, spec.squash(96)))
    assert smaller.photos == 19 and len(os.listdir(str(cache))) == 2


def test_a_table_in_use_does_not_hold_the_cache(tensorflow, cache, photos, capsys):
    first = compute(Base(tensorflow), photos[:10])
    base = Base(tensorflow)
    assert_right(compute(base, photos))
    assert base.photos == 9 and len(first) == 10
    assert "for this training only" not in capsys.readouterr().err


def test_copies_of_one_photo_share_their_features(tensorflow, cache, photos, tmp_path):
    (tmp_path / "copy.png").write_bytes((tmp_path / "005.png").read_bytes())
    copy = Photo("copy.png", str(tmp_path / "copy.png"), "grey")
    base = Base(tensorflow)
    table = compute(base, [copy] + photos)
    assert base.photos == 19
    assert table[np.array([0, 1, 2])][:, 0] == pytest.approx([5 / 127.5 - 1, 5 / 127.5 - 1, 18 / 127.5 - 1], abs=1e-4)


def test_a_photo_that_changes_meanwhile_is_not_taken_for_the_one_that_was_checked(tensorflow, cache, photos):
    sums = {photo.path: sha256_of(photo.path) for photo in photos}
    helpers.write_photo(photos[3].path, helpers.two_greys(250))
    with pytest.raises(UsageError, match=f"{photos[3].path}: .*changed"):
        features.compute_features(Base(tensorflow), spec.INCEPTION_V3, photos, sums)
    helpers.write_photo(photos[3].path, helpers.two_greys(LEVELS[3]))
    assert_right(compute(Base(tensorflow), photos))


def test_another_photo_under_the_same_name_and_another_network_are_computed_anew(tensorflow, cache, photos):
    compute(Base(tensorflow), photos)
    helpers.write_photo(photos[0].path, helpers.two_greys(250))
    base = Base(tensorflow)
    table = compute(base, photos)
    assert base.photos == 1 and table[np.array([0])][0, 0] == pytest.approx(250 / 127.5 - 1, abs=1e-4)
    other = Base(tensorflow, weight=2.0)
    assert compute(other, photos)[np.array([1])][0, 0] == pytest.approx(2 * (18 / 127.5 - 1), abs=1e-4)
    assert other.photos == 19
    assert len(os.listdir(str(cache))) == 2


@pytest.mark.parametrize("damage, lost", [("cut", 1), ("flip", 5), ("garbage", 0)])
def test_a_damaged_file_costs_the_damaged_records(tensorflow, cache, photos, damage, lost):
    compute(Base(tensorflow), photos)
    path = str(cache / os.listdir(str(cache))[0])
    size = os.path.getsize(path)
    with open(path, "r+b") as file:
        if damage == "cut":
            file.truncate(size - 10)  # a record half-written when the power went
        elif damage == "flip":
            file.seek(size // 19 * 14 + 500)  # the 15th record: it and those behind it are not to be trusted
            file.write(b"\xff\x00\xff")
        else:
            file.seek(0, os.SEEK_END)
            file.write(b"?" * 100)
    base = Base(tensorflow)
    assert_right(compute(base, photos))
    assert base.photos == lost
    assert os.path.getsize(path) == size


@pytest.mark.parametrize("room_bytes", [0, 8190, 131000, 140000])
def test_a_full_disk_is_named_and_costs_what_it_did_not_take(tensorflow, cache, photos, room_bytes):
    compute(Base(tensorflow), photos[:2])
    path = str(cache / os.listdir(str(cache))[0])
    least, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path) + room_bytes, most))
    try:
        with pytest.raises(UsageError, match=f"{path}: .*File too large"):
            compute(Base(tensorflow), photos)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (least, most))
    base = Base(tensorflow)
    assert_right(compute(base, photos))
    assert base.photos == 17 - room_bytes // 8260


def test_a_file_that_another_training_wrote_to_in_spite_of_the_lock_is_not_believed(
    tensorflow, cache, photos, monkeypatch
):
    compute(Base(tensorflow), photos[:2])
    path = str(cache / os.listdir(str(cache))[0])
    read_rows, records = features._read_rows, (cache / os.path.basename(path)).read_bytes()

    def read_and_be_overtaken(file):
        rows = read_rows(file)
        with open(path, "ab") as other:
            other.write(records)
        return rows

    monkeypatch.setattr(features, "_read_rows", read_and_be_overtaken)
    monkeypatch.setattr(os.path, "getsize", lambda name: len(records))
    with pytest.raises(UsageError, match=f"{path}: "):
        compute(Base(tensorflow), photos)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent.parent))
    base = Base(tensorflow)  # records that are there twice do no harm
    assert_right(compute(base, photos))
    assert base.photos == 0


def test_a_cache_that_another_training_holds_is_left_alone(tensorflow, cache, photos, capsys):
    compute(Base(tensorflow), photos[:3])
    path = str(cache / os.listdir(str(cache))[0])
    before = sha256_of(path)
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        base = Base(tensorflow)
        assert_right(compute(base, photos))
    assert base.photos == 19 and sha256_of(path) == before
    assert "features are computed for this training only" in capsys.readouterr().err


def test_a_home_that_cannot_be_written_costs_no_training(tensorflow, photos, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert_right(compute(Base(tensorflow), photos))
    assert "features are computed for this training only" in capsys.readouterr().err
