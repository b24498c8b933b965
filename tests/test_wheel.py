"""The wheel, installed into an environment of its own as users have it: nothing of the checkout, no test extras."""

import glob
import os
import shutil
import subprocess
import sys
import typing
import zipfile

import pip
import pytest

import picnic_edge
from tests import helpers
from tests.test_layout import PACKAGES, product_files

DATA_SUFFIXES = (".html", ".json")  # pages and the schema of bench.json

pytestmark = pytest.mark.slow


class Installed(typing.NamedTuple):
    """A virtual environment with nothing but the wheel and its extra onnxruntime."""

    wheel: str  # path of the .whl file
    bin: str  # the environment's folder of commands

    def run(self, program, *arguments):
        """Runs a command of the environment in the folder of the wheel. Returns what it writes to standard output."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(
            [os.path.join(self.bin, program)] + [str(argument) for argument in arguments],
            cwd=os.path.dirname(self.wheel),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: building in the checkout would pack files of earlier builds that lie in build/.
    source = str(folder / "source")
    shutil.copytree(helpers.ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "demo", "tests", "*.egg-info"))
    options = ["--disable-pip-version-check", "--quiet"]
    subprocess.check_call(
        [sys.executable, "-m", "pip", "wheel"] + options + ["--no-deps", "--wheel-dir", str(folder), source]
    )
    (wheel,) = glob.glob(str(folder / "*.whl"))
    subprocess.check_call([sys.executable, "-m", "venv", str(folder / "venv")])
    environment = Installed(wheel, str(folder / "venv" / "bin"))
    # The pip that comes with Python 3.6 knows too few kinds of wheels.
    environment.run("python", "-m", "pip", "install", *options, "pip==" + pip.__version__)
    environment.run("python", "-m", "pip", "install", *options, "--only-binary=:all:", wheel + "[onnxruntime]")
    return environment


def test_it_holds_every_module_and_page_and_no_test(installed):
    data = {
        os.path.relpath(os.path.join(folder, name), helpers.ROOT)
        for package in PACKAGES
        for folder, _, names in os.walk(os.path.join(helpers.ROOT, package))
        for name in names
        if name.endswith(DATA_SUFFIXES)
    }
    names = {name for name in zipfile.ZipFile(installed.wheel).namelist() if ".dist-info/" not in name}
    assert names == data | set(product_files()) - {"setup.py"}


def test_it_installs_whole_and_is_what_runs(installed):
    installed.run("python", "-m", "pip", "check")
    assert installed.run("picnic-edge", "--version").strip() == "picnic-edge " + picnic_edge.__version__
    place = installed.run("python", "-c", "import edge_runtime; print(edge_runtime.__file__)")
    assert place.startswith(os.path.dirname(installed.bin))


@pytest.mark.parametrize("verb", list(picnic_edge.VERBS))
def test_every_verb_explains_itself(installed, verb):
    assert verb in installed.run("picnic-edge", "--help").split()
    assert f"usage: picnic-edge {verb} " in installed.run("picnic-edge", verb, "--help")


def test_photos_are_labelled(installed, tiny_bundle, tmp_path):
    for colour, rgb in helpers.COLOURS.items():
        helpers.write_photo(tmp_path / "photos" / (colour + ".jpg"), helpers.photo(rgb))
    rows = helpers.read_rows_of(installed.run("picnic-edge", "classify", tiny_bundle, tmp_path / "photos").encode())
    assert {row["file"]: row["label"] for row in rows} == {colour + ".jpg": colour for colour in helpers.COLOURS}
