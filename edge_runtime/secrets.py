"""Passwords and keys in the addresses of cameras and streams: they are shown nowhere."""

import contextlib
import functools
import json
import re
import shlex
import sys
import typing

_ADDRESS = re.compile(r"(?i)\b[a-z][a-z0-9+.-]*://[^\s'\"<>]*")
# "token=...", also "user_password=..." and "X-Amz-Signature=..."; up to the next & a value may hold anything.
_NAMED = re.compile(
    r"(?i)([\w.-]*(?:pass\w*|pas|pwd?|psw|pin|token|key|auth\w*|jwt|bearer|sig|signature|secret|credentials?|sid|session\w*|"
    r"streamid)(?:\[\])?=)[^&]*"
)
_PORT = re.compile(r":\d*(?:[/?#]|$)")
_remembered: typing.Dict[str, str] = {}  # an address as it was given -> as it may be shown


def is_address(text):
    """Whether a text is an address, such as rtsp://camera/live."""
    return bool(re.match(r"(?i)[a-z][a-z0-9+.-]*://", text))


def shown_address(address):
    """Returns an address without its password, and without the values of token=, key=, password= and the like.

    A password may hold # / ? @ : and % as they are, though an address has to have them written as %23 and so on: from
    the first colon on, all up to the last @ is taken for the password.
    """
    scheme, _, rest = address.partition("://")
    before, at, _ = rest.rpartition("@")
    user, colon, _ = (before if at else rest).partition(":")
    if not rest.startswith("[") and colon:  # not an IPv6 address
        if at:
            rest = user + ":***@" + rest[len(before) + 1 :]
        elif not re.search("[/?#]", user) and not _PORT.match(rest[len(user) :]):
            rest = user + ":***"  # a user and a password without a camera, or a wrong port
    return scheme + "://" + _NAMED.sub(r"\1***", rest)


def remember(texts):
    """Sees to it that hide_secrets knows these addresses among texts, which it might not find in a message: a password
    may hold spaces and quotes."""
    options = [text.partition("=")[2] for text in texts if text.startswith("-")]
    for text in filter(is_address, list(texts) + options):
        shown = shown_address(text)
        if shown != text:
            for form in (str, repr, shlex.quote, json.dumps):
                _remembered.setdefault(form(text), form(shown))


def hide_secrets(text):
    """Returns a text (a message, a traceback) with every address in it as shown_address shows it."""
    if "://" not in text:
        return text
    for address, shown in _remembered.items():
        text = text.replace(address, shown)
    return _ADDRESS.sub(_shown_in_a_sentence, text)


def _shown_in_a_sentence(found):
    address = found.group().rstrip(":;,.)!")
    return shown_address(address) + found.group()[len(address) :]


def hides_secrets(run_verb):
    """Decorates a function of (verb, arguments): whatever is written to sys.stderr meanwhile (by argparse, a library,
    a traceback) goes through hide_secrets.

    Python's own stream is left to edge_runtime.cli.run, whose stream in its place does the same.
    """

    @functools.wraps(run_verb)
    def hiding(verb, arguments):
        remember(arguments)
        if sys.stderr is None or sys.stderr is sys.__stderr__:
            return run_verb(verb, arguments)
        with contextlib.redirect_stderr(_Hiding(sys.stderr)):
            return run_verb(verb, arguments)

    return hiding


class _Hiding:
    """A text stream in front of another."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        return self._stream.write(hide_secrets(text))

    def __getattr__(self, name):
        return getattr(self._stream, name)
