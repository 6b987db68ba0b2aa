"""`Guard`: what else the CPUs did while measurements were taken."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from fastattn._machine import machine

try:
    import resource
except ImportError:  # not on this system
    resource = None  # type: ignore[assignment]

__all__ = ["Guard", "Load"]

_STAT = Path("/proc/stat")
_SHORTEST_SECONDS = 0.2  # the system counts in ticks of 10 ms
_BUSY = (0, 1, 2, 5, 6)  # columns user, nice, system, irq, softirq
_STEAL = 7


@dataclass(frozen=True, slots=True)
class Load:
    """What happened besides the measurements.

    Attributes
    ----------
    usable_cpus : int
    load_average : float or None
        Of the last minute.
    others : float or None
        Share of the usable CPUs' time that other processes took; None where the system does
        not tell.
    stolen : float or None
        Share that the hypervisor gave to other machines.
    interruptions : int or None
        How often this process was taken off a CPU that it wanted.
    """

    usable_cpus: int
    load_average: float | None
    others: float | None
    stolen: float | None
    interruptions: int | None

    @property
    def contention(self) -> float:
        """Share of the usable CPUs' time that could not be had, as far as it is known."""
        return (self.others or 0.0) + (self.stolen or 0.0)


@dataclass(frozen=True, slots=True)
class _Times:
    """Seconds since some fixed points."""

    wall: float
    own: float
    busy: float
    stolen: float
    cpus: int


class Guard:
    """Observes from when it is made; `load` tells what it has seen since.

    Parameters
    ----------
    stat : Path
        The system's account of the CPUs' time.
    """

    def __init__(self, stat: Path = _STAT) -> None:
        self._stat = stat
        self._begin, self._interruptions = _times(stat), _interruptions()

    def load(self) -> Load:
        """What happened since the guard was made."""
        usable, now, then = machine().usable_cpus, _times(self._stat), self._begin
        others = stolen = None
        if now is not None and then is not None and now.wall - then.wall >= _SHORTEST_SECONDS:
            wall = now.wall - then.wall
            foreign = now.busy - then.busy - (now.own - then.own)
            # Other processes are in the way only as far as CPUs beyond our share cannot hold them.
            foreign -= (now.cpus - usable) * wall
            others = max(0.0, foreign / (usable * wall))
            stolen = max(0.0, (now.stolen - then.stolen) / (now.cpus * wall))
        interruptions = _interruptions()
        return Load(
            usable_cpus=usable,
            load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            others=others,
            stolen=stolen,
            interruptions=None
            if interruptions is None or self._interruptions is None
            else interruptions - self._interruptions,
        )


def _times(stat: Path) -> _Times | None:
    """Times of the CPUs that this process may run on, and its own; None if they are not told."""
    try:
        rows = [line.split() for line in stat.read_text().splitlines() if line.startswith("cpu")]
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


def _interruptions() -> int | None:
    """Involuntary context switches of this process."""
    return None if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
