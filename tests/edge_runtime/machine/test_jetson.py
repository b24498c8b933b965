"""What a board is and how it is set, read from recorded text of a Jetson TX2, a Xavier, an Orin, a Thor and a PC."""

import sys

import pytest

from edge_runtime.machine import jetson
from tests.edge_runtime.machine import boards


@pytest.fixture
def root(tmp_path):
    """A function: files -> a folder that stands for /."""
    return lambda files: boards.write_root(tmp_path, files)


@pytest.fixture
def no_tools(monkeypatch):
    monkeypatch.setattr(jetson, "output_of", lambda *command, **_: "")


@pytest.mark.parametrize(
    "files, chip, model",
    [
        (boards.TX2, ("Jetson TX2", "6.2"), "quill"),
        (boards.XAVIER, ("Jetson Xavier", "7.2"), "NVIDIA Jetson Xavier NX Developer Kit"),
        (boards.ORIN, ("Jetson Orin", "8.7"), "NVIDIA Jetson AGX Orin Developer Kit"),
        (boards.THOR, ("Jetson Thor", "11.0"), "NVIDIA Jetson AGX Thor Developer Kit"),
        (boards.PC, None, ""),
        ({"proc/device-tree/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0"}, None, ""),
        ({"proc/device-tree/compatible": "nvidia,p3509-0000+p3636-0001\0nvidia,tegra186\0"}, ("Jetson TX2", "6.2"), ""),
    ],
)
def test_the_chip_is_known_by_the_device_tree_whatever_the_board_is_called(root, files, chip, model):
    assert jetson.chip(root(files)) == chip
    assert jetson.model(root(files)) == model


@pytest.mark.parametrize(
    "files, release, jetpack",
    [
        (boards.TX2, "32.7.1", "4.6.1"),
        (boards.XAVIER, "35.4.1", "5.1.2"),
        (boards.ORIN, "36.4.4", "6.2.1"),
        (boards.THOR, "38.2.2", "7.0"),
    ],
)
def test_l4t_and_its_jetpack(root, no_tools, files, release, jetpack):
    assert jetson.l4t(root(files)) == release
    assert jetson.jetpack(release) == jetpack


@pytest.mark.parametrize("release, jetpack", [("35.6.4", "5.x"), ("36.4.7", "6.x"), ("39.9.9", "7.x"), ("28.2.1", "")])
def test_a_release_that_is_not_in_the_table_is_of_a_known_generation_or_unknown(release, jetpack):
    assert jetson.jetpack(release) == jetpack


def test_l4t_of_a_board_without_the_release_file_comes_from_its_package(root, monkeypatch):
    monkeypatch.setattr(
        jetson, "output_of", lambda *command: "32.7.4-20230608212426" if command[0] == "dpkg-query" else ""
    )
    assert jetson.l4t(root({})) == "32.7.4"


@pytest.mark.parametrize("said", ["", "dpkg-query: no packages found matching nvidia-l4t-core"])
def test_no_l4t_on_a_pc(root, monkeypatch, said):
    monkeypatch.setattr(jetson, "output_of", lambda *command: said)
    assert jetson.l4t(root(boards.PC)) == ""
    assert jetson.jetpack("") == jetson.jetpack("99.1.0") == ""


@pytest.mark.parametrize(
    "said, mode",
    [
        (boards.NVPMODEL, "MAXN"),
        (boards.NVPMODEL_MAXQ, "MAXQ"),
        ("NVPM VERB: Current mode: NV Power Mode: 25W\n1", "25W"),
        ("", ""),
        ("NVPM ERROR: cannot open /etc/nvpmodel.conf", ""),
    ],
)
def test_the_power_mode_s_name(said, mode):
    assert jetson.power_mode(said) == mode


@pytest.mark.parametrize(
    "files, clock", [(boards.TX2, (114, 1300)), (boards.XAVIER, (114, 1109)), (boards.THOR, (315, 1575))]
)
def test_the_gpu_clock_is_read_without_root_s_rights(root, files, clock):
    assert jetson.gpu_clock(root(files)) == clock


def test_the_gpu_clock_of_an_older_layout(root):
    folder = "sys/devices/17000000.gp10b/devfreq/17000000.gp10b/"
    assert jetson.gpu_clock(root({folder + "min_freq": "1300500000", folder + "max_freq": "1300500000"})) == (
        1300,
        1300,
    )


@pytest.mark.parametrize("said, clock", [(boards.CLOCKS, (306, 624)), (boards.CLOCKS_WITHOUT_ROOT, None), ("", None)])
def test_the_gpu_clock_that_jetson_clocks_shows(root, said, clock):
    assert jetson.gpu_clock(root({}), said) == clock


def test_a_garbled_clock_is_no_clock(root):
    files = {"sys/class/devfreq/1.gpu/min_freq": "fast", "sys/class/devfreq/1.gpu/max_freq": ""}
    assert jetson.gpu_clock(root(files)) is None


@pytest.mark.parametrize(
    "swaps, size_bytes",
    [
        (boards.TX2["proc/swaps"], 0),
        (boards.TX2["proc/swaps"] + "/swapfile file\t\t4194300\t0\t-2\n", 4194300 << 10),
        ("", 0),
        ("Filename Type Size Used Priority\n\nhalf a line\n/x file many 0 0\n", 0),
    ],
)
def test_zram_is_no_real_swap(root, swaps, size_bytes):
    assert jetson.real_swap_bytes(root({"proc/swaps": swaps})) == size_bytes


@pytest.mark.parametrize("files, version", [(boards.TX2, "10.2.300"), (boards.ORIN, "12.6.11"), (boards.PC, "")])
def test_cuda_s_version_old_and_new(root, files, version):
    assert jetson.cuda_version(root(files)) == version


def test_cameras_with_their_names_where_they_have_one(root):
    assert jetson.cameras(root(boards.TX2)) == [("/dev/video0", "vi-output, ov5693 2-0036"), ("/dev/video1", "unnamed")]
    assert jetson.cameras("/nowhere/at/all") == []


def test_a_tool_s_output_is_both_its_streams():
    assert jetson.output_of(sys.executable, "-c", "import sys; print('a'); sys.stdout.flush(); sys.exit('b')") == "a\nb"


def test_a_tool_that_is_missing_hangs_or_is_no_program_says_nothing(tmp_path):
    assert jetson.output_of("no-such-tool-anywhere") == ""
    assert jetson.output_of(str(tmp_path)) == ""
    assert jetson.output_of(sys.executable, "-c", "import time; time.sleep(60)", timeout_s=0.2) == ""


def test_a_tool_that_asks_for_input_gets_none():
    assert jetson.output_of(sys.executable, "-c", "print(repr(input()))").endswith("EOFError: EOF when reading a line")
