"""Opens a bundle and reads its files, checked against the manifest."""

import io
import json
import os
import typing

import numpy as np

from edge_runtime.bundle import signing
from edge_runtime.bundle.checksums import advising, check_files, checked_bytes, checked_path
from edge_runtime.bundle.manifest import ADVICE, MANIFEST, identity_of, read_manifest
from edge_runtime.errors import BundleError, ImageError
from edge_runtime.photos import decode, spec


class Sample(typing.NamedTuple):
    """The photos of a bundle that its engines are checked against."""

    names: list  # of the photos, as in the training table
    images: np.ndarray  # uint8 [n, height, width, 3]
    labels: list  # the true class names
    probabilities: np.ndarray  # float32 [n, classes], the model's own answers to exactly these images


class Bundle:
    """A bundle whose manifest was checked.

    Attributes:
        path: its folder.
        id: 12 hexadecimal digits, of what the bundle computes.
        class_names: in the order of the probabilities.
        input_spec: edge_runtime.photos.spec.InputSpec: how photos become the network's input.
        manifest: dict, the content of manifest.json.
        files: {name relative to path, with /: {"sha256", "size_bytes"}}.
    """

    def __init__(self, path, manifest):
        self.path = path
        self.manifest = manifest
        self.class_names = manifest["class_names"]
        self.id = manifest["id"]
        self.files = manifest["files"]
        self.input_spec = spec.INCEPTION_V3  # until open has checked the manifest's own

    @classmethod
    def open(cls, path, need_signature=True):
        """Reads a bundle's manifest, and checks that every file that it lists is there with its size.

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
            raise BundleError(f"{path}: its {MANIFEST} is nested too deeply; {ADVICE}")

    @classmethod
    def _open(cls, path, need_signature):
        manifest = read_manifest(path)
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
            raise BundleError(f"{path}: the manifest lacks {error}; make the bundle again")
        if not names_fit or not lists_fit or bundle.id != identity_of(manifest):
            raise BundleError(f"{path}: the manifest was changed after training; make the bundle again")
        try:
            bundle.input_spec = spec.from_manifest(manifest.get("input_spec"))
        except ValueError as error:
            raise BundleError(
                f"{path}: made for an input spec that this version does not know ({error}).\n"
                "Use the version that made it, or make it again."
            )
        with advising(ADVICE):
            check_files(path, bundle.files)
        return bundle

    def file(self, name):
        """Returns the path of a file of the bundle, which is not checked."""
        return os.path.join(self.path, *name.split("/"))

    def checked(self, name):
        """Returns the path of a file, or of a folder, of the bundle after checking its sums.

        Raises:
            BundleError: it is not listed, missing or corrupt, or a file in the folder is not listed.
        """
        with advising(ADVICE):
            return checked_path(self.path, name, self.files)

    def read(self, name):
        """Returns the content of a file of the bundle: the same bytes that were checked.

        Raises:
            BundleError: it is not listed, missing or corrupt.
        """
        with advising(ADVICE):
            return checked_bytes(self.path, name, self.files)

    def lists(self, name):
        """Tells whether the bundle has a file or a folder of this name."""
        return name in self.files or any(file.startswith(name + "/") for file in self.files)

    def sha256(self, name):
        """Returns the recorded sha256 of a file of the bundle."""
        return self.files[name]["sha256"]

    def sample(self):
        """Returns the Sample of photos that engines are checked against. Raises BundleError: it is garbled."""
        data, answers = self.read("sample/sample.json"), self.read("sample/probabilities.npy")
        try:
            photos = json.loads(data.decode("utf-8"))
            names, labels = [photo["file"] for photo in photos], [photo["label"] for photo in photos]
            longer_side = max(self.input_spec.height, self.input_spec.width)
            # decode_large takes also a photo that an augmentation made a single colour.
            pixels = [
                decode.decode_large(self.read(f"sample/{index:03d}.png"), longer_side) for index in range(len(photos))
            ]
            if any(picture.shape != self.input_spec.shape for picture in pixels):
                raise ValueError(f"a photo in it is not {self.input_spec.width} x {self.input_spec.height}")
            probabilities = np.load(io.BytesIO(answers), allow_pickle=False)
            if probabilities.shape != (len(photos), len(self.class_names)) or probabilities.dtype != np.float32:
                raise ValueError(f"probabilities.npy has the shape {probabilities.shape}")
            return Sample(names, np.stack(pixels), labels, probabilities)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ImageError, EOFError) as error:
            raise BundleError(f"{self.path}: its sample cannot be read ({error}); make the bundle again")
