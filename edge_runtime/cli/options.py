"""Values of options, checked: numbers within bounds."""

import argparse


def positive(text):
    """argparse type: a whole number from 1."""
    return parsed(int, text, lambda value: value >= 1, "1 or more")


def amount(text):
    """argparse type: a number above 0."""
    return parsed(float, text, lambda value: 0 < value < float("inf"), "more than 0")


def share(text):
    """argparse type: a number from 0 to 1."""
    return parsed(float, text, lambda value: 0 <= value <= 1, "0 to 1")


def parsed(kind, text, fits, expected):
    """For argparse types: returns a text as an int or float. Raises ArgumentTypeError where it is none that fits."""
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not fits(value):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text}")
    return value
