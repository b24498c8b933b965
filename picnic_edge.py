"""The command `picnic-edge VERB ...`. A verb's package is imported only when the verb is called."""

import argparse
import contextlib
import errno
import functools
import glob
import importlib
import io
import os
import platform
import shlex
import subprocess
import sys
import time

__version__ = "0.2.0"

# verb -> (module with main(argv), one line for --help)
VERBS = {
    "explore": ("train.cli.explore", "show what labelled photos contain and which problems they have, as a page"),
    "train": ("train.cli.train", "train a classifier on labelled photos and write it as a bundle"),
    "import": ("train.cli.import_model", "make a bundle of a classifier that was trained elsewhere, and check it"),
    "evaluate": ("train.cli.evaluate", "measure accuracy, macro-F1 and each class's scores on labelled photos"),
    "predict": ("train.cli.predict", "label the photos of a TSV or folder, as a table with columns file and label"),
    "explain": ("train.cli.explain", "show what the network looks at in a photo: heat maps and feature maps"),
    "convert": ("convert.cli", "build an engine for this machine and compare it with the original"),
    "classify": ("edge_runtime.cli.classify", "label photos, folders, tables, a video or a camera"),
    "bench": ("benchmarks.bench.cli", "compare the latency and throughput of a bundle's engines"),
    "doctor": ("edge_runtime.cli.doctor", "show what this machine can run and how to install what is missing"),
    "demo": ("", "run all main steps on photos that it draws itself"),
}


_DEMO_PHOTOS = 16  # of each class: the fewest that train does not warn of, a test split beside them


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        """Prints the error. If a camera's address was typed in place of the verb, its password is hidden."""
        from edge_runtime.secrets import hide_secrets, remember

        remember(sys.argv)
        super().error(hide_secrets(message))


def main(argv=None):
    """Runs one verb and returns its exit code."""
    parser = _Parser(
        prog="picnic-edge",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a photo classifier, convert it to a checked engine, run it on an edge device.\n\n"
        + "\n".join(f"  {verb:<10}{text}" for verb, (_, text) in VERBS.items()),
        epilog="example: picnic-edge classify bundle photos/ --out labels.tsv\n"
        "`picnic-edge VERB --help` explains a verb",
    )
    parser.add_argument("verb", choices=list(VERBS), metavar="VERB")
    # Else a missing verb reads "VERB, ... are required".
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...").required = False
    parser.add_argument("--version", action="version", version=f"picnic-edge {__version__}")
    output, errors = io.StringIO(), io.StringIO()  # argparse ignores a stream that is closed or full
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            options = parser.parse_args(argv)
    except SystemExit as stopped:  # --help, --version, no such verb
        error = _write(sys.stdout, output.getvalue())
        if error is not None and not isinstance(error, BrokenPipeError):
            errors.write(f"picnic-edge: standard output: cannot be written ({error.strerror})\n")
        _write(sys.stderr, errors.getvalue())
        if error is None:
            raise
        return 141 if isinstance(error, BrokenPipeError) else stopped.code or 2
    if sys.version_info < (3, 7) and platform.machine() == "aarch64":
        # Without this the last numpy for Python 3.6 crashes on a Jetson with "Illegal instruction".
        os.environ.setdefault("OPENBLAS_CORETYPE", "ARMV8")
    try:
        from edge_runtime.cli.run import run_verb
    except KeyboardInterrupt:
        print("picnic-edge: interrupted", file=sys.stderr)
        return 130

    return run_verb(functools.partial(_call, options.verb), options.arguments)


def _call(verb, arguments):
    """Imports a verb's module and runs it. Raises MissingRequirement where a library is missing that it needs."""
    from edge_runtime.machine import libraries

    if verb != "doctor":  # which runs without them, to say what is missing
        libraries.require_everywhere()
    (demo if verb == "demo" else importlib.import_module(VERBS[verb][0]).main)(arguments)


