"""`make jetson` on Python 3.6 and an OpenCV as JetPack's: 4.1.1, and unknown to pip. What it installs runs.

Nothing of the tests' own environment is in there: a library that only pytest brings would hide what the board lacks.
"""

import glob
import json
import os
import shutil
import subprocess
import sys

import pytest

from tests import helpers

OPENCV = "opencv-python-headless==4.1.1.26"  # JetPack 4.6 has 4.1.1

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.version_info[:2] != (3, 6), reason="JetPack 4.6 has Python 3.6"),
]


def run(command, folder):
    """Runs a command in a folder, without this environment's Python settings. Returns its standard output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=str(folder),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    return done.stdout.decode("utf-8")


@pytest.fixture(scope="module")
def picnic_edge(tmp_path_factory):
    """Returns a function that runs the installed command, in a folder that is not the checkout."""
    folder = tmp_path_factory.mktemp("jetson")
    source, environment = folder / "source", folder / "venv"
    ignored = shutil.ignore_patterns(".*", "build", "demo", "tests", "*.egg-info")
    shutil.copytree(helpers.ROOT, str(source), ignore=ignored)
    base = os.path.join(sys.base_prefix, "bin", "python3.6")
    run([base, "-m", "venv", environment], folder)
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    run(pip + ["pip==21.3.1"], folder)  # the first one knows too few kinds of wheels
    run(pip + ["--no-deps", "--only-binary=:all:", OPENCV], folder)
    (metadata,) = glob.glob(str(environment / "lib" / "python3.6" / "site-packages" / "opencv*.dist-info"))
    shutil.rmtree(metadata)
    run(["make", "jetson", "PYTHON=%s" % base, "JETSON_VENV=%s" % environment], source)
    return lambda *arguments: run((environment / "bin" / "picnic-edge",) + arguments, folder)


@pytest.fixture(scope="module")
def bundle(pristine_bundle, tmp_path_factory):
    return shutil.copytree(pristine_bundle, str(tmp_path_factory.mktemp("board") / "bundle"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    helpers.write_photos(folder, per_class=2)
    return str(folder)


def test_doctor_knows_the_opencv_that_pip_does_not(picnic_edge):
    checks = {check["name"]: check for check in json.loads(picnic_edge("doctor", "--json"))["checks"]}
    assert checks["opencv-python-headless"]["found"] == "4.1.1 (not installed by pip)"
    assert checks["numpy"]["found"] == "1.19.4" and checks["onnxruntime"]["status"] == "ok"
    assert "-> " in picnic_edge("doctor")


def test_photos_are_labelled_by_the_bundle_s_model_and_by_a_converted_engine(picnic_edge, bundle, photos):
    picnic_edge("convert", bundle, "--to", "onnxruntime")
    for engine in ("onnxruntime", "onnxruntime-fp32"):
        rows = helpers.read_rows_of(picnic_edge("classify", bundle, photos, "--engine", engine).encode())
        assert len(rows) == 6 and all(os.path.dirname(row["file"]) == row["label"] for row in rows)


def test_the_bench_measures(picnic_edge, bundle, photos, tmp_path):
    options = ["--engine", "onnxruntime", "--seconds", "0.2", "--batch", "1", "--report", tmp_path]
    picnic_edge("bench", bundle, "--images", photos, *options)
    document = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    (engine,) = document["engines"]
    assert engine["images_per_s_b1"] > 0 and document["libraries"]["opencv"] == "4.1.1"
