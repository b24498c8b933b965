"""What runs on the edge device: photos and frames in, labels out, through the engine of a bundle.

Importing it loads numpy, OpenCV and Pillow only; engine libraries are loaded when an engine is opened.
"""

from edge_runtime.classifier import Classifier, Prediction

__all__ = ["Classifier", "Prediction"]
