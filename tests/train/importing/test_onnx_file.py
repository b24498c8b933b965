"""ONNX files: what is taken becomes a bundle's model with the same answers; the rest is refused as what it is."""

import os
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.errors import ParityError, UsageError
from edge_runtime.photos.spec import InputSpec
from tests.train.importing.onnx_models import NAMES, WEIGHTS, Options, classifier, head, model, node, save, value
from train.importing import graph, trial
from train.importing.preprocessing import Preprocessing
from train.importing.readers import onnx_file

needs_opset_17 = pytest.mark.skipif(onnx.defs.onnx_opset_version() < 17, reason="this onnx is older than opset 17")
BLACK, WHITE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def read(folder, one, **options):
    return onnx_file.read(save(folder, one), Options(**options))


def check(original, channels="RGB", mean=(10.0, 20.0, 30.0), std=(255.0, 250.0, 240.0)):
    """Builds the bundle's model and compares it with the original. Returns it."""
    spec = InputSpec(original.height or 48, original.width or 40, "squash", filter="bilinear")
    if original.dtype == "uint8":
        mean, std = BLACK, WHITE
    preprocessing = Preprocessing(spec, channels, mean, std)
    kind = "logits"
    built = graph.bundle_model(original, preprocessing, kind)
    graph.check_numbers(built, original, preprocessing, kind)
    return built


def opset_of(one):
    return one.opset_import[0].version


# --- what is taken


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.UINT8, TensorProto.FLOAT16])
def test_layouts_and_types(tmp_path, layout, kind):
    original = read(tmp_path, classifier(layout, kind=kind))
    assert (original.layout, original.height, original.outputs) == (layout, 64, 3)
    built = check(original, "BGR")
    assert [one.op_type for one in built.graph.node if "images" in one.input] == ["Cast"]


def test_uint8_that_is_moved_before_it_is_cast(tmp_path):
    one = classifier("NHWC", kind=TensorProto.UINT8)
    nodes = {other.op_type: other for other in one.graph.node}
    nodes["Transpose"].input[0], nodes["Transpose"].output[0] = "pixels", "moved"
    nodes["Cast"].input[0] = "moved"
    nodes["GlobalAveragePool"].input[0] = "unit"
    order = [nodes["Transpose"]] + [other for other in one.graph.node if other.op_type != "Transpose"]
    order = [onnx.NodeProto.FromString(other.SerializeToString()) for other in order]
    del one.graph.node[:]
    one.graph.node.extend(order)
    built = check(read(tmp_path, one), "BGR")
    assert [other.op_type for other in built.graph.node if "images" in other.input] == ["Cast"]
    assert [other.op_type for other in built.graph.node].count("Cast") == 1


def test_uint8_that_is_used_before_it_is_cast(tmp_path):
    one = classifier("NHWC", kind=TensorProto.UINT8)
    for other in one.graph.node:
        other.input[:] = ["taken" if name == "pixels" else name for name in other.input]
    one.graph.node.insert(0, node("Gather", "pixels order", "taken", axis=3))
    one.graph.initializer.extend([numpy_helper.from_array(np.array([2, 0, 1], np.int64), "order")])
    built = check(read(tmp_path, one), "BGR")
    assert [other.op_type for other in built.graph.node if "images" in other.input] == ["Cast"]


def test_any_size_with_the_names_that_optimum_gives(tmp_path):
    original = read(tmp_path, classifier(shape=["batch_size", "num_channels", "height", "width"]))
    assert (original.layout, original.height, original.width) == ("NCHW", None, None)
    check(original)


def test_an_answer_with_two_places_of_one_pixel_is_a_row(tmp_path):
    original = read(tmp_path, classifier(end="map"))
    assert original.outputs == 3
    check(original)


def fixed_reshape():
    return [node("Reshape", "colour sides", "mixed")], {"sides": np.array([1, 3], np.int64)}


def class_token():
    """As in a vision transformer: a constant joined with each picture's own values, then left out again."""
    nodes = [
        node("Reshape", "colour sides", "patches"),
        node("Concat", "token patches", "tokens", axis=1),
        node("ReduceMean", "tokens", "means", axes=[1], keepdims=0),
        node("Add", "means means", "mixed"),
    ]
    return nodes, {"sides": np.array([1, 1, 3], np.int64), "token": np.full((1, 1, 3), 0.25, np.float32)}


def computed_class_token():
    nodes, constants = class_token()
    nodes[1].input[0] = "expanded"
    constants["three"] = np.array([1, 1, 3], np.int64)
    return [node("Identity", "token", "same"), node("Expand", "same three", "expanded")] + nodes, constants


