"""python -m benchmarks: the same as picnic-edge bench."""

import sys

from benchmarks.bench import cli
from edge_runtime.cli.run import run_verb

if __name__ == "__main__":
    sys.exit(run_verb(cli.main, sys.argv[1:]))
