"""picnic-edge doctor: what this machine has, what it lacks, and the command that fixes it."""

import json
import os
import platform
import shutil
import sys
import types

import cv2
import pytest

from edge_runtime.cli import doctor
from edge_runtime.cli.doctor import Answer
from edge_runtime.engines import tf_trt
from edge_runtime.errors import MissingRequirement
from edge_runtime.machine import cpu, jetson, libraries, memory
from tests.edge_runtime.machine import boards
from tests.helpers import WITHOUT_TENSORFLOW, picnic_edge


@pytest.fixture(autouse=True)
def answers(monkeypatch):
    """{question: Answer}, to be filled: what fresh Pythons say; the libraries not in it are not installed."""
    given = {}
    codes = {code: name for name, code in doctor.PROBES.items()}
    monkeypatch.setattr(doctor, "is_installed", lambda question: question in given)
    monkeypatch.setattr(doctor, "run_probe", lambda code: given[codes[code]])
    return given


@pytest.fixture
def tools(monkeypatch):
    """{program: what it prints}, to be filled; the others print nothing."""
    given = {}
    monkeypatch.setattr(jetson, "output_of", lambda *command, **_: given.get(command[0], ""))
    return given


@pytest.fixture
def root(tmp_path):
    """A function: files -> a folder that stands for /."""
    return lambda files: boards.write_root(tmp_path, files)


def check_of(name, root="/"):
    (found,) = [check for check in doctor.examine(root) if check.name == name]
    return found


def statuses(checks):
    return {check.name: check.status for check in checks}


@pytest.fixture
def installed(monkeypatch):
    """A function: {distribution: version} -> these and no others are installed."""

    def pretend(versions):
        monkeypatch.setattr(libraries, "distribution_version", versions.get)

    return pretend


# --- the command


def test_json_is_one_document_with_the_machine_and_its_checks():
    done = picnic_edge("doctor", "--json", env={"PYTHONPATH": WITHOUT_TENSORFLOW})
    document = json.loads(done.stdout.decode())
    assert done.returncode == 0, done.stderr
    assert document["machine"]["architecture"] == platform.machine()
    assert document["machine"]["cores"] == cpu.core_count() >= 1
    assert all(sorted(check) == ["fix", "found", "name", "status"] for check in document["checks"])
    assert {check["status"] for check in document["checks"]} <= {"ok", "missing", "warning"}


def test_the_text_says_the_same_as_the_json(capsys):
    doctor.main([])
    text = capsys.readouterr().out
    doctor.main(["--json"])
    for check in json.loads(capsys.readouterr().out)["checks"]:
        (line,) = [line for line in text.splitlines() if line[9:].startswith(check["name"] + " ")]
        assert line.startswith(check["status"])
        assert all(part in text for part in check["fix"].splitlines())
        assert not check["fix"] or "-> " + check["fix"].splitlines()[0] in text


def test_a_machine_that_lacks_everything_still_gets_its_report(capsys, installed, monkeypatch):
    installed({})
    monkeypatch.setattr(cpu, "cpu_info", lambda path: {})
    monkeypatch.setattr(doctor, "memory_info", lambda path: {})
    monkeypatch.setattr(memory, "memory_info", lambda path: {})
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    doctor.main([])
    text = capsys.readouterr().out
    assert "missing  onnxruntime" in text and "-> pip install onnxruntime" in text
    assert "unknown (no /proc/meminfo)" in text and "no known features" in text


# --- libraries


def test_an_installed_library_is_ok_with_its_version(installed):
    installed({"onnxruntime": "9.8.7"})
    assert check_of("onnxruntime") == ("onnxruntime", "ok", "9.8.7", "")


def test_a_library_that_another_distribution_brings_is_ok(installed):
    installed({"opencv-python": "4.5.6"})
    assert check_of("opencv-python-headless")[1:] == ("ok", "4.5.6 (opencv-python)", "")


@pytest.mark.parametrize(
    "versions, found",
    [
        ({"tensorflow-cpu": "2.17.1"}, "2.17.1"),
        ({"tf-nightly": "2.22.0.dev1"}, "2.22.0.dev1"),
        ({"tensorflow": "2.7.0", "tensorflow-cpu": "2.17.1"}, "2.7.0"),
        ({"onnxruntime-gpu": "1.23.0"}, None),
    ],
)
def test_a_library_s_version_is_that_of_whichever_distribution_brings_it(installed, versions, found):
    installed(versions)
    assert libraries.library_version("tensorflow") == found


