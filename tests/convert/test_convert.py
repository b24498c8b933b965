"""From a bundle to a checked engine, and the gate that keeps wrong engines out."""

import csv
import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest

from convert import cli, conversion, litert, reference
from convert.child import ChildError
from edge_runtime import files
from edge_runtime.bundle import checksums, manifest, writing
from edge_runtime.bundle.reading import Bundle
from edge_runtime.cli.classify import main
from edge_runtime.engines import check, kinds
from edge_runtime.engines.onnxruntime import OPTIMIZED_MODEL
from edge_runtime.engines.selection import find_engine, list_engines, open_engine
from edge_runtime.errors import BundleError, MissingRequirement, ParityError, UsageError
from edge_runtime.machine import cpu, libraries
from edge_runtime.photos import spec
from edge_runtime.photos.spec import INCEPTION_V3, to_manifest
from tests import helpers


@pytest.fixture(autouse=True)
def short_timing(monkeypatch):
    monkeypatch.setattr(check, "SPEED_S", 0.02)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    helpers.write_photos(folder, per_class=3)
    return str(folder)


WIDEST = ("--min-agreement", "0", "--max-log-odds-change", "99")  # refuses no labels


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
    main([bundle, photos, "--engine", engine, "--out", str(out), "--top", "3"])
    with open(str(out), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, dialect="excel-tab"))


def wrong_build(change):
    """Returns a build() that saves the bundle's model with other weights: change(array) -> array."""

    def build(bundle, settings, folder):
        import onnx
        from onnx import numpy_helper

        model = onnx.load(bundle.file("model.onnx"))
        for value in model.graph.initializer:
            if value.name in ("weights", "bias"):
                changed = change(numpy_helper.to_array(value).copy())
                value.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed), value.name))
        onnx.save(model, os.path.join(folder, OPTIMIZED_MODEL))
        return {"libraries": {"onnxruntime": libraries.library_version("onnxruntime")}, "gpu": None}

    return build


def swap_two_classes(values):
    """blue and green change places, red stays: 1 photo in 3 keeps its label."""
    return values[..., [1, 0, 2]]


def need_litert():
    pytest.importorskip("tensorflow")
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")


# ---- engines that are fine


@pytest.mark.parametrize(
    "target, precision, tolerance",
    [
        ("onnxruntime", "fp32", 1e-3),
        ("openvino", "fp32", 1e-3),
        ("openvino", "bf16", 2e-2),
        ("onnxruntime", "int8", 5e-2),
        ("openvino", "int8", 5e-2),
        pytest.param("litert", "fp32", 1e-3, marks=pytest.mark.slow),  # seconds of TensorFlow; int8 has them, too
        ("litert", "int8", 5e-2),
    ],
)
def test_an_engine_is_published_with_its_facts_and_answers_as_the_original(
    tiny_bundle, photos, tmp_path, capsys, target, precision, tolerance
):
    if target == "openvino":
        openvino = pytest.importorskip("openvino", reason="OpenVINO is not for this Python")
        if precision == "bf16" and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            pytest.skip("this CPU has no bf16 instructions")
        if precision == "int8":
            pytest.importorskip("nncf")
    if target == "litert":
        need_litert()
        helpers.add_tiny_saved_model(tiny_bundle)
    name = "%s-%s" % (target, precision)
    convert(tiny_bundle, target, "--precision", precision, "--max-batch", "4")
    assert os.listdir(os.path.join(tiny_bundle, "engines")) == [name]

    opened = Bundle.open(tiny_bundle)
    record = engine_record(tiny_bundle, name)
    assert (record["kind"], record["precision"]) == (target, precision)
    assert record["batch_profile"] == {"min": 1, "opt": 4, "max": 4}
    assert record["source"] == {"bundle_id": opened.id, "model_sha256": opened.sha256("model.onnx")}
    library = kinds.LIBRARIES[target]
    assert record["libraries"] == {library: libraries.library_version(library)}
    assert record["gpu"] is None
    assert record["min_agreement"] == (0.98 if precision == "int8" else 0.995)
    assert record["build_s"] >= 0
    assert record["peak_memory_bytes"] > 10 << 20
    assert record["machine"] == cpu.describe()
    checked = 6 if precision == "int8" else 12  # the other half calibrates
    assert record["parity"]["photos"] == checked
    assert record["parity"]["top1_agreement"] == 1.0
    assert 0 <= record["parity"]["mean_abs_difference"] <= record["parity"]["max_abs_difference"] < tolerance
    assert len(record["parity"]["worst_photos"]) == 5
    assert list(record["parity"]["batches"]) == ["1", "2", "4"]
    assert record["parity"]["non_finite"] == 0
    assert record["parity"]["kl_divergence"] >= 0
    assert record["parity"]["labelled"] is None
    verdict = record["verdict"]
    assert (verdict["refused"], verdict["flips"], verdict["low"]) == ("", 0, 0.0)
    assert verdict["photos"] + verdict["near_ties"] == checked
    assert 0 <= verdict["log_odds_change"] < verdict["max_log_odds_change"] == record["max_log_odds_change"]
    assert record["images_per_s"] > 0
    folder = os.path.join(tiny_bundle, "engines", name)
    assert set(record["files"]) == set(os.listdir(folder)) - {"engine.json"} != set()
    checksums.check_files(folder, record["files"], sums=True)
    assert set(kinds.module_of(target).FILES) <= set(record["files"])  # what it will open

    said = capsys.readouterr()
    assert said.out.startswith(
        "%s beside the original, on %d photos\n" % (name, checked)
    )  # and nothing of the libraries' own
    assert "--engine " + name in said.out
    assert "same label on %d of %d photos" % (verdict["photos"], verdict["photos"]) in said.out
    undecided = re.search(r"about \d+ photos could tell \(--calibration DIR", said.out) is not None
    assert undecided == (not verdict["decided"]) == (verdict["log_odds_change"] > 0.001)
    assert "only 12 photos to check the engine on: give 100 or more with --calibration" in said.err

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


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["model.onnx", "sample/000.png"])
def test_what_a_conversion_reads_is_checked_first(tiny_bundle, target, name):
    if target == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not for this Python")
    helpers.flip_byte(os.path.join(tiny_bundle, name))
    done = helpers.picnic_edge("convert", tiny_bundle, "--to", target)
    assert done.returncode == 5 and done.stdout == b""
    assert "its file %s is not the one that was written; make the bundle again, or copy" % name in done.stderr
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


