"""What runs on the edge device: photos and frames in, labels out, through the engine of a bundle.

Classifier, at its first use, loads numpy, OpenCV and Pillow only; engine libraries are loaded when an engine is opened.
"""

import importlib
import sys
import types
import typing

if typing.TYPE_CHECKING:
    from edge_runtime.classifier import Classifier, Prediction

__all__ = ["Classifier", "Prediction"]


class _Package(types.ModuleType):
    """Loads the classifier late: doctor must run where its libraries are missing. Python 3.6 knows no other way."""

    def __getattr__(self, name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module("edge_runtime.classifier"), name)


sys.modules[__name__].__class__ = _Package
