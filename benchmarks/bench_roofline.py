"""Time over the least that the machine's limits allow, for each regime; see `roofline`."""

from __future__ import annotations

from typing import Any

from benchmarks import common, roofline, sampling
from benchmarks.common import Case, Profile

PROFILE = common.profile()
IMPLS = ("cython",)  # append only: a value is part of a result's name


class Regimes:
    """Dims, encoders, prefill, decode; every data type."""

    param_names = ("regime", "impl")
    params = (PROFILE.regimes, IMPLS)

    @staticmethod
    def cases(profile: Profile) -> dict[str, Case]:
        """The profile's part of the table, by name."""
        return {name: common.REGIMES[name] for name in profile.regimes}

    @common.benchmark(version="1", timeout=3600)
    def setup_cache(self) -> sampling.Cells:
        """Measure in turns with the probe."""
        return roofline.measure(self.cases(PROFILE), IMPLS, PROFILE)

    @common.benchmark(version="2", unit="times the peak's time")
    def track_time_over_peak(self, cells: sampling.Cells, regime: str, impl: str) -> Any:
        """Inverse of the fraction of peak."""
        return sampling.track(cells[regime, impl], "time_over_peak")


class Masked(Regimes):
    """Calls that mask most keys; only the visible ones count as work."""

    params = (PROFILE.masked, IMPLS)

    @staticmethod
    def cases(profile: Profile) -> dict[str, Case]:
        """The profile's part of the table, by name."""
        return {name: common.MASKED[name] for name in profile.masked}

    @common.benchmark(version="1", timeout=3600)
    def setup_cache(self) -> sampling.Cells:
        """Measure in turns with the probe and with the same call without a mask."""
        return roofline.measure(self.cases(PROFILE), IMPLS, PROFILE)

    @common.benchmark(version="1", unit="times the unmasked time")
    def track_time_over_unmasked(self, cells: sampling.Cells, regime: str, impl: str) -> Any:
        """Time over that of the same call when every key is seen."""
        return sampling.track(cells[regime, impl], "time_over_unmasked")