@pytest.mark.parametrize(
    "name, module", [("openvino", "openvino"), ("scikit-learn", "sklearn"), ("tf2onnx", "tf2onnx")]
)
def test_a_missing_library_comes_with_its_purpose_and_its_command(installed, monkeypatch, name, module):
    installed({})
    monkeypatch.delitem(sys.modules, module, raising=False)
    found = check_of(name)
    assert found.status == "missing"
    if found.fix or module != "openvino":  # OpenVINO is not for Python 3.6
        assert found.found.startswith("needed for ") and found.fix == libraries.INSTALL[module]


def test_an_opencv_that_pip_does_not_know_is_ok(installed):
    installed({})
    found = check_of("opencv-python-headless")
    assert found.status == "ok" and "(not installed by pip)" in found.found


def test_doctor_runs_without_opencv_and_says_how_to_install_it(tmp_path):
    (tmp_path / "cv2.py").write_text("raise ModuleNotFoundError(\"No module named 'cv2'\", name='cv2')")
    done = picnic_edge("doctor", "--json", env={"PYTHONPATH": "%s:%s" % (tmp_path, WITHOUT_TENSORFLOW)})
    assert done.returncode == 0, done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout.decode())["checks"]}
    opencv, gstreamer = checks["opencv-python-headless"], checks["gstreamer"]
    assert opencv["status"] == gstreamer["status"] == "missing"
    assert "No module named 'cv2'" in opencv["found"] and "python3-opencv" in opencv["fix"]


