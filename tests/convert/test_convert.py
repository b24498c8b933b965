"""From a bundle to a checked engine, and the gate that keeps wrong engines out."""

import csv
import json
import os
import shutil
import sys
import types

import numpy as np
import pytest

from convert import cli, parity
from edge_runtime import bundle as bundles
from edge_runtime import cli as classify_cli
from edge_runtime import images, machine
from edge_runtime.bundle import Bundle
from edge_runtime.engines import list_engines, open_engine
from edge_runtime.engines.base import Engine
from edge_runtime.engines.onnxruntime import OPTIMIZED_MODEL
from edge_runtime.errors import MissingRequirement, ParityError, UsageError
from tests import helpers


@pytest.fixture(autouse=True)
def short_timing(monkeypatch):
    monkeypatch.setattr(cli, "_TIMED_S", 0.02)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    helpers.write_photos(folder, per_class=3)
    return str(folder)


def convert(bundle, target, *options):
    cli.main([bundle, "--to", target] + list(options))


def engine_record(bundle, name):
    with open(os.path.join(bundle, "engines", name, "engine.json"), encoding="utf-8") as file:
        return json.load(file)


def everything_below(folder):
    """Returns the contents of all files below a folder, by name."""
    found = {}
    for parent, folders, names in os.walk(folder):
        for name in folders:
            found[os.path.join(parent, name)] = None
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                found[os.path.join(parent, name)] = file.read()
    return found


def classify(bundle, photos, engine, out):
    """Returns the rows of a result table as dicts."""
    classify_cli.main([bundle, photos, "--engine", engine, "--out", str(out), "--top", "3"])
    with open(str(out), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, dialect="excel-tab"))


def wrong_build(change):
    """Returns a build() that saves the bundle's model with other weights: change(array) -> array."""

    def build(bundle, precision, max_batch, folder):
        import onnx
        from onnx import numpy_helper

        model = onnx.load(bundle.file("model.onnx"))
        for value in model.graph.initializer:
            if value.name in ("weights", "bias"):
                changed = change(numpy_helper.to_array(value).copy())
                value.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed), value.name))
        onnx.save(model, os.path.join(folder, OPTIMIZED_MODEL))

    return build


def swap_two_classes(values):
    """blue and green change places, red stays: 1 photo in 3 keeps its label."""
    return values[..., [1, 0, 2]]


# ---- engines that are fine


@pytest.mark.parametrize(
    "target, precision, tolerance",
    [("onnxruntime", "fp32", 1e-3), ("openvino", "fp32", 1e-3), ("openvino", "bf16", 2e-2)],
)
def test_an_engine_is_published_with_its_facts_and_answers_as_the_original(
    tiny_bundle, photos, tmp_path, capsys, target, precision, tolerance
):
    if target == "openvino":
        openvino = pytest.importorskip("openvino", reason="OpenVINO is not for this Python")
        if precision == "bf16" and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            pytest.skip("this CPU has no bf16 instructions")
    name = "%s-%s" % (target, precision)
    convert(tiny_bundle, target, "--precision", precision, "--max-batch", "4")
    assert os.listdir(os.path.join(tiny_bundle, "engines")) == [name]

    opened = Bundle.open(tiny_bundle)
    record = engine_record(tiny_bundle, name)
    assert (record["kind"], record["precision"], record["max_batch"]) == (target, precision, 4)
    assert record["source"] == {"bundle_id": opened.id, "model_sha256": opened.sha256("model.onnx")}
    assert record["libraries"] == {target: machine.library_version(target)}
    assert record["machine"] == machine.describe()
    assert record["parity"]["photos"] == 12
    assert record["parity"]["top1_agreement"] == 1.0
    assert 0 <= record["parity"]["mean_abs_difference"] <= record["parity"]["max_abs_difference"] < tolerance
    assert len(record["parity"]["worst_photos"]) == 5
    assert record["images_per_s"] > 0
    folder = os.path.join(tiny_bundle, "engines", name)
    assert set(record["files"]) == set(os.listdir(folder)) - {"engine.json"} != set()
    bundles.verify_files(folder, record["files"], "")

    said = capsys.readouterr().out
    assert "%s: same label as the original for 100.00 %% of 12 photos" % name in said
    assert "--engine " + name in said

    assert [info.name for info in list_engines(opened)][0] == name
    with open_engine(opened) as chosen:
        assert chosen.name == name
    original = classify(tiny_bundle, photos, "onnxruntime", tmp_path / "original.tsv")
    converted = classify(tiny_bundle, photos, name, tmp_path / "converted.tsv")
    assert len(original) == 9
    assert [[row[key] for key in ("file", "label", "error")] for row in converted] == [
        [row["file"], os.path.dirname(row["file"]), ""] for row in original
    ]
    for ours, theirs in zip(converted, original):
        for column in ("confidence", "confidence_2", "confidence_3"):
            assert float(ours[column]) == pytest.approx(float(theirs[column]), abs=tolerance)


