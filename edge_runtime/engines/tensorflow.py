"""TensorFlow on the bundle's saved_model: the reference, and the engine where only TensorFlow is installed."""

import os
import typing

import numpy as np

from edge_runtime.bundle.checksums import checked_path
from edge_runtime.bundle.manifest import INPUT_NAME, OUTPUT_NAME
from edge_runtime.engines.base import Engine
from edge_runtime.machine.libraries import require


class TensorFlowEngine(Engine):
    _model: typing.Any = None
    _function: typing.Any = None

    def _open(self):
        tensorflow = require("tensorflow")
        folder = checked_path(*os.path.split(self._path()), entries=self.info.files)
        self._model = tensorflow.saved_model.load(folder)  # kept: its function does not hold its variables
        self._function = self._model.signatures["serving_default"]

    def _path(self):
        """Returns the folder of the SavedModel."""
        return self.info.path

    def _infer(self, batch):
        _, function = self._model, self._function  # keeps the model alive if another thread closes the engine now
        return np.array(function(**{INPUT_NAME: require("tensorflow").constant(batch)})[OUTPUT_NAME])

    def _close(self):
        self._model = self._function = None


create = TensorFlowEngine
