"""Draws labelled photos of shop products, so that training can be tried without any download.

Eight classes, chosen so that colour alone does not distinguish them: milk cartons and yoghurt cups share
white and one accent colour, tomato tins and red apples share red, orange juice and cereal share orange, and
pears appear again in the mixed fruit tray. Shape and print differ, as on a real shelf.

Every photo has its own random generator, seeded by (seed, split, class, number): the same seed gives the same
bytes on one machine, and test and training photos share no random numbers.

Colours are BGR in 0..255, as in OpenCV; lengths are pixels; angles are degrees. A product is drawn upright on a
`_SIDE` x `_SIDE` layer, a pair (ink, mask): `ink` uint8 of 3 channels, `mask` uint8 with 255 inside the product.
"""

from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import cv2
import numpy as np

from edge_runtime import files

_TEST_SHARE = 0.25  # share of each class that goes to test.tsv

_SIDE = 400  # side of a product layer
_BASE = 370  # the layer's row on which a product stands
_WHITE, _CREAM, _INK, _STEEL = (245, 246, 244), (205, 232, 244), (52, 44, 40), (196, 192, 186)
_RED, _GREEN, _YELLOW = (38, 36, 198), (58, 160, 118), (62, 206, 240)
_ORANGE, _BROWN = (28, 138, 244), (44, 70, 104)
_ACCENTS = ((176, 92, 30), (60, 60, 190), (84, 140, 50), (150, 60, 120))  # blue, red, green, purple

Layer = Tuple[np.ndarray, np.ndarray]


# ---- brushes: each draws on a layer


def _tint(colour, rng, spread=14):
    """`colour` moved at random by up to `spread` per channel."""
    return tuple(float(v) for v in np.clip(np.add(colour, rng.uniform(-spread, spread, 3)), 0, 255))


def _polygon(layer: Layer, points, colour) -> None:
    """A filled polygon, part of the product."""
    corners = [np.round(np.asarray(points)).astype(np.int32)]
    cv2.fillPoly(layer[0], corners, colour, cv2.LINE_AA)
    cv2.fillPoly(layer[1], corners, 255, cv2.LINE_AA)


def _oval(layer: Layer, centre, axes, colour, thickness=-1) -> None:
    """An ellipse (half axes in `axes`), filled unless `thickness` is positive, part of the product."""
    for picture, value in zip(layer, (colour, 255)):
        cv2.ellipse(picture, centre, axes, 0, 0, 360, value, thickness, cv2.LINE_AA)


def _text(layer: Layer, words: str, centre, width: int, colour) -> None:
    """`words` printed `width` pixels wide around `centre`; print never adds to the product's outline."""
    font, thickness = cv2.FONT_HERSHEY_DUPLEX, 3
    scale = width / cv2.getTextSize(words, font, 1.0, 1)[0][0]
    height = cv2.getTextSize(words, font, scale, thickness)[0][1]
    start = (int(centre[0] - width / 2), int(centre[1] + height / 2))
    cv2.putText(layer[0], words, start, font, scale, colour, thickness, cv2.LINE_AA)


def _round_light(layer: Layer, left: int, right: int) -> None:
    """Shades the whole layer as an upright cylinder between two columns, with one soft highlight."""
    u = (np.arange(_SIDE, dtype=np.float32) - left) / (right - left)
    light = 0.55 + 0.5 * np.sin(np.pi * np.clip(0.08 + 0.8 * u, 0, 1)) + 0.22 * np.exp(-(((u - 0.28) / 0.07) ** 2))
    layer[0][:] = np.clip(layer[0] * light[None, :, None], 0, 255).astype(np.uint8)


