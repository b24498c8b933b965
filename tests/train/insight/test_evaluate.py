"""picnic-edge evaluate, on the tiny bundle that names colours."""

import csv
import hashlib
import json
import os
import shutil
import sys

import pytest

from edge_runtime.bundle import manifest, writing
from edge_runtime.errors import BundleError, MissingRequirement, UsageError
from edge_runtime.machine import cpu
from edge_runtime.photos import spec
from tests import helpers
from train.cli import evaluate as verb
from train.insight import evaluate, report
from train.model import metrics

BLUE, GREEN, RED = sorted(helpers.COLOURS)


@pytest.fixture
def labelled(tmp_path):
    """(folder, rows): photos of three colours, one of the red ones labelled as green."""
    rows = helpers.write_photos(tmp_path / "photos", per_class=3)
    rows[-1] = (rows[-1][0], GREEN)
    helpers.write_table(tmp_path / "test.tsv", rows)
    return str(tmp_path / "photos"), rows


def read_table(path):
    with open(str(path), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, dialect="excel-tab"))


def test_table_and_totals(tiny_bundle, labelled, tmp_path, capsys):
    verb.main([tiny_bundle, str(tmp_path / "test.tsv"), "--images", labelled[0]])
    lines = capsys.readouterr().out.splitlines()
    # green: 4 photos, 3 found, nothing else called green -> 1, 0.75; red: 2 found, 1 wrongly claimed -> 2/3, 1
    assert lines[1].split()[-5:] == ["red", "0.667", "1.000", "0.800", "2"]
    assert lines[2].split()[-4:] == ["1.000", "0.750", "0.857", "4"]
    assert lines[2].startswith(GREEN)
    assert lines[3].split()[-4:] == ["1.000", "1.000", "1.000", "3"]
    assert lines[-2].startswith("95 % interval: accuracy 0.")
    assert lines[-1] == "accuracy 0.8889, macro-F1 %.4f on 9 photos, with onnxruntime" % ((0.8 + 6 / 7.0 + 1) / 3)


