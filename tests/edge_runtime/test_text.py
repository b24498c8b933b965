"""Text of others, as a terminal can show it and as JSON can hold it."""

import base64
import json
import os

import pytest

from edge_runtime import text
from tests.helpers import NASTY_NAMES

ODD = os.fsdecode(b"latin\xfc.jpg")


@pytest.mark.parametrize(
    "name, shown",
    [
        ("plain name.jpg", "plain name.jpg"),
        ("\u00fcml\u00e4ut \u8349\u8393.jpg", "\u00fcml\u00e4ut \u8349\u8393.jpg"),
        ("\x1b[2J\x1b]0;title\x07.jpg", "\\x1b[2J\\x1b]0;title\\x07.jpg"),
        ("c1 \x9b31m", "c1 \\x9b31m"),
        ("new\nline\r\ttab", "new\\nline\\r\\ttab"),
        ("gpj\u202e.exe", "gpj\\u202e.exe"),
        ("\u200bnothing", "\\u200bnothing"),
        (ODD, "latin\\xfc.jpg"),
    ],
)
def test_a_name_is_shown_on_one_line_without_what_a_terminal_obeys(name, shown):
    assert text.printable(name) == shown and shown.isprintable()


def test_a_message_keeps_its_lines():
    assert text.printable("one\ntwo\x1b", keep="\n") == "one\ntwo\\x1b"


def accepted(value):
    """What a strict reader makes of it."""
    data = json.dumps(text.plain_json(value), allow_nan=False)
    json.dumps(json.loads(data), ensure_ascii=False).encode()  # fails for half a character, as strict readers do
    return json.loads(data)


@pytest.mark.parametrize("name", NASTY_NAMES)
def test_every_name_can_be_read_and_found_again(name):
    found = accepted({"file": name, "label": "ham"})
    raw = base64.b64decode(found["file_bytes"]) if "file_bytes" in found else found["file"].encode()
    assert raw == os.fsencode(name)
    assert found["label"] == "ham" and "label_bytes" not in found


def test_only_names_that_are_not_utf_8_have_bytes_wherever_they_are():
    found = accepted({"photos": [{"file": ODD}, {"file": "a.jpg"}], "listed": [ODD], ODD: (1, ODD)})
    assert found == {
        "photos": [{"file": "latin\\xfc.jpg", "file_bytes": "bGF0aW78LmpwZw=="}, {"file": "a.jpg"}],
        "listed": ["latin\\xfc.jpg"],
        "latin\\xfc.jpg": [1, "latin\\xfc.jpg"],
    }


def test_a_lone_surrogate_of_another_kind_is_shown_too():
    assert accepted({"label": "\ud800"})["label"] == "\\ud800"


def test_numbers_that_json_does_not_have_are_null():
    assert accepted({"a": float("nan"), "b": [float("inf"), -float("inf"), 0.5, 1, True, None]}) == {
        "a": None,
        "b": [None, None, 0.5, 1, True, None],
    }
