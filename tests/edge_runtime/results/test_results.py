"""The sinks: rows on standard output, in lists and in files, and what a file holds after each kind of failure."""

import base64
import errno
import io
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from edge_runtime import files
from edge_runtime.errors import MissingRequirement, UsageError
from edge_runtime.results import file_sink, formats, journal, resume, sinks
from edge_runtime.results import parquet as results_parquet
from edge_runtime.results.file_sink import FileSink
from edge_runtime.results.rows import columns_of
from edge_runtime.sources.items import Item
from tests.helpers import NASTY_NAMES, read_rows_of

COLUMNS = columns_of(1)
RUN = {"batch": 4}


def row(number):
    """Every fifth photo is unreadable, and the names are nasty."""
    name = "%05d %s" % (number, NASTY_NAMES[number % len(NASTY_NAMES)])
    return [name, "", "", "is empty"] if number % 5 == 4 else [name, "ham", (number + 1) / 9000.0, ""]


def write_rows(sink, start, end, batch=4):
    for number in range(start, end):
        sink.write(row(number), ends_batch=number % batch == batch - 1)


def items(count, start=0):
    return iter([Item(row(number)[0], "", "") for number in range(start, count)])


def read(path):
    with open(path, "rb") as file:
        return file.read()


def own_name(found):
    """A row of JSON with its file's name as Python holds it."""
    raw = found.pop("file_bytes", None)
    return dict(found, file=os.fsdecode(base64.b64decode(raw))) if raw else found


def rows_of(path):
    data = read(path)
    if path.endswith(".jsonl"):
        return [own_name(json.loads(line)) for line in data.decode("ascii").splitlines()]
    return read_rows_of(data, "excel-tab" if ".tsv" in path else "excel")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "out.tsv")


def whole(path, count=40):
    """Returns the bytes of an uninterrupted run's file."""
    with FileSink(path, COLUMNS, RUN) as sink:
        write_rows(sink, 0, count)
        sink.finish()
    data = read(path)
    os.unlink(path)
    return data


def reopened(path, count=40, run=RUN):
    """Returns a sink that resumes as --resume does."""
    checkpoint = resume.find_checkpoint(path, run)
    names = resume.skip_finished(items(count), checkpoint, "photos", threading.Event()) if checkpoint else None
    return FileSink(path, COLUMNS, run, checkpoint, names)


# --- rows


def test_the_columns_of_a_video_end_with_the_time():
    assert columns_of(2) == ["file", "label", "confidence", "error", "label_2", "confidence_2"]
    assert columns_of(1, timed=True) == ["file", "label", "confidence", "error", "time_s"]


def test_a_list_keeps_every_row():
    with sinks.ListSink(COLUMNS) as sink:
        write_rows(sink, 0, 10)
        sink.finish()
    assert sink.row_dicts == [dict(zip(COLUMNS, row(number))) for number in range(10)]
    assert (sink.rows, sink.unreadable, sink.kept_rows) == (10, 2, 0)


# --- a file that becomes whole


@pytest.mark.parametrize("suffix", formats.TEXT_SUFFIXES)
def test_a_file_has_all_rows_and_is_alone(tmp_path, suffix):
    path = str(tmp_path / ("out" + suffix))
    with FileSink(path, COLUMNS, RUN) as sink:
        write_rows(sink, 0, 40)
        assert not os.path.exists(path)
        sink.finish()
    assert os.listdir(str(tmp_path)) == [os.path.basename(path)]
    assert [found["file"] for found in rows_of(path)] == [row(number)[0] for number in range(40)]
    assert (sink.rows, sink.unreadable) == (40, 8)


def test_a_file_of_no_rows_has_its_header(path):
    assert whole(path, 0) == b"file\tlabel\tconfidence\terror\n"


def test_a_file_is_readable_by_whom_the_user_s_mask_says(path):
    before = os.umask(0o027)
    try:
        with FileSink(path, COLUMNS, RUN) as sink:
            sink.finish()
    finally:
        os.umask(before)
    assert os.stat(path).st_mode & 0o777 == 0o640


