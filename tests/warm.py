"""Runs `picnic-edge` in a process of its own that starts in a tenth of the time.

A server, started once, imports the modules of the verbs; for each run it forks a process that executes the command as
`python -m picnic_edge` does, and that ends as an interpreter ends. The server has one thread, so that it can be forked
safely: heavy libraries, which start threads, are imported by no verb's module.
"""

import array
import atexit
import importlib
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading

import picnic_edge

_MAX_REQUEST_BYTES = 1 << 16
_lock = threading.Lock()
_server = {"socket": None, "environment": None, "other": None}


def run(arguments, cwd=None):
    """Runs the command with this process's environment. Returns (exit code, stdout, stderr), both bytes.

    Returns None where the environment is not that of the server: libraries may have read it as they were imported.
    """
    server = _server_of_environment()
    if server is None:
        return None
    request = json.dumps([arguments, os.getcwd() if cwd is None else os.fspath(cwd)]).encode()
    assert len(request) <= _MAX_REQUEST_BYTES
    reading, writing = os.pipe()
    with open(reading, "rb") as answer, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        descriptors = array.array("i", [out.fileno(), err.fileno(), writing])
        server.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        os.close(writing)
        (status,) = struct.unpack("i", answer.read())
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        for file in (out, err):
            file.seek(0)
        return code, out.read(), err.read()


def _server_of_environment():
    """Returns the server's socket. None for an environment that is met for the first time: most are one test's own.

    Libraries that the tests import change it for good. Then a new server takes the old one's place.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    with _lock:
        if environment == _server["environment"]:
            return _server["socket"]
        if _server["socket"] and environment != _server["other"]:
            _server["other"] = environment
            return None
        if _server["socket"]:
            _server["socket"].close()
        _server.update(socket=_start_server(), environment=environment)
        return _server["socket"]


def _start_server():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=dict(os.environ, PYTHONPATH=root),
        cwd=root,
    )
    process.returncode = 0  # it ends when our end of the socket is closed; nobody waits for it
    theirs.close()
    atexit.register(ours.close)
    return ours


def _serve(connection):
    for name, _ in picnic_edge.VERBS.values():
        if name:
            importlib.import_module(name)
    assert threading.active_count() == 1
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how the process that waits for the command ended
    size = socket.CMSG_SPACE(3 * array.array("i").itemsize)
    while True:
        request, ancillary, _, _ = connection.recvmsg(_MAX_REQUEST_BYTES, size)
        if not request:  # the test process has ended
            break
        descriptors = array.array("i")
        for _, _, data in ancillary:
            descriptors.frombytes(data)
        if os.fork() == 0:
            connection.close()
            _wait_for_command(json.loads(request.decode()), *descriptors)
            break
        for descriptor in descriptors:
            os.close(descriptor)


def _wait_for_command(request, out, err, answer):
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os.write(answer, struct.pack("i", status))
        os._exit(0)
    os.close(answer)
    for descriptor, number in ((out, 1), (err, 2)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    arguments, cwd = request
    os.chdir(cwd)
    sys.argv[1:] = arguments
    sys.path[0] = cwd
    runpy.run_module("picnic_edge", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
