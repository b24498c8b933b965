"""The bundle: the folder that training writes, the converter adds engines to, and everything else reads.

BUNDLE/manifest.json        format version, class names, input spec, metrics, training, sha256 and size of every file
BUNDLE/model.onnx           opset 13, uint8 [N, 299, 299, 3] "images" -> float32 [N, classes] "probabilities"
BUNDLE/saved_model/         the same graph, frozen, for TensorFlow and TF-TRT
BUNDLE/sample/              photos kept at 299 x 299 with the model's own answers: what engines are checked against
BUNDLE/engines/<id>/        engine files and engine.json (see edge_runtime/engines)
"""

import datetime
import hashlib
import json
import os
import shutil
import typing

import numpy as np

from edge_runtime import files, images
from edge_runtime.errors import BundleError, UsageError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_CONTENT = {MANIFEST, "model.onnx", "saved_model", "sample", "engines"}
INPUT_NAME = "images"
OUTPUT_NAME = "probabilities"

Sample = typing.NamedTuple(
    "Sample",
    [
        ("names", list),  # of the photos, as in the training table
        ("images", np.ndarray),  # uint8 [n, 299, 299, 3]
        ("labels", list),  # the true class names
        (
            "probabilities",
            np.ndarray,
        ),  # float32 [n, classes], the model's own answers to exactly these images
    ],
)


class Bundle:
    """A verified bundle: path, id, class_names, manifest."""

    def __init__(self, path, manifest):
        self.path = path
        self.manifest = manifest
        self.class_names = manifest["class_names"]
        self.id = manifest["id"]

    @classmethod
    def open(cls, path):
        """Reads a bundle and verifies every file that its manifest lists.

        Raises:
            UsageError: there is no such folder, or it holds no manifest.
            BundleError: a file is missing, changed or outside the bundle, or this version cannot read the format.
        """
        manifest = _read_manifest(path)
        try:
            listed = dict(manifest["files"])
            bundle = cls(path, manifest)
            names = bundle.class_names
            names_fit = isinstance(names, list) and all(isinstance(name, str) for name in names)
            names_fit = names_fit and len(set(names)) == len(names) >= 2
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError("%s: the manifest lacks or garbles %s; train again" % (path, error))
        if not names_fit or "model.onnx" not in listed or manifest["id"] != _identity(manifest):
            raise BundleError("%s: the manifest was changed after training; train again" % path)
        if manifest.get("input_spec") != images.INPUT_SPEC:
            raise BundleError(
                "%s: made for another input spec than this version's; expected %s, got %s.\n"
                "Use the version that trained it, or train again."
                % (path, images.INPUT_SPEC, manifest.get("input_spec"))
            )
        verify_files(path, listed, "train again, or copy the bundle again")
        return bundle

    def file(self, name):
        """Returns the full name of a file of the bundle."""
        return os.path.join(self.path, *name.split("/"))

    def sha256(self, name):
        """Returns the recorded sha256 of a file of the bundle."""
        return self.manifest["files"][name]["sha256"]

    def sample(self):
        """Returns the Sample of photos that engines are checked against."""
        with open(self.file("sample/sample.json"), encoding="utf-8") as file:
            photos = json.load(file)
        # As they are, also one that an augmentation made a single colour.
        pixels = [images.read_large(self.file("sample/%03d.png" % index), images.SIDE) for index in range(len(photos))]
        probabilities = np.load(self.file("sample/probabilities.npy"), allow_pickle=False)
        names, labels = [photo["file"] for photo in photos], [photo["label"] for photo in photos]
        return Sample(names, np.stack(pixels), labels, probabilities)


def write_manifest(folder, class_names, metrics, training):
    """Lists and signs every file of a folder that is to become a bundle.

    Args:
        folder: holds all of the bundle's files, but no manifest yet.
        class_names: in the order of the model's outputs.
        metrics: dict of plain values: what the model reached on its validation photos.
        training: dict of plain values: command, seed, data, weights, versions.
    """
    manifest = {
        "format_version": FORMAT_VERSION,
        "class_names": list(class_names),
        "input_spec": images.INPUT_SPEC,
        "metrics": metrics,
        "training": training,
        "created": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "files": list_files(folder),
    }
    manifest["id"] = _identity(manifest)
    files.write_json(os.path.join(folder, MANIFEST), manifest)