def test_an_older_file_stays_until_the_new_one_is_whole(path):
    with open(path, "w") as file:
        file.write("older")
    with FileSink(path, COLUMNS, RUN) as sink:
        write_rows(sink, 0, 8)
        sink.save()
        assert read(path) == b"older"
        sink.finish()
    assert len(rows_of(path)) == 8


# --- checkpoints


def test_a_checkpoint_comes_every_so_many_rows_and_only_between_batches(path, monkeypatch):
    monkeypatch.setattr(file_sink, "CHECKPOINT_ROWS", 10)
    counted = []
    with FileSink(path, COLUMNS, RUN) as sink:
        for number in range(40):
            write_rows(sink, number, number + 1)
            counted.append(journal.read_journal(path).checkpoint.rows)
    assert counted == [0] * 11 + [12] * 12 + [24] * 12 + [36] * 5


def test_a_checkpoint_comes_every_two_seconds_at_least(path, monkeypatch):
    now_s = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    with FileSink(path, COLUMNS, RUN) as sink:
        write_rows(sink, 0, 4)
        assert journal.read_journal(path).checkpoint.rows == 0
        now_s[0] = 2.0
        write_rows(sink, 4, 7)
        assert journal.read_journal(path).checkpoint.rows == 0
        write_rows(sink, 7, 9)
        assert journal.read_journal(path).checkpoint.rows == 8


def test_a_checkpoint_comes_when_no_row_comes_any_more_too(path, monkeypatch):
    monkeypatch.setattr(file_sink, "CHECKPOINT_S", 0.05)
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)  # so that it is not write that finds it due
    with FileSink(path, COLUMNS, RUN) as sink:
        write_rows(sink, 0, 8)
        until_s = time.perf_counter() + 60
        while journal.read_journal(path).checkpoint.rows < 8 and time.perf_counter() < until_s:
            time.sleep(0.01)
        assert journal.read_journal(path).checkpoint.rows == 8
        sink.finish()
    assert len(rows_of(path)) == 8


def test_a_failure_while_no_row_comes_ends_the_run_at_the_next_one(path, monkeypatch):
    with pytest.raises(UsageError, match="Input/output error"):
        with FileSink(path, COLUMNS, RUN) as sink:
            write_rows(sink, 0, 8)
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", failing(errno.EIO)(os.fsync))
                sink.save()
            write_rows(sink, 8, 9)
    assert sink.kept_rows == 0


def test_a_journal_whose_folder_cannot_be_synced_counts(path, monkeypatch):
    expected = whole(path)
    with pytest.raises(UsageError, match="cannot be written"):
        with FileSink(path, COLUMNS, RUN) as sink:
            write_rows(sink, 0, 12)
            with monkeypatch.context() as patch:
                patch.setattr(files, "sync_folder", failing(errno.EIO)(None))
                sink.save()
            write_rows(sink, 12, 13)
    assert sink.kept_rows == len(rows_of(journal.partial_of(path))) == 12
    with reopened(path) as sink:
        assert sink.rows == 12
        write_rows(sink, 12, 40)
        sink.finish()
    assert read(path) == expected


@pytest.mark.parametrize("suffix", sorted(formats.FORMATS))
def test_rows_that_cannot_be_made_again_are_kept_under_a_free_name(tmp_path, suffix):
    path = str(tmp_path / ("out" + suffix))
    for number in (1, 2):
        with FileSink(path, COLUMNS, RUN) as sink:
            write_rows(sink, 0, 8)
            sink.save()
            os.write(sink._descriptor, b"half a row")
        name, rows = resume.keep_stopped_rows(path)
        assert rows == 8
        assert name == str(tmp_path / ("out.stopped-%d%s" % (number, suffix))) + ".jsonl" * (suffix == ".parquet")
        assert [found["file"] for found in rows_of(name)] == [row(number)[0] for number in range(8)]
        assert resume.keep_stopped_rows(path) is None
    assert len(os.listdir(str(tmp_path))) == 2


