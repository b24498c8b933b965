"""Microsoft Custom Vision: a zip (or its folder) with cvexport.manifest, labels.txt and the model."""

import math
import os

from edge_runtime.errors import UsageError
from edge_runtime.text import printable
from train.importing import archives, labels
from train.importing.original import Declared

_MANIFEST = "cvexport.manifest"
_MAX_BYTES = 1 << 20
# Keys, in lower case.
_FORMAT, _RANGE, _NORMALIZE = "image.bitmappixelformat", "image.nominalpixelrange", "customvision.preprocess.normalize"
# NominalPixelRange -> (shift, factor): (pixel - shift) / factor goes in. 16_235, of video, is not known to be used.
_RANGES = {"nominalrange_0_255": (0, 1), "normalized_0_1": (0, 255), "normalized_1_1": (127.5, 127.5)}


def recognizes(path):
    """Tells whether a folder or zip is an export of Custom Vision, by the file that all of them have."""
    return _MANIFEST in archives.file_names(path)


def read(path, options):
    """Reads a classifier from an export for ONNX. The arguments and errors are those of readers.read_original."""
    from train.importing.readers import onnx_file  # which asks this module about metadata

    with archives.unpacked(path) as folder:
        manifest = archives.json_object(folder, _MANIFEST, _MAX_BYTES)
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
            said = declared(path, archives.json_object(folder, "metadata_properties.json", _MAX_BYTES), is_export=True)
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
        declared=said or _of_export(original.declared),
    )


def is_theirs(metadata):
    """Tells whether metadata, {name: text}, is that of Custom Vision."""
    return any(key.lower().startswith("customvision.") for key in metadata)


def declared(path, metadata, is_export=False):
    """Returns what an ONNX file's metadata, {name: text}, declares: its Image... keys, and those of Custom Vision.

    Args:
        path: for messages.
        metadata: {name: text}; upper and lower case of the names are the same.
        is_export: it is Custom Vision's, whatever its keys are.

    Raises:
        UsageError: the model gives several labels per photo.
    """
    said = {key.lower(): str(text).strip().lower() for key, text in metadata.items()}
    theirs = is_export or is_theirs(metadata)
    method = said.get("customvision.postprocess.method", "")
    if "multilabel" in method:
        raise UsageError(
            f"{path}: gives several labels per photo ({printable(method)}). Only one label per photo can be imported: "
            "train it as Multiclass"
        )
    if theirs:  # what Microsoft's own example does
        said = dict({_FORMAT: "bgr8", _RANGE: "nominalrange_0_255"}, **said)
    if not {_FORMAT, _RANGE} & set(said):
        return Declared()
    mean, std = _scale(said)
    # The example squashes with Pillow's bicubic filter, whatever CropMethod and ResizeMethod say.
    return Declared(
        source="Custom Vision's metadata" if theirs else "the model's metadata",
        resize="squash" if theirs else None,
        filter="bicubic" if theirs else None,
        channels={"bgr": "BGR", "rgb": "RGB"}.get(said.get(_FORMAT, "")[:3]),
        mean=mean,
        std=std,
    )


def _scale(said):
    """Returns the mean and std of a Declared; both None where the metadata says something that is not known here."""
    known = _RANGES.get(said.get(_RANGE, ""))
    try:
        mean, std = (
            [float(number) for number in said.get(_NORMALIZE + what, start).strip("[] ").split(",")]
            for what, start in (("mean", "0,0,0"), ("std", "1,1,1"))
        )
    except ValueError:
        return None, None
    fits = len(mean) == len(std) == 3 and all(map(math.isfinite, mean + std)) and min(std) > 0
    if known is None or not fits:
        return None, None
    shift, factor = known
    return tuple(shift + factor * value for value in mean), tuple(factor * value for value in std)


def _of_export(by_model):
    """Returns the Declared of an export without metadata_properties.json, by its model's metadata."""
    if not by_model.source:
        return declared("", {}, is_export=True)._replace(source="Custom Vision's example")
    return by_model._replace(resize="squash", filter="bicubic")
