"""What photos become on this machine, as arrays to compare with another machine's: pixels, and engines' answers.

Engines are opened by their files alone: whether one made elsewhere answers the same here is the question.
"""

import argparse
import os
import sys

import numpy as np

from edge_runtime.bundle.reading import Bundle
from edge_runtime.console import say
from edge_runtime.engines.kinds import create_engine
from edge_runtime.engines.selection import find_engine
from edge_runtime.errors import ImageError
from edge_runtime.photos.read import read_image, read_large

_ANY_SIDE = 1 << 16  # pixels; no photo is larger, so that none is shrunk


def main(argv=None):
    """Writes the arrays of a folder's photos."""
    this = argparse.ArgumentParser(
        prog="python -m benchmarks.board.answers",
        description="Write what photos become on this machine: their pixels and engines' answers, as an .npz file.",
        epilog="example: python -m benchmarks.board.answers bundle photos here.npz --engine litert-int8",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train` or `import`")
    this.add_argument("images", help="folder of photos; no folders in it")
    this.add_argument("out", help=".npz file to write")
    this.add_argument("--engine", nargs="+", default=[], metavar="NAME", help="(default: none)")
    options = this.parse_args(argv)
    arrays = answers(options.bundle, options.images, options.engine)
    np.savez(options.out, **arrays)
    return 0


def answers(bundle, images, engines):
    """Decodes the photos of a folder and runs engines on them.

    Args:
        bundle: its folder.
        images: folder of photos.
        engines: names of engines of the bundle.

    Returns:
        {"decoded/PHOTO": uint8 [height, width, 3] as in the file, "pixels/PHOTO": uint8 [height, width, 3] as the
        network gets it, "ENGINE/PHOTO": float32 [classes]}. A photo that cannot be read is said, and left out.
    """
    bundle = Bundle.open(bundle)
    arrays = {}
    for name in sorted(os.listdir(images)):
        path = os.path.join(images, name)
        try:
            arrays["pixels/" + name] = read_image(path, bundle.input_spec)
            arrays["decoded/" + name] = read_large(path, _ANY_SIDE)
        except ImageError as error:
            say(f"{name}: {error}")
    photos = [key[len("pixels/") :] for key in arrays if key.startswith("pixels/")]
    for engine in engines:
        info = find_engine(bundle, engine)
        with create_engine(info, bundle.input_spec.shape, len(bundle.class_names), 1, None).open() as opened:
            for name in photos:
                arrays[f"{engine}/{name}"] = opened.infer(arrays["pixels/" + name][None])[0]
    return arrays


if __name__ == "__main__":
    sys.exit(main())