@pytest.mark.parametrize("middle", [fixed_reshape, class_token, computed_class_token])
def test_a_fixed_batch_is_freed(tmp_path, middle):
    original = read(tmp_path, classifier(batch=1, middle=middle))
    built = check(original)
    assert built.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert original.run(np.zeros((5, 3, 64, 64), np.float32)).shape == (5, 3)


def test_a_larger_fixed_batch_is_freed_too(tmp_path):
    check(read(tmp_path, classifier(batch=2)))


@pytest.mark.parametrize("any_number", [-1, 0])
def test_a_batch_that_is_no_number_of_pictures_is_free(tmp_path, any_number):
    original = read(tmp_path, classifier(batch=any_number))
    assert original.run(np.zeros((5, 3, 64, 64), np.float32)).shape == (5, 3)
    check(original)


def test_a_fixed_batch_that_cannot_be_freed_is_refused_with_what_to_do(tmp_path):
    def split():
        nodes = [
            node("Split", "colour parts", "first second", axis=0),
            node("Concat", "first second", "mixed", axis=0),
        ]
        return nodes, {"parts": np.array([1, 1], np.int64)}

    with pytest.raises(UsageError, match="exactly 2 pictures.*Split.*dynamic_axes"):
        read(tmp_path, classifier(batch=2, middle=split))


@pytest.mark.parametrize("opset", [9, 11])
def test_older_opsets_become_13(tmp_path, opset):
    original = read(tmp_path, classifier(opset=opset))
    assert opset_of(original.model) == 13
    check(original)


def newer_operators():
    nodes = [
        node("LayerNormalization", "colour gain", "normal", axis=-1),
        node("Gelu", "normal", "gelu"),
        node("HardSwish", "gelu", "swish"),
        node("ReduceMean", "colour axes", "mean", keepdims=1),
        node("Add", "swish mean", "mixed"),
    ]
    return nodes, {"gain": np.ones(3, np.float32), "axes": np.array([1], np.int64)}


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 21, reason="this onnx is older than opset 21")
def test_newer_opsets_become_13_with_the_same_numbers(tmp_path, capsys):
    original = read(tmp_path, classifier(opset=21, middle=newer_operators))
    built = check(original)
    assert opset_of(built) == 13 and built.ir_version <= 7
    onnx.checker.check_model(built, full_check=True)
    assert "opset" not in capsys.readouterr().err


@needs_opset_17
def test_an_operator_that_opset_13_lacks_is_named(tmp_path, capsys):
    def middle():
        nodes = [
            node("Reshape", "colour sides", "planes"),
            node("GroupNormalization", "planes gain shift", "normal", num_groups=1),
            node("Flatten", "normal", "mixed"),
        ]
        ones = np.ones(3, np.float32)
        return nodes, {"sides": np.array([0, 3, 1, 1], np.int64), "gain": ones, "shift": ones}

    original = read(tmp_path, classifier(opset=21, middle=middle))
    assert opset_of(original.model) == 21
    assert re.search("GroupNormalization.*TensorRT 8.2", capsys.readouterr().err)


def test_weights_in_another_file_beside_the_model(tmp_path):
    one = classifier()
    external(one, "weights.bin")
    (tmp_path / "weights.bin").write_bytes(WEIGHTS.tobytes())
    original = read(tmp_path, one)
    built = check(original)
    assert not any(tensor.external_data for tensor in built.graph.initializer)


def external(one, location, **more):
    """Moves the weights of a model into another file's name."""
    tensor = next(tensor for tensor in one.graph.initializer if tensor.name == "weights")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in dict(location=location, **more).items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(text)


def test_a_map_of_labels_is_cut_off_and_gives_the_names(tmp_path):
    one = classifier(end="probabilities")
    one.graph.node.extend(
        [
            helper.make_node(
                "ZipMap", ["answers"], ["loss"], domain="ai.onnx.ml", classlabels_strings=[n.encode() for n in NAMES]
            )
        ]
    )
    answers = onnx.ValueInfoProto(name="loss")
    mapping = answers.type.sequence_type.elem_type.map_type
    mapping.key_type = TensorProto.STRING
    mapping.value_type.tensor_type.elem_type = TensorProto.FLOAT
    one.graph.output[0].CopyFrom(answers)
    one.opset_import.extend([helper.make_opsetid("ai.onnx.ml", 1)])
    assert read(tmp_path, one).class_names == NAMES
    zip_map = next(other for other in one.graph.node if other.op_type == "ZipMap")
    zip_map.attribute[0].strings[1] = zip_map.attribute[0].strings[0]
    with pytest.raises(UsageError, match="same name.*--labels"):
        read(tmp_path, one)
    assert read(tmp_path, one, labels="labels.txt").class_names is None


def test_an_output_inside_can_be_chosen(tmp_path):
    one = with_more_outputs(classifier(end="probabilities"), "colour")
    assert read(tmp_path, one, output="logits").outputs == 3


