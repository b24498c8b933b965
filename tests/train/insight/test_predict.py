"""picnic-edge predict: a submission with one row per row of the table, in its order."""

import csv
import json
import os
import random
import stat
import subprocess

import pytest

from edge_runtime import classifier as classifier_module
from edge_runtime.errors import StorageLost, UsageError
from edge_runtime.photos import read as photos_read
from tests import helpers
from train.cli import predict


@pytest.fixture
def photos(tmp_path):
    rows = helpers.write_photos(tmp_path / "photos")
    random.Random(4).shuffle(rows)
    return str(tmp_path / "photos"), rows


def read_table(path):
    with open(str(path), newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file, "excel-tab"))


def test_rows_come_in_the_table_s_order_with_the_columns_of_a_submission(tiny_bundle, photos, tmp_path, capsys):
    folder, rows = photos
    helpers.write_table(tmp_path / "test.tsv", [(name,) for name, _ in rows], header=("file",))
    out = tmp_path / "submission.tsv"
    predict.main([tiny_bundle, str(tmp_path / "test.tsv"), "--images", folder, "--out", str(out)])
    assert read_table(out) == [["file", "label"]] + [list(row) for row in rows]
    said = capsys.readouterr()
    assert said.out == ""
    assert "12 rows, 0 without a label, written to " + str(out) in said.err


def test_images_folder_defaults_to_the_table_s(tiny_bundle, photos, tmp_path):
    folder, rows = photos
    helpers.write_table(os.path.join(folder, "test.tsv"), rows)  # labels in it are not looked at
    predict.main([tiny_bundle, os.path.join(folder, "test.tsv"), "--out", str(tmp_path / "out.tsv")])
    assert read_table(tmp_path / "out.tsv")[1:] == [list(row) for row in rows]


def test_every_row_gets_a_row_also_unusable_and_repeated_ones(tiny_bundle, photos, tmp_path, capsys):
    folder, rows = photos
    with open(os.path.join(folder, "empty.jpg"), "wb"):
        pass
    names = [rows[0][0], "missing.jpg", rows[1][0], "empty.jpg", "/etc/passwd", "../x.jpg", rows[0][0]]
    helpers.write_table(tmp_path / "test.tsv", [(name,) for name in names], header=("file",))
    done = helpers.picnic_edge(
        "predict", tiny_bundle, tmp_path / "test.tsv", "--images", folder, "--out", tmp_path / "out.tsv"
    )
    assert (done.returncode, done.stdout) == (0, b"")
    labels = [rows[0][1], "", rows[1][1], "", "", "", rows[0][1]]
    assert read_table(tmp_path / "out.tsv")[1:] == [list(row) for row in zip(names, labels)]
    assert "No such file or directory: missing.jpg" in done.stderr
    assert "is empty (0 bytes): empty.jpg" in done.stderr
    assert "absolute path; names are relative to the images folder: /etc/passwd" in done.stderr
    assert "7 rows, 4 without a label" in done.stderr


def test_real_picnic_table_without_its_photos(tiny_bundle, picnic, tmp_path):
    table = os.path.join(picnic, "test.tsv")
    helpers.write_bytes(tmp_path / "photos" / "another.jpg", b"")
    predict.main([tiny_bundle, table, "--images", str(tmp_path / "photos"), "--out", str(tmp_path / "out.tsv")])
    with open(table, encoding="utf-8") as file:
        names = file.read().split()[1:]
    assert len(names) == 820
    assert read_table(tmp_path / "out.tsv") == [["file", "label"]] + [[name, ""] for name in names]


