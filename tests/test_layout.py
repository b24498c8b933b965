"""The house rules: who may import whom, Python 3.6 source, linters, docstrings, packaging."""

import ast
import os
import shutil
import subprocess
import sys
import textwrap

import pytest

from tests.helpers import ROOT

PACKAGES = ("edge_runtime", "convert", "train", "benchmarks")
# A room imports only from its own floor or from floors below (design: edge_runtime 0, convert and train 1, ...).
FORBIDDEN = {
    "edge_runtime": {"train", "convert", "benchmarks", "picnic_edge", "tests"},
    "convert": {"train", "benchmarks", "picnic_edge", "tests"},
    "train": {"convert", "benchmarks", "picnic_edge", "tests"},
    "benchmarks": {"train", "picnic_edge", "tests"},
    "picnic_edge": {"tests"},
    "setup": set(PACKAGES) | {"picnic_edge", "tests"},
}
# Imported inside functions only, so that a verb loads (and a machine needs) no more than it uses.
LATE = {"tensorflow", "keras", "onnx", "onnxruntime", "openvino", "tensorrt", "pycuda", "tf2onnx", "sklearn", "pandas"}
LATE |= {"jinja2", "markupsafe", "matplotlib", "cleanlab", "nncf", "pyarrow", "mlperf_loadgen"}
LATE |= {"pillow_heif", "openpyxl", "ai_edge_litert"}
_SKIPPED_FOLDERS = ("build", "demo", "__pycache__")


def python_files(below=""):
    """Yields the names, relative to the root, of all Python files that belong to the repository."""
    for folder, folders, names in os.walk(os.path.join(ROOT, below)):
        folders[:] = sorted(
            name for name in folders if name not in _SKIPPED_FOLDERS and not name.startswith(".") and "egg" not in name
        )
        for name in sorted(names):
            if name.endswith(".py"):
                yield os.path.relpath(os.path.join(folder, name), ROOT).replace(os.sep, "/")


def product_files():
    return [name for name in python_files() if not name.startswith(("tests/", "docs/"))]


