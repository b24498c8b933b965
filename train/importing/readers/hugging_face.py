"""Folders of Hugging Face: an ONNX file, config.json, preprocessor_config.json in transformers' or timm's dialect."""

import math
import os

from edge_runtime.errors import UsageError
from edge_runtime.text import printable
from train.importing import archives, labels
from train.importing.original import Declared
from train.importing.preprocessing import SCALES
from train.importing.readers import onnx_file

_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"
_MODELS = ("model.onnx", "onnx/model.onnx")  # of Optimum, and of the hub's converted ones
_MAX_BYTES = 64 << 20  # a config names 22000 classes twice
_PILLOW = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # resample; box and hamming are not in a bundle
# What an image processor does where its file does not say; by how its class's name begins.
_CENTRE_CROP = ("CLIP", "DeiT", "Beit", "Bit", "Levit", "PoolFormer", "MobileNetV1", "MobileNetV2", "MobileViT")
_SHORTEST_EDGE = ("CLIP", "ConvNext", "Bit", "Levit", "PoolFormer", "MobileNetV1", "MobileNetV2", "MobileViT")
_BICUBIC = ("CLIP", "ConvNext", "DeiT", "Beit", "Bit", "Levit", "PoolFormer")


def recognizes(path):
    """Tells whether a folder or zip has a config.json beside an ONNX file of the usual name."""
    names = archives.file_names(path)
    return _CONFIG in names and any(name in names for name in _MODELS)


def read(path, options):
    """Reads a classifier from such a folder. The arguments and errors are those of readers.read_original."""
    with archives.unpacked(path) as folder:
        config = archives.json_object(folder, _CONFIG, _MAX_BYTES)
        _require_classifier(os.path.join(folder, _CONFIG), config)
        preprocessor = {}
        if os.path.isfile(os.path.join(folder, _PREPROCESSOR)):
            preprocessor = archives.json_object(folder, _PREPROCESSOR, _MAX_BYTES)
        name = next(name for name in _MODELS if os.path.isfile(os.path.join(folder, name)))
        names = None if options.labels else _class_names(os.path.join(folder, _CONFIG), config)
        declared = _declared(folder, config, preprocessor)
        original = onnx_file.read(os.path.join(folder, name), options)
        return original._replace(
            path=path,
            kind="Hugging Face folder",
            class_names=names or original.class_names,
            declared=declared or original.declared,
        )


def _require_classifier(path, config):
    kinds = config.get("architectures") or []
    kinds = [str(kind) for kind in (kinds if isinstance(kinds, list) else [kinds])]
    if kinds and not any("ImageClassification" in kind for kind in kinds):
        raise UsageError(
            f"{path}: is a {printable(', '.join(kinds[:3]))}, no image classifier (...ForImageClassification): a "
            "detector, a segmentation network or an encoder of features cannot be imported"
        )
    if config.get("problem_type") == "multi_label_classification":
        raise UsageError(f"{path}: gives several labels per photo (sigmoid); only one label per photo can be imported")


def _class_names(path, config):
    """Returns the class names of a config, None where it has none or only LABEL_0 and so on."""
    names = (
        config.get("id2label") or config.get("label_names") or (config.get("pretrained_cfg") or {}).get("label_names")
    )
    if not names:
        return None
    texts = list(names.values()) if isinstance(names, dict) else names
    if isinstance(texts, list) and all(str(text) == f"LABEL_{index}" for index, text in enumerate(texts)):
        return None
    return labels.names_of_mapping(names, path)


def _declared(folder, config, preprocessor):
    """Returns the Declared of a folder's files, None where they say nothing."""
    timm = preprocessor.get("data_config") or preprocessor.get("pretrained_cfg")
    name = _PREPROCESSOR
    if not timm and not preprocessor:
        timm, name = config.get("pretrained_cfg"), _CONFIG
    if not timm and not preprocessor:
        return None
    try:
        return _by_timm(name, timm) if timm else _by_transformers(name, preprocessor)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, ZeroDivisionError, OverflowError) as error:
        raise UsageError(
            f"{os.path.join(folder, name)}: says something about the photos that is not understood "
            f"({type(error).__name__}: {error}); download it again, or remove it and use --size, --scale and --resize"
        )


