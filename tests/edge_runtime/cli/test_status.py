"""The live line, on a terminal of its own and on files, with a clock that the test moves."""

import fcntl
import os
import pty
import struct
import termios
import types

import pytest

from edge_runtime.cli import status
from edge_runtime.cli.status import Status


class Stats:
    def bottleneck(self):
        return "decode"


@pytest.fixture
def clock(monkeypatch):
    """Returns a function that lets seconds pass."""
    now = [1000.0]
    monkeypatch.setattr(status.time, "perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


@pytest.fixture
def stderr(monkeypatch):
    """Returns a function that puts a file in stderr's place; sys.stderr itself is pytest's."""
    return lambda file: monkeypatch.setattr(status, "sys", types.SimpleNamespace(stderr=file))


@pytest.fixture
def log(tmp_path, stderr):
    """stderr is a file; returns a function that reads its lines."""
    path = tmp_path / "log"
    with open(str(path), "w") as file:
        stderr(file)
        yield lambda: path.read_text().splitlines()


@pytest.fixture
def terminal(stderr):
    """stderr is a terminal of 80 columns, or as many as are given; returns a function that reads what came there."""
    master, slave = pty.openpty()
    with open(slave, "w") as file:
        stderr(file)

        def read(columns=80):
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))
            os.write(slave, b"\0")  # comes behind all that was written before, which may take its time
            data = b""
            while not data.endswith(b"\0"):
                data += os.read(master, 1 << 16)
            return data[:-1].decode()

        read()
        yield read
    os.close(master)


def work(line, clock, rows, seconds_each, **update):
    for _ in range(rows):
        clock(seconds_each)
        line.update(**update)


# --- what it says


def test_a_log_gets_a_plain_line_every_ten_seconds(clock, log):
    with Status(Stats(), total=1000) as line:
        work(line, clock, 500, 0.0625)
    assert log() == [
        "160/1000 photos  16.0/s  0:00:52 left  bottleneck decode",
        "320/1000 photos  16.0/s  0:00:42 left  bottleneck decode",
        "480/1000 photos  16.0/s  0:00:32 left  bottleneck decode",
    ]


def test_without_a_total_or_a_bottleneck_they_are_left_out(clock, log):
    with Status() as line:
        work(line, clock, 11, 1)
    assert log() == ["10 photos  1.0/s"]


def test_the_total_may_come_later(clock, log):
    with Status() as line:
        work(line, clock, 5, 1)
        line.total = 100
        work(line, clock, 5, 1)
    assert log() == ["10/100 photos  1.0/s  0:01:30 left"]


def test_more_rows_than_were_counted_have_no_time_left(clock, log):
    with Status(total=5) as line:
        work(line, clock, 10, 1)
    assert log() == ["10/5 photos  1.0/s"]


def test_speed_is_that_of_the_last_seconds(clock, log):
    with Status(total=1000) as line:
        work(line, clock, 300, 0.125)
        work(line, clock, 20, 2)
    assert log()[2] == "240/1000 photos  8.0/s  0:01:35 left"
    assert log()[-1].split("  ")[1] == "0.5/s"


def test_rows_of_an_earlier_run_count_as_done_but_not_as_speed(clock, log):
    with Status(total=1000, done=900) as line:
        work(line, clock, 10, 1)
    assert log() == ["910/1000 photos  1.0/s  0:01:30 left"]


def test_failed_rows_latency_and_a_note_are_shown(clock, log):
    with Status(unit="frames", note=lambda: "3 dropped") as line:
        work(line, clock, 8, 1, latency_s=0.05)
        work(line, clock, 2, 1, latency_s=0.1, failed=True)
        work(line, clock, 10, 1, latency_s=0.02)
    assert log() == [
        "10 frames  1.0/s  latency 60 ms  2 failed  3 dropped",
        "20 frames  1.0/s  latency 20 ms  2 failed  3 dropped",
    ]


def test_what_is_not_to_be_shown_is_not(clock, log):
    with Status(total=10, visible=False) as line:
        work(line, clock, 50, 1)
    assert log() == []


# --- on a terminal


def test_a_terminal_gets_one_line_in_place_at_most_five_times_a_second(clock, terminal):
    with Status(Stats(), total=1000) as line:
        work(line, clock, 64, 0.0625)  # 4 s
        shown = terminal()
    assert 10 <= shown.count("\r") <= 20 and "\n" not in shown
    assert shown.split("\r")[-1].startswith("64/1000 photos  16.0/s  0:00:58 left  bottleneck decode")


def test_the_line_is_taken_away_at_the_end_also_after_an_error(clock, terminal):
    with pytest.raises(KeyError):
        with Status(total=10) as line:
            work(line, clock, 2, 1)
            length = len(terminal().split("\r")[-1])
            raise KeyError
    assert terminal() == "\r" + " " * length + "\r"
    line.update()
    line.close()
    assert terminal() == ""


def test_a_shorter_line_leaves_nothing_of_a_longer_one(clock, terminal):
    notes = iter(["a long note", ""])
    with Status(note=lambda: next(notes)) as line:
        work(line, clock, 2, 1)
        long, short = terminal().split("\r")[1:]
    assert len(short) == len(long) and short.rstrip() == "2 photos  1.0/s"


@pytest.mark.parametrize("columns", [30, 10, 1])
def test_a_line_stays_within_a_narrow_terminal(clock, terminal, columns):
    terminal(columns)
    with Status(Stats(), total=1000000) as line:
        work(line, clock, 3, 1)
        shown = terminal(columns)
    assert max(len(text) for text in shown.split("\r")) == columns - 1


# --- where nobody can read it


def test_a_closed_stderr_ends_no_run(clock, stderr, tmp_path):
    file = open(str(tmp_path / "log"), "w")  # noqa: SIM115
    file.close()
    for gone in (file, None):
        stderr(gone)
        with Status(total=10) as line:
            work(line, clock, 50, 1)
        assert line.done == 50


def test_a_reader_of_stderr_that_went_away_ends_no_run(clock, stderr):
    read_end, write_end = os.pipe()
    os.close(read_end)
    file = os.fdopen(write_end, "w")
    stderr(file)
    with Status(total=10) as line:
        work(line, clock, 50, 1)
    assert line.done == 50
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), write_end)  # where what is still in its buffer can go
    file.close()