def _fruit(layer: Layer, points, colour, rng, blush=None, speckles=0) -> None:
    """A closed smooth outline painted as a round body lit from the upper left."""
    shape = np.zeros((_SIDE, _SIDE), np.uint8)
    cv2.fillPoly(shape, [np.round(points).astype(np.int32)], 255, cv2.LINE_AA)
    x, y, w, h = cv2.boundingRect(shape)
    window = (slice(y, y + h), slice(x, x + w))
    u, v = np.meshgrid(np.linspace(-1, 1, w, dtype=np.float32), np.linspace(-1, 1, h, dtype=np.float32))
    body = np.empty((h, w, 3), np.float32)
    body[:] = colour
    if blush is not None:
        share = np.clip(0.2 - 0.8 * (u * rng.uniform(-0.6, 0.6) + v * 0.5), 0, 0.6)[..., None]
        body = body * (1 - share) + np.asarray(blush, np.float32) * share
    for column, row in rng.uniform(0.12, 0.88, (speckles, 2)):
        cv2.circle(body, (int(column * w), int(row * h)), 1, tuple(0.72 * c for c in colour), -1)
    distance = (u + 0.3) ** 2 + (v + 0.35) ** 2
    body = body * (1.12 - 0.36 * distance)[..., None] + (110 * np.exp(-distance / 0.035))[..., None]
    alpha = (shape[window] / np.float32(255))[..., None]
    layer[0][window] = np.clip(layer[0][window] * (1 - alpha) + body * alpha, 0, 255).astype(np.uint8)
    np.maximum(layer[1], shape, out=layer[1])


def _stem(layer: Layer, x: int, y: int, lean: int, leaf: bool) -> None:
    """A stem rising from (x, y), with or without a leaf."""
    for picture, value in zip(layer, (_BROWN, 255)):
        cv2.line(picture, (x, y), (x + lean, y - 34), value, 7, cv2.LINE_AA)
    if leaf:
        for picture, value in zip(layer, ((60, 130, 70), 255)):
            cv2.ellipse(picture, (x + lean + 24, y - 30), (26, 10), -25, 0, 360, value, -1, cv2.LINE_AA)


def _apple(layer: Layer, x: float, y: float, r: float, rng) -> None:
    """A red apple of radius `r` around (x, y)."""
    t = np.linspace(0, 2 * np.pi, 72)
    radius = r * (
        1 - 0.17 * np.exp(-(((t - 1.5 * np.pi) / 0.36) ** 2)) - 0.06 * np.exp(-(((t - 0.5 * np.pi) / 0.4) ** 2))
    )
    points = np.stack([x + 1.06 * radius * np.cos(t), y + radius * np.sin(t)], axis=1)
    _fruit(layer, points, _tint(_RED, rng), rng, _tint((70, 150, 225), rng, 25), int(rng.integers(10, 40)))
    _stem(layer, int(x), int(y - 0.78 * r), int(rng.integers(-10, 11)), rng.random() < 0.6)


def _pear(layer: Layer, x: float, y: float, r: float, rng) -> None:
    """A green pear whose belly has radius `r` around (x, y)."""
    t = np.linspace(0, 2 * np.pi, 72)
    up = np.clip(-np.sin(t), 0, 1)
    wide = r * (1 - 0.6 * up**1.3)
    points = np.stack(
        [
            x + wide * np.cos(t) + 0.12 * r * np.sin(np.pi * up) * np.sign(np.cos(t)),
            y + r * np.sin(t) - 0.95 * r * up**1.5,
        ],
        axis=1,
    )
    colour = _tint(_GREEN, rng, 20)
    _fruit(layer, points, colour, rng, _tint((80, 190, 190), rng, 20), int(rng.integers(60, 120)))
    _stem(layer, int(x), int(y - 1.9 * r), int(rng.integers(-16, 17)), rng.random() < 0.3)


def _banana(layer: Layer, x: float, y: float, length: float, bend: float, rng) -> None:
    """A banana hanging like a smile around (x, y), `length` wide and `bend` deep."""
    s = np.linspace(-1, 1, 30)
    thick = 0.14 * length * (1 - 0.75 * s**6)
    middle = y + bend * (1 - s**2)
    upper, lower = (
        np.stack([x + s * length / 2, middle - thick], 1),
        np.stack([x + s * length / 2, middle + thick], 1),
    )
    _fruit(layer, np.concatenate([upper, lower[::-1]]), _tint(_YELLOW, rng), rng, None, 12)
    for end in (-1, 1):
        cv2.circle(layer[0], (int(x + end * length / 2), int(y)), 6, _BROWN, -1, cv2.LINE_AA)


