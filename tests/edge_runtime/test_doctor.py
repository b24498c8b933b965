"""picnic-edge doctor: what this machine has, what it lacks, and the command that mends it."""

import json
import platform
import shutil
import sys

import pytest

from edge_runtime import doctor, machine, requirements
from edge_runtime.errors import MissingRequirement
from tests.helpers import picnic_edge


def check_of(name):
    (found,) = [check for check in doctor.examine() if check.name == name]
    return found


@pytest.fixture
def installed(monkeypatch):
    """A function: {distribution: version} -> these and no others are installed."""

    def pretend(versions):
        monkeypatch.setattr(machine, "library_version", versions.get)

    return pretend


# --- the command


def test_json_is_one_document_with_the_machine_and_its_checks():
    done = picnic_edge("doctor", "--json")
    document = json.loads(done.stdout.decode())
    assert done.returncode == 0, done.stderr
    assert document["machine"]["architecture"] == platform.machine()
    assert document["machine"]["cores"] == machine.core_count() >= 1
    assert all(sorted(check) == ["found", "mend", "name", "status"] for check in document["checks"])
    assert {check["status"] for check in document["checks"]} <= {"ok", "missing", "warning"}


def test_the_text_says_the_same_as_the_json(capsys):
    doctor.main([])
    text = capsys.readouterr().out
    doctor.main(["--json"])
    for check in json.loads(capsys.readouterr().out)["checks"]:
        (line,) = [line for line in text.splitlines() if line[9:].startswith(check["name"] + " ")]
        assert line.startswith(check["status"])
        assert not check["mend"] or "-> " + check["mend"] in text


def test_a_machine_that_lacks_everything_still_gets_its_report(capsys, installed, monkeypatch):
    installed({})
    monkeypatch.setattr(machine, "cpu_info", dict)
    monkeypatch.setattr(machine, "memory_info", dict)
    monkeypatch.setattr(doctor, "board_model", str)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    doctor.main([])
    text = capsys.readouterr().out
    assert "missing  onnxruntime" in text and "-> pip install onnxruntime" in text
    assert "unknown (no /proc/meminfo)" in text and "no known features" in text


# --- libraries


def test_an_installed_library_is_ok_with_its_version(installed):
    installed({"onnxruntime": "9.8.7"})
    assert check_of("onnxruntime") == ("onnxruntime", "ok", "9.8.7 ", "")


def test_a_library_that_another_distribution_brings_is_ok(installed):
    installed({"opencv-python": "4.5.6"})
    assert check_of("opencv-python-headless")[1:] == ("ok", "4.5.6 (opencv-python)", "")


@pytest.mark.parametrize(
    "name, module", [("openvino", "openvino"), ("scikit-learn", "sklearn"), ("tf2onnx", "tf2onnx")]
)
def test_a_missing_library_comes_with_its_purpose_and_its_command(installed, monkeypatch, name, module):
    installed({})
    monkeypatch.delitem(sys.modules, module, raising=False)
    found = check_of(name)
    assert found.status == "missing" and found.found.startswith("needed for ")
    assert found.mend == requirements.INSTALL[module]


def test_an_opencv_that_pip_does_not_know_is_ok(installed):
    installed({})
    found = check_of("opencv-python-headless")
    assert found.status == "ok" and "(not installed by pip)" in found.found


def test_require_names_the_cause_and_the_command():
    with pytest.raises(MissingRequirement) as refused:
        requirements.require("no_such_library_anywhere")
    assert "No module named" in str(refused.value)
    assert "To get it: pip install no_such_library_anywhere" in str(refused.value)


def test_require_returns_the_module():
    assert requirements.require("json") is json


# --- the machine

GIB = 1 << 30


@pytest.mark.parametrize("available, status", [(2 * GIB, "ok"), (2 * GIB - 1, "warning"), (0, "warning")])
def test_little_memory_is_a_warning_with_an_act_that_helps(monkeypatch, available, status):
    monkeypatch.setattr(machine, "memory_info", lambda: {"MemTotal": 8 * GIB, "MemAvailable": available})
    found = check_of("memory")
    assert found.status == status and found.found.startswith("8.0 GiB, ")
    assert bool(found.mend) == (status != "ok")


@pytest.mark.parametrize("free, status", [(GIB, "ok"), (GIB - 1, "warning")])
def test_a_full_disk_is_a_warning_with_an_act_that_helps(monkeypatch, free, status):
    usage = type(shutil.disk_usage("."))(100 * GIB, 100 * GIB - free, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    found = check_of("disk")
    assert found.status == status and bool(found.mend) == (status != "ok")


def test_the_board_is_named_where_there_is_one(monkeypatch):
    monkeypatch.setattr(doctor, "board_model", lambda: "NVIDIA Jetson TX2")
    assert check_of("board") == ("board", "ok", "NVIDIA Jetson TX2", "")


def test_the_running_python_is_named():
    assert check_of("python")[:3] == ("python", "ok", platform.python_version())
