"""Reading tables that people and spreadsheets write, and writing tables that every csv reader reads back."""

import base64
import csv
import errno
import gzip
import io
import json
import os
import sys
import threading
import tracemalloc

import pytest

from edge_runtime.errors import MissingRequirement, StorageLost, UsageError
from edge_runtime.results.formats import FORMATS
from edge_runtime.sources import table_reader
from tests.helpers import NASTY_NAMES, write_bytes


@pytest.fixture
def rows_of(tmp_path):
    """A function: the bytes of a table -> its rows."""

    def read(data, **settings):
        return list(table_reader.read_rows(write_bytes(tmp_path / "table.tsv", data), **settings))

    return read


def problem_of(rows):
    (row,) = rows
    return row.problem


# --- reading


@pytest.mark.parametrize(
    "data",
    [
        b"file\tlabel\na.jpg\tham\nb c.jpg\tegg\n",
        b"\xef\xbb\xbffile\tlabel\na.jpg\tham\nb c.jpg\tegg\n",
        b"file\tlabel\r\na.jpg\tham\r\nb c.jpg\tegg\r\n",
        b"file\tlabel\na.jpg\tham\nb c.jpg\tegg",
        b'file\tlabel\n"a.jpg"\t"ham"\n"b c.jpg"\t"egg"\n',
        b"label\tnote\tfile\nham\tx\ta.jpg\negg\ty\tb c.jpg\n",
        b" file \t label \na.jpg\t ham \nb c.jpg\tegg\t\t\n",
        b"file\tlabel\n\na.jpg\tham\n\t\n   \nb c.jpg\tegg\n\n",
    ],
    ids=["plain", "BOM", "CRLF", "no last newline", "quoted", "more columns", "spaces, tabs at the end", "blank lines"],
)
def test_a_table_reads_the_same_however_it_was_saved(rows_of, data):
    assert [row[1:] for row in rows_of(data)] == [("a.jpg", "ham", ""), ("b c.jpg", "egg", "")]


def test_a_quoted_name_may_hold_a_tab_a_newline_and_quotes(rows_of):
    (row,) = rows_of(b'file\tlabel\n"a\tb\nc""d.jpg"\tham\n')
    assert row.file == 'a\tb\nc"d.jpg' and row.label == "ham"


def test_bytes_that_are_not_utf_8_are_kept(rows_of):
    (row,) = rows_of(b"file\nlatin\xfc.jpg\n")
    assert row.file.encode("utf-8", "surrogateescape") == b"latin\xfc.jpg"


def test_the_line_of_a_row_is_the_table_s_line(rows_of):
    assert [row.line for row in rows_of(b"file\na.jpg\n\nb.jpg\n")] == [2, 4]


def test_a_long_row_is_a_problem_of_that_row_alone(rows_of):
    rows = rows_of(b"file\tlabel\na.jpg\tham\ttoo much\nb.jpg\tegg\n")
    assert [row.problem for row in rows] == ["line has 3 fields, the header 2", ""]


def test_a_short_row_has_no_label(rows_of):
    (row,) = rows_of(b"file\tlabel\na.jpg\n")
    assert (row.file, row.label, row.problem) == ("a.jpg", "", "")


@pytest.mark.parametrize("line", [b"a.jpg", b"a.jpg\t", b"a.jpg\t  "])
def test_a_missing_label_is_a_problem_where_labels_are_needed(rows_of, line):
    assert problem_of(rows_of(b"file\tlabel\n" + line + b"\n", need_label=True)) == "no label"


@pytest.mark.parametrize("line", [b"\tham", b"  \tham", b'""\tham'])
def test_a_missing_name_is_a_problem(rows_of, line):
    assert problem_of(rows_of(b"file\tlabel\n" + line + b"\n")) == "no file name"


@pytest.mark.parametrize("name", ["/etc/passwd", "//server/a.jpg"])
def test_an_absolute_path_is_a_problem(rows_of, name):
    assert "absolute path" in problem_of(rows_of(b"file\n" + name.encode() + b"\n"))


@pytest.mark.parametrize("name", ["../a.jpg", "a/../../b.jpg", "..", "a/.."])
def test_a_path_out_of_the_images_folder_is_a_problem(rows_of, name):
    assert problem_of(rows_of(b"file\n" + name.encode() + b"\n")) == "path leaves the images folder (..)"


@pytest.mark.parametrize("name", ["a..jpg", "..a/b.jpg", "a/b..", "..."])
def test_two_dots_inside_a_name_are_fine(rows_of, name):
    assert problem_of(rows_of(b"file\n" + name.encode() + b"\n")) == ""