def test_the_default_precision_is_the_library_s_first(tiny_bundle):
    convert(tiny_bundle, "onnxruntime", "--max-batch", "1")
    assert os.listdir(os.path.join(tiny_bundle, "engines")) == ["onnxruntime-fp32"]


def test_the_command_converts_and_keeps_stdout_for_its_result(tiny_bundle):
    done = helpers.picnic_edge("convert", tiny_bundle, "--to", "onnxruntime")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"onnxruntime-fp32 beside the original, on 12 photos\n")
    assert "checking onnxruntime-fp32 on 12 photos" in done.stderr


def test_converting_again_replaces_the_engine(tiny_bundle):
    convert(tiny_bundle, "onnxruntime", "--max-batch", "2")
    convert(tiny_bundle, "onnxruntime", "--max-batch", "3")
    assert os.listdir(os.path.join(tiny_bundle, "engines")) == ["onnxruntime-fp32"]
    assert engine_record(tiny_bundle, "onnxruntime-fp32")["batch_profile"]["max"] == 3


def test_the_command_that_makes_an_engine_again_makes_the_same(tiny_bundle, photos, tmp_path):
    table = str(tmp_path / "two words.tsv")
    helpers.write_table(table, [("red/00.jpg", "red"), ("blue things/00.jpg", "blue things")])
    bundle = shutil.move(tiny_bundle, str(tmp_path / "my bundle"))
    options = ["--max-batch", "3", "--calibration", photos, "--labels", table, "--images", photos]
    options += ["--max-log-odds-change", "0.5", "--max-f1-drop", "0.25"]
    convert(bundle, "onnxruntime", "--precision", "int8", "--min-agreement", "0.5", *options)
    before = engine_record(bundle, "onnxruntime-int8")
    helpers.flip_byte(os.path.join(bundle, "engines", "onnxruntime-int8", OPTIMIZED_MODEL))
    with pytest.raises(BundleError) as refused:
        open_engine(Bundle.open(bundle), "onnxruntime-int8")
    command = shlex.split(str(refused.value).split("make it again: ")[1])
    assert command[:2] == ["picnic-edge", "convert"]
    cli.main(command[2:])
    after = engine_record(bundle, "onnxruntime-int8")
    for fact in ("batch_profile", "files") + conversion.OPTIONS:
        assert after[fact] == before[fact]


def test_the_speed_in_full_batches_is_measured_also_with_fewer_photos():
    sizes = []
    engine = types.SimpleNamespace(infer=lambda batch: sizes.append(len(batch)))
    assert check._speed(engine, np.zeros((2, 1, 1, 3), np.uint8), 5) > 0
    assert set(sizes) == {5}


