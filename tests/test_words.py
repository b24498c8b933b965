"""Plain English: words of the project's own making stay out of names, messages, comments and docs."""

import ast
import io
import os
import re
import tokenize

import pytest

from tests.helpers import ROOT
from tests.test_docs import pages
from tests.test_layout import product_files

# phrase -> what to write instead
BANNED = {
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\b(gone|going|go|goes) on with\b": "resume, continue",
    r"\bforetold\b": "estimated",
    r"\b(is|are) left aside\b": "is ignored",
    r"\banew\b": "again",
    r"\bfor want of\b": "for lack of",
    r"\bwhat counts is\b": "say what is kept, and why",
    r"\bheld up\b": "blocked",
    r"\bthere is no memory for\b": "not enough memory for",
    r"\btold before\b": "reported before",
}
# Past participles say nothing as names of things: cleanup, frame, engine_info do.
BANNED_NAMES = {"found", "held", "told", "shown", "asked", "taken"}


def faults(text):
    """Returns the banned phrases in a text, with the better words."""
    return [
        f"{match.group(0)!r}: write {better}"
        for phrase, better in BANNED.items()
        for match in re.finditer(phrase, text, re.IGNORECASE)
    ]


def texts_of(name):
    """Yields (line, text) of the strings and comments of a Python file."""
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        source = file.read()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.OP and token.type != tokenize.NAME:
            yield token.start[0], " ".join(token.string.replace("#", " ").split())


@pytest.mark.parametrize("text", ["what mends it", "is not\ngone on with", "is left aside: x"])
def test_the_check_catches_what_it_should(text):
    assert len(faults(" ".join(text.split()))) == 1


def test_messages_and_comments_are_plain_english():
    wrong = []
    for name in product_files():
        wrong += [f"{name}:{line}: {fault}" for line, text in texts_of(name) for fault in faults(text)]
    assert wrong == []


@pytest.mark.parametrize("name", pages())
def test_docs_are_plain_english(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        text = re.sub(r"\[[^\]]*\]\([^)]*\)|`[^`]*`", " ", file.read())
    assert faults(" ".join(text.split())) == []


def test_names_say_what_they_stand_for():
    wrong = []
    for name in product_files():
        with open(os.path.join(ROOT, name), encoding="utf-8") as file:
            tree = ast.parse(file.read())
        fields = {
            id(node.target) for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)
        }  # keys of JSON documents
        for node in ast.walk(tree):
            is_name = isinstance(node, ast.arg) or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
            text = getattr(node, "arg", getattr(node, "id", ""))
            if is_name and text in BANNED_NAMES and id(node) not in fields:
                wrong.append(f"{name}:{node.lineno}: {text}")
    assert wrong == []
