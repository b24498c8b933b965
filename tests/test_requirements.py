"""The pins for Jetson boards: all exact, none that would hide or break what JetPack brings, all there as wheels."""

import os
import re
import subprocess
import sys

import pytest

from tests.helpers import ROOT

# The first number of L4T's release -> (pins, JetPack's Python, its numpy that OpenCV and TensorRT go with)
JETPACKS = {
    "32": ("jetson-tx2.txt", "3.6", "1.19.4"),
    "35": ("jetson-jetpack5.txt", "3.8", "1.23.5"),
    "36": ("jetson-jetpack6.txt", "3.10", "1.26.4"),
    "38": ("jetson-jetpack7.txt", "3.12", "1.26.4"),
}
every_jetpack = pytest.mark.parametrize("name, python, numpy", list(JETPACKS.values()), ids=["4", "5", "6", "7"])


def pins(name):
    with open(os.path.join(ROOT, "requirements", name), encoding="utf-8") as file:
        lines = [line.split("#")[0].strip() for line in file]
    return [line for line in lines if line]


@every_jetpack
def test_every_line_is_one_exact_version(name, python, numpy):
    assert all(re.match(r"[a-z0-9-]+==[0-9.]+$", pin) for pin in pins(name))


@every_jetpack
def test_nothing_hides_or_breaks_what_jetpack_brings(name, python, numpy):
    versions = dict(pin.split("==") for pin in pins(name))
    assert versions["numpy"] == numpy
    assert not {"opencv-python", "opencv-python-headless", "tensorrt", "tensorflow", "pycuda"} & set(versions)


@every_jetpack
def test_the_runtime_s_own_requirements_are_pinned_but_for_opencv(name, python, numpy):
    with open(os.path.join(ROOT, "setup.py"), encoding="utf-8") as file:
        needed = re.search(r"install_requires=\[(.+?)\n    \]", file.read(), re.DOTALL).group(1)
    names = set(re.findall(r'^ +"([a-z0-9-]+)', needed, re.MULTILINE))
    assert {"numpy", "pillow", "tqdm"} <= names
    assert names - {pin.split("==")[0] for pin in pins(name)} == {"opencv-python-headless"}


@pytest.mark.parametrize("l4t, name", [(l4t, row[0]) for l4t, row in JETPACKS.items()] + [("", "jetson-tx2.txt")])
def test_make_jetson_installs_the_pins_of_the_jetpack_that_it_finds(l4t, name):
    plan = subprocess.check_output(["make", "-n", "jetson", "L4T=" + l4t, "JETSON_VENV=none"], cwd=ROOT).decode()
    assert re.findall(r"requirements/\S+", plan) == ["requirements/" + name]


def test_make_passes_names_with_spaces_on_and_names_the_releases_that_it_knows(tmp_path):
    """`make jetson` fails in it, and the check itself is run by a stand-in for Python."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nfor word; do echo "[$word]"; done\n')
    python.chmod(0o755)
    settings = ["L4T=99", "PYTHON=%s" % python, "JETSON_VENV=%s" % (tmp_path / "none")]
    settings += ["BUNDLE=it's a bundle", "IMAGES=my photos", "REPORT=a b.json"]
    done = subprocess.run(
        ["make", "jetson-check"] + settings, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for word in (b"it's a bundle", b"my photos", b"a b.json"):
        assert b"[%s]" % word in done.stdout
    assert b"L4T 99 is not known; known: 32 34 35 36 38 39" in done.stderr


def download(folder, python, *requirements):
    """Asks the package index for wheels that a Python takes on aarch64 with the glibc of its JetPack."""
    places = {"3.6": ["2_17"], "3.8": ["2_31", "2_28", "2_27", "2_17"]}.get(python, ["2_28", "2_27", "2_17"])
    platforms = ["manylinux2014_aarch64"] + ["manylinux_%s_aarch64" % version for version in places]
    return subprocess.run(
        [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        + ["--python-version", python, "--implementation", "cp"]
        + [word for platform in platforms for word in ("--platform", platform)]
        + ["--dest", str(folder)]
        + list(requirements),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
    )


@pytest.mark.slow
@every_jetpack
def test_the_package_index_has_every_pin_as_a_wheel_for_the_board(tmp_path, name, python, numpy):
    if download(tmp_path / "first", python, "tqdm").returncode != 0:
        pytest.skip("no package index can be reached")
    done = download(tmp_path / "wheels", python, "-r", os.path.join(ROOT, "requirements", name))
    assert done.returncode == 0, done.stdout.decode()
    assert len(os.listdir(str(tmp_path / "wheels"))) == len(pins(name))


@pytest.mark.slow
def test_the_package_index_has_no_fast_protobuf_for_the_board(tmp_path):
    """If it ever has one, the fix that doctor names and docs/jetson/tx2.md are to be changed."""
    if download(tmp_path, "3.6", "tqdm").returncode != 0:
        pytest.skip("no package index can be reached")
    assert download(tmp_path, "3.6", "protobuf<4").returncode == 0
    (wheel,) = [name for name in os.listdir(str(tmp_path)) if name.startswith("protobuf")]
    assert wheel.endswith("-none-any.whl")
