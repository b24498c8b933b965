"""Keras models: .h5 and .keras. Layers that are code are refused before Keras sees the file."""

import contextlib
import importlib
import os
import re
import shutil
import tempfile
import zipfile

from edge_runtime.errors import MissingRequirement, UsageError, is_out_of_memory
from edge_runtime.machine.libraries import require
from edge_runtime.text import printable
from train.importing import archives
from train.importing.readers import keras_config, tensorflow_graph

_HDF5 = b"\x89HDF\r\n\x1a\n"
_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_MAX_CONFIG_BYTES = 64 << 20
_MAX_OBJECTS = 100000  # groups and arrays in a file
# Versions of Keras
_KERAS_FILES_SINCE = (2, 12)  # .keras files
_SAFE_MODE_SINCE = (2, 13)  # load_model's safe_mode, which refuses Lambda layers once more


def recognizes(path):
    """Tells whether a file is HDF5, or an archive with a Keras model's configuration and weights."""
    if os.path.isdir(path):
        return False
    with open(path, "rb") as file:
        if file.read(len(_HDF5)) == _HDF5:
            return True
    return zipfile.is_zipfile(path) and {_CONFIG, _WEIGHTS} <= set(archives.file_names(path))


def read(path, options):
    """Opens a Keras model.

    Args:
        path: of the file.
        options: see train.importing.readers.read_original; --output names one of several outputs.

    Returns:
        train.importing.original.Original. Keras itself runs it.

    Raises:
        UsageError: the file is damaged, holds weights only, code, or no classifier of photos.
        MissingRequirement: TensorFlow is missing, or too old for the file.
    """
    folder = tempfile.mkdtemp(prefix="picnic-edge-import-")
    try:
        with open(path, "rb") as file:
            is_hdf5 = file.read(len(_HDF5)) == _HDF5
        if is_hdf5:
            config, version, copy = _read_hdf5(path, folder, options)
        else:
            with archives.unpacked(path) as content:
                config, version, copy = _read_archive(path, content, folder, options)
        with tensorflow_graph.quiet_tensorflow() as tensorflow:
            model = _load(path, copy, config, version, options.trust, tensorflow)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if len(model.inputs) != 1:
        raise UsageError(f"{path}: takes {len(model.inputs)} inputs; expected one, the photo")
    names = [_layer_name(model, index) for index in range(len(model.outputs))]
    output = names.index(tensorflow_graph.one_output(path, names, options.output))
    source = model.inputs[0]

    def call(pictures):
        return tensorflow.nest.flatten(model(pictures, training=False))[output]

    return tensorflow_graph.from_function(
        path,
        f"Keras model (saved by Keras {version})",
        call,
        [None] + list(source.shape)[1:],
        tensorflow.as_dtype(source.dtype).name,
        keras_config.declared(config),
        options.labels is not None,
    )


def _layer_name(model, index):
    """Returns the name of the layer that gives a model's output."""
    names = getattr(model, "output_names", None)
    if names and len(names) == len(model.outputs):
        return names[index]
    history = getattr(model.outputs[index], "_keras_history", None)
    return history[0].name if history else str(index)


def _read_hdf5(path, folder, options):
    """Checks an .h5 file. Returns (configuration for this Keras, version that saved it, path of a copy with it)."""
    h5py = require("h5py")
    with _opened(h5py, path, path) as file:
        keys = list(file)
        text = file.attrs.get("model_config")
        version = _text(file.attrs.get("keras_version") or "")
        if text is None:
            raise UsageError(f"{path}: {_without_network(file, keys)}")
        if len(text) > _MAX_CONFIG_BYTES:
            raise UsageError(f"{path}: its configuration has {len(text)} bytes; at most {_MAX_CONFIG_BYTES} are read")
        largest = _check_weights(h5py, file, path)
    config = _checked(keras_config.parse(text, path), path, version, largest, options)
    copy = os.path.join(folder, "model.h5")
    shutil.copyfile(path, copy)
    os.chmod(copy, 0o600)
    with h5py.File(copy, "r+") as file:
        file.attrs["model_config"] = keras_config.to_text(config)
    return config, version or "2", copy


