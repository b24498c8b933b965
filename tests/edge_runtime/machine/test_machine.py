"""What this process may use of the machine, from recorded text of control groups (version 1 and 2)."""

import os

import pytest

from edge_runtime.cli import doctor
from edge_runtime.machine import cpu, memory
from tests.edge_runtime.machine.boards import write_root
from tests.helpers import WITHOUT_TENSORFLOW

GIB = 1 << 30
MEMINFO = "MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\nSwapTotal: 0 kB\n"  # 16 and 8 GiB
UNIFIED = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
# As Docker shows it: the controllers each have their mount, which begins at the container's own group.
SEPARATE = (
    "30 23 0:27 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro,nosuid master:11 - cgroup cgroup rw,cpu,cpuacct\n"
    "31 23 0:28 /docker/abc /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory\n"
    "32 23 0:29 /docker/abc /sys/fs/cgroup/systemd ro,nosuid - cgroup cgroup rw,xattr,name=systemd\n"
)
SEPARATE_GROUPS = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n0::/system.slice\n"


def unified(path="/", **files):
    """Returns a root with version 2; files: {"deep__cpu.max": text}, __ for / and below the mount."""
    root = {"proc/self/cgroup": f"0::{path}\n", "proc/self/mountinfo": UNIFIED, "proc/meminfo": MEMINFO}
    root.update({"sys/fs/cgroup/" + name.replace("__", "/"): text for name, text in files.items()})
    return root


def separate(**files):
    root = {"proc/self/cgroup": SEPARATE_GROUPS, "proc/self/mountinfo": SEPARATE, "proc/meminfo": MEMINFO}
    root.update({"sys/fs/cgroup/" + name.replace("__", "/"): text for name, text in files.items()})
    return root


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(os, "cpu_count", lambda: 16)


@pytest.mark.parametrize(
    "files, cores",
    [
        ({}, 16),
        (unified(), 16),
        (unified(**{"cpu.max": "max 100000\n"}), 16),
        (unified(**{"cpu.max": "200000 100000\n"}), 2),
        (unified(**{"cpu.max": "150000 100000\n"}), 2),  # rounded up
        (unified(**{"cpu.max": "5000 100000\n"}), 1),
        (unified(**{"cpu.max": "6400000 100000\n"}), 16),  # the affinity is less
        (unified("/a/b", **{"a__b__cpu.max": "max 100000\n", "a__cpu.max": "300000 100000\n"}), 3),  # of the one above
        (unified("/a/b", **{"a__b__cpu.max": "100000 50000\n", "a__cpu.max": "300000 100000\n"}), 2),
        (unified("/a", **{"b__cpu.max": "100000 100000\n"}), 16),  # not this process's
        (unified("/../../elsewhere", **{"cpu.max": "400000 100000\n"}), 4),
        (unified(**{"cpu.max": "nonsense"}), 16),
        (separate(**{"cpu,cpuacct__cpu.cfs_quota_us": "-1\n", "cpu,cpuacct__cpu.cfs_period_us": "100000\n"}), 16),
        (separate(**{"cpu,cpuacct__cpu.cfs_quota_us": "250000\n", "cpu,cpuacct__cpu.cfs_period_us": "100000\n"}), 3),
        (separate(**{"cpu,cpuacct__cpu.cfs_quota_us": "250000\n", "cpu,cpuacct__cpu.cfs_period_us": "0\n"}), 16),
    ],
)
def test_the_cpu_quota_of_a_container_counts_as_cores_do(tmp_path, files, cores):
    assert cpu.core_count(write_root(tmp_path, files)) == cores


@pytest.mark.parametrize(
    "files, available",
    [
        ({}, None),
        (unified(), 8 * GIB),
        (unified(**{"memory.max": "max\n", "memory.current": str(GIB)}), 8 * GIB),
        (unified(**{"memory.max": str(3 * GIB), "memory.current": str(GIB)}), 2 * GIB),
        (
            unified(
                **{
                    "memory.max": f"{3 * GIB}\n",
                    "memory.current": f"{2 * GIB}\n",
                    "memory.stat": f"anon 5\ninactive_file {GIB // 2}\nactive_file 7\n",
                }
            ),
            GIB + GIB // 2,
        ),
        (unified(**{"memory.max": str(GIB), "memory.current": str(2 * GIB)}), 0),
        (unified(**{"memory.max": str(64 * GIB), "memory.current": str(GIB)}), 8 * GIB),
        (
            unified(
                "/a/b",
                **{
                    "a__b__memory.max": "max",
                    "a__b__memory.current": "4096",
                    "a__memory.max": str(4 * GIB),
                    "a__memory.current": str(3 * GIB),
                },
            ),
            GIB,
        ),
        (
            separate(
                **{
                    "memory__memory.limit_in_bytes": "9223372036854771712\n",
                    "memory__memory.usage_in_bytes": str(GIB),
                }
            ),
            8 * GIB,
        ),
        (
            separate(
                **{
                    "memory__memory.limit_in_bytes": str(2 * GIB),
                    "memory__memory.usage_in_bytes": str(2 * GIB),
                    "memory__memory.stat": f"inactive_file 4096\ntotal_inactive_file {GIB}\n",
                }
            ),
            GIB,
        ),
    ],
)
def test_the_memory_limit_of_a_container_counts(tmp_path, files, available):
    assert memory.memory_available_bytes(write_root(tmp_path, files)) == available


def test_a_mount_with_a_space_in_its_name(tmp_path):
    mounts = UNIFIED.replace("/sys/fs/cgroup", "/my\\040groups")
    files = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": mounts, "my groups/cpu.max": "100000 100000"}
    assert cpu.core_count(write_root(tmp_path, files)) == 1


def test_this_machine_s_own_groups_are_read_without_an_error():
    assert 1 <= cpu.core_count() <= 16
    assert 0 < memory.memory_available_bytes() <= memory.memory_info()["MemTotal"]


def test_doctor_names_the_limits_of_a_container(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", WITHOUT_TENSORFLOW)
    files = unified(**{"cpu.max": "200000 100000", "memory.max": str(3 * GIB), "memory.current": str(2 * GIB)})
    checks = {check.name: check for check in doctor.examine(write_root(tmp_path, files))}
    assert "2 of 16 cores" in checks["cpu"].found
    assert checks["memory"].status == "warning"
    assert "8.0 available" in checks["memory"].found and "this container leaves 1.0" in checks["memory"].found
