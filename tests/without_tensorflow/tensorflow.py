"""First on PYTHONPATH, it keeps doctor from starting TensorFlow, which takes ten times as long as the rest of it."""

raise ImportError("tests/without_tensorflow stands before the real one")
