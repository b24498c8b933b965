"""make arm64-check: the wheel on Debian for Arm, emulated, and its answers beside this machine's.

Debian for arm64 in a folder, run by qemu's user emulation: the Python and the aarch64 wheels that a Raspberry Pi gets.
It shows whether they install, and whether pixels, labels and probabilities are the same. It says nothing of speed.
"""

import argparse
import contextlib
import csv
import glob
import os
import shutil
import subprocess
import sys
import tempfile
import typing

import numpy as np

from benchmarks.commands import say

SUITES = {"bookworm": "3.11", "trixie": "3.13"}  # Debian's release -> its Python; Raspberry Pi OS is made of both
MAX_DIFFERENCE = 1e-3  # of a probability
MAX_ROUNDED = 1e-3  # share of the values that OpenCV's resize may round to the other side on another processor
_PACKAGES = "python3,python3-venv,python3-pip,libgomp1"
_BINFMT = "/proc/sys/fs/binfmt_misc"
_QEMU = "/usr/bin/qemu-aarch64-static"
# The head of an ELF file for aarch64, and which of its bits count. F: the kernel opens qemu now, outside of the chroot.
_MAGIC = r"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
_PLATFORMS = ["manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"]
_REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_NOT_SOURCE = (".*", "build", "demo", "tests", "*.egg-info", "__pycache__")
# The first photo once more in other formats: {file name: settings of Pillow}
_FORMATS: typing.Dict[str, dict] = {
    "other.png": {},
    "other.webp": {"quality": 90},
    "lossless.webp": {"lossless": True},
    "progressive.jpg": {"progressive": True, "quality": 90},
}


