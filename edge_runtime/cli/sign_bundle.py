"""python -m edge_runtime.cli.sign_bundle BUNDLE: signs a bundle that was written without a key, and its engines."""

import argparse
import os
import sys

from edge_runtime import files
from edge_runtime.bundle import checksums, manifest, reading, signing
from edge_runtime.cli.run import run_verb
from edge_runtime.console import say
from edge_runtime.engines.record import ENGINE_JSON
from edge_runtime.engines.selection import list_engines
from edge_runtime.errors import BundleError, CorruptFile, UsageError


def main(argv=None):
    """Signs a bundle's manifest.json and every engine.json, after checking the sha256 of all files.

    Raises:
        UsageError: there is no key, or the bundle cannot be written to.
        BundleError: a file has changed. An engine with a changed file is not signed, the others are.
    """
    parser = argparse.ArgumentParser(
        prog="python -m edge_runtime.cli.sign_bundle",
        description="Check all files of a bundle and its engines, then sign them. "
        f"{signing.KEY_FILE} names the file with the key.",
        epilog=f"example: {signing.KEY_FILE}=key python -m edge_runtime.cli.sign_bundle bundle",
    )
    parser.add_argument("bundle", help="folder written by `picnic-edge train` or `import`")
    options = parser.parse_args(argv)
    if not signing.key():
        raise UsageError(f"{signing.KEY_FILE} is not set: set it to the name of the file with the key")
    bundle = reading.Bundle.open(options.bundle, need_signature=False)
    with checksums.advising(manifest.ADVICE):
        checksums.check_files(bundle.path, bundle.files, sums=True)
    _sign(bundle.file(manifest.MANIFEST), bundle.manifest)
    problems = []
    for info in list_engines(bundle):
        if info.record is None:
            continue
        try:
            if info.record["source"]["bundle_id"] != bundle.id:
                raise CorruptFile(f"{info.path}: was built from bundle {info.record['source']['bundle_id']}")
            checksums.check_files(info.path, info.files, sums=True)
            _sign(os.path.join(info.path, ENGINE_JSON), info.record)
        except CorruptFile as error:
            problems.append(str(error))
    if problems:
        raise BundleError("\n".join(["the bundle is signed, but not these engines:"] + problems))


def _sign(path, document):
    with files.named(path):
        files.write_json(path, signing.signed(document))
    say(f"signed {path}")


if __name__ == "__main__":
    sys.exit(run_verb(main, sys.argv[1:]))
