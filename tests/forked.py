"""Loaded once by the process that the fixture `forked` forks children from: what these need, and no heavy library."""

from benchmarks.bench import worker
from convert import child
from tests.benchmarks.bench import stub_engines  # noqa: F401

for module in (worker, child):
    module.die_with_parent = lambda parent: None  # their parent is this process, which ends with the tests
