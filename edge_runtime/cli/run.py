"""What all verbs of the command line share: exit codes, messages, one JSON document on stdout."""

import contextlib
import io
import logging
import os
import sys
import tempfile
import traceback
import warnings

import cv2

from edge_runtime.console import say
from edge_runtime.errors import OutOfMemory, PicnicError, UsageError, is_out_of_memory
from edge_runtime.secrets import hide_secrets, hides_secrets
from edge_runtime.text import printable

INTERRUPTED = 130

PIPE_CLOSED = 141  # as a shell shows a program that SIGPIPE ended


@hides_secrets
def run_verb(verb, arguments):
    """Runs a verb (a function of its arguments) as a command.

    Returns:
        the exit code: 0, an error's own, 130 for Ctrl-C, 141 for a reader that went away, 1 with a traceback for a bug.
    """
    _open_standard_streams()
    for place in (cv2, getattr(getattr(cv2, "utils", None), "logging", None)):  # the latter from OpenCV 5
        getattr(place, "setLogLevel", lambda _: None)(0)  # a broken photo is named in its own row
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    # What Pillow finds odd in a photo (its size, its EXIF) matters only where edge_runtime/photos/header.py makes it an
    # error.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        _find_home()
        try:
            verb(arguments)
        except SystemExit:  # argparse, after --help
            sys.stdout.flush()
            raise
        sys.stdout.flush()
        return 0
    except PicnicError as error:
        say(f"picnic-edge: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("picnic-edge: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        return PIPE_CLOSED
    except Exception as error:
        if is_out_of_memory(error):
            why = str(error) or type(error).__name__
            say(f"picnic-edge: not enough memory ({why}); stop other programs, or add swap")
            return OutOfMemory.exit_code
        traceback.print_exc()
        say("picnic-edge: this is a bug; please report the lines above")
        return 1
    finally:
        with contextlib.suppress(PicnicError, BrokenPipeError):  # told before, or less than what ended the command
            sys.stdout.flush()


class _Messages(io.TextIOWrapper):
    """Standard error: nothing that a terminal would obey gets through, whichever code or library writes it.

    Where nobody can read a message any more, the work goes on without.
    """

    kept = "\n\t\r"  # progress bars begin their line again

    def write(self, text):
        """Writes text. Returns its length."""
        try:
            super().write(self._shown(text))
        except OSError as error:
            self._failed(error)
        return len(text)

    def flush(self):
        """Hands over what was written."""
        try:
            super().flush()
        except OSError as error:
            self._failed(error)

    def _shown(self, text):
        return printable(hide_secrets(text), self.kept)

    def _failed(self, error):
        pass


class _Output(_Messages):
    """Standard output. What cannot be written is a UsageError; a pipe or a file gets what is written as it is."""

    kept = "\n\t"

    def _shown(self, text):
        return printable(text, self.kept) if self.isatty() else text

    def _failed(self, error):
        # What could not be written would be tried again, and complained of, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
        if isinstance(error, BrokenPipeError):
            raise error
        raise UsageError(f"standard output: cannot be written ({error.strerror})")


def _open_standard_streams():
    """Puts our streams in the place of Python's. What another program put there (a test, a notebook) stays."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Closed, so that the next file would get its number, and with it what is meant for the stream. Nothing can
            # be read from standard input or written to standard output, just as if they were closed.
            opened = os.open(os.devnull, os.O_RDONLY if descriptor == 1 else os.O_WRONLY)
            os.set_inheritable(opened, True)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _replaced(_Output, sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _replaced(_Messages, sys.stderr, 2)
    # From Python 3.14 argparse sends escape sequences of its own.
    os.environ.setdefault("NO_COLOR", "1")


def _replaced(kind, stream, descriptor):
    if stream is None:  # it was closed
        return kind(open(descriptor, "wb", closefd=False), encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    by_line = stream.line_buffering or kind is _Messages
    # A name that the terminal cannot show costs no result.
    return kind(stream.buffer, stream.encoding, "backslashreplace", line_buffering=by_line)


def _find_home():
    """Sees to it that ~ is a folder: else libraries, and we, would make one of that name wherever the command runs."""
    if not os.path.isabs(os.environ.get("XDG_CACHE_HOME", "")):
        os.environ.pop("XDG_CACHE_HOME", None)  # as its specification says
    if os.path.isabs(os.environ.get("HOME", "")):
        return
    os.environ.pop("HOME", None)  # set to nothing, or to a literal ~
    home = os.path.expanduser("~")  # from the list of users
    if not os.path.isabs(home):
        home = os.path.join(tempfile.gettempdir(), f"picnic-edge-{os.getuid()}")
        try:
            os.makedirs(home, 0o700, exist_ok=True)
            if os.lstat(home).st_uid != os.getuid():
                raise OSError("it is another user's")
        except OSError:
            home = tempfile.mkdtemp(prefix="picnic-edge-")
        say(f"HOME is not set, and this user has no home folder: caches are kept in {home}")
    os.environ["HOME"] = home