# ---- products: each draws one on an empty layer


def _draw_milk(layer: Layer, rng) -> None:
    """A gable-top carton: a front, a darker side, a folded roof, a wave and a name."""
    accent = _tint(_ACCENTS[rng.integers(len(_ACCENTS))], rng)
    left, right, deep, top = 112, 236, 58 + int(rng.integers(0, 12)), 140
    wave = int(rng.integers(215, 285))
    s = np.linspace(0, 1, 24)
    crest = wave + 16 * np.sin(2 * np.pi * (s + rng.random()))
    _polygon(layer, [(left, top), (right, top), (right, _BASE), (left, _BASE)], _WHITE)
    _polygon(
        layer,
        [(right, top), (right + deep, top - 14), (right + deep, _BASE - 20), (right, _BASE)],
        (198, 200, 200),
    )
    _polygon(layer, list(zip(left + s * (right - left), crest)) + [(right, _BASE), (left, _BASE)], accent)
    shade = tuple(0.72 * c for c in accent)
    _polygon(
        layer,
        [(right, crest[-1]), (right + deep, wave - 20), (right + deep, _BASE - 20), (right, _BASE)],
        shade,
    )
    ridge = 74
    _polygon(layer, [(left, top), (right, top), (right + 20, ridge), (left + 22, ridge)], (226, 228, 226))
    _polygon(layer, [(right, top), (right + deep, top - 14), (right + 20, ridge)], (170, 172, 172))
    _polygon(
        layer,
        [(left + 22, ridge), (right + 20, ridge), (right + 20, ridge - 24), (left + 22, ridge - 24)],
        accent,
    )
    if rng.random() < 0.6:
        _oval(layer, (182, 108), (19, 14), accent)
        _oval(layer, (182, 104), (19, 13), _tint(_WHITE, rng))
    _text(layer, str(rng.choice(["MILK", "Milk", "FRESH"])), (174, 180), 100, accent)
    _text(layer, str(rng.choice(["1 L", "3.5%", "1.5%"])), (174, 330), 56, _WHITE)


def _draw_yoghurt(layer: Layer, rng) -> None:
    """A cup that narrows downwards, with a foil lid, a band and berries."""
    accent = _tint(_ACCENTS[rng.integers(len(_ACCENTS))], rng)
    top, wide, narrow = 190, 112, 82
    _oval(layer, (200, _BASE - 14), (narrow, 14), _WHITE)
    _polygon(
        layer,
        [(200 - wide, top), (200 + wide, top), (200 + narrow, _BASE - 14), (200 - narrow, _BASE - 14)],
        _WHITE,
    )
    band = int(rng.integers(285, 310))
    _polygon(layer, [(106, band), (294, band), (288, band + 42), (112, band + 42)], accent)
    for x, y in zip((150, 176, 232, 256), rng.integers(252, 272, 4)):
        cv2.circle(layer[0], (x, int(y)), int(rng.integers(12, 18)), accent, -1, cv2.LINE_AA)
        cv2.circle(layer[0], (x - 4, int(y) - 5), 4, _WHITE, -1, cv2.LINE_AA)
    _text(layer, str(rng.choice(["Yoghurt", "YOGHURT", "Greek"])), (200, 226), 140, _INK)
    _text(layer, str(rng.choice(["150 g", "natural", "berry"])), (200, band + 21), 84, _WHITE)
    _round_light(layer, 88, 312)
    lid = _tint(_STEEL, rng) if rng.random() < 0.6 else accent
    _oval(layer, (200, top + 4), (wide + 8, 24), tuple(0.75 * c for c in lid))
    _oval(layer, (200, top - 4), (wide + 8, 24), lid)
    _oval(layer, (200, top - 4), (wide - 12, 16), tuple(min(255, 1.1 * c) for c in lid), 3)