def test_json_is_one_document(tiny_bundle, labelled, tmp_path):
    done = helpers.picnic_edge("evaluate", tiny_bundle, tmp_path / "test.tsv", "--images", labelled[0], "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.decode("utf-8"))
    assert result["accuracy"] == pytest.approx(8 / 9.0)
    assert result["macro_f1"] == pytest.approx((0.8 + 6 / 7.0 + 1) / 3)
    assert (result["photos"], result["set_aside"], result["engine"]) == (9, 0, "onnxruntime")
    assert [row["label"] for row in result["per_class"]] == [BLUE, GREEN, RED]
    assert set(result["per_class"][0]) == {"label", "precision", "recall", "f1", "photos"}
    assert result["machine"] == cpu.describe()
    for name in ("accuracy", "macro_f1"):
        low, high = result[name + "_interval"]
        assert 0 < low < result[name] < high <= 1
    assert 0 < result["expected_calibration_error"] < 1
    assert result["coverage"][0] == {"threshold": 0, "coverage": 1, "accuracy": result["accuracy"]}
    assert result["photos_trained_on"] is None  # the bundle does not say


def test_report_files_agree_with_each_other(tiny_bundle, labelled, tmp_path, capsys):
    folder = tmp_path / "a" / "report"
    verb.main([tiny_bundle, str(tmp_path / "test.tsv"), "--images", labelled[0], "--report", str(folder)])
    assert sorted(os.listdir(str(folder))) == ["evaluation.html", "evaluation.json", "per_class.tsv", "predictions.tsv"]
    result = json.loads((folder / "evaluation.json").read_text())
    predictions = read_table(folder / "predictions.tsv")
    assert [(row["file"], row["truth"]) for row in predictions] == labelled[1]
    truth, found = ([row[name] for row in predictions] for name in ("truth", "label"))
    accuracy, macro_f1, table = metrics.score(truth, found, [BLUE, GREEN, RED])
    assert (accuracy, macro_f1) == (result["accuracy"], result["macro_f1"])
    per_class = read_table(folder / "per_class.tsv")
    assert [(row["label"], float(row["f1"])) for row in per_class] == [(row.label, row.f1) for row in table]
    for row in predictions:
        assert sorted([row["label"], row["label_2"], row["label_3"]]) == [BLUE, GREEN, RED]
        assert float(row["confidence"]) >= float(row["confidence_2"]) >= float(row["confidence_3"])
    assert str(folder) in capsys.readouterr().err


def test_class_folders_work_as_well(tiny_bundle, labelled, capsys):
    verb.main([tiny_bundle, labelled[0]])
    assert "accuracy 1.0000, macro-F1 1.0000 on 9 photos" in capsys.readouterr().out


def test_what_cannot_be_scored_is_named_and_counted(tiny_bundle, labelled, tmp_path, capsys):
    folder, rows = labelled
    with open(os.path.join(folder, "broken.jpg"), "wb") as file:
        file.write(b"nothing")
    more = [("missing.jpg", RED), ("broken.jpg", RED), (rows[0][0], rows[0][1]), ("x.jpg", "purple"), ("/y.jpg", RED)]
    helpers.write_table(tmp_path / "more.tsv", rows + more)
    out = tmp_path / "report"
    verb.main([tiny_bundle, str(tmp_path / "more.tsv"), "--images", folder, "--json", "--report", str(out)])
    said = capsys.readouterr()
    named = {row["file"]: row["error"] for row in read_table(out / "predictions.tsv") if row["error"]}
    assert named["broken.jpg"].startswith("is not a JPEG") and len(named) == 5
    page = (out / "evaluation.html").read_text(encoding="utf-8")
    assert all(name in page[page.index('id="problems"') :] for name in named)
    result = json.loads(said.out)
    assert (result["photos"], result["set_aside"]) == (9, 5)
    assert result["accuracy"] == pytest.approx(8 / 9.0)
    for words in (
        "No such file or directory: missing.jpg",
        "picture, but text: broken.jpg",
        "is listed more than once: counted once: " + rows[0][0],
        "label 'purple' is not among the training classes: x.jpg",
        "absolute path; names are relative to the images folder: /y.jpg",
    ):
        assert words in said.err


@pytest.mark.parametrize(
    "row, said",
    [(("x.jpg", "purple"), "no photo.*label"), (("x.jpg", RED), "no photo that can be read")],
)
def test_nothing_to_score_exits_with_2(tiny_bundle, tmp_path, row, said):
    helpers.write_table(tmp_path / "t.tsv", [row])
    with pytest.raises(UsageError, match=said):
        verb.main([tiny_bundle, str(tmp_path / "t.tsv")])


def test_a_report_that_cannot_be_written_exits_with_2(tiny_bundle, labelled, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--report .*file: "):
        verb.main([tiny_bundle, labelled[0], "--report", str(tmp_path / "file")])


def test_an_unknown_engine_exits_with_2(tiny_bundle, labelled):
    with pytest.raises(UsageError, match="nosuch"):
        verb.main([tiny_bundle, labelled[0], "--engine", "nosuch"])


def signed_again(folder, class_names, **training):
    """Gives a bundle other classes, or another record of its training."""
    os.unlink(os.path.join(folder, manifest.MANIFEST))
    writing.write_manifest(folder, class_names, spec.to_manifest(spec.INCEPTION_V3), {}, training)
    return folder


@pytest.fixture
def worse_bundle(tiny_bundle, tmp_path):
    """The tiny bundle, which calls red things violet and knows no red ones."""
    return signed_again(shutil.copytree(tiny_bundle, str(tmp_path / "worse")), [BLUE, GREEN, "violet"])


def test_several_bundles_stand_side_by_side_best_first(tiny_bundle, worse_bundle, labelled, tmp_path, capsys):
    helpers.write_table(tmp_path / "v.tsv", labelled[1] + [("v.jpg", "mauve")])
    verb.main([worse_bundle, tiny_bundle, str(tmp_path / "v.tsv"), "--images", labelled[0]])
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert (
        " ".join(lines[0].split()) == "bundle id engine accuracy macro-F1 95 % interval against first ECE MB images/s"
    )
    assert [line.split()[0] for line in lines[1:3]] == [tiny_bundle, worse_bundle]
    assert lines[1].split()[2:5] == ["onnxruntime", "0.8889", "%.4f" % ((0.8 + 6 / 7.0 + 1) / 3)]
    # green 3 of 4 found, blue 3 of 3, the two red ones wrong; red and violet score 0
    assert lines[2].split()[2:5] == ["onnxruntime", "0.6667", "%.4f" % ((0 + 0 + 6 / 7.0 + 1) / 4)]
    assert " +0 -2 " in lines[2]
    assert lines[-1].startswith("9 photos; ")
    assert worse_bundle + ": does not know red: 2 photos count as wrong for it" in said.err
    assert tiny_bundle + ": does not know" not in said.err
    assert "label 'mauve' is not among the training classes: v.jpg" in said.err


def test_several_bundles_in_one_json_document(tiny_bundle, worse_bundle, labelled, capsys):
    verb.main([worse_bundle, tiny_bundle, labelled[0], "--json"])
    first, second = json.loads(capsys.readouterr().out)["bundles"]
    assert (first["bundle"], second["bundle"]) == (tiny_bundle, worse_bundle)
    assert (first["photos"], second["photos"]) == (9, 9)
    assert (first["photos_unknown_label"], second["photos_unknown_label"]) == (0, 3)
    assert (second["only_it_is_right"], second["only_first_is_right"]) == (0, 3)
    assert first["bundle_id"] != second["bundle_id"]
    assert first["model_bytes"] == os.path.getsize(os.path.join(tiny_bundle, "model.onnx"))
    assert first["images_per_s"] > 0


def test_a_broken_bundle_among_several_does_not_stop_the_others(tiny_bundle, labelled, tmp_path):
    broken = shutil.copytree(tiny_bundle, str(tmp_path / "broken"))
    helpers.flip_byte(os.path.join(broken, "model.onnx"))
    done = helpers.picnic_edge(
        "evaluate", broken, tiny_bundle, labelled[0], "--json", "--report", str(tmp_path / "report")
    )
    assert done.returncode == 5
    assert "left out: %s: its file model.onnx is not the one that was written" % broken in done.stderr
    assert "1 of 2 bundles were left out" in done.stderr
    scored, lost = json.loads(done.stdout.decode())["bundles"]
    assert (scored["bundle"], scored["accuracy"]) == (tiny_bundle, 1)
    assert lost["bundle"] == broken
    assert "model.onnx" in lost["error"]
    assert "its file model.onnx is not the one" in (tmp_path / "report" / "evaluation.html").read_text(encoding="utf-8")


def test_nothing_but_broken_bundles(tiny_bundle, labelled, tmp_path, capsys):
    path = os.path.join(tiny_bundle, "model.onnx")
    helpers.flip_byte(path)
    with pytest.raises(BundleError, match="model.onnx"):
        verb.main([tiny_bundle, labelled[0]])
    os.truncate(path, 100)  # that is seen before it is read
    with pytest.raises(BundleError, match="model.onnx"):
        verb.main([tiny_bundle, str(tmp_path / "nothing"), labelled[0]])
    said = capsys.readouterr()
    assert said.out == ""
    assert "nothing: is no bundle" in said.err


def test_an_engine_that_one_bundle_lacks_leaves_that_bundle_out(tiny_bundle, worse_bundle, labelled, capsys):
    helpers.add_tiny_saved_model(tiny_bundle)
    with pytest.raises(UsageError, match="1 of 2 bundles"):
        verb.main([worse_bundle, tiny_bundle, labelled[0], "--engine", "tensorflow"])
    said = capsys.readouterr()
    assert "has no engine tensorflow" in said.err
    assert said.out.splitlines()[1].startswith(tiny_bundle)


def test_a_bundle_that_is_left_out_does_not_decide_which_photos_count(
    tiny_bundle, worse_bundle, labelled, tmp_path, capsys
):
    helpers.add_tiny_saved_model(tiny_bundle)
    folder, rows = labelled
    helpers.write_photo(os.path.join(folder, "v.jpg"), helpers.photo((200, 0, 200)))
    helpers.write_table(tmp_path / "v.tsv", rows + [("v.jpg", "violet")])
    with pytest.raises(UsageError, match="1 of 2 bundles"):
        verb.main(
            [worse_bundle, tiny_bundle, str(tmp_path / "v.tsv"), "--images", folder, "--engine", "tensorflow", "--json"]
        )
    said = capsys.readouterr()
    result = json.loads(said.out)["bundles"][0]
    assert (result["photos"], result["photos_unknown_label"], result["set_aside"]) == (9, 0, 1)
    assert "label 'violet' is not among the training classes: v.jpg" in said.err


def test_where_no_bundle_that_works_knows_a_label_it_is_said(tiny_bundle, worse_bundle, labelled, tmp_path, capsys):
    helpers.add_tiny_saved_model(tiny_bundle)  # it alone has the engine, and does not know violet
    folder, _ = labelled
    helpers.write_photo(os.path.join(folder, "v.jpg"), helpers.photo((200, 0, 200)))
    helpers.write_table(tmp_path / "v.tsv", [("v.jpg", "violet")])
    with pytest.raises(UsageError, match="no photo.*label"):
        verb.main([worse_bundle, tiny_bundle, str(tmp_path / "v.tsv"), "--images", folder, "--engine", "tensorflow"])
    assert "left out" in capsys.readouterr().err


def test_figures_are_printed_though_the_report_cannot_be_written(tiny_bundle, labelled, tmp_path, capsys):
    (tmp_path / "report" / "evaluation.html").mkdir(parents=True)
    with pytest.raises(UsageError, match="--report .*report: "):
        verb.main([tiny_bundle, labelled[0], "--report", str(tmp_path / "report")])
    assert "accuracy 1.0000" in capsys.readouterr().out


def test_the_report_says_of_every_bundle_how_it_was_trained(tiny_bundle, worse_bundle, labelled, tmp_path):
    signed_again(tiny_bundle, sorted(helpers.COLOURS), seed=41)
    signed_again(worse_bundle, [BLUE, GREEN, "violet"], seed=42)
    folder = tmp_path / "report"
    verb.main([tiny_bundle, worse_bundle, labelled[0], "--report", str(folder)])
    page = (folder / "evaluation.html").read_text(encoding="utf-8")
    reproduced = page[page.index('id="reproduce"') :]
    results = json.loads((folder / "evaluation.json").read_text())["bundles"]
    assert len({result["photos_id"] for result in results}) == 1
    for words in (results[0]["photos_id"], "<td>41</td>", "<td>42</td>", "%s: seed" % worse_bundle, "picnic-edge 0."):
        assert words in reproduced, words


def test_photos_that_were_trained_on_are_counted_and_said_loudly(tiny_bundle, labelled, tmp_path, capsys):
    folder, rows = labelled
    sums = []
    for name, _ in rows[:2]:
        with open(os.path.join(folder, name), "rb") as file:
            sums.append(hashlib.sha256(file.read()).hexdigest()[:16])
    signed_again(tiny_bundle, sorted(helpers.COLOURS), photos_sha256=sorted(sums + ["0" * 16]))
    verb.main([tiny_bundle, folder, "--json", "--report", str(tmp_path / "report")])
    said = capsys.readouterr()
    words = "2 of 9 photos were among the training photos: these figures say little about new photos"
    assert words in said.err
    assert json.loads(said.out)["photos_trained_on"] == 2
    page = (tmp_path / "report" / "evaluation.html").read_text(encoding="utf-8")
    assert words in " ".join(page[page.index('class="alarm"') :].split())
    assert page.index('class="alarm"') < page.index('class="facts"')


def test_new_photos_raise_no_alarm(tiny_bundle, labelled, tmp_path, capsys):
    signed_again(tiny_bundle, sorted(helpers.COLOURS), photos_sha256=["0" * 16])
    verb.main([tiny_bundle, labelled[0], "--json", "--report", str(tmp_path / "report")])
    said = capsys.readouterr()
    assert json.loads(said.out)["photos_trained_on"] == 0
    assert "training photos" not in said.err
    assert 'class="alarm"' not in (tmp_path / "report" / "evaluation.html").read_text(encoding="utf-8")


def test_a_notebook_gets_tables_that_agree_with_the_report(tiny_bundle, labelled, tmp_path):
    pytest.importorskip("pandas")
    folder, rows = labelled
    helpers.write_bytes(os.path.join(folder, "broken.jpg"), b"nothing")
    helpers.write_table(tmp_path / "more.tsv", rows + [("broken.jpg", RED)])
    result, per_class, predictions = evaluate.evaluate(tiny_bundle, str(tmp_path / "more.tsv"), images_folder=folder)
    assert result["accuracy"] == pytest.approx(8 / 9)
    assert per_class["f1"].mean() == pytest.approx(result["macro_f1"])
    assert per_class.set_index("label")["photos"].to_dict() == {BLUE: 3, GREEN: 4, RED: 2}
    wrong = predictions.query("label != truth")
    assert wrong[["file", "truth", "label"]].values.tolist() == [[rows[-1][0], GREEN, RED]]
    assert predictions["confidence"].dtype == float and predictions["confidence"].between(0, 1).sum() == 9
    assert list(predictions["error"] != "") == 9 * [False] + [True]
    verb.main([tiny_bundle, str(tmp_path / "more.tsv"), "--images", folder, "--report", str(tmp_path / "report")])
    table = read_table(tmp_path / "report" / "predictions.tsv")
    assert list(table[0]) == list(predictions.columns)
    assert [row["file"] for row in table] == predictions["file"].tolist()


def test_a_notebook_s_tables_take_names_of_any_bytes(tiny_bundle, tmp_path):
    pytest.importorskip("pandas")
    names = [os.path.join(RED, name) for name in (os.fsdecode(b"caf\xe9.jpg"), "line\rfeed.jpg")]
    for name in names:
        helpers.write_photo(os.path.join(str(tmp_path / "photos"), name), helpers.photo(helpers.COLOURS[RED]))
    _, per_class, predictions = evaluate.evaluate(tiny_bundle, str(tmp_path / "photos"))
    assert predictions["file"].tolist() == names
    assert per_class["recall"].tolist() == [1]


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_missing_library_is_named_before_any_photo_is_classified(
    tiny_bundle, labelled, tmp_path, monkeypatch, library
):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr(evaluate, "Classifier", None)
    with pytest.raises(MissingRequirement, match="pip install jinja2 matplotlib"):
        verb.main([tiny_bundle, labelled[0], "--report", str(tmp_path / "report")])
    assert not (tmp_path / "report").exists()


def test_the_report_says_how_to_repeat_it(tiny_bundle, labelled, tmp_path):
    table = tmp_path / "test.tsv"
    verb.main([tiny_bundle, str(table), "--images", labelled[0], "--report", str(tmp_path / "a report")])
    page = (tmp_path / "a report" / "evaluation.html").read_text(encoding="utf-8")
    assert hashlib.sha256(table.read_bytes()).hexdigest() in page
    assert "picnic-edge evaluate %s" % tiny_bundle in page
    assert "--report &#39;%s&#39;" % (tmp_path / "a report") in page
    for name in report.FILES:
        assert (tmp_path / "a report" / name).stat().st_size > 0
