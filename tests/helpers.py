"""What several tests share: a bundle small enough to be made in milliseconds, photos, the command line."""

import concurrent.futures
import json
import os
import subprocess
import sys
import threading

import cv2
import numpy as np

from edge_runtime import files
from edge_runtime.bundle import manifest, reading, writing
from edge_runtime.photos.resize import fit_image
from edge_runtime.photos.spec import INCEPTION_V3, to_manifest
from tests import warm

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# PYTHONPATH for runs of doctor that are not about TensorFlow, whose import takes ten times as long as the rest of it.
WITHOUT_TENSORFLOW = os.path.join(ROOT, "tests", "without_tensorflow") + os.pathsep + ROOT
COLOURS = {"blue things": (20, 30, 220), "green, fresh & ripe": (30, 200, 40), "red": (220, 30, 20)}  # RGB


def picnic_edge(*arguments, **settings):
    """Runs the command as a user does. Returns a CompletedProcess with bytes in stdout and text in stderr.

    With settings other than cwd, as of subprocess.run, in a fresh interpreter; else by tests.warm, which is faster.
    """
    command = [sys.executable, "-m", "picnic_edge"] + [os.fspath(argument) for argument in arguments]
    if not set(settings) - {"cwd"}:
        ended = warm.run(command[3:], **settings)
        if ended:
            return subprocess.CompletedProcess(
                command, ended[0], ended[1], ended[2].decode("utf-8", "backslashreplace")
            )
    environment = dict(os.environ, PYTHONPATH=ROOT)
    environment.update(settings.pop("env", {}))
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, timeout=600, **settings
    )
    done.stderr = done.stderr.decode("utf-8", "backslashreplace")
    return done


def convert(bundle, *options):
    """Converts a bundle in this process; its speed is measured for a moment only, which takes 2 s otherwise."""
    import pytest

    from convert import cli
    from edge_runtime.engines import check

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "SPEED_S", 0.02)
        cli.main([str(bundle)] + list(options))


def content_of(folder):
    """Returns {relative name: bytes} of all files below a folder, hidden ones too."""
    content = {}
    for parent, _, names in os.walk(str(folder)):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                content[os.path.relpath(os.path.join(parent, name), str(folder))] = file.read()
    return content


def at_once(*calls):
    """Makes calls, (function, arguments...) each, in threads that start together. Returns what they return."""
    start = threading.Barrier(len(calls))

    def call(function, *arguments):
        start.wait()
        return function(*arguments)

    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return [one.result() for one in [pool.submit(call, *one) for one in calls]]


def is_running(process):
    """Whether a process (its number) is there and is no zombie, which only waits for its parent to ask for its code."""
    try:
        with open("/proc/%s/stat" % process) as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def photo(colour, seed=0, height=120, width=160):
    """Returns a noisy picture of one colour, uint8 RGB."""
    noise = np.random.RandomState(seed).randint(-18, 19, (height, width, 3))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


