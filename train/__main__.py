"""python -m train: the same as picnic-edge train."""

import sys

from edge_runtime.cli.command import run_verb
from train.cli import cli

if __name__ == "__main__":
    sys.exit(run_verb(cli.main, sys.argv[1:]))
