"""What is used of a bundle is checked first, and a bundle is published whole or not at all."""

import errno
import io
import json
import os
import platform
import shutil
import sys

import numpy as np
import pytest

from edge_runtime import files
from edge_runtime.bundle import writing
from edge_runtime.bundle.manifest import MANIFEST, identity_of
from edge_runtime.bundle.reading import Bundle
from edge_runtime.engines.selection import open_engine
from edge_runtime.errors import BundleError, UsageError
from edge_runtime.photos.spec import INCEPTION_V3, InputSpec, from_manifest, to_manifest
from tests.helpers import (
    COLOURS,
    add_tiny_saved_model,
    check_manifest,
    content_of,
    flip_byte,
    photo,
    picnic_edge,
    write_bytes,
    write_photo,
)


def refusal(folder, use=lambda opened: None):
    """Returns why a bundle is refused when it is opened, or used."""
    with pytest.raises(BundleError) as refused:
        use(Bundle.open(folder))
    return str(refused.value)


def change_manifest(folder, change, resign=False):
    """Applies a function to a bundle's manifest; resign makes its id fit again, as a careful forger would."""
    path = os.path.join(folder, MANIFEST)
    with open(path, encoding="utf-8") as file:
        manifest = json.load(file)
    change(manifest)
    if resign:
        manifest["id"] = identity_of(manifest)
    files.write_json(path, manifest)


# --- opening


def test_a_whole_bundle_opens(tiny_bundle):
    opened = Bundle.open(tiny_bundle)
    assert opened.class_names == sorted(COLOURS)
    assert opened.sha256("model.onnx") == files.sha256_of(opened.file("model.onnx"))


def test_the_manifest_fits_its_schema_and_a_garbled_one_does_not(tiny_bundle):
    import jsonschema

    opened = Bundle.open(tiny_bundle)
    check_manifest(opened)
    del opened.manifest["files"]["model.onnx"]["sha256"]
    with pytest.raises(jsonschema.ValidationError):
        check_manifest(opened)


def test_a_bundle_s_id_does_not_depend_on_where_it_lies(tiny_bundle, tmp_path):
    moved = shutil.copytree(tiny_bundle, str(tmp_path / "moved"))
    assert Bundle.open(moved).id == Bundle.open(tiny_bundle).id


def test_the_sample_holds_photos_with_the_model_s_answers(tiny_bundle):
    sample = Bundle.open(tiny_bundle).sample()
    assert sample.images.shape == (12, 299, 299, 3) and sample.images.dtype == np.uint8
    assert sample.probabilities.shape == (12, 3) and np.allclose(sample.probabilities.sum(axis=1), 1)
    assert [sorted(COLOURS)[best] for best in sample.probabilities.argmax(axis=1)] == sample.labels


@pytest.mark.parametrize("path", ["nowhere", "empty", "file"])
def test_what_is_no_bundle_is_wrong_usage(tmp_path, path):
    os.mkdir(str(tmp_path / "empty"))
    write_bytes(tmp_path / "file", b"x")
    with pytest.raises(UsageError, match="no.* bundle"):
        Bundle.open(str(tmp_path / path))


# --- changed files

LISTED = ["model.onnx", "sample/000.png", "sample/sample.json", "sample/probabilities.npy"]


@pytest.mark.parametrize("name", LISTED)
def test_one_changed_byte_is_found_when_the_file_is_used_and_not_before(tiny_bundle, name):
    flip_byte(os.path.join(tiny_bundle, name))
    Bundle.open(tiny_bundle)
    use = open_engine if name == "model.onnx" else Bundle.sample
    text = refusal(tiny_bundle, use)
    assert text.startswith(f"{tiny_bundle}: its file {name} is not the one that was written; ")
    assert text.endswith("make the bundle again, or copy it again")


def test_a_changed_saved_model_is_found_when_tensorflow_is_to_load_it(tiny_bundle):
    pytest.importorskip("tensorflow")
    add_tiny_saved_model(tiny_bundle)
    open_engine(Bundle.open(tiny_bundle), "tensorflow").close()
    flip_byte(os.path.join(tiny_bundle, "saved_model", "saved_model.pb"))
    open_engine(Bundle.open(tiny_bundle), "onnxruntime").close()
    text = refusal(tiny_bundle, lambda opened: open_engine(opened, "tensorflow"))
    assert "its file saved_model/saved_model.pb is not the one" in text and "or copy it again" in text


