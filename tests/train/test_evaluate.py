"""picnic-edge evaluate, on the tiny bundle that names colours."""

import csv
import json
import os

import pytest

from edge_runtime import machine
from edge_runtime.errors import UsageError
from tests import helpers
from train import evaluate, metrics

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
    evaluate.main([tiny_bundle, str(tmp_path / "test.tsv"), "--images", labelled[0]])
    lines = capsys.readouterr().out.splitlines()
    # green: 4 photos, 3 found, nothing else called green -> 1, 0.75; red: 2 found, 1 wrongly claimed -> 2/3, 1
    assert lines[1].split()[-5:] == ["red", "0.667", "1.000", "0.800", "2"]
    assert lines[2].split()[-4:] == ["1.000", "0.750", "0.857", "4"]
    assert lines[2].startswith(GREEN)
    assert lines[3].split()[-4:] == ["1.000", "1.000", "1.000", "3"]
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
    assert result["machine"] == machine.describe()


def test_report_files_agree_with_each_other(tiny_bundle, labelled, tmp_path, capsys):
    report = tmp_path / "a" / "report"
    evaluate.main([tiny_bundle, str(tmp_path / "test.tsv"), "--images", labelled[0], "--report", str(report)])
    assert sorted(os.listdir(str(report))) == ["evaluation.json", "per_class.tsv", "predictions.tsv"]
    result = json.loads((report / "evaluation.json").read_text())
    predictions = read_table(report / "predictions.tsv")
    assert [(row["file"], row["truth"]) for row in predictions] == labelled[1]
    truth, found = ([row[name] for row in predictions] for name in ("truth", "label"))
    accuracy, macro_f1, table = metrics.score(truth, found, [BLUE, GREEN, RED])
    assert (accuracy, macro_f1) == (result["accuracy"], result["macro_f1"])
    per_class = read_table(report / "per_class.tsv")
    assert [(row["label"], float(row["f1"])) for row in per_class] == [(row.label, row.f1) for row in table]
    for row in predictions:
        assert sorted([row["label"], row["label_2"], row["label_3"]]) == [BLUE, GREEN, RED]
        assert float(row["confidence"]) >= float(row["confidence_2"]) >= float(row["confidence_3"])
    assert str(report) in capsys.readouterr().err


def test_class_folders_work_as_well(tiny_bundle, labelled, capsys):
    evaluate.main([tiny_bundle, labelled[0]])
    assert "accuracy 1.0000, macro-F1 1.0000 on 9 photos" in capsys.readouterr().out


def test_what_cannot_be_scored_is_named_and_counted(tiny_bundle, labelled, tmp_path, capsys):
    folder, rows = labelled
    with open(os.path.join(folder, "broken.jpg"), "wb") as file:
        file.write(b"nothing")
    more = [("missing.jpg", RED), ("broken.jpg", RED), (rows[0][0], rows[0][1]), ("x.jpg", "purple"), ("/y.jpg", RED)]
    helpers.write_table(tmp_path / "more.tsv", rows + more)
    evaluate.main([tiny_bundle, str(tmp_path / "more.tsv"), "--images", folder, "--json"])
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert (result["photos"], result["set_aside"]) == (9, 5)
    assert result["accuracy"] == pytest.approx(8 / 9.0)
    for words in (
        "No such file or directory: missing.jpg",
        "is not a JPEG, PNG, BMP, GIF or WebP picture: broken.jpg",
        "is listed more than once: counted once: " + rows[0][0],
        "label 'purple' is not among the training classes: x.jpg",
        "absolute path; names are relative to the images folder: /y.jpg",
    ):
        assert words in said.err


@pytest.mark.parametrize(
    "row, said",
    [(("x.jpg", "purple"), "no photo with a label that the bundle knows"), (("x.jpg", RED), "none of its 1 photos")],
)
def test_nothing_to_score_exits_with_2(tiny_bundle, tmp_path, row, said):
    helpers.write_table(tmp_path / "t.tsv", [row])
    with pytest.raises(UsageError, match=said):
        evaluate.main([tiny_bundle, str(tmp_path / "t.tsv")])


def test_a_report_that_cannot_be_written_exits_with_2(tiny_bundle, labelled, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--report .*file: cannot be written"):
        evaluate.main([tiny_bundle, labelled[0], "--report", str(tmp_path / "file")])


def test_an_unknown_engine_exits_with_2(tiny_bundle, labelled):
    with pytest.raises(UsageError, match="has no engine nosuch"):
        evaluate.main([tiny_bundle, labelled[0], "--engine", "nosuch"])
