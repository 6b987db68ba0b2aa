"""The conditions of a measurement: libraries, threads, CPUs, and what others took of these.

Everything here is a fact that is read, or None if the system does not provide it.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import common

RECORD_VARIABLE = "FASTATTN_BENCH_CONDITIONS"  # a file to which measurements append theirs
CASE_VARIABLE = "FASTATTN_BENCH_CASE"  # what is being measured, in words

# Beyond these shares a measurement counts as contended.
LOST_SHARE = 0.05
STEAL_SHARE = 0.02

VARIABLES = (
    *common.BLAS_VARIABLES,
    "PYTHONHASHSEED",
    "FASTATTN_ISA",
    "FASTATTN_NUM_THREADS",
    "FASTATTN_THREADING",
    "FASTATTN_WISDOM",
)


def cpus() -> list[int]:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def facts() -> dict[str, Any]:
    """Interpreter, libraries, threads and CPUs of this process."""
    import numpy as np

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": platform.platform(),
        "cpus": cpus(),
        "governor": read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "threads": status("Threads"),
    }


def status(name: str) -> int | None:
    """A number that the system gives of this process: its threads, its memory in KiB."""
    lines = (read_text("/proc/self/status") or "").splitlines()
    return next((int(s.split()[1]) for s in lines if s.startswith(f"{name}:")), None)


def steal_ticks(numbers: list[int], stat: str = "/proc/stat") -> int:
    """Ticks since boot that a hypervisor gave these CPUs to others; 0 if it does not say."""
    names = {f"cpu{number}" for number in numbers}
    lines = [line.split() for line in (read_text(stat) or "").splitlines()]
    return sum(int(line[8]) for line in lines if line and line[0] in names and len(line) > 8)


@dataclass(frozen=True, slots=True)
class Contention:
    """What others took during a measurement.

    Attributes
    ----------
    seconds : float
        How long the measurement lasted.
    lost_share : float
        Share of that time in which this process did not run.  It never waits of its own accord.
    steal_share : float
        Share of its CPUs' time that a hypervisor gave to others.
    switches : int
        Number of times that the process was made to leave a CPU.
    """

    seconds: float
    lost_share: float
    steal_share: float
    switches: int

    @property
    def contended(self) -> bool:
        """Whether either share is too large."""
        return self.lost_share > LOST_SHARE or self.steal_share > STEAL_SHARE


class Monitor:
    """Watches the contention of this process, from the monitor's creation on."""

    def __init__(self) -> None:
        self._cpus = cpus()
        self._start = self._read_counters()

    def stop(self) -> Contention:
        """The contention since the start."""
        seconds, running, switches, ticks = (
            b - a for a, b in zip(self._start, self._read_counters(), strict=True)
        )
        steal = ticks / os.sysconf("SC_CLK_TCK") / len(self._cpus)
        return Contention(
            seconds,
            max(0.0, 1 - running / seconds) if seconds > 0 else 0.0,
            min(1.0, steal / seconds) if seconds > 0 else 0.0,
            int(switches),
        )

    def _read_counters(self) -> tuple[float, float, int, int]:
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        return time.perf_counter(), time.process_time(), switches, steal_ticks(self._cpus)


def record(contention: Contention) -> None:
    """Append this measurement's conditions to the file that the environment names, if any."""
    path = os.environ.get(RECORD_VARIABLE)
    if path:
        line = {"case": os.environ.get(CASE_VARIABLE), **asdict(contention)} | facts()
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def read_text(path: str) -> str | None:
    """Text of a file, without what is not UTF-8; None if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
