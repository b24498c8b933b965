"""The page of an evaluation: every section, escaped, nothing fetched; its numbers against some worked out by hand."""

import html
import json
import os
import re
import sys

import numpy as np
import pytest

from edge_runtime.bundle.reading import Bundle
from edge_runtime.errors import UsageError
from edge_runtime.photos import read
from tests import helpers
from train.data import labels
from train.insight import heat, report

BLUE, GREEN, RED = sorted(helpers.COLOURS)
HISTORY = {
    "loss": [2.0, 1.0, 0.5],
    "val_loss": [2.1, 1.5, 1.2],
    "accuracy": [0.5, 0.8, 0.9],
    "val_accuracy": [0.4, 0.6, 0.7],
    "fine_tune": {"loss": [1.0, 0.8], "val_loss": [1.2, 1.1, 1.0], "val_accuracy": [0.7, 0.7, 0.8]},
    "refit": {"loss": [0.4]},
}


@pytest.fixture
def answered(tiny_bundle, tmp_path):
    """(bundle, photos, probabilities): three photos per colour; two red ones are taken for green, one hardly."""
    rows = helpers.write_photos(tmp_path / "photos", per_class=3)
    photos = [labels.Photo(name, str(tmp_path / "photos" / name), label) for name, label in rows]
    probabilities = np.full((9, 3), 0.05, np.float32)
    probabilities[np.arange(9), [0, 0, 0, 1, 1, 1, 2, 1, 1]] = 0.9
    probabilities[8] = [0.1, 0.46, 0.44]
    return Bundle.open(tiny_bundle), photos, probabilities


def page_of(folder):
    with open(os.path.join(str(folder), "evaluation.html"), encoding="utf-8") as file:
        return file.read()