def test_the_speed_is_kept_for_folders_and_for_a_camera(tiny_bundle):
    convert(tiny_bundle, "onnxruntime", "--max-batch", "3")
    record = engine_record(tiny_bundle, "onnxruntime-fp32")
    assert record["images_per_s"] > 0 and record["images_per_s_b1"] > 0
    convert(tiny_bundle, "onnxruntime", "--max-batch", "1")
    record = engine_record(tiny_bundle, "onnxruntime-fp32")
    assert record["images_per_s"] == record["images_per_s_b1"]


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
    assert "another label than the original's on 8 of 12 photos; even the lower end" in said
    assert "34.9 %, is more than the 0.5 % of --min-agreement" in said
    assert said.split("\n")[2] == "batch  same label  largest difference  KL divergence  log-odds change  non-finite"
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
    with pytest.raises(ParityError, match="8 of 12 photos(.|\n)*30 % of --min-agreement"):
        convert(tiny_bundle, "onnxruntime", "--min-agreement", "0.7")
    with pytest.raises(ParityError, match="log-odds(.|\n)* 0.1 % of --max-log-odds-change"):
        convert(tiny_bundle, "onnxruntime", "--min-agreement", "0.33")
    convert(tiny_bundle, "onnxruntime", "--min-agreement", "0.33", "--max-log-odds-change", "9")
    record = engine_record(tiny_bundle, "onnxruntime-fp32")
    assert (record["min_agreement"], record["max_log_odds_change"]) == (0.33, 9)
    assert record["parity"]["top1_agreement"] == pytest.approx(1 / 3.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_engine_that_answers_nan_is_refused_even_by_the_widest_gate(tiny_bundle, monkeypatch, value):
    monkeypatch.setattr("convert.onnxruntime.build", wrong_build(lambda values: values * np.float32(value)))
    with pytest.raises(ParityError, match="onnxruntime-fp32 .*36 of .*NaN"):
        convert(tiny_bundle, "onnxruntime", *WIDEST)
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


def test_a_layer_that_is_5_percent_too_strong_is_refused_though_no_label_changes(tiny_bundle, monkeypatch):
    monkeypatch.setattr("convert.onnxruntime.build", wrong_build(lambda values: values * np.float32(1.05)))
    with pytest.raises(ParityError, match="log-odds .* by 5.0[0-9] %, more than the 0.1 %(.|\n)*100.00 %"):
        convert(tiny_bundle, "onnxruntime")


def test_a_fault_that_bf16_s_own_rounding_hides_is_refused(tiny_bundle, monkeypatch):
    """The same files are computed in fp32, too, where it shows."""
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not for this Python")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bf16 instructions")
    from convert import openvino as builder

    def build(bundle, settings, folder):
        wrong_build(lambda values: values * np.float32(1.02))(bundle, settings, folder)
        model = os.path.join(folder, OPTIMIZED_MODEL)
        facts = built(types.SimpleNamespace(checked=lambda name: model), settings, folder)
        os.remove(model)
        return facts

    built = builder.build
    monkeypatch.setattr(builder, "build", build)
    with pytest.raises(ParityError, match="openvino-bf16, computed in fp32, .*log-odds .* by 2.0[0-9] %"):
        convert(tiny_bundle, "openvino", "--precision", "bf16")
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))
    convert(tiny_bundle, "openvino", "--precision", "bf16", "--max-log-odds-change", "0.1")  # for both precisions
    assert engine_record(tiny_bundle, "openvino-bf16")["max_log_odds_change"] == 0.1


# ---- photos to check on


@pytest.mark.parametrize(
    "photo_count, precision, builds", [(1, "fp32", 0), (5, "fp32", 1), (8, "int8", 0), (9, "int8", 1)]
)
def test_photos_that_decide_nothing_are_refused_before_the_build(
    tiny_bundle, tmp_path, monkeypatch, photo_count, precision, builds
):
    from convert import onnxruntime as builder

    (tmp_path / "few").mkdir()
    for number, (name, _) in enumerate(helpers.write_photos(tmp_path / "all", per_class=3)[:photo_count]):
        shutil.copy(str(tmp_path / "all" / name), str(tmp_path / "few" / ("%d.jpg" % number)))
    seen, built = [], builder.build

    def build(bundle, settings, folder):
        seen.append(settings.calibration.names)
        return built(bundle, settings, folder)

    monkeypatch.setattr(builder, "build", build)
    options = [tiny_bundle, "onnxruntime", "--precision", precision, "--calibration", str(tmp_path / "few")]
    if builds:
        convert(*options)
        parity = engine_record(tiny_bundle, "onnxruntime-%s" % precision)["parity"]
        assert parity["photos"] == 5
        shared = set(parity["worst_photos"]) & set(seen[0])
        assert shared == (set() if precision == "int8" else set(seen[0]))
        return
    with pytest.raises(ParityError, match="was not built: nothing can be decided .*--calibration DIR"):
        convert(*options)
    assert seen == [] and not os.path.exists(os.path.join(tiny_bundle, "engines"))


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


@pytest.mark.parametrize("copies, enough", [(4, False), (5, True)])
def test_copies_of_a_photo_count_once(tiny_bundle, tmp_path, capsys, copies, enough):
    for number, (name, _) in enumerate(helpers.write_photos(tmp_path / "all", per_class=2)[:copies]):
        for again in ("a", "b", "c"):
            target = tmp_path / "copies" / ("%d%s.jpg" % (number, again))
            helpers.write_bytes(str(target), (tmp_path / "all" / name).read_bytes())
    options = [tiny_bundle, "onnxruntime", "--calibration", str(tmp_path / "copies")]
    if enough:
        convert(*options)
        assert engine_record(tiny_bundle, "onnxruntime-fp32")["parity"]["photos"] == copies
    else:
        with pytest.raises(ParityError, match="nothing can be decided .*here %d" % copies):
            convert(*options)
    said = "%d of %d photos to check on have the same pixels as another" % (2 * copies, 3 * copies)
    assert said in capsys.readouterr().err


