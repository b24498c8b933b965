"""Runs a verb as a command: standard streams, exit codes, error messages."""

import contextlib
import importlib
import io
import logging
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings

from edge_runtime.console import say
from edge_runtime.errors import OutOfMemory, PicnicError, UsageError, is_out_of_memory
from edge_runtime.machine import libraries
from edge_runtime.secrets import hide_secrets, hides_secrets
from edge_runtime.text import printable

INTERRUPTED = 130
PIPE_CLOSED = 141  # a shell's code for a program that SIGPIPE ended


def run_module(name, arguments):
    """Imports a verb's module, such as "convert.cli", and runs it as a command. Returns the exit code, as run_verb."""

    def verb(arguments):
        libraries.require_everywhere()
        importlib.import_module(name).main(arguments)

    return run_verb(verb, arguments)


@hides_secrets
def run_verb(verb, arguments):
    """Runs a verb as a command.

    Args:
        verb: function of the list of arguments.
        arguments: list of str.

    Returns:
        the exit code: 0; a PicnicError's own; 4 when memory ran out; 130 after Ctrl-C or SIGTERM; 141 when the reader
        of the output went away; 1 (with a traceback) for a bug.

    Raises:
        SystemExit: by argparse, with code 2 for wrong arguments and 0 after --help.
    """
    _open_standard_streams()
    _silence_opencv()
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    # Pillow's warnings about a photo (its size, its EXIF) are not shown: edge_runtime/photos/header.py makes errors of
    # those that matter.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        _set_home()
        try:
            with _sigterm_as_ctrl_c():
                verb(arguments)
        except SystemExit:  # argparse: after --help, or for wrong arguments
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
        # Reported before, or less important than what ended the command.
        with contextlib.suppress(PicnicError, BrokenPipeError):
            sys.stdout.flush()


@contextlib.contextmanager
def _sigterm_as_ctrl_c():
    """In the block SIGTERM, which stops services and containers, does what Ctrl-C does: no half-written file stays."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _silence_opencv():
    """OpenCV stays silent: a broken photo is named in its own row."""
    try:
        import cv2
    except (ImportError, OSError):  # doctor says so; the other verbs refuse to run
        return
    for module in (cv2, getattr(getattr(cv2, "utils", None), "logging", None)):  # the latter from OpenCV 5
        getattr(module, "setLogLevel", lambda _: None)(0)


class _Messages(io.TextIOWrapper):
    """Standard error. Control characters are escaped, whichever code or library writes them.

    If nothing can be written there any more, the command continues without messages.
    """

    kept = "\n\t\r"  # a progress bar returns to the start of its line

    def write(self, text):
        """Writes text. Returns its length."""
        try:
            super().write(self._escape(text))
        except OSError as error:
            self._handle(error)
        return len(text)

    def flush(self):
        """Writes out the buffer."""
        try:
            super().flush()
        except OSError as error:
            self._handle(error)

    def _escape(self, text):
        return printable(hide_secrets(text), self.kept)

    def _handle(self, error):
        pass


class _Output(_Messages):
    """Standard output. A failing write is a UsageError. Only a terminal gets control characters escaped."""

    kept = "\n\t"

    def _escape(self, text):
        return printable(text, self.kept) if self.isatty() else text

    def _handle(self, error):
        # Else Python would try to write the rest at its end, and print an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
        if isinstance(error, BrokenPipeError):
            raise error
        raise UsageError(f"standard output: cannot be written ({error.strerror})")


def _open_standard_streams():
    """Replaces Python's streams with ours. Streams that another program (a test, a notebook) has set stay."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The stream is closed: the next file to be opened would get its number, and the text meant for the stream.
            # /dev/null takes the number, opened so that reading standard input and writing standard output still fail.
            opened = os.open(os.devnull, os.O_RDONLY if descriptor == 1 else os.O_WRONLY)
            os.set_inheritable(opened, True)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _reopen(_Output, sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _reopen(_Messages, sys.stderr, 2)
    # Without it argparse prints colours from Python 3.14 on.
    os.environ.setdefault("NO_COLOR", "1")


def _reopen(kind, stream, descriptor):
    if stream is None:  # it was closed
        return kind(open(descriptor, "wb", closefd=False), encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    by_line = stream.line_buffering or kind is _Messages
    # A name that the terminal cannot show costs no result.
    return kind(stream.buffer, stream.encoding, "backslashreplace", line_buffering=by_line)


def _set_home():
    """Sets HOME if it is no absolute path; else libraries would create a folder named ~ where the command runs."""
    if not os.path.isabs(os.environ.get("XDG_CACHE_HOME", "")):
        os.environ.pop("XDG_CACHE_HOME", None)  # so says its specification
    if os.path.isabs(os.environ.get("HOME", "")):
        return
    os.environ.pop("HOME", None)  # it is empty, or a literal ~
    home = os.path.expanduser("~")  # from /etc/passwd
    if not os.path.isabs(home):
        home = os.path.join(tempfile.gettempdir(), f"picnic-edge-{os.getuid()}")
        try:
            os.makedirs(home, 0o700, exist_ok=True)
            if os.lstat(home).st_uid != os.getuid():
                raise OSError("it belongs to another user")
        except OSError:
            home = tempfile.mkdtemp(prefix="picnic-edge-")
        say(f"HOME is not set, and this user has no home folder: caches go to {home}")
    os.environ["HOME"] = home
