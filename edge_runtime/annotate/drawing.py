"""Draws a label and its confidence on a picture."""

import functools
import os
import subprocess

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edge_runtime.photos.resize import scale_picture

MAX_SIDE = 1280  # pixels of the longer side: on a screen, a photo of 12 megapixels looks no better
_MIN_SIDE = 320  # below it, a label would not be legible
_DEJAVU = "DejaVuSans.ttf"
_DEJAVU_LAST_LETTER = 0x24F  # DejaVu has all letters up to here (Latin)
_BAND, _BAR, _BEHIND_BAR, _TEXT, _BORDER = (24, 24, 24), (94, 201, 98), (80, 80, 80), (255, 255, 255), (128, 128, 128)


def draw_label(rgb, label, confidence):
    """Draws a label, and a bar as long as its confidence, below a picture, so that nothing of the picture is hidden.

    Args:
        rgb: uint8 [height, width, 3]; not changed.
        label: text in any script.
        confidence: 0..1.

    Returns:
        uint8 [height, width, 3]: the picture, scaled so that its longer side has 320 to 1280 pixels (a narrow one gets
        grey borders), and the band below it.
    """
    picture = _fit(rgb)
    height, width = picture.shape[:2]
    label = " ".join("".join(letter if letter.isprintable() else " " for letter in label).split())
    number = f"{100 * confidence:.1f} %"
    size = max(14, min(height // 16, 40))
    margin = size // 2
    band = Image.new("RGB", (width, size * 5 // 2 + margin), _BAND)  # opaque: legible on anything
    draw = ImageDraw.Draw(band)
    font, number_font = _font(size, label), _font(size, number)
    number_left = width - margin - _length(number_font, number)
    draw.text((margin, margin // 2), _shorten(font, label, number_left - 2 * margin), font=font, fill=_TEXT)
    draw.text((number_left, margin // 2), number, font=number_font, fill=_TEXT)
    left, top, right, bottom = margin, size * 2, width - margin, size * 5 // 2
    draw.rectangle((left, top, right, bottom), fill=_BEHIND_BAR)
    bar = int(round((right - left) * min(1.0, max(0.0, confidence))))
    if bar:
        draw.rectangle((left, top, left + bar, bottom), fill=_BAR)
    return np.vstack([picture, np.asarray(band)])


def _fit(rgb):
    """Returns a picture scaled for a screen: its longer side has 320 to 1280 pixels."""
    height, width = rgb.shape[:2]
    longer = max(height, width)
    rgb = scale_picture(rgb, min(max(longer, _MIN_SIDE), MAX_SIDE) / longer)
    return pad_picture(rgb, max(rgb.shape[0], _MIN_SIDE // 2), max(rgb.shape[1], _MIN_SIDE // 2))


def pad_picture(rgb, height, width):
    """Returns a picture with grey borders, so that it has a height and width; neither may be less than its own."""
    down, right = height - rgb.shape[0], width - rgb.shape[1]
    if not down and not right:
        return rgb
    edges = (down // 2, down - down // 2, right // 2, right - right // 2)
    return cv2.copyMakeBorder(rgb, *edges, borderType=cv2.BORDER_CONSTANT, value=_BORDER)


def _font(size, text):
    """Returns a font for a text: DejaVu, the system's for its script, or Pillow's own."""
    letters = "".join(sorted(set(text)))
    latin = letters[-1:] <= chr(_DEJAVU_LAST_LETTER)
    for choose in (_dejavu, _system_font) if latin else (_system_font, _dejavu):
        font = _open_font(choose(letters), size)
        if font is not None:
            return font
    return _open_font(None, size)


@functools.lru_cache(maxsize=16)  # an open font takes a quarter of a megabyte, and there may be any number of labels
def _open_font(path, size):
    """Returns the font in a file, None where it cannot be opened; for None Pillow's own."""
    if path is None:
        return ImageFont.load_default()
    try:
        return ImageFont.truetype(path, size)
    except (OSError, ImportError):  # no such font; a Pillow without FreeType
        return None


def _dejavu(_):
    return _DEJAVU


@functools.lru_cache(maxsize=1000)
def _system_font(letters):
    """Asks fontconfig for the file of the font that has most of the letters; "" where there is none."""
    codes = " ".join(f"{ord(letter):x}" for letter in letters)
    command = ["fc-match", "--format=%{file}", f"sans:charset={codes}"]
    try:
        return os.fsdecode(subprocess.check_output(command, stderr=subprocess.DEVNULL, timeout=10))
    except (OSError, subprocess.SubprocessError):
        return ""


def _length(font, text):
    """Returns the length of a text in pixels."""
    return int(font.getlength(text) if hasattr(font, "getlength") else font.getsize(text)[0])  # Pillow before 8


def _shorten(font, text, max_length):
    """Returns a text cut so that it is no longer than max_length pixels."""
    # Pillow's own old font has only the letters of Western Europe, and fails on others.
    if isinstance(font, ImageFont.ImageFont):
        text = text.encode("latin-1", "replace").decode("latin-1")
    if _length(font, text) <= max_length:
        return text
    while text and _length(font, text + "...") > max_length:
        text = text[:-1]
    return text + "..."
