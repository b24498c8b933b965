"""Signatures of a bundle's manifest.json and of its engines' engine.json, by a secret key: HMAC-SHA256.

Where the environment variable PICNIC_EDGE_KEY_FILE names a file with a key, documents are signed when they are written,
and must be signed when they are read. The signature is over the document without the field "signature", as JSON with
sorted keys and no spaces; the documents hold the sums of all other files. This signs an older bundle:

    PICNIC_EDGE_KEY_FILE=key python -m edge_runtime.cli.sign_bundle BUNDLE
"""

import functools
import hashlib
import hmac
import json
import logging
import os
import stat

from edge_runtime.errors import BundleError, UsageError

KEY_FILE = "PICNIC_EDGE_KEY_FILE"
FIELD = "signature"
ALGORITHM = "HMAC-SHA256"
_MIN_BYTES, _MAX_BYTES = 32, 1 << 16  # of a key

log = logging.getLogger("picnic_edge")


def key():
    """Returns the key in the file that PICNIC_EDGE_KEY_FILE names, None where it is unset. Raises UsageError."""
    path = os.environ.get(KEY_FILE)
    if path == "":
        raise UsageError(f"{KEY_FILE} is set, but empty: expected the name of a file with a key; or unset it")
    return None if path is None else _read_key(path)


@functools.lru_cache(maxsize=1)
def _read_key(path):
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would block
            raise UsageError(f"{KEY_FILE}={path}: expected a regular file with a key")
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            secret = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{KEY_FILE}={path}: cannot be read ({error.strerror})")
    if not _MIN_BYTES <= len(secret) <= _MAX_BYTES:
        raise UsageError(
            f"{KEY_FILE}={path}: expected a key of {_MIN_BYTES} to {_MAX_BYTES} bytes, got "
            f"{'more' if len(secret) > _MAX_BYTES else len(secret)}; "
            f"`head -c {_MIN_BYTES} /dev/urandom > FILE` makes one"
        )
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("%s=%s: other users can read the key; chmod 600 makes it yours alone", KEY_FILE, path)
    return secret


def signed(document):
    """Returns a copy of a dict for JSON with a signature where there is a key, without one elsewhere."""
    document = {name: value for name, value in document.items() if name != FIELD}
    secret = key()
    if secret:
        document[FIELD] = {"algorithm": ALGORITHM, "value": _signature(document, secret)}
    return document


def require_signature(path, document):
    """Checks the signature of a dict that was read, where there is a key.

    Args:
        path: for the message.

    Raises:
        BundleError: it has none, or not one by this key.
    """
    secret = key()
    if not secret:
        return
    field = document.get(FIELD)
    value = field.get("value") if isinstance(field, dict) and field.get("algorithm") == ALGORITHM else None
    try:
        expected = _signature(document, secret)
    except RecursionError:
        raise BundleError(f"{path}: its JSON is nested too deeply")
    if not isinstance(value, str) or not hmac.compare_digest(value.encode("utf-8", "replace"), expected.encode()):
        raise BundleError(
            f"{path}: is not signed with this key ({KEY_FILE}={os.environ[KEY_FILE]}).\nWhere you trust who made it, "
            f"`python -m edge_runtime.cli.sign_bundle` signs a bundle; without {KEY_FILE} signatures are ignored"
        )


def _signature(document, secret):
    document = {name: value for name, value in document.items() if name != FIELD}
    document = json.loads(json.dumps(document))  # as the reader gets it: with text for keys, sorted as text
    content = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hmac.new(secret, content.encode(), hashlib.sha256).hexdigest()
