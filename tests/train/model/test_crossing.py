"""A bundle trained with one Python and TensorFlow must run with another's: the training machine's with the board's.

The suite of each Python leaves its trained bundle in build/test-bundles; this one takes those of the others.
"""

import os
import re
import sys

import pytest

from edge_runtime.bundle.reading import Bundle
from edge_runtime.engines.kinds import create_engine
from edge_runtime.engines.record import EngineInfo
from tests.conftest import BUILD
from tests.planted import measure
from train.model.export import MAX_DIFFERENCE_RANDOM

OWN = "python%d.%d" % sys.version_info[:2]
FOREIGN = sorted(
    name
    for name in (os.listdir(BUILD) if os.path.isdir(BUILD) else ())
    if re.fullmatch(r"python\d+\.\d+", name) and name != OWN
)
WHY_NOT = f"no bundle of another Python in {BUILD}: run the suite with another Python first"


@pytest.mark.parametrize("kind, file", [("onnxruntime", "model.onnx"), ("tensorflow", "saved_model")])
@pytest.mark.parametrize("name", FOREIGN or [pytest.param("none", marks=pytest.mark.skip(WHY_NOT))])
def test_a_bundle_of_another_python_gives_its_own_answers_here(name, kind, file):
    pytest.importorskip(kind)
    bundle = Bundle.open(os.path.join(BUILD, name))
    written_by = bundle.manifest["training"]["machine"]["python"]
    assert written_by.split(".")[:2] == name.replace("python", "").split(".")
    sample = bundle.sample()
    info = EngineInfo(kind, kind, "fp32", bundle.file(file), None)
    with create_engine(info, bundle.input_spec.shape, len(bundle.class_names), 8, None).open() as engine:
        comparison = measure(engine, sample, [8])
    assert comparison.photos == len(sample.names) > 0
    assert comparison.top1_agreement == 1.0
    assert comparison.max_abs_difference <= MAX_DIFFERENCE_RANDOM