@pytest.mark.parametrize("name", LISTED)
def test_a_file_cut_short_is_found(tiny_bundle, name):
    path = os.path.join(tiny_bundle, name)
    os.truncate(path, os.path.getsize(path) - 1)
    assert f"its file {name} is not the one that was written" in refusal(tiny_bundle)


@pytest.mark.parametrize("name", LISTED)
def test_a_missing_file_is_named(tiny_bundle, name):
    os.unlink(os.path.join(tiny_bundle, name))
    assert f"its file {name} cannot be read (No such file or directory)" in refusal(tiny_bundle)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_in_place_of_one_is_found(tiny_bundle, make):
    path = os.path.join(tiny_bundle, "model.onnx")
    os.unlink(path)
    make(path)
    facts = {"sha256": files.sha256_of(os.devnull), "size_bytes": os.path.getsize(path)}
    change_manifest(tiny_bundle, lambda manifest: manifest["files"].update({"model.onnx": facts}), resign=True)
    assert "its file model.onnx is not the one that was written" in refusal(tiny_bundle)


# --- files that are not listed


@pytest.mark.parametrize("name", ["saved_model/assets/more", "saved_model/.hidden", "saved_model/variables/x/y"])
def test_a_folder_that_holds_more_than_is_listed_is_not_handed_to_a_library(tiny_bundle, name):
    write_saved_model(tiny_bundle)
    Bundle.open(tiny_bundle).checked("saved_model")
    write_bytes(os.path.join(tiny_bundle, name), b"x")
    text = refusal(tiny_bundle, lambda opened: opened.checked("saved_model"))
    assert f"holds {name.split('/', 1)[1]}, which is not listed; remove it" in text


def test_a_link_to_a_folder_in_a_folder_is_not_listed_either(tiny_bundle, tmp_path):
    write_saved_model(tiny_bundle)
    os.mkdir(str(tmp_path / "elsewhere"))
    os.symlink(str(tmp_path / "elsewhere"), os.path.join(tiny_bundle, "saved_model", "assets"))
    assert "holds assets, which is not" in refusal(tiny_bundle, lambda opened: opened.checked("saved_model"))


@pytest.mark.parametrize("name", ["model.onnx.data", "saved_model", "sample", "..", "../stray", "sample\\000.png", ""])
@pytest.mark.parametrize("use", [Bundle.checked, Bundle.read])
def test_what_is_not_listed_is_not_read(tiny_bundle, use, name):
    change_manifest(tiny_bundle, lambda manifest: drop_sample(manifest), resign=True)
    write_bytes(os.path.join(tiny_bundle, "model.onnx.data"), b"x")
    assert f"does not list {name}" in refusal(tiny_bundle, lambda opened: use(opened, name))


def drop_sample(manifest):
    for name in [name for name in manifest["files"] if name.startswith("sample/")]:
        del manifest["files"][name]


def write_saved_model(folder):
    """Adds a folder that no library would load, and lists it."""
    for name in ("saved_model.pb", "variables/a"):
        write_bytes(os.path.join(folder, "saved_model", name), name.encode())
    os.unlink(os.path.join(folder, MANIFEST))
    writing.write_manifest(folder, sorted(COLOURS), to_manifest(INCEPTION_V3), {}, {})