def test_the_gate_holds_on_calibration_photos(tiny_bundle, photos, monkeypatch):
    monkeypatch.setattr("convert.onnxruntime.build", wrong_build(swap_two_classes))
    with pytest.raises(ParityError, match="6 of 9 photos"):
        convert(tiny_bundle, "onnxruntime", "--calibration", photos)
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


def test_no_more_than_the_limit_of_calibration_photos_is_used(tiny_bundle, photos, monkeypatch, capsys):
    monkeypatch.setattr(reference, "MAX_PHOTOS", 5)
    convert(tiny_bundle, "onnxruntime", "--calibration", photos)
    found = engine_record(tiny_bundle, "onnxruntime-fp32")["parity"]
    assert found["photos"] == 5
    assert {os.path.dirname(name) for name in found["worst_photos"]} == set(os.listdir(photos))  # of every class
    assert "5 of its 9 photos are used, evenly spread" in capsys.readouterr().err


@pytest.mark.parametrize("content", [{}, {"a.jpg": b"nothing", "b.png": b""}], ids=["empty folder", "none readable"])
def test_calibration_without_a_readable_photo_exits_with_2(tiny_bundle, tmp_path, content):
    folder = tmp_path / "calibration"
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    before = everything_below(tiny_bundle)
    with pytest.raises(UsageError, match="--calibration"):
        convert(tiny_bundle, "onnxruntime", "--calibration", str(folder))
    assert everything_below(tiny_bundle) == before


def test_calibration_folder_that_is_not_there_exits_with_2(tiny_bundle, tmp_path):
    with pytest.raises(UsageError, match="nosuch: "):
        convert(tiny_bundle, "onnxruntime", "--calibration", str(tmp_path / "nosuch"))
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


# ---- what cannot be made


@pytest.mark.parametrize(
    "target, precision, said",
    [
        ("onnxruntime", "bf16", "onnxruntime .*fp32 or int8.*bf16"),
        ("openvino", "fp16", "openvino .*fp32 or bf16 or int8.*fp16"),
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
        ["--to", "onnxruntime", "--workspace-mib", "0"],
        ["--to", "onnxruntime", "--max-log-odds-change", "inf"],
        ["--to", "onnxruntime", "--max-log-odds-change", "nan"],
    ],
)
def test_senseless_options_exit_with_2(tiny_bundle, arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([tiny_bundle] + arguments)
    assert stopped.value.code == 2
    assert (arguments[-2] if arguments else "--to") in capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("--labels", "."), ("--calibration", ".")])
def test_a_folder_of_a_table_s_photos_without_a_table_exits_with_2(tiny_bundle, more):
    with pytest.raises(UsageError, match="--images .*TSV"):
        convert(tiny_bundle, "onnxruntime", "--images", ".", *more)


def test_a_batch_out_of_all_proportion_exits_with_2(tiny_bundle):
    with pytest.raises(UsageError, match="--max-batch 1025: .*1024"):
        convert(tiny_bundle, "onnxruntime", "--max-batch", "1025")
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


def test_a_folder_that_is_no_bundle_exits_with_2(tmp_path):
    with pytest.raises(UsageError, match="no.* bundle"):
        convert(str(tmp_path), "onnxruntime")
    assert os.listdir(str(tmp_path)) == []


def test_tensorrt_exits_with_4_and_says_what_to_install(tiny_bundle):  # tf-trt: test_tf_trt.py
    before = everything_below(tiny_bundle)
    done = helpers.picnic_edge("convert", tiny_bundle, "--to", "tensorrt")
    assert done.returncode == 4, done.stderr
    message = done.stderr[done.stderr.rindex("picnic-edge: ") :]
    assert "TensorRT" in message or "tensorrt" in message
    assert "install" in message or "use --to onnxruntime" in message
    assert "Traceback" not in done.stderr
    assert done.stdout == b""
    assert everything_below(tiny_bundle) == before


@pytest.mark.parametrize(
    "precision, library", [("fp32", "onnxruntime"), ("int8", "onnx"), ("int8", "onnxruntime.quantization")]
)
def test_onnxruntime_s_libraries_missing_exit_with_4_before_the_work(tiny_bundle, monkeypatch, precision, library):
    monkeypatch.setattr(reference, "reference_sample", no_work)
    monkeypatch.setitem(sys.modules, library, None)  # importing it raises ImportError
    with pytest.raises(MissingRequirement, match=library.split(".")[0]):
        convert(tiny_bundle, "onnxruntime", "--precision", precision)
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


def test_openvino_missing_exits_with_4_and_names_the_command(tiny_bundle, monkeypatch):
    monkeypatch.setattr(reference, "reference_sample", no_work)
    monkeypatch.setitem(sys.modules, "openvino", None)  # importing it raises ImportError
    with pytest.raises(MissingRequirement, match="pip install 'openvino"):
        convert(tiny_bundle, "openvino")
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


