"""python -m edge_runtime: the same as picnic-edge classify."""

import sys

from edge_runtime.cli import classify
from edge_runtime.cli.run import run_verb

if __name__ == "__main__":
    sys.exit(run_verb(classify.main, sys.argv[1:]))
