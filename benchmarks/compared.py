"""Five benchmarks that share one measurement: what asv is told about a set of cases.

A subclass defines `params`, of which the last but one is always the implementation, and a
`setup_cache` of its own: asv identifies a `setup_cache` by the line where it is defined, so
subclasses would share an inherited one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from benchmarks import sampling
from benchmarks.common import benchmark

Cells = dict[tuple[Any, str], sampling.Cell]


class Compared(ABC):
    """Tracks of (case, impl, dtype); abstract, so it is not itself a benchmark."""

    param_names: tuple[str, ...]
    params: tuple[tuple[Any, ...], ...]

    @abstractmethod
    def setup_cache(self) -> Cells:
        """Measure every case; keys are ((case, dtype), impl)."""

    @benchmark(version="1", unit="seconds")
    def track_time(self, cells: Cells, case: Any, impl: str, dtype: str) -> Any:
        """Median seconds of one call."""
        return sampling.track(cells[(case, dtype), impl], "time")

    @benchmark(version="1", unit="times NumPy's speed")
    def track_speedup(self, cells: Cells, case: Any, impl: str, dtype: str) -> Any:
        """NumPy's time over this implementation's, in turns of one process; more is better."""
        return sampling.track(cells[(case, dtype), impl], "speedup")

    @benchmark(version="1", unit="times NumPy's time")
    def track_time_over_numpy(self, cells: Cells, case: Any, impl: str, dtype: str) -> Any:
        """Inverse of the speed-up: more is worse, and asv looks for regressions here."""
        return sampling.track(cells[(case, dtype), impl], "time_over_numpy")

    @benchmark(version="1", unit="of the mean")
    def track_variation(self, cells: Cells, case: Any, impl: str, dtype: str) -> Any:
        """Coefficient of variation of the time within a process."""
        return sampling.track(cells[(case, dtype), impl], "variation")

    @benchmark(version="1", unit="times the naive error")
    def track_error(self, cells: Cells, case: Any, impl: str, dtype: str) -> Any:
        """Maximum error against a wider type, over that of the plain three steps."""
        return sampling.track(cells[(case, dtype), impl], "error")
