"""python -m benchmarks: the same as picnic-edge bench."""

import sys

from edge_runtime.cli.run import run_module

if __name__ == "__main__":
    sys.exit(run_module("benchmarks.bench.cli", sys.argv[1:]))
