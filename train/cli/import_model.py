"""picnic-edge import: a classifier that was trained elsewhere -> a bundle, checked against the original."""

import argparse
import os
import sys

from edge_runtime import files
from edge_runtime.bundle import writing
from edge_runtime.bundle.manifest import INPUT_NAME, OUTPUT_NAME, require_outside
from edge_runtime.console import say
from edge_runtime.engines.onnxruntime import session
from edge_runtime.errors import UsageError
from edge_runtime.machine import cpu, libraries
from edge_runtime.machine.libraries import require
from edge_runtime.photos import spec
from edge_runtime.text import printable
from train.data import checks
from train.importing import archives, check_photos, find, graph, labels, preprocessing, proof
from train.importing.readers import read_original
from train.model.export import save_sample

_VERSIONS = ("picnic-edge", "onnx", "onnxruntime", "tensorflow", "keras", "tf2onnx", "numpy", "pillow")


def parser():
    """Returns the argument parser of `picnic-edge import`."""
    this = argparse.ArgumentParser(
        prog="picnic-edge import",
        description="Make a bundle of a classifier that was trained elsewhere: ONNX, ultralytics, Hugging Face, Keras, "
        "SavedModel, TensorFlow Lite, Teachable Machine, Custom Vision. How its makers prepared photos is looked for, "
        "and the bundle's labels are compared with the original's.",
        epilog="example: picnic-edge import model.onnx --check val.tsv --out bundle",
    )
    this.add_argument("model", metavar="MODEL", help="its file, folder or zip; it is not changed")
    this.add_argument("--out", metavar="BUNDLE", required=True, help="the folder to write; an older bundle is replaced")
    this.add_argument(
        "--labels", metavar="FILE", help="names of the classes, one a line, in the order of the model's outputs"
    )
    this.add_argument(
        "--check",
        metavar="TSV",
        help="photos to compare on: a table with the columns file and label, a folder of class folders, or a folder of "
        f"photos without labels; with {find.MIN_PHOTOS} labelled ones or more the preprocessing is found",
    )
    this.add_argument(
        "--images", metavar="DIR", help="where the table's file names start (default: the table's folder)"
    )
    this.add_argument(
        "--preset",
        choices=sorted(preprocessing.PRESETS),
        metavar="NAME",
        help="how a library prepares photos: " + ", ".join(sorted(preprocessing.PRESETS)),
    )
    this.add_argument("--size", metavar="N", help="N or HEIGHTxWIDTH in pixels, where the model takes any size")
    this.add_argument(
        "--scale",
        metavar="S",
        help=f"what pixels become: {', '.join(preprocessing.SCALES)}, or MEAN,MEAN,MEAN/STD,STD,STD of pixels 0 to 255",
    )
    this.add_argument("--channels", choices=("RGB", "BGR"), help="the order of the colours")
    this.add_argument(
        "--resize",
        metavar="R",
        help="squash, crop:SHARE (of the scaled photo that the centre is) or letterbox:R,G,B (the colour of the bars)",
    )
    this.add_argument("--input", metavar="NAME", help="the name that an ONNX model's input must have")
    this.add_argument("--output", metavar="NAME", help="the model's output or signature, where it has several")
    this.add_argument(
        "--exact-resize",
        action="store_true",
        help="resize photos on the device as the makers do, by Pillow: slower, the same pixels",
    )
    this.add_argument("--trust", action="store_true", help="run code that the model holds (Keras Lambda layers)")
    return this


def main(argv=None):
    """Imports a model. Raises PicnicError as the exit codes say."""
    arguments = sys.argv[1:] if argv is None else argv
    options = parser().parse_args(arguments)
    _check_options(options)
    given_names = labels.read_class_names(options.labels) if options.labels else None
    require("onnx")
    original = read_original(options.model, options)
    original = original._replace(class_names=_class_names(original, options.labels, given_names))
    say(f"{options.model}: {original.kind}, {original.outputs} outputs, {len(original.class_names)} classes")
    photos, problems = check_photos.read_check(options.check, options.images, original.class_names)
    checks.report_problems(problems, None, False)
    declared = preprocessing.from_options(original, options)
    choice = find.choose(original, photos, declared, options)
    if choice.table:
        print(choice.table)
    for warning in choice.warnings:
        say(f"warning: {warning}")
    _write(arguments, options, original, declared, choice, photos)
    print(f"bundle: {options.out}")


