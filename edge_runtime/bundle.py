"""The bundle: the folder that training writes, the converter adds engines to, and everything else reads.

BUNDLE/manifest.json        format version, class names, input spec, metrics, training, sha256 and size of every file,
                            and where there was a key a signature (see edge_runtime/signing.py)
BUNDLE/model.onnx           opset 13, uint8 [N, 299, 299, 3] "images" -> float32 [N, classes] "probabilities"
BUNDLE/saved_model/         the same graph, frozen, for TensorFlow and TF-TRT
BUNDLE/sample/              photos kept at 299 x 299 with the model's own answers: what engines are checked against
BUNDLE/engines/<id>/        engine files and engine.json (see edge_runtime/engines)

Only files that the manifest lists are opened. That all are there, with their sizes, is checked when the bundle is
opened; a file's sum when it is read, so that a start reads no more than it uses. Sums and the id tell a damaged file
from a sound one. They do not tell who made the bundle: see docs/bundle-format.md.
"""

import contextlib
import datetime
import hashlib
import io
import json
import os
import shutil
import stat
import typing

import numpy as np

from edge_runtime import files, images, onnx_file, signing
from edge_runtime.errors import BundleError, CorruptFile, ImageError, UsageError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
ADVICE = "train again, or copy the bundle again"
_LARGEST_JSON = 256 << 20  # bytes; a manifest has 20 per photo of the training
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
    """A bundle whose manifest was checked: path, id, class_names, manifest, files ({name: sum and size})."""

    def __init__(self, path, manifest):
        self.path = path
        self.manifest = manifest
        self.class_names = manifest["class_names"]
        self.id = manifest["id"]
        self.files = manifest["files"]

    @classmethod
    def open(cls, path, need_signature=True):
        """Reads a bundle's manifest, and looks whether every file that it lists is there with its size.

        Args:
            path: the bundle's folder.
            need_signature: where there is a key, the manifest must be signed with it.

        Raises:
            UsageError: there is no such folder, or it holds no manifest.
            BundleError: a file is missing, of another size or outside the bundle, the signature is not ours, or this
                version cannot read the format.
        """
        try:
            return cls._open(path, need_signature)
        except RecursionError:
            raise BundleError("%s: its %s is nested too deeply; %s" % (path, MANIFEST, ADVICE))

    @classmethod
    def _open(cls, path, need_signature):
        manifest = _read_manifest(path)
        if need_signature:
            signing.require_signature(path, manifest)
        try:
            bundle = cls(path, manifest)
            names = bundle.class_names
            names_fit = isinstance(names, list) and all(isinstance(name, str) for name in names)
            names_fit = names_fit and len(set(names)) == len(names) >= 2
            lists_fit = isinstance(bundle.files, dict) and "model.onnx" in bundle.files
            lists_fit = lists_fit and all(isinstance(manifest.get(part, {}), dict) for part in ("metrics", "training"))
        except KeyError as error:
            raise BundleError("%s: the manifest lacks %s; train again" % (path, error))
        if not names_fit or not lists_fit or bundle.id != _identity(manifest):
            raise BundleError("%s: the manifest was changed after training; train again" % path)
        if manifest.get("input_spec") != images.INPUT_SPEC:
            raise BundleError(
                "%s: made for another input spec than this version's; expected %s, got %s.\n"
                "Use the version that trained it, or train again."
                % (path, images.INPUT_SPEC, manifest.get("input_spec"))
            )
        with advising(ADVICE):
            check_files(path, bundle.files)
        return bundle

    def file(self, name):
        """Returns the full name of a file of the bundle, which is not checked."""
        return os.path.join(self.path, *name.split("/"))

    def checked(self, name):
        """Returns the full name of a file, or of a folder, of the bundle after checking its sums.

        Raises:
            BundleError: it is not listed, missing or corrupt, or a file in the folder is not listed.
        """
        with advising(ADVICE):
            return checked_path(self.path, name, self.files)

    def read(self, name):
        """Returns the content of a file of the bundle: the same bytes that were checked. Raises as checked."""
        with advising(ADVICE):
            return checked_bytes(self.path, name, self.files)

    def lists(self, name):
        """Tells whether the bundle has a file or a folder of this name."""
        return name in self.files or any(listed.startswith(name + "/") for listed in self.files)

    def sha256(self, name):
        """Returns the recorded sha256 of a file of the bundle."""
        return self.files[name]["sha256"]

    def sample(self):
        """Returns the Sample of photos that engines are checked against. Raises BundleError: it is no such."""
        data, answers = self.read("sample/sample.json"), self.read("sample/probabilities.npy")
        try:
            photos = json.loads(data.decode("utf-8"))
            names, labels = [photo["file"] for photo in photos], [photo["label"] for photo in photos]
            # As they are, also one that an augmentation made a single colour.
            pixels = [
                images.decode_large(self.read("sample/%03d.png" % index), images.SIDE) for index in range(len(photos))
            ]
            probabilities = np.load(io.BytesIO(answers), allow_pickle=False)
            if probabilities.shape != (len(photos), len(self.class_names)) or probabilities.dtype != np.float32:
                raise ValueError("probabilities.npy has the shape %s" % (probabilities.shape,))
            return Sample(names, np.stack(pixels), labels, probabilities)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ImageError, EOFError) as error:
            raise BundleError("%s: its sample cannot be read (%s); train again" % (self.path, error))