def _draw_tin(layer: Layer, rng) -> None:
    """A ribbed tin with a red label, a cream badge and tomatoes on it."""
    half, top = int(rng.integers(84, 100)), 120
    _oval(layer, (200, _BASE - 16), (half, 18), _STEEL)
    _polygon(
        layer,
        [(200 - half, top), (200 + half, top), (200 + half, _BASE - 16), (200 - half, _BASE - 16)],
        _STEEL,
    )
    for row in (top + 8, top + 18, _BASE - 26):
        cv2.ellipse(layer[0], (200, row), (half, 18), 0, 0, 180, (140, 136, 130), 3, cv2.LINE_AA)
    edge = np.linspace(-1, 1, 30)
    bow = 18 * np.sqrt(1 - edge**2)
    label = [(200 + half * e, top + 24 + b) for e, b in zip(edge, bow)]
    _polygon(layer, label + [(200 + half * e, _BASE - 34 + b) for e, b in zip(edge, bow)][::-1], _tint(_RED, rng))
    _oval(layer, (200, 212), (66, 32), _CREAM)
    _text(layer, str(rng.choice(["TOMATO", "Pomodori", "CHOPPED"])), (200, 212), 108, _INK)
    for x in (168, 232) if rng.random() < 0.5 else (200,):
        cv2.circle(layer[0], (x, 290), 28, (70, 84, 232), -1, cv2.LINE_AA)
        cv2.drawMarker(layer[0], (x, 266), (60, 130, 60), cv2.MARKER_STAR, 26, 4)
    _round_light(layer, 200 - half, 200 + half)
    _oval(layer, (200, top), (half, 18), (215, 212, 208))
    _oval(layer, (200, top + 1), (half - 9, 13), (165, 162, 158), 3)


def _draw_apples(layer: Layer, rng) -> None:
    """One, two or three red apples."""
    for x, y, r in (
        ((200, 262, 106),),
        ((140, 286, 82), (262, 288, 80)),
        ((132, 292, 76), (272, 294, 74), (202, 200, 76)),
    )[rng.integers(3)]:
        _apple(layer, x + rng.integers(-6, 7), y, r, rng)


def _draw_pears(layer: Layer, rng) -> None:
    """One or two green pears."""
    for x, y, r in (((200, 274, 96),), ((130, 290, 78), (264, 288, 80)))[rng.integers(2)]:
        _pear(layer, x + rng.integers(-6, 7), y, r, rng)


def _draw_juice(layer: Layer, rng) -> None:
    """A bottle of orange juice: shoulders, a cap, a label with a slice of orange."""
    half, shoulder = int(rng.integers(66, 80)), int(rng.integers(150, 175))
    juice, cap = _tint(_ORANGE, rng), _tint((_WHITE, _GREEN, _ORANGE, _INK)[rng.integers(4)], rng)
    s = np.linspace(0, 1, 16)
    side = 28 + (half - 28) * (0.5 - 0.5 * np.cos(np.pi * s))
    rows = 78 + (shoulder - 78) * s
    outline = list(zip(200 - side, rows)) + [(200 - half, _BASE - 10), (200 - half + 12, _BASE)]
    _polygon(layer, outline + [(400 - x, y) for x, y in outline[::-1]], juice)
    _polygon(layer, [(172, 72), (228, 72), (228, 92), (172, 92)], (170, 214, 246))
    label = int(rng.integers(200, 220))
    _polygon(layer, [(200 - half, label), (200 + half, label), (200 + half, 330), (200 - half, 330)], _WHITE)
    _text(layer, str(rng.choice(["Orange", "JUICE", "100%"])), (200, label + 26), 96, _tint((40, 110, 40), rng))
    cv2.circle(layer[0], (200, 288), 34, _ORANGE, -1, cv2.LINE_AA)
    cv2.circle(layer[0], (200, 288), 27, (120, 196, 250), -1, cv2.LINE_AA)
    for angle in np.arange(0, 360, 60) + rng.integers(0, 60):
        cv2.ellipse(layer[0], (200, 288), (24, 24), int(angle), 6, 54, _ORANGE, -1, cv2.LINE_AA)
    _round_light(layer, 200 - half, 200 + half)
    _polygon(layer, [(168, 42), (232, 42), (232, 76), (168, 76)], cap)
    for x in range(176, 230, 10):
        cv2.line(layer[0], (x, 46), (x, 74), tuple(0.75 * c for c in cap), 2)