def test_what_this_python_or_board_cannot_have_is_not_advised(installed, root, tools, monkeypatch):
    installed({})
    for module in ("openvino", "tensorrt_rtx_bindings"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(doctor.sys, "version_info", (3, 6, 9))
    found = check_of("openvino")
    assert found.status == "missing" and found.found.startswith("not for this machine") and found.fix == ""
    assert "tensorrt-rtx-cu12-bindings" not in statuses(doctor.examine(root(boards.TX2)))


def test_require_names_the_cause_and_the_command():
    with pytest.raises(MissingRequirement) as refused:
        libraries.require("no_such_library_anywhere")
    assert "No module named" in str(refused.value)
    assert "To get it: pip install no_such_library_anywhere" in str(refused.value)


def test_require_returns_the_module():
    assert libraries.require("json") is json


# --- the machine

GIB = 1 << 30


@pytest.mark.parametrize("available, status", [(2 * GIB, "ok"), (2 * GIB - 1, "warning"), (0, "warning")])
def test_little_memory_is_a_warning_with_an_act_that_helps(monkeypatch, available, status):
    info = {"MemTotal": 8 * GIB, "MemAvailable": available}
    for module in (doctor, memory):
        monkeypatch.setattr(module, "memory_info", lambda path: info)
    found = check_of("memory")
    assert found.status == status and found.found.startswith("8.0 GiB, ")
    assert bool(found.fix) == (status != "ok")


@pytest.mark.parametrize("free, status", [(GIB, "ok"), (GIB - 1, "warning")])
def test_a_full_disk_is_a_warning_with_an_act_that_helps(monkeypatch, free, status):
    usage = type(shutil.disk_usage("."))(100 * GIB, 100 * GIB - free, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    found = check_of("disk")
    assert found.status == status and bool(found.fix) == (status != "ok")


def test_the_running_python_is_named():
    assert check_of("python")[:3] == ("python", "ok", platform.python_version())


# --- boards, from recorded text


def test_a_tx2_from_the_factory(root, tools, answers, installed, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    installed({"numpy": "1.19.4", "protobuf": "3.19.6"})
    tools.update({"nvpmodel": boards.NVPMODEL_MAXQ, "jetson_clocks": boards.CLOCKS_WITHOUT_ROOT})
    answers["protobuf"] = Answer("python", "")
    checks = {check.name: check for check in doctor.examine(root(boards.TX2))}
    assert checks["board"][1:3] == ("ok", "quill (Jetson TX2)")
    assert checks["jetpack"][1:3] == ("ok", "L4T 32.7.1 (JetPack 4.6.1)")
    assert checks["power mode"][1:] == ("warning", "MAXQ, which is not the fastest", "sudo nvpmodel -m 0")
    assert checks["gpu clock"][1:3] == ("warning", "varies from 114 to 1300 MHz")
    assert checks["gpu clock"].fix.endswith("sudo jetson_clocks")
    assert checks["cpu"].found.startswith("ARMv8 Processor rev 3 (v8l), ") and checks["cpu"].found.endswith(", asimd")
    assert checks["memory"].found == "7.7 GiB, 5.7 available, swap 3.8"
    assert checks["swap"].status == "warning" and checks["swap"].found.startswith("0.0 GiB besides zram")
    assert "nvzramconfig" in checks["swap"].fix and "mkswap" in checks["swap"].fix
    assert checks["nvidia gpu"][1:3] == ("ok", "compute capability 6.2, shares the board's memory")
    assert checks["cameras"].found == "/dev/video0 (vi-output, ov5693 2-0036), /dev/video1 (unnamed)"
    assert checks["cuda"].found == "10.2.300, its nvcc is not on PATH" and "CUDA_ROOT" in checks["cuda"].fix
    assert checks["tensorrt"].status == "missing" and "--system-site-packages" in checks["tensorrt"].fix
    assert checks["protobuf"].status == "warning" and "may take minutes" in checks["protobuf"].found
    assert checks["protobuf"].fix == tf_trt.fix_for_protobuf()


def test_a_tx2_that_is_set_up(root, tools, answers, installed, monkeypatch):
    installed({"numpy": "1.19.4", "protobuf": "3.19.6"})
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/local/cuda/bin/" + name)
    tools["nvpmodel"] = boards.NVPMODEL
    answers["tensorrt"] = Answer("8.2.1.8", "")
    answers["pycuda"] = Answer(["2020.1", "NVIDIA Tegra X2", "6.2", True], "")
    answers["protobuf"] = Answer("cpp", "")
    found = {"tensorflow": "2.7.0", "linked": [8, 2, 1], "loaded": [8, 2, 1], "problem": ""}
    answers["tf-trt"] = Answer(found, "")
    clocks = "sys/class/devfreq/17000000.gp10b/min_freq"
    swaps = boards.TX2["proc/swaps"] + "/swapfile file 4194300 0 -2\n"
    checks = {
        check.name: check
        for check in doctor.examine(root(dict(boards.TX2, **{clocks: "1300500000", "proc/swaps": swaps})))
    }
    names = ["power mode", "gpu clock", "swap", "cuda", "tensorrt", "pycuda", "tf-trt", "protobuf"]
    assert [name for name in names if checks[name].status != "ok" or checks[name].fix] == []
    assert checks["gpu clock"].found == "pinned to 1300 MHz"
    assert checks["pycuda"].found == "2020.1, NVIDIA Tegra X2, compute capability 6.2"
    assert checks["tf-trt"].found == "TensorFlow 2.7.0 with TensorRT 8.2.1"


def test_an_orin_has_memory_enough_and_its_own_power_modes(root, tools):
    tools["nvpmodel"] = "NV Power Mode: 25W\n1"
    checks = {check.name: check for check in doctor.examine(root(boards.ORIN))}
    assert "swap" not in checks
    assert checks["board"].found == "NVIDIA Jetson AGX Orin Developer Kit (Jetson Orin)"
    assert checks["jetpack"].found == "L4T 36.4.4 (JetPack 6.2.1)"
    assert (
        checks["power mode"].status == "warning"
        and checks["power mode"].fix == "sudo nvpmodel -m N, N from nvpmodel -p"
    )
    assert checks["gpu clock"][1:3] == ("ok", "pinned to 1300 MHz")
    assert checks["nvidia gpu"].found.startswith("compute capability 8.7")
    assert checks["cpu"].found.endswith(", asimd asimddp asimdhp")
    assert checks["cameras"].status == "missing"


def test_a_xavier_with_jetpack_5(root, tools):
    tools["nvpmodel"] = "NV Power Mode: MODE_20W_6CORE\n8"
    checks = {check.name: check for check in doctor.examine(root(boards.XAVIER))}
    assert checks["board"].found == "NVIDIA Jetson Xavier NX Developer Kit (Jetson Xavier)"
    assert checks["jetpack"][1:3] == ("ok", "L4T 35.4.1 (JetPack 5.1.2)")
    assert checks["gpu clock"][1:3] == ("warning", "varies from 114 to 1109 MHz")
    assert checks["nvidia gpu"].found.startswith("compute capability 7.2")
    assert checks["swap"].status == "warning"
    assert checks["cuda"].found.startswith("11.4.19")


def test_a_thor_with_jetpack_7(root, tools):
    tools["nvpmodel"] = "NV Power Mode: MAXN\n0"
    checks = {check.name: check for check in doctor.examine(root(boards.THOR))}
    assert checks["board"].found == "NVIDIA Jetson AGX Thor Developer Kit (Jetson Thor)"
    assert checks["jetpack"][1:3] == ("ok", "L4T 38.2.2 (JetPack 7.0)")
    assert checks["power mode"].status == "ok" and "swap" not in checks
    assert checks["gpu clock"][1:3] == ("warning", "varies from 315 to 1575 MHz")
    assert checks["nvidia gpu"].found.startswith("compute capability 11.0")
    assert checks["cuda"].found.startswith("13.0.0")


def test_a_pc_has_no_checks_that_only_boards_need(root, tools):
    checks = statuses(doctor.examine(root(boards.PC)))
    assert set(checks) & {"board", "jetpack", "power mode", "gpu clock", "swap"} == set()
    assert checks["nvidia gpu"] == checks["tensorrt"] == checks["pycuda"] == checks["tf-trt"] == "missing"


def test_a_pc_s_gpu_is_named(root, tools):
    tools["nvidia-smi"] = "NVIDIA GeForce GTX 1080, 535.54.03\n"
    found = check_of("nvidia gpu", root(dict(boards.PC, **{"dev/nvidia0": ""})))
    assert found[1:] == ("ok", "NVIDIA GeForce GTX 1080, driver 535.54.03", "")


def test_a_board_whose_tools_and_files_are_gone_still_gets_its_report(root, tools):
    checks = statuses(doctor.examine(root({"proc/device-tree/compatible": boards.TX2["proc/device-tree/compatible"]})))
    for name in ("jetpack", "power mode", "gpu clock", "memory", "swap"):
        assert checks[name] == "warning"


def test_a_check_that_fails_is_one_line(root, monkeypatch):
    def broken(root):
        raise RuntimeError("planted")

    monkeypatch.setattr(jetson, "cameras", broken)
    found = check_of("cameras")
    assert found[1:] == ("warning", "could not be examined (RuntimeError: planted)", "")


# --- libraries that may end the process


def test_a_library_that_ends_its_process_is_named_as_missing(answers):
    answers["tf-trt"] = Answer(None, "ended its process with signal 6: getInferLibVersion symbol not found.")
    answers["tensorrt"] = answers["pycuda"] = Answer(None, "cannot be used: ImportError: libnvinfer.so.8: not found")
    assert check_of("tf-trt")[1:3] == (
        "missing",
        "TensorFlow ended its process with signal 6: getInferLibVersion symbol not found.",
    )
    for name in ("tensorrt", "pycuda"):
        assert check_of(name)[1:] == ("missing", answers[name].problem, libraries.INSTALL[name])


def test_tensorflow_without_tensorrt_says_what_to_install(answers):
    answers["tf-trt"] = Answer({"problem": "TensorFlow 9 was built without TensorRT.\nTo get it: x"}, "")
    assert check_of("tf-trt")[1:] == ("missing", "TensorFlow 9 was built without TensorRT.", "x")


def test_a_pycuda_that_the_engine_refuses_is_missing(answers):
    answers["pycuda"] = Answer(["2019.1.2", "NVIDIA Tegra X2", "6.2", False], "")
    assert check_of("pycuda")[1:] == (
        "missing",
        "2019.1.2: too old (it has no Device.retain_primary_context)",
        "pip3 install 'pycuda>=2020.1,<2021.1' on Python 3.6, pip install --upgrade pycuda elsewhere",
    )


@pytest.mark.parametrize("more, usable", [({"retain_primary_context": None}, True), ({}, False)])
def test_pycuda_is_asked_for_what_the_engine_needs(monkeypatch, more, usable):
    device = types.SimpleNamespace(name=lambda: "X", compute_capability=lambda: (6, 2), **more)
    driver = types.SimpleNamespace(init=lambda: None, Device=lambda number: device)
    monkeypatch.setitem(sys.modules, "pycuda", types.SimpleNamespace(driver=driver, VERSION_TEXT="2020.1"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    found = {}
    exec(doctor.PROBES["pycuda"], found)
    assert found["answer"] == ["2020.1", "X", "6.2", usable]


@pytest.fixture
def run_probe(monkeypatch):
    monkeypatch.undo()
    return doctor.run_probe


def test_a_fresh_python_answers_past_a_library_s_own_chatter(run_probe):
    assert run_probe("print('hello'); answer = [1, 'two']\nimport sys; sys.stderr.write('W')") == ([1, "two"], "")


@pytest.mark.parametrize(
    "code, problem",
    [
        ("import no_such_module", "cannot be used: ModuleNotFoundError: No module named 'no_such_module'"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGABRT)", "ended its process with signal 6: no message"),
        ("import os\nos._exit(3)", "cannot be used: no message"),
    ],
)
def test_a_fresh_python_that_fails_says_why(run_probe, code, problem):
    assert run_probe(code) == (None, problem)


def test_a_fresh_python_that_hangs_is_given_up(run_probe):
    assert run_probe("import time\ntime.sleep(60)", 0.3) == (None, "did not answer within 0.3 s")


def test_the_real_tensorflow_is_asked_without_ending_anything(run_probe):
    if not doctor.is_installed("tf-trt"):
        pytest.skip("TensorFlow is not installed")
    answer = run_probe(doctor.PROBES["tf-trt"])
    assert answer.problem == "" and sorted(answer.value) == ["linked", "loaded", "problem", "tensorflow"]
    if answer.value["loaded"] is None:
        assert "TensorRT" in answer.value["problem"].splitlines()[0] and "To get it: " in answer.value["problem"]


def test_the_real_protobuf_is_asked(run_probe):
    if not doctor.is_installed("protobuf"):
        pytest.skip("protobuf is not installed")
    assert run_probe(doctor.PROBES["protobuf"]).value in ("cpp", "upb", "python")


# --- OpenCV and numpy


@pytest.mark.parametrize(
    "build_information, status",
    [
        ("  Video I/O:\n    GStreamer:                   YES (1.14.5)\n", "ok"),
        ("    GStreamer:                   NO\n", "missing"),
        ("no such line", "missing"),
    ],
)
def test_opencv_s_gstreamer(monkeypatch, build_information, status):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: build_information)
    found = check_of("gstreamer")
    assert found.status == status and bool(found.fix) == (status != "ok")
    assert ("1.14.5" in found.found) == (status == "ok")


def test_a_wheel_s_opencv_on_a_board_gives_way_to_jetpack_s(root, tools, monkeypatch):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "GStreamer: NO")
    assert "pip uninstall opencv-python" in check_of("gstreamer", root(boards.TX2)).fix


@pytest.mark.parametrize(
    "architecture, version, status",
    [("aarch64", "1.19.5", "warning"), ("aarch64", "1.19.4", "ok"), ("x86_64", "1.19.5", "ok")],
)
def test_the_numpy_that_a_jetson_cannot_run(installed, monkeypatch, architecture, version, status):
    installed({"numpy": version})
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    found = check_of("numpy")
    assert found.status == status
    assert ("OPENBLAS_CORETYPE=ARMV8" in found.fix) == (status == "warning")


@pytest.mark.parametrize("architecture", ["aarch64", "x86_64"])
def test_the_command_line_works_around_that_numpy(monkeypatch, architecture):
    import picnic_edge as front_door

    monkeypatch.setattr(platform, "machine", lambda: architecture)
    monkeypatch.setattr(sys, "version_info", (3, 6, 9))
    monkeypatch.setattr(sys, "argv", ["picnic-edge"])
    monkeypatch.setenv("OPENBLAS_CORETYPE", "")
    monkeypatch.delenv("OPENBLAS_CORETYPE")
    with pytest.raises(SystemExit):
        front_door.main(["doctor", "--help"])
    assert os.environ.get("OPENBLAS_CORETYPE") == ("ARMV8" if architecture == "aarch64" else None)
