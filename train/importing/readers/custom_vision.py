"""Microsoft Custom Vision: a zip (or its folder) with cvexport.manifest, labels.txt and the model."""

import json
import os

from edge_runtime.errors import UsageError
from edge_runtime.text import printable
from train.importing import archives, labels
from train.importing.original import Declared

_MANIFEST = "cvexport.manifest"
_MAX_BYTES = 1 << 20


def recognizes(path):
    """Tells whether a folder or zip is an export of Custom Vision, by the file that all of them have."""
    return _MANIFEST in archives.file_names(path)


def read(path, options):
    """Reads a classifier from an export for ONNX. The arguments and errors are those of readers.read_original."""
    from train.importing.readers import onnx_file  # which asks this module about metadata

    with archives.unpacked(path) as folder:
        manifest = _json(path, folder, _MANIFEST)
        domain = str(manifest.get("DomainType", "Classification"))
        if domain != "Classification":
            raise UsageError(
                f"{path}: is a Custom Vision project of type {printable(domain)}; only Classification fits"
            )
        name = str(manifest.get("ModelFileName") or "model.onnx")
        if os.path.basename(name) != name or not name.lower().endswith(".onnx"):
            raise UsageError(
                f"{path}: holds {printable(name)}; in Custom Vision choose Export > ONNX, version ONNX 1.2 or newer, "
                "and give that zip"
            )
        if not os.path.isfile(os.path.join(folder, name)):
            raise UsageError(f"{path}: its {_MANIFEST} names {printable(name)}, which is not in it; download it again")
        said = None
        if os.path.isfile(os.path.join(folder, "metadata_properties.json")):
            said = declared(path, _json(path, folder, "metadata_properties.json"))
        original = onnx_file.read(os.path.join(folder, name), options)
        names = original.class_names
        if not options.labels and os.path.isfile(os.path.join(folder, "labels.txt")):
            listed = labels.read_class_names(os.path.join(folder, "labels.txt"))
            if names is not None and sorted(names) != sorted(listed):
                raise UsageError(f"{path}: the labels in its labels.txt are not those in its model; download it again")
            names = names or listed
    return original._replace(
        path=path,
        kind="Custom Vision export",
        class_names=names,
        declared=said or _complete(original.declared),
    )


def is_theirs(metadata):
    """Tells whether metadata, {name: text}, is that of Custom Vision."""
    return any(key.startswith("CustomVision.") for key in metadata) or "Image.BitmapPixelFormat" in metadata


def declared(path, metadata):
    """Returns the Declared of a file's metadata, {name: text}. Raises UsageError: several labels per photo."""
    method = str(metadata.get("CustomVision.Postprocess.Method", ""))
    if "MultiLabel" in method:
        raise UsageError(
            f"{path}: gives several labels per photo ({printable(method)}). Only one label per photo can be imported: "
            "train it as Multiclass"
        )
    is_unit = str(metadata.get("Image.NominalPixelRange", "")) == "Normalized_0_1"
    channels = "BGR" if str(metadata.get("Image.BitmapPixelFormat", "Bgr8")).lower().startswith("bgr") else "RGB"
    # Microsoft's own example squashes with Pillow's bicubic filter, whatever CropMethod and ResizeMethod say.
    return Declared(
        source="Custom Vision's metadata",
        resize="squash",
        filter="bicubic",
        channels=channels,
        mean=(0.0, 0.0, 0.0),
        std=(255.0,) * 3 if is_unit else (1.0,) * 3,
    )


def _complete(declared_by_model):
    """Returns what an export without metadata_properties.json declares: what Microsoft's example does."""
    return (
        declared_by_model if declared_by_model.source else declared("", {})._replace(source="Custom Vision's example")
    )


def _json(path, folder, name):
    try:
        with open(os.path.join(folder, name), encoding="utf-8-sig") as file:
            value = json.loads(file.read(_MAX_BYTES))
        if not isinstance(value, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: its {name} cannot be read ({error}); download it again")
    return value