def test_the_rows_are_on_the_disk_before_the_journal_counts_them(path, monkeypatch):
    done = []
    fsync = os.fsync
    with FileSink(path, COLUMNS, RUN) as sink:
        monkeypatch.setattr(os, "fsync", lambda number: done.append(number) or fsync(number))
        monkeypatch.setattr(journal, "write_journal", lambda *_: done.append("journal"))
        write_rows(sink, 0, 8)
        sink.save()
        assert done == [sink._descriptor, "journal"]
        assert len(rows_of(journal.partial_of(path))) == 8


def test_a_checkpoint_counts_the_unreadable_rows_the_bytes_and_the_names(path):
    with FileSink(path, COLUMNS, RUN) as sink:
        write_rows(sink, 0, 8)
        sink.save()
    found = journal.read_journal(path).checkpoint
    assert found[:2] == (8, 1)
    assert found.size_bytes == os.path.getsize(journal.partial_of(path))
    assert resume.skip_finished(items(40), found, "photos", threading.Event()).hexdigest() == found.names_sha256


# --- stopped and resumed


@pytest.mark.parametrize("suffix", formats.TEXT_SUFFIXES)
@pytest.mark.parametrize("done", [0, 1, 4, 7, 39, 40])
def test_resuming_gives_the_same_bytes(tmp_path, suffix, done):
    path = str(tmp_path / ("out" + suffix))
    expected = whole(path)
    with pytest.raises(RuntimeError):
        with FileSink(path, COLUMNS, RUN) as sink:
            write_rows(sink, 0, done)
            raise RuntimeError("the engine is gone")
    assert sink.kept_rows == done and not os.path.exists(path)
    with reopened(path) as sink:
        assert sink.rows == done - done % 4
        write_rows(sink, sink.rows, 40)
        sink.finish()
    assert read(path) == expected
    assert (sink.rows, sink.unreadable) == (40, 8)


def test_what_was_stopped_holds_every_row_that_was_done(path):
    with pytest.raises(KeyboardInterrupt):
        with FileSink(path, COLUMNS, RUN) as sink:
            write_rows(sink, 0, 7)
            raise KeyboardInterrupt
    assert [found["file"] for found in rows_of(journal.partial_of(path))] == [row(number)[0] for number in range(7)]


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_run_that_failed_before_its_first_row_leaves_nothing(path, goes_on):
    if goes_on:
        FileSink(path, COLUMNS, RUN).__exit__(None)
        assert resume.find_checkpoint(path, RUN).rows == 0
    with pytest.raises(RuntimeError):
        with reopened(path):
            raise RuntimeError("the table has no column named file")
    assert os.listdir(os.path.dirname(path)) == []


def test_half_a_row_after_the_checkpoint_is_cut_off(path):
    expected = whole(path)
    with FileSink(path, COLUMNS, RUN) as sink:
        write_rows(sink, 0, 8)
        sink.save()
    with open(journal.partial_of(path), "ab") as file:
        file.write(b"00008 half a r")
    with reopened(path) as sink:
        write_rows(sink, 8, 40)
        sink.finish()
    assert read(path) == expected


def test_each_value_that_differs_is_named(path):
    with FileSink(path, COLUMNS, RUN) as sink:
        write_rows(sink, 0, 8)
    with pytest.raises(UsageError, match="out.tsv.partial (.|\n)*batch: 4 .*5(.|\n)*top: none .*2"):
        resume.find_checkpoint(path, {"batch": 5, "top": 2})


@pytest.mark.parametrize(
    "changed, message",
    [
        (lambda: items(40, start=1), "the first 8 of photos "),
        (lambda: items(7), "only 7"),
        (lambda: iter([]), "only 0"),
        (lambda: iter([item._replace(name=item.name + "x") for item in items(40)]), "Put them back"),
    ],
    ids=["one was removed", "most were removed", "all were removed", "all were renamed"],
)
def test_another_source_is_refused_and_nothing_is_touched(path, changed, message):
    with pytest.raises(RuntimeError):
        with FileSink(path, COLUMNS, RUN) as sink:
            write_rows(sink, 0, 8)
            raise RuntimeError
    before = read(journal.partial_of(path))
    with pytest.raises(UsageError, match=message):
        resume.skip_finished(changed(), resume.find_checkpoint(path, RUN), "photos", threading.Event())
    assert read(journal.partial_of(path)) == before