def _draw_cereal(layer: Layer, rng) -> None:
    """A flat box with a bowl of rings and a name set on a banner."""
    left, right, deep, top = 78, 272, int(rng.integers(34, 54)), 70
    face = _tint(_ORANGE, rng, 22)
    _polygon(layer, [(left, top), (right, top), (right, _BASE), (left, _BASE)], face)
    _polygon(
        layer,
        [(right, top), (right + deep, top - 16), (right + deep, _BASE - 24), (right, _BASE)],
        tuple(0.66 * c for c in face),
    )
    _polygon(
        layer,
        [(left, top), (right, top), (right + deep, top - 16), (left + deep, top - 16)],
        tuple(min(255, 1.15 * c) for c in face),
    )
    banner = int(rng.integers(100, 120))
    _polygon(layer, [(left, banner), (right, banner - 14), (right, banner + 44), (left, banner + 58)], _WHITE)
    _text(
        layer,
        str(rng.choice(["CRUNCH", "Honey O", "FLAKES"])),
        (175, banner + 22),
        160,
        _tint((40, 40, 150), rng),
    )
    _oval(layer, (175, 268), (78, 22), _WHITE)
    for x, y in zip(np.linspace(118, 232, 7), rng.integers(252, 272, 7)):
        cv2.circle(layer[0], (int(x), int(y)), 12, (60, 150, 215), 7, cv2.LINE_AA)
    cv2.ellipse(layer[0], (175, 268), (78, 68), 0, 0, 180, _tint(_ACCENTS[0], rng), -1, cv2.LINE_AA)
    _text(layer, str(rng.choice(["375 g", "500 g", "whole grain"])), (175, 354), 90, _WHITE)


def _draw_mixed_fruit(layer: Layer, rng) -> None:
    """A cardboard tray holding bananas, an apple and a pear, in any order."""
    board = _tint((110, 160, 195), rng)
    _polygon(layer, [(48, 250), (352, 250), (372, 292), (28, 292)], tuple(0.6 * c for c in board))
    places = rng.permutation([112, 276])
    _pear(layer, places[0], 240, 56, rng)
    _apple(layer, places[1], 230, 62, rng)
    for step in range(int(rng.integers(2, 4))):
        _banana(layer, 196 + rng.integers(-14, 15), 212 + 26 * step, 210, 46, rng)
    _polygon(layer, [(28, 290), (372, 290), (352, _BASE), (48, _BASE)], board)
    for x in (110, 290):
        _oval(layer, (x, 322), (26, 9), tuple(0.45 * c for c in board))
    _text(layer, str(rng.choice(["FRUIT", "6 pcs", "MIX"])), (200, 336), 90, _INK)


DRAWERS = {
    "Bananas, apples & pears": _draw_mixed_fruit,
    "Cereal": _draw_cereal,
    "Milk": _draw_milk,
    "Orange juice": _draw_juice,
    "Pears": _draw_pears,
    "Red apples": _draw_apples,
    "Tinned tomatoes": _draw_tin,
    "Yoghurt": _draw_yoghurt,
}


# ---- the photo