def test_the_default_precision_is_the_library_s_first(tiny_bundle):
    convert(tiny_bundle, "onnxruntime", "--max-batch", "1")
    assert os.listdir(os.path.join(tiny_bundle, "engines")) == ["onnxruntime-fp32"]


def test_the_command_converts_and_keeps_stdout_for_its_result(tiny_bundle):
    done = helpers.picnic_edge("convert", tiny_bundle, "--to", "onnxruntime")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"onnxruntime-fp32: same label as the original for 100.00 %")
    assert "checking onnxruntime-fp32 on 12 photos" in done.stderr


def test_converting_again_replaces_the_engine(tiny_bundle):
    convert(tiny_bundle, "onnxruntime", "--max-batch", "2")
    convert(tiny_bundle, "onnxruntime", "--max-batch", "3")
    assert os.listdir(os.path.join(tiny_bundle, "engines")) == ["onnxruntime-fp32"]
    assert engine_record(tiny_bundle, "onnxruntime-fp32")["max_batch"] == 3


def test_a_copy_of_the_bundle_may_be_used_elsewhere(tiny_bundle, photos, tmp_path):
    convert(tiny_bundle, "onnxruntime")
    moved = shutil.move(tiny_bundle, str(tmp_path / "moved"))
    assert len(classify(moved, photos, "onnxruntime-fp32", tmp_path / "out.tsv")) == 9


# ---- the gate


def test_a_wrong_engine_is_refused_by_name_and_figures_and_not_kept(tiny_bundle, monkeypatch):
    monkeypatch.setattr("convert.onnxruntime.build", wrong_build(swap_two_classes))
    before = everything_below(tiny_bundle)
    with pytest.raises(ParityError) as refused:
        convert(tiny_bundle, "onnxruntime")
    said = str(refused.value)
    assert said.startswith("onnxruntime-fp32 is refused and was not kept: ")
    assert "same label as the original for 33.33 % of 12 photos, 99.50 % are needed (--min-agreement)" in said
    assert float(said.split("largest difference of a probability ")[1].split(".\n")[0]) > 0.5
    worst = said.split("Most different: ")[1].split(", ")
    assert any(name.startswith(("blue things", "green")) for name in worst)
    assert not any(name.startswith("red") for name in worst)
    assert everything_below(tiny_bundle) == before


def test_a_refused_engine_exits_with_6(tiny_bundle, monkeypatch, capsys):
    import picnic_edge

    monkeypatch.setattr("convert.onnxruntime.build", wrong_build(swap_two_classes))
    assert picnic_edge.main(["convert", tiny_bundle, "--to", "onnxruntime"]) == 6
    said = capsys.readouterr()
    assert "is refused" in said.err and "Traceback" not in said.err
    assert said.out == ""


