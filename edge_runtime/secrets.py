"""Hides passwords and keys in the addresses of cameras and streams, in everything that is printed."""

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
_remembered: typing.Dict[str, str] = {}  # an address from the command line -> without its secrets


def is_address(text):
    """Tells whether a text is an address, such as rtsp://camera/live."""
    return bool(re.match(r"(?i)[a-z][a-z0-9+.-]*://", text))


def shown_address(address):
    """Returns an address without its password, and without the values of token=, key=, password= and the like.

    Everything between the first colon and the last @ counts as the password: it may hold # / ? @ : and % unescaped,
    though an address should have them as %23 and so on.
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
    """Makes hide_secrets hide the addresses among these texts also where their passwords hold spaces and quotes."""
    options = [text.partition("=")[2] for text in texts if text.startswith("-")]
    for text in filter(is_address, list(texts) + options):
        safe = shown_address(text)
        if safe != text:
            for form in (str, repr, shlex.quote, json.dumps):
                _remembered.setdefault(form(text), form(safe))


def hide_secrets(text):
    """Returns a text (a message, a traceback) with shown_address applied to every address in it."""
    if "://" not in text:
        return text
    for address, safe in _remembered.items():
        text = text.replace(address, safe)
    return _ADDRESS.sub(_shown_in_a_sentence, text)


def _shown_in_a_sentence(match):
    address = match.group().rstrip(":;,.)!")
    return shown_address(address) + match.group()[len(address) :]


def hides_secrets(run_verb):
    """Decorates a function of (verb, arguments): hide_secrets is applied to all that is written to sys.stderr meanwhile
    (by argparse, a library, a traceback).

    That is for a stream that another program put there. Python's own is replaced by edge_runtime.cli.run, which hides
    secrets too.
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
    """A text stream that hides secrets and writes to another one."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        return self._stream.write(hide_secrets(text))

    def __getattr__(self, name):
        return getattr(self._stream, name)
