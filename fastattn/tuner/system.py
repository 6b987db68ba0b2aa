"""What else uses the CPUs: other processes, other virtual machines, this process's own threads.

The only readers of ``/proc/stat`` and ``/proc/self/task`` in the package.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fastattn._machine import machine, system_text

__all__ = ["SystemLoad", "SystemMonitor", "wait_until_idle"]

_STAT, _TASKS = Path("/proc/stat"), Path("/proc/self/task")
_MIN_SECONDS = 0.2  # the system counts in ticks of 10 ms
_BUSY = (0, 1, 2, 5, 6)  # columns user, nice, system, irq, softirq
_STEAL = 7
_IDLE_TIMEOUT_SECONDS = 0.25
_POLL_SECONDS = 0.0002


@dataclass(frozen=True, slots=True)
class SystemLoad:
    """CPU time that the measurements could not have.

    Attributes
    ----------
    usable_cpus : int
    others : float or None
        Share of the usable CPUs' time that other processes took; None if unknown.
    stolen : float or None
        Share that the hypervisor gave to other virtual machines; None if unknown.
    """

    usable_cpus: int
    others: float | None
    stolen: float | None

    @property
    def contention(self) -> float:
        """Sum of both shares; unknown ones count as 0."""
        return (self.others or 0.0) + (self.stolen or 0.0)


class _Times(NamedTuple):
    """Seconds since some fixed points."""

    wall: float
    own: float
    busy: float
    stolen: float
    cpus: int


class SystemMonitor:
    """Observes the system from its creation on.

    Parameters
    ----------
    stat : Path
        The system's CPU time counters.
    """

    def __init__(self, stat: Path = _STAT) -> None:
        self._stat, self._begin = stat, _times(stat)

    def load(self) -> SystemLoad:
        """Load since the monitor was created."""
        usable, now, then = machine().usable_cpus, _times(self._stat), self._begin
        if now is None or then is None or now.wall - then.wall < _MIN_SECONDS:
            return SystemLoad(usable, None, None)
        wall = now.wall - then.wall
        others = now.busy - then.busy - (now.own - then.own)
        # Other processes interfere only as far as CPUs beyond our quota cannot hold them.
        others -= (now.cpus - usable) * wall
        return SystemLoad(
            usable_cpus=usable,
            others=max(0.0, others / (usable * wall)),
            stolen=max(0.0, (now.stolen - then.stolen) / (now.cpus * wall)),
        )


def _times(stat: Path) -> _Times | None:
    """Times of the CPUs that this process may run on, and its own; None if unknown."""
    try:
        rows = [line.split() for line in system_text(stat).splitlines() if line.startswith("cpu")]
        allowed = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        ticks = [[int(word) for word in row[1:]] for row in rows if row[0] in allowed]
        busy = sum(row[column] for row in ticks for column in _BUSY)
        stolen = sum(row[_STEAL] for row in ticks)
        second = os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return None
    if not ticks:
        return None
    return _Times(
        time.perf_counter(), time.process_time(), busy / second, stolen / second, len(ticks)
    )


def wait_until_idle(
    computing: Callable[[], bool] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.perf_counter,
) -> bool:
    """Wait until no other thread of this process computes; False after a timeout.

    Helper threads spin for a while after a call, those of BLAS for 0.1 s, and hold CPUs on which
    the next configuration is to be measured.
    """
    computing = _other_threads_compute if computing is None else computing
    end = clock() + _IDLE_TIMEOUT_SECONDS
    while computing():
        if clock() >= end:
            return False
        sleep(_POLL_SECONDS)
    return True


def _other_threads_compute() -> bool:
    """Whether another thread of this process is runnable; False if unknown."""
    own = str(threading.get_native_id())
    try:
        others = [task for task in _TASKS.iterdir() if task.name != own]
    except OSError:
        return False
    return any(_state(task) == "R" for task in others)


def _state(task: Path) -> str:
    fields = system_text(task / "stat").rpartition(")")[2].split()
    return fields[0] if fields else ""  # the thread has ended
