"""python -m train: the same as picnic-edge train."""

import sys

from edge_runtime.cli.run import run_verb
from train.cli import train

if __name__ == "__main__":
    sys.exit(run_verb(train.main, sys.argv[1:]))
