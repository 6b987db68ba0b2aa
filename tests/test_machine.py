"""What the machine is: cgroup limits, affinity, caches, processor, instruction sets."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from targets import KNOWN_ISAS, MODELS

import fastattn
from fastattn import _machine
from fastattn._wisdom import keys
from fastattn.tuner import system
from perf import system as perf_system


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/self/cgroup": ""}, None),
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/a/b\n", f"{V2}/a/b/cpu.max": "50000 100000\n"}, 0.5),
        # a parent's limit binds its children, and theirs binds them
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                f"{V2}/a/cpu.max": "200000 100000",
                f"{V2}/a/b/cpu.max": "300000 100000",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                f"{V2}/cpu.max": "800000 100000",
                f"{V2}/a/cpu.max": "max 100000",
                f"{V2}/a/b/cpu.max": "300000 100000",
            },
            3.0,
        ),
        # in a container the path may be told from outside it
        ({"proc/self/cgroup": "0::/../../x\n", f"{V2}/cpu.max": "100000 100000"}, 1.0),
        ({"proc/self/cgroup": "0::/a:b\n", f"{V2}/a:b/cpu.max": "100000 50000"}, 2.0),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "nonsense"}, None),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "some 100000"}, None),
        # version 1
        (
            {
                "proc/self/cgroup": "5:memory:/m\n4:cpu,cpuacct:/d/x\n",
                f"{V1}/d/x/cpu.cfs_quota_us": "250000\n",
                f"{V1}/d/x/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        (
            {
                "proc/self/cgroup": "4:cpuacct,cpu:/\n",
                f"{V1}/cpu.cfs_quota_us": "-1\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "4:cpu:/\n", f"{V1}/cpu.cfs_quota_us": "100000\n"}, None),
        ({"proc/self/cgroup": "4:cpuset:/\n", f"{V2}/cpu.max": "100000 100000"}, None),
        # both: the smaller one
        (
            {
                "proc/self/cgroup": "4:cpu:/\n0::/\n",
                f"{V1}/cpu.cfs_quota_us": "300000",
                f"{V1}/cpu.cfs_period_us": "100000",
                f"{V2}/cpu.max": "200000 100000",
            },
            2.0,
        ),
    ],
)
def test_cgroup_cpus(tmp_path: Path, files: dict[str, str], expected: float | None) -> None:
    """The quota of either version, the smallest on the way up."""
    assert _machine.cgroup_cpus(_tree(tmp_path, files)) == expected


def test_cgroup_with_a_name_in_bytes(tmp_path: Path) -> None:
    """Names of groups are bytes, and a line that means nothing is passed over."""
    _tree(tmp_path, {"proc/self/cgroup": ""}).joinpath("proc/self/cgroup").write_bytes(
        b"garbage\n\xff\n0::/caf\xe9.service\n"
    )
    folder = os.fsencode(tmp_path / V2) + b"/caf\xe9.service"
    os.makedirs(folder)
    with open(folder + b"/cpu.max", "wb") as file:
        file.write(b"150000 100000\n")
    assert _machine.cgroup_cpus(tmp_path) == 1.5


def test_state_of_a_thread_with_a_name_in_bytes(tmp_path: Path) -> None:
    """Threads name themselves; the tuner waits for those that run."""
    for tid, text in (("1", b"1 (\xff) R) R 0"), ("2", b"2 (x) S 0"), ("3", b"")):
        (tmp_path / tid).mkdir()
        (tmp_path / tid / "stat").write_bytes(text)
    found = [system._state(tmp_path / tid) for tid in ("1", "2", "3", "4")]
    assert found == ["R", "S", "", ""]
    assert perf_system._running_threads(tmp_path) == 1


@pytest.mark.parametrize(
    ("quota", "affinity", "expected"),
    [(None, 4, 4), (0.25, 4, 1), (1.0, 4, 1), (1.01, 4, 2), (3.5, 4, 4), (9.0, 4, 4), (3.5, 1, 1)],
)
def test_usable_cpus(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, affinity: int, expected: int
) -> None:
    """The smaller of affinity and quota, the quota rounded up."""
    monkeypatch.setattr(_machine, "cgroup_cpus", lambda root: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)), raising=False)
    assert _machine.usable_cpus.__wrapped__() == expected


def test_usable_cpus_where_there_is_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    monkeypatch.setattr(_machine, "cgroup_cpus", lambda root: None)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert _machine.usable_cpus.__wrapped__() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert _machine.usable_cpus.__wrapped__() == 1


def test_affinity_of_the_process() -> None:
    """A process bound to one CPU uses one, and so does a child forked from it."""
    code = """