def test_bf16_on_a_cpu_without_it_exits_with_4(tiny_bundle, monkeypatch):
    monkeypatch.setattr(reference, "reference_sample", no_work)

    class Core:
        def get_property(self, device, name):
            return ["FP32", "INT8", "BIN"]

    monkeypatch.setattr("convert.openvino.require", lambda module: types.SimpleNamespace(Core=Core))
    with pytest.raises(MissingRequirement, match="bf16.*--precision fp32"):
        convert(tiny_bundle, "openvino", "--precision", "bf16")
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


# ---- interrupted and failed conversions


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, RuntimeError])
def test_a_build_that_stops_half_way_leaves_nothing(tiny_bundle, monkeypatch, error):
    def build(bundle, settings, folder):
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
        convert(tiny_bundle, "openvino", "--precision", "fp16")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingRequirement):
        convert(tiny_bundle, "openvino")
    assert os.listdir(os.path.join(tiny_bundle, "engines")) == ["onnxruntime-fp32"]


def test_the_sample_s_photos_are_the_network_s_own_input(pristine_bundle):
    sample = reference.reference_sample(Bundle.open(pristine_bundle))
    assert sample.images.shape == (12,) + spec.INCEPTION_V3.shape
    assert sample.images.dtype == np.uint8
    assert sorted(set(sample.labels)) == sorted(helpers.COLOURS)


# ---- several conversions at once, killed ones, full and read-only disks


SLOW_BUILD = """
import sys, time
from convert import cli, conversion, onnxruntime
from edge_runtime.engines import check
built = onnxruntime.build
stage = sys.argv[1]

def stop():
    print("here", flush=True)
    time.sleep(600)

def build(bundle, settings, folder):
    if stage == "before the build":
        stop()
    facts = built(bundle, settings, folder)
    if stage == "after the build":
        stop()
    return facts

onnxruntime.build = build
if stage == "reading the photos":
    conversion.reference.reference_sample = lambda *_: stop()
if stage == "checking":
    conversion.check = lambda *_: stop()
if stage == "before it is published":
    conversion.files._exchange = conversion.files.os.rename = lambda *_: stop()
if stage == "after it is published":
    conversion.files.shutil.rmtree = lambda *_, **__: stop()
check.SPEED_S = 0.02
cli.main(sys.argv[2:])
"""


