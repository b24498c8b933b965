"""What each entrance loads: a board must not import TensorFlow by accident."""

import os
import subprocess
import sys

import pytest

from tests.helpers import COLOURS, ROOT, photo, write_photo

# At the end of the code given, the top-level modules that are loaded are written to stderr.
_REPORT = "\nsys.stderr.write('\\nLOADED ' + ' '.join(sorted({name.split('.')[0] for name in sys.modules})))"


def loaded_by(code):
    """Returns the set of top-level modules that a fresh interpreter has loaded after running code."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys\n" + code + _REPORT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=ROOT),
        timeout=120,
    )
    said = done.stderr.decode()
    assert done.returncode == 0, said
    return set(said.splitlines()[-1].split()[1:])


def loaded_by_command(*arguments, before=""):
    return loaded_by(
        before + "import picnic_edge\n"
        f"try:\n    code = picnic_edge.main({[os.fspath(argument) for argument in arguments]!r})\n"
        "except SystemExit as stopped:\n    code = stopped.code\n"
        "assert code == 0, code"
    )


HEAVY = {"tensorflow", "keras", "pandas", "onnxruntime", "openvino", "tensorrt", "pycuda", "sklearn", "scipy", "onnx"}
HEAVY |= {"ai_edge_litert"}
OURS_ABOVE = {"train", "convert", "benchmarks"}


@pytest.fixture(scope="module")
def on_import():
    return loaded_by("import edge_runtime")


def test_importing_the_runtime_loads_no_engine_and_no_heavy_library(on_import):
    assert on_import & HEAVY == set()


def test_importing_the_runtime_loads_nothing_from_the_floors_above(on_import):
    assert on_import & OURS_ABOVE == set()


def test_the_classifier_loads_what_it_says_and_the_package_loads_it_late(on_import):
    assert on_import & {"numpy", "cv2", "PIL"} == set(), "doctor runs where these are missing"
    loaded = loaded_by("from edge_runtime import Classifier, Prediction\nassert Classifier.open")
    assert {"edge_runtime", "numpy", "cv2", "PIL"} <= loaded and loaded & HEAVY == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]], ids=" ".join)
def test_help_does_not_even_load_numpy(arguments):
    assert loaded_by_command(*arguments) & (HEAVY | OURS_ABOVE | {"numpy", "cv2", "PIL", "edge_runtime"}) == set()


@pytest.mark.parametrize("verb", ["classify", "doctor", "bench", "convert"])
def test_a_device_verb_s_help_loads_no_heavy_library(verb):
    assert loaded_by_command(verb, "--help") & HEAVY == set()


def test_doctor_looks_libraries_up_without_loading_them():
    # The processes in which it asks TensorFlow and others, seconds each, have their own tests.
    ask_nobody = "from edge_runtime.cli import doctor\ndoctor.run_probe = lambda code: doctor.Answer(None, 'no')\n"
    assert loaded_by_command("doctor", before=ask_nobody) & HEAVY == set()


def test_classifying_with_onnxruntime_loads_neither_tensorflow_nor_pandas(pristine_bundle, tmp_path):
    write_photo(str(tmp_path / "a.jpg"), photo(COLOURS["red"]))
    loaded = loaded_by_command("classify", pristine_bundle, tmp_path, "--engine", "onnxruntime")
    assert loaded & (HEAVY | OURS_ABOVE) == {"onnxruntime"}
