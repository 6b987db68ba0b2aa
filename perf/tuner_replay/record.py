"""Record a table: every point of a space gives one sample in each repetition, in random order.

Repetitions are measured in fresh processes (`record_worker`), several in each.  The table is
written after each, so that an interrupted recording goes on where it stopped.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastattn
from benchmarks import common
from fastattn._errors import ArgumentError
from fastattn._wisdom.keys import environment
from fastattn.tuner.space import Point
from perf import children
from perf.tuner_replay.record_worker import Request, problem
from perf.tuner_replay.recorded_table import Table, read, write

__all__ = ["Extent", "RecordError", "record"]

WORKER = "perf.tuner_replay.record_worker"

Tell = Callable[[float, str], None]  # share that is done, what is being done


class RecordError(RuntimeError):
    """Recording a table failed."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is recorded.

    Attributes
    ----------
    repetitions : int
        Repetitions in all, which is the number of samples of each point.
    processes : int
        Fresh processes, at least.
    seconds : float or None
        Time for a table: a repetition that would not end within it is not begun, but for the
        first one of a process.
    """

    repetitions: int = 21
    processes: int = 3
    seconds: float | None = None


def record(
    name: str,
    path: Path,
    extent: Extent,
    tell: Tell = lambda share, text: None,
    anew: bool = False,
) -> Table:
    """Record the table of a workload, or what is missing of it.

    Raises
    ------
    ArgumentError
        The existing table was measured elsewhere, or is damaged.
    RecordError
        A process failed.
    """
    table = _Growing(name)
    if path.exists() and not anew:
        table.resume(read(path))
    each = -(-extent.repetitions // extent.processes)
    begin, process = time.monotonic(), max(table.processes, default=-1) + 1
    while (lacking := extent.repetitions - len(table.processes)) > 0:
        seconds = None
        if extent.seconds is not None:
            to_come = -(-lacking // each)
            seconds = (extent.seconds - (time.monotonic() - begin)) / to_come
            if seconds <= 0 and table.processes:
                break
        request = Request(name, process, min(each, lacking), seconds)
        try:
            for message in children.messages(WORKER, asdict(request), common.UNTUNED):
                table.add(process, message)
                if "part" not in message:
                    write(table.table(), path)
                done = len(table.processes) + message.get("part", 0.0)
                text = f"{name}: {len(table.processes)} repetitions of {extent.repetitions}"
                tell(min(1.0, done / extent.repetitions), f"{text}, process {process + 1}")
        except children.ChildError as error:
            raise RecordError(f"{name}: {error}") from error
        if process not in table.processes:
            raise RecordError(f"{name}: a process measured no repetition")
        process += 1
    return table.table()


class _Growing:
    """A table that gains repetitions."""

    def __init__(self, name: str) -> None:
        workload, _, self.space, self.baseline = problem(name)
        self.processes: list[int] = []
        self._name = name
        self._facts = {
            "workload": workload.described(),
            "method": "samples of 5 to 20 ms, as the tuner's: the lower quartile of their calls",
            "processor": fastattn.machine().processor,
            "environment": environment(workload.case.dtype),
            "versions": {"python": platform.python_version(), "numpy": np.__version__},
        }
        self._repetitions: list[NDArray[np.float64]] = []
        self._spent: list[NDArray[np.float64]] = []
        self._failures: dict[Point, str] = {}
        self._loads: list[dict[str, Any]] = []

    def resume(self, table: Table) -> None:
        """Go on with a table that was begun here."""
        facts = dict(table.metadata)
        loads = facts.pop("load")
        same = (table.space, table.baseline, facts) == (
            self.space,
            self.baseline,
            json.loads(json.dumps(self._facts)),
        )
        if not same:
            raise ArgumentError(
                "table",
                f"{self._name}, begun on another machine, build or space",
                "one that was begun here, as things are now",
                "`record --anew` begins anew",
            )
        self.processes, self._loads = list(table.processes), loads
        self._repetitions = list(table.seconds.T)
        self._spent = [table.sample_seconds] * len(self.processes)  # their median stands for each
        self._failures = dict(table.failures)

    def add(self, process: int, message: dict[str, Any]) -> None:
        """Add what a process said."""
        if "load" in message:
            self._loads.append(message["load"])
        if "seconds" in message:
            for at, reason in message["failures"].items():
                self._failures[self.space.points[int(at)]] = reason
            self._repetitions.append(np.array(message["seconds"], dtype=np.float64))
            self._spent.append(np.array(message["spent"], dtype=np.float64))
            self.processes.append(process)

    def table(self) -> Table:
        """The table as it is now; a point that failed once counts as failed."""
        if self.baseline in self._failures:
            raise RecordError(f"{self._name}: the default {self._failures[self.baseline]}")
        seconds = np.array(self._repetitions).T
        seconds[[self.space.index(point) for point in self._failures]] = np.nan
        return Table(
            name=self._name,
            space=self.space,
            baseline=self.baseline,
            seconds=seconds,
            sample_seconds=np.median(self._spent, axis=0),
            processes=tuple(self.processes),
            failures=self._failures,
            metadata=self._facts | {"load": self._loads},
        )