def start(stage, *arguments):
    """Starts a conversion that stops and waits at a stage; returns once it is there."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_BUILD, stage] + list(arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ, PYTHONPATH=helpers.ROOT),
    )
    assert process.stdout.readline() == b"here\n"
    return process


def kill(process):
    process.kill()
    process.wait()
    process.stdout.close()


def unfinished(bundle):
    return [name for name in os.listdir(os.path.join(bundle, "engines")) if name.endswith(".unfinished")]


@pytest.mark.parametrize(
    "older, stage",
    [(True, stage) for stage in ("reading the photos", "before the build", "after the build", "before it is published")]
    + [(False, stage) for stage in ("before the build", "checking")],
)
def test_a_killed_conversion_leaves_the_bundle_as_it_was_and_the_next_one_cleans_up(tiny_bundle, stage, older):
    if older:
        convert(tiny_bundle, "onnxruntime", "--max-batch", "3")
    before = everything_below(tiny_bundle)
    kill(start(stage, tiny_bundle, "--to", "onnxruntime"))
    left = everything_below(tiny_bundle)
    assert {name: left[name] for name in left if "unfinished" not in name and not name.endswith("engines")} == {
        name: before[name] for name in before if not name.endswith("engines")
    }
    assert len(unfinished(tiny_bundle)) == 1
    names = [info.name for info in list_engines(Bundle.open(tiny_bundle))]
    assert names == (["onnxruntime-fp32"] if older else []) + ["onnxruntime"]
    convert(tiny_bundle, "onnxruntime")
    assert os.listdir(os.path.join(tiny_bundle, "engines")) == ["onnxruntime-fp32"]
    open_engine(Bundle.open(tiny_bundle), "onnxruntime-fp32").close()


def test_killed_after_its_engine_was_exchanged_the_new_one_is_whole(tiny_bundle):
    convert(tiny_bundle, "onnxruntime", "--max-batch", "3")
    kill(start("after it is published", tiny_bundle, "--to", "onnxruntime", "--max-batch", "5"))
    assert engine_record(tiny_bundle, "onnxruntime-fp32")["batch_profile"]["max"] == 5
    open_engine(Bundle.open(tiny_bundle), "onnxruntime-fp32").close()


def test_a_conversion_at_work_is_not_cleaned_away_by_another(tiny_bundle):
    process = start("before the build", tiny_bundle, "--to", "onnxruntime", "--precision", "int8")
    try:
        convert(tiny_bundle, "onnxruntime")
        assert len(unfinished(tiny_bundle)) == 1
        assert engine_record(tiny_bundle, "onnxruntime-fp32")
    finally:
        kill(process)


def test_conversions_of_the_same_bundle_at_the_same_time_all_succeed(tiny_bundle):
    targets = [("onnxruntime", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("onnxruntime", "fp32")]
    command = [
        sys.executable,
        "-c",
        "from convert import cli; from edge_runtime.engines import check; check.SPEED_S = 0.02; cli.main()",
        tiny_bundle,
    ]
    running = [
        subprocess.Popen(
            command + ["--to", target, "--precision", precision, "--max-batch", str(number + 1)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(os.environ, PYTHONPATH=helpers.ROOT),
        )
        for number, (target, precision) in enumerate(targets)
    ]
    for process in running:
        said = process.communicate()[0].decode()
        assert process.returncode == 0, said
    assert sorted(os.listdir(os.path.join(tiny_bundle, "engines"))) == ["onnxruntime-fp32", "onnxruntime-int8"]
    for name in ("onnxruntime-fp32", "onnxruntime-int8"):
        open_engine(Bundle.open(tiny_bundle), name).close()


def test_another_conversion_that_fails_does_not_take_the_folder_away(tiny_bundle, monkeypatch):
    """It removes the engines folder that it made; this one makes it again."""
    made = os.makedirs
    calls = []

    def makedirs(path, **settings):
        made(path, **settings)
        if path.endswith("engines") and not calls:
            calls.append(path)
            os.rmdir(path)

    monkeypatch.setattr(os, "makedirs", makedirs)
    convert(tiny_bundle, "onnxruntime")
    assert calls
    assert os.listdir(os.path.join(tiny_bundle, "engines")) == ["onnxruntime-fp32"]


def no_work(*_):
    raise AssertionError("the long work began")


def test_a_bundle_that_cannot_be_written_to_exits_with_2_before_the_work(tiny_bundle, monkeypatch):
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
    monkeypatch.setattr(reference, "reference_sample", no_work)
    with pytest.raises(UsageError, match="bundle: .*read-only disk"):
        convert(tiny_bundle, "onnxruntime")


def test_engines_that_is_no_folder_exits_with_2(tiny_bundle, monkeypatch):
    helpers.write_bytes(os.path.join(tiny_bundle, "engines"), b"")
    monkeypatch.setattr(reference, "reference_sample", no_work)
    with pytest.raises(UsageError, match="engines: "):
        convert(tiny_bundle, "onnxruntime")


def disk_with(free_bytes):
    return lambda path: types.SimpleNamespace(total=1 << 40, used=0, free=free_bytes)


def test_a_disk_too_small_exits_with_2_before_the_work(tiny_bundle, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", disk_with(100))
    monkeypatch.setattr(reference, "reference_sample", no_work)
    with pytest.raises(UsageError, match="0 MiB"):
        convert(tiny_bundle, "onnxruntime")
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


def child_error(number):
    error = ChildError("building x failed: a traceback")
    error.errno = number
    return error


@pytest.mark.parametrize(
    "error, free_bytes, expected",
    [
        (child_error(errno.ENOSPC), 1 << 40, UsageError),
        (child_error(None), 1 << 40, ChildError),
        (OSError(errno.ENOSPC, "No space left on device"), 1 << 40, UsageError),
        (RuntimeError("some library's words"), 4096, UsageError),
        (RuntimeError("some library's words"), 1 << 40, RuntimeError),
        (OSError(errno.EIO, "Input/output error"), 1 << 40, OSError),
    ],
)
def test_a_disk_that_fills_up_is_named_whatever_the_library_says(tiny_bundle, monkeypatch, error, free_bytes, expected):
    def build(bundle, settings, folder):
        monkeypatch.setattr(shutil, "disk_usage", disk_with(free_bytes))
        raise error

    monkeypatch.setattr("convert.onnxruntime.build", build)
    before = everything_below(tiny_bundle)
    with pytest.raises(expected, match="disk" if expected is UsageError else None):
        convert(tiny_bundle, "onnxruntime")
    assert everything_below(tiny_bundle) == before


# ---- int8


def add_convolution(folder):
    """Puts a convolution that changes nothing before the mean of a bundle of write_tiny_bundle."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(os.path.join(folder, "model.onnx"))
    cast, scale, mean = model.graph.node[:3]
    mean.input[0], mean.attribute[0].ints[:] = "same", [2, 3]
    more = [
        helper.make_node("Transpose", [scale.output[0]], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["places"], kernel_shape=[13, 13], strides=[13, 13]),
        helper.make_node("Conv", ["places", "kernel"], ["convolved"], name="conv"),
        helper.make_node("Relu", ["convolved"], ["positive"]),
        # ONNX Runtime 1.10 computes a convolution in 8 bits only where its Relu is followed by another such node.
        helper.make_node("AveragePool", ["positive"], ["same"], kernel_shape=[1, 1]),
    ]
    nodes = [cast, scale] + more + list(model.graph.node[2:])
    model.graph.initializer.append(numpy_helper.from_array(np.eye(3, dtype=np.float32)[:, :, None, None], "kernel"))
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    onnx.save(model, os.path.join(folder, "model.onnx"))
    os.unlink(os.path.join(folder, manifest.MANIFEST))
    writing.write_manifest(folder, sorted(helpers.COLOURS), to_manifest(INCEPTION_V3), {}, {})


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_int8_quantizes_the_convolutions_by_the_given_photos(tiny_bundle, photos, target):
    pytest.importorskip({"openvino": "nncf"}.get(target, target))
    bundle = tiny_bundle
    add_convolution(bundle)
    convert(bundle, target, "--precision", "int8", "--calibration", photos)
    folder = os.path.join(bundle, "engines", target + "-int8")
    record = engine_record(bundle, target + "-int8")
    assert set(record["files"]) == set(os.listdir(folder)) - {"engine.json"}  # no litter of the quantizer's
    assert record["parity"]["photos"] == 5  # the other 4 calibrate
    assert record["parity"]["top1_agreement"] == 1.0
    assert 0 < record["parity"]["max_abs_difference"] < 0.1
    if target == "openvino":
        assert record["quantizer"] == {"nncf": libraries.library_version("nncf")}
        with open(os.path.join(folder, "model.xml"), encoding="utf-8") as file:
            assert "FakeQuantize" in file.read()
    else:
        import onnx

        graph = onnx.load(os.path.join(folder, OPTIMIZED_MODEL)).graph
        assert any(node.op_type == "QLinearConv" for node in graph.node)
        assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_the_quantizer_leaves_nothing_where_the_command_runs(tiny_bundle, tmp_path, monkeypatch):
    add_convolution(tiny_bundle)
    here = str(tmp_path / "here")
    os.mkdir(here)
    monkeypatch.chdir(here)
    convert(os.path.join("..", "bundle"), "onnxruntime", "--precision", "int8")
    assert (os.listdir(here), os.getcwd()) == ([], here)
    assert sorted(os.listdir(os.path.join(tiny_bundle, "engines", "onnxruntime-int8"))) == [
        "engine.json",
        OPTIMIZED_MODEL,
    ]


