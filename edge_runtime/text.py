"""Makes foreign text (file names, labels, lines of tables), which may hold anything, safe for terminals and JSON."""

import base64
import math


def printable(text, keep=""):
    r"""Returns text that any terminal can show: one line, in reading order.

    Control characters (escape sequences, newlines), characters that change the direction of writing, and other
    invisible ones are written as \x1b or \u202e; a byte that is not UTF-8 as \xff.

    Args:
        text: any text, such as a file name.
        keep: characters that stay as they are, such as the newlines of a message.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in keep else _code(letter) for letter in text)


def utf8(text):
    r"""Returns text that can be written as UTF-8; bytes of a file name that are not UTF-8 are written as \xff."""
    return text if is_utf8(text) else "".join(_code(letter) if _is_odd(letter) else letter for letter in text)


def is_utf8(text):
    """Tells whether text can be written as UTF-8. Names of files may hold any bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain_json(value):
    r"""Returns a JSON value that every reader accepts.

    In text that is not UTF-8 the odd bytes are written as \xff; in an object, KEY_bytes beside its KEY has the text's
    own bytes in base64. NaN and infinities become null.
    """
    if isinstance(value, str):
        return utf8(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [plain_json(one) for one in value]
    if not isinstance(value, dict):
        return value
    plain = {}
    for key, one in value.items():
        key = utf8(key) if isinstance(key, str) else key
        plain[key] = plain_json(one)
        if isinstance(one, str) and not is_utf8(one):
            plain[f"{key}_bytes"] = base64.b64encode(_bytes_of(one)).decode("ascii")
    return plain


def _bytes_of(text):
    return b"".join(
        bytes([ord(letter) - 0xDC00]) if "\udc80" <= letter <= "\udcff" else letter.encode("utf-8", "surrogatepass")
        for letter in text
    )


def _is_odd(letter):
    return "\ud800" <= letter <= "\udfff"


def _code(letter):
    if "\udc80" <= letter <= "\udcff":  # how Python holds a byte that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode("ascii")
