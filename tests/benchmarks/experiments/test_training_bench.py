"""The benchmark of training: what it reads from the command line's output, and what fails in the trainings."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.experiments import hackathon_training, training
from edge_runtime.errors import MissingRequirement, UsageError
from edge_runtime.sources import table, table_reader
from tests import helpers

# What `python -m train` prints, with its progress bars as they look where standard error is no terminal.
HEAD = """\
check photos: 100%|##########| 8/8 [00:00<00:00, 400.00 photos/s]
training: 6 photos, 3 classes; validation: 3 photos
features: 100%|##########| 6/6 [00:02<00:00,  3.00 photos/s]
features: 100%|##########| 3/3 [00:06<00:00,  2.00s/ photos]
head: epoch 1  accuracy 0.999  loss 0.055  val_accuracy 0.709  val_loss 1.242
validation: accuracy 0.7000, macro-F1 0.6000 on 3 photos
"""
ALL = HEAD.replace(
    "validation: accuracy",
    "fine-tune 1/2:   0%|          | 0/6 [00:00<?, ? photos/s]\n"
    "fine-tune 1/2: 100%|##########| 6/6 [00:02<00:00,  3.00 photos/s]\n"
    "fine-tune: epoch 1 of 2  loss 0.9  val_loss 0.9  val_accuracy 0.8  val_macro_f1 0.700\n"
    "fine-tune 2/2: 100%|##########| 6/6 [00:01<00:00,  6.00 photos/s]\n"
    "fine-tune: epoch 2 of 2  loss 0.8  val_loss 0.9  val_accuracy 0.8  val_macro_f1 0.800\n"
    "validation: accuracy",
)
METRICS = {
    "val_macro_f1": 0.8,
    "val_accuracy": 0.85,
    "history": {"loss": [1.0], "fine_tune": {"loss": [0.9, 0.8], "val_macro_f1": [0.6, 0.7, 0.8]}},
}


def timed(text):
    """Returns a text as the lines of a Run, a second for each."""
    return [(float(number), line) for number, line in enumerate(text.splitlines())]


def write_script(path, code):
    path.write_text("import json, os, sys, time\n" + code)
    return [sys.executable, str(path)]


@pytest.fixture
def labels(tmp_path):
    """A table of six photos per class in photos/, and one row that cannot be used."""
    rows = helpers.write_photos(tmp_path / "photos", per_class=6)
    helpers.write_bytes(tmp_path / "photos" / "broken.jpg", b"nothing")
    helpers.write_table(tmp_path / "train.tsv", rows + [("broken.jpg", "red"), ("gone.jpg", "red"), ("", "red")])
    return str(tmp_path / "train.tsv")


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Puts scripts in place of both trainings; they print what real ones do. Returns the file of their arguments."""
    seen = tmp_path / "seen"
    train = (
        "import shutil; shutil.copy(sys.argv[1], %r + '.tsv')\n"
        "seen = open(%r, 'a'); seen.write(json.dumps([sys.argv[1:], os.environ['XDG_CACHE_HOME']]) + '\\n')\n"
        "out = sys.argv[sys.argv.index('--out') + 1]\n"
        "os.makedirs(out); json.dump(%r, open(out + '/manifest.json', 'w'))\n"
        "print(%r if out.endswith('all') else %r, file=sys.stderr)\n"
        % (str(seen), str(seen), {"metrics": METRICS}, ALL, HEAD)
    )
    hackathon = (
        "for epoch, macro_f1 in enumerate([0.5, 0.65]):\n"
        "    print(json.dumps({'epoch': epoch + 1, 'val_macro_f1': macro_f1, 'extra_s': 0.0}), flush=True)\n"
    )
    monkeypatch.setattr(training, "TRAIN", write_script(tmp_path / "train.py", train))
    monkeypatch.setattr(training, "HACKATHON", write_script(tmp_path / "hackathon.py", hackathon))
    monkeypatch.setattr(training, "PIPELINE", "print('noise'); print([30.0, 20.0])")
    return seen


def test_every_fifth_photo_of_a_class_is_held_out_and_bad_ones_are_left_out(labels, tmp_path, capsys):
    photos, val_photos = training.read_photos(labels, str(tmp_path / "photos"))
    assert len(photos) == 15 and len(val_photos) == 3
    assert sorted(label for _, label in val_photos) == sorted(helpers.COLOURS)
    assert not set(photos) & set(val_photos)
    assert all(os.path.isabs(path) and os.path.isfile(path) for path, _ in photos + val_photos)
    assert "3 of its photos are left out" in capsys.readouterr().err


def test_given_validation_photos_are_used_and_unknown_classes_left_out(labels, tmp_path):
    helpers.write_photo(tmp_path / "val" / "x.jpg", helpers.photo((1, 2, 3)))
    helpers.write_table(tmp_path / "val.tsv", [("x.jpg", "red"), ("x.jpg", "red"), ("gone.jpg", "unheard of")])
    folder = str(tmp_path / "val")
    photos, val_photos = training.read_photos(labels, str(tmp_path / "photos"), str(tmp_path / "val.tsv"), folder)
    assert len(photos) == 18
    assert val_photos == [(os.path.join(folder, "x.jpg"), "red")]