def parse(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        return ast.parse(file.read(), name)


def imports(tree):
    """Yields (line, dotted module, late) of every import, importlib.import_module("...") and require("...")."""
    late_nodes = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            late_nodes.update(ast.walk(node))
    for node in ast.walk(tree):
        late = node in late_nodes
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, late
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import: line %d" % node.lineno
            for alias in node.names:
                yield node.lineno, "%s.%s" % (node.module, alias.name), late
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            text = getattr(node.args[0], "value", getattr(node.args[0], "s", None))  # "s": Python before 3.8
            if called in ("import_module", "require", "__import__") and isinstance(text, str):
                yield node.lineno, text, late


def faults(name, tree):
    """Returns what is wrong with the imports of a product file, one line each."""
    room = name.split("/")[0].replace(".py", "")
    found = []
    for line, module, late in imports(tree):
        top = module.split(".")[0]
        if top in FORBIDDEN[room]:
            found.append("%s:%d: %s must not import %s" % (name, line, room, module))
        if not late and top in LATE:
            found.append("%s:%d: %s must be imported late" % (name, line, module))
        if not late and room == "picnic_edge" and top in PACKAGES:
            found.append("%s:%d: the front door imports %s before a verb is called" % (name, line, module))
    return found


def test_every_file_keeps_to_its_floor():
    names = product_files()
    assert {name.split("/")[0] for name in names} == set(PACKAGES) | {"picnic_edge.py", "setup.py"}
    assert [fault for name in names for fault in faults(name, parse(name))] == []


@pytest.mark.parametrize(
    "name, source",
    [
        ("edge_runtime/x.py", "import train.data.labels"),
        ("edge_runtime/x.py", "def f():\n    from convert import child"),
        ("edge_runtime/x.py", "importlib.import_module('benchmarks.bench.cli')"),
        ("edge_runtime/engines/x.py", "import tensorflow as tf"),
        ("edge_runtime/x.py", "onnx = require('onnxruntime')"),
        ("edge_runtime/x.py", "try:\n    import pandas\nexcept ImportError:\n    pass"),
        ("convert/x.py", "from train.model import model"),
        ("train/x.py", "def f():\n    import convert"),
        ("benchmarks/x.py", "if True:\n    from train.cli import cli"),
        ("picnic_edge.py", "from edge_runtime.cli.run import run_verb"),
        ("train/x.py", "from tests import helpers"),
    ],
)
def test_the_check_catches_a_planted_violation(name, source):
    assert len(faults(name, ast.parse(source))) == 1


@pytest.mark.parametrize(
    "name, source",
    [
        ("benchmarks/x.py", "from convert import child"),
        ("train/x.py", "def f():\n    import tensorflow"),
        ("picnic_edge.py", "def main():\n    from train.data import samples"),
        ("edge_runtime/x.py", "import trains, numpy"),
    ],
)
def test_the_check_lets_good_imports_pass(name, source):
    assert faults(name, ast.parse(source)) == []


def test_importing_every_module_loads_no_heavy_library(tmp_path):
    modules = [name[:-3].replace("/", ".") for name in product_files() if name != "setup.py"]
    program = """
        import importlib, sys
        for name in sys.argv[1:]:
            importlib.import_module(name)
        print(" ".join(sorted({name.split(".")[0] for name in sys.modules})))
    """
    loaded = subprocess.check_output(
        [sys.executable, "-c", textwrap.dedent(program)] + [name for name in modules if "__main__" not in name],
        env=dict(os.environ, PYTHONPATH=ROOT),
        cwd=str(tmp_path),
    )
    tops = set(loaded.decode().split())
    assert set(PACKAGES) <= tops
    assert tops & LATE == set()


def test_every_file_is_python_3_6():
    names = list(python_files())
    old = find_python36()
    if old:
        program = "import sys\nfor name in sys.argv[1:]: compile(open(name, encoding='utf-8').read(), name, 'exec')"
        done = subprocess.run(
            [old, "-c", program] + names, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        assert done.returncode == 0, done.stdout.decode()
    elif sys.version_info >= (3, 8):
        for name in names:
            with open(os.path.join(ROOT, name), encoding="utf-8") as file:
                ast.parse(file.read(), name, feature_version=(3, 6))
    else:
        pytest.skip("needs a Python 3.6, or 3.8 and newer, whose ast.parse knows feature_version")


def find_python36():
    """Returns a Python 3.6 that runs, or None; a pyenv shim may be there without one behind it."""
    if sys.version_info[:2] == (3, 6):
        return sys.executable
    versions = os.path.join(os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv")), "versions")
    names = sorted(os.listdir(versions)) if os.path.isdir(versions) else []
    found = [os.path.join(versions, name, "bin", "python3.6") for name in names if name.startswith("3.6.")]
    for python in [shutil.which("python3.6")] + found:
        if python and os.path.exists(python):
            code = subprocess.call([python, "-c", ""], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if code == 0:
                return python
    return None


@pytest.mark.parametrize("tool", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=" ".join)
def test_linter_is_content(tool):
    there = subprocess.call(
        [sys.executable, "-m", tool[0], "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    if there != 0:
        pytest.skip("%s is not installed for this Python" % tool[0])
    done = subprocess.run(
        [sys.executable, "-m"] + tool, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode == 0, done.stdout.decode()


def undocumented(name, tree):
    """Returns the public modules, classes, functions and methods of a file that have no docstring.

    A class that derives from another class of ours is documented there, and so are the methods it overrides.
    """
    found = [] if ast.get_docstring(tree) else [name]
    for node in tree.body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or node.name.startswith("_"):
            continue
        derived = isinstance(node, ast.ClassDef) and any(
            getattr(base, "id", "") in ("Engine", "PicnicError") for base in node.bases
        )
        inner = node.body if isinstance(node, ast.ClassDef) and not derived else []
        methods = [part for part in inner if isinstance(part, ast.FunctionDef) and not part.name.startswith("_")]
        for part in ([] if derived else [node]) + methods:
            if not ast.get_docstring(part):
                found.append("%s:%d: %s" % (name, part.lineno, part.name))
    return found


def test_everything_public_has_a_docstring():
    names = [name for name in product_files() if name != "setup.py"]
    assert [fault for name in names for fault in undocumented(name, parse(name))] == []


def test_the_docstring_check_catches_what_it_should():
    source = '"""Module."""\ndef _a(): pass\ndef b(): pass\nclass C:\n    """C."""\n    def d(self): pass\n'
    assert undocumented("x.py", ast.parse(source)) == ["x.py:3: b", "x.py:6: d"]
    assert undocumented("x.py", ast.parse("a = 1")) == ["x.py"]


def test_setup_lists_every_package_and_module():
    (call,) = [
        node
        for node in ast.walk(parse("setup.py"))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    ]
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    packages = {os.path.dirname(name).replace("/", ".") for name in product_files() if name.endswith("/__init__.py")}
    (include,) = given["packages"].keywords  # find_packages(include=[...])
    # In a process of its own: setuptools must be imported before distutils, which other tests may have imported.
    program = "import setuptools, sys; print(*setuptools.find_packages(include=sys.argv[1:]))"
    command = [sys.executable, "-c", program] + ast.literal_eval(include.value)
    assert set(subprocess.check_output(command, cwd=ROOT).decode().split()) == packages
    folders = {os.path.dirname(name).replace("/", ".") for name in product_files() if "/" in name}
    assert folders == packages, "a folder with Python files lacks its __init__.py"
    modules = {name[:-3] for name in product_files() if "/" not in name and name != "setup.py"}
    assert set(ast.literal_eval(given["py_modules"])) == modules
