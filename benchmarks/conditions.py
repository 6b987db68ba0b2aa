"""The conditions under which numbers were taken: machine, libraries, threads, disturbance.

They are stored with the results and looked at before those are believed.  Everything here is a
fact that is read, or None if the system does not tell it.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.files import write_whole

RECORD_VARIABLE = "FASTATTN_BENCH_CONDITIONS"  # a file to which measurements append theirs
CASE_VARIABLE = "FASTATTN_BENCH_CASE"  # what is being measured, in words

# Beyond these shares a measurement counts as disturbed.
LOST_SHARE = 0.05
STEAL_SHARE = 0.02
DISTURBED_SHARE = 0.1  # of a run's measurements: beyond it the run is disturbed

VARIABLES = (
    *common.BLAS_VARIABLES,
    "PYTHONHASHSEED",
    "FASTATTN_ISA",
    "FASTATTN_NUM_THREADS",
    "FASTATTN_WISDOM",
)

# If set, these make a library use other kernels than it would choose for this processor.
FORCING = (
    *("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_CBWR", "MKL_DEBUG_CPU_TYPE"),
    *("MKL_ENABLE_INSTRUCTIONS", "BLIS_ARCH_TYPE", "NVPL_BLAS_DEBUG_CPU_TYPE"),
    *("NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES", "NUMBA_CPU_NAME"),
    *("NUMBA_CPU_FEATURES", "ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA"),
    "FASTATTN_ISA",
)


def forced(variables: Mapping[str, str | None]) -> str | None:
    """Name what in an environment forces a library's kernels; None if nothing does."""
    found = [f"{name}={variables[name]}" for name in FORCING if variables.get(name)]
    if not found:
        return None
    return (
        f"Forced from outside: {', '.join(found)}. A library that this concerns may be slower here "
        "than it is; unset it, to compare what libraries choose for this processor."
    )


def cpus() -> list[int]:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def machine() -> str:
    """The processor, in words."""
    lines = (_read("/proc/cpuinfo") or "").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(models or ['unknown CPU'])[0]}, {os.cpu_count()} CPUs"


def facts() -> dict[str, Any]:
    """Interpreter, libraries, thread pools and CPUs of this process."""
    import numpy as np

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": platform.platform(),
        "cpus": cpus(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "variables": {
            **{name: os.environ.get(name) for name in VARIABLES},
            **{name: os.environ[name] for name in FORCING if name in os.environ},
        },
        "threads": _own_threads(),
        "pools": pools(),
    }


def pools() -> list[dict[str, Any]] | None:
    """Thread pools of the loaded libraries; None if threadpoolctl is not installed."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return None
    names = ("internal_api", "num_threads", "version")
    return [{name: pool.get(name) for name in names} for pool in threadpool_info()]


def _own_threads() -> int | None:
    """Number of threads that this process has now, OpenMP's and BLAS's included."""
    lines = (_read("/proc/self/status") or "").splitlines()
    return next((int(s.split()[1]) for s in lines if s.startswith("Threads:")), None)


def steal_ticks(numbers: list[int], stat: str = "/proc/stat") -> int:
    """Ticks since boot that a hypervisor gave these CPUs to others; 0 if it does not say."""
    names = {f"cpu{number}" for number in numbers}
    lines = [line.split() for line in (_read(stat) or "").splitlines()]
    return sum(int(line[8]) for line in lines if line and line[0] in names and len(line) > 8)


@dataclass(frozen=True, slots=True)
class Disturbance:
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
    def disturbed(self) -> bool:
        """Whether either share is too large."""
        return self.lost_share > LOST_SHARE or self.steal_share > STEAL_SHARE


class Watch:
    """Watches the disturbance of this process, from the watch's creation on."""

    def __init__(self) -> None:
        self._cpus = cpus()
        self._start = self._look()

    def stop(self) -> Disturbance:
        """The disturbance since the start."""
        seconds, running, switches, ticks = (
            b - a for a, b in zip(self._start, self._look(), strict=True)
        )
        steal = ticks / os.sysconf("SC_CLK_TCK") / len(self._cpus)
        return Disturbance(
            seconds,
            max(0.0, 1 - running / seconds) if seconds > 0 else 0.0,
            min(1.0, steal / seconds) if seconds > 0 else 0.0,
            int(switches),
        )

    def _look(self) -> tuple[float, float, int, int]:
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        return time.perf_counter(), time.process_time(), switches, steal_ticks(self._cpus)


def record(disturbance: Disturbance) -> None:
    """Append this measurement's conditions to the file that the environment names, if any."""
    path = os.environ.get(RECORD_VARIABLE)
    if path:
        line = {"case": os.environ.get(CASE_VARIABLE), **asdict(disturbance)} | facts()
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def gather(lines: list[str]) -> dict[str, Any]:
    """Combine recorded lines: the facts, once if all agree, and what was disturbed.

    Returns
    -------
    dict
        "facts": the distinct ones, in order; "measurements": case, seconds, shares and whether
        it was disturbed; "disturbed": whether more than `DISTURBED_SHARE` of them were.
    """
    different: list[dict[str, Any]] = []
    measurements = []
    for line in lines:
        entry = json.loads(line)
        names = ("seconds", "lost_share", "steal_share", "switches")
        disturbance = Disturbance(**{name: entry.pop(name) for name in names})
        case = entry.pop("case")
        if entry not in different:
            different.append(entry)
        shares = {n: round(getattr(disturbance, n), 4) for n in names}
        measurements.append({"case": case, **shares, "disturbed": disturbance.disturbed})
    bad = sum(m["disturbed"] for m in measurements)
    disturbed = bad > DISTURBED_SHARE * len(measurements)
    return {"facts": different, "measurements": measurements, "disturbed": disturbed}


def path_of(results: Path, machine: str, commit: str) -> Path:
    """File of a commit's conditions, beside its results; not .json, because asv's files are."""
    return results / machine / f"{commit[:8]}.conditions"


def store(found: dict[str, Any], results: Path, machine: str, commit: str) -> Path:
    """Add a run's conditions to those of the commit's earlier runs."""
    path = path_of(results, machine, commit)
    runs = load(results, machine, commit)
    write_whole(path, json.dumps({"version": 1, "runs": [*runs, found]}, indent=1) + "\n")
    return path


def load(results: Path, machine: str, commit: str) -> list[dict[str, Any]]:
    """Conditions of the runs that a commit's results come from; [] if none were recorded."""
    text = _read(str(path_of(results, machine, commit)))
    runs: list[dict[str, Any]] = json.loads(text)["runs"] if text else []
    return runs


def warning(found: dict[str, Any]) -> str | None:
    """Say that a run was disturbed; None if it was not."""
    if not found["disturbed"]:
        return None
    bad = [m for m in found["measurements"] if m["disturbed"]]
    worst = max(bad, key=lambda m: max(m["lost_share"], m["steal_share"]))
    share = 100 * max(worst["lost_share"], worst["steal_share"])
    return (
        f"DISTURBED: {len(bad)} of {len(found['measurements'])} measurements had to share their "
        f"CPU; worst, {worst['case']}: others had {share:.0f} %.  Measure again on a quiet machine."
    )


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None


if __name__ == "__main__":
    json.dump(facts(), sys.stdout, indent=1)
