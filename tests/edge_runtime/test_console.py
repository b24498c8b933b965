"""What is printed for people."""

from edge_runtime.console import format_table

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