def test_too_few_photos_exit_with_2_and_say_what_is_there(tmp_path):
    rows = helpers.write_photos(tmp_path, per_class=1)
    helpers.write_table(tmp_path / "t.tsv", rows)
    with pytest.raises(UsageError, match="0 classes .* 0 photos"):
        training.read_photos(str(tmp_path / "t.tsv"), str(tmp_path))
    helpers.write_table(tmp_path / "t.tsv", [])
    with pytest.raises(UsageError, match="0 classes"):
        training.read_photos(str(tmp_path / "t.tsv"), str(tmp_path))
    with pytest.raises(UsageError, match="no such folder"):
        training.read_photos(str(tmp_path / "t.tsv"), str(tmp_path / "gone"))
    with pytest.raises(UsageError, match="gone.tsv: "):
        training.read_photos(str(tmp_path / "gone.tsv"), str(tmp_path))


def test_everything_is_measured_from_outside(labels, planted, tmp_path, capsys):
    training.main(
        [labels, "--images", str(tmp_path / "photos"), "--weights", "none", "--json", "--", "--fine-tune", "1"]
    )
    found = json.loads(capsys.readouterr().out)
    assert (found["photos"], found["val_photos"], found["classes"]) == (15, 3, 3)
    assert (found["pipeline_images_per_s"], found["augmented_pipeline_images_per_s"]) == (30.0, 20.0)
    assert found["features_images_per_s"] == pytest.approx(9 / (2.0 + 6.0))
    assert found["fine_tune_images_per_s"] == pytest.approx(12 / 3.0)
    assert found["pipeline_over_features"] == pytest.approx(30 * 8 / 9)
    assert found["augmented_over_fine_tune"] == pytest.approx(5)
    assert found["picnic_macro_f1"] == 0.8 and found["picnic_accuracy"] == 0.85
    assert [macro_f1 for _, macro_f1 in found["picnic_curve"]] == [0.6, 0.7, 0.8]
    assert [macro_f1 for _, macro_f1 in found["hackathon_curve"]] == [0.5, 0.65]
    assert found["target_macro_f1"] == found["hackathon_macro_f1"] == 0.65 and found["hackathon_epochs"] == 2
    assert found["picnic_to_target_s"] == found["picnic_curve"][1][0]
    assert 0 < found["hackathon_to_target_s"] == found["hackathon_curve"][1][0] <= found["hackathon_s"]
    assert found["cache_miss_s"] > 0 and found["cache_hit_s"] > 0 and found["hackathon_skipped"] == ""

    (miss, hit, timed_run) = [json.loads(line) for line in planted.read_text().splitlines()]
    assert miss[1] == hit[1] != timed_run[1]  # the run that is timed to a score has to compute its own features
    for arguments, _ in (miss, hit):
        assert arguments[arguments.index("--fine-tune") + 1] == "0" and "--no-refit" in arguments
    assert timed_run[0][-2:] == ["--fine-tune", "1"] and "--no-refit" not in timed_run[0]
    assert timed_run[0][timed_run[0].index("--images") + 1] == os.sep
    rows = list(table_reader.read_rows(str(planted) + ".tsv", need_label=True))
    assert len(rows) == 15 and not any(row.problem for row in rows)
    assert all(os.path.isfile(table.path_of(row.file, os.sep)) for row in rows)
    assert not os.path.exists(os.path.dirname(miss[1]))  # nothing is left behind


def test_the_table_has_a_line_per_figure(labels, planted, tmp_path, capsys):
    training.main([labels, "--images", str(tmp_path / "photos"), "--weights", "none", "--target", "0.9"])
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert lines["target_macro_f1"] == "0.9" and lines["picnic_to_target_s"] == "-"
    assert lines["pipeline_images_per_s"] == "30"


def test_a_hackathon_script_that_fails_costs_nothing_else(labels, planted, tmp_path, monkeypatch):
    script = write_script(tmp_path / "fails.py", "print('some'); sys.exit('planted reason')")
    monkeypatch.setattr(training, "HACKATHON", script)
    found = training.measure(*training.read_photos(labels, str(tmp_path / "photos")), weights="none")
    assert found["hackathon_skipped"].endswith("ended with exit code 1: planted reason")
    assert found["picnic_macro_f1"] == 0.8
    assert found["hackathon_s"] is found["target_macro_f1"] is found["picnic_to_target_s"] is None


@pytest.mark.parametrize("code, error", [(2, UsageError), (4, MissingRequirement)])
def test_a_training_that_fails_says_why(labels, planted, tmp_path, monkeypatch, code, error):
    say = "print('picnic-edge: planted reason'); print('after'); sys.exit(%d)" % code
    monkeypatch.setattr(training, "TRAIN", write_script(tmp_path / "fails.py", say))
    with pytest.raises(error, match="exit code %d: .*planted reason" % code):
        training.measure(*training.read_photos(labels, str(tmp_path / "photos")), weights="none")


