"""Where the Numba implementation's helper threads may wake: in processes of their own."""

from __future__ import annotations

import os

import pytest
from processes import run_python

pytest.importorskip("numba")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads stay where they are"),
    pytest.mark.skipif(
        len(getattr(os, "sched_getaffinity", lambda _: ())(0)) < 2, reason="one CPU alone"
    ),
]

HEADER = """
import os, threading, time
from fastattn.implementations._numba import places
from fastattn.implementations._numba.pool import run_on_threads

cpus = os.sched_getaffinity(0)
found = {}

def see(worker, leave=None):
    "Where a thread may be; with `leave` the caller does not wait for the helper."
    found[worker] = threading.get_native_id(), os.sched_getaffinity(0), places.current_cpu()
    if worker:
        helped.set()
        return time.sleep(0.05) if leave is None else leave.wait(10)
    return helped.wait(10) and leave is not None

def share(leave=None):
    helped.clear()
    run_on_threads(lambda worker: see(worker, leave), 2)
    return found[1][0]

helped = threading.Event()
helper = share()
"""


def test_the_callers_cpu_is_left_to_it() -> None:
    """The helper does not wake there, wherever the caller is."""
    run_python(
        HEADER
        + """
for cpu in sorted(cpus)[:2] * 2:
    os.sched_setaffinity(0, {cpu})  # of the caller alone
    share()
    assert found[1][1] == cpus - {cpu}, (cpu, found)
    assert found[1][2] != cpu, (cpu, found)
"""
    )


def test_who_waits_lets_go() -> None:
    """A caller that waits for its helper leaves it all CPUs, and only such a one."""
    run_python(
        HEADER
        + """
share()
assert os.sched_getaffinity(helper) == cpus
leave = threading.Event()
share(leave)
left = os.sched_getaffinity(helper)
leave.set()
assert len(left) == len(cpus) - 1, left
"""
    )


def test_what_somebody_else_allows_is_kept() -> None:
    """A helper that was given other CPUs gets these back, and no more."""
    run_python(
        HEADER
        + """
first, second = sorted(cpus)[:2]
os.sched_setaffinity(0, {first})
share()
os.sched_setaffinity(helper, {second})  # as `taskset -a -p` does
share()
assert os.sched_getaffinity(helper) == {second}
os.sched_setaffinity(0, {second})
share()  # it has nowhere else to go
assert os.sched_getaffinity(helper) == {second}
"""
    )


@pytest.mark.parametrize("missing", ["os.sched_setaffinity", "places.current_cpu"])
def test_a_system_that_does_not_tell(missing: str) -> None:
    """Or does not allow it: the work is shared all the same."""
    run_python(
        HEADER
        + """
import sys
from fastattn.implementations._numba import pool

def refuse(*_):
    raise PermissionError("forbidden here")

if sys.argv[1].startswith("os"):
    os.sched_setaffinity = refuse
else:
    pool.current_cpu = None
share()
share()
assert os.sched_getaffinity(helper) == cpus
""",
        missing,
    )