def main(argv=None):
    """Runs the check. Returns the exit code: 0, 3 (something differs) or 4 (this machine cannot emulate)."""
    this = argparse.ArgumentParser(
        prog="python -m benchmarks.board.arm64_check",
        description="Install the wheel into an emulated Debian for Arm, and compare its answers with this machine's.",
        epilog="example: make arm64-check BUNDLE=bundle IMAGES=photos",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train` or `import`")
    this.add_argument("--images", metavar="DIR", required=True, help="folder of photos")
    this.add_argument("--photos", type=int, default=2, metavar="N", help="how many of them (default %(default)s)")
    this.add_argument("--suite", choices=list(SUITES), default="bookworm", help="of Debian (default %(default)s)")
    this.add_argument("--root", metavar="DIR", default="build/arm64", help="where Debian goes (default %(default)s)")
    options = this.parse_args(argv)
    reason = lacking()
    if reason:
        say(f"arm64-check is skipped: {reason}")
        return 4
    root = os.path.abspath(os.path.join(options.root, options.suite))
    with _emulation():
        _make_root(root, options.suite)
        work = os.path.join(root, "check")
        shutil.rmtree(work, ignore_errors=True)
        write_photos(options.images, os.path.join(work, "photos"), options.photos)
        shutil.copytree(options.bundle, os.path.join(work, "bundle"))
        engines = sorted(map(os.path.basename, glob.glob(os.path.join(work, "bundle", "engines", "litert-*"))))
        _install(root, "onnxruntime,litert" if engines else "onnxruntime", SUITES[options.suite])
        _run_there(root, ["picnic-edge", "doctor"])
        for run, out in ((_run_here, "here"), (_run_there, "there")):
            run(root, ["picnic-edge", "classify", *_INPUTS, "--engine", "onnxruntime", "--out", f"/check/{out}.tsv"])
            chosen = ["--engine", *engines] if engines else []
            run(root, ["python", "-m", "benchmarks.board.answers", *_INPUTS, f"/check/{out}.npz", *chosen])
    here, there = ([_rows(f"{work}/{out}.tsv"), np.load(f"{work}/{out}.npz")] for out in ("here", "there"))
    problems = compare_rows(here[0], there[0]) + compare_arrays(here[1], there[1])
    for problem in problems:
        say("differs: " + problem)
    return 3 if problems else 0


_INPUTS = ["/check/bundle", "/check/photos"]  # in the emulated machine


def lacking():
    """Returns what this machine lacks for the check, and how to get it; "" where it has all."""
    if os.geteuid() != 0:
        return "only root may register an emulator and change the root folder; run it with sudo"
    missing = [name for name in ("debootstrap", _QEMU, "unshare", "chroot") if not shutil.which(name)]
    if missing:
        return f"{', '.join(missing)} not installed; sudo apt-get install debootstrap qemu-user-static"
    if not os.path.isdir(_BINFMT):
        return f"the kernel has no {_BINFMT}; sudo modprobe binfmt_misc"
    return ""


def write_photos(images, folder, count):
    """Writes some photos of a folder as they are, and the first one in other formats, too.

    Args:
        images: folder of photos, below which they are looked for.
        folder: to write into; it must not exist.
        count: how many photos.
    """
    from PIL import Image

    paths = sorted(glob.glob(os.path.join(images, "**", "*.*"), recursive=True))
    chosen = [path for path in paths if path.lower().endswith((".jpg", ".jpeg", ".png", ".webp"))][:count]
    os.makedirs(folder)
    for path in chosen:
        shutil.copy(path, folder)
    with Image.open(chosen[0]) as picture:
        rgb = picture.convert("RGB")
    for name, settings in _FORMATS.items():
        rgb.save(os.path.join(folder, name), **settings)


def compare_rows(here, there):
    """Compares two machines' results of `picnic-edge classify`, and prints a line for each photo.

    Args:
        here, there: {photo: row of the table, a dict}.

    Returns:
        list of texts: what differs by more than it may.
    """
    problems = []
    for name in sorted(set(here) | set(there)):
        ours, theirs = here.get(name, {}), there.get(name, {})
        difference = abs(float(ours.get("confidence") or 0) - float(theirs.get("confidence") or 0))
        same = ours.get("label") == theirs.get("label") and ours.get("error") == theirs.get("error")
        text = (
            f"onnxruntime, {name}: {ours.get('label')} here, {theirs.get('label')} there, confidence {difference:.1e}"
        )
        say(text)
        problems += [] if same and difference <= MAX_DIFFERENCE else [text]
    return problems


def compare_arrays(here, there):
    """Compares two machines' arrays of benchmarks.board.answers, and prints a line for each.

    Args:
        here, there: {name: array}. Decoded photos must be the same bytes. A few of the network's pixels may differ by
            1, and an engine's probabilities a little, but not its best class.

    Returns:
        list of texts: what differs by more than it may.
    """
    problems = [f"{name}: only {'here' if name in here else 'there'}" for name in sorted(set(here) ^ set(there))]
    for name in sorted(set(here) & set(there)):
        ours, theirs = here[name], there[name]
        if ours.shape != theirs.shape:
            problems.append(f"{name}: {ours.shape} here, {theirs.shape} there")
            continue
        difference = np.abs(ours.astype(np.float64) - theirs)
        count, most = np.count_nonzero(difference), difference.max()
        text = f"{name}: {count} of {difference.size} values differ, by at most {most:.1e}"
        say(text)
        if name.startswith("decoded/"):
            same = count == 0
        elif name.startswith("pixels/"):
            same = most <= 1 and count <= MAX_ROUNDED * difference.size
        else:
            same = most <= MAX_DIFFERENCE and ours.argmax() == theirs.argmax()
        problems += [] if same else [text]
    return problems


def _rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return {row["file"]: row for row in csv.DictReader(file, dialect="excel-tab")}


@contextlib.contextmanager
def _emulation():
    """Lets the kernel run aarch64 programs in the block, where it does not anyway."""
    register = os.path.join(_BINFMT, "register")
    if not os.path.exists(register):
        subprocess.check_call(["mount", "-t", "binfmt_misc", "binfmt_misc", _BINFMT])
    if any(_handles_aarch64(path) for path in glob.glob(os.path.join(_BINFMT, "*aarch64*"))):
        yield
        return
    with open(register, "w") as file:
        file.write(f":picnic-aarch64:M::{_MAGIC}:{_MASK}:{_QEMU}:F")
    try:
        yield
    finally:
        with open(os.path.join(_BINFMT, "picnic-aarch64"), "w") as file:
            file.write("-1")


def _handles_aarch64(path):
    """Whether an entry of binfmt_misc is enabled and works in a chroot that has no qemu (flag F)."""
    with open(path) as file:
        lines = file.read().splitlines()
    flags = [line[len("flags:") :] for line in lines if line.startswith("flags:")]
    return "enabled" in lines and any("F" in text for text in flags)


def _make_root(root, suite):
    """Puts Debian into the folder root (300 MB, some minutes), where an earlier run has not."""
    if os.path.exists(os.path.join(root, "usr/bin/python3")):
        return
    say(f"Debian {suite} for arm64 goes to {root}")
    unfinished = root + ".unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    os.makedirs(unfinished)
    command = ["debootstrap", "--arch=arm64", "--variant=minbase", "--include=" + _PACKAGES, suite, unfinished]
    subprocess.check_call(command, stdout=sys.stderr)
    os.rename(unfinished, root)


def _install(root, extras, python):
    """Installs the wheel of this repository in the emulated machine, with aarch64 wheels from the package index."""
    wheels = os.path.join(root, "wheels")
    shutil.rmtree(wheels, ignore_errors=True)
    os.makedirs(wheels)
    with tempfile.TemporaryDirectory() as scratch:  # a build in the repository would leave files there
        source = os.path.join(scratch, "source")
        shutil.copytree(_REPOSITORY, source, ignore=shutil.ignore_patterns(*_NOT_SOURCE))
        _pip(["wheel", "--no-deps", "--wheel-dir", wheels, source])
    (wheel,) = glob.glob(os.path.join(wheels, "picnic_edge-*.whl"))
    where = [word for platform in _PLATFORMS for word in ("--platform", platform)]
    where += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    _pip(["download", *where, "--dest", wheels, f"{wheel}[{extras}]"])
    say("\n".join(sorted(os.listdir(wheels))))
    if not os.path.exists(os.path.join(root, "opt/picnic/bin/pip")):
        _run_there(root, ["python3", "-m", "venv", "/opt/picnic"])
    install = ["pip", "install", "--quiet", "--no-index", "--find-links", "/wheels"]
    _run_there(root, [*install, f"/wheels/{os.path.basename(wheel)}[{extras}]"])
    _run_there(root, [*install, "--no-deps", "--force-reinstall", f"/wheels/{os.path.basename(wheel)}"])


def _pip(arguments):
    subprocess.check_call([sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments])


def _run_here(root, command):
    """Runs a command of this repository on this machine; /check is the emulated machine's."""
    module = {"picnic-edge": ["-m", "picnic_edge"], "python": []}[command[0]]
    words = [root + word if word.startswith("/check") else word for word in command[1:]]
    subprocess.check_call([sys.executable, *module, *words], cwd=_REPOSITORY, stdout=sys.stderr)


def _run_there(root, command):
    """Runs a command in the emulated machine, with a /proc and a /sys that are gone afterwards."""
    say("arm64$ " + " ".join(command))
    mounts = 'mount -t proc proc "$0/proc" && mount -t sysfs sysfs "$0/sys" && exec "$@"'
    shell = ["unshare", "--mount", "sh", "-c", mounts, root]
    inside = ["chroot", root, "/usr/bin/env", "-i", "PATH=/opt/picnic/bin:/usr/bin:/bin", "HOME=/root", "LANG=C.UTF-8"]
    subprocess.check_call(shell + inside + command, stdout=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