def test_weights_in_another_file_are_refused_also_where_that_is_listed(tiny_bundle, tmp_path, monkeypatch):
    """ONNX Runtime looks for them in the current folder where it is given bytes."""
    import onnx

    path = os.path.join(tiny_bundle, "model.onnx")
    model = onnx.load(path)
    onnx.save_model(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    os.unlink(os.path.join(tiny_bundle, MANIFEST))
    writing.write_manifest(tiny_bundle, sorted(COLOURS), to_manifest(INCEPTION_V3), {}, {})
    monkeypatch.chdir(tiny_bundle)
    for use in (open_engine, lambda opened: opened.checked("model.onnx")):
        assert "its file model.onnx has weights in other files, which are not checked" in refusal(tiny_bundle, use)


# --- a sample that is no sample


def as_npy(values):
    data = io.BytesIO()
    np.save(data, values)
    return data.getvalue()


@pytest.mark.parametrize(
    "name, data",
    [
        ("sample.json", b"{"),
        ("sample.json", b"\xff"),
        ("sample.json", b"[" * 100000),
        ("sample.json", b"7"),
        ("sample.json", b"[]"),
        ("sample.json", b'["a"]'),
        ("sample.json", b'[{"file": "a"}]'),
        ("000.png", b"no picture"),
        ("probabilities.npy", b""),
        ("probabilities.npy", b"no array"),
        ("probabilities.npy", as_npy(np.zeros((12, 3), object))),
        ("probabilities.npy", as_npy(np.zeros((12, 4), np.float32))),
        ("probabilities.npy", as_npy(np.zeros((12, 3)))),
    ],
)
def test_a_sample_that_is_listed_and_no_sample_is_refused(tiny_bundle, name, data):
    write_bytes(os.path.join(tiny_bundle, "sample", name), data)
    os.unlink(os.path.join(tiny_bundle, MANIFEST))
    writing.write_manifest(tiny_bundle, sorted(COLOURS), to_manifest(INCEPTION_V3), {}, {})
    assert refusal(tiny_bundle, Bundle.sample).startswith(f"{tiny_bundle}: its sample cannot be read (")


def test_a_bundle_without_a_sample_says_so(tiny_bundle):
    change_manifest(tiny_bundle, drop_sample, resign=True)
    assert "does not list sample/sample.json" in refusal(tiny_bundle, Bundle.sample)


@pytest.mark.parametrize("name", ["/etc/hostname", "../stray", "sample/../../stray", "", "a\0b", "\ud800"])
def test_a_listed_file_outside_the_bundle_is_refused(tiny_bundle, name):
    outside = write_bytes(os.path.join(tiny_bundle, "..", "stray"), b"x")
    facts = {"sha256": files.sha256_of(outside), "size_bytes": 1}
    change_manifest(tiny_bundle, lambda manifest: manifest["files"].update({name: facts}), resign=True)
    assert f"lists the file {name}, which is outside it" in refusal(tiny_bundle)


def test_a_link_that_leaves_the_bundle_is_refused(tiny_bundle):
    model = os.path.join(tiny_bundle, "model.onnx")
    os.rename(model, tiny_bundle + "-model.onnx")
    os.symlink(tiny_bundle + "-model.onnx", model)
    assert "lists the file model.onnx, which is outside it" in refusal(tiny_bundle)


def test_a_bundle_reached_through_a_link_opens(tiny_bundle, tmp_path):
    os.symlink(tiny_bundle, str(tmp_path / "link"))
    assert Bundle.open(str(tmp_path / "link")).class_names == sorted(COLOURS)


# --- changed manifest


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.update(class_names=["ham"] + manifest["class_names"][1:]),
        lambda manifest: manifest["class_names"].reverse(),
        lambda manifest: manifest["class_names"].pop(),
        lambda manifest: manifest["input_spec"].update(channels="BGR"),
        lambda manifest: manifest["files"].pop("sample/000.png"),
        lambda manifest: manifest["files"]["model.onnx"].update(sha256="0" * 64),
        lambda manifest: manifest.update(id="000000000000"),
    ],
    ids=["class name", "class order", "class gone", "input spec", "file gone", "sum", "id"],
)
def test_a_manifest_changed_after_training_is_refused(tiny_bundle, change):
    change_manifest(tiny_bundle, change)
    assert "the manifest was changed after training" in refusal(tiny_bundle)


@pytest.mark.parametrize("names", [["ham", "ham", "egg"], ["ham"], [], [1, 2], "ham", {"ham": 1, "egg": 2}], ids=repr)
def test_class_names_that_are_not_two_or_more_different_texts_are_refused(tiny_bundle, names):
    change_manifest(tiny_bundle, lambda manifest: manifest.update(class_names=names), resign=True)
    assert "manifest" in refusal(tiny_bundle)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"channels": "BGR"}, "expected uint8, RGB, NHWC, got uint8, BGR"),
        ({"shape": [299, 4096, 3]}, "width: expected 32 to 1024"),
        ({"shape": [299, 299]}, "got [299, 299]"),
        ({"shape": [True, 299, 3]}, "height"),
        ({"resize": "stretch"}, "'stretch'"),
        ({"resize": {"mode": "crop", "filter": "area"}}, "shorter_side: expected 299"),
        ({"resize": {"mode": "crop", "filter": "sinc", "shorter_side": 342}}, "'sinc'"),
        ({"resize": {"mode": "letterbox", "filter": "area", "colour": [114, 114]}}, "colour"),
        ({"resize": {"mode": "squash", "filter": "area", "colour": [0, 0, 0]}}, "takes no colour"),
        ({"resize": {"mode": "squash", "filter": "area", "antialias": 1}}, "'antialias'"),
        ({"resize": {"mode": [], "filter": {}}}, "resize"),
        ({"layout": "NCHW", "tiles": 4}, "got {"),
    ],
)
def test_an_input_spec_that_is_not_known_is_refused_with_what_is_wrong(tiny_bundle, change, words):
    change_manifest(tiny_bundle, lambda manifest: manifest["input_spec"].update(change), resign=True)
    text = refusal(tiny_bundle)
    assert "input spec that this version does not know" in text and words in text


