"""Time, speed-up, variation and accuracy of attention, over the dim grid and workloads."""

from __future__ import annotations

from benchmarks import common, sampling
from benchmarks.compared import Cells, Compared

PROFILE = common.profile()


class DimGrid(Compared):
    """Q, k and v are dim x dim, one head: the grid of the study fastattn grew from."""

    param_names = ("dim", "impl", "dtype")
    params = (PROFILE.dims, common.IMPLS, PROFILE.dtypes)

    @common.benchmark(version="1", timeout=3600)
    def setup_cache(self) -> Cells:
        """Measure the grid."""
        dims, _, dtypes = self.params
        cases = {(dim, dtype): common.dim_case(dim, dtype) for dim in dims for dtype in dtypes}
        return sampling.measure(cases, common.IMPLS, PROFILE)


class Workloads(Compared):
    """Shapes that people run; see the table in `common`."""

    param_names = ("workload", "impl", "dtype")
    params = (PROFILE.workloads, common.IMPLS, PROFILE.workload_dtypes)

    @common.benchmark(version="1", timeout=3600)
    def setup_cache(self) -> Cells:
        """Measure the workloads."""
        names, _, dtypes = self.params
        cases = {
            (name, dtype): common.WORKLOADS[name].of(dtype) for name in names for dtype in dtypes
        }
        return sampling.measure(cases, common.IMPLS, PROFILE)