def test_min_agreement_sets_the_gate(tiny_bundle, monkeypatch):
    monkeypatch.setattr("convert.onnxruntime.build", wrong_build(swap_two_classes))
    with pytest.raises(ParityError, match="34.00 % are needed"):
        convert(tiny_bundle, "onnxruntime", "--min-agreement", "0.34")
    convert(tiny_bundle, "onnxruntime", "--min-agreement", "0.33")
    record = engine_record(tiny_bundle, "onnxruntime-fp32")
    assert record["min_agreement"] == 0.33
    assert record["parity"]["top1_agreement"] == pytest.approx(1 / 3.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_engine_that_answers_nan_is_refused_even_by_the_widest_gate(tiny_bundle, monkeypatch, value):
    monkeypatch.setattr("convert.onnxruntime.build", wrong_build(lambda values: values * np.float32(value)))
    with pytest.raises(ParityError, match="onnxruntime-fp32 is refused: .*NaN or infinite"):
        convert(tiny_bundle, "onnxruntime", "--min-agreement", "0")
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


class AnswersOfASample(Engine):
    """Answers with the sample's own probabilities; batches of more than one get them in reverse."""

    def __init__(self, sample, reverse):
        info = types.SimpleNamespace(name="planted")
        super().__init__(info, sample.probabilities.shape[1], len(sample.names), 1)
        self.known = {picture.tobytes(): row for picture, row in zip(sample.images, sample.probabilities)}
        self.reverse = reverse

    def _open(self):
        pass

    def _infer(self, batch):
        rows = [self.known[picture.tobytes()] for picture in batch]
        return np.stack(rows[::-1] if self.reverse else rows)

    def _close(self):
        pass


def test_compare_takes_the_worst_of_all_batch_sizes(pristine_bundle):
    sample = Bundle.open(pristine_bundle).sample()
    fine = parity.compare(AnswersOfASample(sample, reverse=False), sample, [1, 3, 12])
    assert (fine.photos, fine.top1_agreement, fine.max_abs_difference) == (12, 1.0, 0.0)
    engine = AnswersOfASample(sample, reverse=True)
    assert parity.compare(engine, sample, [1]).top1_agreement == 1.0
    mixed_up = parity.compare(engine, sample, [1, 3])  # the sample's classes take turns: the middle one of 3 is right
    assert mixed_up.top1_agreement == pytest.approx(1 / 3.0)
    assert mixed_up.max_abs_difference > 0.5


def test_compare_runs_the_last_smaller_batch_too(pristine_bundle):
    sample = Bundle.open(pristine_bundle).sample()
    answers = parity.run(AnswersOfASample(sample, reverse=False), sample.images, 5)
    assert np.array_equal(answers, sample.probabilities)


# ---- photos to check on


def test_calibration_photos_replace_the_sample_and_unreadable_ones_are_named(tiny_bundle, tmp_path, capsys):
    rows = helpers.write_photos(tmp_path / "photos", per_class=2)
    (tmp_path / "photos" / "red" / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    (tmp_path / "photos" / "red" / "empty.png").write_bytes(b"")
    convert(tiny_bundle, "onnxruntime", "--calibration", str(tmp_path / "photos"))
    found = engine_record(tiny_bundle, "onnxruntime-fp32")["parity"]
    assert (found["photos"], found["top1_agreement"]) == (len(rows), 1.0)
    assert set(found["worst_photos"]) <= {name for name, _ in rows}
    said = capsys.readouterr().err
    assert os.path.join("red", "broken.jpg") + ": is not a JPEG" in said
    assert os.path.join("red", "empty.png") + ": is empty (0 bytes) (left out)" in said


def test_the_gate_holds_on_calibration_photos(tiny_bundle, photos, monkeypatch):
    monkeypatch.setattr("convert.onnxruntime.build", wrong_build(swap_two_classes))
    with pytest.raises(ParityError, match="33.33 % of 9 photos"):
        convert(tiny_bundle, "onnxruntime", "--calibration", photos)
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


def test_no_more_than_the_limit_of_calibration_photos_is_used(tiny_bundle, photos, monkeypatch, capsys):
    monkeypatch.setattr(parity, "MAX_PHOTOS", 4)
    convert(tiny_bundle, "onnxruntime", "--calibration", photos)
    assert engine_record(tiny_bundle, "onnxruntime-fp32")["parity"]["photos"] == 4
    assert "the first 4 photos are used" in capsys.readouterr().err


@pytest.mark.parametrize("content", [{}, {"a.jpg": b"nothing", "b.png": b""}], ids=["empty folder", "none readable"])
def test_calibration_without_a_readable_photo_exits_with_2(tiny_bundle, tmp_path, content):
    folder = tmp_path / "calibration"
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    before = everything_below(tiny_bundle)
    with pytest.raises(UsageError, match="--calibration .*: no readable photo in it"):
        convert(tiny_bundle, "onnxruntime", "--calibration", str(folder))
    assert everything_below(tiny_bundle) == before


def test_calibration_folder_that_is_not_there_exits_with_2(tiny_bundle, tmp_path):
    with pytest.raises(UsageError, match="nosuch: no such file or folder"):
        convert(tiny_bundle, "onnxruntime", "--calibration", str(tmp_path / "nosuch"))
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


# ---- what cannot be made


@pytest.mark.parametrize(
    "target, precision, said",
    [
        ("onnxruntime", "int8", "--to onnxruntime makes fp32, not int8"),
        ("openvino", "fp16", "--to openvino makes fp32 or bf16, not fp16"),
    ],
)
def test_a_precision_that_is_not_offered_exits_with_2(tiny_bundle, target, precision, said):
    with pytest.raises(UsageError, match=said):
        convert(tiny_bundle, target, "--precision", precision)
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--to", "coreml"],
        ["--to", "onnxruntime", "--max-batch", "0"],
        [],
        ["--to", "onnxruntime", "--min-agreement", "2"],
    ],
)
def test_senseless_options_exit_with_2(tiny_bundle, arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([tiny_bundle] + arguments)
    assert stopped.value.code == 2
    assert (arguments[-2] if arguments else "--to") in capsys.readouterr().err


def test_a_folder_that_is_no_bundle_exits_with_2(tmp_path):
    with pytest.raises(UsageError, match="is no bundle"):
        convert(str(tmp_path), "onnxruntime")
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize("target", ["tensorrt", "tf-trt"])
def test_gpu_targets_exit_with_4_and_say_what_to_install(tiny_bundle, target):
    before = everything_below(tiny_bundle)
    done = helpers.picnic_edge("convert", tiny_bundle, "--to", target)
    assert done.returncode == 4, done.stderr
    message = done.stderr[done.stderr.rindex("picnic-edge: ") :]
    assert "TensorRT" in message or "tensorrt" in message
    assert "install" in message or "use --to onnxruntime" in message
    assert "Traceback" not in done.stderr
    assert done.stdout == b""
    assert everything_below(tiny_bundle) == before


def test_openvino_missing_exits_with_4_and_names_the_command(tiny_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)  # importing it raises ImportError
    with pytest.raises(MissingRequirement, match="openvino is needed here(.|\n)*pip install 'openvino"):
        convert(tiny_bundle, "openvino")
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


def test_bf16_on_a_cpu_without_it_exits_with_4(tiny_bundle, monkeypatch):
    class Core:
        def get_property(self, device, name):
            return ["FP32", "INT8", "BIN"]

    monkeypatch.setattr("convert.openvino.require", lambda module: types.SimpleNamespace(Core=Core))
    with pytest.raises(MissingRequirement, match="no bf16 instructions .*FP32.*use --precision fp32"):
        convert(tiny_bundle, "openvino", "--precision", "bf16")
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


# ---- interrupted and failed conversions


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, RuntimeError])
def test_a_build_that_stops_half_way_leaves_nothing(tiny_bundle, monkeypatch, error):
    def build(bundle, precision, max_batch, folder):
        with open(os.path.join(folder, "half"), "w") as file:
            file.write("half")
        raise error("planted")

    monkeypatch.setattr("convert.onnxruntime.build", build)
    before = everything_below(tiny_bundle)
    with pytest.raises(error):
        convert(tiny_bundle, "onnxruntime")
    assert everything_below(tiny_bundle) == before


