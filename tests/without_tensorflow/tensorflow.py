"""Stands before the real one on PYTHONPATH: see tests.helpers.WITHOUT_TENSORFLOW."""

raise ImportError("tests/without_tensorflow stands before the real one")