def test_a_nul_byte_costs_one_row_only(rows_of):
    rows = rows_of(b"file\tlabel\na\0.jpg\tham\nb.jpg\tegg\n")
    assert [row.file for row in rows] == ["a\ufffd.jpg", "b.jpg"]


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"\xef\xbb\xbf", b"a.jpg\tham\n", b"File\tLabel\n", b"file:label\na.jpg:ham\n"]
)
def test_a_table_without_the_column_is_wrong_usage(rows_of, data):
    with pytest.raises(UsageError, match="column.*file"):
        rows_of(data)


def test_a_table_without_labels_is_wrong_usage_where_they_are_needed(rows_of):
    with pytest.raises(UsageError, match="column.*label"):
        rows_of(b"file\na.jpg\n", need_label=True)


def test_a_table_with_a_header_alone_has_no_rows(rows_of):
    assert rows_of(b"file\tlabel\n") == []


def test_a_missing_table_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        list(table_reader.read_rows(str(tmp_path / "nowhere.tsv")))


def test_a_folder_given_as_a_table_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="directory"):
        list(table_reader.read_rows(str(tmp_path)))


def test_a_field_without_end_is_wrong_usage_that_names_the_line(rows_of):
    with pytest.raises(UsageError, match="table.tsv, line 3: .*field"):
        rows_of(b"file\na.jpg\n" + b"x" * (csv.field_size_limit() + 10) + b"\n")


@pytest.mark.parametrize("count", [3, 9000], ids=["few rows", "more than the csv module takes as one field"])
def test_a_quote_that_nothing_closes_costs_no_row(rows_of, count):
    rows = rows_of(b"file\tlabel\n" + b'a.jpg\t"5 inch\n' + b"b.jpg\tegg and ham\n" * count, need_label=True)
    assert [row[:3] for row in rows[:2]] == [(2, "a.jpg", '"5 inch'), (3, "b.jpg", "egg and ham")]
    assert len(rows) == 1 + count and rows[-1].line == 2 + count and not any(row.problem for row in rows)


def test_a_quote_closed_by_another_row_s_costs_no_row(rows_of):
    rows = rows_of(b'file\tlabel\na.jpg\t"5 inch\nb.jpg\tegg\nc.jpg\t"5 inch\nd.jpg\tham\n', need_label=True)
    assert [row[:3] for row in rows] == [
        (2, "a.jpg", '"5 inch'),
        (3, "b.jpg", "egg"),
        (4, "c.jpg", '"5 inch'),
        (5, "d.jpg", "ham"),
    ]


# --- tables from other programs

ROWS = [("a.jpg", "ham"), ("b, c.jpg", "egg"), ("\u00c4pfel/\u82f9.jpg", "7")]


@pytest.mark.parametrize("separator", ["\t", ",", ";"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".txt", ".csv.gz", ""])
def test_the_header_line_says_what_separates_the_columns(tmp_path, separator, encoding, suffix):
    text = "\ufeff" if "16" in encoding else ""
    text += "".join(
        separator.join('"%s"' % cell if separator in cell else cell for cell in row) + "\r\n"
        for row in [("file", "label")] + ROWS
    )
    data = text.encode(encoding)
    path = write_bytes(tmp_path / ("table" + suffix), gzip.compress(data) if ".gz" in suffix else data)
    for need_label in (False, True):
        assert [row[1:] for row in table_reader.read_rows(path, need_label)] == [row + ("",) for row in ROWS]


def test_a_column_alone_needs_no_separator(tmp_path):
    path = write_bytes(tmp_path / "t.csv", b'file\n"a, b.jpg"\nc.jpg,ham\n')
    assert [row[1:] for row in table_reader.read_rows(path)] == [
        ("a, b.jpg", "", ""),
        ("c.jpg", "", "line has 2 fields, the header 1"),
    ]
    path = write_bytes(tmp_path / "t.tsv", b"file\na, b.jpg\n")
    assert [row.file for row in table_reader.read_rows(path)] == ["a, b.jpg"]


def test_an_open_quote_in_a_csv_costs_only_its_own_row(tmp_path):
    path = write_bytes(tmp_path / "t.csv", b'file,label\na.jpg,"5 inch\nb.jpg,egg\nc.jpg,"5 inch\nd.jpg,ham\n')
    assert [row.file for row in table_reader.read_rows(path, need_label=True)] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


