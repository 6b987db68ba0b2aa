"""The genetic tuner: what it finds on the study's space, and what that is worth."""

from __future__ import annotations

from typing import Any

from benchmarks import common, tuned

PROFILE = common.profile()
Found = dict[int, dict[str, Any]]


class Genetic:
    """Search for key block, threads and data type in 18 evaluations; q, k, v are dim x dim.

    Runs on all usable CPUs; the default is block 64, one thread for each CPU, float32.
    """

    param_names = ("dim",)
    params = (PROFILE.tuned,)

    @common.benchmark(version="2", timeout=3600)
    def setup_cache(self) -> Found:
        """Tune each dim, and measure its winner again."""
        return tuned.measure(self.params[0], PROFILE)

    @common.benchmark(version="2", unit="times the default's time")
    def track_time_over_default(self, found: Found, dim: int) -> Any:
        """Time of the winner, in turns with the default in a fresh process."""
        return tuned.track(found[dim], "time_over_default")

    @common.benchmark(version="2", unit="times the best's time")
    def track_time_over_best(self, found: Found, dim: int) -> Any:
        """1 + regret: the winner's time over the best of all 32 points, in turns with them."""
        return tuned.track(found[dim], "time_over_best")

    @common.benchmark(version="2", unit="keys")
    def track_block(self, found: Found, dim: int) -> Any:
        """The winner's block of keys."""
        return tuned.track(found[dim], "winner", "block")

    @common.benchmark(version="1", unit="threads")
    def track_threads(self, found: Found, dim: int) -> Any:
        """The winner's number of threads."""
        return tuned.track(found[dim], "winner", "threads")

    @common.benchmark(version="1", unit="bits")
    def track_dtype_bits(self, found: Found, dim: int) -> Any:
        """Bits of the winner's data type."""
        return int(tuned.track(found[dim], "winner", "dtype").removeprefix("float"))

    @common.benchmark(version="1", unit="evaluations")
    def track_evaluations(self, found: Found, dim: int) -> Any:
        """Number of points that were measured before the final."""
        return tuned.track(found[dim], "evaluations")

    @common.benchmark(version="1", unit="seconds")
    def track_tuning_time(self, found: Found, dim: int) -> Any:
        """All that `fastattn.tune` took, compilation and checks included."""
        return tuned.track(found[dim], "tuning_time")