@pytest.mark.parametrize(
    "spec",
    [
        INCEPTION_V3,
        InputSpec(160, 224),
        InputSpec(224, 224, "crop", shorter_side=256, filter="bicubic"),
        InputSpec(192, 256, "letterbox", colour=(114, 114, 0)),
        InputSpec(64, 64, filter="nearest"),
    ],
)
def test_an_input_spec_is_the_same_after_the_manifest(spec, tiny_bundle):
    value = json.loads(json.dumps(to_manifest(spec)))
    assert from_manifest(value) == spec
    change_manifest(tiny_bundle, lambda manifest: manifest.update(input_spec=value), resign=True)
    opened = Bundle.open(tiny_bundle)
    assert opened.input_spec == spec
    check_manifest(opened)


def test_a_newer_format_is_refused_with_what_to_do(tiny_bundle):
    change_manifest(tiny_bundle, lambda manifest: manifest.update(format_version=2))
    assert "has bundle format 2, this version reads 1; update picnic-edge" in refusal(tiny_bundle)


@pytest.mark.parametrize("key", ["class_names", "files", "id", "input_spec"])
def test_a_manifest_without_one_of_its_parts_is_refused(tiny_bundle, key):
    change_manifest(tiny_bundle, lambda manifest: manifest.pop(key))
    assert "manifest" in refusal(tiny_bundle)


@pytest.mark.parametrize("key", ["class_names", "files", "id", "input_spec"])
@pytest.mark.parametrize("value", [None, 7, "text", [1, 2], {"a": 1}], ids=repr)
def test_a_manifest_with_a_part_of_another_type_is_refused(tiny_bundle, key, value):
    change_manifest(tiny_bundle, lambda manifest: manifest.update({key: value}), resign=key != "id")
    assert tiny_bundle in refusal(tiny_bundle)


@pytest.mark.parametrize("facts", [None, 7, "text", [], {}, {"sha256": 1}], ids=repr)
def test_a_garbled_entry_of_a_file_is_refused_and_named(tiny_bundle, facts):
    change_manifest(tiny_bundle, lambda manifest: manifest["files"].update({"model.onnx": facts}), resign=True)
    assert "entry for model.onnx is garbled" in refusal(tiny_bundle)


@pytest.mark.parametrize("size_bytes", [float("inf"), float("nan"), 10**400, -1, True, "12", [12]], ids=repr)
def test_a_size_that_is_none_is_refused(tiny_bundle, size_bytes):
    def change(manifest):
        manifest["files"]["model.onnx"]["size_bytes"] = size_bytes

    change_manifest(tiny_bundle, change, resign=True)
    assert "its file model.onnx is not the one that was written" in refusal(tiny_bundle)


def test_a_manifest_that_is_nested_deeply_is_refused(tiny_bundle):
    path = os.path.join(tiny_bundle, MANIFEST)
    with open(path, encoding="utf-8") as file:
        text = file.read()
    for depth in range(100, sys.getrecursionlimit() + 50, 7):  # the reader's limit is not the writer's
        write_bytes(path, text.replace('"class_names": [', '"class_names": %s[' % ("[" * depth)).encode())
        assert MANIFEST in refusal(tiny_bundle)
        deep = text.replace('"class_names": [', '"class_names": [%s%s,' % ("[" * depth, "]" * depth))
        write_bytes(path, deep.encode())
        assert "manifest" in refusal(tiny_bundle)


def test_a_manifest_of_no_reasonable_size_is_not_read(tiny_bundle):
    path = os.path.join(tiny_bundle, MANIFEST)
    os.truncate(path, 6 << 30)  # takes no room on the disk
    assert "larger than 256 MiB" in refusal(tiny_bundle)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100000], ids=["empty", "cut", "binary", "nested"])
def test_a_manifest_that_is_no_json_is_refused(tiny_bundle, data):
    write_bytes(os.path.join(tiny_bundle, MANIFEST), data)
    assert "manifest.json is no JSON" in refusal(tiny_bundle)


