"""What the makers' own files say: ultralytics, Hugging Face, Custom Vision; and files that are refused unopened."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest

from edge_runtime.errors import UsageError
from tests.train.importing.onnx_models import NAMES, Options, classifier, save
from tests.train.importing.test_archives import write_zip
from train.importing.original import Declared, Original
from train.importing.readers import onnx_file, read_original


def with_metadata(one, **texts):
    for key, text in texts.items():
        entry = one.metadata_props.add()
        entry.key, entry.value = key, text
    return one


# --- ultralytics


def ultralytics(task="classify", names=None, imgsz="[64, 64]"):
    names = repr(dict(enumerate(NAMES))) if names is None else names
    return with_metadata(classifier(end="probabilities", batch=1), task=task, names=names, imgsz=imgsz, stride="1")


def test_ultralytics_metadata(tmp_path):
    original = read_original(save(tmp_path, ultralytics()), Options())
    declared = original.declared
    assert original.class_names == NAMES
    assert (declared.resize, declared.shorter_side, declared.filter, declared.std) == (
        "crop",
        64,
        "bilinear",
        (255.0,) * 3,
    )


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"task": "detect"}, "is a detector of ultralytics.*-cls"),
        ({"task": "segment"}, "a segmentation network"),
        ({"names": "{0: open('x')}"}, "cannot be read"),
        ({"imgsz": "64"}, "imgsz"),
        ({"imgsz": "exit()"}, "imgsz"),
        ({"names": "[" + "'a'," * (1 << 21) + "]"}, "more than 4 MiB"),
    ],
)
def test_ultralytics_that_is_refused(tmp_path, settings, words):
    with pytest.raises(UsageError, match=words):
        read_original(save(tmp_path, ultralytics(**settings)), Options())


def test_names_of_the_user_s_own_count_where_the_file_s_are_wrong(tmp_path):
    path = save(tmp_path, ultralytics(names="{0: 'a', 1: 'a', 2: 'b'}"))
    assert read_original(path, Options(labels="labels.txt")).class_names is None


# --- Hugging Face


def hugging_face(folder, preprocessor=None, model_name="model.onnx", **config):
    config = dict({"id2label": {str(index): name for index, name in enumerate(NAMES)}}, **config)
    os.makedirs(os.path.dirname(os.path.join(str(folder), model_name)), exist_ok=True)
    save(folder, classifier(shape=["batch_size", "num_channels", "height", "width"]), model_name)
    (folder / "config.json").write_text(json.dumps(config))
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return str(folder)


HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255.0}
PREPROCESSORS = {
    "ViT": (
        dict(HALF, image_processor_type="ViTImageProcessor", size={"height": 48, "width": 64}, resample=2),
        ("squash", None, "bilinear", (48, 64), 127.5, 127.5),
    ),
    "old ViT": (
        dict(HALF, feature_extractor_type="ViTFeatureExtractor", size=64, do_resize=True, do_normalize=True),
        ("squash", None, "bilinear", (64, 64), 127.5, 127.5),
    ),
    "ConvNeXt": (
        dict(HALF, image_processor_type="ConvNextImageProcessor", size={"shortest_edge": 224}, crop_pct=None),
        ("crop", 256, "bicubic", (224, 224), 127.5, 127.5),
    ),
    "large ConvNeXt": (
        dict(HALF, image_processor_type="ConvNextImageProcessor", size={"shortest_edge": 384}, crop_pct=0.875),
        ("squash", None, "bicubic", (384, 384), 127.5, 127.5),
    ),
    "shortest edge and crop": (
        dict(
            HALF,
            image_processor_type="MobileNetV2ImageProcessor",
            size={"shortest_edge": 72},
            crop_size={"height": 64, "width": 64},
            resample=3,
        ),
        ("crop", 72, "bicubic", (64, 64), 127.5, 127.5),
    ),
    "pixels as they are": (
        {"size": {"height": 64, "width": 64}, "do_rescale": False, "do_normalize": False, "resample": 0},
        ("squash", None, "nearest", (64, 64), 0, 1),
    ),
    "squashed, then cut": (
        dict(HALF, image_processor_type="DeiTImageProcessor", size={"height": 72, "width": 72}, crop_size=64),
        (None, None, "bicubic", (64, 64), 127.5, 127.5),
    ),
    "EfficientNet": (
        dict(HALF, image_processor_type="EfficientNetImageProcessor", size=64, rescale_offset=True, include_top=True),
        ("squash", None, "nearest", (64, 64), 382.5, 63.75),  # 1 is subtracted, then 0.5,
    ),
    "timm": (
        {
            "image_processor_type": "TimmWrapperImageProcessor",
            "data_config": {
                "input_size": [3, 64, 64],
                "crop_pct": 0.9,
                "interpolation": "bicubic",
                "mean": [0.5] * 3,
                "std": [0.5] * 3,
            },
        },
        ("crop", 71, "bicubic", (64, 64), 127.5, 127.5),
    ),
    "timm without filter and scale": (
        {"data_config": {"input_size": [3, 64, 64], "crop_pct": 1.0}},
        ("crop", 64, "bicubic", (64, 64), (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ),
    "timm squash": (
        {
            "pretrained_cfg": {
                "input_size": [3, 64, 64],
                "crop_pct": 1.0,
                "crop_mode": "squash",
                "interpolation": "bilinear",
                "mean": [0] * 3,
                "std": [1] * 3,
            }
        },
        ("squash", None, "bilinear", (64, 64), 0, 255),
    ),
}


@pytest.fixture()
def quick_onnx(monkeypatch):
    """The ONNX file beside the configs is not opened, which takes a second."""
    said = Original("", "ONNX model", None, "NCHW", "float32", None, None, 3, None, Declared(), None)
    monkeypatch.setattr(onnx_file, "read", lambda path, options: said)


@pytest.mark.parametrize("name", sorted(PREPROCESSORS))
def test_preprocessor_configs(tmp_path, quick_onnx, name):
    declared = read_original(hugging_face(tmp_path, PREPROCESSORS[name][0]), Options()).declared
    resize, shorter_side, filter_name, sides, mean, std = PREPROCESSORS[name][1]
    assert (declared.resize, declared.shorter_side, declared.filter) == (resize, shorter_side, filter_name)
    assert (declared.height, declared.width) == sides
    np.testing.assert_allclose(declared.mean, np.broadcast_to(mean, 3), atol=1e-4)
    np.testing.assert_allclose(declared.std, np.broadcast_to(std, 3), rtol=1e-6)


def test_a_hugging_face_folder_names_its_classes(tmp_path):
    original = read_original(hugging_face(tmp_path, HALF, "onnx/model.onnx"), Options())
    assert original.class_names == NAMES and original.kind == "Hugging Face folder" and original.path == str(tmp_path)


def test_generic_names_are_none(tmp_path, quick_onnx):
    names = {str(index): "LABEL_%d" % index for index in range(3)}
    assert read_original(hugging_face(tmp_path, id2label=names), Options()).class_names is None


@pytest.mark.parametrize(
    "config, words",
    [
        ({"architectures": ["DetrForObjectDetection"]}, "DetrForObjectDetection, no image classifier"),
        ({"problem_type": "multi_label_classification"}, "several labels per photo"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "same name"),
        ({"id2label": 3}, "expected the names"),
        ({"architectures": "CLIPModel", "pretrained_cfg": []}, "CLIPModel"),
    ],
)
def test_configs_that_are_refused(tmp_path, quick_onnx, config, words):
    with pytest.raises(UsageError, match=words):
        read_original(hugging_face(tmp_path, **config), Options())


@pytest.mark.parametrize(
    "preprocessor",
    [
        {"size": {"height": "wide", "width": 1}},
        {"size": {"edge": 3}},
        {"data_config": {"input_size": [1, 64, 64]}},
        dict(HALF, image_std=[0, 0, 0], size=64),
        dict(HALF, image_mean=[0.5] * 4, size=64),
    ],
)
def test_preprocessor_configs_that_make_no_sense_are_refused(tmp_path, quick_onnx, preprocessor):
    with pytest.raises(UsageError, match="preprocessor_config.json.*not understood"):
        read_original(hugging_face(tmp_path, preprocessor), Options())


def test_a_config_that_is_no_json(tmp_path):
    path = hugging_face(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100000)
    with pytest.raises(UsageError, match="config.json: cannot be read"):
        read_original(path, Options())


def test_names_that_are_there_twice_are_repaired_with_labels(tmp_path, quick_onnx):
    path = hugging_face(tmp_path, id2label={"0": "a", "1": "a", "2": "b"})
    assert read_original(path, Options(labels="labels.txt")).class_names is None


# --- Custom Vision

PROPERTIES = {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"}


def custom_vision(folder, name="model.onnx", properties=PROPERTIES, listed=NAMES, **manifest):
    manifest = dict({"DomainType": "Classification", "ModelFileName": name}, **manifest)
    content = {
        "cvexport.manifest": json.dumps(manifest).encode(),
        "labels.txt": "\r\n".join(listed).encode(),
        "model.onnx": classifier().SerializeToString(),
    }
    if properties is not None:
        content["metadata_properties.json"] = json.dumps(properties).encode()
    return write_zip(folder / "export.zip", content)


def test_custom_vision(tmp_path):
    original = read_original(custom_vision(tmp_path), Options())
    declared = original.declared
    assert original.class_names == NAMES and original.path.endswith("export.zip")
    assert (declared.resize, declared.filter, declared.channels, declared.std) == (
        "squash",
        "bicubic",
        "BGR",
        (1.0,) * 3,
    )
    assert original.run(np.zeros((1, 3, 64, 64), np.float32)).shape == (1, 3)  # after the files were removed


CV, RANGE, FORMAT = "CustomVision.Preprocess.", "Image.NominalPixelRange", "Image.BitmapPixelFormat"


@pytest.mark.parametrize(
    "metadata, expected",
    [
        ({RANGE: "Normalized_1_1", FORMAT: "Rgb8"}, ("", None, "RGB", 127.5, 127.5)),
        ({RANGE: "Normalized_0_1", FORMAT: "Gray8"}, ("", None, None, 0, 255)),
        ({RANGE: "NominalRange_16_235"}, ("", None, None, None, None)),
        ({CV + "CropMethod": "NoCrop"}, ("Custom Vision ", "squash", "BGR", 0, 1)),
        ({CV + "NormalizeMean": "[0.5, 0.5, 0.5]", RANGE: "Normalized_0_1"}, (None, "squash", "BGR", 127.5, 255)),
        ({CV.lower() + "normalizestd": "[2,2,2]", FORMAT.lower(): "RGB8"}, (None, "squash", "RGB", 0, 2)),
        ({CV + "NormalizeStd": "wide"}, (None, "squash", "BGR", None, None)),
        ({"author": "somebody"}, ("", None, None, None, None)),
    ],
)
def test_image_metadata_of_onnx_files(tmp_path, metadata, expected):
    original = read_original(save(tmp_path, with_metadata(classifier(), **metadata)), Options())
    kind, resize, channels, mean, std = expected
    declared = original.declared
    assert kind is None or original.kind == kind + "ONNX model"
    assert (declared.resize, declared.channels) == (resize, channels)
    assert (declared.mean, declared.std) == tuple(None if one is None else (one,) * 3 for one in (mean, std))


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"DomainType": "ObjectDetection"}, "of type ObjectDetection"),
        ({"name": "model.pb"}, "Export > ONNX"),
        ({"name": "../model.onnx"}, "Export > ONNX"),
        ({"properties": {"CustomVision.Postprocess.Method": "ClassificationMultiLabel"}}, "several labels per photo"),
    ],
)
def test_custom_vision_that_is_refused(tmp_path, settings, words):
    with pytest.raises(UsageError, match=words):
        read_original(custom_vision(tmp_path, **settings), Options())


# --- files that are not opened


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("pickle-was-opened",))


def pytorch_zip(content):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("best/data.pkl", content)
    return data.getvalue()


@pytest.mark.parametrize(
    "name, data, words",
    [
        ("model.pt", pickle.dumps(Evil()), "torch.onnx.export"),
        ("model.bin", pickle.dumps(Evil()), "torch.onnx.export"),
        ("model.pth", pytorch_zip(pickle.dumps(Evil())), "torch.onnx.export"),
        ("best.pt", pytorch_zip(b"ultralytics.nn.tasks"), "yolo export model=best.pt format=onnx"),
        ("model.pkl", pickle.dumps({"sklearn": 1}), "is a pickle"),
        ("model.mlmodel", b"\x08\x01\x12\x00", "Core ML"),
        ("renamed", b"\x08\x01\x12\x00", "expected an .onnx file"),
        ("model.pt", b"anything", "torch.onnx.export"),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0" + b'{"weight": 1}   ', "optimum-cli export onnx"),
        ("saved_model.pb", b"\x08\x01\x12\x00", "give the SavedModel's folder"),
        ("model.engine", b"ftrt and more", "TensorRT engine"),
        ("model.h5", b"", "is empty"),
    ],
)
def test_pickles_and_other_kinds_are_refused_unopened(tmp_path, monkeypatch, name, data, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match=words):
        read_original(name, Options())
    assert os.listdir(str(tmp_path)) == [name]


@pytest.mark.parametrize(
    "names, words",
    [
        (["model.json", "weights.bin", "metadata.json"], "Tensorflow > Keras"),
        (["config.json", "model.safetensors"], "optimum-cli export onnx"),
        (["one.onnx", "two.onnx"], "one.onnx, two.onnx"),
        (["readme.txt"], "expected an .onnx file"),
    ],
)
def test_folders_without_a_model_say_what_to_do(tmp_path, names, words):
    for name in names:
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(UsageError, match=words):
        read_original(str(tmp_path), Options())


def test_nothing_there(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_original(str(tmp_path / "model.onnx"), Options())


def test_a_name_of_the_input_is_for_onnx_models(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"\0\0\0\0TFL3" + bytes(8))
    with pytest.raises(UsageError, match="--input pixels"):
        read_original(str(tmp_path / "model.tflite"), Options(input="pixels"))
