"""In child processes of a test, stands where pycuda would be: see tests/simulator/__init__.py."""

import os
import sys

sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3)))
try:
    from tests.simulator import install_from_environment
finally:
    del sys.path[0]
install_from_environment()
