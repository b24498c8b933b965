"""What people and programs read: messages on standard error, one JSON document on standard output, progress bars."""

import json
import os
import shlex
import sys

from edge_runtime.secrets import hide_secrets
from edge_runtime.text import plain_json, printable


def say(text):
    """Human text goes to stderr, so that stdout holds results only."""
    print(message(text), file=sys.stderr, flush=True)


def message(text):
    """Returns lines for people as a terminal can show them, whatever the names and addresses in them hold."""
    return printable(hide_secrets(text), kept="\n\t")


def print_json(value):
    """Prints the one JSON document of a --json run."""
    json.dump(plain_json(value), sys.stdout, indent=2, sort_keys=True)
    sys.stdout.write("\n")


def shell_line(words):
    """Returns a command that can be pasted into a shell, and shown on a terminal whatever its words hold."""
    return " ".join(shlex.quote(word) if word.isprintable() else _shell_escaped(word) for word in words)


def progress(iterable=None, total=None, what="", unit=" photos", shown=True):
    """A progress bar with rate and ETA on stderr; plain lines every 10 s where stderr is no terminal."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    return tqdm(
        iterable,
        total=total,
        desc=printable(what),
        unit=unit,
        file=sys.stderr,
        disable=not shown,
        ascii=True,
        dynamic_ncols=terminal,
        mininterval=0.2 if terminal else 10,
    )


def _shell_escaped(word):
    letters = (chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(letters)}'"
