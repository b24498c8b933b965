"""Killed (kill -9) at any moment and resumed, the output is to the byte what an uninterrupted run writes."""

import array
import fcntl
import os
import random
import signal
import subprocess
import sys
import termios
import time

import pytest

from edge_runtime.results import formats, journal
from tests.helpers import NASTY_NAMES, ROOT, read_rows_of, write_bytes

COUNT = 1000
F_SETPIPE_SZ = 1031  # Linux's; Python 3.6 has no name for it


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of many files, some with nasty names; killable.py does not look into them."""
    folder = str(tmp_path_factory.mktemp("many") / "photos")
    for number in range(COUNT):
        inner = "%d/%04d %s" % (number // 100, number, NASTY_NAMES[number % len(NASTY_NAMES)])
        write_bytes(os.path.join(folder, inner), b"")
    return folder


@pytest.fixture
def command(pristine_bundle, photos):
    def build(out, *more):
        script = os.path.join(ROOT, "tests", "edge_runtime", "cli", "killable.py")
        return [sys.executable, script, pristine_bundle, photos, "--out", out, "--batch", "7"] + list(more)

    return build


def start(command, **settings):
    path = os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=path, **settings),
    )


def run(command, **settings):
    """Returns (exit code, stderr)."""
    process = start(command, **settings)
    _, stderr = process.communicate(timeout=120)
    return process.returncode, stderr.decode("utf-8", "backslashreplace")


def content(path):
    """Returns what is compared: bytes, or the rows of Parquet."""
    if path.endswith(".parquet"):
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(path).read().to_pydict()
    with open(path, "rb") as file:
        return file.read()


@pytest.fixture
def uninterrupted(command, tmp_path):
    """uninterrupted(suffix) -> (content, seconds of work) of a run that nothing disturbs."""

    def of(suffix):
        if suffix == ".parquet":
            pytest.importorskip("pyarrow")
        path = str(tmp_path / ("whole" + suffix))
        process = start(command(path))
        process.stdout.readline()
        begun = time.perf_counter()
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
        return content(path), time.perf_counter() - begun

    return of


def kill_and_resume(command, out, kills, work_s, dice):
    """Runs the command until it ends by itself, killing it so many times at most; returns how often it was killed."""
    for number in range(kills):
        process = start(command)
        if dice.random() < 0.9:
            process.stdout.readline()  # its libraries are imported
        try:
            _, stderr = process.communicate(timeout=dice.uniform(0, 0.5 * work_s))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            _, stderr = process.communicate(timeout=120)
        assert process.returncode in (0, -signal.SIGKILL), stderr.decode()
        if process.returncode == 0:
            return number
    code, stderr = run(command)
    assert code == 0, stderr
    return kills


def check(command, uninterrupted, tmp_path, suffix, kills, seed):
    expected, work_s = uninterrupted(suffix)
    dice, done, rounds = random.Random(seed), 0, 0
    while done < kills:
        out = str(tmp_path / ("out" + suffix))
        done += kill_and_resume(command(out, "--resume"), out, kills - done, work_s, dice)
        rounds += 1
        message = "seed %d, %d kills before, round %d" % (seed, done, rounds)
        assert content(out) == expected, message
        assert [name for name in os.listdir(str(tmp_path)) if name.startswith("out")] == ["out" + suffix], message
        os.unlink(out)


def test_the_uninterrupted_run_has_a_row_for_every_file(uninterrupted):
    rows = read_rows_of(uninterrupted(".tsv")[0])
    assert len(rows) == COUNT
    assert 0.05 * COUNT < sum(bool(row["error"]) for row in rows) < 0.2 * COUNT


@pytest.mark.parametrize("suffix, kills", [(".tsv", 4), (".jsonl", 2)])
def test_a_few_kills_change_nothing(command, uninterrupted, tmp_path, suffix, kills):
    check(command, uninterrupted, tmp_path, suffix, kills, seed=random.randrange(1 << 30))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", sorted(formats.FORMATS))
def test_fifty_kills_change_nothing(command, uninterrupted, tmp_path, suffix):
    """200 in all."""
    check(command, uninterrupted, tmp_path, suffix, 50, seed=random.randrange(1 << 30))


ON, END, NOTHING = "continuing after the", "all rows were already written", "is already complete"
POINTS = [  # and what the resumed run says
    ("row:1", ON),  # before the first checkpoint: after 0 rows
    pytest.param("row:9", ON, marks=pytest.mark.slow),
    ("data:1", "is overwritten"),  # there is no journal yet
    ("data:3", ON),
    ("journal:1", "is overwritten"),
    pytest.param("journal:3", ON, marks=pytest.mark.slow),
    pytest.param("checkpoint:1", ON, marks=pytest.mark.slow),
    ("checkpoint:3", ON),
    ("whole:1", END),
    ("named:1", END),
    ("removed:1", NOTHING),
]


@pytest.fixture(scope="module")
def expected_tsv(pristine_bundle, photos, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("whole") / "whole.tsv")
    script = os.path.join(ROOT, "tests", "edge_runtime", "cli", "killable.py")
    code, stderr = run([sys.executable, script, pristine_bundle, photos, "--out", path, "--batch", "7"])
    assert code == 0, stderr
    return content(path)


@pytest.mark.parametrize("point, message", POINTS)
def test_a_kill_exactly_between_two_steps_changes_nothing(command, expected_tsv, tmp_path, point, message):
    out = str(tmp_path / "out.tsv")
    code, stderr = run(command(out), KILL_AT=point)
    assert code == -signal.SIGKILL, stderr
    code, stderr = run(command(out, "--resume"))
    assert code == 0 and message in stderr, stderr
    assert content(out) == expected_tsv
    assert os.listdir(str(tmp_path)) == ["out.tsv"]


# --- Ctrl-C and SIGTERM

BOTH = [signal.SIGINT, signal.SIGTERM]


def wait_for_rows(out, count=60):
    """Waits until a checkpoint counts so many rows."""
    found = None
    while not found or found.checkpoint.rows < count:
        time.sleep(0.01)
        found = journal.read_journal(out)


def ended_well(process, out, expected_tsv):
    """Waits for the end of a run that was told to stop. Returns (how many rows it kept, stderr)."""
    _, stderr = process.communicate(timeout=120)
    stderr = stderr.decode()
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1] == "picnic-edge: interrupted" and "Traceback" not in stderr
    data, checkpoint = content(out + ".partial"), journal.read_journal(out).checkpoint
    assert expected_tsv.startswith(data[: checkpoint.size_bytes])
    # Those of a batch that was cut short are done again: for this engine its numbers are others.
    names = [row["file"] for row in read_rows_of(data)]
    rows = len(names)
    assert names == [row["file"] for row in read_rows_of(expected_tsv)][:rows]
    assert 0 <= rows - checkpoint.rows < 2 * 7
    assert "stopped after %d rows; they are in %s.partial\nto continue: picnic-edge classify " % (rows, out) in stderr
    return rows, stderr


def goes_on(command, out, expected_tsv):
    code, stderr = run(command(out, "--resume"))
    assert code == 0 and "continuing after the" in stderr, stderr
    assert content(out) == expected_tsv


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_lets_it_finish_what_it_has_begun(command, expected_tsv, tmp_path, number):
    out = str(tmp_path / "out.tsv")
    process = start(command(out), DRAIN_S="100")
    wait_for_rows(out)
    process.send_signal(number)
    rows, stderr = ended_well(process, out, expected_tsv)
    assert 60 <= rows < COUNT and "stopping: " in stderr
    goes_on(command, out, expected_tsv)


@pytest.mark.parametrize("number", BOTH)
def test_what_never_comes_back_is_not_waited_for(command, expected_tsv, tmp_path, number):
    """The engine hangs: after DRAIN_S the rows that were answered are on the disk."""
    out = str(tmp_path / "out.tsv")
    process = start(command(out), HANG_AT="engine:30", DRAIN_S="0.2")
    assert process.stdout.readline() + process.stdout.readline() == b"ready\nhangs\n"
    process.send_signal(number)
    rows, _ = ended_well(process, out, expected_tsv)
    assert rows >= 29 * 7
    goes_on(command, out, expected_tsv)


def test_a_disk_that_never_comes_back_is_not_waited_for_either(command, expected_tsv, tmp_path):
    out = str(tmp_path / "out.tsv")
    process = start(command(out), HANG_AT="disk:10", DRAIN_S="0.2")
    assert process.stdout.readline() + process.stdout.readline() == b"ready\nhangs\n"
    process.terminate()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130 and b"to continue: " in stderr
    goes_on(command, out, expected_tsv)


def test_a_second_signal_ends_it_at_once(command, expected_tsv, tmp_path):
    out = str(tmp_path / "out.tsv")
    process = start(command(out), HANG_AT="engine:30", DRAIN_S="1000")
    assert process.stdout.readline() + process.stdout.readline() == b"ready\nhangs\n"
    process.terminate()
    while not process.stderr.readline().startswith(b"stopping: "):
        assert process.poll() is None
    process.terminate()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130 and b"to continue: " in stderr
    goes_on(command, out, expected_tsv)


def test_a_reader_that_reads_no_further_is_not_waited_for(command):
    """As `| less` that nobody scrolls."""
    words = [word for word in command("") if word not in ("--out", "")]
    process = start(words, DRAIN_S="0.2", PYTHONUNBUFFERED="")
    fcntl.fcntl(process.stdout, F_SETPIPE_SZ, 4096)
    waiting, before = array.array("i", [0]), -1
    while waiting[0] != before or waiting[0] < 3000:  # until the pipe is full
        before = waiting[0]
        time.sleep(0.5)
        fcntl.ioctl(process.stdout, termios.FIONREAD, waiting)
        assert process.poll() is None
    process.terminate()
    try:
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.communicate()


def test_a_job_that_ignores_ctrl_c_still_does(command, tmp_path):
    """As a shell starts jobs in its background."""
    out = str(tmp_path / "out.tsv")
    process = subprocess.Popen(
        command(out),
        env=dict(os.environ, PYTHONPATH=ROOT),
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    wait_for_rows(out)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 0


def test_the_second_of_two_runs_is_refused_and_the_first_is_not_disturbed(command, expected_tsv, tmp_path):
    out = str(tmp_path / "out.tsv")
    process = start(command(out), HANG_AT="engine:30")
    assert process.stdout.readline() + process.stdout.readline() == b"ready\nhangs\n"
    for more in ([], ["--resume"]):
        code, stderr = run(command(out, *more))
        assert code == 2 and "another run is writing it (process %d)" % process.pid in stderr
    process.kill()
    process.communicate(timeout=120)
    goes_on(command, out, expected_tsv)