def test_skipping_can_be_stopped(path):
    with FileSink(path, COLUMNS, RUN) as sink:
        write_rows(sink, 0, 8)
        sink.save()
    stop = threading.Event()
    stop.set()
    for left in (40, 3):  # standard input ends when it is stopped
        with pytest.raises(KeyboardInterrupt):
            resume.skip_finished(items(left), resume.find_checkpoint(path, RUN), "photos", stop)


@pytest.mark.parametrize("lost", ["all", "some"])
def test_rows_that_were_lost_are_begun_anew(path, lost):
    with FileSink(path, COLUMNS, RUN) as sink:
        write_rows(sink, 0, 8)
        sink.save()
    if lost == "all":
        os.unlink(journal.partial_of(path))
    else:
        os.truncate(journal.partial_of(path), 50)
    assert resume.find_checkpoint(path, RUN) is None


def test_beginning_anew_forgets_the_older_journal_before_its_rows(path, monkeypatch):
    with FileSink(path, COLUMNS, RUN) as sink:
        write_rows(sink, 0, 8)
        sink.save()
    monkeypatch.setattr(os, "open", _killed)
    with pytest.raises(Killed):
        FileSink(path, COLUMNS, RUN)
    assert journal.read_journal(path) is None


class Killed(BaseException):
    """Stands for kill -9 in the middle of a function; tests/edge_runtime/cli/test_kill.py kills for real."""


def _killed(*_, **__):
    raise Killed


@pytest.mark.parametrize("step", ["replace", "sync_folder", "remove_journal"])
def test_an_end_that_was_cut_short_is_finished(path, monkeypatch, step):
    expected = whole(path)
    with monkeypatch.context() as patch:
        with pytest.raises(Killed):
            with FileSink(path, COLUMNS, RUN) as sink:
                write_rows(sink, 0, 40)
                if step == "replace":
                    replace = os.replace
                    patch.setattr(os, "replace", lambda old, new: _killed() if new == path else replace(old, new))
                else:
                    patch.setattr(journal if step == "remove_journal" else files, step, _killed)
                sink.finish()
    found = resume.find_checkpoint(path, RUN)
    assert found.whole and found.rows == 40
    file_sink.finish_file(path, COLUMNS)
    assert read(path) == expected
    assert os.listdir(os.path.dirname(path)) == ["out.tsv"]


# --- an output that cannot be written


def failing(number, after=0):
    """Stands for a system call that fails from its n-th call on."""
    calls = []

    def call(real):
        def replacement(*arguments):
            calls.append(arguments)
            if len(calls) > after:
                raise OSError(number, os.strerror(number))
            return real(*arguments)

        return replacement

    return call


FAULTS = [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.EFBIG]


@pytest.mark.parametrize("number", FAULTS, ids=lambda number: errno.errorcode[number])
@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failing_disk_keeps_the_last_checkpoint_and_the_file_valid(path, monkeypatch, number, step):
    expected = whole(path)
    monkeypatch.setattr(file_sink, "CHECKPOINT_ROWS", 8)
    with monkeypatch.context() as patch:
        with pytest.raises(UsageError, match="--out .*out.tsv: .*%s" % os.strerror(number)):
            with FileSink(path, COLUMNS, RUN) as sink:
                write_rows(sink, 0, 12)
                patch.setattr(os, step, failing(number)(getattr(os, step)))
                write_rows(sink, 12, 40)
    assert sink.kept_rows == 8
    assert [found["file"] for found in rows_of(journal.partial_of(path))] == [row(number)[0] for number in range(8)]
    with reopened(path) as sink:
        write_rows(sink, sink.rows, 40)
        sink.finish()
    assert read(path) == expected


def test_half_a_write_before_the_disk_was_full_is_cut_off(path, monkeypatch):
    write, calls = os.write, []

    def full(descriptor, data):
        calls.append(len(data))
        if len(calls) == 1:
            return write(descriptor, bytes(data[: len(data) - 10]))
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UsageError):
        with FileSink(path, COLUMNS, RUN) as sink:
            write_rows(sink, 0, 4)
            sink.save()
            write_rows(sink, 4, 8)
            monkeypatch.setattr(os, "write", full)
            sink.finish()
    assert len(calls) == 2 and len(rows_of(journal.partial_of(path))) == 4 == sink.kept_rows