def text_of(page):
    """Returns what a reader sees of a page, in one line."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.S)
    return html.unescape(" ".join(re.sub(r"<[^>]*>", " ", body).split()))


def section(page, name):
    """Returns a page from the heading of that id to the next heading."""
    return page[page.index('<h2 id="%s"' % name) :].split("<h2", 2)[1]


def test_the_figures_are_those_worked_out_by_hand(answered):
    result = report.figures(*answered, engine_name="onnxruntime", set_aside=2, trained_on=4)
    # blue: all right; green: 3 found, 2 wrongly claimed -> 3/5, 1, 3/4; red: 1 of 3 -> 1, 1/3, 1/2
    assert result["accuracy"] == pytest.approx(7 / 9.0)
    assert result["macro_f1"] == pytest.approx((1 + 0.75 + 0.5) / 3)
    assert [row["f1"] for row in result["per_class"]] == pytest.approx([1, 0.75, 0.5])
    # eight photos 0.9 sure, seven of them right; one 0.46 sure and wrong
    assert result["expected_calibration_error"] == pytest.approx((8 * abs(7 / 8.0 - 0.9) + 0.46) / 9, abs=1e-6)
    at_half = [row for row in result["coverage"] if row["threshold"] == 0.5]
    assert at_half == [{"threshold": 0.5, "coverage": pytest.approx(8 / 9.0), "accuracy": 7 / 8.0}]
    assert (result["photos"], result["set_aside"], result["photos_trained_on"]) == (9, 2, 4)
    json.dumps(result, allow_nan=False)


def test_a_label_that_the_bundle_does_not_know_is_wrong(answered, tmp_path):
    tiny, photos, probabilities = answered
    photos[0] = photos[0]._replace(label="purple <i>")
    result = report.figures(tiny, photos, probabilities, "onnxruntime")
    assert result["accuracy"] == pytest.approx(6 / 9.0)
    assert result["per_class"][-1] == {"label": "purple <i>", "precision": 0, "recall": 0, "f1": 0, "photos": 1}
    report.write_report(str(tmp_path / "r"), tiny, photos, probabilities, "onnxruntime")
    assert "purple &lt;i&gt;: 1 of 1 photos predicted as blue things" in page_of(tmp_path / "r")


def test_every_section_is_there_and_nothing_is_fetched(answered, tmp_path):
    tiny, photos, probabilities = answered
    calibration = {"temperature": 1.25, "ece_before": 0.081, "ece_after": 0.044}
    training = {"command": ["picnic-edge", "train", "a table.tsv"], "seed": 7, "weights": "w.h5 (sha256 ab)"}
    training.update(versions={"numpy": "9.9"}, machine={"cpu": "A CPU", "cores": 2})
    tiny = helpers.with_manifest(tiny, {"history": HISTORY, "calibration": calibration}, training)
    augmented = [[np.zeros((299, 299, 3), np.uint8)] * 4] * 2
    report.write_report(str(tmp_path / "r"), tiny, photos, probabilities, "the trained model", augmented)
    page, text = page_of(tmp_path / "r"), text_of(page_of(tmp_path / "r"))
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert headings == [
        "Classes",
        "Confusion matrix",
        "Confused pairs",
        "Top losses",
        "Confidence",
        "Training",
        "Augmented training photos",
        "How to reproduce this",
    ]
    for name in re.findall(r'href="#(\w+)"', page):
        assert 'id="%s"' % name in page
    for words in (
        "0.778 accuracy",
        "0.750 macro-F1",
        "temperature to 1.25, which changed the expected calibration error",
        "from 0.081 to 0.044",
        "the photos that training was validated on",
        "picnic-edge train 'a table.tsv'",
        "w.h5 (sha256 ab)",
        "numpy 9.9",
        "A CPU, 2 cores",
        tiny.id,
    ):
        assert words in text
    assert section(page, "training").count("<svg") == 5  # two of the head, two of fine-tuning, the refit's loss
    assert section(page, "confidence").count("<svg") == 2
    assert section(page, "augmented").count("<img") == 8
    assert re.findall(r'(?:src|href)\s*=\s*"(?!data:image/jpeg;base64,|#)', page) == []
    assert re.findall(r"url\((?!#)|@import|<link|<script\s|<iframe|fetch\(", page) == []


def test_what_a_bundle_does_not_say_is_left_out(answered, tmp_path):
    report.write_report(str(tmp_path / "r"), *answered, engine_name="onnxruntime")
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page_of(tmp_path / "r"))
    assert headings[:5] == ["Classes", "Confusion matrix", "Confused pairs", "Top losses", "Confidence"]
    assert headings[5:] == ["How to reproduce this"]
    text = text_of(page_of(tmp_path / "r"))
    assert "temperature" not in section(page_of(tmp_path / "r"), "confidence")
    assert "None" not in text
    assert "Without heat maps" not in text and "Warm colours" in text


def test_without_onnx_there_are_no_heat_maps_and_the_page_says_why(answered, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    report.write_report(str(tmp_path / "r"), *answered, engine_name="onnxruntime")
    text = text_of(page_of(tmp_path / "r"))
    assert re.search("Without heat maps: .*pip install onnx", text) and "Warm colours" not in text


@pytest.mark.parametrize("history", [{}, {"loss": [1.0]}, {"fine_tune": {"val_loss": [1.0, 0.9]}}, {"refit": {}}])
def test_histories_that_lack_something(answered, tmp_path, history):
    tiny, photos, probabilities = answered
    tiny = helpers.with_manifest(tiny, {"history": history}, {})
    report.write_report(str(tmp_path / "r"), tiny, photos, probabilities, "onnxruntime")
    drawn = history.get("loss") or history.get("fine_tune")
    assert ('id="training"' in page_of(tmp_path / "r")) == bool(drawn)


def test_a_refitted_bundle_says_that_its_figures_are_older(answered, tmp_path):
    tiny, photos, probabilities = answered
    tiny = helpers.with_manifest(tiny, {}, {"refitted": True})
    report.write_report(str(tmp_path / "r"), tiny, photos, probabilities, "the trained model")
    assert "was then trained on them too; the figures are from before that" in text_of(page_of(tmp_path / "r"))


def test_the_matrix_counts_and_names_its_cells(answered, tmp_path):
    report.write_report(str(tmp_path / "r"), *answered, engine_name="onnxruntime")
    cells = re.findall(r"<g><title>(.*?)</title>", section(page_of(tmp_path / "r"), "matrix"))
    assert [html.unescape(cell) for cell in cells] == [
        "blue things: 3 of 3 photos predicted as blue things",
        "green, fresh & ripe: 3 of 3 photos predicted as green, fresh & ripe",
        "red: 2 of 3 photos predicted as green, fresh & ripe",
        "red: 1 of 3 photos predicted as red",
    ]


def test_pairs_show_the_wrong_photos_beside_one_of_the_answered_class(answered, tmp_path):
    report.write_report(str(tmp_path / "r"), *answered, engine_name="onnxruntime")
    part = section(page_of(tmp_path / "r"), "pairs")
    assert "red predicted as green, fresh & ripe 2 of 3" in text_of(part)
    wrong, typical = part.split('class="typical"')
    assert re.findall(r'title="(.*?)"', wrong) == ["red/01.jpg", "red/02.jpg"]  # the surest first
    assert re.findall(r'title="(.*?)"', typical)[0].startswith("green, fresh &amp; ripe/")


def test_nothing_wrong_at_all(answered, tmp_path):
    tiny, photos, _ = answered
    probabilities = np.repeat(np.eye(3, dtype=np.float32), 3, axis=0)
    report.write_report(str(tmp_path / "r"), tiny, photos, probabilities, "onnxruntime")
    assert "every photo got its true class" in text_of(page_of(tmp_path / "r"))


def test_one_photo_is_enough(answered, tmp_path):
    tiny, photos, probabilities = answered
    report.write_report(str(tmp_path / "r"), tiny, photos[8:], probabilities[8:], "onnxruntime")
    text = text_of(page_of(tmp_path / "r"))
    assert "red predicted as green, fresh & ripe 1 of 1" in text
    assert "No photo of green, fresh & ripe was recognised." in text


def test_top_losses_come_worst_first_with_heat_for_answer_and_truth(answered, tmp_path, monkeypatch):
    tiny, photos, probabilities = answered
    asked = []

    def heat_maps(of, pixels, classes):
        asked.append((of, pixels, classes.tolist()))
        return np.ones((len(pixels), 2, 299, 299), np.float32), (8, 8)

    monkeypatch.setattr(heat, "heat_maps", heat_maps)
    report.write_report(str(tmp_path / "r"), tiny, photos, probabilities, "onnxruntime")
    part = section(page_of(tmp_path / "r"), "losses")
    assert re.findall(r'title="(.*?)"', part)[:2] == ["red/01.jpg", "red/02.jpg"]
    assert "loss 3.00: 0.0500 for the true class, 0.90 for the predicted one" in text_of(part)
    assert "loss 0.82: 0.4400 for the true class, 0.46 for the predicted one" in text_of(part)
    ((of, pixels, classes),) = asked
    assert of is tiny
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels[0], read.read_image(photos[7].path, tiny.input_spec))
    assert classes[:2] == [[1, 2], [1, 2]]  # green was the answer, red the truth
    assert part.count("<img") == 2 * 3 + 7 * 2  # where the answer is right, one map is enough


def test_names_are_escaped_and_may_hold_any_bytes(answered, tmp_path):
    tiny, photos, probabilities = answered
    nasty = helpers.NASTY_NAMES[:7] + ['<script>alert(1)</script>&".jpg', os.fsdecode(b"latin\xfc <b>.jpg")]
    renamed = [photo._replace(file=name) for photo, name in zip(photos, nasty)]
    report.write_report(str(tmp_path / "r"), tiny, renamed, probabilities, "onnxruntime")
    page = page_of(tmp_path / "r")
    assert "<script>alert" not in page
    assert "script&gt;&amp;&#34;.jpg" in page
    assert "latin\\xfc &lt;b&gt;.jpg" in page
    assert page.count("<script>") == 1  # base.html's own


def test_a_photo_that_is_gone_leaves_the_page_whole(answered, tmp_path):
    tiny, photos, probabilities = answered
    os.unlink(photos[7].path)
    report.write_report(str(tmp_path / "r"), tiny, photos, probabilities, "onnxruntime")
    assert "red/01.jpg" in page_of(tmp_path / "r")


def test_a_folder_that_cannot_be_written(answered, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--report .*file: "):
        report.write_report(str(tmp_path / "file"), *answered, engine_name="onnxruntime")


def test_bundles_side_by_side_on_the_page(answered, tmp_path):
    tiny, photos, probabilities = answered
    results = []
    for name, answers in (("first<1>", probabilities), ("second", probabilities[:, [1, 0, 2]])):
        result = report.figures(tiny, photos, answers, "onnxruntime", trained_on=0)
        result.update(bundle=name, images_per_s=12.34, model_bytes=5000000, photos_unknown_label=0)
        result.update(only_it_is_right=1, only_first_is_right=4)
        results.append(result)
    results.append({"bundle": "third", "error": "is <broken>"})
    report.write_report(str(tmp_path / "r"), tiny, photos, probabilities, "onnxruntime", results=results)
    part = section(page_of(tmp_path / "r"), "bundles")
    assert "first&lt;1&gt;" in part
    assert "is &lt;broken&gt;" in part
    text = text_of(part)
    assert re.search(r"first<1> \w{12} onnxruntime 0.778 .* 0.750 .* \+1 −4 .* 5.0 12.3 0 0 second", text)
    assert "red 0.500 0.500" in text  # F1 of every class; that one is the same for both
    with open(str(tmp_path / "r" / "evaluation.json")) as file:
        assert [one["bundle"] for one in json.load(file)["bundles"]] == ["first<1>", "second", "third"]
