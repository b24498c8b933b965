"""Writes a bundle's manifest, and checks that a bundle may be written where it should be."""

import datetime
import os
import shutil

from edge_runtime import files
from edge_runtime.bundle import signing
from edge_runtime.bundle.checksums import list_files
from edge_runtime.bundle.manifest import FORMAT_VERSION, MANIFEST, identity_of, is_bundle
from edge_runtime.errors import UsageError

_CONTENT = {MANIFEST, "model.onnx", "saved_model", "sample", "engines"}


def write_manifest(folder, class_names, input_spec, metrics, training):
    """Lists every file of a folder that is to become a bundle, and signs the list where there is a key.

    Args:
        folder: holds all of the bundle's files, but no manifest yet.
        class_names: in the order of the model's outputs.
        input_spec: dict, of edge_runtime.photos.spec.to_manifest.
        metrics: dict of plain values: the model's figures on its validation photos.
        training: dict of plain values: command, seed, data, weights, versions.
    """
    manifest = {
        "format_version": FORMAT_VERSION,
        "class_names": list(class_names),
        "input_spec": input_spec,
        "metrics": metrics,
        "training": training,
        "created": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "files": list_files(folder),
    }
    manifest["id"] = identity_of(manifest)
    files.write_json(os.path.join(folder, MANIFEST), signing.signed(manifest))


def check_target(path):
    """Raises UsageError where no bundle can be written: something else is there, the key is wrong, the disk is full."""
    if os.path.lexists(path):
        inside = set(os.listdir(path)) if os.path.isdir(path) else {""}
        if inside and not is_bundle(path):
            raise UsageError(f"{path}: exists and is no bundle; give --out another name")
        if inside - _CONTENT:
            raise UsageError(
                f"{path}: would be replaced, and holds more than a bundle: "
                f"{', '.join(sorted(ascii(name) for name in inside - _CONTENT)[:5])}; "
                "move that away, or give --out another name"
            )
    signing.key()  # a wrong one is reported before the long work
    parent = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK):
        raise UsageError(f"{path}: cannot write to {parent}")
    free_bytes = shutil.disk_usage(parent).free
    if free_bytes < 500 << 20:
        raise UsageError(f"{path}: a bundle takes up to 500 MiB and only {free_bytes >> 20} MiB are free")