def test_a_short_write_is_continued(path, monkeypatch):
    expected = whole(path)
    write = os.write
    monkeypatch.setattr(os, "write", lambda number, data: write(number, bytes(data[:7])))
    assert whole(path) == expected


def test_a_disk_that_is_full_from_the_start(path, monkeypatch):
    monkeypatch.setattr(os, "write", failing(errno.ENOSPC)(os.write))
    with pytest.raises(UsageError, match="No space left on device"):
        FileSink(path, COLUMNS, RUN)
    assert os.listdir(os.path.dirname(path)) == []


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to mount a small file system")
def test_a_small_file_system_that_fills_up(tmp_path):
    disk = str(tmp_path / "disk")
    os.mkdir(disk)
    mounted = subprocess.call(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], stderr=subprocess.DEVNULL)
    if mounted != 0:
        pytest.skip("no file system can be mounted here")
    try:
        path = os.path.join(disk, "out.tsv")
        with pytest.raises(UsageError, match="No space left on device"):
            with FileSink(path, COLUMNS, RUN) as sink:
                write_rows(sink, 0, 100)
                sink.save()
                write_rows(sink, 100, 4000)
        assert sink.kept_rows == sink.last_checkpoint.rows == len(rows_of(journal.partial_of(path))) >= 100
        subprocess.check_call(["mount", "-o", "remount,size=1m", disk])  # room was made
        with reopened(path, 4000) as sink:
            write_rows(sink, sink.rows, 4000)
            sink.finish()
        assert read(path) == whole(str(tmp_path / "out.tsv"), 4000)
        assert os.listdir(disk) == ["out.tsv"]
    finally:
        subprocess.check_call(["umount", disk])


def test_saving_does_not_wait_for_a_write_that_hangs(path, monkeypatch):
    monkeypatch.setattr(file_sink, "SAVE_TIMEOUT_S", 0.01)
    begun, end = threading.Event(), threading.Event()
    fsync = os.fsync

    def hang(descriptor):
        begun.set()
        assert end.wait(60)
        return fsync(descriptor)

    with FileSink(path, COLUMNS, RUN) as sink:
        write_rows(sink, 0, 4)
        monkeypatch.setattr(os, "fsync", hang)
        thread = threading.Thread(target=sink.save)
        thread.start()
        assert begun.wait(60)
        sink.save()  # comes back
        end.set()
        thread.join()


# --- standard output


@pytest.fixture
def stdout(monkeypatch):
    """Puts a file in the place of standard output: stdout(raw) -> raw."""

    def put(raw):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(raw), encoding="ascii"))
        return raw

    return put


def test_a_batch_s_rows_come_out_together(stdout, tmp_path):
    raw = stdout(io.FileIO(str(tmp_path / "stdout"), "w"))
    with sinks.StreamSink(COLUMNS) as sink:
        write_rows(sink, 0, 7)
        assert len(rows_of_bytes(read(raw.name))) == 4
        sink.save()
        assert len(rows_of_bytes(read(raw.name))) == 7
        write_rows(sink, 7, 9)
        sink.finish()
    found = rows_of_bytes(read(raw.name))
    assert [one["file"] for one in found] == [row(number)[0] for number in range(9)]
    sys.stdout.close()


def test_a_failure_elsewhere_costs_no_row_that_was_written(stdout, tmp_path):
    raw = stdout(io.FileIO(str(tmp_path / "stdout"), "w"))
    with pytest.raises(UsageError):
        with sinks.StreamSink(COLUMNS) as sink:
            write_rows(sink, 0, 7)  # the last three wait for their batch
            raise UsageError("photos.tsv: cannot be read any more")
    sys.stdout.close()
    assert len(rows_of_bytes(read(raw.name))) == 7


def rows_of_bytes(data):
    return read_rows_of(data, "excel-tab")


# --- Parquet