def with_more_outputs(one, *names):
    one.graph.output.extend([value(name, ["n", 3]) for name in names])
    return one


def test_tensors_with_the_names_of_the_bundle_are_renamed(tmp_path):
    one = classifier()
    for part in one.graph.node:
        part.input[:] = ["probabilities" if name == "colour" else name for name in part.input]
        part.output[:] = ["probabilities" if name == "colour" else name for name in part.output]
    check(read(tmp_path, one))


# --- what is refused


def of_answers(kind, *inputs, shape, out=TensorProto.FLOAT, opset=13, constants=None, **attributes):
    """A classifier's logits handed to one more node."""
    one = classifier(opset=opset)
    one.graph.node.extend([node(kind, " ".join(("logits",) + inputs), "end", **attributes)])
    one.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in (constants or {}).items())
    one.graph.output[0].CopyFrom(value("end", shape, out))
    return one


def reshaped(*sides):
    return of_answers("Reshape", "sides", shape=[None] * len(sides), constants={"sides": np.array(sides, np.int64)})


def two_inputs():
    one = classifier()
    one.graph.input.extend([value("size", ["n", 3])])
    one.graph.node.extend([node("Mul", "logits size", "scaled")])
    one.graph.output[0].name = "scaled"
    return one


def custom_operator():
    one = classifier()
    one.graph.node.extend([helper.make_node("Secret", ["logits"], ["end"], domain="com.example")])
    one.graph.output[0].name = "end"
    one.opset_import.extend([helper.make_opsetid("com.example", 1)])
    return one


def endless_loop():
    body = helper.make_graph(
        [node("Identity", "condition", "again"), node("Add", "before before", "after")],
        "body",
        [value("number", [], TensorProto.INT64), value("condition", [], TensorProto.BOOL), value("before", None)],
        [value("again", [], TensorProto.BOOL), value("after", None)],
    )
    one = classifier()
    one.graph.node.extend([helper.make_node("Loop", ["", "yes", "logits"], ["end"], body=body)])
    one.graph.initializer.extend([numpy_helper.from_array(np.array(True), "yes")])
    one.graph.output[0].name = "end"
    return one


def claims_8_gb():
    one = classifier()
    tensor = next(tensor for tensor in one.graph.initializer if tensor.name == "weights")
    tensor.dims[:] = [1 << 16, 1 << 15]
    return one


def makes_8_gb():
    """A few bytes that become 8 GB when the graph is opened, because constants are computed beforehand."""
    one = classifier()
    one.graph.node.extend(
        [
            node("ConstantOfShape", "huge", "zeros"),
            node("ReduceSum", "zeros", "sum", keepdims=0),
            node("Add", "logits sum", "end"),
        ]
    )
    one.graph.initializer.extend([numpy_helper.from_array(np.array([1 << 31], np.int64), "huge")])
    one.graph.output[0].name = "end"
    return one


def elsewhere(location, **more):
    one = classifier()
    external(one, location, **more)
    return one


def by_batch():
    """Subtracts the mean of the batch, as a network does that was exported while training."""

    def middle():
        return [node("ReduceMean", "colour", "mean", axes=[0]), node("Sub", "colour mean", "mixed")], {}

    return classifier(middle=middle)


def sparse():
    one = classifier()
    tensor = numpy_helper.from_array(np.ones(1, np.float32), "holes")
    one.graph.sparse_initializer.extend(
        [helper.make_sparse_tensor(tensor, numpy_helper.from_array(np.zeros(1, np.int64), "i"), [1 << 31])]
    )
    return one


def random_answers():
    one = classifier()
    one.graph.node.extend([node("RandomNormalLike", "logits", "noise"), node("Add", "logits noise", "end")])
    one.graph.output[0].name = "end"
    return one


def int8_pixels():
    one = classifier()
    one.graph.input[0].CopyFrom(value("pixels", ["n", 3, 64, 64], TensorProto.INT8))
    return one


def rows_of_numbers():
    nodes, constants = head("pixels")
    return model(nodes, [value("pixels", ["n", 3])], [value("logits", ["n", 3])], constants)


