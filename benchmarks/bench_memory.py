"""Peak memory: of the whole process for the dim grid, beyond the arrays for the workloads."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path

from benchmarks import common, conditions, oracle

PROFILE = common.profile()


def warm() -> None:
    """Let compilers fill their caches on disk: the memory that they take is not the call's.

    An implementation that fails here will also fail in its own cells.
    """
    for impl in common.IMPLS:
        for dtype in common.WIDE:
            case = common.dim_case(64, dtype)
            with contextlib.suppress(Exception):
                if common.missing(case, impl) is None:
                    common.bind(case, impl)()


class DimGrid:
    """Grid of `bench_attention.DimGrid`, without the 16-bit types."""

    param_names = ("dim", "impl", "dtype")
    params = (PROFILE.dims, common.IMPLS, common.WIDE)

    @common.benchmark(version="1", timeout=600)
    def setup_cache(self) -> None:
        """Compile before memory is watched."""
        warm()

    @common.benchmark(version="1")
    def peakmem_attention(self, dim: int, impl: str, dtype: str) -> None:
        """Peak of the process: interpreter, libraries, arrays and one call."""
        case = common.dim_case(dim, dtype)
        reason = common.missing(case, impl)
        if reason is not None:
            raise common.skip(reason)
        common.bind(case, impl)()


class Workloads:
    """Memory that a call takes beyond inputs and result."""

    param_names = ("workload", "impl")
    params = (PROFILE.memory, common.IMPLS)

    @common.benchmark(version="1", timeout=600)
    def setup_cache(self) -> None:
        """Compile before memory is watched."""
        warm()

    @common.benchmark(version="1", unit="bytes")
    def track_extra_memory(self, workload: str, impl: str) -> float:
        """Peak resident memory during one call, beyond what was resident before and the result."""
        case = (common.WORKLOADS | common.LONG)[workload]
        reason = common.missing(case, impl) or (None if _reset_peak() else "no peak to reset")
        if reason is not None:
            raise common.skip(reason)
        common.bind(common.SMALLEST, impl)()  # loads code, thread pools and BLAS's buffers
        call = common.bind(case, impl)
        gc.collect()
        _reset_peak()
        before = conditions.status("VmRSS")
        result = call()
        peak = conditions.status("VmHWM")
        assert before is not None
        assert peak is not None
        extra = 1024 * (peak - before) - result.nbytes
        oracle.relative_error(case, *common.inputs(case), result)
        return float(max(0, extra))


def _reset_peak() -> bool:
    """Reset the process's peak to what is resident now; False if the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
