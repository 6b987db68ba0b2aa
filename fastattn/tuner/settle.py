"""`settle`: wait until this process is quiet.

After a call, helper threads go on looking for work, those of BLAS for a tenth of a second;
meanwhile they hold CPUs on which the next configuration, with other threads, is to be measured.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["settle"]

_TASKS = Path("/proc/self/task")
_LIMIT_SECONDS = 0.25
_STEP_SECONDS = 0.0002


def settle(
    computing: Callable[[], bool] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.perf_counter,
) -> bool:
    """Wait until no other thread of this process computes; False if one never stopped."""
    computing = _others_compute if computing is None else computing
    end = clock() + _LIMIT_SECONDS
    while computing():
        if clock() >= end:
            return False
        sleep(_STEP_SECONDS)
    return True


def _others_compute(tasks: Path = _TASKS) -> bool:
    """Whether a thread other than this one runs or wants to; False if the system does not tell."""
    me = str(threading.get_native_id())
    try:
        others = [task for task in tasks.iterdir() if task.name != me]
    except OSError:
        return False
    return any(_state(task) == "R" for task in others)


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):  # it has ended
        return ""