def _by_timm(name, data):
    """Returns the Declared of timm's data config: the shorter side to floor(size / crop_pct), centre crop."""
    channels, height, width = (int(side) for side in data["input_size"])
    if channels != 3:
        raise ValueError(f"input_size: {channels} channels")
    share, mode = float(data.get("crop_pct") or 0.875), data.get("crop_mode") or "center"
    shorter_side = int(math.floor(max(height, width) / share))
    resize = {"center": "crop"}.get(mode, "squash" if mode == "squash" and share == 1 else None)
    _, mean, std = SCALES["imagenet"]  # timm's defaults, as bicubic is
    mean = tuple(255 * value for value in _three(data["mean"])) if data.get("mean") else mean
    std = tuple(255 * value for value in _positive(_three(data["std"]))) if data.get("std") else std
    interpolation = data.get("interpolation")
    return Declared(
        source=name,
        resize=resize,
        shorter_side=shorter_side if resize == "crop" else None,
        filter=interpolation if interpolation in _PILLOW.values() else "bicubic",
        channels="RGB",
        mean=mean,
        std=std,
        height=height,
        width=width,
    )


def _by_transformers(name, data):
    """Returns the Declared of an image processor of transformers; a flag that is missing or null has its default."""
    kind = str(data.get("image_processor_type") or data.get("feature_extractor_type") or "")

    def flag(key, default):
        return bool(default if data.get(key) is None else data[key])

    resize, shorter_side, sides = _resize_of(data, kind, flag("do_center_crop", kind.startswith(_CENTRE_CROP)))
    if not flag("do_resize", True):
        resize = None
    resample = data.get("resample")
    filter_name = _PILLOW.get(resample)
    if resample is None:
        filter_name = "bicubic" if kind.startswith(_BICUBIC) else "bilinear"
        filter_name = "nearest" if kind.startswith("EfficientNet") else filter_name
    mean, std = _scale_of(data, kind, flag)
    is_bgr = flag("do_flip_channel_order", kind.startswith("MobileViT"))
    return Declared(
        source=name,
        resize=resize,
        shorter_side=shorter_side,
        filter=filter_name,
        channels="BGR" if is_bgr else "RGB",
        mean=mean,
        std=std,
        height=sides[0],
        width=sides[1],
    )


def _resize_of(data, kind, cuts):
    """Returns (resize or None, shorter side or None, (height, width) or (None, None))."""
    size, cut = data.get("size"), data.get("crop_size")
    if isinstance(size, int):
        size = {"shortest_edge": size} if kind.startswith(_SHORTEST_EDGE) else {"height": size, "width": size}
    if isinstance(cut, int):
        cut = {"height": cut, "width": cut}
    if not size:
        return None, None, (None, None)
    if "shortest_edge" not in size:
        sides = int(size["height"]), int(size["width"])
        if cuts and cut and (int(cut["height"]), int(cut["width"])) != sides:
            # DeiT: squashed to 256, then 224 of it; a bundle cannot say that.
            return None, None, (int(cut["height"]), int(cut["width"]))
        return "squash", None, sides
    edge = int(size["shortest_edge"])
    if kind.startswith("ConvNext"):
        if edge >= 384:
            return "squash", None, (edge, edge)
        return "crop", int(edge / float(data.get("crop_pct") or 224 / 256.0)), (edge, edge)
    if not cuts:
        return None, None, (edge, edge)  # pictures of any proportions
    sides = (int(cut["height"]), int(cut["width"])) if cut else (edge, edge)
    if kind.startswith("PoolFormer"):
        return "crop", int(edge / float(data.get("crop_pct") or 0.9)), sides
    if kind.startswith("Levit"):
        return "crop", int(256 / 224.0 * edge), sides
    return "crop", edge, sides


def _scale_of(data, kind, flag):
    """Returns (mean, std) for pixels 0 to 255 in the order of the channels, (None, None) where they are not said."""
    factor, offset = 1.0, 0.0
    if flag("do_rescale", True):
        factor = float(data.get("rescale_factor") or 1 / 255.0)
        offset = 1.0 if flag("rescale_offset", False) else 0.0  # pixel * factor - 1
    mean, std = (0.0,) * 3, (1.0,) * 3
    if flag("do_normalize", not kind.startswith("MobileViT")):
        if data.get("image_mean") is None or data.get("image_std") is None:
            return None, None
        mean, std = _three(data["image_mean"]), _positive(_three(data["image_std"]))
        if kind.startswith("EfficientNet") and flag("include_top", True):
            # Its classifiers divide by the standard deviation twice.
            return tuple((m + offset) / factor for m in mean), tuple(s * s / factor for s in std)
    return tuple((m + offset) / factor for m in mean), tuple(s / factor for s in std)


def _three(values):
    values = [values] * 3 if isinstance(values, (int, float)) else values
    values = tuple(float(value) for value in values)
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise ValueError(f"expected three numbers, got {values}")
    return values


def _positive(values):
    if not all(value > 0 for value in values):
        raise ValueError(f"expected numbers above 0, got {values}")
    return values
