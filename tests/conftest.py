import contextlib
import multiprocessing.forkserver
import os
import shutil
import signal
import stat
import subprocess

import pytest

from tests.helpers import ROOT, convert, write_tiny_bundle

# Where developers keep real photos and weights; tests that want them are skipped where they are not.
SHARED = os.environ.get("PICNIC_EDGE_SHARED", os.path.join(ROOT, "..", "shared"))
# Bundles that one Python's suite trained stay here, so that another Python's suite can read them.
BUILD = os.path.join(ROOT, "build", "test-bundles")

# The files of tests that take longest, begun first: the two processes of `make test` then end at about the same time.
# test_live.py mostly waits, and so leaves both cores to the training beside it.
LONGEST = [
    "test_training.py",
    "test_live.py",
    "test_recipe.py",
    "test_convert.py",
    "test_classify.py",
    "test_bench.py",
    "test_kill.py",
    "test_docs.py",
    "test_explore.py",
    "test_engines.py",
    "test_against.py",
    "test_front_door.py",
    "test_tensorrt.py",
    "test_fine_tune.py",
    "test_loadgen.py",
]


def pytest_configure(config):
    """pytest-xdist would begin with the files that have most tests; the version for Python 3.6 has no such option."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Puts the LONGEST first; sorting keeps the order of the rest."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(os.path.basename(str(item.fspath)), len(places)))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport():
    """pytest-xdist sends what a test printed as UTF-8, which names of files need not be."""
    report = (yield).get_result()
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]


def shared_path(*names):
    """Returns a path below SHARED, or skips the test."""
    path = os.path.join(SHARED, *names)
    if not os.path.exists(path):
        pytest.skip("needs %s, which is not here" % os.path.join("shared", *names))
    return path


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """A shell's background jobs ignore SIGINT, and so would every process that the tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """No test reads or fills the user's own cache of features."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def mount():
    """mount(folder): a context with a file system of its own in that new folder; gives a function that unmounts it."""

    @contextlib.contextmanager
    def mounted(folder):
        os.makedirs(str(folder))
        if os.geteuid() or subprocess.call(["mount", "-t", "tmpfs", "tmpfs", str(folder)], stderr=subprocess.DEVNULL):
            pytest.skip("only root may mount, and not in every container")
        unmounted = []

        def unmount():  # lazily: photos may be open
            unmounted.append(subprocess.check_call(["umount", "-l", str(folder)]))

        try:
            yield unmount
        finally:
            if not unmounted:
                unmount()

    return mounted


@pytest.fixture
def null_device(tmp_path):
    """A null device of our own: nobody risks the machine's."""
    path = str(tmp_path / "null.tsv")
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        with open(path, "wb"):
            pass
    except OSError:
        pytest.skip("no device can be made or opened here")
    return path


@pytest.fixture(scope="session")
def grocery():
    """The folder of the real grocery photos: train/, val/, train.tsv, val.tsv."""
    return shared_path("data", "grocery")


@pytest.fixture(scope="session")
def hard():
    """The folder of small files on which earlier versions failed."""
    return shared_path("data", "hard")


@pytest.fixture(scope="session")
def picnic():
    """The folder of the hackathon's own label files."""
    return shared_path("data", "picnic")


@pytest.fixture(scope="session")
def pristine_bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture
def tiny_bundle(pristine_bundle, tmp_path):
    """A small whole bundle of its own for each test: 3 classes (tests.helpers.COLOURS), no saved_model."""
    return shutil.copytree(pristine_bundle, str(tmp_path / "bundle"))


@pytest.fixture(scope="session")
def converted_bundle(pristine_bundle, tmp_path_factory):
    """The small bundle with a converted engine, onnxruntime-fp32; copy it to change it."""
    folder = shutil.copytree(pristine_bundle, str(tmp_path_factory.mktemp("converted") / "bundle"))
    convert(folder, "--to", "onnxruntime")
    return folder


@pytest.fixture
def forked(monkeypatch):
    """Children that the code would spawn are forked from a process with its imports behind it: half a second less each.

    That process has the environment of the first test that asks for it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.forked"])
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", ROOT)
        multiprocessing.forkserver.ensure_running()
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)


@pytest.fixture
def simulated(monkeypatch):
    """Puts TensorRT and a GPU here: simulated(version, **knobs) -> Simulator. Fails the test if anything leaks."""
    from edge_runtime.engines.tensorrt import context
    from tests import simulator

    installed = []

    def install(version="8.2.1", **knobs):
        context._primary_context.cache_clear()  # is kept until the process ends: it may be another simulator's
        installed.append(simulator.install(monkeypatch, version=version, **knobs))
        return installed[-1]

    yield install
    context._primary_context.cache_clear()
    for one in installed:
        one.assert_clean()


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """Drawn product photos: photos/, train.tsv, test.tsv, boxes.tsv; 10 per class."""
    from train.data.samples import draw_samples

    folder = str(tmp_path_factory.mktemp("samples"))
    draw_samples(folder, images_per_class=10, seed=0)
    return folder
