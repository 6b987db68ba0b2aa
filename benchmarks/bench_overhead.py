"""What a call costs before it computes: import, first call, smallest call."""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
from typing import Any

from benchmarks import common, sampling
from benchmarks.child import last_line

PROFILE = common.profile()
Samples = dict[str, list[float]]

_IMPORT = """
import time
start = time.perf_counter()
import {module}
print(time.perf_counter() - start)
"""
_FIRST_CALL = """
import time
import numpy as np
import fastattn
q, k, v = np.zeros((3, 64, 64), np.{dtype})
start = time.perf_counter()
fastattn.attention(q, k, v, impl="numba")
print(time.perf_counter() - start)
"""


def run_seconds(code: str, **environment: str) -> float:
    """Run code in a fresh interpreter, and return the number that it prints."""
    return float(last_line([sys.executable, "-P", "-c", code], os.environ | environment))


class Call:
    """The smallest problem, one number each in q, k and v: all of it is overhead."""

    param_names = ("impl",)
    params = (common.IMPLS,)

    @staticmethod
    def cases(profile: common.Profile) -> dict[str, common.Case]:
        """The one case, in every profile."""
        return {"smallest call": common.SMALLEST}

    @common.benchmark(version="1", timeout=600)
    def setup_cache(self) -> sampling.Cells:
        """Measure in turns."""
        return sampling.measure(self.cases(PROFILE), common.IMPLS, PROFILE)

    @common.benchmark(version="1", unit="seconds")
    def track_time(self, cells: sampling.Cells, impl: str) -> Any:
        """Median seconds of one call."""
        return sampling.track(cells["smallest call", impl], "time")


class Import:
    """Imports of fastattn, and of numpy alone, in turns, each in a fresh interpreter."""

    @common.benchmark(version="1", timeout=600)
    def setup_cache(self) -> Samples:
        """Measure in turns."""
        samples: Samples = {"numpy": [], "fastattn": []}
        orders = sampling.balanced_orders(tuple(samples), random.Random(0))
        for _ in range(PROFILE.imports):
            for module in next(orders):
                samples[module].append(run_seconds(_IMPORT.format(module=module)))
        return samples

    @common.benchmark(version="1", unit="seconds")
    def track_time(self, samples: Samples) -> dict[str, Any]:
        """Seconds of ``import fastattn`` in a fresh interpreter, numpy's import included."""
        return {"samples": samples["fastattn"], "number": 1}

    @common.benchmark(version="1", unit="times NumPy's time")
    def track_time_over_numpy(self, samples: Samples) -> float:
        """That time over the time of ``import numpy``: median of the ratios within a turn."""
        pairs = zip(samples["fastattn"], samples["numpy"], strict=True)
        return statistics.median(ours / numpy for ours, numpy in pairs)


class FirstCall:
    """First call of numba in a fresh process: its import, and its compiler or its cache."""

    param_names = ("cache", "dtype")
    params = (("empty", "filled"), PROFILE.compiled)

    @common.benchmark(version="1", timeout=600)
    def setup_cache(self) -> dict[tuple[str, str], float]:
        """Measure with an empty folder for compiled code, then with the same folder filled."""
        found: dict[tuple[str, str], float] = {}
        for dtype in PROFILE.compiled:
            with tempfile.TemporaryDirectory() as folder:
                for cache in ("empty", "filled"):
                    common.progress(f"{dtype}, cache {cache}")
                    if common.missing(common.dim_case(64, dtype), "numba") is None:
                        code = _FIRST_CALL.format(dtype=dtype)
                        found[cache, dtype] = run_seconds(code, NUMBA_CACHE_DIR=folder)
        return found

    @common.benchmark(version="1", unit="seconds")
    def track_time(self, found: dict[tuple[str, str], float], cache: str, dtype: str) -> float:
        """Seconds of the call, with the folder for compiled code empty or filled."""
        if (cache, dtype) not in found:
            raise common.skip("numba cannot run here")
        return found[cache, dtype]