@pytest.mark.parametrize("suffix", [".xlsx", ".parquet"])
def test_a_table_of_a_spreadsheet_or_of_pandas_is_read(tmp_path, suffix):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("openpyxl")
    pytest.importorskip("pyarrow")
    path = str(tmp_path / ("table" + suffix))
    table = pandas.DataFrame(
        {"label": ["ham", None, "7", "egg"], "x": [1.5, 2, None, 3], "file": ["a.jpg", "b.jpg", None, "../c.jpg"]}
    )
    (table.to_excel if suffix == ".xlsx" else table.to_parquet)(path, index=False)
    assert [row[:4] for row in table_reader.read_rows(path, need_label=True)] == [
        (2, "a.jpg", "ham", ""),
        (3, "b.jpg", "", "no label"),
        (4, "", "7", "no file name"),
        (5, "../c.jpg", "egg", "path leaves the images folder (..)"),
    ]
    with pytest.raises(UsageError, match="column.*file"):
        table = table.rename(columns={"file": "photo"})
        (table.to_excel if suffix == ".xlsx" else table.to_parquet)(path, index=False)
        list(table_reader.read_rows(path))


def test_whole_numbers_in_a_spreadsheet_stay_whole(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    pytest.importorskip("pandas")
    book = openpyxl.Workbook()
    for row in [("file", "label", "label"), ("a.jpg", 12, 1), ("b.jpg", None, 2)]:
        book.active.append(row)
    book.save(str(tmp_path / "t.xlsx"))
    assert [row.file for row in table_reader.read_rows(str(tmp_path / "t.xlsx"))] == ["a.jpg", "b.jpg"]
    with pytest.raises(UsageError, match="2 columns"):
        list(table_reader.read_rows(str(tmp_path / "t.xlsx"), need_label=True))
    book.active.delete_cols(3)
    book.save(str(tmp_path / "t.xlsx"))
    assert [row.label for row in table_reader.read_rows(str(tmp_path / "t.xlsx"), need_label=True)] == ["12", ""]


@pytest.mark.parametrize("suffix", [".xlsx", ".parquet"])
def test_a_damaged_spreadsheet_is_wrong_usage(tmp_path, suffix):
    for module in ("pandas", "openpyxl", "pyarrow"):
        pytest.importorskip(module)
    with pytest.raises(UsageError, match="t%s: " % suffix):
        list(table_reader.read_rows(write_bytes(tmp_path / ("t" + suffix), b"file,label\na.jpg,ham\n")))


@pytest.mark.parametrize("suffix", [".xlsx", ".parquet"])
def test_without_pandas_it_is_said_how_to_get_it(tmp_path, suffix, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingRequirement, match="pip install pandas"):
        list(table_reader.read_rows(write_bytes(tmp_path / ("t" + suffix), b"")))


@pytest.mark.parametrize(
    "name, data, says",
    [
        ("t.tsv", b"PK\x03\x04", "a zip archive"),
        ("t.csv", b"\0" * 257 + b"ustar", "tar archive.*: tar -xf"),
        ("t.csv.gz", gzip.compress(b"\0" * 257 + b"ustar"), "a tar archive"),
        ("t.json", b"[]", "JSON.*.csv"),
        ("t.ods", b"PK\x03\x04", "a spreadsheet"),
        ("t.tsv", b"%PDF-1.5", "a PDF document"),
        ("t.tsv", b"PAR1", "a Parquet table"),
        ("t.tsv", b"\xff\xd8\xff\xe0", "a JPEG photo"),
    ],
    ids=["zip", "tar", "tar.gz", "json", "ods", "pdf", "parquet", "jpeg"],
)
def test_what_is_no_table_is_refused_by_its_kind(tmp_path, name, data, says):
    with pytest.raises(UsageError, match="%s: .*%s" % (name, says)):
        list(table_reader.read_rows(write_bytes(tmp_path / name, data)))


def test_a_list_without_a_header_is_told_what_to_do(tmp_path):
    path = write_bytes(tmp_path / "my list.txt", b"photos/a.jpg\nphotos/b.jpg\n")
    with pytest.raises(UsageError, match="(?s)file.*classify BUNDLE - < '.*list.txt'"):
        list(table_reader.read_rows(path))


@pytest.mark.parametrize("end", [10, -10])
def test_gzip_that_is_damaged_is_wrong_usage(tmp_path, end):
    random = "".join("%d.jpg\n" % (number * 7919 % 100003) for number in range(20000))
    path = write_bytes(tmp_path / "t.tsv.gz", gzip.compress(b"file\n" + random.encode())[:end])
    with pytest.raises(UsageError, match="t.tsv.gz"):
        list(table_reader.read_rows(path))


def test_a_line_without_end_takes_no_memory(tmp_path):
    path = write_bytes(tmp_path / "t.tsv.gz", gzip.compress(b"file\n" + b"x" * 30000000))
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match="t.tsv.gz, line 2: .*1048576"):
            list(table_reader.read_rows(path))
        assert tracemalloc.get_traced_memory()[1] < 10000000
    finally:
        tracemalloc.stop()


