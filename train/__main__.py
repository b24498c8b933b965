"""python -m train: the same as picnic-edge train."""

import sys

from edge_runtime.cli.run import run_module

if __name__ == "__main__":
    sys.exit(run_module("train.cli.train", sys.argv[1:]))