def write_manifest(folder, class_names, metrics, training):
    """Lists every file of a folder that is to become a bundle, and signs the list where there is a key.

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
    files.write_json(os.path.join(folder, MANIFEST), signing.signed(manifest))


def list_files(folder):
    """Returns {name relative to folder, with /: {"sha256", "size_bytes"}} of all files below it."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            inner = os.path.relpath(path, folder).replace(os.sep, "/")
            found[inner] = {"sha256": files.sha256_of(path), "size_bytes": os.path.getsize(path)}
    return found


def check_files(folder, listed, sums=False):
    """Checks that every listed file lies in the folder and has its size, and with sums that its content is the same.

    Args:
        listed: as list_files returns it, read from a file that may be garbled or another's.

    Raises:
        CorruptFile: naming the first file that is missing, changed, or outside the folder.
    """
    for name in sorted(listed):
        path = _placed(folder, name, listed)
        if sums:
            with _reading(folder, name):
                found = files.sha256_of(path)
            _check_sum(folder, name, listed, found)


def checked_path(folder, name, listed):
    """Returns the path of a file, or of a folder, after checking the sums of what it holds.

    For libraries that open files themselves; in between a file can still change, see checked_bytes.

    Args:
        folder: where the listed files are.
        name: of the file or folder, relative to it, with /.
        listed: as list_files returns it; None where the files were just made: then nothing is checked.

    Raises:
        CorruptFile: a file is missing, changed, outside the folder or not listed.
    """
    path = os.path.join(folder, *name.split("/"))
    if listed is None:
        return path
    if name.endswith(".onnx"):
        checked_bytes(folder, name, listed)
        return path
    chosen = {inner: facts for inner, facts in listed.items() if inner == name or inner.startswith(name + "/")}
    if not chosen:
        raise CorruptFile("%s: does not list %s" % (folder, name))
    check_files(folder, chosen, sums=True)
    if name not in chosen:  # a folder, of which a library may open whatever lies in it
        for inner in _everything_below(path):
            if "%s/%s" % (name, inner) not in chosen:
                raise CorruptFile("%s: holds %s, which is not listed; remove it" % (path, inner))
    return path


def checked_bytes(folder, name, listed):
    """Returns the content of a file: what is used is what was checked. An .onnx file must not name other files.

    Args and Raises: as checked_path.
    """
    path = os.path.join(folder, *name.split("/")) if listed is None else _placed(folder, name, listed)
    with _reading(folder, name), open(path, "rb") as file:
        data = file.read()
    if listed is None:
        return data
    _check_sum(folder, name, listed, hashlib.sha256(data).hexdigest())
    if name.endswith(".onnx"):
        try:
            names_other_files = onnx_file.names_other_files(data)
        except ValueError as error:
            raise CorruptFile("%s: its file %s is no ONNX file (%s)" % (folder, name, error))
        if names_other_files:
            raise CorruptFile("%s: its file %s has weights in other files, which are not checked" % (folder, name))
    return data


@contextlib.contextmanager
def advising(advice):
    """Adds to the message of a CorruptFile what the user should do about it."""
    try:
        yield
    except CorruptFile as error:
        raise CorruptFile("%s; %s" % (error, advice))


def _placed(folder, name, listed):
    """Returns the path of a listed file that lies in the folder with its size. Raises CorruptFile."""
    if name not in listed:
        raise CorruptFile("%s: does not list %s" % (folder, name))
    path, root = os.path.join(folder, name), os.path.realpath(folder)
    try:
        inside = not os.path.isabs(name) and "\0" not in name and os.path.realpath(path).startswith(root + os.sep)
    except UnicodeEncodeError:  # no file can have such a name
        inside = False
    if not inside:
        raise CorruptFile("%s: lists the file %s, which is outside it" % (folder, name))
    facts = listed[name]
    if not isinstance(facts, dict) or not {"sha256", "size_bytes"} <= set(facts):
        raise CorruptFile("%s: its entry for %s is garbled" % (folder, name))
    with _reading(folder, name):
        found = os.stat(path)
    if not stat.S_ISREG(found.st_mode) or found.st_size != facts["size_bytes"]:
        raise CorruptFile("%s: its file %s is not the one that was written" % (folder, name))
    return path


@contextlib.contextmanager
def _reading(folder, name):
    try:
        yield
    except OSError as error:
        raise CorruptFile("%s: its file %s cannot be read (%s)" % (folder, name, error.strerror))


def _check_sum(folder, name, listed, found):
    if found != listed[name]["sha256"]:
        raise CorruptFile("%s: its file %s is not the one that was written" % (folder, name))


def _everything_below(folder):
    """Returns the names of all files below a folder, relative to it, with /; links to folders are among them."""
    found = []
    for parent, folders, names in os.walk(folder):
        names += [name for name in folders if os.path.islink(os.path.join(parent, name))]
        found += [os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/") for name in names]
    return sorted(found)


def read_json(path):
    """Returns what a JSON file of a bundle holds. Raises OSError, ValueError or RecursionError: it cannot be read."""
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for, a device read without end
        raise ValueError("it is no regular file")
    with open(path, encoding="utf-8") as file:
        if os.fstat(file.fileno()).st_size > _LARGEST_JSON:
            raise ValueError("it is larger than %d MiB" % (_LARGEST_JSON >> 20))
        return json.load(file)


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
    signing.key()  # what is wrong with it is told before the long work
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
        return "class_names" in read_json(os.path.join(path, MANIFEST))
    except (OSError, ValueError, RecursionError, TypeError):
        return False


def _read_manifest(path):
    try:
        manifest = read_json(os.path.join(path, MANIFEST))
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
