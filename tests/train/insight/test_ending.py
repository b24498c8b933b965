"""Networks that end in different ways: the features, the dense layer and the heat of each, on small graphs."""

import os

import numpy as np
import pytest

from edge_runtime.bundle import writing
from edge_runtime.bundle.reading import Bundle
from edge_runtime.errors import UsageError
from edge_runtime.photos import spec
from tests import helpers
from tests.train.insight.test_inner import softmax
from train.cli import explain as verb
from train.cli import explore
from train.insight import heat, inner

NAMES = sorted(helpers.COLOURS)
BLUE, GREEN, RED = range(3)
SIDE, PLACES = 64, 8
KERNEL = np.array([helpers.COLOURS[name] for name in NAMES], np.float32).T / 255 * 8
KERNEL -= KERNEL.mean(axis=1, keepdims=True)
BIAS = np.array([0.1, 0.0, -0.2], np.float32)


def write_bundle(folder, ending, **constants):
    """Writes a bundle whose network has the mean colours of 8 x 8 places, "places" [n, 3, 8, 8], and then an ending.

    Args:
        ending: list of (operator, inputs, output, attributes); the last output is "probabilities".
        constants: arrays that it uses, besides kernel [3, classes] and bias [classes].
    """
    onnx, numpy_helper = pytest.importorskip("onnx"), pytest.importorskip("onnx.numpy_helper")
    constants = dict({"scale": np.float32(1 / 255.0), "kernel": KERNEL, "bias": BIAS}, **constants)
    start = [
        ("Cast", ["images"], "pixels", {"to": onnx.TensorProto.FLOAT}),
        ("Mul", ["pixels", "scale"], "scaled", {}),
        ("Transpose", ["scaled"], "planes", {"perm": [0, 3, 1, 2]}),
        ("AveragePool", ["planes"], "places", {"kernel_shape": [PLACES, PLACES], "strides": [PLACES, PLACES]}),
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, sources, [output], **more) for kind, sources, output, more in start + ending],
        "ending",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [onnx.helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["batch", len(NAMES)])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    model.ir_version = 7
    os.makedirs(str(folder))
    onnx.save(model, os.path.join(str(folder), "model.onnx"))
    writing.write_manifest(str(folder), NAMES, spec.to_manifest(spec.squash(SIDE)), {}, {})
    return Bundle.open(str(folder))