def pyarrow_or_skip():
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    return pyarrow.parquet


@pytest.mark.parametrize("group", [1, 7, 40, 1000])
def test_parquet_has_the_same_rows_and_null_for_an_empty_cell(tmp_path, monkeypatch, group):
    parquet = pyarrow_or_skip()
    monkeypatch.setattr(results_parquet, "ROW_GROUP", group)
    path = str(tmp_path / "out.parquet")
    columns = columns_of(2, timed=True)
    with FileSink(path, columns, RUN) as sink:
        for number in range(40):
            sink.write(["photo %d" % number] + row(number)[1:] + row(number)[1:3] + [number / 25.0])
        sink.finish()
    assert os.listdir(str(tmp_path)) == ["out.parquet"]
    file = parquet.ParquetFile(path)
    assert file.num_row_groups == -(-40 // group)
    table = file.read()
    assert table.column_names == columns
    kinds = {"confidence": "double", "confidence_2": "double", "time_s": "double"}
    assert [str(kind) for kind in table.schema.types] == [kinds.get(name, "string") for name in columns]
    found = table.to_pydict()
    assert found["file"] == ["photo %d" % number for number in range(40)]
    for name, place in [("label", 1), ("confidence", 2), ("error", 3), ("label_2", 1), ("confidence_2", 2)]:
        assert found[name] == [row(number)[place] or None for number in range(40)]
    assert found["time_s"] == [number / 25.0 for number in range(40)]


def test_parquet_keeps_the_bytes_of_names_that_are_no_utf_8(tmp_path):
    parquet = pyarrow_or_skip()
    path = str(tmp_path / "out.parquet")
    with FileSink(path, COLUMNS, RUN) as sink:
        for name in NASTY_NAMES:
            sink.write([name, "ham", 0.5, ""])
        sink.finish()
    found = parquet.ParquetFile(path).read().to_pydict()
    assert list(found) == COLUMNS + ["file_bytes"]
    for name, shown, data in zip(NASTY_NAMES, found["file"], found["file_bytes"]):
        raw = name.encode("utf-8", "surrogateescape")
        assert data == raw if b"\xff" in raw or b"\xfc" in raw else data is None
        assert data is not None or shown.encode() == raw
    assert "latin\\xfc.jpg" in found["file"]


def test_parquet_is_resumed_too(tmp_path):
    parquet = pyarrow_or_skip()
    path = str(tmp_path / "out.parquet")
    with pytest.raises(RuntimeError):
        with FileSink(path, COLUMNS, RUN) as sink:
            write_rows(sink, 0, 10)
            raise RuntimeError
    with reopened(path) as sink:
        write_rows(sink, sink.rows, 40)
        sink.finish()
    assert parquet.ParquetFile(path).read().num_rows == 40
    assert os.listdir(str(tmp_path)) == ["out.parquet"]


@pytest.mark.parametrize("step", ["replace", "unlink", "remove_journal"])
def test_a_parquet_s_end_that_was_cut_short_is_finished(tmp_path, monkeypatch, step):
    parquet = pyarrow_or_skip()
    path = str(tmp_path / "out.parquet")
    with monkeypatch.context() as patch:
        with pytest.raises(Killed):
            with FileSink(path, COLUMNS, RUN) as sink:
                write_rows(sink, 0, 40)
                replace = os.replace
                if step == "replace":
                    patch.setattr(os, "replace", lambda old, new: _killed() if new == path else replace(old, new))
                else:
                    patch.setattr(journal if step == "remove_journal" else os, step, _killed)
                sink.finish()
    assert resume.find_checkpoint(path, RUN).whole
    file_sink.finish_file(path, COLUMNS)
    assert parquet.ParquetFile(path).read().num_rows == 40
    assert os.listdir(str(tmp_path)) == ["out.parquet"]


def test_parquet_without_its_library_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingRequirement, match="pip install pyarrow"):
        with FileSink(str(tmp_path / "out.parquet"), COLUMNS, RUN) as sink:
            write_rows(sink, 0, 4)
            sink.finish()
    assert len((tmp_path / "out.parquet.partial").read_text().splitlines()) == 4
