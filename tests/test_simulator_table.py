"""The simulator's table of TensorRT's members beside NVIDIA's own Python modules, which the package index has.

Their libraries, which it has not, are stood in for by empty ones: the modules are imported, and nothing is called.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.simulator import api

# The versions that NVIDIA has modules of, with the column of the table that each is compared with.
PACKAGES = {
    "tensorrt-bindings==8.6.1": "8.6.1",
    "tensorrt-cu12-bindings==10.3.0": "10.3.0",
    "tensorrt-cu12-bindings==10.13.3.9": "10.13.0",
    "tensorrt-cu12-bindings==11.1.0.106": "11.1",
    "tensorrt-cu12-bindings==11.4.0.106": "11.1",
}
PYBIND = {"name", "value", "_pybind11_conduit_v1_"}  # of every enumeration, whatever it is of
DUMP = """
import json, sys
import tensorrt_bindings as trt
classes = {name: getattr(trt, name, None) for name in sys.argv[1:]}
classes["Severity"], classes["module"] = trt.ILogger.Severity, trt
print(json.dumps({name: None if one is None else dir(one) for name, one in classes.items()}))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compiler():
    if not shutil.which("cc") or not shutil.which("nm") or not shutil.which("readelf"):
        pytest.skip("needs a C compiler and binutils (cc, nm, readelf), which are not here")


def members_of_the_real_module(package, folder):
    """Returns {class: its members, None where it has no such class} of a package from the index; skips without one."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", package]
    done = subprocess.run(command + ["--dest", folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        pytest.skip("%s: no index, or it has no wheel for this Python: %s" % (package, done.stdout.decode()[-300:]))
    (wheel,) = os.listdir(folder)
    with zipfile.ZipFile(os.path.join(folder, wheel)) as content:
        content.extractall(folder)
    module = os.path.join(folder, "tensorrt_bindings", "tensorrt.so")
    # Those of the system's libraries have versions (puts@GLIBC_2.2.5), those of Python begin with its name.
    undefined = re.findall(r" U (\w+)$", output("nm", "-D", "--undefined-only", module), re.MULTILINE)
    symbols = [name for name in undefined if not re.match("_?Py", name)]
    source = os.path.join(folder, "empty.c")
    with open(source, "w") as file:
        file.writelines("char %s[256];\n" % name for name in symbols)
    for name in re.findall(r"NEEDED.*\[(libnv[\w.]+)\]", output("readelf", "--dynamic", module)):
        output("cc", "-shared", "-fPIC", "-Wl,-soname," + name, "-o", os.path.join(folder, name), source)
    environment = dict(os.environ, LD_LIBRARY_PATH=folder, PYTHONPATH=folder)
    names = sorted(set(api._API["classes"]) - {"Severity", "module"})
    done = subprocess.run([sys.executable, "-c", DUMP] + names, stdout=subprocess.PIPE, env=environment, check=True)
    return json.loads(done.stdout.decode().splitlines()[-1])


def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode()


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_the_table_has_the_members_of_nvidia_s_own_module(package, tmp_path, compiler):
    version = PACKAGES[package]
    real = members_of_the_real_module(package, str(tmp_path))
    unclaimed, invented = [], []
    for name in api._API["classes"]:
        claimed = {member for member in api.members(name, version) if not member.startswith("__")}
        there = {member for member in real[name] or () if not member.startswith("_")} - PYBIND
        ever = {member for member in api._API["classes"][name] if not member.startswith("__")}
        invented += ["%s.%s" % (name, member) for member in sorted(claimed - set(real[name] or ()))]
        # Of members that the table has for another version; it is no list of all that TensorRT can do.
        unclaimed += ["%s.%s" % (name, member) for member in sorted((there & ever) - claimed)]
    assert invented == []
    assert unclaimed == []
