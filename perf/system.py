"""What else the machine does, and how a process waits for it: load, settling, CPUs, environment."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.conditions import read_text

# An idle CPU runs up to 1.7 times slower for the first 4 to 8 ms.
WAKE_SECONDS = 0.008
# Idle: no other thread runs at this many looks in a row.  OpenBLAS's threads spin for 2^28 cycles.
IDLE_LOOKS, IDLE_STEP_SECONDS, IDLE_LIMIT_SECONDS = 3, 0.001, 0.3


def environment(threads: int) -> dict[str, str]:
    """Environment of a process in which every library has `threads` threads.

    Variables that choose a library's kernels, or how its threads wait, stay as they are.
    """
    count = dict.fromkeys((*common.BLAS_VARIABLES, "NPROC"), str(threads))  # NPROC: XLA
    ours = count | common.UNTUNED
    return dict(os.environ) | ours | {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONHASHSEED": "0"}


def pin(threads: int) -> None:
    """Bind this process to as many CPUs as it has threads: the last ones that it may use."""
    if hasattr(os, "sched_setaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, usable[-threads:])


def settle(
    running: Callable[[], int] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.perf_counter,
) -> bool:
    """Wait until no other thread of this process computes; False if that takes too long."""
    running = _running_threads if running is None else running
    end, idle = clock() + IDLE_LIMIT_SECONDS, 0
    while idle < IDLE_LOOKS:
        if clock() >= end:
            return False
        sleep(IDLE_STEP_SECONDS)
        idle = 0 if running() else idle + 1
    return True


def wake(call: Callable[[], Any]) -> None:
    """Call, at least once, until the threads and CPUs that compute are up to speed."""
    end = time.perf_counter() + WAKE_SECONDS
    call()
    while time.perf_counter() < end:
        call()


def _running_threads(tasks: Path = Path("/proc/self/task")) -> int:
    """Number of threads of this process that run or want to, apart from the one that asks.

    A thread's state is up to date; other threads' CPU times advance only with the kernel's ticks.
    """
    me, found = str(threading.get_native_id()), 0
    for task in tasks.iterdir():
        if task.name == me:
            continue
        fields = (read_text(str(task / "stat")) or "").rpartition(")")[2].split()
        found += fields[:1] == ["R"]  # none if it has ended
    return found


class Others:
    """What the rest of the machine takes of this process's CPUs."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat, self._start = stat, self._read_counters(stat)

    def share(self) -> float | None:
        """Fraction of the CPUs' time since the start that others took; None if unknown.

        Time that a hypervisor took counts, too; children that have ended do not count as others.
        """
        return self._fraction(lambda busy, own, stolen: busy - own)

    def stolen(self) -> float | None:
        """Fraction that a hypervisor gave to other machines; None if unknown."""
        return self._fraction(lambda busy, own, stolen: stolen)

    def _fraction(self, share: Callable[[float, float, float], float]) -> float | None:
        now = self._read_counters(self._stat)
        if now is None or self._start is None:
            return None
        *times, total = (b - a for a, b in zip(self._start, now, strict=True))
        return max(0.0, share(*times)) / total if total else None

    @staticmethod
    def _read_counters(stat: Path) -> tuple[float, float, float, float] | None:
        """Seconds in which the CPUs were busy, worked for us, and were stolen; and all seconds."""
        lines = [line.split() for line in (read_text(str(stat)) or "").splitlines()]
        if not lines:
            return None
        names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        tick = os.sysconf("SC_CLK_TCK")
        rows = [[int(field) / tick for field in line[1:9]] for line in lines if line[0] in names]
        total = sum(map(sum, rows))
        stolen = sum(row[7] for row in rows if len(row) > 7)
        idle = sum(row[3] + row[4] for row in rows)  # idle, iowait
        children = os.times()
        own = time.process_time() + children.children_user + children.children_system
        return total - idle, own, stolen, total
