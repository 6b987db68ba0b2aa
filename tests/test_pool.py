"""Helper threads of the ``cython`` implementation: who is waited for, and what else they do."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from processes import run_python

import fastattn

ROOT = Path(__file__).resolve().parent.parent

HEADER = """
import json, os, resource, signal, statistics, subprocess, sys, time
import numpy as np
import fastattn

rng = np.random.default_rng(0)
x = rng.standard_normal((3, 8, 256, 64)).astype(np.float32)
config = fastattn.Config(threads=2, block_q=64)

def attention():
    return fastattn.attention(*x, impl="cython", config=config)

def alone():
    return fastattn.attention(*x, impl="cython", config=fastattn.Config(threads=1, block_q=64))

def tasks():
    return {int(name) for name in os.listdir("/proc/self/task")}

def cpu_seconds(task):
    fields = open(f"/proc/self/task/{task}/stat").read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

def helpers_of(call):
    before = tasks()
    call()
    return tasks() - before
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
native = pytest.mark.skipif(not fastattn.machine().isas, reason="cython: not built")
two_cpus = pytest.mark.skipif(fastattn.machine().usable_cpus < 2, reason="needs two CPUs")


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_pool_under_a_sanitizer(sanitizer: str, tmp_path: Path) -> None:
    """Every item is done once and before the call returns, whoever calls, forks or comes late."""
    compiler = str(sysconfig.get_config_var("CXX") or "c++").split()
    flags = ["-std=c++20", "-O1", "-g", "-pthread", f"-fsanitize={sanitizer}"]
    empty = tmp_path / "empty.cpp"
    empty.write_text("int main() {}\n")
    program = tmp_path / "pool"
    tried = subprocess.run([*compiler, *flags, empty, "-o", program], capture_output=True)
    if tried.returncode or subprocess.run([program], capture_output=True).returncode:
        pytest.skip(f"{sanitizer} sanitizer: the compiler or the system lacks it")
    sources = [ROOT / "src_cpp" / name for name in ("pool.cpp", "threads.cpp")]
    sources.append(ROOT / "tests" / "pool_check.cpp")
    include = f"-I{ROOT / 'src_cpp'}"
    subprocess.run([*compiler, *flags, include, *sources, "-o", program], check=True)
    done = subprocess.run(
        [program, "500"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "TSAN_OPTIONS": "die_after_fork=0"},
    )
    assert done.returncode == 0, done.stdout + done.stderr


@linux
@native
@two_cpus
@pytest.mark.slow
@pytest.mark.timing
def test_a_late_helper_is_not_waited_for() -> None:
    """One that gets a CPU a few times a second costs no call that time."""
    run_python(
        HEADER
        + """
[helper] = helpers_of(attention)
first, second = sorted(os.sched_getaffinity(0))[:2]
busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
try:
    os.sched_setaffinity(busy.pid, {first})
    os.sched_setaffinity(helper, {first})
    os.sched_setscheduler(helper, os.SCHED_IDLE, os.sched_param(0))
    os.sched_setaffinity(0, {second})
    def took(call):
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    pairs = [(took(alone), took(attention)) for _ in range(60)]
    ours, theirs = (statistics.median(times) for times in zip(*pairs))
    assert theirs < 2 * ours + 0.002, (theirs, ours)
finally:
    busy.kill()
"""
    )


@linux
@native
@two_cpus
@pytest.mark.slow
@pytest.mark.timing
def test_helpers_park_between_calls_and_come_back() -> None:
    """They take no CPU time from others for long, and work when there is work."""
    run_python(
        HEADER
        + """
[helper] = helpers_of(attention)
time.sleep(0.1)
before = cpu_seconds(helper)
time.sleep(0.5)
assert cpu_seconds(helper) - before <= 0.02
for _ in range(400):
    attention()
    time.sleep(0.001)
assert cpu_seconds(helper) - before >= 0.03, cpu_seconds(helper) - before
"""
    )


