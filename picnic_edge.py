"""The front door: `picnic-edge VERB ...`. A verb's package is imported only when the verb is called."""

import argparse
import contextlib
import errno
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
    "explore": ("train.cli.explore", "what is in labelled photos and what is wrong with them, as a page"),
    "train": ("train.cli.train", "labelled photos -> classifier -> bundle"),
    "evaluate": ("train.cli.evaluate", "accuracy, macro-F1 and a per-class table of a bundle on labelled photos"),
    "predict": (
        "train.cli.predict",
        "label the photos of a TSV or folder: a submission with columns file and label",
    ),
    "explain": ("train.cli.explain", "heat maps and feature maps: what the network looks at in a photo"),
    "convert": ("convert.cli", "bundle -> engine for this machine, checked against the original"),
    "classify": ("edge_runtime.cli.classify", "label photos, folders, tables, a video or a camera with a bundle"),
    "bench": ("benchmarks.bench.cli", "latency and throughput of a bundle's engines, side by side"),
    "doctor": (
        "edge_runtime.cli.doctor",
        "what this machine can run, what is missing, and the command that fixes it",
    ),
    "demo": ("", "the whole path on photos that the demo draws itself"),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        """Says what is wrong: without the password, where a camera's address stands in the verb's place."""
        from edge_runtime.secrets import hide_secrets, remember

        remember(sys.argv)
        super().error(hide_secrets(message))


def main(argv=None):
    """Runs one verb and returns its exit code."""
    parser = _Parser(
        prog="picnic-edge",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a photo classifier, turn it into a checked engine, run it on an edge device.\n\n"
        + "\n".join(f"  {verb:<10}{text}" for verb, (_, text) in VERBS.items()),
        epilog="example: picnic-edge classify bundle photos/ --out labels.tsv\n"
        "`picnic-edge VERB --help` explains a verb",
    )
    parser.add_argument("verb", choices=list(VERBS), metavar="VERB")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    parser.add_argument("--version", action="version", version=f"picnic-edge {__version__}")
    shown, told = io.StringIO(), io.StringIO()  # argparse minds no stream that is closed or full
    try:
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(told):
            options = parser.parse_args(argv)
    except SystemExit as stopped:  # --help, --version, no such verb
        error = _write(sys.stdout, shown.getvalue())
        if error is not None and not isinstance(error, BrokenPipeError):
            told.write(f"picnic-edge: standard output: cannot be written ({error.strerror})\n")
        _write(sys.stderr, told.getvalue())
        if error is None:
            raise
        return 141 if isinstance(error, BrokenPipeError) else stopped.code or 2
    if sys.version_info < (3, 7) and platform.machine() == "aarch64":
        # The last numpy for Python 3.6 ends with "Illegal instruction" on a Jetson without this.
        os.environ.setdefault("OPENBLAS_CORETYPE", "ARMV8")
    try:
        verb = demo if options.verb == "demo" else importlib.import_module(VERBS[options.verb][0]).main
        from edge_runtime.cli.run import run_verb
    except KeyboardInterrupt:
        print("picnic-edge: interrupted", file=sys.stderr)
        return 130

    return run_verb(verb, options.arguments)


def _write(stream, text):
    """Writes to standard output or standard error. Returns the OSError where that fails. Loads nothing, as verbs do."""
    if not text:
        return None
    if stream is None:
        return OSError(errno.EBADF, os.strerror(errno.EBADF))
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or Python tries, and complains, once more
        return error
    return None


def demo(argv):
    """Draws sample photos and runs every verb of the main path on them, each in a process of its own."""
    parser = argparse.ArgumentParser(
        prog="picnic-edge demo",
        description="Draw sample photos, then train, evaluate, convert, classify and benchmark on them.",
        epilog="example: picnic-edge demo --out demo",
    )
    parser.add_argument("--out", default="demo", metavar="DIR", help="where everything is written (default demo)")
    parser.add_argument("--weights", metavar="W", help="as for train (default: imagenet if it can be had, else none)")
    options = parser.parse_args(argv)
    from edge_runtime.console import say
    from train.data.samples import draw_samples

    started = time.perf_counter()
    say("== drawing photos of products")
    draw_samples(options.out)
    train_tsv, test_tsv, labels_tsv = (
        os.path.join(options.out, name) for name in ("train.tsv", "test.tsv", "labels.tsv")
    )
    bundle, photos = os.path.join(options.out, "bundle"), os.path.join(options.out, "photos")
    train = ["train", train_tsv, "--images", photos, "--out", bundle, "--weights"]
    code = _run(*train, options.weights or "imagenet", "--fine-tune-epochs", "5", may_lack=not options.weights)
    if code:
        say("== ImageNet weights cannot be had here: going on with random ones")
        _run(*train, "none")
    _run("evaluate", bundle, test_tsv, "--images", photos)
    _run("convert", bundle, "--to", "onnxruntime")
    _run("convert", bundle, "--to", "openvino", may_lack=True)
    _run("classify", bundle, photos, "--out", labels_tsv, "--top", "2")
    # One photo of each class, in batches of 1: with all photos and sizes it would take minutes more.
    report, few = os.path.join(options.out, "bench"), os.path.join(photos, "*", "001.jpg")
    _run("bench", bundle, "--images", few, "--batch", "1", "--seconds", "2", "--report", report)
    say(
        f"\nDone in {time.perf_counter() - started:.0f} s. Made in {options.out}:\n"
        "  photos/ train.tsv test.tsv   the drawn photos and their labels\n"
        "  bundle/                      the classifier, and its engines under engines/\n"
        "  labels.tsv                   a label for every photo\n"
        "  bench/                       the speed of each engine\n"
        f"Next: picnic-edge classify {bundle} YOUR_PHOTOS/"
    )


def _run(*arguments, may_lack=False):
    """Runs a verb as a user would. Returns 0, or with may_lack the exit code for what this machine lacks."""
    from edge_runtime.errors import MissingRequirement

    shown = " ".join(shlex.quote(argument) for argument in arguments)
    print(f"\n== picnic-edge {shown}", file=sys.stderr, flush=True)
    code = subprocess.call([sys.executable, "-m", "picnic_edge"] + list(arguments))
    if code and not (may_lack and code == MissingRequirement.exit_code):
        raise SystemExit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
