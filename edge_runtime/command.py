"""What all verbs of the command line share: exit codes, messages, one JSON document on stdout."""

import json
import logging
import os
import sys
import traceback
import warnings

import cv2

from edge_runtime.errors import OutOfMemory, PicnicError, is_out_of_memory
from edge_runtime.secrets import hides_secrets

INTERRUPTED = 130
PIPE_CLOSED = 141  # as a shell shows a program that SIGPIPE ended


@hides_secrets
def run_verb(verb, arguments):
    """Runs a verb (a function of its arguments) as a command.

    Returns:
        the exit code: 0, an error's own, 130 for Ctrl-C, 141 for a reader that went away, 1 with a traceback for a bug.
    """
    for place in (cv2, getattr(getattr(cv2, "utils", None), "logging", None)):  # the latter from OpenCV 5
        getattr(place, "setLogLevel", lambda _: None)(0)  # a broken photo is named in its own row
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    # What Pillow finds odd in a photo (its size, its EXIF) matters only where edge_runtime/images.py makes it an error.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if hasattr(sys.stdout, "reconfigure"):  # from Python 3.7: a name that the terminal cannot show costs no result
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        verb(arguments)
        sys.stdout.flush()
        return 0
    except PicnicError as error:
        print("picnic-edge: %s" % error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("picnic-edge: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return PIPE_CLOSED
    except Exception as error:
        if is_out_of_memory(error):
            why = str(error) or type(error).__name__
            print("picnic-edge: not enough memory (%s); stop other programs, or add swap" % why, file=sys.stderr)
            return OutOfMemory.exit_code
        traceback.print_exc()
        print("picnic-edge: this is a bug; please report the lines above", file=sys.stderr)
        return 1


def say(text):
    """Human text goes to stderr, so that stdout holds results only."""
    print(text, file=sys.stderr, flush=True)


def print_json(value):
    """Prints the one JSON document of a --json run."""
    json.dump(value, sys.stdout, indent=2, sort_keys=True)
    sys.stdout.write("\n")


def progress(iterable=None, total=None, what="", unit=" photos", shown=True):
    """A progress bar with rate and ETA on stderr; plain lines every 10 s where stderr is no terminal."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    return tqdm(
        iterable,
        total=total,
        desc=what,
        unit=unit,
        file=sys.stderr,
        disable=not shown,
        ascii=True,
        dynamic_ncols=terminal,
        mininterval=0.2 if terminal else 10,
    )