import os, fastattn
if hasattr(os, "sched_setaffinity"):
    before = fastattn.machine()
    assert fastattn.machine() is before
    child = os.fork()
    if child == 0:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        os._exit(0 if fastattn.machine().usable_cpus == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert fastattn.machine() is before
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_processor(tmp_path: Path) -> None:
    """The model's name, else whatever the system says."""
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Abacus 9000 \nflags\t: fpu\n")
    assert _machine._processor(info) == "Abacus 9000"
    fallback = platform.processor() or platform.machine()
    info.write_text("Hardware : unknown\n")
    assert _machine._processor(info) == fallback
    assert _machine._processor(tmp_path / "missing") == fallback
    info.write_bytes(b"vendor_id: x\nmodel name: Made of \xa1\xff bytes\n")
    assert _machine._processor(info) == "Made of \ufffd\ufffd bytes"
    assert keys.cpu(info) == "x"


def test_caches(tmp_path: Path) -> None:
    """Data and unified caches by level; what cannot be read is left out."""
    rows = [("Data", "1", "32K"), ("Instruction", "1", "32K"), ("Unified", "2", "512K")]
    rows += [("Unified", "3", "32768K"), ("Unified", "4", "?"), ("Data", "5", "manyK")]
    for number, (kind, level, size) in enumerate(rows):
        folder = f"index{number}"
        _tree(tmp_path, {f"{folder}/type": kind, f"{folder}/level": level, f"{folder}/size": size})
    (tmp_path / "index9").mkdir()
    assert _machine.caches_bytes(tmp_path) == {"L1d": 2**15, "L2": 2**19, "L3": 2**25}
    assert _machine.caches_bytes(tmp_path / "missing") == {}


def test_this_machine() -> None:
    """The description holds together, and is made once."""
    machine = fastattn.machine()
    assert fastattn.machine() is machine
    assert machine.processor
    assert machine.architecture == platform.machine()
    assert 1 <= machine.usable_cpus <= machine.cpus
    assert all(size > 0 for size in machine.caches_bytes.values())
    assert not set(machine.isas) & set(machine.missing_isas)
    assert all(reason for reason in machine.missing_isas.values())
    if fastattn.implementations()["cython"] is None:
        last = machine.isas.index("baseline")  # runs on any CPU, and is the last choice
        offered, named = machine.isas[: last + 1], set(machine.isas[last + 1 :])
        assert {*offered, *machine.missing_isas} - set(MODELS) <= set(KNOWN_ISAS)
        assert offered == tuple(isa for isa in reversed(KNOWN_ISAS) if isa in offered)
        assert named - set(MODELS) <= {"avx512_bf16"}
    else:
        assert not machine.isas


def test_extension_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine has no instruction set then, and says why."""
    name = "fastattn.implementations._native"
    package = sys.modules["fastattn.implementations"]
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr(package, "_native", raising=False)
    _machine.machine.cache_clear()
    try:
        binding, reason = _machine.native()
        assert binding is None
        assert reason is not None
        assert "cannot be imported" in reason
        machine = fastattn.machine()
        assert machine.isas == ()
        assert machine.missing_isas == {"cython": reason}
        assert fastattn.implementations()["cython"] == reason
    finally:
        _machine.machine.cache_clear()