def _check_options(options):
    """Raises UsageError for options that cannot be right."""
    writing.check_target(options.out)
    require_outside(options.out, options.model, "--out")
    if os.path.lexists(options.model) and files.is_inside(options.model, options.out):
        raise UsageError(f"--out {options.out}: holds MODEL, {options.model}, and would be replaced as a whole")
    if os.path.isdir(options.model) and files.is_inside(options.out, options.model):
        raise UsageError(f"--out {options.out}: is in MODEL, {options.model}, which is not written to")
    if options.images is not None and not options.check:
        raise UsageError(f"--images {options.images}: needs --check, the table of these photos")
    if not options.check:  # before minutes of conversion
        raise UsageError(
            f"{options.model}: give photos with --check, a folder or a table: the bundle is compared with the original "
            f"on them, and its engines are later ({proof.SAMPLE_PHOTOS} are enough, labels are not needed)"
        )
    if not os.path.lexists(options.check):
        raise UsageError(f"--check {options.check}: no such table or folder")


def _class_names(original, path, given_names):
    """Returns the class names: those of --labels, a file at path, else of the model's files."""
    if given_names is None and original.class_names is None:
        raise UsageError(
            f"{original.path}: its files do not name its {original.outputs} classes; give a text file with one name a "
            "line, in the order of its outputs: --labels FILE"
        )
    names = given_names or original.class_names
    if len(names) not in (original.outputs, original.outputs - 1):
        raise UsageError(
            f"{path or original.path}: {len(names)} class names; the model has {original.outputs} outputs. Expected "
            "one name per output (one less where the first output is a background class)"
        )
    return names


def _write(arguments, options, original, declared, choice, photos):
    """Writes the bundle atomically; prints what was compared."""
    chosen = choice.preprocessing
    assumed = f" (nothing names the filter: {chosen.input_spec.filter} is assumed)" if choice.filter_assumed else ""
    say(f"preprocessing: {preprocessing.describe(chosen)}{assumed}")
    kind, without_background = choice.kind, choice.without_background
    model = graph.bundle_model(original, chosen, kind, without_background)
    graph.check_numbers(model, original, chosen, kind, without_background)
    proven = proof.prove(original, choice, _infer(model), photos, options.exact_resize)
    print(proof.describe(proven))
    model = proof.with_temperature(model, proven.temperature)
    graph.check_sample(model, original, proven.sample)
    input_spec = chosen.input_spec if options.exact_resize else chosen.input_spec._replace(filter="area")
    with files.named(f"--out {options.out}"), files.atomic_folder(options.out) as folder:
        files.remove_abandoned(os.path.dirname(os.path.realpath(options.out)))
        with open(os.path.join(folder, "model.onnx"), "wb") as file:
            file.write(model.SerializeToString())
        save_sample(os.path.join(folder, "sample"), proven.sample)
        writing.write_manifest(
            folder,
            original.class_names,
            spec.to_manifest(input_spec, _scaling_text(original, chosen)),
            proven.metrics,
            _record(arguments, original, declared, choice, options, proven),
        )


def _infer(model):
    run = session(model.SerializeToString(), cpu.core_count(), optimize=True).run
    return lambda pictures: run([OUTPUT_NAME], {INPUT_NAME: pictures})[0]


def _scaling_text(original, chosen):
    """Returns what the graph does with the pixels, for people."""
    if original.dtype == "uint8":
        return f"{chosen.channels}, by the original's own graph"
    mean, std = (" ".join(f"{value:.6g}" for value in values) for values in (chosen.mean, chosen.std))
    return f"{chosen.channels}, (x - ({mean})) / ({std}), inside the graph"


def _record(arguments, original, declared, choice, options, proven):
    """Returns where the model comes from and what was chosen, for the manifest."""
    return {
        "command": ["picnic-edge", "import"] + [printable(argument) for argument in arguments],
        "kind": original.kind,
        "source": printable(os.path.basename(os.path.normpath(options.model))),
        "source_sha256": _sums(options.model),
        "declared": {name: value for name, value in declared._asdict().items() if value is not None},
        "preprocessing": preprocessing.describe(choice.preprocessing),
        "filter_assumed": choice.filter_assumed,
        "decided_by": choice.decided_by,
        "decided_on_photos": choice.photos,
        "not_told_apart": [preprocessing.describe(one) for one in choice.equal],
        "metrics_on_photos_that_chose": not proven.independent,
        "warnings": choice.warnings,
        "versions": {name: libraries.library_version(name) for name in _VERSIONS},
        "machine": cpu.describe(),
    }


def _sums(path):
    """Returns the sha256 of a file, or {name: sha256} of a folder's files."""
    if not os.path.isdir(path):
        return files.sha256_of(path)
    return {printable(name): files.sha256_of(os.path.join(path, name)) for name in archives.file_names(path)}
