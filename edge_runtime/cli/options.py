"""Types for argparse: numbers within bounds."""

import argparse


def positive(text):
    """argparse type: a whole number of 1 or more."""
    return parsed(int, text, lambda value: value >= 1, "1 or more")


def amount(text):
    """argparse type: a number above 0."""
    return parsed(float, text, lambda value: 0 < value < float("inf"), "more than 0")


def share(text):
    """argparse type: a number from 0 to 1."""
    return parsed(float, text, lambda value: 0 <= value <= 1, "0 to 1")


def parsed(kind, text, fits, expected):
    """Parses the value of an option, for argparse types.

    Args:
        kind: int or float.
        text: what the user typed.
        fits: function that says whether a value is allowed.
        expected: the allowed values in words, for the message.

    Returns:
        the value, of type kind.

    Raises:
        argparse.ArgumentTypeError: the text is no number, or the number is not allowed.
    """
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not fits(value):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text}")
    return value