@pytest.mark.parametrize("data", [b"[]", b"7", b"null", b'"text"'])
def test_a_manifest_that_is_no_object_is_refused(tiny_bundle, data):
    write_bytes(os.path.join(tiny_bundle, MANIFEST), data)
    assert "has bundle format None" in refusal(tiny_bundle)


# --- through the command


@pytest.mark.parametrize(
    "spoil, named",
    [
        (lambda folder: flip_byte(os.path.join(folder, "model.onnx")), "model.onnx"),
        (lambda folder: os.unlink(os.path.join(folder, "sample", "000.png")), "sample/000.png"),
        (lambda folder: flip_byte(os.path.join(folder, "model.onnx"), 0), "model.onnx"),
        (lambda folder: write_bytes(os.path.join(folder, "manifest.json"), b"{"), "manifest.json"),
    ],
    ids=["changed", "missing", "changed in its first byte", "garbled"],
)
def test_the_command_ends_with_5_and_names_the_file(tiny_bundle, tmp_path, spoil, named):
    spoil(tiny_bundle)
    write_photo(str(tmp_path / "a.jpg"), photo(COLOURS["red"]))
    done = picnic_edge("classify", tiny_bundle, tmp_path / "a.jpg")
    assert done.returncode == 5
    assert done.stdout == b""
    assert done.stderr.startswith(f"picnic-edge: {tiny_bundle}: ") and named in done.stderr
    assert "make the bundle again" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_ends_with_2_for_what_is_no_bundle(tmp_path):
    done = picnic_edge("classify", tmp_path, tmp_path)
    assert done.returncode == 2
    assert "is no bundle" in done.stderr and "Traceback" not in done.stderr


# --- whole or not at all


@pytest.mark.parametrize("reason", [ZeroDivisionError, KeyboardInterrupt])
def test_a_folder_half_written_leaves_the_old_one_and_no_litter(tmp_path, reason):
    write_bytes(tmp_path / "kept" / "a.txt", b"old")
    with pytest.raises(reason):
        with files.atomic_folder(str(tmp_path / "kept")) as folder:
            write_bytes(os.path.join(folder, "a.txt"), b"new")
            raise reason()
    assert content_of(tmp_path) == {"kept/a.txt": b"old"}
    assert os.listdir(str(tmp_path)) == ["kept"]


def test_a_folder_is_not_there_under_its_name_before_it_is_whole(tmp_path):
    with files.atomic_folder(str(tmp_path / "new")):
        assert not os.path.exists(str(tmp_path / "new"))
    assert os.listdir(str(tmp_path)) == ["new"]


@pytest.mark.parametrize("machine", [platform.machine(), "riscv64"], ids=["renameat2", "no renameat2"])
def test_an_atomic_folder_takes_the_place_of_the_old_one(tmp_path, monkeypatch, machine):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    write_bytes(tmp_path / "kept" / "old.txt", b"old")
    with files.atomic_folder(str(tmp_path / "kept")) as folder:
        write_bytes(os.path.join(folder, "sub", "new.txt"), b"new")
    assert content_of(tmp_path) == {"kept/sub/new.txt": b"new"}
    assert os.listdir(str(tmp_path)) == ["kept"]


