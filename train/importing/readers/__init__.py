"""One module per kind of file. read_original recognizes the kind by the content."""

import importlib
import os
import zipfile

from edge_runtime.errors import UsageError
from train.importing import archives

# In this order: a Teachable Machine zip holds a Keras file, a Hugging Face folder an ONNX file. Each module has
# recognizes(path), which looks at the content, and read(path, options), which returns an Original.
READERS = (
    "hugging_face",
    "custom_vision",
    "onnx_file",
    "teachable_machine",
    "keras_file",
    "saved_model",
    "tflite",
)
_WITH_ONNX = ("hugging_face", "custom_vision", "onnx_file")
_PICKLE = (
    "is a pickle, which is code that runs when it is opened. It is not opened. Where the model was trained, export it "
    "as ONNX (PyTorch: torch.onnx.export) and import that"
)
_PYTORCH = (
    "is a PyTorch file: a pickle, which is code that runs when it is opened. It is not opened. Where the model was "
    "trained, export it:\n"
    '    torch.onnx.export(model.eval(), torch.zeros(1, 3, 224, 224), "model.onnx", opset_version=13,\n'
    '                      input_names=["images"], output_names=["logits"],\n'
    '                      dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}})\n'
    "with the model's own size in place of 224; then: picnic-edge import model.onnx --out BUNDLE"
)
_PYTORCH_NAMES = (".pt", ".pth", ".ckpt")
_ULTRALYTICS = (
    "is a PyTorch file of ultralytics: a pickle, which is code that runs when it is opened. It is not opened. Export "
    "it where ultralytics is installed:\n    yolo export model={name} format=onnx opset=13 dynamic=True\n"
    "then: picnic-edge import {stem}.onnx --out BUNDLE"
)
_KINDS = (
    "expected an .onnx file, a Keras model (.keras, .h5), a SavedModel folder, a float .tflite file, a Hugging Face "
    "folder, or a zip of Teachable Machine or Custom Vision"
)


def read_original(path, options):
    """Opens a model that was trained elsewhere, whatever its kind; no code in it is run.

    Args:
        path: its file or folder.
        options: an object with the attributes labels, input, output and trust, as the command's; all may be None.

    Returns:
        train.importing.original.Original.

    Raises:
        UsageError: nothing is there, it is no classifier, or of a kind that cannot be imported. The message says how to
            make one that can.
        MissingRequirement: a library that opens this kind is not installed.
    """
    if not os.path.lexists(path):
        raise UsageError(f"{path}: no such file or folder")
    if not os.path.isdir(path) and not os.path.isfile(path):
        raise UsageError(f"{path}: is neither a file nor a folder")
    _refuse_others(path)
    for name in READERS:
        reader = importlib.import_module(f"train.importing.readers.{name}")
        if reader.recognizes(path):
            if options.input is not None and name not in _WITH_ONNX:
                raise UsageError(f"--input {options.input}: {path} holds no ONNX model; leave it out")
            return reader.read(path, options)
    raise UsageError(f"{path}: is no model that can be imported: {_hint(path)}")


def _refuse_others(path):
    """Raises UsageError for kinds of files that are recognized, and are not opened."""
    if os.path.isdir(path):
        return
    with open(path, "rb") as file:
        start = file.read(64)
    if not start:
        raise UsageError(f"{path}: is empty; {_KINDS}")
    pickled = _pickle_in(path, start)
    if pickled is not None:
        name = os.path.basename(path)
        advice = _PYTORCH if b"torch" in pickled or name.endswith(_PYTORCH_NAMES) else _PICKLE
        if b"ultralytics" in pickled:
            advice = _ULTRALYTICS.format(name=name, stem=os.path.splitext(name)[0])
        raise UsageError(f"{path}: {advice}")
    if start[8:10] == b'{"' and path.endswith(".safetensors"):
        raise UsageError(
            f"{path}: holds weights alone, without the network. Export it: optimum-cli export onnx --model FOLDER OUT, "
            "then: picnic-edge import OUT --out BUNDLE"
        )
    if path.endswith(".pb"):
        raise UsageError(
            f"{path}: is a TensorFlow graph without its variables; give the SavedModel's folder, or export the model "
            "as a SavedModel or as ONNX"
        )
    if start[:4] == b"ftrt" or path.endswith((".engine", ".plan")):
        raise UsageError(
            f"{path}: is a TensorRT engine, which only its own GPU runs; give the .onnx that it was built of"
        )


def _pickle_in(path, start):
    """Returns the bytes of the pickle in a PyTorch file (the first MiB), None where it is none. It is not opened."""
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        with open(path, "rb") as file:
            return file.read(1 << 20)
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist()[: archives.MAX_FILES]:
                    if name.endswith("data.pkl"):
                        with archive.open(name) as file:
                            return file.read(1 << 20)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError):
            return None
    return b"" if path.endswith(_PYTORCH_NAMES) else None


def _hint(path):
    names = archives.file_names(path)
    bases = {os.path.basename(name) for name in names}
    if {"model.json", "weights.bin"} <= bases:
        return (
            "this is an export for TensorFlow.js. In Teachable Machine choose Export Model > Tensorflow > Keras, "
            "and give that zip"
        )
    if bases & {"pytorch_model.bin", "model.safetensors"}:
        return (
            "this folder has the weights and no ONNX file. Export it: optimum-cli export onnx --model FOLDER OUT, "
            "then: picnic-edge import OUT --out BUNDLE"
        )
    if path.endswith((".mlmodel", ".mlpackage")) or any(name.endswith(".mlmodel") for name in names):
        return "this is an export for Core ML; export it as ONNX"
    if any(name.endswith((".onnx", ".h5", ".keras", ".tflite", ".pb")) for name in names):
        models = [name for name in names if name.endswith((".onnx", ".h5", ".keras", ".tflite", ".pb"))]
        return f"it holds {', '.join(models[:5])}; unpack it and give the one to import, with --labels FILE"
    return _KINDS
