"""A small network whose answers depend on colours, on their order, on their scale and on where they are."""

import argparse
import os

import cv2
import numpy as np

from tests.helpers import write_photo
from train.importing import find
from train.importing.original import Declared, Original
from train.importing.preprocessing import SCALES, Preprocessing, input_spec

SIZE, CELLS, CLASSES = 32, 4, 5
NAMES = ["class %d" % number for number in range(CLASSES)]
_RANDOM = np.random.RandomState(3)
FIRST = _RANDOM.normal(0, 0.7, (CELLS * CELLS * 3, 24)).astype(np.float32)
SECOND = _RANDOM.normal(0, 1.5, (24, CLASSES)).astype(np.float32)


def logits(pixels):
    """Returns float32 [n, CLASSES] for pixels, float [n, SIZE, SIZE, 3], RGB, 0 to 255."""
    side = SIZE // CELLS
    cells = pixels.reshape(len(pixels), CELLS, side, CELLS, side, 3).mean(axis=(2, 4)) / 127.5 - 1
    return np.tanh(cells.reshape(len(pixels), -1).dot(FIRST)).dot(SECOND).astype(np.float32)


def preprocessing(scale="-1..1", channels="RGB", resize="squash", share=None):
    order, mean, std = SCALES[scale]
    step = 1 if channels == order else -1
    spec = input_spec(Declared(height=SIZE, width=SIZE), resize, share)
    return Preprocessing(spec, channels, mean[::step], std[::step])


def original(expected, layout="NCHW", declared=None, names=NAMES, finish=lambda logits: logits):
    """Returns the Original of the network that expects a Preprocessing; finish makes its answers of the logits."""

    def run(values):
        pixels = values.transpose(0, 2, 3, 1) if layout == "NCHW" else values
        pixels = pixels * np.array(expected.std) + np.array(expected.mean)
        return finish(logits(pixels if expected.channels == "RGB" else pixels[..., ::-1]))

    outputs = finish(np.zeros((1, CLASSES), np.float32)).shape[1]
    said = declared or Declared()
    return Original("model.onnx", "ONNX model", None, layout, "float32", SIZE, SIZE, outputs, list(names), said, run)


def choice(expected, kind="logits", without_background=False, used=(), filter_assumed=True):
    """Returns the Choice of a Preprocessing that is declared."""
    rest = ("declared", len(used), frozenset(used), [], [], [], "")
    return find.Choice(expected, filter_assumed, kind, without_background, *rest)


def softmax(values):
    exponents = np.exp(values - values.max(axis=1, keepdims=True))
    return (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)


def options(**given):
    """Returns what the command line gives: None for all that is not given."""
    names = ("preset", "size", "scale", "channels", "resize")
    return argparse.Namespace(**dict(dict.fromkeys(names), **given))


def write_blocks(folder, count, sizes=((40, 60), (60, 40))):
    """Writes photos of blocks in random colours; returns their paths."""
    random, paths = np.random.RandomState(0), []
    for number in range(count):
        height, width = sizes[number % len(sizes)]
        blocks = random.randint(0, 256, (4, 4, 3)).astype(np.uint8)
        paths.append(os.path.join(str(folder), "%03d.png" % number))
        write_photo(paths[-1], cv2.resize(blocks, (width, height), interpolation=cv2.INTER_NEAREST))
    return paths


def write_noise(folder, count):
    """Writes photos of random pixels, on which every filter gives another picture; returns their paths."""
    random, paths = np.random.RandomState(1), []
    for number in range(count):
        paths.append(os.path.join(str(folder), "%03d.png" % number))
        write_photo(paths[-1], random.randint(0, 256, (96, 96, 3)).astype(np.uint8))
    return paths
