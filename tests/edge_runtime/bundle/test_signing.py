"""With a key, bundles and engines are signed when they are written, and refused where they are not signed."""

import json
import logging
import os
import shutil

import pytest

from edge_runtime import files
from edge_runtime.bundle import signing, writing
from edge_runtime.bundle.manifest import MANIFEST
from edge_runtime.bundle.reading import Bundle
from edge_runtime.cli import sign_bundle
from edge_runtime.engines.record import ENGINE_JSON
from edge_runtime.engines.selection import list_engines, open_engine
from edge_runtime.errors import BundleError, UsageError
from edge_runtime.photos.spec import INCEPTION_V3, to_manifest
from tests.helpers import COLOURS, check_manifest, convert, flip_byte, photo, picnic_edge, write_bytes, write_photo

ENGINE = "onnxruntime-fp32"


def write_key(path, data=b"k" * 32, mode=0o600):
    write_bytes(path, data)
    os.chmod(str(path), mode)
    return str(path)


@pytest.fixture
def key(tmp_path, monkeypatch):
    """A key, which this process and those that it starts use."""
    path = write_key(tmp_path / "key")
    monkeypatch.setenv(signing.KEY_FILE, path)
    return path


@pytest.fixture
def converted(converted_bundle, tmp_path):
    """An unsigned bundle of its own for each test, with an engine."""
    return shutil.copytree(converted_bundle, str(tmp_path / "bundle"))


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def change(path, **values):
    files.write_json(path, dict(read(path), **values))


def manifest_of(folder):
    return os.path.join(folder, MANIFEST)


def record_of(folder):
    return os.path.join(folder, "engines", ENGINE, ENGINE_JSON)


def write_again(folder):
    os.unlink(manifest_of(folder))
    writing.write_manifest(folder, sorted(COLOURS), to_manifest(INCEPTION_V3), {"history": {1: 0.25}}, {"seed": 3})


# --- writing and reading


def test_a_bundle_that_was_written_with_a_key_opens_with_it_and_without_one(tiny_bundle, key, monkeypatch):
    unsigned = Bundle.open(tiny_bundle, need_signature=False).id
    write_again(tiny_bundle)
    signature = read(manifest_of(tiny_bundle))["signature"]
    assert signature["algorithm"] == "HMAC-SHA256" and len(signature["value"]) == 64
    assert Bundle.open(tiny_bundle).id == unsigned  # what it computes is the same
    monkeypatch.delenv(signing.KEY_FILE)
    assert Bundle.open(tiny_bundle).id == unsigned
    write_again(tiny_bundle)
    assert "signature" not in read(manifest_of(tiny_bundle))


def test_a_signed_manifest_fits_its_schema(tiny_bundle, key):
    write_again(tiny_bundle)
    check_manifest(Bundle.open(tiny_bundle))


def test_the_signature_is_the_one_that_is_documented(tiny_bundle, key):
    import hashlib
    import hmac

    write_again(tiny_bundle)
    manifest = read(manifest_of(tiny_bundle))
    value = manifest.pop("signature")["value"]
    content = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    assert hmac.new(b"k" * 32, content, hashlib.sha256).hexdigest() == value


@pytest.mark.parametrize(
    "signature",
    [
        None,
        7,
        {},
        {"algorithm": "HMAC-SHA256"},
        {"algorithm": "HMAC-SHA256", "value": None},
        {"algorithm": "HMAC-SHA256", "value": ""},
        {"algorithm": "HMAC-SHA256", "value": "0" * 64},
        {"algorithm": "HMAC-SHA256", "value": "\u00fc\ud800"},
        {"algorithm": "none", "value": ""},
    ],
    ids=repr,
)
def test_a_signature_that_is_none_is_refused(tiny_bundle, key, signature):
    write_again(tiny_bundle)
    change(manifest_of(tiny_bundle), signature=signature)
    with pytest.raises(BundleError, match="signed"):
        Bundle.open(tiny_bundle)


@pytest.mark.parametrize("values", [{"metrics": {"val_accuracy": 1.0}}, {"created": "now"}, {"more": 1}], ids=repr)
def test_a_signature_covers_what_the_id_does_not(tiny_bundle, key, values):
    write_again(tiny_bundle)
    change(manifest_of(tiny_bundle), **values)
    with pytest.raises(BundleError, match="signed"):
        Bundle.open(tiny_bundle)


def test_another_key_s_signature_is_refused(tiny_bundle, key, monkeypatch, tmp_path):
    write_again(tiny_bundle)
    monkeypatch.setenv(signing.KEY_FILE, write_key(tmp_path / "other", b"o" * 32))
    with pytest.raises(BundleError, match="signed"):
        Bundle.open(tiny_bundle)


def test_the_command_ends_with_5_for_an_unsigned_bundle(tiny_bundle, key, tmp_path):
    write_photo(str(tmp_path / "a.jpg"), photo(COLOURS["red"]))
    done = picnic_edge("classify", tiny_bundle, tmp_path / "a.jpg")
    assert done.returncode == 5 and done.stdout == b""
    assert "is not signed with this key" in done.stderr and "sign_bundle" in done.stderr
    assert "Traceback" not in done.stderr


# --- engines


def test_an_engine_that_was_made_with_a_key_is_signed(tiny_bundle, key):
    write_again(tiny_bundle)
    convert(tiny_bundle, "--to", "onnxruntime")
    with open_engine(Bundle.open(tiny_bundle)) as engine:
        assert engine.name == ENGINE
    change(record_of(tiny_bundle), images_per_s=1e9)
    with pytest.raises(BundleError, match=f"{ENGINE}: .*signed"):
        open_engine(Bundle.open(tiny_bundle), ENGINE)


