"""The pins for the Jetson TX2: all exact, none that would hide or break what JetPack brings, all there as wheels."""

import os
import re
import subprocess
import sys

import pytest

from tests.helpers import ROOT

PINS = os.path.join(ROOT, "requirements", "jetson-tx2.txt")


def pins():
    with open(PINS, encoding="utf-8") as file:
        lines = [line.split("#")[0].strip() for line in file]
    return [line for line in lines if line]


def test_every_line_is_one_exact_version():
    assert all(re.match(r"[a-z0-9-]+==[0-9.]+$", pin) for pin in pins())


def test_nothing_hides_or_breaks_what_jetpack_brings():
    versions = dict(pin.split("==") for pin in pins())
    assert versions["numpy"] == "1.19.4"
    assert not {"opencv-python", "opencv-python-headless", "tensorrt", "tensorflow", "pycuda"} & set(versions)


def test_the_runtime_s_own_requirements_are_pinned_but_for_opencv():
    with open(os.path.join(ROOT, "setup.py"), encoding="utf-8") as file:
        needed = re.search(r"install_requires=\[(.+?)\n    \]", file.read(), re.DOTALL).group(1)
    names = set(re.findall(r'^ +"([a-z0-9-]+)', needed, re.MULTILINE))
    assert {"numpy", "pillow", "tqdm"} <= names
    assert names - {pin.split("==")[0] for pin in pins()} == {"opencv-python-headless"}


def download(folder, *requirements):
    """Asks the package index for wheels that Python 3.6 takes on aarch64."""
    return subprocess.run(
        [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        + ["--python-version", "36", "--implementation", "cp", "--abi", "cp36m", "--platform", "manylinux2014_aarch64"]
        + ["--dest", str(folder)]
        + list(requirements),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
    )


@pytest.mark.slow
def test_the_package_index_has_every_pin_as_a_wheel_for_the_board(tmp_path):
    if download(tmp_path / "first", "tqdm").returncode != 0:
        pytest.skip("no package index can be reached")
    done = download(tmp_path / "wheels", "-r", PINS)
    assert done.returncode == 0, done.stdout.decode()
    assert len(os.listdir(str(tmp_path / "wheels"))) == len(pins())


@pytest.mark.slow
def test_the_package_index_has_no_fast_protobuf_for_the_board(tmp_path):
    """If it ever has one, the fix that doctor names and docs/jetson/tx2.md are to be changed."""
    if download(tmp_path, "tqdm").returncode != 0:
        pytest.skip("no package index can be reached")
    assert download(tmp_path, "protobuf<4").returncode == 0
    (wheel,) = [name for name in os.listdir(str(tmp_path)) if name.startswith("protobuf")]
    assert wheel.endswith("-none-any.whl")