PLAIN = [
    ("GlobalAveragePool", ["places"], "pooled", {}),
    ("Flatten", ["pooled"], "flat", {}),
    ("MatMul", ["flat", "kernel"], "products", {}),
    ("Add", ["bias", "products"], "logits", {}),
    ("Softmax", ["logits"], "probabilities", {"axis": 1}),
]
BACKGROUND = np.array([[3], [-1], [0.5]], np.float32)
# name -> (ending, constants). All of them but "background" answer the same probabilities as PLAIN.
EXACT = {
    "plain": (PLAIN, {}),
    "Gemm with transB": (
        PLAIN[:2] + [("Gemm", ["flat", "rows", "bias"], "logits", {"transB": 1})] + PLAIN[4:],
        {"rows": np.ascontiguousarray(KERNEL.T)},
    ),
    "channels last": (
        [
            ("Transpose", ["places"], "last", {"perm": [0, 2, 3, 1]}),
            ("ReduceMean", ["last"], "pooled", {"axes": [1, 2], "keepdims": 1}),
            ("Reshape", ["pooled", "shape"], "flat", {}),
        ]
        + PLAIN[2:],
        {"shape": np.array([-1, 3], np.int64)},
    ),
    "float16": (
        [
            ("Cast", ["places"], "half", {"to": 10}),
            ("ReduceMean", ["half"], "pooled", {"axes": [2, 3], "keepdims": 0}),
            ("MatMul", ["pooled", "half_kernel"], "products", {}),
            ("Cast", ["products"], "float", {"to": 1}),
            ("Add", ["float", "bias"], "logits", {}),
            PLAIN[4],
        ],
        {"half_kernel": KERNEL.astype(np.float16)},
    ),
    "a convolution of one place, a temperature": (
        [
            ("AveragePool", ["places"], "pooled", {"kernel_shape": [PLACES, PLACES]}),
            ("Identity", ["pooled"], "same", {}),
            ("Conv", ["same", "planes_kernel", "warm_bias"], "maps", {}),
            ("Squeeze", ["maps", "axes"], "warm", {}),
            ("Div", ["warm", "temperature"], "logits", {}),
            PLAIN[4],
        ],
        {
            "planes_kernel": np.ascontiguousarray(2 * KERNEL.T)[:, :, None, None],
            "warm_bias": 2 * BIAS,
            "axes": np.array([2, 3], np.int64),
            "temperature": np.float32(2),
        },
    ),
    "background": (
        PLAIN[:2]
        + [
            ("Gemm", ["flat", "more", "more_bias"], "logits", {}),
            ("Softmax", ["logits"], "all", {"axis": 1}),
            ("Slice", ["all", "one", "end", "one"], "probabilities", {}),
        ],
        {
            "more": np.hstack([BACKGROUND, KERNEL]),
            "more_bias": np.append(np.float32(0.3), BIAS),
            "one": np.array([1], np.int64),
            "end": np.array([2**31], np.int64),
        },
    ),
    "a temperature of probabilities without a background": (
        PLAIN[:2]
        + [
            ("Gemm", ["flat", "more", "more_bias"], "logits", {}),
            ("Softmax", ["logits"], "all", {"axis": 1}),
            ("Gather", ["all", "classes"], "some", {"axis": 1}),
            ("MatMul", ["some", "ones"], "sum", {}),
            ("Div", ["some", "sum"], "shares", {}),
            ("Max", ["shares", "least"], "positive", {}),
            ("Log", ["positive"], "logarithms", {}),
            ("Mul", ["logarithms", "cooler"], "warm", {}),
            ("Softmax", ["warm"], "probabilities", {"axis": 1}),
        ],
        {
            "more": 2 * np.hstack([BACKGROUND, KERNEL]),
            "more_bias": 2 * np.append(np.float32(0.3), BIAS),
            "classes": np.array([1, 2, 3], np.int64),
            "ones": np.ones((3, 1), np.float32),
            "least": np.float32(1e-30),
            "cooler": np.float32(0.5),
        },
    ),
    "another order": (
        PLAIN[:2]
        + [
            ("MatMul", ["flat", "turned"], "products", {}),
            ("Add", ["products", "turned_bias"], "other", {}),
            ("Softmax", ["other"], "mixed", {"axis": 1}),
            ("Gather", ["mixed", "order"], "probabilities", {"axis": 1}),
        ],
        {
            "turned": np.ascontiguousarray(KERNEL[:, ::-1]),
            "turned_bias": BIAS[::-1].copy(),
            "order": np.array([2, 1, 0], np.int64),
        },
    ),
}
MEASURED = {
    "two dense layers": (
        PLAIN[:2]
        + [("MatMul", ["flat", "hidden"], "sums", {}), ("Relu", ["sums"], "positive", {})]
        + [("MatMul", ["positive", "kernel"], "products", {})]
        + PLAIN[3:],
        {"hidden": np.eye(3, dtype=np.float32)},
    ),
    "no dense layer": (
        [
            ("Conv", ["places", "planes_kernel"], "maps", {}),
            ("Relu", ["maps"], "active", {}),
            ("GlobalAveragePool", ["active"], "pooled", {}),
            ("Flatten", ["pooled"], "logits", {}),
            PLAIN[4],
        ],
        {"planes_kernel": np.ascontiguousarray(KERNEL.T)[:, :, None, None]},
    ),
}


def half_and_half():
    """Photos for the network: red and blue side by side, in three arrangements."""
    rgb = np.empty((SIDE, SIDE, 3), np.uint8)
    rgb[:, : SIDE // 2], rgb[:, SIDE // 2 :] = helpers.COLOURS["red"], helpers.COLOURS[NAMES[BLUE]]
    return np.stack([rgb, rgb[:, ::-1], rgb.transpose(1, 0, 2)])


@pytest.mark.parametrize("name", EXACT)
def test_the_features_and_the_dense_layer_give_the_probabilities(tmp_path, name):
    bundle = write_bundle(tmp_path / "bundle", EXACT[name][0], **EXACT[name][1])
    pixels = np.random.RandomState(0).randint(0, 256, (20, SIDE, SIDE, 3)).astype(np.uint8)
    pixels[:3] = half_and_half()
    session = inner.open_session(bundle, ["features", "places", "probabilities"])
    outputs = session.run(pixels)
    near = 1e-2 if name == "float16" else 1e-5
    np.testing.assert_allclose(outputs["features"], pixels.mean(axis=(1, 2)) / 255, atol=near)
    assert outputs["places"].shape == (20, PLACES, PLACES, 3)
    np.testing.assert_allclose(outputs["places"].mean(axis=(1, 2)), outputs["features"], atol=near)
    np.testing.assert_allclose(session.kernel, KERNEL, rtol=near, atol=near)
    np.testing.assert_allclose(session.bias, BIAS, atol=near)
    own = outputs["probabilities"] / outputs["probabilities"].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax(outputs["features"].dot(session.kernel) + session.bias), own, atol=near)


