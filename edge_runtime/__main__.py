"""python -m edge_runtime: the same as picnic-edge classify."""

import sys

from edge_runtime.cli.run import run_module

if __name__ == "__main__":
    sys.exit(run_module("edge_runtime.cli.classify", sys.argv[1:]))
