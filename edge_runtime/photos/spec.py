"""How a photo becomes the pixels that a network takes, and the largest photo that is decoded."""

import typing

MIN_SIDE, MAX_SIDE = 32, 1024  # of a network's input
RESIZES = ("squash", "crop", "letterbox")
# "area": OpenCV's INTER_AREA to shrink, which averages all source pixels, so that a 12-megapixel photo shrinks without
# aliasing, and INTER_LINEAR to enlarge; JPEGs are decoded at 1/8, 1/4 or 1/2 where that covers. The others are
# Pillow's, on every pixel of the photo: slower, and exactly what a network trained with Pillow saw.
FILTERS = ("area", "nearest", "bilinear", "bicubic", "lanczos")
MAX_PIXELS = 178956970  # Pillow's own limit for a decompression bomb: 512 MiB of RGB

# What version 0.1 wrote for every bundle, instead of a dict. It is still written where it is true: the bundle's id
# depends on it, and older versions open such bundles.
_SQUASH_TEXT = (
    "squash; INTER_AREA to shrink, INTER_LINEAR to enlarge; JPEG decoded at 1/8, 1/4 or 1/2 where that covers"
)
INCEPTION_SCALING = "x / 127.5 - 1, inside the graph"


class InputSpec(typing.NamedTuple):
    """How a photo becomes the uint8 [height, width, 3] RGB picture that a network takes.

    Attributes:
        height, width: of the network's input in pixels, MIN_SIDE to MAX_SIDE each.
        resize: "squash" changes the proportions (no product at the edge is cut off); "crop" scales the photo and cuts
            out its centre; "letterbox" fits the whole photo in and fills up with bars.
        shorter_side: for "crop": of the scaled photo in pixels, at least the input's longer side; else 0.
        colour: for "letterbox": of the bars, (red, green, blue), 0 to 255 each; else ().
        filter: of FILTERS.
    """

    height: int
    width: int
    resize: str = "squash"
    shorter_side: int = 0
    colour: typing.Tuple[int, ...] = ()
    filter: str = "area"

    @property
    def shape(self):
        """(height, width, 3)."""
        return (self.height, self.width, 3)

    @property
    def exact(self):
        """Whether the filter is one of Pillow's, which work on every pixel of the photo."""
        return self.filter != "area"

    def scaled_size(self, height, width):
        """Returns the (height, width) that a photo of height x width is scaled to, before it is cut or gets bars."""
        if self.resize == "squash":
            return self.height, self.width
        if self.resize == "letterbox":
            factor = min(self.height / height, self.width / width)
            return max(1, int(round(height * factor))), max(1, int(round(width * factor)))
        # As torchvision's Resize: the shorter side is exact, the longer one rounded down. What is not square may need
        # more, so that the photo covers the input.
        shorter = min(height, width)
        sides = [length * self.shorter_side // shorter for length in (height, width)]
        factor = max(1.0, self.height / sides[0], self.width / sides[1])
        return int(round(sides[0] * factor)), int(round(sides[1] * factor))

    def as_stored(self, bgr, sideways):
        """Returns the spec for a photo as a decoder returns it.

        Args:
            bgr: its channels are blue, green, red.
            sideways: it lies on its side, and is turned after it was resized.
        """
        height, width = (self.width, self.height) if sideways else (self.height, self.width)
        return self._replace(height=height, width=width, colour=self.colour[::-1] if bgr else self.colour)

    def __str__(self):
        words = [f"{self.width} x {self.height}", self.resize]
        if self.resize == "crop":
            words.append(f"from a shorter side of {self.shorter_side}")
        if self.resize == "letterbox":
            words.append("with bars of RGB {} {} {}".format(*self.colour))
        return ", ".join([" ".join(words), "averaged" if self.filter == "area" else f"Pillow's {self.filter} filter"])


INCEPTION_V3 = InputSpec(299, 299)


def squash(height, width=None):
    """Returns the InputSpec of train's networks: the photo squashed to height x width (a square by default)."""
    return InputSpec(height, width or height)


def to_manifest(spec, scaling=INCEPTION_SCALING):
    """Returns what a bundle's manifest says of an InputSpec.

    Args:
        scaling: what the graph does with the pixels, for people.
    """
    resize: typing.Any = _SQUASH_TEXT
    if spec != InputSpec(spec.height, spec.width):
        resize = {"mode": spec.resize, "filter": spec.filter}
        if spec.resize == "crop":
            resize["shorter_side"] = spec.shorter_side
        if spec.resize == "letterbox":
            resize["colour"] = list(spec.colour)
    return {
        "shape": list(spec.shape),
        "dtype": "uint8",
        "channels": "RGB",
        "layout": "NHWC",
        "resize": resize,
        "scaling": scaling,
    }


def from_manifest(value):
    """Returns the InputSpec in a bundle's manifest. Raises ValueError: this version does not know such a one."""
    if not isinstance(value, dict) or set(value) != {"shape", "dtype", "channels", "layout", "resize", "scaling"}:
        raise ValueError(f"expected shape, dtype, channels, layout, resize and scaling, got {value!r}")
    if (value["dtype"], value["channels"], value["layout"]) != ("uint8", "RGB", "NHWC"):
        raise ValueError(f"expected uint8, RGB, NHWC, got {value['dtype']}, {value['channels']}, {value['layout']}")
    shape, resize = value["shape"], value["resize"]
    if not isinstance(shape, list) or len(shape) != 3 or shape[2] != 3:
        raise ValueError(f"expected the shape [height, width, 3], got {shape!r}")
    if resize == _SQUASH_TEXT:
        return checked(InputSpec(shape[0], shape[1]))
    if not isinstance(resize, dict):
        raise ValueError(f"resize: {resize!r} is not known")
    unknown = set(resize) - {"mode", "filter", "shorter_side", "colour"}
    if unknown:
        raise ValueError(f"resize: {sorted(unknown)[0]!r} is not known")
    colour = resize.get("colour", [])
    return checked(
        InputSpec(
            shape[0],
            shape[1],
            resize.get("mode", ""),
            resize.get("shorter_side", 0),
            tuple(colour) if isinstance(colour, list) else colour,
            resize.get("filter", ""),
        )
    )


def checked(spec):
    """Returns an InputSpec. Raises ValueError: a value of it is out of range."""
    for name in ("height", "width"):
        if not _is_int(getattr(spec, name), MIN_SIDE, MAX_SIDE):
            raise ValueError(f"{name}: expected {MIN_SIDE} to {MAX_SIDE} pixels, got {getattr(spec, name)!r}")
    if spec.resize not in RESIZES:
        raise ValueError(f"resize: expected {', '.join(RESIZES)}, got {spec.resize!r}")
    if spec.filter not in FILTERS:
        raise ValueError(f"filter: expected {', '.join(FILTERS)}, got {spec.filter!r}")
    longer_side = max(spec.height, spec.width)
    if spec.resize == "crop" and not _is_int(spec.shorter_side, longer_side, 4 * longer_side):
        raise ValueError(f"shorter_side: expected {longer_side} to {4 * longer_side}, got {spec.shorter_side!r}")
    if spec.resize == "letterbox" and (
        not isinstance(spec.colour, tuple) or len(spec.colour) != 3 or not all(_is_int(c, 0, 255) for c in spec.colour)
    ):
        raise ValueError(f"colour: expected three numbers from 0 to 255, got {spec.colour!r}")
    if (spec.resize != "crop" and spec.shorter_side) or (spec.resize != "letterbox" and spec.colour):
        raise ValueError(f"resize {spec.resize!r} takes no {'shorter_side' if spec.shorter_side else 'colour'}")
    return spec


def _is_int(value, least, most):
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