def test_an_older_folder_is_back_where_a_swap_in_two_steps_fails(tmp_path, monkeypatch):
    def refuse_the_new(source, target):
        if target == str(tmp_path / "kept") and not source.endswith(".older"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    rename = os.rename
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")  # it has no renameat2
    monkeypatch.setattr(os, "rename", refuse_the_new)
    write_bytes(tmp_path / "kept" / "old.txt", b"old")
    with pytest.raises(OSError):
        with files.atomic_folder(str(tmp_path / "kept")) as folder:
            write_bytes(os.path.join(folder, "new.txt"), b"new")
    assert content_of(tmp_path) == {"kept/old.txt": b"old"}
    assert os.listdir(str(tmp_path)) == ["kept"]


def test_the_folders_above_an_atomic_folder_are_made(tmp_path):
    with files.atomic_folder(str(tmp_path / "a" / "b" / "c")) as folder:
        write_bytes(os.path.join(folder, "x"), b"")
    assert content_of(tmp_path) == {"a/b/c/x": b""}


def test_an_atomic_folder_written_through_a_link_leaves_the_link(tmp_path):
    write_bytes(tmp_path / "real" / "old.txt", b"old")
    os.symlink("real", str(tmp_path / "link"))
    with files.atomic_folder(str(tmp_path / "link")) as folder:
        write_bytes(os.path.join(folder, "new.txt"), b"new")
    assert os.readlink(str(tmp_path / "link")) == "real"
    assert content_of(tmp_path / "real") == {"new.txt": b"new"}
    assert sorted(os.listdir(str(tmp_path))) == ["link", "real"]


def test_an_atomic_folder_may_have_the_longest_name_there_is(tmp_path):
    with files.atomic_folder(str(tmp_path / ("x" * 255))) as folder:
        write_bytes(os.path.join(folder, "a"), b"")
    assert os.listdir(str(tmp_path)) == ["x" * 255]


@pytest.mark.parametrize("write", [files.atomic_folder, files.atomic_file])
def test_what_appears_is_as_open_to_others_as_the_umask_says(tmp_path, write):
    mask = os.umask(0o027)
    try:
        with write(str(tmp_path / "new")):
            pass
    finally:
        os.umask(mask)
    mode = os.stat(str(tmp_path / "new")).st_mode & 0o777
    assert mode == (0o750 if write is files.atomic_folder else 0o640)


@pytest.mark.parametrize("reason", [ZeroDivisionError, KeyboardInterrupt])
def test_a_file_half_written_leaves_the_old_one_and_no_litter(tmp_path, reason):
    path = write_bytes(tmp_path / "a.txt", b"old")
    with pytest.raises(reason):
        with files.atomic_file(path) as file:
            file.write("new")
            raise reason()
    assert content_of(tmp_path) == {"a.txt": b"old"}


def test_an_atomic_file_takes_the_place_of_the_old_one(tmp_path):
    path = write_bytes(tmp_path / "a.txt", b"old")
    with files.atomic_file(path) as file:
        file.write("latin\udcfc\n")
    assert content_of(tmp_path) == {"a.txt": b"latin\xfc\n"}


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = write_bytes(tmp_path / "a.json", b"old")
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    assert content_of(tmp_path) == {"a.json": b"old"}


# --- publishing


@pytest.mark.parametrize("name", ["new", "a/b/new", "empty", "bundle"])
def test_a_bundle_may_be_published_as_a_new_name_or_over_a_bundle(tmp_path, tiny_bundle, name):
    os.mkdir(str(tmp_path / "empty"))
    assert writing.check_target(str(tmp_path / name)) is None


@pytest.mark.parametrize("name", ["folder", "file", "dangling"])
def test_a_bundle_is_not_published_over_something_else(tmp_path, name):
    write_bytes(tmp_path / "folder" / "thesis.odt", b"x")
    write_bytes(tmp_path / "file", b"x")
    os.symlink("nowhere", str(tmp_path / "dangling"))
    with pytest.raises(UsageError, match="no.* bundle"):
        writing.check_target(str(tmp_path / name))


def test_a_bundle_is_not_published_where_the_disk_is_full(tmp_path, monkeypatch):
    usage = type(shutil.disk_usage(str(tmp_path)))(1 << 40, (1 << 40) - (100 << 20), 100 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UsageError, match="100 MiB"):
        writing.check_target(str(tmp_path / "new"))


def test_a_bundle_is_not_published_where_nothing_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UsageError, match=str(tmp_path)):
        writing.check_target(str(tmp_path / "a" / "new"))


def test_a_bundle_is_not_published_below_a_file(tmp_path):
    write_bytes(tmp_path / "file", b"x")
    with pytest.raises(UsageError, match=str(tmp_path / "file")):
        writing.check_target(str(tmp_path / "file" / "deep" / "new"))


def test_a_folder_with_a_manifest_of_something_else_is_not_replaced(tmp_path):
    write_bytes(tmp_path / "data" / "manifest.json", b'{"name": "my photos"}')
    write_bytes(tmp_path / "data" / "photos" / "a.jpg", b"x")
    with pytest.raises(UsageError, match="no.* bundle"):
        writing.check_target(str(tmp_path / "data"))


def test_a_bundle_with_the_user_s_own_files_in_it_is_not_replaced(tmp_path, tiny_bundle):
    write_bytes(os.path.join(tiny_bundle, "notes.txt"), b"x")
    with pytest.raises(UsageError, match="notes.txt"):
        writing.check_target(tiny_bundle)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_manifest_that_is_no_file_is_refused_at_once(tiny_bundle, kind):
    path = os.path.join(tiny_bundle, "manifest.json")
    os.unlink(path)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        os.symlink("/dev/zero", path)
    with pytest.raises(BundleError, match="regular file"):
        Bundle.open(tiny_bundle)