@pytest.mark.parametrize("change", [swap_two_classes, lambda values: values * np.float32(np.nan)])
def test_an_older_engine_survives_a_failed_conversion(tiny_bundle, photos, tmp_path, monkeypatch, change):
    convert(tiny_bundle, "onnxruntime")
    before = everything_below(tiny_bundle)
    monkeypatch.setattr("convert.onnxruntime.build", wrong_build(change))
    with pytest.raises(ParityError):
        convert(tiny_bundle, "onnxruntime")
    assert everything_below(tiny_bundle) == before
    rows = classify(tiny_bundle, photos, "onnxruntime-fp32", tmp_path / "out.tsv")
    assert [row["label"] for row in rows] == [os.path.dirname(row["file"]) for row in rows]


def test_another_engine_survives_a_failed_conversion(tiny_bundle, monkeypatch):
    convert(tiny_bundle, "onnxruntime")
    with pytest.raises(UsageError):
        convert(tiny_bundle, "openvino", "--precision", "int8")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingRequirement):
        convert(tiny_bundle, "openvino")
    assert os.listdir(os.path.join(tiny_bundle, "engines")) == ["onnxruntime-fp32"]


def test_the_sample_s_photos_are_the_network_s_own_input(pristine_bundle):
    sample = parity.reference_sample(Bundle.open(pristine_bundle))
    assert sample.images.shape == (12,) + tuple(images.INPUT_SPEC["shape"])
    assert sample.images.dtype == np.uint8
    assert sorted(set(sample.labels)) == sorted(helpers.COLOURS)