def test_a_table_whose_disk_fails_is_storage_that_is_lost(tmp_path, monkeypatch):
    class Failing(io.RawIOBase):
        pieces = [b"file\n" + b"a.jpg\n" * 3000]

        def readable(self):
            return True

        def readinto(self, buffer):
            if not self.pieces:
                raise OSError(errno.EIO, "Input/output error")
            piece, rest = self.pieces[0][: len(buffer)], self.pieces[0][len(buffer) :]
            self.pieces[:] = [rest] if rest else []
            buffer[: len(piece)] = piece
            return len(piece)

    monkeypatch.setattr(table_reader, "open", lambda *_: io.BufferedReader(Failing()), raising=False)
    rows = table_reader.read_rows("t.tsv")
    assert next(rows).file == "a.jpg"
    with pytest.raises(StorageLost, match="t.tsv: .*Input/output error"):
        list(rows)


def test_a_table_is_read_from_a_pipe_too(tmp_path):
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    writer = threading.Thread(target=write_bytes, args=(path, b"file,label\na.jpg,ham\n"))
    writer.start()
    assert [row.file for row in table_reader.read_rows(path, need_label=True)] == ["a.jpg"]
    writer.join()


# --- writing

COLUMNS = ["file", "label", "confidence", "error"]
CELLS = NASTY_NAMES + ["", "plain", '"', '""', "\r", "\n", "\r\n", "\t", ",", "a\\", "'", "#comment", "NA", "1e5"]


def written(rows, suffix):
    file = io.StringIO(newline="")
    write = FORMATS[suffix].row_writer(file, COLUMNS)
    for row in rows:
        write(row)
    return file.getvalue()


@pytest.mark.parametrize("suffix, dialect", [(".tsv", "excel-tab"), (".csv", "excel")])
def test_what_is_written_reads_back_with_python_s_csv_module(suffix, dialect):
    rows = [[cell, "label", "0.5", cell] for cell in CELLS]
    assert list(csv.reader(io.StringIO(written(rows, suffix), newline=""), dialect)) == [COLUMNS] + rows


@pytest.mark.parametrize("suffix, separator", [(".tsv", "\t"), (".csv", ",")])
def test_what_is_written_reads_back_with_pandas(suffix, separator):
    pandas = pytest.importorskip("pandas")
    rows = [[cell, "label", "0.5", cell] for cell in CELLS if cell == cell.encode("utf-8", "replace").decode()]
    assert len(rows) > 20
    table = pandas.read_csv(io.BytesIO(written(rows, suffix).encode()), sep=separator, dtype=str, keep_default_na=False)
    assert [list(row) for row in table.itertuples(index=False)] == rows


def test_a_written_name_reads_back_as_a_table_s_own(tmp_path):
    path = write_bytes(
        tmp_path / "out.tsv",
        written([[name] + [""] * 3 for name in NASTY_NAMES], ".tsv").encode("utf-8", "surrogateescape"),
    )
    assert [row.file for row in table_reader.read_rows(path)] == NASTY_NAMES


def test_plain_values_are_written_without_quotes():
    assert written([["a b.jpg", "ham", 0.5, ""]], ".tsv") == "file\tlabel\tconfidence\terror\na b.jpg\tham\t0.5\t\n"


def test_json_lines_keep_names_and_types():
    rows = [[name, "ham", 0.5, ""] for name in NASTY_NAMES]
    lines = written(rows, ".jsonl").splitlines()
    found = [json.loads(line) for line in lines]
    raw = [row.pop("file_bytes", None) for row in found]
    names = [base64.b64decode(data) if data else row["file"].encode() for row, data in zip(found, raw)]
    assert names == [os.fsencode(name) for name in NASTY_NAMES]
    assert [[row[column] for column in COLUMNS[1:]] for row in found] == [row[1:] for row in rows]


def test_an_open_quote_costs_only_its_own_row(rows_of):
    rows = rows_of(b'file\tlabel\na 5".jpg\tham\n"b.jpg\tegg\nc.jpg\tham\n\nd.jpg\tegg\n')
    found = [(row.line, row.file, row.label) for row in rows]
    assert found == [(2, 'a 5".jpg', "ham"), (3, '"b.jpg', "egg"), (4, "c.jpg", "ham"), (6, "d.jpg", "egg")]


def test_a_name_with_a_line_break_is_one_row_also_at_the_end(rows_of):
    rows = rows_of(b'file\tlabel\n"a\nb.jpg"\tham\n"c\nd.jpg"\tegg')
    assert [(row.file, row.label) for row in rows] == [("a\nb.jpg", "ham"), ("c\nd.jpg", "egg")]


def test_a_column_that_is_there_twice_is_refused(rows_of):
    with pytest.raises(UsageError, match="2 columns"):
        rows_of(b"file\tlabel\tlabel\na.jpg\tham\tegg\n", need_label=True)