def test_names_that_need_quoting_can_be_read_back(tiny_bundle, tmp_path):
    names = ['six "pack".jpg', os.fsdecode(b"caf\xe9.jpg"), "tab\there.jpg"]
    for name in names:
        helpers.write_photo(os.path.join(str(tmp_path / "photos"), name), helpers.photo(helpers.COLOURS["red"]))
    with open(str(tmp_path / "t.tsv"), "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file, "excel-tab").writerows([["file"]] + [[name] for name in names])
    predict.main(
        [tiny_bundle, str(tmp_path / "t.tsv"), "--images", str(tmp_path / "photos"), "--out", str(tmp_path / "o.tsv")]
    )
    assert read_table(tmp_path / "o.tsv")[1:] == [[name, "red"] for name in names]


@pytest.mark.parametrize("content, said", [("file\n", "rows"), ("name\na.jpg\n", "column.*file"), ("", "is empty")])
def test_a_table_without_photos_exits_with_2(tiny_bundle, tmp_path, content, said):
    (tmp_path / "t.tsv").write_text(content)
    with pytest.raises(UsageError, match=said):
        predict.main([tiny_bundle, str(tmp_path / "t.tsv"), "--out", str(tmp_path / "out.tsv")])
    assert os.listdir(str(tmp_path)).count("out.tsv") == 0


def test_a_missing_images_folder_exits_with_2_instead_of_820_empty_labels(tiny_bundle, tmp_path):
    helpers.write_table(tmp_path / "t.tsv", [("a.jpg",)], header=("file",))
    with pytest.raises(UsageError, match="--images .*nosuch"):
        predict.main(
            [tiny_bundle, str(tmp_path / "t.tsv"), "--images", str(tmp_path / "nosuch")]
            + ["--out", str(tmp_path / "out.tsv")]
        )
    assert not (tmp_path / "out.tsv").exists()


def test_an_older_submission_stays_whole_when_a_new_one_is_interrupted(tiny_bundle, photos, tmp_path, monkeypatch):
    folder, rows = photos
    helpers.write_table(tmp_path / "t.tsv", rows)
    (tmp_path / "out.tsv").write_text("older")

    def interrupted(self, items):
        yield from ()
        raise KeyboardInterrupt

    monkeypatch.setattr("edge_runtime.classifier.Classifier.classify", interrupted)
    before = sorted(os.listdir(str(tmp_path)))
    with pytest.raises(KeyboardInterrupt):
        predict.main([tiny_bundle, str(tmp_path / "t.tsv"), "--images", folder, "--out", str(tmp_path / "out.tsv")])
    assert (tmp_path / "out.tsv").read_text() == "older"
    assert sorted(os.listdir(str(tmp_path))) == before


def test_an_out_that_cannot_be_written_exits_with_2_before_the_work(tiny_bundle, photos, tmp_path, monkeypatch):
    folder, rows = photos
    monkeypatch.setattr("edge_runtime.classifier.Classifier.classify", None)
    helpers.write_table(tmp_path / "t.tsv", rows)
    for out, said in (
        (tmp_path / "no" / "folder.tsv", "its folder does not exist"),
        (tmp_path / "photos", "is a folder"),
    ):
        with pytest.raises(UsageError, match="--out .*: " + said):
            predict.main([tiny_bundle, str(tmp_path / "t.tsv"), "--images", folder, "--out", str(out)])


def test_the_table_itself_is_not_overwritten(tiny_bundle, photos, tmp_path):
    folder, rows = photos
    helpers.write_table(tmp_path / "test.tsv", rows)
    before = (tmp_path / "test.tsv").read_bytes()
    os.symlink("test.tsv", str(tmp_path / "link.tsv"))
    for name in ("test.tsv", "link.tsv"):
        command = [tiny_bundle, str(tmp_path / "test.tsv"), "--images", folder, "--out", str(tmp_path / name)]
        with pytest.raises(UsageError, match="--out .*table"):
            predict.main(command)
    assert (tmp_path / "test.tsv").read_bytes() == before


def test_a_folder_is_labelled_too(tiny_bundle, photos, tmp_path):
    folder, rows = photos
    predict.main([tiny_bundle, folder, "--out", str(tmp_path / "out.tsv")])
    assert read_table(tmp_path / "out.tsv")[1:] == [list(row) for row in sorted(rows)]


def test_a_folder_that_goes_away_leaves_no_submission(tiny_bundle, photos, tmp_path, monkeypatch):
    folder, rows = photos
    helpers.write_table(tmp_path / "test.tsv", [(name,) for name, _ in rows], header=("file",))
    read_image = photos_read.read_image

    def read(path, input_spec):
        if path.endswith(rows[5][0]):
            os.rename(folder, folder + ".away")
        return read_image(path, input_spec)

    monkeypatch.setattr(classifier_module, "read_image", read)
    with pytest.raises(StorageLost):
        predict.main([tiny_bundle, str(tmp_path / "test.tsv"), "--images", folder, "--out", str(tmp_path / "out.tsv")])
    assert not (tmp_path / "out.tsv").exists()


def test_photos_are_listed_by_a_csv_too(tiny_bundle, photos, tmp_path):
    folder, rows = photos
    helpers.write_bytes(tmp_path / "test.csv", b"file,note\n" + b"".join(b'"%s",x\n' % row[0].encode() for row in rows))
    predict.main([tiny_bundle, str(tmp_path / "test.csv"), "--images", folder, "--out", str(tmp_path / "out.tsv")])
    assert read_table(tmp_path / "out.tsv")[1:] == [list(row) for row in rows]


def rows_of(path):
    """Returns [(file, label)] of a submission in the format of its suffix."""
    if path.suffix == ".jsonl":
        found = [json.loads(line) for line in path.read_text().splitlines()]
    elif path.suffix == ".parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(str(path))
        found = table.to_pylist() if hasattr(table, "to_pylist") else table.to_pandas().to_dict("records")
    else:
        found = helpers.read_rows_of(path.read_bytes(), "excel-tab" if path.suffix == ".tsv" else "excel")
    return [(row["file"], row["label"]) for row in found]


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_the_suffix_decides_the_format(tiny_bundle, photos, tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    folder, rows = photos
    helpers.write_table(tmp_path / "test.tsv", rows)
    out = tmp_path / ("out" + suffix)
    predict.main([tiny_bundle, str(tmp_path / "test.tsv"), "--images", folder, "--out", str(out)])
    assert rows_of(out) == rows
    assert sorted(os.listdir(str(tmp_path))) == ["bundle", out.name, "photos", "test.tsv"]


@pytest.mark.parametrize("name", ["out.txt", "out", "out.xlsx"])
def test_another_suffix_is_refused_before_the_work(tiny_bundle, photos, tmp_path, monkeypatch, name):
    monkeypatch.setattr("edge_runtime.classifier.Classifier.classify", None)
    with pytest.raises(UsageError, match="--out .*: expected a name that ends in .tsv"):
        predict.main([tiny_bundle, photos[0], "--out", str(tmp_path / name)])


def test_a_submission_is_written_where_its_link_leads_or_to_a_fifo(tiny_bundle, photos, tmp_path):
    folder, rows = photos
    (tmp_path / "link.csv").symlink_to("target")
    predict.main([tiny_bundle, folder, "--out", str(tmp_path / "link.csv")])
    assert os.readlink(str(tmp_path / "link.csv")) == "target"
    assert rows_of(tmp_path / "link.csv") == sorted(rows)
    os.mkfifo(str(tmp_path / "fifo"))
    reader = subprocess.Popen(["cat", str(tmp_path / "fifo")], stdout=subprocess.PIPE)
    predict.main([tiny_bundle, folder, "--out", str(tmp_path / "fifo")])
    sent = helpers.read_rows_of(reader.communicate(timeout=60)[0])
    assert [(row["file"], row["label"]) for row in sent] == sorted(rows)
    assert stat.S_ISFIFO(os.stat(str(tmp_path / "fifo")).st_mode)


def test_an_empty_folder_replaces_no_submission(tiny_bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "out.tsv").write_text("older")
    with pytest.raises(UsageError, match="empty: "):
        predict.main([tiny_bundle, str(tmp_path / "empty"), "--out", str(tmp_path / "out.tsv")])
    assert (tmp_path / "out.tsv").read_text() == "older"
