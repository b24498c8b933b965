"""python -m edge_runtime: the same as picnic-edge classify."""

import sys

from edge_runtime.cli import cli
from edge_runtime.cli.command import run_verb

if __name__ == "__main__":
    sys.exit(run_verb(cli.main, sys.argv[1:]))
