"""Time, speed-up, variation and accuracy of attention, over the dim grid and workloads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from benchmarks import common, sampling
from benchmarks.common import Case, Profile

PROFILE = common.profile()


def _track(cells: sampling.Cells, case: Any, impl: str, dtype: str, quantity: str) -> Any:
    if ((case, dtype), impl) not in cells:
        raise common.skip(f"this profile does not measure {case} in {dtype}")
    return sampling.track(cells[(case, dtype), impl], quantity)


class Compared(ABC):
    """Five tracks that share one measurement; abstract, so it is not itself a benchmark.

    A subclass defines `params`, of which the last but one is the implementation, and a
    `setup_cache` of its own: asv identifies a `setup_cache` by the line where it is defined, so
    subclasses would share an inherited one.
    """

    param_names: tuple[str, ...]
    params: tuple[tuple[Any, ...], ...]

    @abstractmethod
    def setup_cache(self) -> sampling.Cells:
        """Measure every case; keys are ((case, dtype), impl)."""

    @common.benchmark(version="1", unit="seconds")
    def track_time(self, cells: sampling.Cells, case: Any, impl: str, dtype: str) -> Any:
        """Median seconds of one call."""
        return _track(cells, case, impl, dtype, "time")

    @common.benchmark(version="1", unit="times NumPy's speed")
    def track_speedup(self, cells: sampling.Cells, case: Any, impl: str, dtype: str) -> Any:
        """NumPy's time over this implementation's, in turns of one process; more is better."""
        return _track(cells, case, impl, dtype, "speedup")

    @common.benchmark(version="1", unit="times NumPy's time")
    def track_time_over_numpy(self, cells: sampling.Cells, case: Any, impl: str, dtype: str) -> Any:
        """Inverse of the speed-up: more is worse, and asv looks for regressions here."""
        return _track(cells, case, impl, dtype, "time_over_numpy")

    @common.benchmark(version="1", unit="of the mean")
    def track_variation(self, cells: sampling.Cells, case: Any, impl: str, dtype: str) -> Any:
        """Coefficient of variation of the time within a process."""
        return _track(cells, case, impl, dtype, "variation")

    @common.benchmark(version="1", unit="times the naive error")
    def track_error(self, cells: sampling.Cells, case: Any, impl: str, dtype: str) -> Any:
        """Maximum error against a wider type, over that of the plain three steps."""
        return _track(cells, case, impl, dtype, "error")


class DimGrid(Compared):
    """Grid of the study that fastattn grew from: q, k and v are dim x dim, one head."""

    param_names = ("dim", "impl", "dtype")
    params = (PROFILE.dims, common.IMPLS, common.DTYPES)

    @staticmethod
    def cases(profile: Profile) -> dict[tuple[int, str], Case]:
        """The profile's part of the grid, by dim and data type."""
        cells = profile.cells(profile.dims, common.DTYPES)
        return {(dim, dtype): common.dim_case(dim, dtype) for dim, dtype in cells}

    @common.benchmark(version="1", timeout=3600)
    def setup_cache(self) -> sampling.Cells:
        """Measure the grid."""
        return sampling.measure(self.cases(PROFILE), common.IMPLS, PROFILE)


class Workloads(Compared):
    """Shapes that people run; see the table in `common`."""

    param_names = ("workload", "impl", "dtype")
    params = (PROFILE.workloads, common.IMPLS, PROFILE.workload_dtypes)

    @staticmethod
    def cases(profile: Profile) -> dict[tuple[str, str], Case]:
        """The profile's part of the table, by name and data type."""
        cells = profile.cells(profile.workloads, profile.workload_dtypes)
        return {(name, dtype): common.WORKLOADS[name].of(dtype) for name, dtype in cells}

    @common.benchmark(version="1", timeout=3600)
    def setup_cache(self) -> sampling.Cells:
        """Measure the workloads."""
        return sampling.measure(self.cases(PROFILE), common.IMPLS, PROFILE)
