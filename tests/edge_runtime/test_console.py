"""What is printed for people: tables, and the progress bar on a terminal of its own and in a log."""

import fcntl
import os
import pty
import struct
import termios
import types

import pytest
import tqdm.std

from edge_runtime import console
from edge_runtime.console import format_table, progress

HEADER, ROWS = ["class", "photos"], [["cola", "12"], ["water", "9"]]


def test_a_table_has_names_on_the_left_and_figures_on_the_right():
    assert format_table(HEADER, ROWS) == "class  photos\ncola       12\nwater       9"


def test_a_table_without_rows_is_its_header():
    assert format_table(HEADER, []) == "class  photos"


def test_a_markdown_table_has_bars_and_a_line_of_alignments():
    expected = ["| class | photos |", "| ---   |    --: |", "| cola  |     12 |", "| water |      9 |"]
    assert format_table(HEADER, ROWS, markdown=True).splitlines() == expected


def test_a_cell_cannot_break_the_table_or_the_terminal():
    assert format_table(HEADER, [["co\nla\x1b", "12"]]).splitlines()[1] == r"co\nla\x1b      12"


# --- the progress bar


@pytest.fixture
def wait(monkeypatch):
    """Returns a function that lets seconds pass."""
    now_s = [1000.0]
    monkeypatch.setattr(tqdm.std, "time", lambda: now_s[0])

    def passed(seconds):
        now_s[0] += seconds

    return passed


@pytest.fixture
def log(tmp_path, monkeypatch):
    """stderr is a file; returns a function that reads its lines."""
    with open(str(tmp_path / "log"), "w") as file:
        monkeypatch.setattr(console, "sys", types.SimpleNamespace(stderr=file))  # sys.stderr is pytest's
        yield lambda: (tmp_path / "log").read_text().splitlines()


@pytest.fixture
def terminal(monkeypatch):
    """stderr is a terminal; returns a function that sets its columns and reads what came there."""
    master, slave = pty.openpty()
    with open(slave, "w") as file:
        monkeypatch.setattr(console, "sys", types.SimpleNamespace(stderr=file))  # sys.stderr is pytest's

        def read(columns=80):
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 25 if columns else 0, columns, 0, 0))
            os.write(slave, b"\0")  # comes behind all that was written before, which may take its time
            data = b""
            while not data.endswith(b"\0"):
                data += os.read(master, 1 << 16)
            return data[:-1].decode()

        read()
        yield read
    os.close(master)


def work(bar, wait, rows, seconds_each):
    for _ in range(rows):
        wait(seconds_each)
        bar.update()


def test_a_log_gets_a_whole_line_every_ten_seconds(wait, log):
    with progress(total=1000, note=lambda: "bottleneck decode", leave=False) as bar:
        work(bar, wait, 500, 0.0625)
    assert log() == [
        "16%|#6        | 160/1000 [00:10<00:52, 16.00 photos/s, bottleneck decode]",
        "32%|###2      | 320/1000 [00:20<00:42, 16.00 photos/s, bottleneck decode]",
        "48%|####8     | 480/1000 [00:30<00:32, 16.00 photos/s, bottleneck decode]",
    ]


def test_a_bar_that_is_left_says_how_fast_all_of_it_was(wait, log):
    for _ in progress(range(30), what="check"):
        wait(0.5)
    assert log()[0] == "check:   0%|          | 0/30 [00:00<?, ? photos/s]"
    assert log()[-1] == "check: 100%|##########| 30/30 [00:15<00:00,  2.00 photos/s]" and len(log()) == 3


def test_without_a_total_there_is_no_time_left_and_it_may_come_later(wait, log):
    with progress(unit=" frames", leave=False) as bar:
        work(bar, wait, 20, 0.5)
        bar.total = 100
        work(bar, wait, 20, 0.5)
    assert log() == [
        "20 frames [00:10,  2.00 frames/s]",
        "40%|####      | 40/100 [00:20<00:30,  2.00 frames/s]",
    ]


def test_the_rate_is_that_of_the_last_seconds(wait, log):
    with progress(total=1000, leave=False) as bar:
        work(bar, wait, 300, 0.125)
        work(bar, wait, 20, 2)
    assert " 8.00 photos/s" in log()[2] and "2.00s/ photos" in log()[-1]


def test_rows_of_an_earlier_run_count_as_done_but_not_for_the_rate(wait, log):
    with progress(total=1000, initial=900, leave=False) as bar:
        work(bar, wait, 80, 0.125)
    assert log() == ["98%|#########8| 980/1000 [00:10<00:02,  8.00 photos/s]"]


def test_what_is_disabled_writes_nothing(wait, log):
    with progress(total=10, disable=True) as bar:
        work(bar, wait, 50, 1)
    assert log() == []


def test_a_terminal_gets_one_line_in_place_at_most_five_times_a_second(wait, terminal):
    with progress(total=1000, what="odd\x1b", leave=False) as bar:
        work(bar, wait, 64, 0.0625)  # 4 s
        text = terminal()
    assert 10 <= text.count("\r") <= 22 and "\n" not in text and "\x1b" not in text
    assert "64/1000 [00:04<00:58, 16.00 photos/s]" in text.split("\r")[-1]


def test_the_line_is_removed_at_the_end_also_after_an_error(wait, terminal):
    with pytest.raises(KeyError):
        with progress(total=10, leave=False) as bar:
            work(bar, wait, 2, 1)
            length = len(terminal().split("\r")[-1])
            raise KeyError
    assert terminal() == "\r" + " " * length + "\r"


def test_a_serial_console_that_does_not_know_its_size_gets_the_line_too(wait, terminal):
    terminal(columns=0)
    with progress(total=10, leave=False) as bar:
        work(bar, wait, 2, 1)
        assert "2/10" in terminal(columns=0)


@pytest.mark.parametrize("total", [None, 1000000])
@pytest.mark.parametrize("columns", [30, 10])
def test_a_line_stays_within_a_narrow_terminal(wait, terminal, columns, total):
    terminal(columns)
    with progress(total=total, note=lambda: "bottleneck decode", leave=False) as bar:
        work(bar, wait, 3, 1)
        text = terminal(columns)
    assert columns - 1 <= max(map(len, text.split("\r"))) <= columns