def two_greys(level, height=30, width=40):
    """Returns a picture whose halves are a little darker and lighter than a grey level: it is not one colour."""
    rgb = np.full((height, width, 3), level, np.uint8)
    rgb[:, : width // 2] -= 3
    rgb[:, width // 2 :] += 3
    return rgb


def write_photo(path, rgb, *settings):
    """Writes a picture in the format of the path's suffix."""
    os.makedirs(os.path.dirname(os.path.abspath(str(path))), exist_ok=True)
    done, data = cv2.imencode(os.path.splitext(str(path))[1], cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), *settings)
    assert done
    with open(path, "wb") as file:
        file.write(data.tobytes())


def write_photos(folder, per_class=4, suffix=".jpg"):
    """Writes folder/<class>/<n>.jpg for every class of COLOURS; returns [(file relative to folder, label)]."""
    rows = []
    for label, colour in sorted(COLOURS.items()):
        for number in range(per_class):
            name = os.path.join(label, "%02d%s" % (number, suffix))
            write_photo(os.path.join(str(folder), name), photo(colour, number))
            rows.append((name, label))
    return rows


def write_table(path, rows, header=("file", "label")):
    """Writes rows as a plain tab-separated table."""
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        for row in [header] + list(rows):
            file.write("\t".join(row) + "\n")


def write_tiny_bundle(folder, input_spec=INCEPTION_V3):
    """Writes a whole bundle whose network names the dominant colour: mean colour -> dense -> softmax."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    names = sorted(COLOURS)
    weights = np.array([COLOURS[name] for name in names], np.float32).T / 255 * 8
    constants = {"scale": np.float32(1 / 255.0), "weights": weights, "bias": -weights.sum(axis=0) * 0.3}
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "scale"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled"], ["colour"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *input_spec.shape])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(names)])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 7
    pictures = [fit_image(photo(COLOURS[name], seed), input_spec) for seed in range(4) for name in names]
    means = np.array([picture.mean(axis=(0, 1)) for picture in pictures], np.float32) / 255
    logits = means.dot(constants["weights"]) + constants["bias"]
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    with files.atomic_folder(str(folder)) as temporary:
        onnx.save(model, os.path.join(temporary, "model.onnx"))
        os.makedirs(os.path.join(temporary, "sample"))
        for number, picture in enumerate(pictures):
            write_photo(os.path.join(temporary, "sample", "%03d.png" % number), picture)
        labels = [{"file": "%s %d" % (name, seed), "label": name} for seed in range(4) for name in names]
        files.write_json(os.path.join(temporary, "sample", "sample.json"), labels)
        np.save(
            os.path.join(temporary, "sample", "probabilities.npy"),
            (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32),
        )
        writing.write_manifest(temporary, names, to_manifest(input_spec), {}, {})
    return str(folder)


def write_blocks_bundle(folder):
    """Writes a bundle whose network has the 11 blocks of an InceptionV3, and names the dominant colour.

    Every block gives 9 x 9 places of 4 channels: red, green, blue (0..1) and their mean. mixed9 and mixed10 join
    two branches inside, as InceptionV3's do. kernel[:3] is a class's colour less the classes' mean colour, so that in a
    photo of several colours the places of a colour speak for its class and against the others.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    names = sorted(COLOURS)
    weights = np.array([COLOURS[name] for name in names]).T / 255 * 8
    kernel = np.vstack([weights - weights.mean(axis=1, keepdims=True), np.zeros(len(names))])
    keep = np.eye(3, 4)[:, :, None, None]
    mean = np.full((1, 4, 1, 1), 1 / 3.0) * (np.arange(4) < 3)[None, :, None, None]
    constants = {"scale": 1 / 255.0, "kernel": kernel, "bias": np.zeros(len(names)), "keep": keep, "mean": mean}
    constants.update(red=keep[:1], others=keep[1:], start=keep[:, :3], start_mean=mean[:, :3])
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["places"], kernel_shape=[33, 33], strides=[33, 33]),
    ]
    source = "places"
    for number in range(11):
        colour, grey, end = ("%s%d" % (name, number) for name in ("colour", "grey", "end"))
        if number < 9:
            nodes.append(helper.make_node("Conv", [source, "keep" if number else "start"], [colour]))
        else:
            branches = ["%s%d" % (name, number) for name in ("red", "others")]
            nodes += [helper.make_node("Conv", [source, name.rstrip("0123456789")], [name]) for name in branches]
            nodes.append(helper.make_node("Concat", branches, [colour], axis=1))
        nodes.append(helper.make_node("Conv", [source, "mean" if number else "start_mean"], [grey]))
        nodes.append(helper.make_node("Concat", [colour, grey], [end], axis=1))
        source = end
    nodes += [
        helper.make_node("ReduceMean", [source], ["pooled"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["pooled", "kernel"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "blocks",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *INCEPTION_V3.shape])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(names)])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 7
    with files.atomic_folder(str(folder)) as temporary:
        onnx.save(model, os.path.join(temporary, "model.onnx"))
        writing.write_manifest(temporary, names, to_manifest(INCEPTION_V3), {}, {})
    return str(folder)


def check_manifest(bundle):
    """Raises jsonschema.ValidationError where a bundle's manifest.json does not fit its schema."""
    import jsonschema

    with open(os.path.join(os.path.dirname(manifest.__file__), "manifest.schema.json"), encoding="utf-8") as schema:
        jsonschema.validate(bundle.manifest, json.load(schema))


def with_manifest(tiny, metrics, training):
    """Returns the Bundle with another manifest."""
    os.unlink(tiny.file(manifest.MANIFEST))
    writing.write_manifest(tiny.path, tiny.class_names, to_manifest(INCEPTION_V3), metrics, training)
    return reading.Bundle.open(tiny.path)