def _draw_shelf(width: int, height: int, floor: int, rng) -> np.ndarray:
    """A shelf, a counter or a belt: blurred goods behind, a board at row `floor`, price tags on its edge."""
    tone = rng.uniform(90, 215) + rng.uniform(-14, 14, 3)
    photo = np.empty((height, width, 3), np.uint8)
    photo[:] = np.clip(tone * np.linspace(0.7, 1.1, height)[:, None, None], 0, 255).astype(np.uint8)
    x = int(rng.integers(-60, 0))
    while x < width and rng.random() < 0.94:
        w, h = int(width * rng.uniform(0.10, 0.22)), int(height * rng.uniform(0.2, 0.6))
        colour = _tint(np.full(3, rng.uniform(60, 200)), rng, 48)
        base = floor - int(rng.integers(2, 18))
        if rng.random() < 0.75:
            cv2.rectangle(photo, (x, base - h), (x + w, base), colour, -1)
            stripe = base - int(h * rng.uniform(0.3, 0.8))
            cv2.rectangle(photo, (x, stripe), (x + w, stripe + h // 5), tuple(250 - 0.7 * v for v in colour), -1)
        else:
            cv2.ellipse(photo, (x + w // 2, base - w // 2), (w // 2, w // 2), 0, 0, 360, colour, -1, cv2.LINE_AA)
        x += w + int(rng.integers(0, width // 6))
    photo = cv2.GaussianBlur(photo, (0, 0), rng.uniform(2.5, 6.0))
    board = _tint(((92, 132, 170), (205, 206, 204), (66, 62, 60))[rng.integers(3)], rng)  # wood, metal, belt
    cv2.rectangle(photo, (0, floor - 14), (width, height), board, -1)
    edge = floor + int(height * rng.uniform(0.05, 0.09))
    cv2.rectangle(photo, (0, edge), (width, height), tuple(0.72 * c for c in board), -1)
    for row in rng.integers(floor - 10, height, 6):  # grain, scratches
        cv2.line(
            photo,
            (0, int(row)),
            (width, int(row) + int(rng.integers(-3, 4))),
            tuple(0.86 * c for c in board),
            1,
        )
    for left in range(int(rng.integers(-40, 120)), width, int(rng.integers(150, 320))):
        tag = _YELLOW if rng.random() < 0.4 else _WHITE
        cv2.rectangle(photo, (left, edge + 6), (left + 74, edge + 40), tag, -1)
        price = f"{rng.integers(0, 9)}.{rng.integers(0, 100):02d}"
        cv2.putText(photo, price, (left + 8, edge + 32), cv2.FONT_HERSHEY_SIMPLEX, 0.7, _INK, 2, cv2.LINE_AA)
    return photo


def _put_in_front(photo: np.ndarray, box: Sequence[int], rng) -> None:
    """Something near the camera that hides up to a fifth of the product's width, or nothing."""
    x0, y0, x1, y1 = box
    if rng.random() < 0.4:
        return
    w, h = int((x1 - x0) * rng.uniform(0.25, 0.5)), int((y1 - y0) * rng.uniform(0.15, 0.4))
    inside = int((x1 - x0) * rng.uniform(0.0, 0.2))
    left = x0 - w + inside if rng.random() < 0.5 else x1 - inside
    colour = _tint(np.full(3, rng.uniform(70, 190)), rng, 48)
    cv2.rectangle(photo, (left, y1 - h), (left + w, y1 + 8), colour, -1)
    cv2.rectangle(photo, (left + w // 6, y1 - h + h // 5), (left + w * 5 // 6, y1 - h // 2), _CREAM, -1)


def _expose(photo: np.ndarray, rng) -> np.ndarray:
    """Lamp and lens: gain 0.7..1.2, a colour cast, a slanted light, a vignette, blur and sensor noise."""
    height, width = photo.shape[:2]
    u, v = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    slope, corner = rng.uniform(-0.15, 0.15, 2), rng.uniform(0.0, 0.22)
    light = rng.uniform(0.7, 1.2) * (1 + slope[0] * u + slope[1] * v) * (1 - corner * (u**2 + v**2))
    if rng.random() < 0.6:
        photo = cv2.GaussianBlur(photo, (0, 0), rng.uniform(0.4, 1.5))
    photo = photo * (light[..., None] * rng.uniform(0.9, 1.1, 3)).astype(np.float32)
    photo += rng.uniform(1.0, 7.0) * rng.standard_normal((height, width, 1), dtype=np.float32)
    return np.clip(photo, 0, 255).astype(np.uint8)


def draw_photo(label: str, rng) -> Tuple[np.ndarray, List[int]]:
    """One photo of `label`: BGR uint8, and the product's box [x0, y0, x1, y1] in its pixels (x1, y1 exclusive).

    The box covers the product's visible and hidden parts, cut at the photo's edge.
    """
    width, height = ((400, 300), (480, 360), (512, 384), (640, 480), (640, 400))[rng.integers(5)]
    if rng.random() < 0.4:
        width, height = height, width
    layer = np.full((_SIDE, _SIDE, 3), 40, np.uint8), np.zeros((_SIDE, _SIDE), np.uint8)
    DRAWERS[label](layer, rng)

    floor = int(height * rng.uniform(0.76, 0.88))
    scale = min(width, height) * rng.uniform(0.72, 1.0) / _SIDE
    move = cv2.getRotationMatrix2D((_SIDE / 2, _BASE), rng.uniform(-13, 13), scale)
    move[:, 2] += width * rng.uniform(0.36, 0.64) - _SIDE / 2, floor - _BASE
    ink = cv2.warpAffine(layer[0], move, (width, height), borderValue=(40, 40, 40))
    mask = cv2.warpAffine(layer[1], move, (width, height))
    x, y, w, h = cv2.boundingRect((mask > 127).astype(np.uint8))
    box = [x, y, x + w, y + h]

    photo = _draw_shelf(width, height, floor, rng)
    drop = np.array([[1, 0, rng.integers(-14, 15)], [0, 1, 8]], np.float32)
    shadow = cv2.GaussianBlur(cv2.warpAffine(mask, drop, (width, height)), (0, 0), 9)
    alpha = (mask / np.float32(255))[..., None]
    photo = photo * (1 - 0.45 * (shadow / np.float32(255))[..., None]) * (1 - alpha) + ink * alpha
    photo = photo.astype(np.uint8)
    _put_in_front(photo, box, rng)
    return _expose(photo, rng), box


def _write_table(path: Path, rows: Sequence[Sequence[object]]) -> None:
    """Writes tab-separated rows in UTF-8, atomically."""
    with files.atomic_file(str(path)) as file:
        file.write("".join("\t".join(map(str, row)) + "\n" for row in rows))


def draw_samples(folder, images_per_class: int = 40, seed: int = 0) -> Dict[str, int]:
    """Draws `images_per_class` (2 or more) photos of each class into `folder`; returns photos per split.

    Writes photos/<class>/NNN.jpg (JPEG quality 60..95), then train.tsv and test.tsv (file, label) with about
    `_TEST_SHARE` of each class in the test split, and boxes.tsv (file, x0, y0, x1, y1; see `draw_photo`). Files are
    named relative to `folder`/photos, with forward slashes. Files of an earlier run are overwritten.
    """
    if images_per_class < 2:
        raise ValueError(f"images_per_class: expected 2 or more, one per split, got {images_per_class}")
    folder = Path(str(folder))
    held_out = max(1, int(round(_TEST_SHARE * images_per_class)))
    tables: Dict[str, List[Sequence[object]]] = {"train": [("file", "label")], "test": [("file", "label")]}
    boxes: List[Sequence[object]] = [("file", "x0", "y0", "x1", "y1")]
    for class_number, label in enumerate(DRAWERS):
        (folder / "photos" / label).mkdir(parents=True, exist_ok=True)
        for number in range(images_per_class):
            split = "test" if number >= images_per_class - held_out else "train"
            rng = np.random.default_rng([seed, split == "test", class_number, number])
            photo, box = draw_photo(label, rng)
            quality = int(rng.integers(60, 96))
            encoded = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            file = f"{label}/{number + 1:03d}.jpg"
            (folder / "photos" / file).write_bytes(encoded.tobytes())
            tables[split].append((file, label))
            boxes.append([file, *box])
    for split, rows in tables.items():
        _write_table(folder / f"{split}.tsv", rows)
    _write_table(folder / "boxes.tsv", boxes)
    return {split: len(rows) - 1 for split, rows in tables.items()}