def test_nncf_missing_exits_with_4_and_names_the_command(tiny_bundle, monkeypatch):
    pytest.importorskip("openvino", reason="OpenVINO is not for this Python")
    monkeypatch.setattr(reference, "reference_sample", no_work)
    monkeypatch.setitem(sys.modules, "nncf", None)  # importing it raises ImportError
    with pytest.raises(MissingRequirement, match="pip install nncf"):
        convert(tiny_bundle, "openvino", "--precision", "int8")
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


def test_openvino_and_nncf_report_nothing_to_their_maker(tiny_bundle, tmp_path):
    pytest.importorskip("nncf")
    home = tmp_path / "home"
    home.mkdir()
    done = helpers.picnic_edge(
        *["convert", tiny_bundle, "--to", "openvino", "--precision", "int8"],
        env={"HOME": str(home), "CI": "", "NNCF_CI": ""},
    )
    assert done.returncode == 0, done.stderr
    assert not os.path.exists(str(home / "intel"))  # where openvino_telemetry keeps the id of the user


# ---- LiteRT: the model of another machine


@pytest.fixture
def from_a_pc(tiny_bundle, monkeypatch):
    """A bundle with a LiteRT engine that another machine made; TensorFlow is not installed here."""
    need_litert()
    helpers.add_tiny_saved_model(tiny_bundle)
    folder = os.path.join(tiny_bundle, "engines", "litert-fp32")
    os.makedirs(folder)
    litert.convert(os.path.join(tiny_bundle, "saved_model"), os.path.join(folder, "model.tflite"), None)
    record = {
        "format_version": 1,
        "kind": "litert",
        "precision": "fp32",
        "source": {"bundle_id": Bundle.open(tiny_bundle).id},
        "machine": {"architecture": "vax", "cpu_features": []},
        "libraries": {"ai-edge-litert": "0.0.1"},
        "converter": {"tensorflow": "2.99"},
        "images_per_s": 1,
        "files": checksums.list_files(folder),
    }
    files.write_json(os.path.join(folder, "engine.json"), record)
    version = libraries.library_version
    monkeypatch.setattr(libraries, "library_version", lambda name: None if name == "tensorflow" else version(name))
    return tiny_bundle


def test_where_tensorflow_is_missing_the_model_of_another_machine_is_taken_and_checked(from_a_pc, capsys):
    with pytest.raises(BundleError, match="was made for vax"):
        open_engine(Bundle.open(from_a_pc), "litert-fp32")
    convert(from_a_pc, "litert")
    record = engine_record(from_a_pc, "litert-fp32")
    assert record["machine"] == cpu.describe() and record["converter"] == {"tensorflow": "2.99"}
    assert record["parity"]["top1_agreement"] == 1.0
    assert "another machine converted" in capsys.readouterr().err
    with open_engine(Bundle.open(from_a_pc), "litert-fp32") as engine:
        assert engine.name == "litert-fp32"


def test_a_damaged_model_of_another_machine_is_refused(from_a_pc):
    path = os.path.join(from_a_pc, "engines", "litert-fp32", "model.tflite")
    helpers.flip_byte(path)
    with pytest.raises(BundleError, match="model.tflite is not the one that was written"):
        convert(from_a_pc, "litert")
    assert os.path.exists(path)


