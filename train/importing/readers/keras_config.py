"""The configuration of a Keras model, JSON: read before Keras loads anything, and changed to what Keras 3 takes."""

import json
import re
import typing

from edge_runtime.errors import UsageError
from edge_runtime.text import printable
from train.importing.original import Declared
from train.importing.preprocessing import SCALES

MAX_SIDE = 4096  # of an input in pixels: a network of more would not be built in any memory
# Layers that run code of the file, or what another file holds.
_CODE = ("Lambda", "__lambda__", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer")
# Layers that read the files that their configuration names.
_READS_FILES = ("StringLookup", "IntegerLookup", "TextVectorization")
# Functions that a configuration may name; another one, of any module of Keras, would be called as it is loaded.
_FUNCTIONS = re.compile(
    "(celu|elu|exponential|gelu|glu|hard_sigmoid|hard_silu|hard_swish|leaky_relu|linear|log_sigmoid|log_softmax|mish|relu|"
    "relu6|selu|sigmoid|silu|softmax|softplus|softsign|swish|tanh)$"
)
_MODULES = re.compile(r"(keras|tf_keras|tensorflow\.(python\.)?keras)(\.|$)")
_MODELS = ("Functional", "Model", "Sequential")
SAVE_AS = (
    "in the program that made the model, save it as a SavedModel (model.export('FOLDER'); before Keras 3: "
    "model.save('FOLDER')), and import that"
)
# TensorFlow's functions that Keras 2 kept in a network as layers: what preprocess_input and plain arithmetic make.
TF_FUNCTIONS = (
    "__operators__.add",
    "__operators__.getitem",
    "cast",
    "clip_by_value",
    "math.add",
    "math.divide",
    "math.multiply",
    "math.reduce_mean",
    "math.subtract",
    "math.truediv",
    "nn.bias_add",
    "nn.relu",
    "nn.relu6",
    "nn.sigmoid",
    "nn.softmax",
)
# What Keras 2 wrote of a layer, and Keras 3 has no such argument: groups of 1, and settings that the layer did not use.
_KERNEL = ("kernel_initializer", "kernel_regularizer", "kernel_constraint")
_DROPPED = {
    "Conv2DTranspose": ("groups",),
    "DepthwiseConv2D": ("groups",) + _KERNEL,
    "SeparableConv2D": ("groups",) + _KERNEL,
}
# They classify alike.
_RENAMED = {"SyncBatchNormalization": "BatchNormalization", "BatchNormalizationV1": "BatchNormalization"}
TF_LAYERS = ("TFOpLambda", "SlicingOpLambda")
# Layers that compute with the pixels as they come, or leave them alone.
_BEFORE_THE_NETWORK = re.compile(
    "(Rescaling|Normalization|TFOpLambda|SlicingOpLambda|TrueDivide|Divide|Multiply|Subtract|Add|GetItem|Stack|Cast)$"
)
_NO_COMPUTATION = re.compile("InputLayer$|Random|Resizing$|CenterCrop$|ZeroPadding|Identity$")
# Numbers in such layers that tell of pixels from 0 to 255: factors, divisors, means of blue (Caffe's, ImageNet's).
_FACTORS, _DIVISORS, _MEANS = (1 / 255.0, 1 / 127.5), (127.5, 255.0), (103.939, 103.53)
# Networks of Keras Applications: a name of the model or of a layer, and how preprocess_input prepares its pixels.
# What Keras 3 and 2.6 have inside (EfficientNet, ConvNeXt, MobileNetV3) shows as a Rescaling layer.
_APPLICATIONS = (
    ("InceptionV3", r"inception_v3$|mixed10$", "-1..1"),
    ("InceptionResNetV2", r"inception_resnet_v2$|block8_10_mixed$|mixed_7a$", "-1..1"),
    ("MobileNet", r"mobilenet_\d\.\d\d_|conv_dw_13_relu$", "-1..1"),
    ("MobileNetV2", r"mobilenetv2_\d\.\d\d_|block_16_project_BN$", "-1..1"),
    ("NASNet", r"nasnet", "-1..1"),
    ("ResNetV2", r"resnet\d+v2$|conv5_block1_preact_bn$", "-1..1"),
    ("Xception", r"xception$|block14_sepconv2$", "-1..1"),
    ("DenseNet", r"densenet\d+$|conv5_block16_concat$", "imagenet"),
    ("ResNet", r"resnet(50|101|152)$|conv5_block1_add$", "caffe"),
    ("VGG", r"vgg1[69]$|block5_conv3$", "caffe"),
)


def parse(text, path):
    """Returns a model's configuration as a dict, without what only training needs. Raises UsageError: it is none."""
    try:
        config = json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
        config = _without_training(config)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: its configuration is damaged ({error})")
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        raise UsageError(f"{path}: its configuration is that of no Keras model")
    for entry in _objects(config):
        layers = _settings(entry).get("layers", [])
        if entry["class_name"] in _MODELS and not (
            isinstance(layers, list)
            and all(isinstance(layer, dict) and isinstance(layer.get("class_name"), str) for layer in layers)
        ):
            raise UsageError(
                f"{path}: its configuration is damaged (the layers of {_name(entry)} are no list of layers)"
            )
    return config


def to_text(config):
    """Returns a configuration as its file holds it."""
    return json.dumps(config)


def version(metadata):
    """Returns the version of Keras in the metadata of a .keras file, "" where it says none."""
    try:
        return printable(str(json.loads(metadata.decode("utf-8"))["keras_version"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _without_training(config):
    """Returns a configuration without losses, metrics and optimizers, which may be a user's own code."""
    if isinstance(config, list):
        return [_without_training(value) for value in config]
    if isinstance(config, dict):
        return {key: _without_training(value) for key, value in config.items() if key != "compile_config"}
    return config


def _objects(config):
    """Yields all dicts within a configuration that stand for an object."""
    rest = [config]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            if isinstance(value.get("class_name"), str):
                yield value
            rest.extend(value.values())
        elif isinstance(value, list):
            rest.extend(value)


def _settings(entry):
    return entry["config"] if isinstance(entry.get("config"), dict) else {}


def _name(entry):
    """Returns the name of a layer, of its class where it has none."""
    return printable(str(entry.get("name") or _settings(entry).get("name") or entry["class_name"]))


def refuse_code(config, path, trust):
    """Raises UsageError for a configuration that would run code, read other files, or take any memory.

    Args:
        trust: Lambda layers and their like are accepted.
    """
    for entry in _objects(config):
        kind, module = entry["class_name"], entry.get("module")
        name = _name(entry)
        if kind in _CODE:
            if not trust:
                raise UsageError(
                    f"{path}: layer {name!r} ({kind}) is program code, which would run when the model is opened. If "
                    "you trust its makers: --trust. Else have the layer replaced by one of Keras (a division of the "
                    "pixels by Rescaling), and the model saved again"
                )
        elif kind in _READS_FILES:
            raise UsageError(f"{path}: layer {name!r} ({kind}) is for text; expected a classifier of pictures")
        elif kind in TF_LAYERS and _settings(entry).get("function") not in TF_FUNCTIONS:
            raise UsageError(
                f"{path}: layer {name!r} calls TensorFlow's {printable(str(_settings(entry).get('function')))}, which "
                f"is not opened from a file; {SAVE_AS}"
            )
        elif kind == "function" and not (trust or _FUNCTIONS.match(str(entry.get("config")))):
            function = printable(str(entry.get("config")))
            raise UsageError(f"{path}: names the function {function!r}, which is not opened; {SAVE_AS}")
        if module is not None and not _is_of_keras(kind, module):
            raise UsageError(f"{path}: {_own_code(kind, module)}")
        if ">" in str(entry.get("registered_name") or kind):
            raise UsageError(f"{path}: {_own_code(entry.get('registered_name') or kind, 'a package of its makers')}")
        for side in _input_shape(entry)[1:]:
            if isinstance(side, int) and side > MAX_SIDE:
                raise UsageError(f"{path}: layer {name!r} takes pictures of {side} pixels; at most {MAX_SIDE} are read")


def _is_of_keras(kind, module):
    if kind == "function" and module == "builtins":  # how Keras 3 writes its own functions, too
        return True
    return isinstance(module, str) and _MODULES.match(module) is not None


def _own_code(kind, module):
    return (
        f"{printable(str(kind))} is a class of {printable(str(module))}, whose code the file does not hold; {SAVE_AS}"
    )


def _input_shape(entry):
    """Returns the shape of a layer's input that its configuration says, () for none."""
    settings = _settings(entry)
    shape = settings.get("batch_shape") or settings.get("batch_input_shape")
    return tuple(shape) if isinstance(shape, list) else ()


def unknown_layers(config, known):
    """Returns the sorted class names of the layers in a configuration of Keras 2 for which known(name) is false."""
    names: typing.Set[str] = set()
    for entry in _objects(config):
        layers = _settings(entry).get("layers") if entry["class_name"] in _MODELS else None
        names.update(layer["class_name"] for layer in layers or ())
    return sorted(name for name in names if name not in _MODELS + TF_LAYERS and not known(name))


def largest_layer(config):
    """Returns (width, layer name) of the layer that claims most outputs; (0, "") if none says a number."""
    widths = [(0, "")]
    for entry in _objects(config):
        settings = _settings(entry)
        for key in ("units", "filters", "input_dim", "output_dim"):
            if isinstance(settings.get(key), int):
                widths.append((settings[key], printable(str(settings.get("name")))))
    return max(widths)


def in_float32(config):
    """Changes layers of mixed precision, in place, to float32: as their weights are; every engine takes it."""
    for entry in _objects(config):
        dtype = _settings(entry).get("dtype")
        if isinstance(dtype, dict) and str(_settings(dtype).get("name")).startswith("mixed_"):
            _settings(entry)["dtype"] = "float32"


def for_keras_3(config):
    """Changes a configuration of Keras 2, in place, to one that Keras 3 opens as the same network."""
    for entry in _objects(config):
        settings = _settings(entry)
        entry["class_name"] = _RENAMED.get(entry["class_name"], entry["class_name"])
        for argument in _DROPPED.get(entry["class_name"], ()):
            if argument != "groups" or settings.get("groups") == 1:
                settings.pop(argument, None)
        if entry["class_name"] in _MODELS and "input_layers" in settings:
            _connect(settings)


def _connect(settings):
    """Changes how the layers of a Functional model refer to each other."""
    layers = settings["layers"]
    for layer in layers:
        # For layers that are TensorFlow's functions, [name, 0, 0, {}] alone stands for a list of one.
        layer["inbound_nodes"] = [
            _with_tensors(node) if isinstance(node, list) and node and isinstance(node[0], str) else node
            for node in layer.get("inbound_nodes", [])
        ]
    for key in ("input_layers", "output_layers"):  # with a list of one, a model within another gives a list, too
        if len(settings[key]) == 1 and isinstance(settings[key][0], list):
            settings[key] = settings[key][0]
    _without_slashes(settings)
    # Keras 2 counted the calls of a model within a model from 1, as it had been called once to be made.
    references: typing.Dict[str, list] = {}
    for layer in layers:
        for node in layer["inbound_nodes"]:
            for reference in node if isinstance(node, list) else ():
                references.setdefault(reference[0], []).append(reference)
    for layer in layers:
        calls, own = len(layer["inbound_nodes"]), references.get(layer.get("name"), [])
        if layer["class_name"] in _MODELS and own and max(reference[1] for reference in own) >= calls:
            for reference in own:
                reference[1] -= 1


def _with_tensors(node):
    """Returns a call of a function of TensorFlow as a list of tensors, those among its arguments, too: x + y."""
    name, index, tensor, arguments = node
    named = {key: value for key, value in arguments.items() if _is_reference(value)}
    rest = {key: value for key, value in arguments.items() if key not in named}
    if named:
        rest["tensors"] = sorted(named)
    return [[name, index, tensor, rest]] + [list(named[key]) + [rest] for key in sorted(named)]


def _is_reference(value):
    return isinstance(value, list) and len(value) == 3 and isinstance(value[0], str) and isinstance(value[1], int)


def _without_slashes(settings):
    """Changes the names of layers: Keras 3 takes none with /, as DenseNet's are. Weights go by the layers' order."""
    for layer in settings["layers"]:
        for named in (layer, layer["config"]):
            if isinstance(named.get("name"), str):
                named["name"] = named["name"].replace("/", "_")
    rest = [
        settings["input_layers"],
        settings["output_layers"],
        [layer["inbound_nodes"] for layer in settings["layers"]],
    ]
    while rest:
        value = rest.pop()
        if not isinstance(value, list):
            continue
        if value and isinstance(value[0], str):
            value[0] = value[0].replace("/", "_")
        else:
            rest.extend(value)


def declared(config):
    """Returns the Declared of a configuration: of the pixels that the whole model takes, where that is certain."""
    layers = list(_flat(config))
    for layer in layers:
        kind = layer["class_name"]
        if _NO_COMPUTATION.match(kind):
            continue
        if not _BEFORE_THE_NETWORK.match(kind):
            break
        divides = "div" in str(_settings(layer).get("function", kind)).lower()
        signs = (_DIVISORS if divides else _FACTORS) + _MEANS
        if any(abs(number / sign - 1) < 0.001 for number in _numbers(layer) for sign in signs):
            channels, mean, std = SCALES["0..255"]
            return Declared(f"the model's layer {_name(layer)!r}", channels=channels, mean=mean, std=std)
    if any(_BEFORE_THE_NETWORK.match(layer["class_name"]) for layer in layers[:3]):
        return Declared()  # it computes with the pixels, and what it expects is not known
    names = [_name(layer) for layer in layers]
    names += [_name(entry) for entry in _objects(config) if entry["class_name"] in _MODELS]
    fitting = [(known, scale) for known, pattern, scale in _APPLICATIONS if any(re.match(pattern, n) for n in names)]
    if len(fitting) != 1:
        return Declared()
    network, scale = fitting[0]
    channels, mean, std = SCALES[scale]
    return Declared(f"layer names ({network} of Keras Applications)", channels=channels, mean=mean, std=std)


def _flat(entry):
    """Yields the layers of a model in their order, those of models within it in their place."""
    layers = _settings(entry).get("layers")
    if entry.get("class_name") not in _MODELS or not isinstance(layers, list):
        yield entry
        return
    for layer in layers:
        for inner in _flat(layer):
            yield inner


def _numbers(layer):
    """Yields the absolute values, except 0, of all numbers in a layer's configuration and in what it is called with."""
    rest = [_settings(layer), layer.get("inbound_nodes")]
    while rest:
        value = rest.pop()
        if isinstance(value, (dict, list)):
            rest.extend(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and value:
            yield abs(value)
