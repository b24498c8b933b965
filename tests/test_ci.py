""".ci/run: what it checks on which Python, and that it does not pass where it cannot check."""

import os
import stat
import subprocess

import pytest

from tests import helpers


def run_ci(folder, make="true", **settings):
    """Runs .ci/run with a `make` that writes down its arguments. Returns (exit code, those lines, standard error)."""
    commands = folder / "commands"
    commands.mkdir()
    calls = folder / "calls"
    write_command(commands / "make", 'echo "$@" >> "$CALLS"\n' + make)
    if settings.pop("python36", False):
        write_command(commands / "python3.6", "true")
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    # Of the system only /usr/bin and /bin, and no pyenv, which may have a Python 3.6.
    environment.update(settings, PATH="%s:/usr/bin:/bin" % commands, CALLS=str(calls), PYENV_ROOT=str(folder))
    done = subprocess.run(
        [os.path.join(helpers.ROOT, ".ci", "run")], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    return done.returncode, calls.read_text().splitlines(), done.stderr.decode()


def write_command(path, lines):
    path.write_text("#!/bin/sh\n" + lines + "\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_both_pythons_run_the_suite_and_the_old_one_tries_the_wheel(tmp_path):
    code, calls, _ = run_ci(tmp_path, CI="true", python36=True)
    assert code == 0
    assert [call.split()[0] for call in calls] == ["test", "tensorrt-check", "test", "wheel-check"]
    assert all("python3.6" in call for call in calls[2:])


@pytest.mark.skipif(os.path.exists("/usr/bin/python3.6"), reason="this system's own Python 3.6 cannot be hidden")
@pytest.mark.parametrize("settings, expected", [({"CI": "true"}, 1), ({}, 0)], ids=["CI", "by hand"])
def test_without_python_3_6_it_fails_where_it_is_the_ci(tmp_path, settings, expected):
    code, calls, error = run_ci(tmp_path, **settings)
    assert code == expected
    assert calls[0].split()[0] == "test", "the newer Python is checked all the same"
    assert ("3.6" in error) == bool(expected)


def test_a_failed_check_fails_it(tmp_path):
    code, calls, _ = run_ci(tmp_path, make="false", python36=True)
    assert code != 0
    assert len(calls) == 1
