"""Messages and progress bars on standard error; tables and one JSON document on standard output."""

import json
import os
import shlex
import sys

from edge_runtime.secrets import hide_secrets
from edge_runtime.text import plain_json, printable


def say(text):
    """Prints a message for people to stderr, so that stdout has results only."""
    print(message(text), file=sys.stderr, flush=True)


def message(text):
    """Returns text for people as any terminal can show it, without the passwords in addresses."""
    return printable(hide_secrets(text), keep="\n\t")


def print_json(value):
    """Prints the one JSON document of a --json run."""
    json.dump(plain_json(value), sys.stdout, indent=2, sort_keys=True)
    sys.stdout.write("\n")


def format_table(header, rows, markdown=False):
    """Returns a table as lines of text: the first column aligned left, all others (figures) right.

    Args:
        header: list of text, one per column.
        rows: list of rows, each a list of text, one per column.
        markdown: with the bars and the second line of a Markdown table.

    Example:
        >>> print(format_table(["class", "photos"], [["cola", "12"], ["water", "9"]]))
        class  photos
        cola       12
        water       9
    """
    lines = [[printable(cell) for cell in row] for row in [header] + list(rows)]
    if markdown:
        lines.insert(1, ["---"] + ["--:"] * (len(header) - 1))
    widths = [max(map(len, column)) for column in zip(*lines)]
    left, between, right = ("| ", " | ", " |") if markdown else ("", "  ", "")
    aligned = ([line[0].ljust(widths[0])] + [*map(str.rjust, line[1:], widths[1:])] for line in lines)
    return "\n".join(left + between.join(cells) + right for cells in aligned)


def shell_line(words):
    """Returns a command that can be pasted into a shell and printed to a terminal, whatever characters it has."""
    return " ".join(shlex.quote(word) if word.isprintable() else _shell_escaped(word) for word in words)


def progress(iterable=None, total=None, what="", unit=" photos", note=lambda: "", leave=True, **options):
    """Returns a tqdm progress bar on stderr, with rate and time left; where that is no terminal, a line every 10 s.

    The rate is that of the last 10 s, about.

    Args:
        iterable: what to count while it is iterated; None where the caller calls update.
        total: how many there are, where iterable has no length; the bar's attribute may be set later, from any thread.
        what: its name, in front.
        unit: of the count.
        note: function that returns a text to add, "" for none; called for each line.
        leave: its last state stays; in a log it begins with a line and ends with one.
        options: of tqdm, such as initial and disable.
    """
    from tqdm import tqdm  # late: importing it takes a while

    class Bar(tqdm):
        monitor_interval = 0  # with miniters=1 there is nothing to monitor: no thread

        def __str__(self):
            facts = dict(self.format_dict, postfix=note())
            return self.format_meter(**facts)[: facts["ncols"] or None]  # tqdm shortens only a line with a total

    terminal = sys.stderr.isatty()
    every_s = 0.2 if terminal else 10
    return Bar(
        iterable,
        total=total,
        desc=printable(what),
        unit=unit,
        file=sys.stderr if terminal else _Log(sys.stderr),
        ascii=True,
        # A serial console does not know its size, and tqdm would take it for one without rows.
        dynamic_ncols=terminal and os.get_terminal_size(sys.stderr.fileno()).columns > 0,
        ncols=79 if terminal else None,
        nrows=24,
        mininterval=every_s,
        leave=leave,
        delay=0 if terminal or leave else every_s,
        miniters=1,
        smoothing=0.04 if terminal else 1,  # the weight of the newest interval in the rate
        **options,
    )


class _Log:
    """A file that gets tqdm's lines whole, one below the other."""

    def __init__(self, file):
        self._file = file
        self.flush = file.flush

    def write(self, text):
        if text.strip():
            self._file.write(text.strip() + "\n")


def _shell_escaped(word):
    letters = (chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(letters)}'"
