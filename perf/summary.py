"""Summaries of samples: medians, intervals, geometric means, and tests of signs and counts.

The intervals and tests come from binomial tails or order statistics: no distribution is assumed.

Sources: Conover, Practical Nonparametric Statistics, 3.1 and 3.2; Clopper and Pearson,
Biometrika 26 (1934); Holm, Scandinavian Journal of Statistics 6 (1979).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median, and an interval around it."""

    median: float
    low: float
    high: float


def estimate(values: Sequence[float]) -> Estimate | None:
    """Median, and its exact interval of at least 95 %, whatever the values' distribution.

    The interval lies between order statistics, as in the sign test.  Fewer than six values cannot
    give one, so the interval is then their range.  None if there are no values.
    """
    if not values:
        return None
    interval = sign_interval(values, CONFIDENCE)
    return Estimate(statistics.median(values), interval.low, interval.high)


def spread(values: Sequence[float]) -> Estimate:
    """Median, and the interval that holds the middle 80 % of the values."""
    if len(values) < 2:
        return Estimate(*(values[0],) * 3)
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return Estimate(statistics.median(values), tenths[0], tenths[-1])


def geometric_mean(values: Iterable[Estimate | float | None]) -> float:
    """Geometric mean of what there is, of an estimate its median; NaN if there is nothing."""
    found = [v.median if isinstance(v, Estimate) else v for v in values if v is not None]
    return statistics.geometric_mean(found) if found else math.nan


@dataclass(frozen=True, slots=True)
class Interval:
    """Interval that holds a median at least as often as `coverage` says."""

    low: float
    high: float
    coverage: float

    def within(self, band: float) -> bool:
        """Whether all of it lies in [-band, band]."""
        return -band <= self.low and self.high <= band


def tail(most: int, trials: int) -> float:
    """Probability of at most `most` heads in `trials` tosses of a fair coin."""
    ways = sum(math.comb(trials, k) for k in range(most + 1))
    return float(ways / 2**trials)


def sign_interval(values: Sequence[float], confidence: float) -> Interval:
    """Shortest interval between order statistics that covers the median often enough.

    If there are too few values for that confidence, the interval is their range, and `coverage`
    is the coverage of the range.
    """
    ordered, count = sorted(values), len(values)
    if not ordered:
        return Interval(-math.inf, math.inf, 1.0)
    rank = 1
    while 2 * tail(rank, count) <= 1 - confidence:
        rank += 1
    return Interval(ordered[rank - 1], ordered[count - rank], 1 - 2 * tail(rank - 1, count))


def sign_p(values: Sequence[float]) -> float:
    """Two-sided p-value of the sign test of median 0; a zero counts for neither side."""
    above, below = sum(v > 0 for v in values), sum(v < 0 for v in values)
    count = len(values)
    return min(1.0, 2 * tail(count - max(above, below), count))


def holm(p_values: Sequence[float], family: int) -> list[float]:
    """Holm-adjusted p-values of some members of a family; the others count as 1."""
    adjusted, least = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (family - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


def clopper_pearson(found: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Bounds of the probability of an event that was seen `found` times in `trials`."""
    half = (1 - confidence) / 2
    low = 0.0 if found == 0 else _root(lambda p: 1 - _at_most(found - 1, trials, p) - half)
    high = 1.0 if found == trials else _root(lambda p: half - _at_most(found, trials, p))
    return low, high


def _at_most(most: int, trials: int, p: float) -> float:
    """Probability of at most `most` successes in `trials`; by logarithms, as counts are large."""
    if not 0 < p < 1:
        return float(p <= 0 or most >= trials)
    log_p, log_q, all_ = math.log(p), math.log1p(-p), math.lgamma(trials + 1)
    return math.fsum(
        math.exp(
            all_
            - math.lgamma(k + 1)
            - math.lgamma(trials - k + 1)
            + k * log_p
            + (trials - k) * log_q
        )
        for k in range(most + 1)
    )


def _root(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
