"""Facts about a Jetson board and its settings, from files and NVIDIA's tools; nothing here needs root.

Functions that read files take the folder that stands for /, so that the files of a recorded board can be read.
Sources: jetson_stats and Linux' device trees (chips), jetson-containers and L4T's release notes (JetPack), the output
of nvpmodel and jetson_clocks on boards.
"""

import glob
import os
import re
import subprocess
import typing


class Chip(typing.NamedTuple):
    """A family of Jetson boards, and the compute capability of its GPU."""

    name: str
    compute_capability: str


# Part of /proc/device-tree/compatible -> the board's family and its GPU
_CHIPS = (
    ("nvidia,tegra186", Chip("Jetson TX2", "6.2")),
    ("nvidia,tegra210", Chip("Jetson Nano or TX1", "5.3")),
    ("nvidia,tegra194", Chip("Jetson Xavier", "7.2")),
    ("nvidia,tegra234", Chip("Jetson Orin", "8.7")),
    ("nvidia,tegra264", Chip("Jetson Thor", "11.0")),
)

_JETPACKS = {
    "32.6.1": "4.6",
    "32.7.1": "4.6.1",
    "32.7.2": "4.6.2",
    "32.7.3": "4.6.3",
    "32.7.4": "4.6.4",
    "32.7.5": "4.6.5",
    "32.7.6": "4.6.6",
    "34.1.1": "5.0.1",
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "36.2.0": "6.0 DP",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.5.0": "6.2.2",
    "38.2.0": "7.0",
    "38.2.2": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
}
# The first number of an L4T release -> JetPack, for releases that the table lacks
_GENERATIONS = {"32": "4", "34": "5", "35": "5", "36": "6", "38": "7", "39": "7"}

# Folders with a GPU's clocks: its device is named gp10b, gv11b, ga10b or gpu, by board and release; on Thor gpu-gpc-0
GPU_CLOCKS = ("sys/class/devfreq/*.g[pva]*", "sys/class/devfreq/gpu-gpc-*", "sys/devices/*.gp10b/devfreq/*.gp10b")

# 4 GiB in a file. nvzramconfig's swap is compressed memory, which does not help a build.
SWAP_COMMANDS = (
    "sudo systemctl disable nvzramconfig\n"
    "sudo fallocate -l 4G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon /swapfile\n"
    "echo '/swapfile none swap sw 0 0' | sudo tee -a /etc/fstab"
)


def read(root, name):
    """Returns the text of a file without NULs and blanks at its ends, "" where it cannot be read."""
    try:
        with open(os.path.join(root, name), encoding="utf-8", errors="replace") as file:
            return file.read().replace("\0", "\n").strip()
    except OSError:
        return ""


def output_of(*command, timeout_s=10):
    """Returns what a command prints (both streams), "" where it is missing, fails to start or takes too long."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace").strip()


def model(root="/"):
    """Returns the board's name from the device tree, "" on a PC."""
    return read(root, "proc/device-tree/model")


def chip(root="/"):
    """Returns the Chip of a Jetson, None on other machines. The name in the device tree changes with releases."""
    compatible = read(root, "proc/device-tree/compatible").split()
    return next((family for name, family in _CHIPS if name in compatible), None)


def l4t(root="/"):
    """Returns the release of Linux for Tegra, such as "32.7.1", "" where there is none."""
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", read(root, "etc/nv_tegra_release"))
    if match:
        return ".".join(match.groups())
    package = output_of("dpkg-query", "--showformat=${Version}", "--show", "nvidia-l4t-core")
    return _first_group(r"^(\d+\.\d+\.\d+)", package)


def jetpack(release):
    """Returns the JetPack that an L4T release belongs to: "6.2.1"; "6.x" for a release that is new; "" if not known."""
    generation = _GENERATIONS.get(release.split(".")[0])
    return _JETPACKS.get(release) or (f"{generation}.x" if generation else "")


def power_mode(text):
    """Returns the name in what `nvpmodel -q` prints, such as "MAXN", "" where there is none."""
    return _first_group(r"NV Power Mode: *(\S+)", text)


def gpu_clock(root="/", text=""):
    """Returns the GPU's (lowest, highest) clock in MHz; both are the same where jetson_clocks has pinned it.

    Args:
        root: folder that stands for /, whose sysfs is read first.
        text: what `jetson_clocks --show` prints, which needs root's rights.

    Returns:
        (lowest, highest), or None where it is not known.
    """
    for folder in [path for pattern in GPU_CLOCKS for path in sorted(glob.glob(os.path.join(root, pattern)))]:
        lowest, highest = read(folder, "min_freq"), read(folder, "max_freq")
        if lowest.isdigit() and highest.isdigit():
            return int(lowest) // 1000000, int(highest) // 1000000
    match = re.search(r"^GPU MinFreq=(\d+) MaxFreq=(\d+)", text, re.MULTILINE)
    return (int(match.group(1)) // 1000000, int(match.group(2)) // 1000000) if match else None


def real_swap_bytes(root="/"):
    """Returns the size of all swap that is not compressed memory (zram), the only swap of a new Jetson."""
    lines = [line.split() for line in read(root, "proc/swaps").splitlines()[1:]]
    return sum(int(line[2]) for line in lines if len(line) > 2 and "zram" not in line[0] and line[2].isdigit()) * 1024


def cuda_version(root="/"):
    """Returns the version of the CUDA toolkit under /usr/local/cuda, such as "10.2.300", "" where there is none."""
    old = _first_group(r"CUDA Version ([\d.]+)", read(root, "usr/local/cuda/version.txt"))
    new = r'"cuda"\s*:\s*{[^}]*"version"\s*:\s*"([\d.]+)"'
    return old or _first_group(new, read(root, "usr/local/cuda/version.json"))


def cameras(root="/"):
    """Returns [(device, name)] of the cameras that Linux sees, such as ("/dev/video0", "vi-output, ov5693 2-0036")."""
    devices = [os.path.basename(path) for path in sorted(glob.glob(os.path.join(root, "dev/video[0-9]*")))]
    return [(f"/dev/{name}", read(root, f"sys/class/video4linux/{name}/name") or "unnamed") for name in devices]


def _first_group(pattern, text):
    """Returns the first group of a regular expression in a text, "" where it does not match."""
    match = re.search(pattern, text)
    return match.group(1) if match else ""