def add_tiny_saved_model(folder):
    """Adds to a bundle of write_tiny_bundle the same network as a SavedModel, and lists it in the manifest."""
    import onnx
    from onnx import numpy_helper

    from edge_runtime.machine.libraries import require

    tensorflow = require("tensorflow")
    graph = onnx.load(os.path.join(folder, "model.onnx")).graph
    values = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    module = tensorflow.Module()

    def classify(pixels):
        colour = tensorflow.reduce_mean(tensorflow.cast(pixels, tensorflow.float32) / 255.0, [1, 2])
        logits = tensorflow.matmul(colour, values["weights"]) + values["bias"]
        return {manifest.OUTPUT_NAME: tensorflow.nn.softmax(logits)}

    shape = [None, *INCEPTION_V3.shape]
    spec = tensorflow.TensorSpec(shape, tensorflow.uint8, name=manifest.INPUT_NAME)
    module.classify = tensorflow.function(classify, input_signature=[spec])
    tensorflow.saved_model.save(
        module, os.path.join(folder, "saved_model"), signatures={"serving_default": module.classify}
    )
    os.unlink(os.path.join(folder, manifest.MANIFEST))
    writing.write_manifest(folder, sorted(COLOURS), to_manifest(INCEPTION_V3), {}, {})


def gradient(height=300, width=400):
    """Returns a smooth picture that no turn or mirror maps onto itself, uint8 RGB."""
    down, right = np.mgrid[0:height, 0:width]
    down, right = down / max(height - 1, 1), right / max(width - 1, 1)
    return np.stack([255 * right, 255 * down, 255 * right * down], axis=2).astype(np.uint8)


def encoded(rgb, suffix, **settings):
    """Returns a picture (array, or a Pillow image of any mode) as the bytes of a file, written by Pillow."""
    import io

    from PIL import Image

    picture = rgb if isinstance(rgb, Image.Image) else Image.fromarray(rgb)
    data = io.BytesIO()
    picture.save(data, {"jpg": "JPEG"}.get(suffix, suffix.upper()), **settings)
    return data.getvalue()


def write_bytes(path, data):
    """Writes a file and the folders above it; returns its path as str."""
    os.makedirs(os.path.dirname(os.path.abspath(str(path))), exist_ok=True)
    with open(str(path), "wb") as file:
        file.write(data)
    return str(path)


def flip_byte(path, place=-1):
    """Changes one byte of a file in place."""
    with open(str(path), "rb") as file:
        data = bytearray(file.read())
    data[place] ^= 0x55
    write_bytes(path, bytes(data))


def read_rows_of(data, dialect="excel-tab"):
    """Returns the rows of a table (bytes) as Python's csv module reads them, undecodable bytes kept."""
    import csv
    import io

    text = io.StringIO(data.decode("utf-8", "surrogateescape"), newline="")
    header, *rows = csv.reader(text, dialect)
    assert all(len(row) == len(header) for row in rows), "a ragged table"
    return [dict(zip(header, row)) for row in rows]


# File names that break careless tables, shells and terminals; written so that any locale can make them.
NASTY_NAMES = [
    os.fsdecode(name)
    for name in (
        b"two words.jpg",
        b" leading space.jpg",
        b"tab\there.jpg",
        b"new\nline.jpg",
        b"carriage\rreturn.jpg",
        b"both\r\n.jpg",
        b'double"quote.jpg',
        b'"quoted".jpg',
        b"single'quote.jpg",
        b"comma, semicolon;.jpg",
        b"back\\slash.jpg",
        b"-dash.jpg",
        b"=formula.jpg",
        b"%percent.jpg",
        b"\xc3\xbcml\xc3\xa4ut.jpg",
        b"latin\xfc.jpg",
        b"\xff\xfe.jpg",
    )
]


def png_chunk(name, body):
    """Returns a chunk of a PNG file with its length and its sum."""
    import struct
    import zlib

    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) & 0xFFFFFFFF)


def raw_png(width, height, pixels=b"", depth=8, kind=2, more=b""):
    """Returns a PNG whose header may claim any size; more: chunks between the header and the pixels."""
    import struct
    import zlib

    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + header + more + pixels + png_chunk(b"IEND", b"")