def _write(stream, text):
    """Writes to standard output or standard error. Returns the OSError if that fails, else None."""
    if not text:
        return None
    if stream is None:
        return OSError(errno.EBADF, os.strerror(errno.EBADF))
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        # Else Python tries again at its end, and prints an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


def demo(argv):
    """Draws sample photos and runs the main verbs on them, each in its own process."""
    parser = argparse.ArgumentParser(
        prog="picnic-edge demo",
        description="Draw sample photos, then train, evaluate, convert, classify and benchmark on them.",
        epilog="example: picnic-edge demo --out demo",
    )
    parser.add_argument("--out", default="demo", metavar="DIR", help="output folder (default demo)")
    parser.add_argument(
        "--weights",
        metavar="W",
        help="starting weights: imagenet, none or FILE.h5 (default: imagenet if it can be downloaded, else none)",
    )
    options = parser.parse_args(argv)
    from edge_runtime.console import say
    from train.data.samples import draw_samples

    started_s = time.perf_counter()
    say(f"== drawing {_DEMO_PHOTOS} photos of each of eight products")
    draw_samples(options.out, _DEMO_PHOTOS)
    train_tsv, test_tsv, labels_tsv = (
        os.path.join(options.out, name) for name in ("train.tsv", "test.tsv", "labels.tsv")
    )
    bundle, photos = os.path.join(options.out, "bundle"), os.path.join(options.out, "photos")
    train = ["train", train_tsv, "--images", photos, "--out", bundle, "--weights"]
    is_trained = False
    if options.weights or _imagenet_is_there():
        weights = options.weights or "imagenet"
        is_trained = not _run(*train, weights, "--fine-tune-epochs", "5", optional=not options.weights)
    if not is_trained:
        say("== ImageNet weights are not available: training from random weights")
        _run(*train, "none")
    _run("evaluate", bundle, test_tsv, "--images", photos)
    converted = "openvino-fp32"
    if _run("convert", bundle, "--to", "openvino", optional=True):
        converted = "onnxruntime-fp32"
        _run("convert", bundle, "--to", "onnxruntime")
    _run("classify", bundle, photos, "--out", labels_tsv, "--top", "2")
    # The converted engine and the original, on one photo of each class, in batches of 1: all would take minutes more.
    report, sample = os.path.join(options.out, "bench"), os.path.join(glob.escape(photos), "*", "001.jpg")
    few = ["--images", sample, "--batch", "1", "--seconds", "1"]
    _run("bench", bundle, "--engine", "onnxruntime", converted, *few, "--report", report)
    say(
        f"\nDone in {time.perf_counter() - started_s:.0f} s. In {options.out}:\n"
        "  photos/ train.tsv test.tsv   the drawn photos and their labels\n"
        "  bundle/                      the classifier, with its engines under engines/\n"
        "  labels.tsv                   a label for every photo\n"
        f"  bench/                       the speed of {converted} and of the original\n"
        f"All engines and batch sizes: picnic-edge bench {bundle}\n"
        f"Next: picnic-edge classify {bundle} YOUR_PHOTOS/"
    )


def _imagenet_is_there():
    """Whether Keras has ImageNet's weights, or could download them. A training needs half a minute to find out."""
    name = "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
    import urllib.request

    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    if os.path.exists(os.path.join(home, "models", name)):
        return True
    address = "https://storage.googleapis.com/tensorflow/keras-applications/inception_v3/" + name
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=5).close()
    except OSError:  # urllib's own errors, too
        return False
    return True


def _run(*arguments, optional=False):
    """Runs a verb as a user would. Returns 0; with optional, also the exit code for a missing requirement."""
    from edge_runtime.errors import MissingRequirement

    line = " ".join(shlex.quote(argument) for argument in arguments)
    print(f"\n== picnic-edge {line}", file=sys.stderr, flush=True)
    code = subprocess.call([sys.executable, "-m", "picnic_edge"] + list(arguments))
    if code and not (optional and code == MissingRequirement.exit_code):
        raise SystemExit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
