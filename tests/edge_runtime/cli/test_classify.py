"""picnic-edge classify as a user runs it, and the Python API of CONTRACT.md."""

import base64
import errno
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest

from edge_runtime import Classifier
from edge_runtime import classifier as classifier_module
from edge_runtime.annotate import show
from edge_runtime.bundle.writing import write_manifest
from edge_runtime.cli import classify, classify_run
from edge_runtime.cli.run import run_verb
from edge_runtime.errors import EngineLost, StorageLost
from edge_runtime.photos import jpeg_hardware
from edge_runtime.photos import read as photos_read
from edge_runtime.photos.spec import INCEPTION_V3, to_manifest
from edge_runtime.results import file_sink, formats, journal
from edge_runtime.results import rows as results_rows
from edge_runtime.sources import connection, live
from edge_runtime.sources.items import Items
from tests.edge_runtime.sources import http_camera
from tests.helpers import (
    COLOURS,
    NASTY_NAMES,
    ROOT,
    encoded,
    photo,
    picnic_edge,
    raw_png,
    read_rows_of,
    write_bytes,
    write_photo,
    write_photos,
    write_table,
)

BLUE, GREEN, RED = sorted(COLOURS)


@pytest.fixture(scope="module")
def bundle(pristine_bundle):
    return pristine_bundle


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with two photos of each class, and nothing else."""
    folder = str(tmp_path_factory.mktemp("shelf") / "photos")
    write_photos(folder, per_class=2)
    return folder


EXPECTED = [(os.path.join(label, "%02d.jpg" % number), label) for label in sorted(COLOURS) for number in range(2)]


@pytest.fixture(scope="module")
def plain(bundle, photos):
    """The plainest run there is."""
    return picnic_edge("classify", bundle, photos)


def exit_code(*arguments):
    """Runs classify in this process, for what ends before any work is done."""
    try:
        return run_verb(classify.main, [os.fspath(argument) for argument in arguments])
    except SystemExit as stopped:  # argparse
        return stopped.code


@pytest.mark.parametrize("option, name", [("--annotate", ""), ("--annotate", "pictures"), ("--out", "rows.tsv")])
def test_an_output_in_the_bundle_is_refused(bundle, photos, capsys, option, name):
    before = sorted(os.listdir(str(bundle)))
    assert exit_code(bundle, photos, option, os.path.join(str(bundle), name)) == 2
    assert "is in the bundle" in capsys.readouterr().err and sorted(os.listdir(str(bundle))) == before


# --- tables


def test_the_plainest_run_ends_with_0(plain):
    assert plain.returncode == 0, plain.stderr


def test_the_table_on_standard_output_has_one_labelled_row_per_photo_in_order(plain):
    rows = read_rows_of(plain.stdout)
    assert [(row["file"], row["label"]) for row in rows] == EXPECTED
    assert [row["error"] for row in rows] == [""] * 6
    assert all(0.5 < float(row["confidence"]) <= 1 for row in rows)


def test_the_table_starts_with_the_promised_header(plain):
    assert plain.stdout.startswith(b"file\tlabel\tconfidence\terror\n")


def test_human_text_goes_to_standard_error(plain):
    assert "6 photos in " in plain.stderr and "with onnxruntime, batch 8" in plain.stderr


def test_a_tsv_file_holds_what_standard_output_would(bundle, photos, plain, tmp_path):
    done = picnic_edge("classify", bundle, photos, "--out", tmp_path / "out.tsv")
    assert (done.returncode, done.stdout) == (0, b"")
    assert (tmp_path / "out.tsv").read_bytes() == plain.stdout
    assert os.listdir(str(tmp_path)) == ["out.tsv"]


def test_a_csv_file_with_the_two_best_labels(bundle, photos, tmp_path):
    done = picnic_edge("classify", bundle, photos, "--out", tmp_path / "out.csv", "--top", "2")
    assert done.returncode == 0, done.stderr
    data = (tmp_path / "out.csv").read_bytes()
    assert data.startswith(b"file,label,confidence,error,label_2,confidence_2\n")
    rows = read_rows_of(data, "excel")
    assert [(row["file"], row["label"]) for row in rows] == EXPECTED
    for row in rows:
        assert row["label_2"] in set(COLOURS) - {row["label"]}
        assert 0 < float(row["confidence_2"]) < float(row["confidence"])


def test_a_jsonl_file_with_more_labels_asked_for_than_there_are_classes(bundle, photos, tmp_path):
    done = picnic_edge("classify", bundle, photos, "--out", tmp_path / "out.jsonl", "--top", "99")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["file"], row["label"]) for row in rows] == EXPECTED
    for row in rows:
        assert {row["label"], row["label_2"], row["label_3"]} == set(COLOURS) and "label_4" not in row
        assert abs(row["confidence"] + row["confidence_2"] + row["confidence_3"] - 1) < 1e-5


def test_below_the_threshold_the_label_is_unknown_and_the_confidence_stays(bundle, photos, plain):
    done = picnic_edge("classify", bundle, photos, "--threshold", "1")
    rows = read_rows_of(done.stdout)
    assert [row["label"] for row in rows] == ["unknown"] * 6
    assert [row["confidence"] for row in rows] == [row["confidence"] for row in read_rows_of(plain.stdout)]


def test_at_the_threshold_the_label_is_given(bundle, photos, plain):
    done = picnic_edge("classify", bundle, photos, "--threshold", "0.5")
    assert done.stdout == plain.stdout


@pytest.mark.parametrize("name, threshold", [("Unknown", "0.5"), ("unknown", None), ("red", "0.5")])
def test_a_class_named_like_the_answer_below_the_threshold_is_warned_of_once(tiny_bundle, photos, name, threshold):
    os.unlink(os.path.join(tiny_bundle, "manifest.json"))
    write_manifest(tiny_bundle, sorted(COLOURS)[:2] + [name], to_manifest(INCEPTION_V3), {}, {})
    done = picnic_edge("classify", tiny_bundle, photos, *(["--threshold", threshold] if threshold else []))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: --threshold: the bundle has a class 'Unknown'") == (name == "Unknown")
    assert done.stderr.count("warning") == (name == "Unknown")


@pytest.mark.parametrize("batch", ["1", "4", "100"])
def test_the_batch_size_does_not_change_the_answers(bundle, photos, plain, batch):
    done = picnic_edge("classify", bundle, photos, "--batch", batch)
    found, expected = read_rows_of(done.stdout), read_rows_of(plain.stdout)
    assert [(row["file"], row["label"]) for row in found] == EXPECTED
    for row, other in zip(found, expected):
        assert abs(float(row["confidence"]) - float(other["confidence"])) < 1e-3


# --- JSON


def test_json_without_out_is_one_document_with_the_rows(bundle, photos, plain):
    done = picnic_edge("classify", bundle, photos, "--json")
    document = json.loads(done.stdout.decode())
    assert done.returncode == 0
    assert (document["photos"], document["unreadable"], document["engine"]) == (6, 0, "onnxruntime")
    assert [(row["file"], row["label"], row["error"]) for row in document["results"]] == [
        row + ("",) for row in EXPECTED
    ]


def test_json_with_out_is_one_document_that_names_the_file(bundle, photos, plain, tmp_path):
    out = str(tmp_path / "out.tsv")
    done = picnic_edge("classify", bundle, photos, "--json", "--out", out)
    document = json.loads(done.stdout.decode())
    assert (document["photos"], document["out"]) == (6, out)
    assert "results" not in document
    assert (tmp_path / "out.tsv").read_bytes() == plain.stdout


# --- sources


def test_an_image_is_named_as_it_was_given(bundle, photos):
    path = os.path.join(photos, RED, "00.jpg")
    (row,) = read_rows_of(picnic_edge("classify", bundle, path).stdout)
    assert (row["file"], row["label"]) == (path, "red")


def test_a_relative_glob_is_named_as_it_was_given(bundle, photos):
    rows = read_rows_of(picnic_edge("classify", bundle, "**/00.jpg", cwd=photos).stdout)
    assert [(row["file"], row["label"]) for row in rows] == EXPECTED[::2]


def test_a_table_s_photos_are_answered_in_the_table_s_order(bundle, photos, tmp_path):
    table = str(tmp_path / "in.tsv")
    write_table(table, EXPECTED[::-1])
    rows = read_rows_of(picnic_edge("classify", bundle, table, "--images", photos).stdout)
    assert [(row["file"], row["label"]) for row in rows] == EXPECTED[::-1]


def test_names_on_standard_input_are_answered(bundle, photos):
    names = "\n".join(name for name, _ in EXPECTED).encode()
    rows = read_rows_of(picnic_edge("classify", bundle, "-", input=names, cwd=photos).stdout)
    assert [(row["file"], row["label"]) for row in rows] == EXPECTED


def empty_source(kind, folder):
    """Returns (source, what is on standard input)."""
    empty = str(folder / "empty")
    os.mkdir(empty)
    if kind == "table":
        write_table(str(folder / "empty.tsv"), [])
        return str(folder / "empty.tsv"), b""
    if kind == "other files":
        write_bytes(os.path.join(empty, "notes.txt"), b"no photo")
    return ("-" if kind == "standard input" else empty), b""


@pytest.mark.parametrize("kind", ["folder", "other files", "table", "standard input"])
def test_an_empty_source_replaces_nothing_unless_that_is_wanted(bundle, tmp_path, kind):
    source, names = empty_source(kind, tmp_path)
    older = {name: write_bytes(tmp_path / name, name.encode()) for name in ("out.tsv", "out.tsv.partial")}
    done = picnic_edge("classify", bundle, source, "--out", older["out.tsv"], input=names)
    assert done.returncode == 2 and "nothing to classify in %s" % source in done.stderr
    assert "--allow-empty" in done.stderr and "Traceback" not in done.stderr
    for name, path in older.items():
        with open(path, "rb") as file:
            assert file.read() == name.encode()
    assert not os.path.exists(older["out.tsv"] + ".partial.json")
    done = picnic_edge("classify", bundle, source, "--out", older["out.tsv"], "--allow-empty", input=names)
    assert done.returncode == 0 and "0 photos" in done.stderr
    with open(older["out.tsv"], "rb") as file:
        assert file.read() == b"file\tlabel\tconfidence\terror\n"


def test_what_an_empty_folder_holds_instead_of_photos_is_said(bundle, tmp_path, capsys):
    write_bytes(tmp_path / "shelf.mp4", b"")
    assert exit_code(bundle, tmp_path) == 2
    assert "nothing to classify in %s (passed over: 1 .mp4" % tmp_path in capsys.readouterr().err


def test_nothing_on_standard_input_is_a_header_for_whoever_reads_along(bundle):
    done = picnic_edge("classify", bundle, "-", input=b"")
    assert (done.returncode, done.stdout) == (0, b"file\tlabel\tconfidence\terror\n")


# --- wrong usage


@pytest.mark.parametrize(
    "more, message",
    [
        (["--out", "labels.txt"], "--out labels.txt: expected a name that ends in .tsv, .csv, .jsonl"),
        (["--out", "labels"], "--out labels: expected a name that ends in"),
        (["--out", ""], "--out '': expected the name of a file"),
        (["--annotate", "rtsp://eva:pw@host/x"], "--annotate rtsp://eva:***@host/x: expected the name of a file"),
        (["--out", "no/such/folder/labels.tsv"], "--out no/such/folder/labels.tsv: its folder does not exist"),
        (["--out", "taken.tsv"], "--out taken.tsv: is a folder"),
        (["--batch", "0"], "expected 1 or more, got 0"),
        (["--batch", "many"], "many"),
        (["--top=-1"], "expected 1 or more, got -1"),
        (["--max-delay-ms", "0"], "expected more than 0, got 0"),
        (["--max-fps=-1"], "expected more than 0, got -1"),
        (["--seconds", "inf"], "expected more than 0, got inf"),
        (["--resume"], "--resume: there is no file to resume; give --out FILE"),
        (["--out", "a.tsv", "--resume", "--overwrite"], "--resume and --overwrite: one resumes a stopped run"),
        (
            ["--json", "--out", "/dev/stdout"],
            "--json: the JSON document and the rows cannot both go to standard output",
        ),
        (["--null"], "--null: is for file names on standard input, got the source"),
        (["--seconds", "5"], "--seconds: is for a camera or stream, got"),
        (["--frames", "5"], "--frames: is for a camera or stream, got"),
        (["--max-fps", "5"], "--max-fps: is for a camera or stream, got"),
        (["--realtime"], "--realtime: expected a video file, got"),
        (
            ["--resume", "--out", "a.tsv", "--annotate", "a.mp4"],
            "an annotated video cannot be resumed",
        ),
        (["--threshold", "1.5"], "expected 0 to 1, got 1.5"),
        (["--threshold", "nan"], "expected 0 to 1, got nan"),
        (["--engine", "warp-drive"], "has no engine warp-drive"),
        (["--nonsense"], "--nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_ends_with_2_and_is_explained(bundle, photos, tmp_path, monkeypatch, capsys, more, message):
    os.mkdir(str(tmp_path / "taken.tsv"))
    monkeypatch.chdir(tmp_path)
    assert exit_code(bundle, photos, *more) == 2
    out, err = capsys.readouterr()
    assert message in err and out == ""
    assert os.listdir(str(tmp_path)) == ["taken.tsv"]


@pytest.mark.parametrize(
    "source, message",
    [
        ("nowhere", "nowhere: no such file or folder"),
        ("*.nothing", "*.nothing: the pattern matches no file"),
        ("camera:x", "camera:x"),
    ],
)
def test_a_wrong_source_ends_with_2_and_is_explained(bundle, capsys, source, message):
    assert exit_code(bundle, source) == 2
    assert message in capsys.readouterr().err


def test_a_table_without_the_column_ends_with_2_and_leaves_no_result(bundle, tmp_path):
    write_table(str(tmp_path / "in.tsv"), [("a.jpg", "ham")], header=("photo", "label"))
    done = picnic_edge("classify", bundle, tmp_path / "in.tsv", "--out", tmp_path / "out.tsv")
    assert done.returncode == 2
    assert "no column named file" in done.stderr and "Traceback" not in done.stderr
    assert not os.path.exists(str(tmp_path / "out.tsv"))


def test_an_images_folder_that_is_not_there_ends_with_2(bundle, tmp_path, capsys):
    write_table(str(tmp_path / "in.tsv"), [("a.jpg", "ham")])
    assert exit_code(bundle, tmp_path / "in.tsv", "--images", tmp_path / "nowhere") == 2
    assert "no such folder" in capsys.readouterr().err


def test_a_missing_library_ends_with_4_and_the_command_that_brings_it(bundle, photos, tmp_path):
    write_bytes(tmp_path / "onnxruntime.py", b"raise ImportError('not on this machine')")
    done = picnic_edge("classify", bundle, photos, "--engine", "onnxruntime", cwd=str(tmp_path))
    assert done.returncode == 4
    assert "not on this machine" in done.stderr and "pip install onnxruntime" in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == b""


def test_a_full_disk_behind_standard_output_ends_with_2(bundle, photos):
    with open("/dev/full", "wb") as full:
        process = start("classify", bundle, photos, stdout=full)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert (
        stderr.decode().splitlines()[-1] == "picnic-edge: standard output: cannot be written (No space left on device)"
    )


# --- everything nasty in one folder


def nasty_folder(folder):
    """Fills a folder; returns {name relative to it: label, or part of the reason there is none}."""
    os.makedirs(folder)
    os.mkdir(os.path.join(folder, "sub"))
    red = photo(COLOURS["red"])
    jpeg, png = encoded(red, "jpg"), encoded(red, "png")
    contents = {
        "fine.jpg": (jpeg, RED),
        "really_a_png.jpeg": (png, RED),
        "sub/fine.webp": (encoded(red, "webp"), RED),
        "empty.jpg": (b"", "is empty (0 bytes)"),
        "text.jpg": (b"not a photo at all\n", "is not a JPEG"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "half.png": (png[: len(png) // 2], "truncated"),
        "half.gif": (encoded(red, "gif")[:-300], "truncated"),
        "half.bmp": (encoded(red, "bmp")[:-300], "truncated"),
        "half.webp": (encoded(red, "webp")[:-30], "truncated"),
        "bomb.png": (raw_png(20000, 20000), "refused before decoding"),
        "bad_exif.jpg": (jpeg[:2] + b"\xff\xe1\0\x10Exif\0\0II*\0\xff\xff\xff\xff" + jpeg[2:], RED),
    }
    for name in NASTY_NAMES:
        contents[name] = (jpeg, RED)
    for name, (data, _) in contents.items():
        write_bytes(os.path.join(folder, name), data)
    expected = {name: outcome for name, (_, outcome) in contents.items()}
    os.mkdir(os.path.join(folder, "folder.jpg"))
    os.mkfifo(os.path.join(folder, "pipe.jpg"))
    os.symlink("nowhere", os.path.join(folder, "dangling.jpg"))
    os.symlink("circle.jpg", os.path.join(folder, "circle.jpg"))
    os.symlink("..", os.path.join(folder, "sub", "loop"))
    expected.update(
        {
            "folder.jpg": "is a directory",
            "pipe.jpg": "is not a regular file",
            "dangling.jpg": "No such file or directory",
            "circle.jpg": "Too many levels of symbolic links",
            "sub/loop": "is a link back",
        }
    )
    return expected


@pytest.fixture(scope="module")
def nasty(bundle, tmp_path_factory):
    """(folder, expected outcome of each name, the run over it)."""
    folder = str(tmp_path_factory.mktemp("nasty") / "photos")
    expected = nasty_folder(folder)
    return folder, expected, picnic_edge("classify", bundle, folder, "--batch", "4")


def test_unreadable_photos_do_not_make_the_run_fail(nasty):
    done = nasty[2]
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr


def test_every_input_gets_exactly_one_row_in_order_whatever_its_name(nasty):
    _, expected, done = nasty
    assert [row["file"] for row in read_rows_of(done.stdout)] == sorted(expected)


def test_every_unreadable_input_has_its_reason_and_no_label(nasty):
    _, expected, done = nasty
    for row in read_rows_of(done.stdout):
        if expected[row["file"]] != RED:
            assert expected[row["file"]] in row["error"], row
            assert (row["label"], row["confidence"]) == ("", ""), row


def test_every_readable_input_among_them_has_its_label_and_no_error(nasty):
    _, expected, done = nasty
    found = {row["file"]: row["label"] for row in read_rows_of(done.stdout) if not row["error"]}
    assert found == {name: RED for name, outcome in expected.items() if outcome == RED}


def test_the_count_of_unreadable_inputs_is_told(nasty):
    _, expected, done = nasty
    bad = sum(outcome != RED for outcome in expected.values())
    assert "%d photos in " % len(expected) in done.stderr
    assert "%d unreadable (see the column error)" % bad in done.stderr


def test_the_names_in_the_table_open_the_files(nasty):
    folder, expected, done = nasty
    opened = 0
    for row in read_rows_of(done.stdout):
        if expected[row["file"]] == RED:
            raw = os.path.join(os.fsencode(folder), row["file"].encode("utf-8", "surrogateescape"))
            opened += os.path.getsize(raw) > 0
    assert opened == len(NASTY_NAMES) + 4


def test_a_result_table_is_itself_a_source(nasty, bundle, tmp_path):
    folder, expected, done = nasty
    table = write_bytes(tmp_path / "again.tsv", done.stdout)
    again = picnic_edge("classify", bundle, table, "--images", folder)
    assert [(row["file"], row["label"]) for row in read_rows_of(again.stdout)] == [
        (row["file"], row["label"]) for row in read_rows_of(done.stdout)
    ]


def test_json_names_open_the_files_too(nasty, bundle):
    folder, expected, _ = nasty
    document = json.loads(picnic_edge("classify", bundle, folder, "--json").stdout.decode("ascii"))
    names = [
        os.fsdecode(base64.b64decode(row["file_bytes"])) if "file_bytes" in row else row["file"]
        for row in document["results"]
    ]
    assert names == sorted(expected)
    assert document["unreadable"] == sum(outcome != RED for outcome in expected.values())
    assert all((row["confidence"] is None) == bool(row["error"]) for row in document["results"])


def test_strict_ends_with_3_and_still_writes_every_row(nasty, bundle, tmp_path):
    folder, expected, done = nasty
    strict = picnic_edge("classify", bundle, folder, "--batch", "4", "--strict", "--out", tmp_path / "out.tsv")
    bad = sum(outcome != RED for outcome in expected.values())
    assert strict.returncode == 3
    assert strict.stderr.splitlines()[-1] == "picnic-edge: %d of %d photos could not be read" % (bad, len(expected))
    assert (tmp_path / "out.tsv").read_bytes() == done.stdout


def test_strict_ends_with_0_where_every_photo_can_be_read(bundle, photos, plain):
    done = picnic_edge("classify", bundle, photos, "--strict")
    assert (done.returncode, done.stdout) == (0, plain.stdout)


# An old Python started by a service, without LANG, takes every name for ASCII.
NO_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def test_without_a_locale_a_folder_gives_the_same_table(nasty, bundle):
    folder, _, done = nasty
    assert picnic_edge("classify", bundle, folder, "--batch", "4", env=NO_LOCALE).stdout == done.stdout


def test_without_a_locale_a_table_s_names_are_still_utf_8(bundle, tmp_path):
    write_bytes(tmp_path / os.fsdecode(b"\xc3\xbcml\xc3\xa4ut.jpg"), encoded(photo(COLOURS["red"]), "jpg"))
    table = write_bytes(tmp_path / "in.tsv", b"file\n\xc3\xbcml\xc3\xa4ut.jpg\n")
    done = picnic_edge("classify", bundle, table, env=NO_LOCALE)
    assert done.stdout.splitlines()[1].startswith(b"\xc3\xbcml\xc3\xa4ut.jpg\tred\t"), done.stdout


# --- interrupted


def start(*arguments, **settings):
    return subprocess.Popen(
        [sys.executable, "-m", "picnic_edge"] + [os.fspath(argument) for argument in arguments],
        stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=ROOT),
        **settings,
    )


def test_ctrl_c_ends_with_130_and_keeps_the_rows_that_were_done(bundle, photos, tmp_path):
    out = str(tmp_path / "out.tsv")
    sure = os.path.join(photos, RED, "00.jpg")
    names = [sure] + ["%06d-%s" % (number, "x" * 90) for number in range(3000)]
    process = start("classify", bundle, "-", "--out", out, stdin=subprocess.PIPE)
    try:
        # A pipe holds 64 KiB: when this returns, the command has read all but the last 700 names.
        process.stdin.write("".join(name + "\n" for name in names).encode())
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    stderr = stderr.decode()
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "picnic-edge: interrupted" and "Traceback" not in stderr
    assert not os.path.exists(out)
    with open(out + ".partial", "rb") as file:
        rows = read_rows_of(file.read())
    assert "stopped after %d rows; they are in %s.partial" % (len(rows), out) in stderr
    assert "to continue: picnic-edge classify %s - --out %s --resume (with the same names" % (bundle, out) in stderr
    assert 1 < len(rows) <= len(names)  # fast as it is, it may have been through with them
    assert [row["file"] for row in rows] == names[: len(rows)]
    assert (rows[0]["label"], rows[1]["error"]) == (RED, "No such file or directory")


def test_a_reader_that_goes_away_ends_it_quietly_with_141(bundle, tmp_path):
    listed = write_bytes(tmp_path / "names.txt", b"".join(b"%06d-%s\n" % (n, b"x" * 90) for n in range(3000)))
    with open(listed, "rb") as names:
        process = start("classify", bundle, "-", stdin=names, stdout=subprocess.PIPE)
        first = process.stdout.readline()
        process.stdout.close()
        stderr = process.stderr.read().decode()
        process.stderr.close()
        code = process.wait(60)
    assert first == b"file\tlabel\tconfidence\terror\n"
    assert code == 141
    for word in ("Traceback", "BrokenPipe", "Exception", "bug"):
        assert word not in stderr


# --- Python


def test_the_example_of_the_contract_works(bundle, photos):
    path = os.path.join(photos, GREEN, "00.jpg")
    frame_rgb_uint8 = photo(COLOURS["red"], height=480, width=640)
    with Classifier.open(bundle, engine="auto", batch_size=8) as classifier:
        first, second = classifier.classify([path, frame_rgb_uint8])
    assert (first.label, first.name, first.error) == (GREEN, path, "")
    assert (second.label, second.name, second.error) == (RED, "", "")
    assert first.confidence == first.top(3)[0][1] > first.top(3)[1][1] > first.top(3)[2][1] > 0
    assert {label for label, _ in first.top(3)} == set(COLOURS)


@pytest.fixture(scope="module")
def classifier(bundle):
    with Classifier.open(bundle) as opened:
        yield opened


def test_a_path_object_keeps_its_whole_name(classifier, photos):
    path = pathlib.Path(photos) / RED / "00.jpg"
    (found,) = classifier.classify([path])
    assert (found.name, found.label) == (str(path), RED)


def test_a_frame_may_be_a_view_with_its_channels_turned_round(classifier):
    bgr = np.ascontiguousarray(photo(COLOURS["red"])[:, :, ::-1])
    (found,) = classifier.classify([bgr[:, :, ::-1]])
    assert found.label == RED


@pytest.mark.parametrize("frame", [np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.uint8)], ids=["float", "grey"])
def test_a_frame_of_another_kind_is_a_prediction_with_its_error(classifier, frame):
    (found,) = classifier.classify([frame])
    assert "must be a uint8 array [height, width, 3], RGB" in found.error
    assert (found.label, found.confidence, found.top(3)) == ("", 0.0, [])


def test_an_unreadable_file_is_a_prediction_with_its_error_in_its_place(classifier, photos):
    good = os.path.join(photos, RED, "00.jpg")
    found = list(classifier.classify([good, "nowhere.jpg", good]))
    assert [(one.label, one.error) for one in found] == [(RED, ""), ("", "No such file or directory"), (RED, "")]


def test_a_classifier_may_be_used_again_and_closed_twice(bundle, photos):
    classifier = Classifier.open(bundle)
    path = os.path.join(photos, RED, "00.jpg")
    assert [found.label for _ in range(2) for found in classifier.classify([path])] == [RED, RED]
    classifier.close()
    classifier.close()


def test_probabilities_are_in_the_order_of_the_class_names(classifier, photos):
    (found,) = classifier.classify([os.path.join(photos, RED, "00.jpg")])
    assert found.class_names == sorted(COLOURS)
    assert found.class_names[found.probabilities.argmax()] == RED
    assert found.probabilities.shape == (3,) and found.probabilities.dtype == np.float32


# --- stopped, and --resume


class Resumable:
    """A run over the photos in batches of 2, and what became of it."""

    def __init__(self, bundle, photos, out):
        self.bundle, self.photos, self.out = bundle, photos, str(out)
        self.partial = self.out + ".partial"
        self.code = None

    def arguments(self, *more):
        return [self.bundle, self.photos, "--out", self.out, "--batch", "2"] + list(more)

    def run(self, *more):
        self.code = exit_code(*self.arguments(*more))
        return self.code

    def stop_after(self, monkeypatch, rows, error=None, more=()):
        """Runs until so many rows were done, when something fails (the engine, unless error says what)."""
        row_of, done = results_rows.row_of, []

        def failing(*arguments):
            if len(done) == rows:
                raise error or EngineLost("the GPU has fallen off the bus")
            done.append(arguments)
            return row_of(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(results_rows, "row_of", failing)
            return self.run(*more)

    def beside(self):
        """The names of what lies in the folder of the output, without it."""
        folder, name = os.path.split(self.out)
        return sorted(found for found in os.listdir(folder) if found.startswith(name) and found != name)

    def content(self):
        with open(self.out, "rb") as file:
            return file.read()


@pytest.fixture
def job(bundle, photos, tmp_path):
    return Resumable(bundle, photos, tmp_path / "out.tsv")


@pytest.fixture(scope="module")
def in_twos(bundle, photos, tmp_path_factory):
    """What a run of Resumable writes if nothing stops it."""
    whole = Resumable(bundle, photos, tmp_path_factory.mktemp("whole") / "out.tsv")
    assert whole.run() == 0
    return whole.content()


@pytest.mark.parametrize("option", ["--out", "--annotate"])
def test_the_source_is_not_replaced(bundle, photos, clip, tmp_path, capsys, option):
    mine = tmp_path / ("mine.tsv" if option == "--out" else "mine.avi")
    mine.write_bytes(b"file\tlabel\n00.jpg\tmy own\n")
    (tmp_path / "link.tsv").symlink_to(mine)
    (tmp_path / "link.avi").symlink_to(mine)
    for target in (mine, tmp_path / ("link" + mine.suffix)):
        assert exit_code(bundle, mine, option, target) == 2
        assert "%s %s: is the source, which would be replaced" % (option, target) in capsys.readouterr().err
    assert b"my own" in mine.read_bytes()


def test_a_document_that_is_stopped_holds_what_was_answered(bundle, photos, monkeypatch, capsys):
    row_of, done = results_rows.row_of, []

    def failing(*arguments):
        done.append(arguments)
        if len(done) > 4:
            raise EngineLost("the GPU has fallen off the bus")
        return row_of(*arguments)

    monkeypatch.setattr(results_rows, "row_of", failing)
    assert exit_code(bundle, photos, "--json", "--batch", "2") == EngineLost.exit_code
    document = json.loads(capsys.readouterr().out)
    assert document["interrupted"] is True and document["photos"] == len(document["results"]) == 4


def test_another_jpeg_decoder_is_refused(job, monkeypatch, capsys):
    job.stop_after(monkeypatch, 3)
    monkeypatch.setenv("PICNIC_EDGE_JPEG", "hardware")
    monkeypatch.setattr(jpeg_hardware, "HardwareDecoder", HardwareDecoder)
    assert job.run("--resume") == 2
    assert "jpeg decoder: none then, hardware now" in capsys.readouterr().err


class HardwareDecoder:
    """Stands for one that is there."""

    def __init__(self, input_spec):
        pass

    def close(self):
        pass


def test_a_camera_s_rows_are_kept_when_its_run_begins_again(bundle, long_clip, tmp_path, monkeypatch, capsys):
    camera = Resumable(bundle, long_clip, tmp_path / "out.tsv")
    assert camera.stop_after(monkeypatch, 3, more=["--realtime"]) == EngineLost.exit_code
    assert camera.run("--realtime", "--frames", "2") == 0
    kept = str(tmp_path / "out.stopped-1.tsv")
    assert "rows of a stopped run are kept in %s" % kept in capsys.readouterr().err
    with open(kept, "rb") as file:
        assert 1 <= len(read_rows_of(file.read())) <= 3
    assert len(read_rows_of(camera.content())) == 2 and camera.beside() == []


def test_an_engine_that_is_lost_keeps_the_rows_and_says_how_to_go_on(job, in_twos, monkeypatch, capsys):
    assert job.stop_after(monkeypatch, 3) == EngineLost.exit_code
    stderr = capsys.readouterr().err.splitlines()
    assert stderr[-1] == "picnic-edge: the GPU has fallen off the bus"
    assert stderr[-3] == "stopped after 3 rows; they are in %s" % job.partial
    words = shlex.split(stderr[-2])
    assert words == ["to", "continue:", "picnic-edge", "classify"] + job.arguments("--resume")
    assert job.beside() == ["out.tsv.partial", "out.tsv.partial.json"] and not os.path.exists(job.out)

    assert exit_code(*words[4:]) == 0
    assert "continuing after the 2 rows in %s" % job.partial in capsys.readouterr().err
    assert job.content() == in_twos and job.beside() == []


@pytest.mark.parametrize("rows", range(1, 6))
def test_stopped_after_any_row_it_goes_on_to_the_same_file(job, in_twos, monkeypatch, rows):
    assert job.stop_after(monkeypatch, rows) != 0
    assert job.run("--resume") == 0
    assert job.content() == in_twos and job.beside() == []


def test_a_bug_keeps_the_rows_too(job, in_twos, monkeypatch, capsys):
    assert job.stop_after(monkeypatch, 4, IndexError("planted for the test")) == 1
    stderr = capsys.readouterr().err
    assert "stopped after 4 rows" in stderr and "--resume" in stderr and "this is a bug" in stderr
    assert job.run("--resume") == 0
    assert job.content() == in_twos


def test_a_failure_before_the_first_row_leaves_nothing(job, monkeypatch):
    assert job.stop_after(monkeypatch, 0) != 0
    assert job.beside() == []


@pytest.mark.parametrize(
    "more, message",
    [
        (["--batch", "3"], "batch: 2 then, 3 now"),
        (["--top", "2"], "top: 1 then, 2 now"),
        (["--threshold", "0.5"], "threshold: none then, 0.5 now"),
        (["--max-delay-ms", "20"], "max delay ms: none then, 20.0 now"),
        (["--images", "."], "images: none then, "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_another_option_is_refused_with_what_differs(job, in_twos, monkeypatch, capsys, more, message):
    job.stop_after(monkeypatch, 3)
    assert job.run("--resume", *more) == 2
    stderr = capsys.readouterr().err
    assert "out.tsv.partial belongs to a run with other settings:\n  %s" % message in stderr
    assert "to replace its rows, give --overwrite instead of --resume" in stderr
    assert job.run("--resume") == 0
    assert job.content() == in_twos


def test_another_bundle_is_refused(job, monkeypatch, capsys, tmp_path):
    job.stop_after(monkeypatch, 3)
    other = shutil.copytree(job.bundle, str(tmp_path / "other"))
    with open(os.path.join(other, "manifest.json")) as file:
        listed = json.load(file)["metrics"]
    os.unlink(os.path.join(other, "manifest.json"))
    write_manifest(other, ["x", "y", "z"], to_manifest(INCEPTION_V3), listed, {})
    assert exit_code(other, job.photos, "--out", job.out, "--batch", "2", "--resume") == 2
    assert "\n  bundle: " in capsys.readouterr().err


def test_another_source_is_refused(job, monkeypatch, capsys, tmp_path):
    job.stop_after(monkeypatch, 3)
    assert exit_code(job.bundle, tmp_path, "--out", job.out, "--batch", "2", "--resume") == 2
    stderr = capsys.readouterr().err
    assert "source: %s then, %s now" % (job.photos, tmp_path) in stderr and "source path: " in stderr


@pytest.mark.parametrize("change", ["removed", "added", "renamed"])
def test_files_that_changed_before_the_checkpoint_are_refused(bundle, in_twos, tmp_path, monkeypatch, capsys, change):
    folder = str(tmp_path / "photos")
    write_photos(folder, per_class=2)
    first, added = os.path.join(folder, BLUE, "00.jpg"), os.path.join(folder, "a.jpg")
    job = Resumable(bundle, folder, tmp_path / "out.tsv")
    job.stop_after(monkeypatch, 3)
    if change == "added":
        shutil.copy(first, added)
    else:
        os.rename(first, os.path.join(folder, BLUE, "0.jpg") if change == "renamed" else str(tmp_path / "gone"))
    assert job.run("--resume") == 2
    stderr = capsys.readouterr().err
    assert "the first 2 of %s are not those of the stopped run" % folder in stderr and "Put them back" in stderr
    if change == "added":
        os.unlink(added)
    else:
        os.rename(os.path.join(folder, BLUE, "0.jpg") if change == "renamed" else str(tmp_path / "gone"), first)
    assert job.run("--resume") == 0
    assert job.content() == in_twos


def test_files_that_vanish_after_the_checkpoint_get_no_row_or_their_reason(bundle, tmp_path, monkeypatch):
    folder = str(tmp_path / "photos")
    write_photos(folder, per_class=2)
    job = Resumable(bundle, folder, tmp_path / "out.tsv")
    job.stop_after(monkeypatch, 3)
    os.unlink(os.path.join(folder, RED, "01.jpg"))
    assert job.run("--resume") == 0
    assert [(row["file"], row["label"]) for row in read_rows_of(job.content())] == EXPECTED[:-1]


def test_a_file_that_is_there_needs_no_resuming(job, in_twos, capsys):
    assert job.run() == 0
    capsys.readouterr()
    before = os.stat(job.out)
    assert job.run("--resume", "--json") == 0
    out, err = capsys.readouterr()
    assert "%s is already complete" % job.out in err
    assert json.loads(out) == {"out": job.out}
    assert os.stat(job.out).st_mtime == before.st_mtime and job.content() == in_twos


def test_with_nothing_to_resume_it_starts(job, in_twos, capsys):
    assert job.run("--resume") == 0
    assert "there is nothing to resume" in capsys.readouterr().err
    assert job.content() == in_twos


def test_without_resume_the_rows_of_a_stopped_run_are_kept_and_both_commands_are_shown(
    job, in_twos, monkeypatch, capsys
):
    job.stop_after(monkeypatch, 3)
    with open(job.partial, "rb") as file:
        before = file.read()
    capsys.readouterr()
    assert job.run() == 2
    stderr = capsys.readouterr().err
    assert "%s holds 2 rows of a stopped run" % job.partial in stderr
    commands = [shlex.split(line)[2:] for line in stderr.splitlines() if line.startswith("  picnic-edge classify ")]
    assert commands == [job.arguments("--resume"), job.arguments("--overwrite")]
    with open(job.partial, "rb") as file:
        assert file.read() == before
    # Of another source or with other settings, too: what is shown to resume is the command of the stopped run.
    for source, option in ((os.path.join(job.photos, RED), "--strict"), (job.photos, "--threshold=0.6")):
        assert exit_code(job.bundle, source, "--out", job.out, option) == 2
        shown = [line for line in capsys.readouterr().err.splitlines() if line.endswith(" --resume")]
        assert [shlex.split(line)[2:] for line in shown] == [commands[0]]
    assert exit_code(*commands[0]) == 0
    assert job.content() == in_twos and job.beside() == []


def test_overwrite_replaces_the_rows_of_a_stopped_run_and_says_so(job, in_twos, monkeypatch, capsys):
    job.stop_after(monkeypatch, 3)
    capsys.readouterr()
    assert job.run("--overwrite") == 0
    assert "%s, from a stopped run, is overwritten" % job.partial in capsys.readouterr().err
    assert job.content() == in_twos and job.beside() == []


def test_a_run_with_overwrite_that_is_stopped_shows_how_to_continue(job, in_twos, monkeypatch, capsys):
    job.stop_after(monkeypatch, 3, more=["--overw"])  # as argparse takes it, too
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("to continue: ")]
    words = shlex.split(line)[4:]
    assert words == job.arguments("--resume")
    assert exit_code(*words) == 0
    assert job.content() == in_twos


def test_a_finished_output_is_replaced_as_before_and_that_is_said(job, in_twos, capsys):
    write_bytes(job.out, b"older")
    assert job.run() == 0
    assert "%s exists and will be replaced" % job.out in capsys.readouterr().err
    assert job.content() == in_twos


def test_an_older_result_stays_until_a_stopped_run_was_resumed(job, in_twos, monkeypatch):
    write_bytes(job.out, b"older")
    job.stop_after(monkeypatch, 3)
    assert job.content() == b"older"
    assert job.run("--resume") == 0
    assert job.content() == in_twos


def test_a_garbled_journal_is_explained(job, in_twos, monkeypatch, capsys):
    job.stop_after(monkeypatch, 3)
    write_bytes(job.partial + ".json", b"{")
    assert job.run("--resume") == 2
    stderr = capsys.readouterr().err
    assert (
        "out.tsv.partial.json cannot be used" in stderr and "give --overwrite" in stderr and "Traceback" not in stderr
    )
    assert job.run() == 2, "how many rows would be lost is not known"
    assert job.run("--overwrite") == 0
    assert job.content() == in_twos and job.beside() == []


def test_the_second_run_on_one_output_is_refused(job, in_twos, capsys):
    with journal.lock_output(job.out):
        for more in ([], ["--resume"]):
            assert job.run(*more) == 2
            message = "--out %s: another run is writing it (process %d)" % (job.out, os.getpid())
            assert message in capsys.readouterr().err
    assert job.run() == 0
    assert job.content() == in_twos


def test_resumed_counts_are_of_the_whole_file(bundle, photos, tmp_path, monkeypatch, capsys):
    table = str(tmp_path / "in.tsv")
    write_table(table, [("gone.jpg", ""), EXPECTED[0], EXPECTED[1], ("lost.jpg", ""), EXPECTED[2], EXPECTED[3]])
    job = Resumable(bundle, table, tmp_path / "out.tsv")
    monkeypatch.setattr(file_sink, "CHECKPOINT_ROWS", 1)
    job.arguments = lambda *more: [bundle, table, "--images", photos, "--out", job.out, "--batch", "2"] + list(more)
    job.stop_after(monkeypatch, 5)
    capsys.readouterr()
    assert job.run("--resume", "--json", "--strict") == 3
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["photos"], document["unreadable"]) == (6, 2) and document["resumed_at"] in (3, 4)
    assert "2 of 6 photos could not be read" in err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EIO])
def test_an_output_that_fails_on_the_way_is_explained_and_can_be_resumed(job, in_twos, monkeypatch, capsys, number):
    monkeypatch.setattr(file_sink, "CHECKPOINT_ROWS", 2)
    fsync, calls = os.fsync, []

    def failing(descriptor):
        calls.append(descriptor)
        if len(calls) > 6:  # rows, journal and folder: at the start, and at the first checkpoint
            raise OSError(number, os.strerror(number))
        return fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        assert job.run() == 2
    stderr = capsys.readouterr().err
    assert "picnic-edge: --out %s: cannot be written (%s)" % (job.out, os.strerror(number)) in stderr
    assert "stopped after 2 rows; they are in %s" % job.partial in stderr and "--resume" in stderr
    with open(job.partial, "rb") as file:
        assert file.read() == b"".join(in_twos.splitlines(True)[:3])
    assert job.run("--resume") == 0
    assert job.content() == in_twos


def test_an_output_folder_that_cannot_be_written_to(bundle, photos, monkeypatch, tmp_path, capsys):
    def refused(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(journal.os, "open", refused)
    assert exit_code(bundle, photos, "--out", tmp_path / "out.tsv") == 2
    assert "out.tsv: cannot be written (Read-only file system)" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", sorted(set(formats.FORMATS) - {".tsv"}))
def test_the_other_formats_go_on_to_the_same_file_too(bundle, photos, tmp_path, monkeypatch, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    whole = Resumable(bundle, photos, tmp_path / ("whole" + suffix))
    assert whole.run("--top", "2") == 0
    job = Resumable(bundle, photos, tmp_path / ("out" + suffix))
    job.arguments = lambda *more: Resumable.arguments(job, "--top", "2", *more)
    job.stop_after(monkeypatch, 3)
    assert job.run("--resume") == 0
    assert job.content() == whole.content() and job.beside() == []


def test_parquet_without_its_library_is_refused_before_the_work(bundle, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert exit_code(bundle, photos, "--out", tmp_path / "out.parquet") == 4
    assert "pip install pyarrow" in capsys.readouterr().err
    assert os.listdir(str(tmp_path)) == []


def test_names_on_standard_input_may_end_with_nul(bundle, photos, plain):
    names = "\0".join(name for name, _ in EXPECTED).encode()
    done = picnic_edge("classify", bundle, "-", "-0", input=names, cwd=photos)
    assert done.stdout == plain.stdout


# --- videos, and live sources


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video of 12 frames, 25 a second: 4 of each colour."""
    path = str(tmp_path_factory.mktemp("clip") / "clip.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 25, (160, 120))
    for label in sorted(COLOURS):
        for number in range(4):
            writer.write(np.ascontiguousarray(photo(COLOURS[label], number)[:, :, ::-1]))
    writer.release()
    return path


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    """A video of two minutes: played as a camera it is not over before the slowest machine has seen some of it."""
    path = str(tmp_path_factory.mktemp("clip") / "long.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 25, (160, 120))
    frames = [np.ascontiguousarray(photo(COLOURS["red"], seed)[:, :, ::-1]) for seed in range(50)]
    for number in range(3000):
        writer.write(frames[number % 50])
    writer.release()
    return path


FRAME_LABELS = [label for label in sorted(COLOURS) for _ in range(4)]


def test_every_frame_of_a_video_has_a_row_with_its_time(bundle, clip, tmp_path):
    job = Resumable(bundle, clip, tmp_path / "out.tsv")
    assert job.run("--top", "2") == 0
    rows = read_rows_of(job.content())
    assert list(rows[0])[-1] == "time_s"
    assert [(row["file"], row["label"]) for row in rows] == [
        ("%s#%d" % (clip, number), label) for number, label in enumerate(FRAME_LABELS)
    ]
    assert [float(row["time_s"]) for row in rows] == [round(number / 25.0, 3) for number in range(12)]


@pytest.mark.parametrize("more", [[], ["--realtime"]], ids=["video", "realtime"])
def test_frames_of_a_video_are_not_copied(bundle, clip, tmp_path, monkeypatch, more):
    monkeypatch.setattr(classifier_module, "_copy_of", lambda picture: pytest.fail("a frame was copied"))
    classify.main([bundle, clip, "--out", str(tmp_path / "out.tsv")] + more)
    assert len((tmp_path / "out.tsv").read_bytes().splitlines()) > 1


def test_a_video_goes_on_after_the_frame_where_it_was_stopped(bundle, clip, tmp_path, monkeypatch):
    whole = Resumable(bundle, clip, tmp_path / "whole.tsv")
    assert whole.run() == 0
    job = Resumable(bundle, clip, tmp_path / "out.tsv")
    job.stop_after(monkeypatch, 7)
    assert job.run("--resume") == 0
    assert job.content() == whole.content()


def test_another_video_of_the_same_name_is_refused(bundle, clip, tmp_path, monkeypatch, capsys):
    mine = shutil.copy(clip, str(tmp_path / "clip.avi"))
    job = Resumable(bundle, mine, tmp_path / "out.tsv")
    job.stop_after(monkeypatch, 7)
    with open(mine, "ab") as file:
        file.write(b"more")
    assert job.run("--resume") == 2
    assert "video: %d bytes, changed at " % os.path.getsize(clip) in capsys.readouterr().err


@pytest.fixture
def damaged_clip(clip, tmp_path):
    """The same 12 frames as an MP4; the fifth cannot be decoded."""
    path = str(tmp_path / "damaged.mp4")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 25, (160, 120))
    for label in sorted(COLOURS):
        for number in range(4):
            writer.write(np.ascontiguousarray(photo(COLOURS[label], number)[:, :, ::-1]))
    writer.release()
    with open(path, "rb") as file:
        data = bytearray(file.read())
    starts = [found.start() for found in re.finditer(b"\xff\xd8\xff", data)]
    data[starts[4] : starts[5]] = bytes(starts[5] - starts[4])
    return write_bytes(path, bytes(data))


def test_a_damaged_packet_of_a_video_is_an_error_row_and_the_frames_behind_it_are_labelled(
    bundle, damaged_clip, tmp_path, capsys
):
    out = str(tmp_path / "out.jsonl")
    assert exit_code(bundle, damaged_clip, "--out", out, "--json", "--strict", "--annotate", tmp_path / "seen") == 3
    stdout, err = capsys.readouterr()
    document = json.loads(stdout)
    assert (document["photos"], document["unreadable"]) == (12, 1)
    assert "1 of 12 frames could not be read" in err
    with open(out) as file:
        rows = [json.loads(line) for line in file]
    assert [row["file"] for row in rows] == ["%s#%d" % (damaged_clip, number) for number in range(12)]
    (lost,) = [number for number, row in enumerate(rows) if row["error"]]
    assert rows[lost]["label"] == "" and "(damaged packet)" in rows[lost]["error"]
    if lost == 4:  # OpenCV before 4.5 does not tell which
        assert [row["label"] or GREEN for row in rows] == FRAME_LABELS
    assert [row["time_s"] for row in rows] == [round(number / 25.0, 3) for number in range(12)]
    assert sum(name.endswith(".jpg") for _, _, names in os.walk(str(tmp_path / "seen")) for name in names) == 11


def test_a_damaged_video_goes_on_to_the_same_bytes(bundle, damaged_clip, tmp_path, monkeypatch):
    whole = Resumable(bundle, damaged_clip, tmp_path / "whole.tsv")
    assert whole.run() == 0
    for rows in (3, 5, 8):
        job = Resumable(bundle, damaged_clip, tmp_path / ("out%d.tsv" % rows))
        job.stop_after(monkeypatch, rows)
        assert job.run("--resume") == 0
        assert job.content() == whole.content()


def test_a_disk_that_fails_under_a_video_ends_with_4_and_the_run_can_be_resumed(
    bundle, clip, tmp_path, monkeypatch, capsys
):
    whole = Resumable(bundle, clip, tmp_path / "whole.tsv")
    assert whole.run() == 0
    job = Resumable(bundle, clip, tmp_path / "out.tsv")
    pread = os.pread

    def fails(file, count, place):
        if count >= 1 << 16:  # what is read at the end, not the few bytes at the start
            raise OSError(errno.EIO, "Input/output error")
        return pread(file, count, place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fails)
        assert job.run() == StorageLost.exit_code == 4
    assert "clip.avi: cannot be read any more (Input/output error)" in capsys.readouterr().err
    assert not os.path.exists(job.out)
    assert job.run("--resume") == 0
    assert job.content() == whole.content()


def test_a_video_played_as_a_camera_tells_latency_and_drops(bundle, clip, tmp_path, capsys):
    out = str(tmp_path / "out.jsonl")
    assert exit_code(bundle, clip, "--realtime", "--out", out, "--json") == 0
    stdout, err = capsys.readouterr()
    document = json.loads(stdout)
    with open(out) as file:
        rows = [json.loads(line) for line in file]
    assert 1 <= len(rows) == document["photos"] == document["latency"]["count"] == document["frames"]["taken"] <= 12
    assert document["frames"]["captured"] >= document["frames"]["taken"] + document["frames"]["dropped"]
    assert document["frames"]["reconnects"] == 0
    assert 0 < document["latency"]["p50_ms"] <= document["latency"]["max_ms"]
    assert document["latency"]["p90_ms"] is None and document["latency"]["p99_ms"] is None  # of at most 12 frames
    assert "capture to label p50 " in err and "reconnects" in err and "%d frames in " % len(rows) in err
    for row in rows:
        name, _, number = row["file"].rpartition("#")
        assert name == clip and row["label"] == FRAME_LABELS[int(number)] and row["time_s"] >= 0


def test_a_live_run_ends_after_so_many_frames(bundle, long_clip, capsys):
    assert exit_code(bundle, long_clip, "--realtime", "--frames", "2", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["results"]) == 2


@pytest.mark.parametrize("target", ["annotated", "annotated.avi"])
def test_the_pictures_are_written_with_their_labels(bundle, clip, tmp_path, target):
    out, target = tmp_path / "out.tsv", tmp_path / target
    assert exit_code(bundle, clip, "--out", out, "--annotate", target) == 0
    assert len(read_rows_of(out.read_bytes())) == 12
    if target.suffix:
        video = cv2.VideoCapture(str(target))
        assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 12 and video.get(cv2.CAP_PROP_FPS) == 25
        video.release()
    else:
        assert sum(len(names) for _, _, names in os.walk(str(target))) == 12


def test_the_threshold_holds_for_pictures_as_for_rows(bundle, photos, tmp_path):
    pictures = {}
    for name, threshold in (("plain", "0"), ("low", "0.1"), ("unknown", "1")):
        assert exit_code(bundle, photos, "--threshold", threshold, "--annotate", tmp_path / name) == 0
        pictures[name] = [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.jpg"))]
    assert pictures["plain"] == pictures["low"]
    assert not set(pictures["plain"]) & set(pictures["unknown"])


def test_pictures_are_not_written_into_their_own_source(bundle, photos, capsys):
    assert exit_code(bundle, photos, "--annotate", os.path.join(photos, "annotated")) == 2
    assert "is inside the source" in capsys.readouterr().err


class Window:
    """A window that somebody closes at its third picture."""

    def __init__(self, stop):
        self.stop, self.seen = stop, []

    def write(self, prediction, threshold):
        self.seen.append(prediction.name)
        if len(self.seen) == 3:
            self.stop.set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_closing_the_window_ends_a_camera_s_run_well(bundle, long_clip, tmp_path, monkeypatch):
    monkeypatch.setattr(show, "WindowAnnotator", Window)
    out = tmp_path / "out.tsv"
    assert exit_code(bundle, long_clip, "--realtime", "--out", out, "--show", "--batch", "1") == 0
    assert 3 <= len(read_rows_of(out.read_bytes())) < 1000


def test_closing_the_window_before_the_last_photo_leaves_the_file_unfinished(job, in_twos, monkeypatch, capsys):
    monkeypatch.setattr(show, "WindowAnnotator", Window)
    assert job.run("--show") == 130
    assert "to continue: picnic-edge classify" in capsys.readouterr().err and not os.path.exists(job.out)
    assert job.run("--resume") == 0
    assert job.content() == in_twos


@pytest.mark.parametrize(
    "more, message",
    [
        (["--resume", "--out", "a.tsv"], "--resume: camera:0 is live and cannot be resumed"),
        (["--json"], "--json: camera:0 has no end"),
        (["--realtime"], "--realtime: expected a video file, got camera:0"),
    ],
)
def test_what_cannot_be_done_with_a_camera_is_refused(bundle, monkeypatch, tmp_path, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    assert exit_code(bundle, "camera:0", *more) == 2
    assert message in capsys.readouterr().err


def test_a_camera_that_is_not_there_ends_with_4_and_leaves_nothing(bundle, tmp_path, capsys):
    assert exit_code(bundle, "camera:63", "--out", tmp_path / "out.tsv") == 4
    assert "camera:63" in capsys.readouterr().err
    assert os.listdir(str(tmp_path)) == []


def test_a_camera_s_run_that_is_stopped_has_its_file(bundle, long_clip, tmp_path):
    out = str(tmp_path / "out.tsv")
    process = start("classify", bundle, long_clip, "--realtime", "--out", out, "--json", stdout=subprocess.PIPE)
    try:
        while not os.path.exists(out + ".partial"):
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        process.terminate()
        printed, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, stderr
    assert json.loads(printed.decode())["photos"] >= 1
    assert ", written to %s" % out in stderr.decode() and "--resume" not in stderr.decode()
    assert os.listdir(str(tmp_path)) == ["out.tsv"]
    with open(out, "rb") as file:
        assert {row["label"] for row in read_rows_of(file.read())} == {RED}


# --- sources: storage that goes away, what is passed over, several at once


def losing(monkeypatch, name, lose):
    """Patches reading so that the folder goes away when the photo of that name is to be read."""
    read_image = photos_read.read_image

    def read(path, input_spec):
        if path.endswith(name):
            lose()
        return read_image(path, input_spec)

    monkeypatch.setattr(classifier_module, "read_image", read)


@pytest.mark.parametrize("kind", ["folder", "glob", "table", "several"])
def test_a_folder_that_goes_away_in_mid_run_stops_it_and_resumes_to_the_same_file(
    bundle, in_twos, tmp_path, monkeypatch, capsys, kind
):
    folder = str(tmp_path / "photos")
    write_photos(folder, per_class=2)
    write_table(folder + ".tsv", EXPECTED)
    source = {
        "folder": [folder],
        "glob": [os.path.join(folder, "*", "*.jpg")],
        "table": [folder + ".tsv", "--images", folder],
        "several": [os.path.join(folder, label) for label in sorted(COLOURS)],
    }[kind]
    whole = str(tmp_path / "whole.tsv")
    assert exit_code(bundle, *source, "--out", whole, "--batch", "2") == 0
    out = str(tmp_path / "out.tsv")
    with monkeypatch.context() as patch:
        losing(patch, os.path.join(GREEN, "01.jpg"), lambda: os.rename(folder, folder + ".away"))
        assert exit_code(bundle, *source, "--out", out, "--batch", "2") == StorageLost.exit_code == 4
    stderr = capsys.readouterr().err
    assert "went away" in stderr and folder in stderr and "No photo is marked as failed" in stderr
    assert os.path.exists(folder + ".away") and not os.path.exists(out)
    os.rename(folder + ".away", folder)
    assert exit_code(bundle, *source, "--out", out, "--batch", "2", "--resume") == 0
    with open(out, "rb") as resumed, open(whole, "rb") as expected:
        assert resumed.read() == expected.read()


def test_names_on_standard_input_stop_with_their_folder_and_resume_to_the_same_file(bundle, photos, tmp_path):
    folder = shutil.copytree(photos, str(tmp_path / "photos"))
    names = [os.path.join(folder, name) for name, _ in EXPECTED]
    arguments = ["classify", bundle, "-", "--batch", "2", "--out"]
    whole, out = str(tmp_path / "whole.tsv"), str(tmp_path / "out.tsv")
    assert picnic_edge(*arguments, whole, input="\n".join(names).encode()).returncode == 0
    job = subprocess.Popen(
        [sys.executable, "-m", "picnic_edge"] + arguments + [out],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=ROOT),
    )
    job.stdin.write("\n".join(names[:4]).encode() + b"\n")
    job.stdin.flush()
    deadline = time.time() + 60
    while not (os.path.exists(out + ".partial") and os.path.getsize(out + ".partial") > 200):
        assert time.time() < deadline, job.stderr.read()
        time.sleep(0.05)
    os.rename(folder, folder + ".away")
    stderr = job.communicate("\n".join(names[4:]).encode())[1].decode()
    assert job.returncode == 4 and "with the same names on standard input" in stderr
    os.rename(folder + ".away", folder)
    assert picnic_edge(*arguments, out, "--resume", input="\n".join(names).encode()).returncode == 0
    with open(out, "rb") as resumed, open(whole, "rb") as expected:
        assert resumed.read() == expected.read()


def test_a_disk_that_is_unmounted_in_mid_run_and_mounted_again(bundle, in_twos, tmp_path, monkeypatch, mount, capsys):
    folder = str(tmp_path / "card")
    job = Resumable(bundle, folder, tmp_path / "out.tsv")
    with mount(folder) as unmount:
        write_photos(folder, per_class=2)
        with monkeypatch.context() as patch:
            losing(patch, os.path.join(GREEN, "01.jpg"), unmount)
            assert job.run() == 4
    assert os.listdir(folder) == [] and "went away" in capsys.readouterr().err
    assert 0 < os.path.getsize(job.partial) < len(in_twos)
    os.rmdir(folder)
    with mount(folder):
        write_photos(folder, per_class=2)
        assert job.run("--resume") == 0
    assert job.content() == in_twos


@pytest.mark.parametrize("kind", ["folder", "table", "glob"])
def test_a_disk_in_the_source_that_goes_away_before_its_turn_resumes_to_the_same_file(
    bundle, tmp_path, monkeypatch, mount, capsys, kind
):
    folder = str(tmp_path / "photos")
    write_photos(folder, per_class=2)
    shutil.rmtree(os.path.join(folder, GREEN))
    write_table(folder + ".tsv", EXPECTED)
    source = {
        "folder": [folder],
        "glob": [os.path.join(folder, "*", "*.jpg")],
        "table": [folder + ".tsv", "--images", folder],
    }[kind]
    command, whole, out = [bundle] + source + ["--batch", "1", "--out"], tmp_path / "whole.tsv", tmp_path / "out.tsv"
    open_sources = classify_run.open_sources

    def fill():
        for number in range(2):
            write_photo(os.path.join(folder, GREEN, "%02d.jpg" % number), photo(COLOURS[GREEN], number))

    def open_and_lose(*arguments):
        items = open_sources(*arguments)

        def losing():
            yield next(items)
            unmount()
            yield from items

        return Items(losing(), items.passed_over)

    with mount(os.path.join(folder, GREEN)) as unmount:
        fill()
        assert exit_code(*command, whole) == 0
        with monkeypatch.context() as patch:
            patch.setattr(classify_run, "open_sources", open_and_lose)
            assert exit_code(*command, out) == StorageLost.exit_code
    stderr = capsys.readouterr().err
    assert os.path.join(folder, GREEN) in stderr and "No photo is marked as failed" in stderr and not out.exists()
    os.rmdir(os.path.join(folder, GREEN))
    with mount(os.path.join(folder, GREEN)):
        fill()
        assert exit_code(*command, out, "--resume") == 0
    assert out.read_bytes() == whole.read_bytes()
    assert [row["label"] for row in read_rows_of(out.read_bytes())] == [label for _, label in EXPECTED]


def test_a_photo_that_goes_away_alone_is_a_row(bundle, tmp_path, monkeypatch):
    folder = str(tmp_path / "photos")
    write_photos(folder, per_class=2)
    last = os.path.join(folder, RED, "01.jpg")
    losing(monkeypatch, last, lambda: os.unlink(last))
    job = Resumable(bundle, folder, tmp_path / "out.tsv")
    assert job.run() == 0
    assert [row["error"] for row in read_rows_of(job.content())] == [""] * 5 + ["No such file or directory"]


@pytest.fixture
def with_others(photos, tmp_path):
    """The photos among files of other kinds, one photo without a suffix."""
    folder = shutil.copytree(photos, str(tmp_path / "mixed"))
    for name in ("a.mp4", "b.mp4", "notes.txt", "README", "Thumbs.db", ".hidden.jpg"):
        write_bytes(os.path.join(folder, name), b"some text")
    shutil.copy(os.path.join(folder, RED, "00.jpg"), os.path.join(folder, "zz_IMG_1"))
    return folder


def test_what_a_folder_has_beside_photos_is_said_in_the_last_line_and_in_json(bundle, with_others):
    done = picnic_edge("classify", bundle, with_others, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.decode())
    assert document["passed_over"] == {".mp4": 2, ".txt": 1, "": 1}
    assert [row["file"] for row in document["results"]] == [name for name, _ in EXPECTED] + ["zz_IMG_1"]
    assert "; passed over: 2 .mp4, 1 without a suffix, 1 .txt (to classify a video" in done.stderr.splitlines()[-1]


def test_what_a_shell_puts_in_the_place_of_a_pattern_may_hold_other_files(bundle, with_others, capsys):
    given = [os.path.join(with_others, name) for name in sorted(os.listdir(with_others)) if name[0] != "."]
    assert exit_code(bundle, *given) == 2 and "put the pattern in quotes" in capsys.readouterr().err
    given = [path for path in given if not path.endswith(".mp4")]
    assert exit_code(bundle, *given, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["passed_over"] == {".txt": 1, "": 1}
    assert [row["file"] for row in document["results"]] == [
        os.path.join(with_others, name) for name in [name for name, _ in EXPECTED] + ["zz_IMG_1"]
    ]
    assert exit_code(bundle, os.path.join(with_others, "README")) == 2 and "is no photo" in capsys.readouterr().err


def test_a_folder_of_photos_alone_has_nothing_passed_over(bundle, photos):
    done = picnic_edge("classify", bundle, photos, "--json")
    assert json.loads(done.stdout.decode())["passed_over"] == {} and "passed over" not in done.stderr


def test_several_sources_are_resumed_only_with_the_same_ones(bundle, photos, tmp_path, monkeypatch, capsys):
    given = [os.path.join(photos, label) for label in sorted(COLOURS)]
    out = ["--out", str(tmp_path / "out.tsv"), "--batch", "2"]
    assert exit_code(bundle, *given, "--out", str(tmp_path / "whole.tsv"), "--batch", "2") == 0
    row_of, rows = results_rows.row_of, []

    def failing(*arguments):
        rows.append(arguments)
        if len(rows) == 4:
            raise EngineLost("planted")
        return row_of(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(results_rows, "row_of", failing)
        assert exit_code(bundle, *given, *out) == 4
    assert "to continue: picnic-edge classify" in capsys.readouterr().err
    for others in (given[:2], given[:2] + [photos], given[::-1]):
        assert exit_code(bundle, *others, *out, "--resume") == 2
        assert "source path: " in capsys.readouterr().err
    assert exit_code(bundle, *given, *out, "--resume") == 0
    assert (tmp_path / "out.tsv").read_bytes() == (tmp_path / "whole.tsv").read_bytes()
    rows = read_rows_of((tmp_path / "out.tsv").read_bytes())
    assert [row["file"] for row in rows] == [os.path.join(photos, name) for name, _ in EXPECTED]


@pytest.mark.parametrize("alone", ["-", "camera:0", "rtsp://host/1", "clip.mp4"])
def test_what_is_no_file_of_photos_must_be_the_only_source(bundle, photos, capsys, alone):
    for given in ([photos, alone], [alone, photos]):
        assert exit_code(bundle, *given) == 2
        assert "must be the only source" in capsys.readouterr().err


def test_the_output_is_none_of_several_sources(bundle, photos, tmp_path, capsys):
    table = tmp_path / "list.tsv"
    write_table(table, [("a.jpg", "")])
    assert exit_code(bundle, photos, table, "--out", table) == 2
    assert "--out %s: is the source" % table in capsys.readouterr().err
    inside = os.path.join(photos, "annotated")
    assert exit_code(bundle, table, photos, "--annotate", inside) == 2
    assert "is inside the source" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["photos.zip", "list.json", "list.pdf", "list.ods", "photos.tar.gz"])
def test_an_archive_or_a_document_is_never_one_row(bundle, tmp_path, capsys, name):
    path = write_bytes(tmp_path / name, {".pdf": b"%PDF-1.4"}.get(name[-4:], b"PK\x03\x04"))
    assert exit_code(bundle, path) == 2
    captured = capsys.readouterr()
    assert name in captured.err and captured.out == ""


@pytest.mark.parametrize("name", ["list.csv", "list.txt", "list.xlsx"])
def test_lists_of_other_kinds_give_the_same_labels(bundle, photos, tmp_path, name):
    if name.endswith(".xlsx"):
        pandas = pytest.importorskip("pandas")
        pytest.importorskip("openpyxl")
        pandas.DataFrame({"file": [name for name, _ in EXPECTED]}).to_excel(str(tmp_path / name), index=False)
    else:
        text = "file;label\r\n" + "".join("%s;x\r\n" % name.replace("/", "\\") for name, _ in EXPECTED)
        write_bytes(tmp_path / name, text.encode("utf-16"))
    done = picnic_edge("classify", bundle, tmp_path / name, "--images", photos, "--out", tmp_path / "out.tsv")
    assert done.returncode == 0, done.stderr
    rows = read_rows_of((tmp_path / "out.tsv").read_bytes())
    assert [row["label"] for row in rows] == [label for _, label in EXPECTED]


def test_a_missing_photo_s_row_says_which_was_meant(bundle, photos, tmp_path):
    write_table(tmp_path / "list.tsv", [(RED + "/00.JPG", "")])
    done = picnic_edge("classify", bundle, tmp_path / "list.tsv", "--images", photos)
    (row,) = read_rows_of(done.stdout)
    assert row["error"] == 'No such file or directory; did you mean "%s"?' % os.path.join(photos, RED, "00.jpg")


def test_a_driver_that_hangs_too_often_ends_with_4_and_its_rows_are_kept(bundle, tmp_path, monkeypatch, capsys):
    released = threading.Event()

    class Hangs:
        """A camera that gives one frame when it is opened for the first time, and then never returns."""

        frames = [photo(COLOURS[RED], 1)[:, :, ::-1]]

        def isOpened(self):  # noqa: N802
            return True

        def get(self, _):
            return 0.0

        def grab(self):
            return bool(self.frames) or released.wait(60)

        def retrieve(self):
            return True, self.frames.pop()

        def release(self):
            pass

    for name, value in {"SILENCE_S": 0.3, "OPEN_S": 0.3, "MAX_HANGING_S": 0.3, "FIRST_PAUSE_S": 0.01}.items():
        monkeypatch.setattr(connection, name, value)
    monkeypatch.setattr(live, "open_camera", lambda _: Hangs())
    camera = Resumable(bundle, "camera:9", tmp_path / "out.tsv")
    try:
        assert camera.run() == 4
    finally:
        released.set()
    err = capsys.readouterr().err
    assert "camera:9: its driver did not come back from 3 attempts" in err and "stopped after 1 rows" in err
    with open(camera.partial, "rb") as file:
        assert [row["label"] for row in read_rows_of(file.read())] == [RED]


# --- secrets


def shown_anywhere(folder, capfd):
    """Returns all that a run has shown: both streams, and the names and contents of the files in a folder."""
    texts = list(capfd.readouterr())
    for above, folders, names in os.walk(str(folder)):
        texts += folders + names
        for name in names:
            with open(os.path.join(above, name), "rb") as file:
                texts.append(file.read().decode("utf-8", "replace"))
    return "\n".join(texts)


@pytest.mark.parametrize(
    "password", ["Secret1", "Sec#ret1", "Sec/ret1", "Sec?ret1", "Sec@ret1", "Sec:ret1", "Sec%ret1"]
)
@pytest.mark.parametrize(
    "arguments, code",
    [
        (["rtsp://eva:%s@127.0.0.1:1/live", "--frames", "1"], 4),
        (["HTTP://eva:%s@127.0.0.1:1/live", "--frames", "1", "--json"], 4),
        (["rtps://eva:%s@127.0.0.1:1/live"], 2),
        (["http://eva:%s@127.0.0.1:1/photo.jpg"], 2),
        (["rtsp://eva:%s@127.0.0.1:1/live", "--json"], 2),
        (["rtsp://eva:%s@127.0.0.1:1/live", "--resume", "--out", "out.tsv"], 2),
        (["rtsp://eva:%s@127.0.0.1:1/live", "--realtime"], 2),
        (["rtsp://eva:%s@127.0.0.1:1/live", "--null"], 2),
        (["photos", "--frame=rtsp://eva:%s@127.0.0.1:1/live"], 2),
        (["photos", "--no-such", "rtsp://eva:%s@127.0.0.1:1/live"], 2),
    ],
)
def test_no_message_shows_a_password(bundle, tmp_path, capfd, password, arguments, code):
    arguments = [argument.replace("%s", password) for argument in arguments]
    assert exit_code(bundle, *arguments) == code
    shown = shown_anywhere(tmp_path, capfd)
    assert "eva:***@127.0.0.1" in shown
    assert not any(password[start : start + 3] in shown for start in range(len(password) - 2)), shown


def test_nothing_that_a_camera_s_run_writes_shows_a_password(bundle, tmp_path, monkeypatch, capfd):
    jpegs = [cv2.imencode(".jpg", photo(COLOURS[RED], number)[:, :, ::-1])[1].tobytes() for number in range(8)]
    with http_camera.serving(lambda number: jpegs[number % 8]) as place:
        address = "http://eva:Secret1@%s/live.mjpg?token=Secret2" % place
        camera = Resumable(bundle, address, tmp_path / "out.tsv")
        more = ("--frames", "4", "--json", "--annotate", str(tmp_path / "seen"))
        assert camera.stop_after(monkeypatch, 3, RuntimeError("cannot open %r" % address), more) == 1
        assert camera.beside() == ["out.tsv.partial", "out.tsv.partial.json"]
        assert "http://eva:***@%s/live.mjpg?token=***#" % place in shown_anywhere(tmp_path, capfd)
        assert camera.run(*more) == 0
    shown = shown_anywhere(tmp_path, capfd)
    assert "http://eva:***@%s/live.mjpg?token=***#" % place in shown and os.listdir(str(tmp_path / "seen"))
    assert "Secret" not in shown


def test_the_command_that_goes_on_does_not_show_a_password(bundle, photos, tmp_path, monkeypatch, capfd):
    job = Resumable(bundle, photos, tmp_path / "out.tsv")
    job.stop_after(monkeypatch, 3, more=["--images=http://eva:Secret1@nas/photos"])
    err = capfd.readouterr().err
    assert "to continue: picnic-edge classify" in err and "Secret1" not in err


# --- the small files on which earlier versions failed


def test_every_hard_photo_has_its_true_row_and_no_library_writes_beside_it(bundle, hard):
    done = picnic_edge("classify", bundle, hard, "--json")
    document = json.loads(done.stdout.decode())
    rows = {row["file"]: row["error"] for row in document["results"]}
    damaged = {name for name, error in rows.items() if "damaged" in error}
    labelled = {name for name, error in rows.items() if not error}
    assert damaged == {
        "apng_bad_filter.png",
        "apng_garbage_idat.png",
        "jpeg_gap.jpg",
        "jpeg_lost_half.jpg",
        "png_chunk_length_4gb.png",
    }
    assert labelled == {"png_bad_crc_text.png", "png_large_itxt.png"}
    assert done.returncode == 0 and document["passed_over"] == {".mp4": 1, ".md": 1}
    assert "libpng" not in done.stderr and "JPEG data" not in done.stderr


# --- an output that is no file


def start_reading(path):
    """Reads a FIFO to its end in a process of its own."""
    os.mkfifo(str(path))
    return subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE)


@pytest.mark.parametrize("name, dialect", [("fifo", "excel-tab"), ("fifo.tsv", "excel-tab"), ("fifo.csv", "excel")])
def test_a_fifo_gets_the_rows_and_stays(bundle, photos, tmp_path, name, dialect):
    reader = start_reading(tmp_path / name)
    done = picnic_edge("classify", bundle, photos, "--out", tmp_path / name)
    rows = read_rows_of(reader.communicate(timeout=60)[0], dialect)
    assert done.returncode == 0 and [(row["file"], row["label"]) for row in rows] == EXPECTED
    assert stat.S_ISFIFO(os.stat(str(tmp_path / name)).st_mode) and os.listdir(str(tmp_path)) == [name]


def test_process_substitution_and_standard_output_by_name_get_the_rows(bundle, photos, plain, tmp_path):
    os.mkfifo(str(tmp_path / "done"))
    settings = {"cwd": str(tmp_path), "env": dict(os.environ, PYTHONPATH=ROOT), "stderr": subprocess.DEVNULL}
    line = '"$0" -m picnic_edge classify "$1" "$2" --out >(cat > done) & cat done; wait $!'
    out = subprocess.check_output(["bash", "-c", line, sys.executable, bundle, photos], **settings)
    assert out == plain.stdout
    line = '"$0" -m picnic_edge classify "$1" "$2" --out /dev/stdout'
    assert subprocess.check_output(["bash", "-c", line, sys.executable, bundle, photos], **settings) == plain.stdout
    line = 'echo before > out.txt; "$0" -m picnic_edge classify "$1" "$2" --out /dev/stdout >> out.txt'
    subprocess.check_call(["bash", "-c", line, sys.executable, bundle, photos], **settings)
    assert (tmp_path / "out.txt").read_bytes() == b"before\n" + plain.stdout
    assert sorted(os.listdir(str(tmp_path))) == ["done", "out.txt"]


@pytest.mark.parametrize("as_link", [True, False], ids=["a link to it", "the device"])
def test_a_null_device_takes_the_rows_and_stays_one(bundle, photos, null_device, tmp_path, as_link):
    path = str(tmp_path / "link.tsv") if as_link else null_device
    if as_link:
        os.symlink(null_device, path)
    before = sorted(os.listdir(str(tmp_path)))
    for more in ([], ["--json"], ["--overwrite"]):
        done = picnic_edge("classify", bundle, photos, "--out", path, *more)
        assert done.returncode == 0, done.stderr
    assert picnic_edge("predict", bundle, photos, "--out", path).returncode == 0
    assert stat.S_ISCHR(os.stat(path).st_mode) and os.path.islink(path) == as_link
    assert sorted(os.listdir(str(tmp_path))) == before
    done = picnic_edge("classify", bundle, photos, "--out", path, "--resume")
    assert done.returncode == 2 and "--resume: --out %s is a stream, which cannot be resumed" % path in done.stderr


def test_what_a_stream_cannot_be_is_refused_and_the_fifo_stays(bundle, photos, tmp_path, capsys):
    for name, option, message in (
        ("a.parquet", "--out", "is a stream, but .parquet needs a file"),
        ("a.txt", "--out", "expected a name that ends in"),
        ("a.avi", "--annotate", "expected a regular file"),
        ("folder", "--annotate", "cannot be written"),
    ):
        os.mkfifo(str(tmp_path / name))
        assert exit_code(bundle, photos, option, tmp_path / name) == 2
        stderr = capsys.readouterr().err
        assert "%s %s: " % (option, tmp_path / name) in stderr and message in stderr
        assert stat.S_ISFIFO(os.stat(str(tmp_path / name)).st_mode)


def test_a_reader_of_a_fifo_that_goes_away_ends_it_with_141(bundle, tmp_path):
    listed = write_bytes(tmp_path / "names.txt", b"".join(b"%06d-%s\n" % (n, b"x" * 90) for n in range(3000)))
    os.mkfifo(str(tmp_path / "fifo"))
    with open(listed, "rb") as names:
        process = start("classify", bundle, "-", "--out", tmp_path / "fifo", stdin=names)
        with open(str(tmp_path / "fifo"), "rb") as file:
            assert file.readline() == b"file\tlabel\tconfidence\terror\n"
        stderr = process.stderr.read().decode()
        process.stderr.close()
        assert process.wait(60) == 141
    assert "Traceback" not in stderr and "bug" not in stderr


def test_a_link_in_the_place_of_the_unfinished_rows_is_not_followed(bundle, photos, tmp_path):
    write_bytes(tmp_path / "precious", b"older")
    os.symlink("precious", str(tmp_path / "out.tsv.partial"))
    done = picnic_edge("classify", bundle, photos, "--out", tmp_path / "out.tsv")
    assert done.returncode == 2 and "cannot be written" in done.stderr
    with open(str(tmp_path / "precious"), "rb") as file:
        assert file.read() == b"older"


def test_a_full_device_ends_with_2_and_leaves_nothing(bundle, photos, tmp_path):
    os.symlink("/dev/full", str(tmp_path / "out.tsv"))
    for verb in ("classify", "predict"):
        done = picnic_edge(verb, bundle, photos, "--out", tmp_path / "out.tsv")
        assert done.returncode == 2 and "out.tsv: cannot be written (No space left on device)" in done.stderr
        assert "Traceback" not in done.stderr
    assert os.listdir(str(tmp_path)) == ["out.tsv"] and os.readlink(str(tmp_path / "out.tsv")) == "/dev/full"


@pytest.mark.parametrize("suffix", [".tsv", ".parquet"])
@pytest.mark.parametrize("there", [True, False], ids=["there", "dangling"])
def test_the_file_that_a_link_leads_to_is_written_and_resumed(
    bundle, photos, tmp_path, monkeypatch, capsys, suffix, there
):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    whole = Resumable(bundle, photos, tmp_path / ("whole" + suffix))
    assert whole.run() == 0
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").mkdir()
    target = tmp_path / "disk" / "results-7"  # the suffix of the name that was given decides
    if there:
        target.write_bytes(b"older")
        os.chmod(str(target), 0o604)
    link = tmp_path / "home" / ("out" + suffix)
    link.symlink_to(os.path.join("..", "disk", "results-7"))
    job = Resumable(bundle, photos, link)
    job.stop_after(monkeypatch, 3)
    assert sorted(os.listdir(str(tmp_path / "disk"))) == ["results-7"] * there + [
        "results-7.partial",
        "results-7.partial.json",
    ]
    assert job.run() == 2 and "results-7.partial holds 2 rows" in capsys.readouterr().err
    assert job.run("--resume") == 0
    assert job.content() == whole.content()
    assert os.readlink(str(link)) == os.path.join("..", "disk", "results-7")
    assert os.listdir(str(tmp_path / "disk")) == ["results-7"] and os.listdir(str(tmp_path / "home")) == [link.name]
    if there:
        assert stat.S_IMODE(os.stat(str(target)).st_mode) == 0o604


def test_a_link_that_leads_nowhere_is_refused(bundle, photos, tmp_path, capsys):
    (tmp_path / "gone.tsv").symlink_to(os.path.join("no", "such", "folder.tsv"))
    (tmp_path / "round.tsv").symlink_to("round.tsv")
    for name, message in (
        ("gone.tsv", "its folder does not exist"),
        ("round.tsv", "cannot be written (Too many levels"),
    ):
        assert exit_code(bundle, photos, "--out", tmp_path / name) == 2
        assert "--out %s: %s" % (tmp_path / name, message) in capsys.readouterr().err


@pytest.mark.parametrize("name", ["film.mkv", "film.MOV"])
def test_a_video_that_cannot_be_written_is_no_folder(bundle, photos, tmp_path, capsys, name):
    assert exit_code(bundle, photos, "--annotate", tmp_path / name) == 2
    assert "expected a folder, or a video in .avi or .mp4" in capsys.readouterr().err
    assert os.listdir(str(tmp_path)) == []


def test_a_video_is_written_where_its_link_leads(bundle, photos, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.avi").symlink_to(os.path.join("disk", "film.avi"))
    assert exit_code(bundle, photos, "--out", tmp_path / "out.tsv", "--annotate", tmp_path / "link.avi") == 0
    assert os.listdir(str(tmp_path / "disk")) == ["film.avi"]
    assert os.readlink(str(tmp_path / "link.avi")) == os.path.join("disk", "film.avi")


# --- names that are not UTF-8


def test_json_lines_and_documents_are_read_by_strict_readers_and_the_names_open_the_files(bundle, tmp_path):
    folder = str(tmp_path / "photos")
    names = sorted(NASTY_NAMES)
    for name in names:
        write_bytes(os.path.join(folder, name), encoded(photo(COLOURS["red"]), "jpg"))
    done = picnic_edge("classify", bundle, folder, "--out", tmp_path / "out.jsonl")
    assert done.returncode == 0, done.stderr
    listed = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    document = json.loads(picnic_edge("classify", bundle, folder, "--json").stdout.decode())
    for rows in (listed, document["results"]):
        json.dumps(rows, ensure_ascii=False).encode()  # fails for half a character, as strict readers do
        raw = [base64.b64decode(row["file_bytes"]) if "file_bytes" in row else row["file"].encode() for row in rows]
        assert raw == [os.fsencode(name) for name in names]
        assert sorted(row["file"] for row in rows if "file_bytes" in row) == ["\\xff\\xfe.jpg", "latin\\xfc.jpg"]