def test_auto_does_not_take_an_engine_that_is_not_signed(converted, key, caplog):
    write_again(converted)
    with caplog.at_level(logging.WARNING, "picnic_edge"), open_engine(Bundle.open(converted)) as engine:
        assert engine.name == "onnxruntime"
    (line,) = [record.getMessage() for record in caplog.records]
    assert ENGINE in line and "is not signed with this key" in line and "\n" not in line


def test_a_bundle_that_is_not_signed_is_not_converted(tiny_bundle, key):
    done = picnic_edge("convert", tiny_bundle, "--to", "onnxruntime")
    assert done.returncode == 5 and "is not signed" in done.stderr
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


# --- the key


@pytest.mark.parametrize(
    "data, said", [(b"", "got 0"), (b"short" * 6, "got 30"), (b"x" * 70000, "got more")], ids=["none", "short", "long"]
)
def test_a_key_of_another_length_is_wrong_usage(tmp_path, monkeypatch, data, said):
    monkeypatch.setenv(signing.KEY_FILE, write_key(tmp_path / "bad", data))
    with pytest.raises(UsageError, match=f"32 to 65536 bytes.*{said}"):
        signing.key()


@pytest.mark.parametrize("name", ["missing", "folder"])
def test_a_key_that_cannot_be_read_is_wrong_usage_before_the_work(tiny_bundle, tmp_path, monkeypatch, name):
    os.mkdir(str(tmp_path / "folder"))
    monkeypatch.setenv(signing.KEY_FILE, str(tmp_path / name))
    for work in (lambda: Bundle.open(tiny_bundle), lambda: writing.check_target(str(tmp_path / "new"))):
        with pytest.raises(UsageError, match=f"PICNIC_EDGE_KEY_FILE=.*{name}: "):
            work()


@pytest.mark.parametrize("mode, warned", [(0o600, False), (0o640, True), (0o604, True)])
def test_a_key_that_others_can_read_is_warned_of_once(tmp_path, monkeypatch, caplog, mode, warned):
    monkeypatch.setenv(signing.KEY_FILE, write_key(tmp_path / "key", mode=mode))
    with caplog.at_level(logging.WARNING, "picnic_edge"):
        assert signing.key() == signing.key() == b"k" * 32
    assert [("chmod 600" in record.getMessage()) for record in caplog.records] == [True] * warned


# --- signing later


def test_a_bundle_and_its_engines_are_signed_later(converted, key):
    before = Bundle.open(converted, need_signature=False).id
    sign_bundle.main([converted])
    with open_engine(Bundle.open(converted)) as engine:
        assert engine.name == ENGINE
    assert Bundle.open(converted).id == before


def test_a_bundle_is_signed_again_with_another_key(tiny_bundle, key, tmp_path, monkeypatch):
    sign_bundle.main([tiny_bundle])
    first = read(manifest_of(tiny_bundle))["signature"]
    monkeypatch.setenv(signing.KEY_FILE, write_key(tmp_path / "other", b"o" * 32))
    with pytest.raises(BundleError):
        Bundle.open(tiny_bundle)
    sign_bundle.main([tiny_bundle])
    assert read(manifest_of(tiny_bundle))["signature"] != first
    assert Bundle.open(tiny_bundle).class_names == sorted(COLOURS)


def test_signing_needs_a_key(tiny_bundle, monkeypatch):
    monkeypatch.delenv(signing.KEY_FILE, raising=False)
    with pytest.raises(UsageError, match="PICNIC_EDGE_KEY_FILE"):
        sign_bundle.main([tiny_bundle])


@pytest.mark.parametrize("name", ["model.onnx", "sample/000.png"])
def test_a_corrupt_bundle_is_not_signed(tiny_bundle, key, name):
    flip_byte(os.path.join(tiny_bundle, name))
    with pytest.raises(BundleError, match=name):
        sign_bundle.main([tiny_bundle])
    assert "signature" not in read(manifest_of(tiny_bundle))


@pytest.mark.parametrize(
    "spoil, problem",
    [
        (lambda folder: flip_byte(os.path.join(os.path.dirname(record_of(folder)), "model.onnx")), "model.onnx"),
        (lambda folder: change(record_of(folder), source={"bundle_id": "0" * 12}), "bundle 000000000000"),
        (lambda folder: write_bytes(record_of(folder), b"{"), "engine.json"),
    ],
    ids=["changed", "another bundle's", "garbled"],
)
def test_a_corrupt_engine_is_named_and_not_signed_the_bundle_is(converted, key, spoil, problem):
    spoil(converted)
    with pytest.raises(BundleError, match=f"(?s)signed.*{problem}"):
        sign_bundle.main([converted])
    assert [info.name for info in list_engines(Bundle.open(converted))] == [ENGINE, "onnxruntime"]
    with pytest.raises(BundleError):
        open_engine(Bundle.open(converted), ENGINE)


def test_a_key_that_is_set_to_nothing_or_to_a_pipe_is_refused(tiny_bundle, tmp_path, monkeypatch):
    os.mkfifo(str(tmp_path / "pipe"))
    for value in ("", str(tmp_path / "pipe")):
        monkeypatch.setenv(signing.KEY_FILE, value)
        with pytest.raises(UsageError, match="PICNIC_EDGE_KEY_FILE"):
            Bundle.open(tiny_bundle)
