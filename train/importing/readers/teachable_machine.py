"""Google's Teachable Machine: a zip or folder with labels.txt and the model for Keras, TensorFlow or its Lite."""

import os

from edge_runtime.errors import UsageError
from train.importing import archives, labels
from train.importing.original import Declared
from train.importing.preprocessing import SCALES
from train.importing.readers import keras_file, saved_model, tflite

_LABELS = "labels.txt"
_CUSTOM_VISION = "cvexport.manifest"  # its exports have a labels.txt, too
_KERAS = ("keras_model.h5", "keras_Model.h5")
_SAVED_MODEL = "model.savedmodel"
_FLOAT, _QUANTIZED = (
    "model_unquant.tflite",
    ("model.tflite", "model_edgetpu.tflite", "vww_96_grayscale_quantized.tflite"),
)


def recognizes(path):
    """Tells whether a folder or zip has the files of an export of Teachable Machine."""
    names = archives.file_names(path)
    if _LABELS not in names or _CUSTOM_VISION in names:
        return False
    return bool(_models(names))


def _models(names):
    """Returns which of the files or folders that Teachable Machine writes are there, the one to take first."""
    folders = {name.split("/")[0] for name in names if "/" in name}
    known = _KERAS + (_SAVED_MODEL, _FLOAT) + _QUANTIZED
    return [name for name in known if name in names or name in folders]


def read(path, options):
    """Opens an export of Teachable Machine; in a folder with several, the Keras file.

    Returns:
        train.importing.original.Original, with the names of labels.txt (with --labels None) and the preprocessing of
        Teachable Machine's own example: the photo's centre, Lanczos filter, -1 to 1.

    Raises:
        UsageError: it is quantized, or one of its files is damaged. MissingRequirement: TensorFlow is missing.
    """
    with archives.unpacked(path) as folder:
        model = _models(archives.file_names(folder))[0]
        if model in _QUANTIZED:
            raise UsageError(
                f"{path}: its {model} is quantized to 8 bits, which cannot be undone. In Teachable Machine choose "
                "Export Model > Tensorflow > Keras, or Tensorflow Lite > Floating point; picnic-edge convert "
                "--precision int8 quantizes it then, and checks the answers"
            )
        reader = keras_file if model in _KERAS else tflite if model == _FLOAT else saved_model
        original = reader.read(os.path.join(folder, model), options)
        # With --labels they may be what is to be replaced.
        class_names = None if options.labels else labels.read_class_names(os.path.join(folder, _LABELS))
    channels, mean, std = SCALES["-1..1"]
    declared = Declared(
        source="Teachable Machine's example",
        resize="crop",
        shorter_side=max(original.height or 0, original.width or 0) or None,
        filter="lanczos",
        channels=channels,
        mean=mean,
        std=std,
    )
    return original._replace(
        path=path, kind=f"Teachable Machine: {original.kind}", class_names=class_names, declared=declared
    )