def test_bars_of_other_names_and_unfinished_ones_do_not_count():
    assert training.bar_rate(timed(ALL), "features") == pytest.approx(9 / 8.0)
    assert training.bar_rate(timed(ALL), "fine-tune") == pytest.approx(4.0)
    assert training.bar_rate(timed(HEAD), "fine-tune") is None
    unfinished = "features:  50%|#####     | 3/6 [00:02<00:02,  3.00 photos/s]"
    assert training.bar_rate(timed(unfinished), "features") is None


def test_the_curve_begins_with_the_head_and_has_a_point_per_epoch():
    curve = training.picnic_curve(timed(ALL), METRICS)
    assert curve == [[5.0, 0.6], [7.0, 0.7], [9.0, 0.8]]
    assert training.picnic_curve(timed(HEAD), {"val_macro_f1": 0.6}) == [[5.0, 0.6]]
    assert training.time_to(curve, 0.65) == 7.0
    assert training.time_to(curve, 0.81) is None and training.time_to(curve, None) is None


def test_time_for_what_the_script_did_not_do_is_taken_off():
    lines = [
        (0.5, "noise"),
        (9.0, json.dumps({"epoch": 1, "val_macro_f1": 0.5, "extra_s": 2.0})),
        (19.0, json.dumps({"epoch": 2, "val_macro_f1": 0.6, "extra_s": 4.5})),
    ]
    assert training.hackathon_curve(lines) == [[7.0, 0.5], [14.5, 0.6]]


def test_a_line_has_the_time_at_which_it_began(tmp_path):
    code = (
        "sys.stderr.write('\\rbar 0'); sys.stderr.flush(); time.sleep(0.4)\n"
        "sys.stderr.buffer.write(b'\\rbar \\xff\\n\\n'); sys.stderr.flush(); sys.stdout.write('end')\n"
    )
    done = training.run(write_script(tmp_path / "lines.py", code))
    assert [text for _, text in done.lines] == ["bar 0", "bar \\xff", "end"]
    times = [at_s for at_s, _ in done.lines]
    assert times[1] - times[0] > 0.2 and times == sorted(times) and times[2] <= done.seconds


def test_ctrl_c_ends_the_training_too(tmp_path):
    hang = "with open(sys.argv[1], 'w') as file:\n    file.write(str(os.getpid()))\ntime.sleep(600)\n"
    command = write_script(tmp_path / "hangs.py", hang) + [str(tmp_path / "pid")]
    code = "from benchmarks.experiments import training; training.run(%r)" % command
    bench = subprocess.Popen([sys.executable, "-c", code], cwd=helpers.ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    bench.send_signal(signal.SIGINT)
    bench.wait(timeout=60)
    pid = (tmp_path / "pid").read_text()
    while helpers.is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not helpers.is_running(pid)


def test_the_hackathons_script_refuses_labels_it_cannot_know(tmp_path):
    rows = helpers.write_photos(tmp_path, per_class=1)
    helpers.write_table(tmp_path / "t.tsv", rows[:2])
    helpers.write_table(tmp_path / "v.tsv", rows[2:])
    arguments = ["--images", str(tmp_path), "--weights", "none"]
    with pytest.raises(UsageError, match="v.tsv: .*t.tsv"):
        hackathon_training.main([str(tmp_path / "t.tsv"), str(tmp_path / "v.tsv")] + arguments)
    with pytest.raises(UsageError, match="t.tsv: "):
        hackathon_training.main([str(tmp_path / "gone" / "t.tsv"), str(tmp_path / "v.tsv")] + arguments)
    assert [hackathon_training.steps([0] * count) for count in (1, 32, 33)] == [1, 1, 2]


@pytest.mark.slow
def test_real_trainings_of_drawn_photos(samples, capsys):
    pytest.importorskip("tensorflow")
    options = ["--epochs", "2", "--fine-tune", "1", "--fine-tune-epochs", "1", "--no-refit"]
    arguments = [samples + "/train.tsv", "--images", samples + "/photos", "--weights", "none", "--json"]
    training.main(arguments + ["--"] + options)
    found = json.loads(capsys.readouterr().out)
    assert found["hackathon_skipped"] == "" and 1 <= found["hackathon_epochs"] <= hackathon_training.EPOCHS
    assert found["cache_hit_s"] < found["cache_miss_s"]
    for name in ("pipeline_images_per_s", "augmented_pipeline_images_per_s"):
        assert found[name] > 0
    assert found["features_images_per_s"] > 0 and found["fine_tune_images_per_s"] > 0
    assert len(found["picnic_curve"]) == 2
    assert 0 <= found["picnic_macro_f1"] <= 1 and 0 <= found["hackathon_macro_f1"] <= 1
    assert found["hackathon_to_target_s"] <= found["hackathon_s"]
