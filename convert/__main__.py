"""python -m convert: the same as picnic-edge convert."""

import sys

from edge_runtime.cli.run import run_module

if __name__ == "__main__":
    sys.exit(run_module("convert.cli", sys.argv[1:]))
