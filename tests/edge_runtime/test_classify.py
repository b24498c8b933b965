"""picnic-edge classify as a user runs it, and the Python API of CONTRACT.md."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from edge_runtime import Classifier, cli
from edge_runtime.command import run_verb
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
        return run_verb(cli.main, [os.fspath(argument) for argument in arguments])
    except SystemExit as stopped:  # argparse
        return stopped.code


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


def test_an_empty_source_gives_a_table_with_a_header_alone(bundle, tmp_path):
    done = picnic_edge("classify", bundle, tmp_path)
    assert (done.returncode, done.stdout) == (0, b"file\tlabel\tconfidence\terror\n")
    assert "0 photos" in done.stderr


# --- wrong usage


@pytest.mark.parametrize(
    "more, told",
    [
        (["--out", "labels.txt"], "--out labels.txt: expected a name that ends in .tsv, .csv, .jsonl"),
        (["--out", "labels"], "--out labels: expected a name that ends in"),
        (["--out", "no/such/folder/labels.tsv"], "--out no/such/folder/labels.tsv: its folder does not exist"),
        (["--out", "taken.tsv"], "--out taken.tsv: is a folder"),
        (["--batch", "0"], "expected 1 or more, got 0"),
        (["--batch", "many"], "many"),
        (["--top", "-1"], "expected 1 or more, got -1"),
        (["--threshold", "1.5"], "expected 0 to 1, got 1.5"),
        (["--threshold", "nan"], "expected 0 to 1, got nan"),
        (["--engine", "warp-drive"], "has no engine warp-drive"),
        (["--nonsense"], "--nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_ends_with_2_and_is_explained(bundle, photos, tmp_path, monkeypatch, capsys, more, told):
    os.mkdir(str(tmp_path / "taken.tsv"))
    monkeypatch.chdir(tmp_path)
    assert exit_code(bundle, photos, *more) == 2
    out, err = capsys.readouterr()
    assert told in err and out == ""
    assert os.listdir(str(tmp_path)) == ["taken.tsv"]


@pytest.mark.parametrize(
    "source, told",
    [
        ("nowhere", "nowhere: no such file or folder"),
        ("*.nothing", "*.nothing: the pattern matches no file"),
        ("camera:0", "reads no live source"),
        ("rtsp://127.0.0.1/1", "reads no live source"),
    ],
)
def test_a_wrong_source_ends_with_2_and_is_explained(bundle, capsys, source, told):
    assert exit_code(bundle, source) == 2
    assert told in capsys.readouterr().err


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


def test_a_full_disk_ends_with_2_and_names_the_file(bundle, photos, tmp_path):
    os.symlink("/dev/full", str(tmp_path / "out.tsv.partial"))
    done = picnic_edge("classify", bundle, photos, "--out", tmp_path / "out.tsv")
    assert done.returncode == 2
    assert "out.tsv: cannot be written (No space left on device)" in done.stderr and "Traceback" not in done.stderr


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
        "bomb.png": (raw_png(20000, 20000), "megapixels: refused before decoding"),
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
    assert "%d unreadable (named in the column error)" % bad in done.stderr


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
    assert [row["file"] for row in document["results"]] == sorted(expected)
    assert document["unreadable"] == sum(outcome != RED for outcome in expected.values())


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
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
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
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    said = said.decode()
    assert process.returncode == 130
    assert "stopped half way: the rows that were done are in %s.partial" % out in said
    assert said.splitlines()[-1] == "picnic-edge: interrupted" and "Traceback" not in said
    assert not os.path.exists(out)
    with open(out + ".partial", "rb") as file:
        rows = read_rows_of(file.read())
    assert 1000 < len(rows) < len(names)
    assert [row["file"] for row in rows] == names[: len(rows)]
    assert (rows[0]["label"], rows[1]["error"]) == (RED, "No such file or directory")


def test_a_reader_that_goes_away_ends_it_quietly_with_141(bundle, tmp_path):
    listed = write_bytes(tmp_path / "names.txt", b"".join(b"%06d-%s\n" % (n, b"x" * 90) for n in range(3000)))
    with open(listed, "rb") as names:
        process = start("classify", bundle, "-", stdin=names, stdout=subprocess.PIPE)
        first = process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read().decode()
        process.stderr.close()
        code = process.wait(60)
    assert first == b"file\tlabel\tconfidence\terror\n"
    assert code == 141
    for word in ("Traceback", "BrokenPipe", "Exception", "bug"):
        assert word not in said


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