@pytest.mark.parametrize("name", list(EXACT) + list(MEASURED))
def test_heat_lies_where_the_class_is(tmp_path, name):
    ending, constants = {**EXACT, **MEASURED}[name]
    bundle = write_bundle(tmp_path / "bundle", ending, **constants)
    maps, places = heat.heat_maps(bundle, half_and_half(), [[RED, BLUE]] * 3)
    assert places == ((PLACES, PLACES) if name in EXACT else None)
    assert (maps.shape, maps.dtype) == ((3, 2, SIDE, SIDE), np.float32)
    red, blue = maps[:, 0], maps[:, 1]
    assert red.max() == blue.max() == 1 and red.min() == blue.min() == 0
    far = SIDE // 2 + 12  # where not even a square that covers a bit of red is
    for own, other, photo in ((red, blue, 0), (blue, red, 1)):
        assert own[photo][:, : SIDE // 4].min() > 0.3 and not own[photo][:, far:].any()
        assert other[photo][:, -SIDE // 4 :].min() > 0.3 and not other[photo][:, : SIDE - far].any()
    np.testing.assert_allclose(red[2], red[0].T, atol=1e-4)
    grey = np.full((1, SIDE, SIDE, 3), 128, np.uint8)  # where covering changes nothing, nothing speaks for a class
    if name in MEASURED:
        assert not heat.heat_maps(bundle, grey, [[RED, BLUE, GREEN]])[0].any()


def test_explain_says_how_its_heat_was_made(tmp_path, capsys):
    helpers.write_photo(tmp_path / "photo.png", half_and_half()[0])
    for name in ("plain", "two dense layers"):
        ending, constants = {**EXACT, **MEASURED}[name]
        bundle = write_bundle(tmp_path / name, ending, **constants)
        verb.main([bundle.path, str(tmp_path / "photo.png"), "--out", str(tmp_path / "out")])
        said = capsys.readouterr().err
        page = (tmp_path / "out" / "explain.html").read_text(encoding="utf-8")
        assert "no feature maps: the network is no InceptionV3" in said and "Feature maps" not in page
        assert ("by occlusion, 64 runs" in said) == (name != "plain")
        assert ("in 64 runs" in page) == (name != "plain") and ("8 x 8 places" in page) == (name == "plain")
    with pytest.raises(UsageError, match="--blocks mixed3: .*no InceptionV3"):
        verb.main([bundle.path, str(tmp_path / "photo.png"), "--out", str(tmp_path / "out"), "--blocks", "mixed3"])


def test_label_errors_need_a_dense_layer(tmp_path):
    pytest.importorskip("cleanlab")
    ending, constants = MEASURED["no dense layer"]
    bundle = write_bundle(tmp_path / "bundle", ending, **constants)
    helpers.write_photos(tmp_path / "photos", per_class=2)
    with pytest.raises(UsageError, match="features: its network does not end in a dense layer, .*another bundle"):
        explore.main([str(tmp_path / "photos"), "--report", str(tmp_path / "report"), "--bundle", bundle.path])


@pytest.mark.parametrize(
    "ending",
    [
        [("Identity", ["nowhere"], "probabilities", {})],
        PLAIN[:2] + [("MatMul", ["flat", "flat2"], "logits", {})] + PLAIN[4:],
    ],
)
def test_a_graph_that_makes_no_sense_is_an_error(tmp_path, ending):
    bundle = write_bundle(tmp_path / "bundle", ending)
    with pytest.raises(UsageError, match="dense layer"):
        inner.open_session(bundle, ["features"])
