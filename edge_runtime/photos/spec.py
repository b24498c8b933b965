"""The pixels that the network takes, and the largest photo that is decoded."""

import typing

SIDE = 299

# Written into every bundle, and checked when one is opened: a bundle of another spec is refused.
INPUT_SPEC: typing.Dict[str, typing.Any] = {
    "shape": [SIDE, SIDE, 3],
    "dtype": "uint8",
    "channels": "RGB",
    "layout": "NHWC",
    # The whole photo is squashed to the square: no product at the edge is cut off. INTER_AREA averages all source
    # pixels, so that a 12-megapixel photo shrinks without aliasing; INTER_LINEAR serves the rare enlargement.
    "resize": "squash; INTER_AREA to shrink, INTER_LINEAR to enlarge; "
    "JPEG decoded at 1/8, 1/4 or 1/2 where that covers",
    "scaling": "x / 127.5 - 1, inside the graph",
}

MAX_PIXELS = 178956970  # Pillow's own limit for a decompression bomb: 512 MiB of RGB
