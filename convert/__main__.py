"""python -m convert: the same as picnic-edge convert."""

import sys

from convert import cli
from edge_runtime.cli.run import run_verb

if __name__ == "__main__":
    sys.exit(run_verb(cli.main, sys.argv[1:]))