@linux
@native
def test_a_forked_child_has_helpers_of_its_own() -> None:
    """As many as a call wants, in the child and in its own child."""
    run_python(
        HEADER
        + """
expected = alone()
assert len(helpers_of(attention)) == 1

def forked(generations):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        assert len(tasks()) == 1
        fine = len(helpers_of(attention)) == 1 and np.array_equal(attention(), expected)
        fine = fine and (not generations or forked(generations - 1))
        os._exit(0 if fine else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

assert forked(1)
assert not helpers_of(attention)
"""
    )


@linux
@native
@pytest.mark.parametrize("items", [1, 3, 6])
def test_explain_shows_the_threads_that_run(items: int) -> None:
    """No more than there are work items, whatever `Config` asks for."""
    run_python(
        HEADER
        + f"""
x = rng.standard_normal((3, {items}, 64, 64)).astype(np.float32)
config = fastattn.Config(threads=4, block_q=64)
explained = fastattn.explain(*x, impl="cython", config=config)
assert explained.config.threads == min(4, {items})
assert explained.reasons["threads"] == (
    "requested" if {items} >= 4 else "no more than work items; 4 wanted: Config.threads"
)
helpers = helpers_of(lambda: fastattn.attention(*x, impl="cython", config=config))
assert len(helpers) == explained.config.threads - 1
"""
    )


@linux
@native
def test_helpers_take_no_signals() -> None:
    """Ctrl-C and others that are sent reach threads that know of them; faults are theirs."""
    run_python(
        HEADER
        + """
def blocked(signal_number, status):
    mask = int(open(status).read().split("SigBlk:")[1].split()[0], 16)
    return bool(mask >> (signal_number - 1) & 1)

[helper] = helpers_of(attention)
theirs = f"/proc/self/task/{helper}/status"
for _ in range(1000):  # the system starts a thread with every signal blocked
    if not blocked(signal.SIGSEGV, theirs):
        break
    time.sleep(0.005)
assert not blocked(signal.SIGSEGV, theirs)
assert blocked(signal.SIGINT, theirs)
assert blocked(signal.SIGTERM, theirs)
assert not any(blocked(number, "/proc/self/status") for number in signal.valid_signals())
"""
    )


@linux
@native
def test_no_thread_can_be_started() -> None:
    """The calling thread does all the work."""
    run_python(
        HEADER
        + """
expected = alone()
now = next(int(line.split()[1]) for line in open("/proc/self/status") if "VmSize" in line)
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
resource.setrlimit(resource.RLIMIT_AS, ((now << 10) + (4 << 20), hard))
assert not helpers_of(lambda: attention() is None)
assert np.array_equal(attention(), expected)
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
assert len(helpers_of(attention)) == 1
"""
    )


@linux
@native
@two_cpus
@pytest.mark.slow
@pytest.mark.timing
def test_a_parked_helper_is_not_woken_on_the_callers_cpu() -> None:
    """It is kept off that CPU until it runs, and may then use all of its own again."""
    run_python(
        HEADER
        + """
[helper] = helpers_of(attention)
cpus = os.sched_getaffinity(0)
others = cpus - {min(cpus)}
os.sched_setaffinity(0, {min(cpus)})
os.sched_setscheduler(helper, os.SCHED_IDLE, os.sched_param(0))
busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in others]
try:
    for process, cpu in zip(busy, others):
        os.sched_setaffinity(process.pid, {cpu})
    time.sleep(0.3)
    kept_off = 0
    for _ in range(20):
        time.sleep(0.02)  # it parks
        attention()
        kept_off += os.sched_getaffinity(helper) == others  # it has not run yet
    assert kept_off >= 5, kept_off
finally:
    for process in busy:
        process.kill()
        process.wait()
end = time.monotonic() + 10
while os.sched_getaffinity(helper) != cpus and time.monotonic() < end:
    time.sleep(0.01)
assert os.sched_getaffinity(helper) == cpus
"""
    )
