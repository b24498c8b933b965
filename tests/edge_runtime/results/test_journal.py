"""The journal of an unfinished output, and the lock that keeps two runs from one output."""

import errno
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import textwrap

import pytest

from edge_runtime.errors import UsageError
from edge_runtime.results import file_sink, formats, journal
from edge_runtime.sources import names
from tests.helpers import NASTY_NAMES, ROOT, write_bytes

RUN = {"engine": "onnxruntime", "batch": 8, "source": os.fsdecode(b"ph\xf6tos"), "threshold": None}
CHECKPOINT = journal.Checkpoint(rows=1000, unreadable=3, size_bytes=31415, names_sha256="ab" * 32, whole=False)


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out.tsv")


def test_what_is_written_is_read_back(out):
    journal.write_journal(out, RUN, CHECKPOINT)
    assert journal.read_journal(out) == (RUN, CHECKPOINT)
    assert os.listdir(os.path.dirname(out)) == ["out.tsv.partial.json"]


def test_a_later_checkpoint_takes_the_place_of_the_earlier(out):
    journal.write_journal(out, RUN, CHECKPOINT)
    journal.write_journal(out, RUN, CHECKPOINT._replace(rows=2000, whole=True))
    assert journal.read_journal(out).checkpoint == CHECKPOINT._replace(rows=2000, whole=True)


def test_where_there_is_none_nothing_is_read_and_nothing_removed(out):
    assert journal.read_journal(out) is None
    journal.remove_journal(out)


def test_removing_takes_what_a_killed_writing_left_too(out):
    journal.write_journal(out, RUN, CHECKPOINT)
    write_bytes(journal.journal_of(out) + ".new", b"{")
    journal.remove_journal(out)
    assert os.listdir(os.path.dirname(out)) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_writing_that_fails_leaves_the_journal_before_it(out, monkeypatch, step):
    journal.write_journal(out, RUN, CHECKPOINT)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, step, full)
        with pytest.raises(OSError):
            journal.write_journal(out, RUN, CHECKPOINT._replace(rows=2000))
    assert journal.read_journal(out).checkpoint == CHECKPOINT


def test_the_rows_are_on_the_disk_before_the_journal_s_name_is(out, monkeypatch):
    """fsync of the new journal, then its name, then the folder."""
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(journal.os, "fsync", lambda number: done.append("fsync") or fsync(number))
    monkeypatch.setattr(journal.os, "replace", lambda *names: done.append("replace") or replace(*names))
    journal.write_journal(out, RUN, CHECKPOINT)
    assert done == ["fsync", "replace", "fsync"]


def _changed(**values):
    value = {"format_version": journal.FORMAT_VERSION, "run": RUN, "checkpoint": CHECKPOINT._asdict()}
    return json.dumps(dict(value, **values)).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        _changed(format_version=journal.FORMAT_VERSION + 1),
        _changed(run=[]),
        _changed(checkpoint={}),
        _changed(checkpoint=dict(CHECKPOINT._asdict(), rows="many")),
        _changed(checkpoint=dict(CHECKPOINT._asdict(), size_bytes=-1)),
    ],
)
def test_a_journal_that_is_none_is_explained(out, content):
    write_bytes(journal.journal_of(out), content)
    with pytest.raises(UsageError, match="out.tsv.partial.json (.|\n)*--overwrite"):
        journal.read_journal(out)


def test_every_difference_is_named_with_both_values():
    now = dict(RUN, batch=4, threshold=0.5, max_delay_ms=50)
    assert journal.differences(RUN, now) == [
        "batch: 8 then, 4 now",
        "max delay ms: none then, 50 now",
        "threshold: none then, 0.5 now",
    ]
    assert journal.differences(RUN, dict(RUN)) == []


def test_names_are_told_apart_however_they_are_cut():
    def of(*names):
        digest = journal.start_of_names()
        for name in names:
            journal.add_name(digest, name)
        return digest.hexdigest()

    assert of("a", "bc") != of("ab", "c") != of("abc")
    assert of() == hashlib.sha256().hexdigest()
    assert len({of(name) for name in NASTY_NAMES}) == len(NASTY_NAMES)


@pytest.mark.parametrize("suffix", sorted(formats.FORMATS))
def test_sources_ignore_every_file_of_an_unfinished_output(tmp_path, suffix):
    out = str(tmp_path / ("out" + suffix))
    with journal.lock_output(out):
        journal.write_journal(out, RUN, CHECKPOINT)
        write_bytes(journal.partial_of(out), b"no row")
        if formats.FORMATS[suffix].build:
            with pytest.raises(Exception):  # noqa: B017  the library's, or that there is none
                file_sink.finish_file(out, [], suffix)
        left = os.listdir(str(tmp_path))
    assert len(left) == (4 if formats.FORMATS[suffix].build else 3)
    assert all(names.is_litter(name) for name in left), "add it in edge_runtime/sources/names.py"


# --- the lock

_HOLDER = """
    import sys
    from edge_runtime.results import journal
    with journal.lock_output(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.read()
"""


def holder(out):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_HOLDER), out],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=ROOT),
    )
    assert process.stdout.readline() == b"held\n"
    return process


def end(process):
    process.stdin.close()
    process.stdout.close()
    return process.wait(60)


def test_the_second_is_refused_with_the_number_of_the_first(out):
    process = holder(out)
    try:
        with pytest.raises(UsageError, match=r"out.tsv: .*process %d\b" % process.pid):
            with journal.lock_output(out):
                pass
        with journal.lock_output(out + ".other"):
            pass
    finally:
        assert end(process) == 0
    with journal.lock_output(out):
        pass
    assert os.listdir(os.path.dirname(out)) == []


def test_a_killed_process_gives_the_lock_back(out):
    process = holder(out)
    process.kill()
    end(process)
    assert os.listdir(os.path.dirname(out)) == ["out.tsv.partial.lock"]
    with journal.lock_output(out):
        pass
    assert os.listdir(os.path.dirname(out)) == []


def test_a_lock_file_that_its_holder_has_just_removed_is_not_the_lock(out, monkeypatch):
    """Between opening and locking it the other run ended, and a third may hold a new lock file."""
    flock, calls = fcntl.flock, []

    def late(descriptor, operation):
        if not calls:
            os.unlink(out + ".partial.lock")
        calls.append(operation)
        return flock(descriptor, operation)

    monkeypatch.setattr(journal.fcntl, "flock", late)
    with journal.lock_output(out):
        assert os.path.exists(out + ".partial.lock")
    assert len(calls) == 2


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_without_locks_in_the_file_system_it_goes_on(out, monkeypatch, number):
    def none(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(journal.fcntl, "flock", none)
    entered = []
    with journal.lock_output(out):
        entered.append(out)
    assert entered


def test_where_nothing_can_be_written_it_is_said(tmp_path):
    with pytest.raises(UsageError, match="nowhere/out.tsv: .*No such file or directory"):
        with journal.lock_output(str(tmp_path / "nowhere" / "out.tsv")):
            pass