def _read_archive(path, content, folder, options):
    """As _read_hdf5, for the unpacked content of a .keras file."""
    texts = []
    for name in (_CONFIG, _METADATA):
        try:
            if os.path.getsize(os.path.join(content, name)) > _MAX_CONFIG_BYTES:
                raise UsageError(f"{path}: {name} has more than {_MAX_CONFIG_BYTES} bytes")
            with open(os.path.join(content, name), "rb") as file:
                texts.append(file.read())
        except OSError:
            texts.append(b"{}")
    version = keras_config.version(texts[1])
    h5py = require("h5py")
    with _opened(h5py, os.path.join(content, _WEIGHTS), path) as file:
        largest = _check_weights(h5py, file, path)
    config = _checked(keras_config.parse(texts[0], path), path, version, largest, options)
    copy = os.path.join(folder, "model.keras")
    with zipfile.ZipFile(copy, "w", allowZip64=True) as archive:
        archive.writestr(_CONFIG, keras_config.to_text(config))
        archive.writestr(_METADATA, texts[1])
        archive.write(os.path.join(content, _WEIGHTS), _WEIGHTS)
    return config, version or "3", copy


@contextlib.contextmanager
def _opened(h5py, path, name):
    """Yields an open HDF5 file. Raises UsageError if it cannot be opened, or the block finds it damaged."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:  # what h5py raises
        raise UsageError(f"{name}: is damaged or not whole ({printable(str(error))}); copy or save it again")


def _text(value):
    return printable(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))


def _without_network(file, keys):
    """Returns what an HDF5 file without a configuration is, and what to do."""
    layers = [_text(name) for name in file.attrs.get("layer_names", ())]
    if layers or {"layers", "_layer_checkpoint_dependencies", "vars"} & set(keys):
        some = f" (of the layers {', '.join(layers[:3])}, ...)" if layers else ""
        return (
            f"holds weights only{some}, not the network. In the program that builds the network: "
            "model.load_weights(FILE); model.save('model.keras'), and import that"
        )
    return f"is an HDF5 file, but no Keras model (it holds {printable(', '.join(keys[:5])) or 'nothing'})"


def _check_weights(h5py, file, path):
    """Returns the largest side of the arrays in an HDF5 file. Raises UsageError: one lies elsewhere; too many."""
    total_bytes, largest, seen, rest = 0, 1, 0, [file]
    while rest:
        group = rest.pop()
        for name in group:
            seen += 1
            if seen > _MAX_OBJECTS:
                raise UsageError(f"{path}: holds more than {_MAX_OBJECTS} groups and arrays")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise UsageError(f"{path}: {printable(name)} is a link; expected all weights in the file itself")
            item = group[name]
            if isinstance(item, h5py.Group):
                rest.append(item)
                continue
            if not isinstance(item, h5py.Dataset):
                continue  # a named type
            if item.external or item.is_virtual:
                raise UsageError(f"{path}: {printable(name)} lies in another file; expected all weights in this one")
            total_bytes += item.size * item.dtype.itemsize
            largest = max((largest,) + item.shape)
    if total_bytes > tensorflow_graph.MAX_BYTES:
        raise UsageError(
            f"{path}: claims {total_bytes} bytes of weights; at most {tensorflow_graph.MAX_BYTES} fit into a bundle"
        )
    return largest


def _checked(config, path, version, largest, options):
    """Returns a configuration without code, in float32, and as Keras 3 takes it where that is here."""
    try:
        keras_config.refuse_code(config, path, options.trust)
        width, layer = keras_config.largest_layer(config)
        if width > largest:
            raise UsageError(f"{path}: layer {layer!r} claims {width} outputs; no array in the file is that large")
        with tensorflow_graph.quiet_tensorflow() as tensorflow:
            here = tensorflow.keras.__version__
        keras_config.in_float32(config)
        if not version.startswith("3") and here.startswith("3"):
            keras_config.for_keras_3(config)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: its configuration is damaged ({type(error).__name__}: {printable(str(error))})")
    return config


def _load(path, copy, config, version, trust, tensorflow):
    """Returns the Keras model of a checked copy."""
    keras = tensorflow.keras
    here = tuple(int(part) for part in keras.__version__.split(".")[:2])
    is_archive = copy.endswith(".keras")
    if (is_archive and here < _KERAS_FILES_SINCE) or (version.startswith("3") and here[0] < 3):
        raise MissingRequirement(
            f"{path}: Keras {version} saved it, and here is Keras {keras.__version__}. Import it on a computer with "
            "TensorFlow 2.17 or newer (pip install tensorflow), Python 3.10 or newer; the bundle then runs anywhere"
        )
    may_need_keras_2 = here[0] >= 3 and not version.startswith("3")
    unknown = keras_config.unknown_layers(config, lambda name: hasattr(keras.layers, name))
    if unknown and may_need_keras_2:
        return _load_with_keras_2(path, version, f"unknown layers: {', '.join(unknown)}")
    settings = {} if here < _SAFE_MODE_SINCE else {"safe_mode": not trust}
    try:
        return keras.models.load_model(copy, custom_objects=_tf_layers(tensorflow), compile=False, **settings)
    except Exception as error:  # Keras raises ValueError, TypeError, KeyError, NotImplementedError, ...
        if is_out_of_memory(error):
            raise
        if may_need_keras_2:
            return _load_with_keras_2(path, version, _first_line(error))
        raise UsageError(f"{_not_opened(path, version, _first_line(error))}To import it, {keras_config.SAVE_AS}")


def _not_opened(path, version, reason):
    return f"{path}: Keras {version} saved it, and Keras does not open it here ({printable(reason)}).\n"


def _load_with_keras_2(path, version, reason):
    """Returns a model that Keras 3 does not open, by the package tf_keras, which is Keras 2, where it is installed.

    Args:
        reason: why Keras 3 does not.
    """
    message = _not_opened(path, version, reason)
    try:
        tf_keras = importlib.import_module("tf_keras")
    except ImportError:
        raise UsageError(
            message + f"Keras 2 may: pip install tf_keras, and give the same command again. Or {keras_config.SAVE_AS}"
        )
    try:
        return tf_keras.models.load_model(path, compile=False)
    except Exception as error:  # as above
        if is_out_of_memory(error):
            raise
        raise UsageError(message + f"Nor does Keras 2 ({_first_line(error)}); {keras_config.SAVE_AS}")


def _first_line(error):
    text = str(error).rpartition("Exception encountered: ")[2]  # of the layer within all models around it
    lines = [line for line in re.sub("\x1b\\[[0-9;]*m", "", text).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Exception encountered when calling"):
        del lines[0]
    return printable((lines or [type(error).__name__])[0][:300])


def _tf_layers(tensorflow):
    """Returns custom_objects for Keras 3: layers that stand for TensorFlow's functions in networks of Keras 2."""
    if tensorflow.keras.__version__.startswith("2"):
        return None  # it has them

    class TensorFlowFunction(tensorflow.keras.layers.Layer):  # type: ignore[name-defined]
        def __init__(self, function, **settings):
            super().__init__(**settings)
            self.function = function

        def call(self, pictures, name=None, slice_spec=None, tensors=(), **arguments):
            if slice_spec is not None:
                return pictures[tuple(_slice(part) for part in slice_spec)]
            if tensors:
                arguments.update(zip(tensors, pictures[1:]))
                pictures = pictures[0]
            if self.function == "__operators__.add":
                return tensorflow.add(pictures, arguments["y"])
            function = tensorflow
            for part in self.function.split("."):
                function = getattr(function, part)
            return function(pictures, **arguments)

    return dict.fromkeys(keras_config.TF_LAYERS, TensorFlowFunction)


def _slice(part):
    """Returns an index of a tensor from its configuration."""
    if isinstance(part, dict) and "step" in part:
        return slice(part["start"], part["stop"], part["step"])
    return Ellipsis if isinstance(part, dict) else part