REFUSED = {
    "sigmoid": (lambda: of_answers("Sigmoid", shape=["n", 3]), "ends in a sigmoid"),
    "two inputs": (two_inputs, "2 inputs: pixels.*size"),
    "custom operator": (custom_operator, "com.example.Secret"),
    "loop": (endless_loop, "holds Loop"),
    "claims 8 GB": (claims_8_gb, r"weights claims the shape \[65536, 32768\] \(8192 MiB\)"),
    "makes 8 GB": (makes_8_gb, "ONNX Runtime cannot run it.*MiB of memory"),
    "path out of the folder": (lambda: elsewhere("../weights.bin"), "plain names beside the model"),
    "absolute path": (lambda: elsewhere("/etc/passwd"), "plain names beside the model"),
    "weights are missing": (lambda: elsewhere("weights.bin"), "copy that file, too"),
    "weights behind the end": (lambda: elsewhere("short.bin", offset=0, length=36), "only a part of it was copied"),
    "by batch": (by_batch, r"model.eval\(\)"),
    "sparse": (sparse, "sparse"),
    "random": (random_answers, "by chance"),
    "rows of numbers": (rows_of_numbers, "no batch of pictures"),
    "boxes": (lambda: reshaped(-1, 1, 3), "detector"),
    "map": (lambda: reshaped(-1, 3, 1, 1, 1), "expected one row per picture"),
    "one number": (lambda: of_answers("ReduceMean", shape=["n", 1], axes=[1]), "2 or more"),
    "class number": (
        lambda: of_answers("ArgMax", shape=["n", 1], out=TensorProto.INT64, axis=1),
        r"end \(int64.*--output NAME",
    ),
    "grey": (lambda: classifier(shape=["n", 1, 64, 64]), "no dimension of 3 colours"),
    "huge pictures": (lambda: classifier(side=1 << 20), "1048576 x 1048576.*32 to 1024"),
    "huge batch": (lambda: classifier(batch=1 << 30), "1073741824 pictures at a time"),
    "without a batch": (lambda: classifier(shape=[3, 64, 64]), "a batch in front"),
    "int8 pixels": (int8_pixels, "before it is quantized"),
    "several outputs": (lambda: with_more_outputs(classifier(), "colour"), "2 outputs: logits.*--output NAME"),
    "boxes and scores": (lambda: detector(), "looks like a detector"),
}


def detector():
    one = classifier()
    one.graph.node.extend([node("Identity", "colour", "boxes"), node("Identity", "logits", "scores")])
    del one.graph.output[:]
    one.graph.output.extend([value("boxes", ["n", 3]), value("scores", ["n", 3])])
    return one


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_no_classifier_is_refused_as_what_it_is(tmp_path, name):
    build, words = REFUSED[name]
    (tmp_path / "short.bin").write_bytes(b"12345678")
    path = save(tmp_path, build())
    before = os.stat(path).st_mtime_ns
    with pytest.raises(UsageError, match=re.compile(words, re.DOTALL)) as caught:
        onnx_file.read(path, Options())
    assert str(caught.value).startswith(path) and os.stat(path).st_mtime_ns == before


@pytest.mark.parametrize("data", [b"", b"hello", b"\x08\x07\x12", None])
def test_what_is_no_onnx_file_is_refused(tmp_path, data):
    path = save(tmp_path, classifier())
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write(content[: len(content) // 2] if data is None else data)
    with pytest.raises(UsageError, match="no ONNX file, or only a part"):
        onnx_file.read(path, Options())


def test_the_trial_ends_what_takes_too_long(tmp_path):
    data = classifier().SerializeToString()
    with pytest.raises(UsageError, match="no answer within 0.01 s"):
        trial.run_limited("model.onnx", data, [np.zeros((1, 3, 64, 64), np.float32)], limit_s=0.01)


@pytest.mark.parametrize("kind", ["probabilities", "logits"])
def test_a_background_class_is_left_out(tmp_path, kind):
    original = read(tmp_path, classifier(end=kind))
    preprocessing = Preprocessing(InputSpec(64, 64, filter="bilinear"), "BGR", BLACK, (255.0,) * 3)
    built = graph.bundle_model(original, preprocessing, kind, without_background=True)
    graph.check_numbers(built, original, preprocessing, kind, without_background=True)
    assert built.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 2


def test_a_background_that_has_all_of_it_gives_no_nan(tmp_path):
    one = classifier(end="probabilities")
    bias = next(tensor for tensor in one.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(np.array([1000, 0, 0], np.float32), "bias"))
    original = read(tmp_path, one)
    preprocessing = Preprocessing(InputSpec(64, 64, filter="bilinear"), "RGB", BLACK, (255.0,) * 3)
    built = graph.bundle_model(original, preprocessing, "probabilities", without_background=True)
    graph.check_numbers(built, original, preprocessing, "probabilities", without_background=True)


def test_a_model_that_takes_one_picture_alone_is_no_bundle_s(tmp_path):
    original = read(tmp_path, classifier())
    wrong = original._replace(model=classifier(middle=fixed_reshape))
    with pytest.raises(ParityError, match="does not run|it answers"):
        check(wrong)


def test_noise_that_the_original_answers_nan_to_is_not_the_conversion_s_fault(tmp_path):
    original = read(tmp_path, classifier())
    broken = original._replace(run=lambda pictures: np.full((len(pictures), 3), np.nan, np.float32))
    with pytest.raises(UsageError, match="NaN"):
        check(broken)
