"""Ratios for the history, steady enough to show a step of a few per cent."""

from __future__ import annotations

from typing import Any

from benchmarks import baselines, common, sampling
from benchmarks.common import Case, Profile

PROFILE = common.profile()
IMPLS = ("cython",)  # append only: a value is part of a result's name
VERSION = "3"  # of the ratios


class Ratios:
    """A few regimes; see `baselines` for what they are compared with."""

    param_names = ("regime", "impl")
    params = (PROFILE.history, IMPLS)

    @staticmethod
    def cases(profile: Profile) -> dict[str, Case]:
        """The profile's part of the table, by name."""
        return {name: common.HISTORY[name] for name in profile.history}

    @common.benchmark(version="1", timeout=3600)
    def setup_cache(self) -> sampling.Cells:
        """Measure in turns with the baseline."""
        return baselines.measure(self.cases(PROFILE), IMPLS, PROFILE)

    @common.benchmark(version=VERSION, unit="times NumPy's time for like work")
    def track_time_over_baseline(self, cells: sampling.Cells, regime: str, impl: str) -> Any:
        """Least time over the least time of like work by NumPy: median over the processes."""
        return sampling.track(cells[regime, impl], "time_over_baseline")
