"""Time, speed-up, variation and accuracy of attention, over the dim grid and workloads."""

from __future__ import annotations

from benchmarks import common, sampling
from benchmarks.common import Case, Profile
from benchmarks.compared import Cells, Compared

PROFILE = common.profile()


class DimGrid(Compared):
    """Grid of the study that fastattn grew from: q, k and v are dim x dim, one head."""

    param_names = ("dim", "impl", "dtype")
    params = (PROFILE.dims, common.IMPLS, PROFILE.dtypes)

    @staticmethod
    def cases(profile: Profile) -> dict[tuple[int, str], Case]:
        """The profile's part of the grid, by dim and data type."""
        return {
            (dim, dtype): common.dim_case(dim, dtype)
            for dim in profile.dims
            for dtype in profile.dtypes
        }

    @common.benchmark(version="1", timeout=3600)
    def setup_cache(self) -> Cells:
        """Measure the grid."""
        return sampling.measure(self.cases(PROFILE), common.IMPLS, PROFILE)


class Workloads(Compared):
    """Shapes that people run; see the table in `common`."""

    param_names = ("workload", "impl", "dtype")
    params = (PROFILE.workloads, common.IMPLS, PROFILE.workload_dtypes)

    @staticmethod
    def cases(profile: Profile) -> dict[tuple[str, str], Case]:
        """The profile's part of the table, by name and data type."""
        return {
            (name, dtype): common.WORKLOADS[name].of(dtype)
            for name in profile.workloads
            for dtype in profile.workload_dtypes
        }

    @common.benchmark(version="1", timeout=3600)
    def setup_cache(self) -> Cells:
        """Measure the workloads."""
        return sampling.measure(self.cases(PROFILE), common.IMPLS, PROFILE)