def list_files(folder):
    """Returns {name relative to folder, with /: {"sha256", "size_bytes"}} of all files below it."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            inner = os.path.relpath(path, folder).replace(os.sep, "/")
            found[inner] = {"sha256": files.sha256_of(path), "size_bytes": os.path.getsize(path)}
    return found


def verify_files(folder, listed, mend):
    """Checks that every listed file lies in the folder, unchanged.

    Args:
        listed: as list_files returns it, read from a file that may have been tampered with.
        mend: what the user should do about a fault, put at the end of the message.

    Raises:
        BundleError: naming the first file that is missing, changed, or outside the folder.
    """
    root = os.path.realpath(folder)
    for name, facts in sorted(listed.items()):
        path = os.path.join(folder, name)
        try:
            inside = not os.path.isabs(name) and "\0" not in name and os.path.realpath(path).startswith(root + os.sep)
        except UnicodeEncodeError:  # no file can have such a name
            inside = False
        if not inside:
            raise BundleError("%s: lists the file %s, which is outside it; %s" % (folder, name, mend))
        try:
            size_bytes = os.path.getsize(path)
            intact = size_bytes == facts["size_bytes"] and files.sha256_of(path) == facts["sha256"]
        except OSError as error:
            raise BundleError("%s: its file %s cannot be read (%s); %s" % (folder, name, error.strerror, mend))
        except (KeyError, TypeError):
            raise BundleError("%s: its entry for %s is garbled; %s" % (folder, name, mend))
        if not intact:
            raise BundleError("%s: its file %s is not the one that was written; %s" % (folder, name, mend))


def publishable(path):
    """Raises UsageError when a bundle may not be written under this name, because something else lies there."""
    if os.path.lexists(path):
        inside = set(os.listdir(path)) if os.path.isdir(path) else {""}
        if inside and not is_bundle(path):
            raise UsageError("%s: exists and is no bundle; give --out another name" % path)
        if inside - _CONTENT:
            raise UsageError(
                "%s: would be replaced, and holds more than a bundle: %s; move that away, or give --out another name"
                % (path, ", ".join(sorted(ascii(name) for name in inside - _CONTENT)[:5]))
            )
    parent = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK):
        raise UsageError("%s: cannot write to %s" % (path, parent))
    free_bytes = shutil.disk_usage(parent).free
    if free_bytes < 500 << 20:
        raise UsageError("%s: a bundle takes up to 500 MiB and only %d MiB are free" % (path, free_bytes >> 20))


def is_bundle(path):
    """Tells whether a folder's manifest is one of ours, of whatever version."""
    try:
        with open(os.path.join(path, MANIFEST), encoding="utf-8") as file:
            return "class_names" in json.load(file)
    except (OSError, ValueError, RecursionError, TypeError):
        return False


def _read_manifest(path):
    try:
        with open(os.path.join(path, MANIFEST), encoding="utf-8") as file:
            manifest = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError("%s: is no bundle (no %s in it); `picnic-edge train` writes one" % (path, MANIFEST))
    except OSError as error:
        raise UsageError("%s: cannot be read (%s)" % (path, error.strerror))
    except (ValueError, RecursionError) as error:
        raise BundleError("%s: its %s is no JSON (%s); train again, or copy it again" % (path, MANIFEST, error))
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(
            "%s: has bundle format %s, this version reads %d; update picnic-edge, or train again"
            % (path, version, FORMAT_VERSION)
        )
    return manifest


def _identity(manifest):
    """A short name for what the bundle computes: its classes, its input spec and its files' sums."""
    content = [manifest.get("class_names"), manifest.get("input_spec"), manifest.get("files")]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