def test_a_model_of_another_machine_that_litert_cannot_load_exits_with_5(from_a_pc):
    folder = os.path.join(from_a_pc, "engines", "litert-fp32")
    record = engine_record(from_a_pc, "litert-fp32")
    os.remove(os.path.join(folder, "engine.json"))
    helpers.write_bytes(os.path.join(folder, "model.tflite"), b"no flatbuffer")
    record["files"] = checksums.list_files(folder)
    del record["converter"]  # nor is what made it known
    files.write_json(os.path.join(folder, "engine.json"), record)
    with pytest.raises(BundleError, match="litert-fp32: litert cannot load its new model.tflite"):
        convert(from_a_pc, "litert")


@pytest.mark.parametrize("library, file", [("onnxruntime", OPTIMIZED_MODEL), ("openvino", "model.xml")])
def test_an_engine_that_its_library_cannot_load_exits_with_5(tiny_bundle, monkeypatch, library, file):
    if library == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not for this Python")

    def build(bundle, settings, folder):
        for name in kinds.module_of(library).FILES:
            helpers.write_bytes(os.path.join(folder, name), b"nothing")
        return {"libraries": {}, "gpu": None}

    monkeypatch.setattr("convert.%s.build" % library, build)
    before = everything_below(tiny_bundle)
    with pytest.raises(BundleError, match="%s-fp32: %s cannot load its new .*%s" % (library, library, file)):
        convert(tiny_bundle, library)
    assert everything_below(tiny_bundle) == before


def test_without_tensorflow_and_without_a_model_the_way_to_get_one_is_named(from_a_pc):
    with pytest.raises(MissingRequirement, match="TensorFlow.*\n.*pip install.*copy the bundle"):
        convert(from_a_pc, "litert", "--precision", "int8")


def test_litert_missing_exits_with_4_and_names_the_command(tiny_bundle, monkeypatch):
    monkeypatch.setattr(reference, "reference_sample", no_work)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)  # importing it raises ImportError
    monkeypatch.setattr(Bundle, "lists", lambda bundle, name: True)
    with pytest.raises(MissingRequirement, match="pip install ai-edge-litert"):
        convert(tiny_bundle, "litert")
    assert not os.path.exists(os.path.join(tiny_bundle, "engines"))


@pytest.mark.parametrize("target", ["litert", "tf-trt"])
def test_a_bundle_without_a_saved_model_is_told_which_engines_it_can_have(tiny_bundle, monkeypatch, target):
    monkeypatch.setattr(reference, "reference_sample", no_work)
    with pytest.raises(
        UsageError, match=f"--to {target}: .*saved_model.*expected --to onnxruntime, openvino, tensorrt"
    ):
        convert(tiny_bundle, target)
    with pytest.raises(UsageError, match="no engine tensorflow, only onnxruntime; .*saved_model"):
        find_engine(Bundle.open(tiny_bundle), "tensorflow")


# ---- labelled photos


def test_labelled_photos_are_scored_and_shown(tiny_bundle, tmp_path, capsys):
    rows = helpers.write_photos(tmp_path / "photos", per_class=2)
    helpers.write_table(str(tmp_path / "labels.tsv"), rows)
    convert(
        *[tiny_bundle, "onnxruntime", "--labels", str(tmp_path / "labels.tsv"), "--images", str(tmp_path / "photos")]
    )
    found = engine_record(tiny_bundle, "onnxruntime-fp32")["parity"]["labelled"]
    assert found == {
        "photos": 6,
        "top1_original": 1.0,
        "top1_engine": 1.0,
        "macro_f1_original": 1.0,
        "macro_f1_engine": 1.0,
        "macro_f1_drop": 0.0,
        "macro_f1_drop_low": pytest.approx(-0.459, abs=0.001),
        "macro_f1_drop_high": pytest.approx(0.459, abs=0.001),
        "labels_changed": 0,
    }
    said = capsys.readouterr().out
    assert "on 6 labelled photos" in said and "macro-F1 is the same" in said


def test_labelled_photos_refuse_what_the_widest_gate_lets_through(tiny_bundle, photos, monkeypatch):
    monkeypatch.setattr("convert.onnxruntime.build", wrong_build(swap_two_classes))
    before = everything_below(tiny_bundle)
    with pytest.raises(ParityError, match="macro-F1 .*66.67"):
        convert(tiny_bundle, "onnxruntime", *WIDEST, "--labels", photos)
    assert everything_below(tiny_bundle) == before
    convert(tiny_bundle, "onnxruntime", *WIDEST, "--labels", photos, "--max-f1-drop", "0.9")
    assert engine_record(tiny_bundle, "onnxruntime-fp32")["max_f1_drop"] == 0.9


def test_a_table_without_labels_exits_with_2_before_the_work(tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "labels.tsv").write_text("file\nred.jpg\n")
    monkeypatch.setattr("convert.onnxruntime.build", no_work)
    with pytest.raises(UsageError, match="column.*label"):
        convert(tiny_bundle, "onnxruntime", "--labels", str(tmp_path / "labels.tsv"))
